// kernels/activations/contract.hpp: what every variant of the activation kernels computes.
// Layer L2.
//
// A variant is four functions on one row, or a part of one:
//
//   max_magnitude   max over i of (bits(x[i]) & 0x7fffffff), as unsigned integers. That is the bit
//                   pattern of max |x[i]|; NaN and Inf show as 0x7f800000 or more.
//   quantize        codes[i] = the integer nearest to the *exact* product x[i] * inverse_step, ties
//                   to even; returns the sum of the codes.
//   quantize_signs  codes[i] = -1 where x[i] < 0, else 0 (-0 included): one bit in offset binary.
//                   Returns the sum of the codes, and that of |x[i]| in double: lane j of 16 sums
//                   the elements with i % 16 == j in increasing order, and then lane j adds lane j
//                   + 8, j + 4, j + 2, j + 1 in turn.
//   planes          bit p of u[k] = codes[k] + 2^(bits-1) becomes bit k % 64 of word
//                   planes[p * plane_stride + k / 64], for p < bits. Bits past the last column are
//                   0 in every plane.
//
// The product is exact: it must never be rounded to float before it is rounded to an integer, for
// then a value just beside a tie could round the wrong way, and a compiler that fuses would differ
// from one that does not. Either of these is right, and no other way is needed:
//   * fma(x, inverse_step, 0x1.8p23f): the sum lies where floats are the integers, so its one
//     rounding is the one wanted, and its low bits are the code;
//   * double(x) * double(inverse_step) + 0x1.8p52: the product of two floats is exact in double,
//     so fusing it with the sum changes nothing.
//
// Invariants:
//  * Same bits from every variant, under the default floating-point environment (round to nearest,
//    denormals honoured).
//  * The caller guarantees count >= 1 and finite x (but for max_magnitude); for quantize also
//    |x[i] * inverse_step| < 127.5 (so that codes are in -127..127) and count < 2^24 (so that
//    the sum fits); for planes codes in -2^(bits-1) .. 2^(bits-1) - 1 with bits in 1..8.
//  * Nothing is aligned to more than its type. Nothing is read or written outside the stated
//    arrays: tails are masked, or taken one by one.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include <cstdint>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

struct activation_planes_args {
  const std::int8_t* codes;  ///< [count]
  std::uint64_t* planes;     ///< [bits] planes of ceil(count / 64) words, overwritten
  index_t count;             ///< columns, at least 1
  index_t plane_stride;      ///< words from one plane to the next
  unsigned bits;             ///< 1..8
};

using max_magnitude_fn = std::uint32_t (*)(const float* x, index_t count) noexcept;
using quantize_activations_fn = std::int32_t (*)(const float* x, index_t count, float inverse_step,
                                                 std::int8_t* codes) noexcept;
/// What quantize_signs returns.
struct sign_sums {
  double magnitudes;
  std::int64_t codes;

  friend constexpr bool operator==(const sign_sums&, const sign_sums&) noexcept = default;
};

using quantize_signs_fn = sign_sums (*)(const float* x, index_t count, std::int8_t* codes) noexcept;
using activation_planes_fn = void (*)(const activation_planes_args&) noexcept;

/// One way to run the family.
struct activation_functions {
  max_magnitude_fn max_magnitude = nullptr;
  quantize_activations_fn quantize = nullptr;
  quantize_signs_fn quantize_signs = nullptr;
  activation_planes_fn planes = nullptr;

  friend constexpr bool operator==(const activation_functions&,
                                   const activation_functions&) noexcept = default;
};

/// Lanes of the sum that quantize_signs returns.
inline constexpr index_t sign_sum_lanes = 16;

/// What max_magnitude is at least if there is a NaN or an Inf.
inline constexpr std::uint32_t magnitude_of_infinity = 0x7f800000U;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
