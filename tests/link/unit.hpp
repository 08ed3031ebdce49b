// What each translation unit of the link test offers.
#pragma once

#include <cstdint>
#include <vector>

struct outcome {
  std::vector<std::uint8_t> bytes;  ///< every stored buffer of the quantized matrix
  std::vector<float> product;       ///< bit-serial: the same bits everywhere
  /// Through Eigen, whose sums have another order on another instruction set; and how far any two
  /// orders may be apart: K roundings each, so 2 K (eps / 2) |x| |w| by Cauchy and Schwarz.
  std::vector<float> float_product;
  std::vector<double> float_bound;
};

outcome baseline();
outcome avx2();
