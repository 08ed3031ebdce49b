// kernels/hadamard/avx512bw.hpp: the contract with 512-bit registers. Layer L2.
#pragma once

#include <type_traits>
#include <utility>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"

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
namespace hadamard_detail {

using vec = __m512;

inline constexpr index_t lanes = 16;
inline constexpr unsigned log2_lanes = 4;
inline constexpr unsigned max_registers = 4;  // 16 of 32
inline constexpr bool mixes_fma = true;
inline constexpr index_t block_outputs = 8;  // 16 sums

LOWBIT_ALWAYS_INLINE vec load(const float* p) noexcept { return _mm512_loadu_ps(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, vec x) noexcept { _mm512_storeu_ps(p, x); }
LOWBIT_ALWAYS_INLINE __mmask16 first_lanes(index_t count) noexcept {
  return static_cast<__mmask16>((1U << count) - 1U);
}
LOWBIT_ALWAYS_INLINE vec load_part(const float* p, index_t count) noexcept {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, vec x, index_t count) noexcept {
  _mm512_mask_storeu_ps(p, first_lanes(count), x);
}
LOWBIT_ALWAYS_INLINE vec splat(float x) noexcept { return _mm512_set1_ps(x); }
LOWBIT_ALWAYS_INLINE vec in_register(vec x) noexcept {
  __asm__("" : "+v"(x));
  return x;
}
LOWBIT_ALWAYS_INLINE vec add(vec a, vec b) noexcept { return _mm512_add_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec subtract(vec a, vec b) noexcept { return _mm512_sub_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply(vec a, vec b) noexcept { return _mm512_mul_ps(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply_add(vec a, vec b, vec c) noexcept {
  return _mm512_fmadd_ps(a, b, c);
}

/// Of stage s: -1 in lanes whose bit s is set, 1 in the others.
LOWBIT_ALWAYS_INLINE void lane_constants(vec* c) noexcept {
  const vec one = splat(1.0F);
  const vec minus = splat(-1.0F);
  c[0] = _mm512_mask_blend_ps(0xaaaa, one, minus);
  c[1] = _mm512_mask_blend_ps(0xcccc, one, minus);
  c[2] = _mm512_mask_blend_ps(0xf0f0, one, minus);
  c[3] = _mm512_mask_blend_ps(0xff00, one, minus);
}
/// Partner + x or partner - x: one shuffle and one (exact) product with +-1 in an addition.
template <unsigned S>
LOWBIT_ALWAYS_INLINE vec lane_stage(vec x, const vec* constants) noexcept {
  const vec partner = S == 0   ? _mm512_permute_ps(x, 0xb1)
                      : S == 1 ? _mm512_permute_ps(x, 0x4e)
                      : S == 2 ? _mm512_shuffle_f32x4(x, x, 0xb1)
                               : _mm512_shuffle_f32x4(x, x, 0x4e);
  return _mm512_fmadd_ps(x, constants[S], partner);
}

LOWBIT_ALWAYS_INLINE vec flip(vec x, std::uint64_t bits) noexcept {
  return _mm512_mask_xor_ps(x, static_cast<__mmask16>(bits), x, splat(-0.0F));
}
template <index_t Offset>
LOWBIT_ALWAYS_INLINE vec flip_at(vec x, const std::uint64_t* words) noexcept {
  __mmask16 bits;
  __builtin_memcpy(&bits, reinterpret_cast<const unsigned char*>(words) + Offset / 8, 2);
  return flip(x, bits);
}
LOWBIT_ALWAYS_INLINE void expand_signs(std::uint64_t byte, float* out) noexcept {
  _mm256_store_ps(out, _mm256_mask_blend_ps(static_cast<__mmask8>(byte), _mm256_set1_ps(1.0F),
                                            _mm256_set1_ps(-1.0F)));
}

#define LOWBIT_HADAMARD_PASSES
#include "lowbit/kernels/hadamard/passes.hpp"
#undef LOWBIT_HADAMARD_PASSES

}  // namespace hadamard_detail

LOWBIT_KERNEL void hadamard_blocks(const hadamard_blocks_args& a) noexcept {
  hadamard_detail::turn_blocks(a);
}
LOWBIT_KERNEL void hadamard_mix(const hadamard_mix_args& a) noexcept { hadamard_detail::mix(a); }

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif  // LOWBIT_X86_64
