// kernels/hadamard/neon.hpp: AArch64, whose baseline has NEON. Layer L2.
#pragma once

#include <type_traits>
#include <utility>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"

#if LOWBIT_AARCH64

#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace hadamard_detail {

using vec = float32x4_t;

inline constexpr index_t lanes = 4;
inline constexpr unsigned log2_lanes = 2;
inline constexpr unsigned max_registers = 4;  // 16 of 32
inline constexpr bool mixes_fma = false;      // sums and products share their units
inline constexpr index_t block_outputs = 8;   // 16 sums

LOWBIT_ALWAYS_INLINE vec load(const float* p) noexcept { return vld1q_f32(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, vec x) noexcept { vst1q_f32(p, x); }
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
LOWBIT_ALWAYS_INLINE vec splat(float x) noexcept { return vdupq_n_f32(x); }
LOWBIT_ALWAYS_INLINE vec add(vec a, vec b) noexcept { return vaddq_f32(a, b); }
LOWBIT_ALWAYS_INLINE vec subtract(vec a, vec b) noexcept { return vsubq_f32(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply(vec a, vec b) noexcept { return vmulq_f32(a, b); }
LOWBIT_ALWAYS_INLINE vec multiply_add(vec a, vec b, vec c) noexcept { return vfmaq_f32(c, a, b); }

/// Of stage s: -1 in lanes whose bit s is set, 1 in the others.
LOWBIT_ALWAYS_INLINE void lane_constants(vec* c) noexcept {
  constexpr float signs[2][lanes] = {{1, -1, 1, -1}, {1, 1, -1, -1}};
  c[0] = load(signs[0]);
  c[1] = load(signs[1]);
}
/// Partner + x or partner - x: one shuffle and one (exact) product with +-1 in an addition.
template <unsigned S>
LOWBIT_ALWAYS_INLINE vec lane_stage(vec x, const vec* constants) noexcept {
  const vec partner = S == 0 ? vrev64q_f32(x) : vextq_f32(x, x, 2);
  return vfmaq_f32(partner, x, constants[S]);
}

LOWBIT_ALWAYS_INLINE vec flip(vec x, std::uint64_t bits) noexcept {
  constexpr std::int32_t up[lanes] = {31, 30, 29, 28};
  const uint32x4_t at_top = vshlq_u32(vdupq_n_u32(static_cast<std::uint32_t>(bits)), vld1q_s32(up));
  const uint32x4_t signs = vandq_u32(at_top, vdupq_n_u32(0x80000000U));
  return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), signs));
}
template <index_t Offset>
LOWBIT_ALWAYS_INLINE vec flip_at(vec x, const std::uint64_t* words) noexcept {
  return flip(x, words[Offset / 64] >> (Offset % 64));
}
LOWBIT_ALWAYS_INLINE void expand_signs(std::uint64_t byte, float* out) noexcept {
  store(out, flip(splat(1.0F), byte));
  store(out + lanes, flip(splat(1.0F), byte >> lanes));
}

#define LOWBIT_HADAMARD_PASSES
#include "lowbit/kernels/hadamard/passes.hpp"
#undef LOWBIT_HADAMARD_PASSES

}  // namespace hadamard_detail

LOWBIT_KERNEL void hadamard_blocks(const hadamard_blocks_args& a) noexcept {
  hadamard_detail::turn_blocks(a);
}
LOWBIT_KERNEL void hadamard_mix(const hadamard_mix_args& a) noexcept { hadamard_detail::mix(a); }

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon

#endif  // LOWBIT_AARCH64
