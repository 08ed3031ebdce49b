// kernels/code_gemm/neon_dotprod.hpp: 128-bit registers and sdot. Layer L2.
//
// sdot multiplies signed bytes: codes of 8 bits are made signed first, which takes 128 times the
// sum of activations from every sum.
#pragma once

#include "lowbit/kernels/code_gemm/contract.hpp"

#if LOWBIT_DOTPROD_REGION
#include <arm_neon.h>

LOWBIT_DOTPROD_BEGIN
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon_dotprod {
namespace code_gemm_detail {

#define LOWBIT_CODE_GEMM_REGISTERS
#include "lowbit/kernels/code_gemm/registers_neon.hpp"
#undef LOWBIT_CODE_GEMM_REGISTERS

using partial = ints;

inline constexpr bool dot_takes_any_byte = false;
// As many as a run has quads. Sums of codes up to 15 are "partial" only because dot() is for codes
// that have to be made signed.
inline constexpr index_t partial_steps = code_max_quads;
inline constexpr std::int32_t wide_bias = 128;
inline constexpr index_t block_vectors = 4;  // 4 x 5 sums, 4 codes and an activation: 25 registers
inline constexpr index_t block_tokens = 5;
inline constexpr bool few_share_unpacking = false;
inline constexpr index_t few_tokens = 1;
inline constexpr bool has_plain_path = true;

/// sum + the sums of 4 products each of codes up to 127 and x.
LOWBIT_ALWAYS_INLINE partial zero_partial() noexcept { return vdupq_n_s32(0); }
LOWBIT_ALWAYS_INLINE partial dot_partial(partial sum, bytes codes, bytes x) noexcept {
  return vdotq_s32(sum, vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
}
LOWBIT_ALWAYS_INLINE ints widen(ints sum, partial narrow) noexcept { return add(sum, narrow); }
/// sum + the sums of 4 products each of (codes - 128) and x, for any codes.
LOWBIT_ALWAYS_INLINE ints dot(ints sum, bytes codes, bytes x) noexcept {
  return dot_partial(sum, veorq_u8(codes, splat(128)), x);
}

#define LOWBIT_CODE_GEMM_TILE_BODY
#include "lowbit/kernels/code_gemm/tile_body.hpp"
#undef LOWBIT_CODE_GEMM_TILE_BODY

}  // namespace code_gemm_detail

LOWBIT_KERNEL void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  code_gemm_detail::tile(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon_dotprod
LOWBIT_DOTPROD_END
#endif
