// kernels/dense/contract.hpp: what every variant of the dense fp64 kernel computes. Layer L2.
//
// A variant is two functions:
//
//   tile   C[8, 16] += A[8, depth] * B[depth, 16] from packed panels. Each element on its own:
//            for k = 0 .. depth-1 in increasing order: c = fma(a[k][i], b[k][j], c)
//          starting from what C holds. To subtract, the panel of A is packed negated, which is
//          exact.
//   axpy   y[j] = fma(a, x[j], y[j]) for j < count
//
// Because an element starts from memory and takes its terms in increasing order, a product that is
// cut over k into any number of calls gives the same bits, and so does one cut over rows or
// columns: blocking is a matter of speed alone.
//
// Invariants:
//  * Same bits from every variant (every operation is one fused multiply-add, rounded once), under
//    the default floating-point environment. Which NaN comes out of several is not promised.
//  * Memory: panels are 64-byte aligned and never null; C, x and y are aligned to their type only;
//    count is a multiple of 8. There are no tails: the driver pads lanes (never k: one more term,
//    even of zeros, turns -0 into +0). Nothing is read or written outside the stated arrays.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Rows and columns of a tile, and what the count of an axpy is a multiple of. 16 accumulators of
/// 512 bits; narrower registers cut a tile into smaller ones.
inline constexpr index_t dense_tile_rows = 8;
inline constexpr index_t dense_tile_cols = 16;
inline constexpr index_t dense_axpy_step = 8;

struct dense_tile_args {
  const double* a;  ///< [depth][dense_tile_rows]
  const double* b;  ///< [depth][dense_tile_cols]
  double* c;        ///< [dense_tile_rows][dense_tile_cols], `c_stride` apart; does not overlap a, b
  index_t c_stride;  ///< elements from one row of C to the next, at least dense_tile_cols
  index_t depth;     ///< terms of each sum; 0 leaves C as it is
};

using dense_tile_fn = void (*)(const dense_tile_args&) noexcept;
/// x and y do not overlap, unless they are the same.
using dense_axpy_fn = void (*)(double a, const double* x, double* y, index_t count) noexcept;

/// One way to run the family.
struct dense_functions {
  dense_tile_fn tile = nullptr;
  dense_axpy_fn axpy = nullptr;

  friend constexpr bool operator==(const dense_functions&,
                                   const dense_functions&) noexcept = default;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
