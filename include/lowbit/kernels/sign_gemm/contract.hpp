// kernels/sign_gemm/contract.hpp: what every variant of the signs x activations kernel computes.
// Layer L2.
//
// Columns come in groups of 4, padded with zeros to a multiple of 8 groups. A group of one token
// becomes a table of what its 16 patterns of signs can sum to, quantized, and a weight is a look-up
// in it by the 4 bits of its row: no product is left. For z_j = x[4 g + j], in floats, each
// operation rounded:
//
//   limit   max over g of ((|z0| + |z1|) + |z2|) + |z3|, as a bit pattern; NaN and Inf, and sums
//           that overflow, show as 0x7f800000 or more
//   build   table[g][e] = 128 + q, q = the integer nearest to the *exact* product v * inverse_step,
//           ties to even (kernels/activations/contract.hpp says how), of
//           v = ((+-z0 +- z1) +- z2) +- z3, where bit j of e says that z_j is added. -q is
//           what the complement of e has.
//   block   sums[t][r] = sum over g of (table[t][g][signs(r, g)] - 128), in integers, for the rows
//           of a block (1 to 4 tiles of 64 rows) and some tokens
//
// The packed stream of a block is [chunk][tile][step]: 256 groups (the last chunk may have fewer)
// of one tile after the other, so that the tables of a chunk stay in the L1 cache while the tiles
// pass. A step has 64 * interleave bytes and covers 2 * interleave groups; byte r * interleave + j
// of step i of a chunk holds the signs of row r for its groups 2 * interleave * i + j (low 4 bits)
// and 2 * interleave * i + interleave + j (high 4 bits). Variants differ in the interleave that
// they read, and in nothing else.
//
// Invariants:
//  * Same bits from every variant, under the default floating-point environment.
//  * The caller guarantees: x finite for build, limit * inverse_step < 127.5 (so that table
//    entries are 1..255: |v| is at most the limit of its group, because rounding is monotonic),
//    groups a multiple of 8, at least 8, with 4 * groups >= count, and groups <= 2^23 (so that sums
//    of bytes fit).
//  * Memory: weights, tables and sums are 64-byte aligned, x to its type only. Nothing is read or
//    written outside the stated arrays; prefetches may point past the weights.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr index_t sign_tile_rows = 64;
inline constexpr index_t sign_block_tiles = 4;
inline constexpr index_t sign_chunk_groups = 128;
inline constexpr index_t sign_group_columns = 4;
inline constexpr index_t sign_table_bytes = 16;    ///< of a group
inline constexpr index_t sign_group_multiple = 8;  ///< groups are padded to
inline constexpr index_t sign_max_groups = index_t{1} << 23U;

struct sign_table_args {
  const float* x;        ///< [count]; columns from there on are 0
  index_t count;         ///< at least 1
  float inverse_step;    ///< finite
  std::uint8_t* tables;  ///< [groups][sign_table_bytes], overwritten
  index_t groups;
};

struct sign_gemm_block_args {
  const std::uint8_t* weights;  ///< the stream of a block: tiles * groups * 32 bytes
  const std::uint8_t* tables;   ///< [token], `table_stride` bytes apart: [groups][sign_table_bytes]
  std::int32_t* sums;           ///< [tile][token][sign_tile_rows], overwritten
  index_t groups;
  index_t tiles;  ///< 1 to sign_block_tiles
  index_t tokens;
  index_t table_stride;  ///< a multiple of 64
  index_t interleave;    ///< 1 or 4, what the variant reads
  index_t prefetch;      ///< how many bytes of weights to prefetch ahead: speed only
};

using sign_limit_fn = std::uint32_t (*)(const float* x, index_t count) noexcept;
using sign_table_fn = void (*)(const sign_table_args&) noexcept;
using sign_gemm_block_fn = void (*)(const sign_gemm_block_args&) noexcept;

/// One way to run the family.
struct sign_gemm_functions {
  sign_limit_fn limit = nullptr;
  sign_table_fn build = nullptr;
  sign_gemm_block_fn block = nullptr;
  index_t interleave = 0;  ///< of the weights that `block` reads; 0: any

  [[nodiscard]] constexpr bool reads(index_t packed) const noexcept {
    return interleave == 0 || interleave == packed;
  }
  friend constexpr bool operator==(const sign_gemm_functions&,
                                   const sign_gemm_functions&) noexcept = default;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
