// kernels/sparse/avx512bw.hpp: the contract with 512-bit registers. Layer L2.
//
// A block has a register for the 16 tokens of each of its 16 lanes. `vector` is that of avx2.hpp:
// what limits it is loads of single floats, not registers.
#pragma once

#include "lowbit/kernels/sparse/avx2.hpp"
#include "lowbit/kernels/sparse/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw {
inline void sparse_block(const sparse_block_args& args) noexcept {
  constexpr __mmask16 all = 0xffff;  // g++ 12 warns of the form without a mask
  __m512 sums[sparse_lanes];
  LOWBIT_UNROLL
  for (index_t i = 0; i < sparse_lanes; ++i) {
    sums[i] = _mm512_load_ps(args.sums + i * sparse_tokens);
  }
  for (index_t t = 0; t < args.depth; ++t) {
    const sparse_step& step = args.steps[t];
    alignas(64) float values[sparse_lanes];
    _mm512_store_ps(values,
                    _mm512_maskz_cvtph_ps(
                        all, _mm256_load_si256(reinterpret_cast<const __m256i*>(step.values))));
    LOWBIT_UNROLL
    for (index_t i = 0; i < sparse_lanes; ++i) {
      sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(values[i]),
                                _mm512_load_ps(args.x + index_t{step.columns[i]} * sparse_tokens),
                                sums[i]);
    }
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < sparse_lanes; ++i) {
    _mm512_store_ps(args.sums + i * sparse_tokens, sums[i]);
  }
}

inline constexpr sparse_functions sparse = {&avx2::sparse_vector, &sparse_block};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
