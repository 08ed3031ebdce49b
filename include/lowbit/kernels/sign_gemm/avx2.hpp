// kernels/sign_gemm/avx2.hpp: look-ups by vpshufb, sums in 16 bits. Layer L2.
//
// A byte of a register is a row, the table of a group stands in both halves. Of a register of
// look-ups two sums of 16-bit lanes are kept: of all of it, modulo 2^16, and of the upper bytes
// alone. The latter cannot overflow in 256 look-ups, and the lower bytes are what is left.
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

LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return _mm256_loadu_ps(p); }
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
LOWBIT_ALWAYS_INLINE ints negate_bytes(ints x) noexcept {
  return _mm256_sub_epi8(_mm256_setzero_si256(), x);
}
LOWBIT_ALWAYS_INLINE ints reverse_bytes(ints x) noexcept {
  const __m256i order = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2,
                                         1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
  return _mm256_shuffle_epi8(x, order);
}
LOWBIT_ALWAYS_INLINE void store_ints(std::uint8_t* p, ints x) noexcept {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), x);
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
inline constexpr index_t registers = sign_tile_rows / 32;  // of a step
inline constexpr index_t step_groups = 2 * interleave;
inline constexpr index_t most_tokens = 2;
////////static_assert(sign_chunk_groups * 255 < 65536, "16 bits take the sums of a chunk");

LOWBIT_ALWAYS_INLINE ints look_up(const std::uint8_t* table, ints signs) noexcept {
  const __m128i one = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(one), signs);
}

/// sums[8] += 8 numbers of 16 bits.
LOWBIT_ALWAYS_INLINE void add_eight(std::int32_t* sums, __m128i narrow) noexcept {
  auto* const p = reinterpret_cast<__m256i*>(sums);
  _mm256_store_si256(p, _mm256_add_epi32(_mm256_load_si256(p), _mm256_cvtepu16_epi32(narrow)));
}

/// Adds the 32 rows of a register to their sums: `all` and `upper` as the file's comment says.
LOWBIT_ALWAYS_INLINE void flush(std::int32_t* sums, ints all, ints upper) noexcept {
  const ints lower = _mm256_sub_epi16(all, _mm256_slli_epi16(upper, 8));
  const ints first = _mm256_unpacklo_epi16(lower, upper);  // rows 0..7 and 16..23
  const ints second = _mm256_unpackhi_epi16(lower, upper);
  add_eight(sums, _mm256_castsi256_si128(first));
  add_eight(sums + 8, _mm256_castsi256_si128(second));
  add_eight(sums + 16, _mm256_extracti128_si256(first, 1));
  add_eight(sums + 24, _mm256_extracti128_si256(second, 1));
}

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* sums, index_t groups,
                                   index_t prefetch) noexcept {
  const ints low_bits = _mm256_set1_epi8(15);
  ints all[Tokens][registers];
  ints upper[Tokens][registers];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) {
      all[t][i] = upper[t][i] = _mm256_setzero_si256();
    }
  }
  for (index_t g = 0; g < groups; g += step_groups) {
    __builtin_prefetch(weights + prefetch);
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) {
      const ints signs = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 32 * i));
      const ints low = _mm256_and_si256(signs, low_bits);
      const ints high = _mm256_and_si256(_mm256_srli_epi16(signs, 4), low_bits);
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        const std::uint8_t* const table = tables + t * table_stride;
        const ints first = look_up(table, low);
        const ints second = look_up(table + sign_table_bytes, high);
        all[t][i] = _mm256_add_epi16(_mm256_add_epi16(all[t][i], first), second);
        upper[t][i] = _mm256_add_epi16(_mm256_add_epi16(upper[t][i], _mm256_srli_epi16(first, 8)),
                                       _mm256_srli_epi16(second, 8));
      }
    }
    weights += sign_tile_rows * interleave;
    tables += step_groups * sign_table_bytes;
  }
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < registers; ++i) {
      flush(sums + t * sign_tile_rows + 32 * i, all[t][i], upper[t][i]);
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

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END
#endif
