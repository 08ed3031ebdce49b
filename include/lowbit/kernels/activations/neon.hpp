// kernels/activations/neon.hpp: AArch64, whose baseline has NEON with fused multiply-add. Layer L2.
#pragma once

#include "lowbit/kernels/activations/contract.hpp"

#if LOWBIT_AARCH64
#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace activations_detail {

inline uint32x4_t magnitudes(const float* x) noexcept {
  return vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x)), vdupq_n_u32(0x7fffffffU));
}

/// 4 codes as 32-bit lanes, of which only the low byte counts.
inline uint16x8_t round_4(const float* x, float32x4_t inverse_step) noexcept {
  return vreinterpretq_u16_f32(vfmaq_f32(vdupq_n_f32(0x1.8p23F), vld1q_f32(x), inverse_step));
}

/// Bit `bit` of 16 codes, as 16 bytes that are 1 << (k % 8) or 0.
inline uint8x16_t weigh(uint8x16_t codes, uint8x16_t bit, uint8x16_t weights) noexcept {
  return vandq_u8(vtstq_u8(codes, bit), weights);
}

/// The planes of 64 codes: bits past the `columns` are cleared.
inline void store_planes(const std::int8_t* codes, const activation_planes_args& a, index_t word,
                         std::uint64_t columns) noexcept {
  const uint8x16_t weights = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U));
  const uint8x16_t flip = vdupq_n_u8(static_cast<std::uint8_t>(1U << (a.bits - 1U)));
  uint8x16_t u[4];
  for (index_t j = 0; j < 4; ++j) {
    u[j] = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(codes + 16 * j)), flip);
  }
  for (unsigned p = 0; p < a.bits; ++p) {
    const uint8x16_t bit = vdupq_n_u8(static_cast<std::uint8_t>(1U << p));
    // Three pairwise additions gather 8 weighed bits into a byte.
    uint8x16_t sum = vpaddq_u8(vpaddq_u8(weigh(u[0], bit, weights), weigh(u[1], bit, weights)),
                               vpaddq_u8(weigh(u[2], bit, weights), weigh(u[3], bit, weights)));
    sum = vpaddq_u8(sum, sum);
    a.planes[p * a.plane_stride + word] = vgetq_lane_u64(vreinterpretq_u64_u8(sum), 0) & columns;
  }
}

}  // namespace activations_detail

[[nodiscard]] inline std::uint32_t max_magnitude(const float* x, index_t count) noexcept {
  using activations_detail::magnitudes;
  uint32x4_t largest = vdupq_n_u32(0);
  uint32x4_t second = largest;
  uint32x4_t third = largest;
  uint32x4_t fourth = largest;
  index_t i = 0;
  for (; i + 16 <= count; i += 16) {
    largest = vmaxq_u32(largest, magnitudes(x + i));
    second = vmaxq_u32(second, magnitudes(x + i + 4));
    third = vmaxq_u32(third, magnitudes(x + i + 8));
    fourth = vmaxq_u32(fourth, magnitudes(x + i + 12));
  }
  for (; i + 4 <= count; i += 4) largest = vmaxq_u32(largest, magnitudes(x + i));
  for (; i < count; ++i) {
    const uint32x4_t one = vreinterpretq_u32_f32(vdupq_n_f32(x[i]));
    largest = vmaxq_u32(largest, vandq_u32(one, vdupq_n_u32(0x7fffffffU)));
  }
  return vmaxvq_u32(vmaxq_u32(vmaxq_u32(largest, second), vmaxq_u32(third, fourth)));
}

inline std::int32_t quantize_activations(const float* x, index_t count, float inverse_step,
                                         std::int8_t* codes) noexcept {
  using activations_detail::round_4;
  const float32x4_t factor = vdupq_n_f32(inverse_step);
  int32x4_t sums = vdupq_n_s32(0);
  index_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const uint16x8_t first = vuzp1q_u16(round_4(x + i, factor), round_4(x + i + 4, factor));
    const uint16x8_t second = vuzp1q_u16(round_4(x + i + 8, factor), round_4(x + i + 12, factor));
    const int8x16_t packed =
        vreinterpretq_s8_u8(vuzp1q_u8(vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second)));
    vst1q_s8(codes + i, packed);
    sums = vpadalq_s16(sums, vpaddlq_s8(packed));
  }
  std::int32_t rest = 0;
  for (; i < count; ++i) {
    const float32x4_t rounded = vfmaq_f32(vdupq_n_f32(0x1.8p23F), vdupq_n_f32(x[i]), factor);
    codes[i] = static_cast<std::int8_t>(vgetq_lane_u32(vreinterpretq_u32_f32(rounded), 0));
    rest += codes[i];
  }
  return vaddvq_s32(sums) + rest;
}

inline sign_sums quantize_signs(const float* x, index_t count, std::int8_t* codes) noexcept {
  std::int64_t negatives = 0;
  float64x2_t sums[8];  // 16 lanes
  for (float64x2_t& sum : sums) sum = vdupq_n_f64(0.0);
  for (index_t i = 0; i < count; i += 16) {
    const float* from = x + i;
    std::int8_t* to = codes + i;
    float padded[16] = {};
    std::int8_t padded_codes[16];
    const index_t rest = count - i;
    if (rest < 16) {
      for (index_t k = 0; k < rest; ++k) padded[k] = from[k];
      from = padded;
      to = padded_codes;
    }
    uint16x4_t negative[4];
    for (index_t j = 0; j < 4; ++j) {
      const float32x4_t four = vld1q_f32(from + 4 * j);
      const float32x4_t magnitude = vabsq_f32(four);
      sums[2 * j] = vaddq_f64(sums[2 * j], vcvt_f64_f32(vget_low_f32(magnitude)));
      sums[2 * j + 1] = vaddq_f64(sums[2 * j + 1], vcvt_high_f64_f32(magnitude));
      negative[j] = vmovn_u32(vcltzq_f32(four));
    }
    const int8x16_t packed =
        vreinterpretq_s8_u8(vcombine_u8(vmovn_u16(vcombine_u16(negative[0], negative[1])),
                                        vmovn_u16(vcombine_u16(negative[2], negative[3]))));
    vst1q_s8(to, packed);
    negatives -= vaddvq_s8(packed);
    if (rest < 16) {
      for (index_t k = 0; k < rest; ++k) codes[i + k] = padded_codes[k];
    }
  }
  for (index_t j = 0; j < 4; ++j) sums[j] = vaddq_f64(sums[j], sums[j + 4]);
  const float64x2_t two = vaddq_f64(vaddq_f64(sums[0], sums[2]), vaddq_f64(sums[1], sums[3]));
  return {vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1), -negatives};
}

inline void activation_planes(const activation_planes_args& a) noexcept {
  index_t word = 0;
  for (; (word + 1) * 64 <= a.count; ++word) {
    activations_detail::store_planes(a.codes + word * 64, a, word, ~std::uint64_t{0});
  }
  const index_t rest = a.count % 64;
  if (rest != 0) {
    std::int8_t padded[64] = {};
    for (index_t k = 0; k < rest; ++k) padded[k] = a.codes[word * 64 + k];
    activations_detail::store_planes(padded, a, word, (std::uint64_t{1} << rest) - 1U);
  }
}

inline constexpr activation_functions activations = {&max_magnitude, &quantize_activations,
                                                     &quantize_signs, &activation_planes};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon
#endif
