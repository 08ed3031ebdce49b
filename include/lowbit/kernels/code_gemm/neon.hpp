// kernels/code_gemm/neon.hpp: 128-bit registers without a dot-product instruction. Layer L2.
//
// NEON with fused multiply-add is part of AArch64, so there is no target region. Codes up to 15 are
// multiplied into 16-bit sums (smlal), which are emptied in time; codes of 8 bits, made signed, in
// pairs of 16-bit products.
//
// Invariants: a 16-bit sum takes at most 17 products of at most 15 * 128: 32640 < 2^15.
#pragma once

#include "lowbit/kernels/code_gemm/contract.hpp"

#if LOWBIT_AARCH64
#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace code_gemm_detail {

#define LOWBIT_CODE_GEMM_REGISTERS
#include "lowbit/kernels/code_gemm/registers_neon.hpp"
#undef LOWBIT_CODE_GEMM_REGISTERS

/// Sums of products column by column: of the first and of the last two rows of a register.
struct partial {
  int16x8_t low;
  int16x8_t high;
};

inline constexpr bool dot_takes_any_byte = false;
inline constexpr index_t partial_steps = 17;
inline constexpr std::int32_t wide_bias = 128;
// 2 x 5 narrow sums in pairs, 2 codes, an activation: neither g++ 12 nor clang 14 spills any of
// them in the inner loops, as with 2 x 6 and 4 x 3.
inline constexpr index_t block_vectors = 2;
inline constexpr index_t block_tokens = 5;
inline constexpr bool few_share_unpacking = false;
inline constexpr index_t few_tokens = 1;
inline constexpr bool has_plain_path = true;

/// sum + the sums of 4 products each of (codes - 128) and x, for any codes.
LOWBIT_ALWAYS_INLINE ints dot(ints sum, bytes codes, bytes x) noexcept {
  const int8x16_t a = vreinterpretq_s8_u8(veorq_u8(codes, splat(128)));
  const int8x16_t b = vreinterpretq_s8_u8(x);
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}
/// Products of codes up to 15, partial_steps times.
LOWBIT_ALWAYS_INLINE partial zero_partial() noexcept { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
LOWBIT_ALWAYS_INLINE partial dot_partial(partial sum, bytes codes, bytes x) noexcept {
  const int8x16_t a = vreinterpretq_s8_u8(codes);
  const int8x16_t b = vreinterpretq_s8_u8(x);
  return {vmlal_s8(sum.low, vget_low_s8(a), vget_low_s8(b)), vmlal_high_s8(sum.high, a, b)};
}
LOWBIT_ALWAYS_INLINE ints widen(ints sum, partial narrow) noexcept {
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(narrow.low), vpaddlq_s16(narrow.high)));
}

#define LOWBIT_CODE_GEMM_TILE_BODY
#include "lowbit/kernels/code_gemm/tile_body.hpp"
#undef LOWBIT_CODE_GEMM_TILE_BODY

}  // namespace code_gemm_detail

LOWBIT_KERNEL void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  code_gemm_detail::tile(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon
#endif
