// kernels/envelope/scalar.hpp: the contract, element by element: the oracle of every other variant.
// Layer L2.
//
// Not constexpr, unlike the integer oracles: std::fma is not before C++23.
#pragma once

#include <cmath>
#include <cstring>

#include "lowbit/kernels/envelope/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {
namespace envelope_detail {

template <class T>
[[nodiscard]] inline float value_as(const envelope_rows& e, index_t i) noexcept {
  T value;
  std::memcpy(&value, e.data + i * sizeof(T), sizeof(T));
  return to_float(value);
}
[[nodiscard]] inline float value_at(const envelope_rows& e, index_t row, index_t i) noexcept {
  const index_t at = row * e.stride + i;
  switch (e.type) {
    case scale_type::fp32: break;
    case scale_type::fp16: return value_as<float16>(e, at);
    case scale_type::bf16: return value_as<bfloat16>(e, at);
  }
  return value_as<float>(e, at);
}

/// a * b, rounded, with its sign of zero. Written so that no compiler fuses it with a sum: g++
/// makes a float product of one in double, too, and would then fuse that.
[[nodiscard]] inline float product(float a, float b) noexcept { return std::fma(a, b, -0.0F); }

}  // namespace envelope_detail

inline void envelope_expand(const envelope_expand_args& a) noexcept {
  using namespace envelope_detail;
  for (index_t j = 0; j < a.envelope.rows; ++j) {
    float* const out = a.out + j * a.out_stride;
    for (index_t i = 0; i < a.count; ++i) out[i] = product(value_at(a.envelope, j, i), a.x[i]);
  }
}

inline void envelope_combine(const envelope_combine_args& a) noexcept {
  using namespace envelope_detail;
  for (index_t i = 0; i < a.count; ++i) {
    float sum = product(value_at(a.envelope, 0, i), a.z[i]);
    for (index_t j = 1; j < a.envelope.rows; ++j) {
      sum = std::fma(value_at(a.envelope, j, i), a.z[j * a.z_stride + i], sum);
    }
    a.y[i] = a.accumulate ? a.y[i] + sum : sum;
  }
}

inline constexpr envelope_functions envelope = {&envelope_expand, &envelope_combine};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
