// kernels/sign_gemm/contract.hpp: what every variant of the signs x activations kernel computes.
// Layer L2.
//
// Columns come in groups of 5, padded with zeros to a multiple of 8 groups. A group of one token
// becomes a table of what the 16 patterns of its first four signs can sum to *if the fifth is
// plus*, quantized. A weight is the sign of its fifth column, and a look-up by whether each of the
// other four signs equals it: no product is left but that by the sign. For z_j = x[5 g + j], in
// floats, each operation rounded:
//
//   limit   max over g of (((|z0| + |z1|) + |z2|) + |z3|) + |z4|, as a bit pattern; NaN and Inf,
//           and sums that overflow, show as 0x7f800000 or more
//   build   table[g][e] = 128 + q, q = the integer nearest to the *exact* product v * inverse_step,
//           ties to even (kernels/activations/contract.hpp says how), of
//           v = (((+-z0 +- z1) +- z2) +- z3) + z4, where bit j of e says that z_j is added
//   block   sums[t][r] = sum over g of sign(r, g) * (table[t][g][pattern(r, g)] - 128), in
//   integers,
//           for the rows of a block (1 to 4 tiles of 64 rows) and some tokens
//
// The packed stream of a block is a head and [chunk][tile][step]: 1024 groups (the last chunk may
// have fewer) of one tile after the other, so that the tables of a chunk stay in a cache while
// the tiles pass. The head has the number of negative signs of each row, as 32 bits (padding
// included): what 128 sums up to. A step is 64 rows x 8 groups, 320 bytes. With an interleave of w,
//   byte (s * 64 + r) * w + j of the first 256 has the patterns of row r for the groups
//        2 * w * s + j (low 4 bits) and 2 * w * s + w + j (high 4 bits),
//   byte (r % R) * w + j of the last 64, R = 64 / w, has for the group w * i + j of row r the bit
//        7 - ((r / R) * 8 / w + i), set where the sign is minus.
// Variants differ in the interleave that they read, and in nothing else.
//
// Invariants:
//  * Same bits from every variant, under the default floating-point environment.
//  * The caller guarantees: x finite for build, limit * inverse_step < 127.5 (so that table
//    entries are 1..255: |v| is at most the limit of its group, because rounding is monotonic),
//    groups a multiple of 8, at least 8, with 5 * groups >= count, and groups <= 2^18 (so that
//    64 times a sum fits in 32 bits, which a variant may need).
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
inline constexpr index_t sign_chunk_groups = 1024;
inline constexpr index_t sign_group_columns = 5;
inline constexpr index_t sign_table_bytes = 16;  ///< of a group
inline constexpr index_t sign_step_groups = 8;   ///< groups are padded to a multiple
inline constexpr index_t sign_step_bytes = sign_tile_rows * sign_group_columns;  ///< a bit each
inline constexpr index_t sign_pattern_bytes = sign_tile_rows * 4;  ///< of a step; signs follow
inline constexpr index_t sign_head_bytes = sign_tile_rows * 4;     ///< of a tile
inline constexpr index_t sign_max_groups = index_t{1} << 18U;

struct sign_table_args {
  const float* x;        ///< [count]; columns from there on are 0
  index_t count;         ///< at least 1
  float inverse_step;    ///< finite
  std::uint8_t* tables;  ///< [groups][sign_table_bytes], overwritten
  index_t groups;
};

struct sign_gemm_block_args {
  const std::uint8_t* weights;  ///< the stream of a block: tiles * (256 + groups * 40) bytes
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
