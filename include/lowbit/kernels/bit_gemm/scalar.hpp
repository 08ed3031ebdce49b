// kernels/bit_gemm/scalar.hpp: the contract, word by word: the oracle of every other variant.
// Layer L2.
#pragma once

#include <bit>

#include "lowbit/kernels/bit_gemm/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {

constexpr void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  for (index_t t = 0; t < a.tokens; ++t) {
    std::int64_t* const sums = a.sums + t * bit_gemm_tile_rows;
    for (index_t r = 0; r < bit_gemm_tile_rows; ++r) sums[r] = 0;
    for (unsigned i = 0; i < a.weight_planes; ++i) {
      const std::uint64_t* const w = a.weight_plane(i);
      for (unsigned j = 0; j < a.activation_planes; ++j) {
        const std::uint64_t* const x = a.activation_plane(t, j);
        for (index_t k = 0; k < a.words; ++k) {
          for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
            const int ones = std::popcount(w[k * bit_gemm_tile_rows + r] & x[k]);
            sums[r] += static_cast<std::int64_t>(ones) << (i + j);
          }
        }
      }
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
