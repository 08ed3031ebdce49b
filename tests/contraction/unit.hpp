// What each translation unit of the contraction test offers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// The result of one setting: every stored byte, every value and every error, as bytes.
struct outcome {
  std::string setting;
  std::vector<std::uint8_t> bytes;
};

std::vector<outcome> baseline();
std::vector<outcome> fused();
