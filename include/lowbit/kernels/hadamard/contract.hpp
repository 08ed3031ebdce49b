// kernels/hadamard/contract.hpp: what every variant of the Hadamard kernels computes. Layer L2.
//
// y = H x for H = H_dense (x) H_power (linalg/hadamard.hpp), with random signs and a scale, is two
// functions:
//
//   blocks  the fast transform of each of `count` blocks of 2^log2_size floats: stages of a + b and
//           a - b, the distance of a and b being 1, 2, 4, ... Before the first stage x changes
//           signs, after the last one it is multiplied by the scale and changes signs.
//   mix     y[i] = the sum over j = 0, 1, ..., order-1 in this order of +-x[j], each of x[j] and
//           y[i] being `width` floats; then the scale and signs as above.
//
// How stages share a pass over memory does not show in the bits. a - b may be computed as
// fma(b, -1, a): the product is exact.
//
// Invariants:
//  * Same bits from every variant, under the default floating-point environment. Which NaN comes
//    out of one is not promised.
//  * Memory: pointers are aligned to their type only. Nothing is read or written outside the stated
//    arrays, but whole words of signs.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include <cstdint>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// The largest block, 2^31 floats.
inline constexpr unsigned hadamard_max_log2_size = 31;

struct hadamard_blocks_args {
  const float* x;  ///< [count][2^log2_size]
  float* y;  ///< as x, y_stride apart; the same as x with a stride of 2^log2_size, or no overlap
  /// Elements from one block of y to the next: at least 2^log2_size, and just that below 16.
  index_t y_stride;
  index_t count;  ///< of blocks
  unsigned log2_size;
  /// Null, or: bit i % 64 of word i / 64 is set where element i of all blocks changes its sign.
  const std::uint64_t* signs_before;
  const std::uint64_t* signs_after;  ///< as signs_before
  float scale;
};

struct hadamard_mix_args {
  const float* x;  ///< [order][width], x_stride apart
  float* y;        ///< [order][width], without gaps; does not overlap x
  index_t x_stride;
  index_t order;  ///< a multiple of 4
  index_t width;  ///< a power of two
  /// Bit i % 64 of word j * words + i / 64 is set where input j enters output i with a minus.
  const std::uint64_t* matrix;
  index_t words;                     ///< of an input: at least order / 64; further bits are 0
  const std::uint64_t* signs_after;  ///< null, or of all order * width outputs
  float scale;
};

using hadamard_blocks_fn = void (*)(const hadamard_blocks_args&) noexcept;
using hadamard_mix_fn = void (*)(const hadamard_mix_args&) noexcept;

/// One way to run the family.
struct hadamard_functions {
  hadamard_blocks_fn blocks = nullptr;
  hadamard_mix_fn mix = nullptr;

  friend constexpr bool operator==(const hadamard_functions&,
                                   const hadamard_functions&) noexcept = default;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
