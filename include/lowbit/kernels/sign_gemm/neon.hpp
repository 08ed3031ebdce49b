// kernels/sign_gemm/neon.hpp: AArch64: look-ups by tbl, sums in 16 bits by smlal with the signs.
// Layer L2.
#pragma once

#include "lowbit/kernels/sign_gemm/contract.hpp"

#if LOWBIT_AARCH64
#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace sign_gemm_detail {

using floats = float32x4_t;
using ints = uint32x4_t;
inline constexpr index_t lanes = 4;

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
template <int N>
LOWBIT_ALWAYS_INLINE ints shift_right(ints x) noexcept {
  return vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(x), vdupq_n_s32(-N)));
}
LOWBIT_ALWAYS_INLINE ints subtract_ints(ints a, ints b) noexcept { return vsubq_u32(a, b); }
LOWBIT_ALWAYS_INLINE ints load_ints(const void* p) noexcept {
  return vreinterpretq_u32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p)));
}
LOWBIT_ALWAYS_INLINE void store_ints(void* p, ints x) noexcept {
  vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_u32(x));
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
LOWBIT_ALWAYS_INLINE void load_columns(const float* p, floats* z) noexcept {
  LOWBIT_UNROLL
  for (index_t i = 0; i < lanes; ++i) z[i] = vld1q_f32(p + i * sign_group_columns);
  transpose(z);
  z[4] = vld1q_dup_f32(p + 4);
  z[4] = vld1q_lane_f32(p + 9, z[4], 1);
  z[4] = vld1q_lane_f32(p + 14, z[4], 2);
  z[4] = vld1q_lane_f32(p + 19, z[4], 3);
}
LOWBIT_ALWAYS_INLINE std::uint32_t largest_lane(ints x) noexcept { return vmaxvq_u32(x); }

inline constexpr index_t interleave = 1;
inline constexpr index_t registers = sign_tile_rows / 16;  // of a group
inline constexpr index_t most_tokens = 2;
inline constexpr index_t bias = 0;
inline constexpr unsigned scale_bits = 0;
inline constexpr index_t run_groups = 256;  // which 16 bits take the sums of
static_assert(run_groups * 127 < 32768);

/// The table of a group, less 128.
LOWBIT_ALWAYS_INLINE uint8x16_t load_table(const std::uint8_t* table) noexcept {
  return veorq_u8(vld1q_u8(table), vdupq_n_u8(128));
}

/// -1 where the bit is set, else 1.
LOWBIT_ALWAYS_INLINE int8x16_t factors(uint8x16_t signs, std::uint8_t bit) noexcept {
  return vreinterpretq_s8_u8(vorrq_u8(vtstq_u8(signs, vdupq_n_u8(bit)), vdupq_n_u8(1)));
}

/// sums[8] += 8 numbers of 16 bits.
LOWBIT_ALWAYS_INLINE void add_eight(std::int32_t* sums, int16x8_t narrow) noexcept {
  vst1q_s32(sums, vaddw_s16(vld1q_s32(sums), vget_low_s16(narrow)));
  vst1q_s32(sums + 4, vaddw_high_s16(vld1q_s32(sums + 4), narrow));
}

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_run(const std::uint8_t* weights, const std::uint8_t* tables,
                                  index_t table_stride, std::int32_t* sums, index_t groups,
                                  index_t prefetch) noexcept {
  int16x8_t low_rows[Tokens][registers];
  int16x8_t high_rows[Tokens][registers];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) low_rows[t][i] = high_rows[t][i] = vdupq_n_s16(0);
  }
  const auto add = [&](index_t t, index_t i, uint8x16_t table, uint8x16_t patterns, int8x16_t by)
                       LOWBIT_INLINE_LAMBDA {
                         const int8x16_t q = vreinterpretq_s8_u8(vqtbl1q_u8(table, patterns));
                         low_rows[t][i] = vmlal_s8(low_rows[t][i], vget_low_s8(q), vget_low_s8(by));
                         high_rows[t][i] = vmlal_high_s8(high_rows[t][i], q, by);
                       };
  for (index_t g = 0; g < groups; g += sign_step_groups) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < sign_step_bytes; i += 64) __builtin_prefetch(weights + prefetch + i);
    for (index_t pair = 0; pair < 4; ++pair) {
      const auto bit = static_cast<std::uint8_t>(128U >> (2 * pair));
      const auto next_bit = static_cast<std::uint8_t>(bit >> 1U);
      LOWBIT_UNROLL
      for (index_t i = 0; i < registers; ++i) {
        const uint8x16_t signs = vld1q_u8(weights + sign_pattern_bytes + 16 * i);
        const uint8x16_t patterns = vld1q_u8(weights + pair * sign_tile_rows + 16 * i);
        const uint8x16_t low = vandq_u8(patterns, vdupq_n_u8(15));
        const uint8x16_t high = vshrq_n_u8(patterns, 4);
        const int8x16_t by = factors(signs, bit);
        const int8x16_t next_by = factors(signs, next_bit);
        LOWBIT_UNROLL
        for (index_t t = 0; t < Tokens; ++t) {
          const std::uint8_t* const table = tables + t * table_stride + 2 * pair * sign_table_bytes;
          add(t, i, load_table(table), low, by);
          add(t, i, load_table(table + sign_table_bytes), high, next_by);
        }
      }
    }
    weights += sign_step_bytes;
    tables += sign_step_groups * sign_table_bytes;
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

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* sums, index_t groups,
                                   index_t prefetch) noexcept {
  for (index_t g = 0; g < groups; g += run_groups) {
    const index_t count = groups - g < run_groups ? groups - g : run_groups;
    add_run<Tokens>(weights, tables, table_stride, sums, count, prefetch);
    weights += run_groups / sign_step_groups * sign_step_bytes;
    tables += run_groups * sign_table_bytes;
  }
}

#define LOWBIT_SIGN_GEMM_BODY
#include "lowbit/kernels/sign_gemm/kernel_body.hpp"
#undef LOWBIT_SIGN_GEMM_BODY

}  // namespace sign_gemm_detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon
#endif
