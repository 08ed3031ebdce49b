// kernels/bit_gemm/contract.hpp: what every variant of the planes x planes kernel computes. Layer
// L2.
//
// One call multiplies one tile of 8 weight rows with some tokens over one run of columns:
//
//   sums[t][r] = sum over i < weight_planes, j < activation_planes of
//                2^(i+j) * sum over w < words of popcount(weights[i][w][r] & activations[t][j][w])
//
// that is, the dot product of unsigned integers whose bits are the planes. Signed and +-1 codes are
// algebra on this sum (driver.hpp), so a variant knows one operation only.
//
// Invariants:
//  * Exact: every variant returns the same integers. sums fit: a run has fewer than 2^31 columns
//  and
//    weight_planes + activation_planes <= 16, hence every sum is below 2^47.
//  * Memory: weights are 64-byte aligned; words >= 1; there are no tails (the driver pads rows to a
//    tile and columns to a word with zeros). Nothing is read or written outside the stated arrays.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include <cstdint>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Rows of a tile. The rows of a tile lie side by side, so that a vector lane is a row, a count
/// never crosses lanes, and a run of columns needs padding to one word only.
inline constexpr index_t bit_gemm_tile_rows = 8;

struct bit_gemm_tile_args {
  const std::uint64_t* weights;      ///< [weight_planes][plane_words][bit_gemm_tile_rows]
  const std::uint64_t* activations;  ///< [tokens], `activation_stride` words apart:
                                     ///< [activation_planes][plane_words]
  std::int64_t* sums;                ///< [tokens][bit_gemm_tile_rows], overwritten
  index_t words;                     ///< words of each plane that count, from its first on
  index_t tokens;
  index_t activation_stride;
  unsigned weight_planes;      ///< 1..8
  unsigned activation_planes;  ///< 1..8
  index_t plane_words = 0;     ///< words from one plane to the next, of both operands; 0: `words`

  [[nodiscard]] constexpr index_t plane_stride() const noexcept {
    return plane_words != 0 ? plane_words : words;
  }
  /// Word 0 of plane i, row 0.
  [[nodiscard]] constexpr const std::uint64_t* weight_plane(unsigned i) const noexcept {
    return weights + i * plane_stride() * bit_gemm_tile_rows;
  }
  /// Word 0 of plane j of a token.
  [[nodiscard]] constexpr const std::uint64_t* activation_plane(index_t token,
                                                                unsigned j) const noexcept {
    return activations + token * activation_stride + j * plane_stride();
  }
};

using bit_gemm_tile_fn = void (*)(const bit_gemm_tile_args&) noexcept;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
