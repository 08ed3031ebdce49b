// kernels/sparse/scalar.hpp: the contract, element by element: the oracle of every other variant.
// Layer L2.
//
// Not constexpr, unlike the integer oracles: std::fma is not before C++23.
#pragma once

#include <cmath>

#include "lowbit/kernels/sparse/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {

inline void sparse_vector(const sparse_vector_args& args) noexcept {
  for (index_t t = 0; t < args.depth; ++t) {
    const sparse_step& step = args.steps[t];
    for (index_t lane = 0; lane < sparse_lanes; ++lane) {
      args.sums[lane] =
          std::fma(to_float(step.values[lane]), args.x[step.columns[lane]], args.sums[lane]);
    }
  }
}

inline void sparse_block(const sparse_block_args& args) noexcept {
  for (index_t t = 0; t < args.depth; ++t) {
    const sparse_step& step = args.steps[t];
    for (index_t lane = 0; lane < sparse_lanes; ++lane) {
      const float value = to_float(step.values[lane]);
      const float* const x = args.x + step.columns[lane] * sparse_tokens;
      float* const sums = args.sums + lane * sparse_tokens;
      for (index_t i = 0; i < sparse_tokens; ++i) sums[i] = std::fma(value, x[i], sums[i]);
    }
  }
}

inline constexpr sparse_functions sparse = {&sparse_vector, &sparse_block};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
