// kernels/sign_gemm/neon.hpp: AArch64: look-ups by tbl, sums in 16 bits by uaddw. Layer L2.
#pragma once

#include "lowbit/kernels/sign_gemm/contract.hpp"

#if LOWBIT_AARCH64
#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace sign_gemm_detail {

using floats = float32x4_t;
using ints = uint32x4_t;
inline constexpr index_t lanes = 4;

LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return vld1q_f32(p); }
LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return vdupq_n_f32(x); }
LOWBIT_ALWAYS_INLINE ints splat_int(std::uint32_t x) noexcept { return vdupq_n_u32(x); }
LOWBIT_ALWAYS_INLINE floats magnitude(floats x) noexcept { return vabsq_f32(x); }
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return vaddq_f32(a, b); }
LOWBIT_ALWAYS_INLINE floats subtract(floats a, floats b) noexcept { return vsubq_f32(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return vfmaq_f32(c, a, b);
}
LOWBIT_ALWAYS_INLINE ints as_ints(floats x) noexcept { return vreinterpretq_u32_f32(x); }
LOWBIT_ALWAYS_INLINE floats as_floats(ints x) noexcept { return vreinterpretq_f32_u32(x); }
LOWBIT_ALWAYS_INLINE ints largest(ints a, ints b) noexcept { return vmaxq_u32(a, b); }
template <int N>
LOWBIT_ALWAYS_INLINE ints shift_left(ints x) noexcept {
  return vshlq_n_u32(x, N);
}
LOWBIT_ALWAYS_INLINE ints select(ints mask, ints a, ints b) noexcept {
  return vbslq_u32(mask, a, b);
}
LOWBIT_ALWAYS_INLINE ints negate_bytes(ints x) noexcept {
  return vreinterpretq_u32_s8(vnegq_s8(vreinterpretq_s8_u32(x)));
}
LOWBIT_ALWAYS_INLINE ints reverse_bytes(ints x) noexcept {
  return vreinterpretq_u32_u8(vrev32q_u8(vreinterpretq_u8_u32(x)));
}
LOWBIT_ALWAYS_INLINE void store_ints(std::uint8_t* p, ints x) noexcept {
  vst1q_u8(p, vreinterpretq_u8_u32(x));
}
LOWBIT_ALWAYS_INLINE void transpose(floats* r) noexcept {
  const float64x2_t a = vreinterpretq_f64_f32(vzip1q_f32(r[0], r[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vzip2q_f32(r[0], r[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vzip1q_f32(r[2], r[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vzip2q_f32(r[2], r[3]));
  r[0] = vreinterpretq_f32_f64(vzip1q_f64(a, c));
  r[1] = vreinterpretq_f32_f64(vzip2q_f64(a, c));
  r[2] = vreinterpretq_f32_f64(vzip1q_f64(b, d));
  r[3] = vreinterpretq_f32_f64(vzip2q_f64(b, d));
}
LOWBIT_ALWAYS_INLINE std::uint32_t largest_lane(ints x) noexcept { return vmaxvq_u32(x); }

inline constexpr index_t interleave = 1;
inline constexpr index_t registers = sign_tile_rows / 16;  // of a step
inline constexpr index_t step_groups = 2 * interleave;
inline constexpr index_t most_tokens = 2;
static_assert(sign_chunk_groups * 255 < 65536, "16 bits take the sums of a chunk");

/// sums[8] += 8 numbers of 16 bits.
LOWBIT_ALWAYS_INLINE void add_eight(std::int32_t* sums, uint16x8_t narrow) noexcept {
  const int32x4_t low = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(narrow)));
  const int32x4_t high = vreinterpretq_s32_u32(vmovl_high_u16(narrow));
  vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), low));
  vst1q_s32(sums + 4, vaddq_s32(vld1q_s32(sums + 4), high));
}

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* sums, index_t groups,
                                   index_t prefetch) noexcept {
  uint16x8_t low_rows[Tokens][registers];
  uint16x8_t high_rows[Tokens][registers];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) low_rows[t][i] = high_rows[t][i] = vdupq_n_u16(0);
  }
  for (index_t g = 0; g < groups; g += step_groups) {
    __builtin_prefetch(weights + prefetch);
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) {
      const uint8x16_t signs = vld1q_u8(weights + 16 * i);
      const uint8x16_t low = vandq_u8(signs, vdupq_n_u8(15));
      const uint8x16_t high = vshrq_n_u8(signs, 4);
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        const std::uint8_t* const table = tables + t * table_stride;
        const uint8x16_t first = vqtbl1q_u8(vld1q_u8(table), low);
        const uint8x16_t second = vqtbl1q_u8(vld1q_u8(table + sign_table_bytes), high);
        low_rows[t][i] =
            vaddw_u8(vaddw_u8(low_rows[t][i], vget_low_u8(first)), vget_low_u8(second));
        high_rows[t][i] = vaddw_high_u8(vaddw_high_u8(high_rows[t][i], first), second);
      }
    }
    weights += sign_tile_rows * interleave;
    tables += step_groups * sign_table_bytes;
  }
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) {
      std::int32_t* const out = sums + t * sign_tile_rows + 16 * i;
      add_eight(out, low_rows[t][i]);
      add_eight(out + 8, high_rows[t][i]);
    }
  }
}

#define LOWBIT_SIGN_GEMM_BODY
#include "lowbit/kernels/sign_gemm/kernel_body.hpp"
#undef LOWBIT_SIGN_GEMM_BODY

}  // namespace sign_gemm_detail

inline constexpr sign_gemm_functions sign_gemm = {
    &sign_gemm_detail::limit, &sign_gemm_detail::build, &sign_gemm_detail::block,
    sign_gemm_detail::interleave};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon
#endif
