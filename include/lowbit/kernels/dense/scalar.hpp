// kernels/dense/scalar.hpp: the contract, element by element: the oracle of every other variant.
// Layer L2.
//
// Not constexpr, unlike the integer oracles: std::fma is not before C++23.
#pragma once

#include <cmath>

#include "lowbit/kernels/dense/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {

inline void dense_tile(const dense_tile_args& args) noexcept {
  for (index_t i = 0; i < dense_tile_rows; ++i) {
    for (index_t j = 0; j < dense_tile_cols; ++j) {
      double c = args.c[i * args.c_stride + j];
      for (index_t k = 0; k < args.depth; ++k) {
        c = std::fma(args.a[k * dense_tile_rows + i], args.b[k * dense_tile_cols + j], c);
      }
      args.c[i * args.c_stride + j] = c;
    }
  }
}

inline void dense_axpy(double a, const double* x, double* y, index_t count) noexcept {
  for (index_t j = 0; j < count; ++j) y[j] = std::fma(a, x[j], y[j]);
}

inline constexpr dense_functions dense = {&dense_tile, &dense_axpy};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
