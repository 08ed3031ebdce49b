// kernels/dense/avx2.hpp: the contract with AVX2 and FMA. Layer L2.
//
// The tile is cut into four of 4 x 8: 8 accumulators, as many as two units of 4 cycles latency keep
// busy, 2 registers of B and one for the element of A in all lanes.
#pragma once

#include "lowbit/kernels/dense/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace dense_detail {

inline constexpr index_t lanes = 4;
inline constexpr index_t rows = 4;     // of a part
inline constexpr index_t vectors = 2;  // of a row of a part

/// The part of a tile whose panels and C begin at a, b and c.
LOWBIT_ALWAYS_INLINE void add_part(const double* a, const double* b, double* c, index_t stride,
                                   index_t depth) noexcept {
  __m256d sums[rows][vectors];
  LOWBIT_UNROLL
  for (index_t i = 0; i < rows; ++i) {
    LOWBIT_UNROLL
    for (index_t v = 0; v < vectors; ++v) sums[i][v] = _mm256_loadu_pd(c + i * stride + v * lanes);
  }
  for (index_t k = 0; k < depth; ++k, a += dense_tile_rows, b += dense_tile_cols) {
    const __m256d b0 = _mm256_load_pd(b);
    const __m256d b1 = _mm256_load_pd(b + lanes);
    LOWBIT_UNROLL
    for (index_t i = 0; i < rows; ++i) {
      const __m256d ai = _mm256_broadcast_sd(a + i);
      sums[i][0] = _mm256_fmadd_pd(ai, b0, sums[i][0]);
      sums[i][1] = _mm256_fmadd_pd(ai, b1, sums[i][1]);
    }
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < rows; ++i) {
    LOWBIT_UNROLL
    for (index_t v = 0; v < vectors; ++v) _mm256_storeu_pd(c + i * stride + v * lanes, sums[i][v]);
  }
}

}  // namespace dense_detail

LOWBIT_KERNEL void dense_tile(const dense_tile_args& args) noexcept {
  using namespace dense_detail;
  for (index_t j = 0; j < dense_tile_cols; j += vectors * lanes) {
    for (index_t i = 0; i < dense_tile_rows; i += rows) {
      add_part(args.a + i, args.b + j, args.c + i * args.c_stride + j, args.c_stride, args.depth);
    }
  }
}

LOWBIT_KERNEL void dense_axpy(double a, const double* x, double* y, index_t count) noexcept {
  const __m256d factor = _mm256_set1_pd(a);
  for (index_t j = 0; j < count; j += dense_axpy_step) {
    const __m256d y0 = _mm256_loadu_pd(y + j);
    const __m256d y1 = _mm256_loadu_pd(y + j + 4);
    _mm256_storeu_pd(y + j, _mm256_fmadd_pd(factor, _mm256_loadu_pd(x + j), y0));
    _mm256_storeu_pd(y + j + 4, _mm256_fmadd_pd(factor, _mm256_loadu_pd(x + j + 4), y1));
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
