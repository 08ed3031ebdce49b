// kernels/hadamard/avx2.hpp: the contract with AVX2 and FMA. Layer L2.
#pragma once

#include <type_traits>
#include <utility>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace hadamard_detail {

using vec = __m256;

inline constexpr index_t lanes = 8;
inline constexpr unsigned log2_lanes = 3;
inline constexpr unsigned max_registers = 3;  // 8 of 16
inline constexpr bool mixes_fma = true;
inline constexpr index_t block_outputs = 4;  // 8 sums

LOWBIT_ALWAYS_INLINE vec load(const float* p) noexcept { return _mm256_loadu_ps(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, vec x) noexcept { _mm256_storeu_ps(p, x); }
LOWBIT_ALWAYS_INLINE __m256i first_lanes(index_t count) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
LOWBIT_ALWAYS_INLINE vec load_part(const float* p, index_t count) noexcept {
  return _mm256_maskload_ps(p, first_lanes(count));
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, vec x, index_t count) noexcept {
  _mm256_maskstore_ps(p, first_lanes(count), x);
}
LOWBIT_ALWAYS_INLINE vec splat(float x) noexcept { return _mm256_set1_ps(x); }
LOWBIT_ALWAYS_INLINE vec in_register(vec x) noexcept {
  __asm__("" : "+x"(x));
  return x;
}
LOWBIT_ALWAYS_INLINE vec add(vec a, vec b) noexcept { return _mm256_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec subtract(vec a, vec b) noexcept { return _mm256_sub_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply(vec a, vec b) noexcept { return _mm256_mul_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply_add(vec a, vec b, vec c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}

/// Of stage s: -1 in lanes whose bit s is set, 1 in the others.
LOWBIT_ALWAYS_INLINE void lane_constants(vec* c) noexcept {
  c[0] = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  c[1] = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  c[2] = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
}
/// Partner + x or partner - x: one shuffle and one (exact) product with +-1 in an addition.
template <unsigned S>
LOWBIT_ALWAYS_INLINE vec lane_stage(vec x, const vec* constants) noexcept {
  const vec partner = S == 0   ? _mm256_permute_ps(x, 0xb1)
                      : S == 1 ? _mm256_permute_ps(x, 0x4e)
                               : _mm256_permute2f128_ps(x, x, 0x01);
  return _mm256_fmadd_ps(x, constants[S], partner);
}

/// By the bits from `first` on of a word.
LOWBIT_ALWAYS_INLINE vec flip_from(vec x, std::uint32_t word, index_t first) noexcept {
  const __m256i up = _mm256_sub_epi32(_mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24),
                                      _mm256_set1_epi32(static_cast<int>(first)));
  const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(word)), up);
  return _mm256_xor_ps(x, _mm256_and_ps(_mm256_castsi256_ps(bits), splat(-0.0F)));
}
LOWBIT_ALWAYS_INLINE vec flip(vec x, std::uint64_t bits) noexcept {
  return flip_from(x, static_cast<std::uint32_t>(bits), 0);
}
template <index_t Offset>
LOWBIT_ALWAYS_INLINE vec flip_at(vec x, const std::uint64_t* words) noexcept {
  std::uint32_t word;
  __builtin_memcpy(&word, reinterpret_cast<const unsigned char*>(words) + Offset / 32 * 4, 4);
  return flip_from(x, word, Offset % 32);
}
LOWBIT_ALWAYS_INLINE void expand_signs(std::uint64_t byte, float* out) noexcept {
  _mm256_store_ps(out, flip(splat(1.0F), byte));
}

#define LOWBIT_HADAMARD_PASSES
#include "lowbit/kernels/hadamard/passes.hpp"
#undef LOWBIT_HADAMARD_PASSES

}  // namespace hadamard_detail

LOWBIT_KERNEL void hadamard_blocks(const hadamard_blocks_args& a) noexcept {
  hadamard_detail::turn_blocks(a);
}
LOWBIT_KERNEL void hadamard_mix(const hadamard_mix_args& a) noexcept { hadamard_detail::mix(a); }

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
