// core/half.hpp: fp16 and bf16 as storage types, converted in software. Layer L1.
//
// Invariants: conversions are exact on the way up and round to nearest even on the way down, for
// every input, subnormals and infinities included; NaN stays NaN. The same bits on every CPU and
// with every compiler, and usable in constant expressions. No arithmetic: convert to float first.
#pragma once

#include <bit>
#include <cstdint>

#include "lowbit/config.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits.
struct float16 {
  std::uint16_t bits = 0;
  static constexpr float max = 65504.0F;

  friend constexpr bool operator==(const float16&, const float16&) = default;
};

/// The upper half of an IEEE 754 binary32: 1 sign, 8 exponent, 7 fraction bits.
struct bfloat16 {
  std::uint16_t bits = 0;

  friend constexpr bool operator==(const bfloat16&, const bfloat16&) = default;
};

/// Exact.
[[nodiscard]] constexpr float to_float(float value) noexcept { return value; }

/// Exact.
[[nodiscard]] constexpr float to_float(bfloat16 value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16U);
}

/// Exact. Masks instead of branches or selections, so that compilers vectorise loops over it.
[[nodiscard]] constexpr float to_float(float16 value) noexcept {
  const std::uint32_t h = value.bits;
  const std::uint32_t sign = (h & 0x8000U) << 16U;
  const std::uint32_t magnitude = (h & 0x7fffU) << 13U;
  // Normal: move the exponent from bias 15 to bias 127; infinite and NaN: from 31 on to 255.
  const std::uint32_t is_top = 0U - static_cast<std::uint32_t>(magnitude >= 0x0f800000U);
  const std::uint32_t normal = magnitude + 0x38000000U + (is_top & 0x38000000U);
  // Subnormal: the fraction counts units of 2^-24; 0.5 + f * 2^-24 - 0.5 is exact.
  const float subnormal = std::bit_cast<float>((magnitude >> 13U) | 0x3f000000U) - 0.5F;
  const std::uint32_t is_subnormal = 0U - static_cast<std::uint32_t>(magnitude < 0x00800000U);
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(subnormal) & is_subnormal) |
                              (normal & ~is_subnormal) | sign);
}

/// Rounds to nearest even; overflow gives infinity.
template <class To>
[[nodiscard]] constexpr To from_float(float value) noexcept;

template <>
[[nodiscard]] constexpr float from_float<float>(float value) noexcept {
  return value;
}

template <>
[[nodiscard]] constexpr bfloat16 from_float<bfloat16>(float value) noexcept {
  const std::uint32_t f = std::bit_cast<std::uint32_t>(value);
  if ((f & 0x7fffffffU) > 0x7f800000U) {  // NaN: keep it one after the fraction is cut
    return {static_cast<std::uint16_t>((f >> 16U) | 0x0040U)};
  }
  return {static_cast<std::uint16_t>((f + 0x7fffU + ((f >> 16U) & 1U)) >> 16U)};
}

template <>
[[nodiscard]] constexpr float16 from_float<float16>(float value) noexcept {
  const std::uint32_t f = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (f >> 16U) & 0x8000U;
  const std::uint32_t magnitude = f & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | ((magnitude >> 13U) & 0x3ffU);  // NaN, made quiet
  } else if (magnitude >= 0x477ff000U) {
    half = 0x7c00U;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14: adding 0.5 aligns the fraction at 2^-24 and rounds to nearest even.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    half = std::bit_cast<std::uint32_t>(aligned) - 0x3f000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13U) & 1U)) >> 13U;
  }
  return {static_cast<std::uint16_t>(half | sign)};
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
