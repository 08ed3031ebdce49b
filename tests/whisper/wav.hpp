// tests/whisper/wav.hpp: sound files.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace whisper_test {

/// A WAV file of interleaved samples, 16-bit or float.
template <class T>
[[nodiscard]] std::string wav(std::uint32_t rate, std::uint16_t channels,
                              const std::vector<T>& samples) {
  const auto size = static_cast<std::uint32_t>(samples.size() * sizeof(T));
  std::string out = "RIFF";
  const auto put = [](std::string& to, auto value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    to.append(bytes, sizeof value);
  };
  put(out, 36 + size);
  out += "WAVEfmt ";
  put(out, std::uint32_t{16});
  put(out, static_cast<std::uint16_t>(std::is_same_v<T, float> ? 3 : 1));
  put(out, channels);
  put(out, rate);
  put(out, static_cast<std::uint32_t>(rate * channels * sizeof(T)));
  put(out, static_cast<std::uint16_t>(channels * sizeof(T)));
  put(out, static_cast<std::uint16_t>(8 * sizeof(T)));
  out += "data";
  put(out, size);
  for (const T s : samples) put(out, s);
  return out;
}

}  // namespace whisper_test
