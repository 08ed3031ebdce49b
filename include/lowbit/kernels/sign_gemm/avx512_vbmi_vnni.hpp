// kernels/sign_gemm/avx512_vbmi_vnni.hpp: look-ups by vpermb, sums by vpdpbusd. Layer L2.
//
// A register holds the tables of 4 groups. With (signs | 16 * j) in byte j of each 32 bits, one
// vpermb looks up 4 groups of 16 rows, and one vpdpbusd with ones adds them to the sum of each row,
// exactly: 256 signs, and nothing is widened. The bytes of indices are shared by up to 4 tokens,
// whose 16 sums stay in registers.
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

LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return _mm512_loadu_ps(p); }
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
LOWBIT_ALWAYS_INLINE ints negate_bytes(ints x) noexcept {
  return numbers(_mm512_sub_epi8(_mm512_setzero_si512(), bits(x)));
}
LOWBIT_ALWAYS_INLINE ints reverse_bytes(ints x) noexcept {
  const __m512i order = _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
  return numbers(_mm512_shuffle_epi8(bits(x), order));
}
LOWBIT_ALWAYS_INLINE void store_ints(std::uint8_t* p, ints x) noexcept {
  _mm512_store_si512(p, bits(x));
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
inline constexpr index_t sets = sign_tile_rows / 16;  // registers of a step
inline constexpr index_t step_groups = 2 * interleave;
inline constexpr index_t most_tokens = 4;

template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tile(const std::uint8_t* weights, const std::uint8_t* tables,
                                   index_t table_stride, std::int32_t* out, index_t groups,
                                   index_t prefetch) noexcept {
  const ints low_bits = splat_int(0x0f0f0f0f);
  const ints which_group = splat_int(0x30201000);
  const ints ones = splat_int(0x01010101);
  ints sums[Tokens][sets];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) {
      sums[t][s] = numbers(_mm512_load_si512(out + t * sign_tile_rows + 16 * s));
    }
  }
  for (index_t g = 0; g < groups; g += step_groups) {
    ints signs[sets];
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) {
      signs[s] = numbers(_mm512_load_si512(weights + 64 * s));
      // To L2: tables stream through L1, and all that misses there waits for the same few buffers.
      __builtin_prefetch(weights + prefetch + 64 * s, 0, 2);
    }
    LOWBIT_UNROLL
    for (index_t half = 0; half < 2; ++half) {
      ints indices[sets];
      LOWBIT_UNROLL
      for (index_t s = 0; s < sets; ++s) {
        const __m512i in_place = half == 0 ? bits(signs[s]) : _mm512_srli_epi16(bits(signs[s]), 4);
        indices[s] =
            numbers(_mm512_ternarylogic_epi32(in_place, bits(low_bits), bits(which_group), 0xea));
      }
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        const __m512i table = _mm512_load_si512(tables + t * table_stride + 64 * half);
        LOWBIT_UNROLL
        for (index_t s = 0; s < sets; ++s) {
          const __m512i found = _mm512_permutexvar_epi8(bits(indices[s]), table);
          sums[t][s] = numbers(_mm512_dpbusd_epi32(bits(sums[t][s]), found, bits(ones)));
        }
      }
    }
    weights += sign_tile_rows * interleave;
    tables += step_groups * sign_table_bytes;
  }
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t s = 0; s < sets; ++s) {
      _mm512_store_si512(out + t * sign_tile_rows + 16 * s, bits(sums[t][s]));
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

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512_vbmi_vnni
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
