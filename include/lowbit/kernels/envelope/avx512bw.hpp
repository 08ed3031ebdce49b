// kernels/envelope/avx512bw.hpp: the contract with 512-bit registers. Layer L2.
#pragma once

#include "lowbit/kernels/envelope/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the undefined pass-through operands of its own AVX-512 intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw {
namespace envelope_detail {

using floats = __m512;
inline constexpr index_t lanes = 16;

LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return _mm512_set1_ps(x); }
LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return _mm512_loadu_ps(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, floats x) noexcept { _mm512_storeu_ps(p, x); }
LOWBIT_ALWAYS_INLINE __mmask16 first(index_t count) noexcept {
  return static_cast<__mmask16>((1U << count) - 1U);
}
LOWBIT_ALWAYS_INLINE floats load_part(const float* p, index_t count) noexcept {
  return _mm512_maskz_loadu_ps(first(count), p);
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, floats x, index_t count) noexcept {
  _mm512_mask_storeu_ps(p, first(count), x);
}
LOWBIT_ALWAYS_INLINE __m256i load_bits(const std::uint16_t* p) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
LOWBIT_ALWAYS_INLINE floats load_half(const std::uint16_t* p) noexcept {
  return _mm512_cvtph_ps(load_bits(p));
}
LOWBIT_ALWAYS_INLINE floats load_brain(const std::uint16_t* p) noexcept {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_bits(p)), 16));
}
LOWBIT_ALWAYS_INLINE floats multiply(floats a, floats b) noexcept { return _mm512_mul_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return _mm512_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return _mm512_fmadd_ps(a, b, c);
}

#define LOWBIT_ENVELOPE_ROW_BODY
#include "lowbit/kernels/envelope/row_body.hpp"
#undef LOWBIT_ENVELOPE_ROW_BODY

}  // namespace envelope_detail

inline constexpr envelope_functions envelope = {&envelope_detail::expand,
                                                &envelope_detail::combine};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
