// kernels/dense/neon.hpp: AArch64, whose baseline has NEON with fused multiply-add of doubles.
// Layer L2.
//
// The tile is cut into four of 4 x 8: 16 accumulators, 4 registers of B and 2 of A, whose lanes the
// instruction picks.
#pragma once

#include "lowbit/kernels/dense/contract.hpp"

#if LOWBIT_AARCH64

#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace dense_detail {

inline constexpr index_t lanes = 2;
inline constexpr index_t rows = 4;     // of a part
inline constexpr index_t vectors = 4;  // of a row of a part

/// The part of a tile whose panels and C begin at a, b and c.
LOWBIT_ALWAYS_INLINE void add_part(const double* a, const double* b, double* c, index_t stride,
                                   index_t depth) noexcept {
  float64x2_t sums[rows][vectors];
  LOWBIT_UNROLL
  for (index_t i = 0; i < rows; ++i) {
    LOWBIT_UNROLL
    for (index_t v = 0; v < vectors; ++v) sums[i][v] = vld1q_f64(c + i * stride + v * lanes);
  }
  for (index_t k = 0; k < depth; ++k, a += dense_tile_rows, b += dense_tile_cols) {
    const float64x2_t a01 = vld1q_f64(a);
    const float64x2_t a23 = vld1q_f64(a + lanes);
    LOWBIT_UNROLL
    for (index_t v = 0; v < vectors; ++v) {
      const float64x2_t bv = vld1q_f64(b + v * lanes);
      sums[0][v] = vfmaq_laneq_f64(sums[0][v], bv, a01, 0);
      sums[1][v] = vfmaq_laneq_f64(sums[1][v], bv, a01, 1);
      sums[2][v] = vfmaq_laneq_f64(sums[2][v], bv, a23, 0);
      sums[3][v] = vfmaq_laneq_f64(sums[3][v], bv, a23, 1);
    }
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < rows; ++i) {
    LOWBIT_UNROLL
    for (index_t v = 0; v < vectors; ++v) vst1q_f64(c + i * stride + v * lanes, sums[i][v]);
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
  const float64x2_t factor = vdupq_n_f64(a);
  for (index_t j = 0; j < count; j += dense_axpy_step) {
    LOWBIT_UNROLL
    for (index_t v = 0; v < dense_axpy_step; v += 2) {
      vst1q_f64(y + j + v, vfmaq_f64(vld1q_f64(y + j + v), factor, vld1q_f64(x + j + v)));
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon

#endif  // LOWBIT_AARCH64
