// kernels/dense/avx512bw.hpp: the contract with 512-bit registers. Layer L2.
//
// The whole tile at once: 8 x 2 accumulators, 2 registers of B, and the elements of A in all lanes.
// Named after the tier; it uses AVX-512F only.
#pragma once

#include "lowbit/kernels/dense/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw {

LOWBIT_KERNEL void dense_tile(const dense_tile_args& args) noexcept {
  constexpr index_t lanes = 8;
  const double* a = args.a;
  const double* b = args.b;
  __m512d sums[dense_tile_rows][2];
  LOWBIT_UNROLL
  for (index_t i = 0; i < dense_tile_rows; ++i) {
    sums[i][0] = _mm512_loadu_pd(args.c + i * args.c_stride);
    sums[i][1] = _mm512_loadu_pd(args.c + i * args.c_stride + lanes);
  }
  for (index_t k = 0; k < args.depth; ++k, a += dense_tile_rows, b += dense_tile_cols) {
    const __m512d b0 = _mm512_load_pd(b);
    const __m512d b1 = _mm512_load_pd(b + lanes);
    LOWBIT_UNROLL
    for (index_t i = 0; i < dense_tile_rows; ++i) {
      const __m512d ai = _mm512_set1_pd(a[i]);
      sums[i][0] = _mm512_fmadd_pd(ai, b0, sums[i][0]);
      sums[i][1] = _mm512_fmadd_pd(ai, b1, sums[i][1]);
    }
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < dense_tile_rows; ++i) {
    _mm512_storeu_pd(args.c + i * args.c_stride, sums[i][0]);
    _mm512_storeu_pd(args.c + i * args.c_stride + lanes, sums[i][1]);
  }
}

LOWBIT_KERNEL void dense_axpy(double a, const double* x, double* y, index_t count) noexcept {
  const __m512d factor = _mm512_set1_pd(a);
  for (index_t j = 0; j < count; j += dense_axpy_step) {
    const __m512d sum = _mm512_fmadd_pd(factor, _mm512_loadu_pd(x + j), _mm512_loadu_pd(y + j));
    _mm512_storeu_pd(y + j, sum);
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
