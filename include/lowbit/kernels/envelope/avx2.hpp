// kernels/envelope/avx2.hpp: the contract with AVX2, FMA and F16C. Layer L2.
#pragma once

#include "lowbit/kernels/envelope/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace envelope_detail {

using floats = __m256;
inline constexpr index_t lanes = 8;

LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return _mm256_set1_ps(x); }
LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return _mm256_loadu_ps(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, floats x) noexcept { _mm256_storeu_ps(p, x); }
LOWBIT_ALWAYS_INLINE floats load_part(const float* p, index_t count) noexcept {
  float part[lanes] = {};
  __builtin_memcpy(part, p, count * sizeof(float));
  return load(part);
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, floats x, index_t count) noexcept {
  float part[lanes];
  store(part, x);
  __builtin_memcpy(p, part, count * sizeof(float));
}
LOWBIT_ALWAYS_INLINE __m128i load_bits(const std::uint16_t* p) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
LOWBIT_ALWAYS_INLINE floats load_half(const std::uint16_t* p) noexcept {
  return _mm256_cvtph_ps(load_bits(p));
}
LOWBIT_ALWAYS_INLINE floats load_brain(const std::uint16_t* p) noexcept {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_bits(p)), 16));
}
LOWBIT_ALWAYS_INLINE floats multiply(floats a, floats b) noexcept { return _mm256_mul_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return _mm256_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}

#define LOWBIT_ENVELOPE_ROW_BODY
#include "lowbit/kernels/envelope/row_body.hpp"
#undef LOWBIT_ENVELOPE_ROW_BODY

}  // namespace envelope_detail

inline constexpr envelope_functions envelope = {&envelope_detail::expand,
                                                &envelope_detail::combine};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END

#endif
