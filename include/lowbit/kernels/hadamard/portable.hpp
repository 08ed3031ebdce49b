// kernels/hadamard/portable.hpp: the contract for whatever the build allows, through xsimd. Layer
// L2.
//
// xsimd 8.1 has no shuffle with a partner lane: the stages inside a register go through an array,
// which compilers keep in registers where they can. A product with +-1 is exact, so that its sum
// may be fused or not.
#pragma once

#include <bit>
#include <type_traits>
#include <utility>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/linalg/simd.hpp"

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the undefined pass-through operands of its own AVX-512 intrinsics, inlined here
// by a build with AVX-512.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable {
namespace hadamard_detail {

using vec = linalg::simd_batch<float>;

inline constexpr index_t lanes = vec::size;
inline constexpr unsigned log2_lanes = std::bit_width(lanes) - 1;
static_assert(lanes >= 2 && lanes <= 16 && std::has_single_bit(lanes));
inline constexpr unsigned max_registers = 3;  // 8 of 16
inline constexpr bool mixes_fma = false;
inline constexpr index_t block_outputs = 4;  // 8 sums

LOWBIT_ALWAYS_INLINE vec load(const float* p) noexcept { return vec::load_unaligned(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, vec x) noexcept { x.store_unaligned(p); }
LOWBIT_ALWAYS_INLINE vec load_part(const float* p, index_t count) noexcept {
  float part[lanes] = {};
  __builtin_memcpy(part, p, count * sizeof(float));
  return load(part);
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, vec x, index_t count) noexcept {
  float part[lanes];
  store(part, x);
  __builtin_memcpy(p, part, count * sizeof(float));
}
LOWBIT_ALWAYS_INLINE vec splat(float x) noexcept { return vec(x); }
LOWBIT_ALWAYS_INLINE vec add(vec a, vec b) noexcept { return a + b; }
LOWBIT_ALWAYS_INLINE vec subtract(vec a, vec b) noexcept { return a - b; }
LOWBIT_ALWAYS_INLINE vec multiply(vec a, vec b) noexcept { return a * b; }
/// a is +-1.
LOWBIT_ALWAYS_INLINE vec multiply_add(vec a, vec b, vec c) noexcept { return a * b + c; }

/// Of stage s: -1 in lanes whose bit s is set, 1 in the others.
LOWBIT_ALWAYS_INLINE void lane_constants(vec* c) noexcept {
  for (unsigned s = 0; s < log2_lanes; ++s) {
    float signs[lanes];
    for (index_t i = 0; i < lanes; ++i) signs[i] = (i >> s & 1U) != 0 ? -1.0F : 1.0F;
    c[s] = load(signs);
  }
}
template <unsigned S>
LOWBIT_ALWAYS_INLINE vec lane_stage(vec x, const vec* constants) noexcept {
  float own[lanes];
  float partner[lanes];
  store(own, x);
  for (index_t i = 0; i < lanes; ++i) partner[i] = own[i ^ (index_t{1} << S)];
  return multiply_add(constants[S], x, load(partner));
}

LOWBIT_ALWAYS_INLINE vec flip(vec x, std::uint64_t bits) noexcept {
  std::uint32_t signs[lanes];
  for (index_t i = 0; i < lanes; ++i) {
    signs[i] = static_cast<std::uint32_t>(bits >> i) << 31U;
  }
  float zeros[lanes];  // +-0
  __builtin_memcpy(zeros, signs, sizeof zeros);
  return x ^ load(zeros);
}
template <index_t Offset>
LOWBIT_ALWAYS_INLINE vec flip_at(vec x, const std::uint64_t* words) noexcept {
  return flip(x, words[Offset / 64] >> (Offset % 64));
}
LOWBIT_ALWAYS_INLINE void expand_signs(std::uint64_t byte, float* out) noexcept {
  for (index_t i = 0; i < 8; ++i) out[i] = (byte >> i & 1U) != 0 ? -1.0F : 1.0F;
}

#define LOWBIT_HADAMARD_PASSES
#include "lowbit/kernels/hadamard/passes.hpp"
#undef LOWBIT_HADAMARD_PASSES

}  // namespace hadamard_detail

LOWBIT_KERNEL void hadamard_blocks(const hadamard_blocks_args& a) noexcept {
  hadamard_detail::turn_blocks(a);
}
LOWBIT_KERNEL void hadamard_mix(const hadamard_mix_args& a) noexcept { hadamard_detail::mix(a); }

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
