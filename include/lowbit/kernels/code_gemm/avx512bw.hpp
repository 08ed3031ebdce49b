// kernels/code_gemm/avx512bw.hpp: 512-bit registers and vpmaddubsw. Layer L2.
#pragma once

#include "lowbit/kernels/code_gemm/contract.hpp"

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
namespace code_gemm_detail {

#define LOWBIT_CODE_GEMM_REGISTERS
#include "lowbit/kernels/code_gemm/registers_512.hpp"
#undef LOWBIT_CODE_GEMM_REGISTERS

using partial = short __attribute__((vector_size(64)));

inline constexpr bool dot_takes_any_byte = false;
inline constexpr index_t partial_steps = 8;
inline constexpr std::int32_t wide_bias = 0;
inline constexpr index_t block_vectors = 4;  // 4 x 5 narrow sums, 4 codes and an activation
inline constexpr index_t block_tokens = 5;
inline constexpr bool few_share_unpacking = false;
inline constexpr index_t few_tokens = 1;
inline constexpr bool has_plain_path = true;

/// sum + the sums of 4 products each, for any codes: vpmaddubsw would saturate, so by nibbles.
LOWBIT_ALWAYS_INLINE ints dot(ints sum, bytes codes, bytes x) noexcept {
  const bytes mask = splat(15);
  const bytes low = _mm512_maddubs_epi16(both(codes, mask), x);
  const bytes high = _mm512_maddubs_epi16(both(shift_right<4>(codes), mask), x);
  const bytes ones = _mm512_set1_epi16(1);
  const bytes sixteens = _mm512_set1_epi16(16);
  return sum + reinterpret_cast<ints>(_mm512_madd_epi16(low, ones)) +
         reinterpret_cast<ints>(_mm512_madd_epi16(high, sixteens));
}
/// 16-bit sums of two products each, for codes up to 15: 8 steps of at most 2 * 15 * 128 fit.
LOWBIT_ALWAYS_INLINE partial zero_partial() noexcept { return partial{}; }
LOWBIT_ALWAYS_INLINE partial dot_partial(partial sum, bytes codes, bytes x) noexcept {
  return sum + reinterpret_cast<partial>(_mm512_maddubs_epi16(codes, x));
}
LOWBIT_ALWAYS_INLINE ints widen(ints sum, partial narrow) noexcept {
  return sum + reinterpret_cast<ints>(
                   _mm512_madd_epi16(reinterpret_cast<__m512i>(narrow), _mm512_set1_epi16(1)));
}

#define LOWBIT_CODE_GEMM_TILE_BODY
#include "lowbit/kernels/code_gemm/tile_body.hpp"
#undef LOWBIT_CODE_GEMM_TILE_BODY

}  // namespace code_gemm_detail

LOWBIT_KERNEL void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  code_gemm_detail::tile(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
