// kernels/sparse/contract.hpp: what every variant of the sparse kernel computes. Layer L2.
//
// Rows with few values each go 16 side by side (a slice), a lane per row. Step t of a slice holds
// one value and its column for each lane, columns of a lane in increasing order. A variant is two
// functions:
//
//   vector  sum[lane] = fma(value[t][lane], x[column[t][lane]], sum[lane])  for t = 0, 1, ...
//   block   sum[lane][token] = fma(value[t][lane], x[column[t][lane]][token], sum[lane][token])
//           for 16 tokens side by side
//
// each starting from what `sums` holds. Values are fp16, whose conversion is exact.
//
// A row that is shorter than its slice is padded with steps of value -0 at a column where x is 1:
// fma(-0, 1, s) is s for every s, -0, NaN and Inf included. So padding changes no bit, whatever x
// holds elsewhere, and variants have no tails.
//
// Invariants:
//  * Same bits from every variant and from both functions (every operation is one fused
//    multiply-add, rounded once), under the default floating-point environment. Which NaN comes out
//    of several is not promised.
//  * Memory: steps and the x and sums of `block` are 64-byte aligned, the others aligned to their
//    type; no pointer is null, steps with depth 0 excepted. Of the x of `vector` up to three
//    floats behind the last column may be read, but not used; of that of `block` nothing is read
//    but what columns name. Nothing but sums is written. Prefetches may point past the steps.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include "lowbit/core/checked.hpp"
#include "lowbit/core/half.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr index_t sparse_lanes = 16;   ///< rows of a slice
inline constexpr index_t sparse_tokens = 16;  ///< tokens side by side
inline constexpr index_t sparse_slack = 3;    ///< floats behind x that may be read

/// One value of each lane: a line of the cache.
struct alignas(64) sparse_step {
  std::uint16_t columns[sparse_lanes];
  float16 values[sparse_lanes];
};
static_assert(sizeof(sparse_step) == 64);

struct sparse_vector_args {
  const sparse_step* steps;  ///< [depth]
  index_t depth;
  const float* x;              ///< indexed by columns, and sparse_slack floats
  float* sums;                 ///< [sparse_lanes]
  index_t prefetch_bytes = 0;  ///< how far ahead of a step memory is asked for: speed only
};

struct sparse_block_args {
  const sparse_step* steps;  ///< [depth]
  index_t depth;
  const float* x;  ///< [columns][sparse_tokens]
  float* sums;     ///< [sparse_lanes][sparse_tokens]
};

using sparse_vector_fn = void (*)(const sparse_vector_args&) noexcept;
using sparse_block_fn = void (*)(const sparse_block_args&) noexcept;

/// One way to run the family.
struct sparse_functions {
  sparse_vector_fn vector = nullptr;
  sparse_block_fn block = nullptr;

  friend constexpr bool operator==(const sparse_functions&,
                                   const sparse_functions&) noexcept = default;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
