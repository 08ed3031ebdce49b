// kernels/code_gemm/avx_vnni.hpp: 256-bit registers and the VEX form of vpdpbusd. Layer L2.
#pragma once

#include "lowbit/kernels/code_gemm/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avxvnni")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx_vnni {
namespace code_gemm_detail {

#define LOWBIT_CODE_GEMM_REGISTERS
#include "lowbit/kernels/code_gemm/registers_256.hpp"
#undef LOWBIT_CODE_GEMM_REGISTERS

inline constexpr bool dot_takes_any_byte = true;
inline constexpr index_t partial_steps = 0;
inline constexpr std::int32_t wide_bias = 0;
inline constexpr index_t block_vectors = 2;  // 2 x 6 sums, 2 codes and an activation: 15 registers
inline constexpr index_t block_tokens = 6;
inline constexpr bool few_share_unpacking = false;
inline constexpr index_t few_tokens = 8;
inline constexpr bool has_plain_path = true;

// No narrow sums: these are never called.
using partial = ints;
ints zero_partial() noexcept;
ints dot_partial(ints, bytes, bytes) noexcept;
ints widen(ints, ints) noexcept;

/// sum + the sums of 4 products each, for any codes.
LOWBIT_ALWAYS_INLINE ints dot(ints sum, bytes codes, bytes x) noexcept {
  return reinterpret_cast<ints>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum), codes, x));
}

#define LOWBIT_CODE_GEMM_TILE_BODY
#include "lowbit/kernels/code_gemm/tile_body.hpp"
#undef LOWBIT_CODE_GEMM_TILE_BODY

}  // namespace code_gemm_detail

LOWBIT_KERNEL void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  code_gemm_detail::tile(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx_vnni
LOWBIT_TARGET_END
#endif
