// kernels/activations/scalar.hpp: the contract, element by element: the oracle of every other
// variant. Layer L2.
#pragma once

#include <bit>

#include "lowbit/kernels/activations/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {

[[nodiscard]] constexpr std::uint32_t max_magnitude(const float* x, index_t count) noexcept {
  std::uint32_t largest = 0;
  for (index_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffU;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

constexpr std::int32_t quantize_activations(const float* x, index_t count, float inverse_step,
                                            std::int8_t* codes) noexcept {
  constexpr double shift = 0x1.8p52;  // from here on doubles are integers
  const auto factor = static_cast<double>(inverse_step);
  std::int32_t sum = 0;
  for (index_t i = 0; i < count; ++i) {
    const double rounded = static_cast<double>(x[i]) * factor + shift;
    codes[i] = static_cast<std::int8_t>(std::bit_cast<std::uint64_t>(rounded));
    sum += codes[i];
  }
  return sum;
}

constexpr sign_sums quantize_signs(const float* x, index_t count, std::int8_t* codes) noexcept {
  double sums[sign_sum_lanes] = {};
  std::int64_t sum = 0;
  for (index_t i = 0; i < count; ++i) {
    codes[i] = x[i] < 0.0F ? -1 : 0;
    sum += codes[i];
    sums[i % sign_sum_lanes] += static_cast<double>(x[i] < 0.0F ? -x[i] : x[i]);
  }
  for (index_t half = sign_sum_lanes / 2; half != 0; half /= 2) {
    for (index_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return {sums[0], sum};
}

constexpr void activation_planes(const activation_planes_args& a) noexcept {
  const int zero = 1 << (a.bits - 1U);
  for (unsigned p = 0; p < a.bits; ++p) {
    for (index_t begin = 0; begin < a.count; begin += 64) {
      std::uint64_t word = 0;
      for (index_t k = begin; k < a.count && k < begin + 64; ++k) {
        const auto code = static_cast<unsigned>(a.codes[k] + zero);
        word |= static_cast<std::uint64_t>(code >> p & 1U) << (k - begin);
      }
      a.planes[p * a.plane_stride + begin / 64] = word;
    }
  }
}

inline constexpr activation_functions activations = {&max_magnitude, &quantize_activations,
                                                     &quantize_signs, &activation_planes};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
