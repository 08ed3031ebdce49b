// kernels/sign_gemm/avx512_vbmi_vnni.hpp: look-ups by vpermb, sums by vpdpbusd. Layer L2.
//
// A register holds the tables of 4 groups. With (pattern | 16 * j) in byte j of each 32 bits, one
// vpermb looks up 4 groups of 16 rows, and one vpdpbusd with the signs adds them to the sum of each
// row, exactly: 320 products, and nothing is widened. Signs are +-64 instead of +-1: from a
// register whose upper bits are signs one logic operation makes 64 or -64 (0xc0), and adding it to
// itself brings the next bit to the top. Indices and signs are shared by up to 4 tokens, whose 16
// sums stay in registers.
#pragma once

#include "lowbit/kernels/sign_gemm/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the undefined pass-through operands of its own AVX-512 intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

LOWBIT_TARGET_BEGIN(
    "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512_vbmi_vnni {
namespace sign_gemm_detail {

using floats = __m512;
// Not __m512i: as 64-bit elements g++ 12 copies sums (kernels/code_gemm/README.md).
using ints = int __attribute__((vector_size(64)));
inline constexpr index_t lanes = 16;

LOWBIT_ALWAYS_INLINE __m512i bits(ints x) noexcept { return reinterpret_cast<__m512i>(x); }
LOWBIT_ALWAYS_INLINE ints numbers(__m512i x) noexcept { return reinterpret_cast<ints>(x); }

LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return _mm512_set1_ps(x); }
LOWBIT_ALWAYS_INLINE ints splat_int(std::int32_t x) noexcept {
  return numbers(_mm512_set1_epi32(x));
}
LOWBIT_ALWAYS_INLINE floats magnitude(floats x) noexcept { return _mm512_abs_ps(x); }
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return _mm512_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats subtract(floats a, floats b) noexcept { return _mm512_sub_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return _mm512_fmadd_ps(a, b, c);
}
LOWBIT_ALWAYS_INLINE ints as_ints(floats x) noexcept { return numbers(_mm512_castps_si512(x)); }
LOWBIT_ALWAYS_INLINE floats as_floats(ints x) noexcept { return _mm512_castsi512_ps(bits(x)); }
LOWBIT_ALWAYS_INLINE ints largest(ints a, ints b) noexcept {
  return numbers(_mm512_max_epi32(bits(a), bits(b)));
}
template <unsigned N>
LOWBIT_ALWAYS_INLINE ints shift_left(ints x) noexcept {
  return numbers(_mm512_slli_epi32(bits(x), N));
}
LOWBIT_ALWAYS_INLINE ints select(ints mask, ints a, ints b) noexcept {
  return numbers(_mm512_ternarylogic_epi32(bits(mask), bits(a), bits(b), 0xca));
}
template <unsigned N>
LOWBIT_ALWAYS_INLINE ints shift_right(ints x) noexcept {
  return numbers(_mm512_srai_epi32(bits(x), N));
}
LOWBIT_ALWAYS_INLINE ints subtract_ints(ints a, ints b) noexcept {
  return numbers(_mm512_sub_epi32(bits(a), bits(b)));
}
LOWBIT_ALWAYS_INLINE ints load_ints(const void* p) noexcept {
  return numbers(_mm512_load_si512(p));
}
LOWBIT_ALWAYS_INLINE void store_ints(void* p, ints x) noexcept { _mm512_store_si512(p, bits(x)); }

/// Which lanes of the register r of 5 consecutive ones hold column j of a group.
[[nodiscard]] constexpr __mmask16 lanes_of_column(index_t r, index_t j) noexcept {
  unsigned mask = 0;
  for (index_t p = 0; p < lanes; ++p) mask |= ((16 * r + p) % 5 == j ? 1U : 0U) << p;
  return static_cast<__mmask16>(mask);
}
/// 16 and 5 have no common factor: column j stands in each lane of just one of the registers.
template <index_t J>
LOWBIT_ALWAYS_INLINE floats column(const floats* x) noexcept {
  floats found = _mm512_mask_blend_ps(lanes_of_column(1, J), x[0], x[1]);
  found = _mm512_mask_blend_ps(lanes_of_column(2, J), found, x[2]);
  found = _mm512_mask_blend_ps(lanes_of_column(3, J), found, x[3]);
  found = _mm512_mask_blend_ps(lanes_of_column(4, J), found, x[4]);
  // 5 * (4 i + q) + j in element 4 q + i; the upper bits are ignored.
  const __m512i first =
      _mm512_setr_epi32(0, 20, 40, 60, 5, 25, 45, 65, 10, 30, 50, 70, 15, 35, 55, 75);
  return _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(J)), found);
}
LOWBIT_ALWAYS_INLINE void load_columns(const float* p, floats* z) noexcept {
  floats x[5];
  LOWBIT_UNROLL
  for (index_t r = 0; r < 5; ++r) x[r] = _mm512_loadu_ps(p + r * lanes);
  z[0] = column<0>(x);
  z[1] = column<1>(x);
  z[2] = column<2>(x);
  z[3] = column<3>(x);
  z[4] = column<4>(x);
}
LOWBIT_ALWAYS_INLINE void transpose(floats* r) noexcept {
  const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
  const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
  const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
  const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
  r[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
  r[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
  r[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
  r[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
}
LOWBIT_ALWAYS_INLINE std::uint32_t largest_lane(ints x) noexcept {
  std::uint32_t each[lanes];
  _mm512_storeu_si512(each, bits(x));
  std::uint32_t found = 0;
  for (const std::uint32_t one : each) found = one > found ? one : found;
  return found;
}

inline constexpr index_t interleave = 4;
inline constexpr index_t sets = sign_tile_rows / 16;  // registers of patterns in a step
inline constexpr index_t most_tokens = 4;
inline constexpr index_t bias = 128;
inline constexpr unsigned scale_bits = 6;

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* out, index_t groups,
                                   index_t prefetch) noexcept {
  const ints low_bits = splat_int(0x0f0f0f0f);
  const ints which_group = splat_int(0x30201000);
  const ints top_bits = splat_int(static_cast<std::int32_t>(0x80808080U));
  const ints scale = splat_int(0x40404040);
  ints sums[Tokens][sets];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) sums[t][s] = load_ints(out + t * sign_tile_rows + 16 * s);
  }
  for (index_t g = 0; g < groups; g += sign_step_groups) {
    // To L2: tables stream through L1, and all that misses there waits for the same few buffers.
    LOWBIT_UNROLL
    for (index_t i = 0; i < sign_step_bytes; i += 64) {
      __builtin_prefetch(weights + prefetch + i, 0, 2);
    }
    ints signs = load_ints(weights + sign_pattern_bytes);
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) {
      const ints patterns = load_ints(weights + 64 * s);
      LOWBIT_UNROLL
      for (index_t half = 0; half < 2; ++half) {
        const __m512i in_place = half == 0 ? bits(patterns) : _mm512_srli_epi16(bits(patterns), 4);
        const ints indices =
            numbers(_mm512_ternarylogic_epi32(in_place, bits(low_bits), bits(which_group), 0xea));
        const ints factors =
            numbers(_mm512_ternarylogic_epi32(bits(signs), bits(top_bits), bits(scale), 0xea));
        signs = numbers(_mm512_add_epi8(bits(signs), bits(signs)));
        LOWBIT_UNROLL
        for (index_t t = 0; t < Tokens; ++t) {
          const __m512i table = _mm512_load_si512(tables + t * table_stride + 64 * half);
          const __m512i found = _mm512_permutexvar_epi8(bits(indices), table);
          sums[t][s] = numbers(_mm512_dpbusd_epi32(bits(sums[t][s]), found, bits(factors)));
        }
      }
    }
    weights += sign_step_bytes;
    tables += sign_step_groups * sign_table_bytes;
  }
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) store_ints(out + t * sign_tile_rows + 16 * s, sums[t][s]);
  }
}

#define LOWBIT_SIGN_GEMM_BODY
#include "lowbit/kernels/sign_gemm/kernel_body.hpp"
#undef LOWBIT_SIGN_GEMM_BODY

}  // namespace sign_gemm_detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512_vbmi_vnni
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
