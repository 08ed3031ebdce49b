// kernels/sign_gemm/avx2.hpp: look-ups by vpshufb, sums in 16 bits by vpmaddubsw. Layer L2.
//
// A byte of a register is a row, the table of a group stands in both halves. The look-ups of two
// groups are interleaved, so that vpmaddubsw with their signs adds the two of a row: 16 bits take
// the sums of a run of 128 groups.
#pragma once

#include "lowbit/kernels/sign_gemm/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace sign_gemm_detail {

using floats = __m256;
using ints = __m256i;
inline constexpr index_t lanes = 8;

LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return _mm256_set1_ps(x); }
LOWBIT_ALWAYS_INLINE ints splat_int(std::int32_t x) noexcept { return _mm256_set1_epi32(x); }
LOWBIT_ALWAYS_INLINE floats magnitude(floats x) noexcept {
  return _mm256_and_ps(x, _mm256_castsi256_ps(splat_int(0x7fffffff)));
}
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return _mm256_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats subtract(floats a, floats b) noexcept { return _mm256_sub_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}
LOWBIT_ALWAYS_INLINE ints as_ints(floats x) noexcept { return _mm256_castps_si256(x); }
LOWBIT_ALWAYS_INLINE floats as_floats(ints x) noexcept { return _mm256_castsi256_ps(x); }
LOWBIT_ALWAYS_INLINE ints largest(ints a, ints b) noexcept { return _mm256_max_epi32(a, b); }
template <unsigned N>
LOWBIT_ALWAYS_INLINE ints shift_left(ints x) noexcept {
  return _mm256_slli_epi32(x, N);
}
LOWBIT_ALWAYS_INLINE ints select(ints mask, ints a, ints b) noexcept {
  return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}
template <unsigned N>
LOWBIT_ALWAYS_INLINE ints shift_right(ints x) noexcept {
  return _mm256_srai_epi32(x, N);
}
LOWBIT_ALWAYS_INLINE ints subtract_ints(ints a, ints b) noexcept { return _mm256_sub_epi32(a, b); }
LOWBIT_ALWAYS_INLINE ints load_ints(const void* p) noexcept {
  return _mm256_load_si256(static_cast<const __m256i*>(p));
}
LOWBIT_ALWAYS_INLINE void store_ints(void* p, ints x) noexcept {
  _mm256_store_si256(static_cast<__m256i*>(p), x);
}

/// Which lanes of the register r of 5 consecutive ones hold column j of a group.
[[nodiscard]] constexpr int lanes_of_column(index_t r, index_t j) noexcept {
  unsigned mask = 0;
  for (index_t p = 0; p < lanes; ++p) mask |= ((8 * r + p) % 5 == j ? 1U : 0U) << p;
  return static_cast<int>(mask);
}
/// 8 and 5 have no common factor: column j stands in each lane of just one of the registers.
template <index_t J>
LOWBIT_ALWAYS_INLINE floats column(const floats* x) noexcept {
  floats found = _mm256_blend_ps(x[0], x[1], lanes_of_column(1, J));
  found = _mm256_blend_ps(found, x[2], lanes_of_column(2, J));
  found = _mm256_blend_ps(found, x[3], lanes_of_column(3, J));
  found = _mm256_blend_ps(found, x[4], lanes_of_column(4, J));
  // 5 * (2 i + q) + j in element 4 q + i; the upper bits are ignored.
  const __m256i first = _mm256_setr_epi32(0, 10, 20, 30, 5, 15, 25, 35);
  return _mm256_permutevar8x32_ps(found, _mm256_add_epi32(first, splat_int(J)));
}
LOWBIT_ALWAYS_INLINE void load_columns(const float* p, floats* z) noexcept {
  floats x[5];
  LOWBIT_UNROLL
  for (index_t r = 0; r < 5; ++r) x[r] = _mm256_loadu_ps(p + r * lanes);
  z[0] = column<0>(x);
  z[1] = column<1>(x);
  z[2] = column<2>(x);
  z[3] = column<3>(x);
  z[4] = column<4>(x);
}
LOWBIT_ALWAYS_INLINE void transpose(floats* r) noexcept {
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
  const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
  const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
  const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
  r[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
  r[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
  r[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
  r[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}
LOWBIT_ALWAYS_INLINE std::uint32_t largest_lane(ints x) noexcept {
  std::uint32_t each[lanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(each), x);
  std::uint32_t found = 0;
  for (const std::uint32_t one : each) found = one > found ? one : found;
  return found;
}

inline constexpr index_t interleave = 1;
inline constexpr index_t most_tokens = 4;
inline constexpr index_t bias = 128;
inline constexpr unsigned scale_bits = 0;
inline constexpr index_t run_groups = 128;  // which 16 bits take the sums of
static_assert(run_groups * 255 < 32768);

LOWBIT_ALWAYS_INLINE ints look_up(const std::uint8_t* table, ints patterns) noexcept {
  const __m128i one = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(one), patterns);
}

/// sums[8] += 8 numbers of 16 bits.
LOWBIT_ALWAYS_INLINE void add_eight(std::int32_t* sums, __m128i narrow) noexcept {
  store_ints(sums, _mm256_add_epi32(load_ints(sums), _mm256_cvtepi16_epi32(narrow)));
}

/// Adds a step of 32 rows to the sums of rows 0..7 and 16..23, and of the others.
template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_step(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, ints* first, ints* second) noexcept {
  const ints low_bits = _mm256_set1_epi8(15);
  const ints ones = _mm256_set1_epi8(1);
  // The signs of two groups are the top bits of two bytes. Their low bits are set, because vpsignb
  // makes 0 of 0, and +-1 of the rest.
  const ints signs = load_ints(weights + sign_pattern_bytes);
  const ints next = _mm256_add_epi8(signs, signs);
  const ints both[] = {_mm256_unpacklo_epi8(signs, next), _mm256_unpackhi_epi8(signs, next)};
  ints top[] = {_mm256_or_si256(both[0], low_bits), _mm256_or_si256(both[1], low_bits)};
  LOWBIT_UNROLL
  for (index_t pair = 0; pair < 4; ++pair) {
    const ints patterns = load_ints(weights + pair * sign_tile_rows);
    const ints low = _mm256_and_si256(patterns, low_bits);
    const ints high = _mm256_and_si256(_mm256_srli_epi16(patterns, 4), low_bits);
    const ints signs_first = _mm256_sign_epi8(ones, top[0]);
    const ints signs_second = _mm256_sign_epi8(ones, top[1]);
    LOWBIT_UNROLL
    for (index_t i = 0; i < 2; ++i) {
      top[i] = pair == 1 ? _mm256_or_si256(_mm256_slli_epi16(both[i], 4), low_bits)
                         : _mm256_slli_epi16(top[i], 2);
    }
    LOWBIT_UNROLL
    for (index_t t = 0; t < Tokens; ++t) {
      const std::uint8_t* const table = tables + t * table_stride + 2 * pair * sign_table_bytes;
      const ints one = look_up(table, low);
      const ints other = look_up(table + sign_table_bytes, high);
      first[t] = _mm256_add_epi16(
          first[t], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(one, other), signs_first));
      second[t] = _mm256_add_epi16(
          second[t], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(one, other), signs_second));
    }
  }
}

/// 32 or 64 rows of a tile, a run of groups.
template <index_t Tokens, index_t Registers>
LOWBIT_ALWAYS_INLINE void add_rows(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* sums, index_t groups,
                                   index_t prefetch) noexcept {
  ints first[Registers][Tokens];
  ints second[Registers][Tokens];
  LOWBIT_UNROLL
  for (index_t i = 0; i < Registers; ++i) {
    LOWBIT_UNROLL
    for (index_t t = 0; t < Tokens; ++t) first[i][t] = second[i][t] = _mm256_setzero_si256();
  }
  for (index_t g = 0; g < groups; g += sign_step_groups) {
    // To L2: see avx512_vbmi_vnni.hpp.
    LOWBIT_UNROLL
    for (index_t i = 0; i < (Registers == 1 ? 3 : 5); ++i) {
      __builtin_prefetch(weights + prefetch + 64 * i, 0, 2);
    }
    LOWBIT_UNROLL
    for (index_t i = 0; i < Registers; ++i) {
      add_step<Tokens>(weights + 32 * i, tables, table_stride, first[i], second[i]);
    }
    weights += sign_step_bytes;
    tables += sign_step_groups * sign_table_bytes;
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < Registers; ++i) {
    LOWBIT_UNROLL
    for (index_t t = 0; t < Tokens; ++t) {
      std::int32_t* const out = sums + t * sign_tile_rows + 32 * i;
      add_eight(out, _mm256_castsi256_si128(first[i][t]));
      add_eight(out + 8, _mm256_castsi256_si128(second[i][t]));
      add_eight(out + 16, _mm256_extracti128_si256(first[i][t], 1));
      add_eight(out + 24, _mm256_extracti128_si256(second[i][t], 1));
    }
  }
}

/// Registers take the sums of 32 rows and 4 tokens. One token alone is bound by memory: it reads a
/// step as a whole.
template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* sums, index_t groups,
                                   index_t prefetch) noexcept {
  for (index_t g = 0; g < groups; g += run_groups) {
    const index_t count = groups - g < run_groups ? groups - g : run_groups;
    if constexpr (Tokens == 1) {
      add_rows<Tokens, 2>(weights, tables, table_stride, sums, count, prefetch);
    } else {  // each half prefetches half of the lines
      add_rows<Tokens, 1>(weights, tables, table_stride, sums, count, prefetch);
      add_rows<Tokens, 1>(weights + 32, tables, table_stride, sums + 32, count, prefetch + 128);
    }
    weights += run_groups / sign_step_groups * sign_step_bytes;
    tables += run_groups * sign_table_bytes;
  }
}

#define LOWBIT_SIGN_GEMM_BODY
#include "lowbit/kernels/sign_gemm/kernel_body.hpp"
#undef LOWBIT_SIGN_GEMM_BODY

}  // namespace sign_gemm_detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END
#endif
