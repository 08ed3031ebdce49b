// kernels/code_gemm/contract.hpp: what every variant of the codes x int8 kernel computes. Layer L2.
//
// One call multiplies one tile of 128 weight rows with some tokens. Columns come in runs
// (kernels/runs.hpp); for every token t, row r and run g, in integers,
//
//   V_p = code_step * sum over k of code_p(r, k) * x(t, k)  -  zero(r, g) * sum over k of x(t, k)
//
// for each plane p, and then in floats, for g = 0, 1, ... and p = 0, 1, ...,
//
//   y[t][r] = fma(scale_p(r, g) * step(t, g), float(V_p), y[t][r])
//   y[t][r] = fma(offset(r, g) * step(t, g), float(sum over k of x(t, k)), y[t][r])   after the
//             last plane of a run, where the format has offsets
//
// (without steps the product is the scale itself). Codes have 1, 2, 3, 4 or 8 bits; with a code
// book a 4-bit code stands for book[code]. One plane of codes is an integer format; several 1-bit
// planes with a scale each are a sum of scaled bit vectors: the product "planes x int8".
//
// scale_p(r, g) is stored or, where planes share a scale, scale(r, g) * ratios[p] rounded to float
// before it meets the step.
//
// Invariants:
//  * Same bits from every variant: V is exact, float() and fma round once, the order is fixed.
//  * |V| < 2^24: a run has at most 256 columns, zero is in 0..255, x is in -128..127.
//  * weights are 64-byte aligned; there are no tails (rows padded to 128, runs to a multiple of 4
//    columns, activations with zeros). Nothing is read or written outside the stated arrays;
//    prefetches may point past them.
//  * noexcept, no allocation, no state: thread-safe. Uses less than 40 KiB of stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Rows of a tile: 8 sets of 16 rows, a row of a set in each 32-bit lane of 64 bytes.
inline constexpr index_t code_tile_rows = 128;
/// Bytes that 4 columns of a tile take, per bit.
inline constexpr index_t code_quad_bytes = 64;
/// Quads of a run, at most.
inline constexpr index_t code_max_quads = 64;

/// What the codes of a tile mean and which parts the stream has.
struct code_format {
  unsigned bits = 4;             ///< 1, 2, 3, 4 or 8
  unsigned planes = 1;           ///< more than one: each with its own scales; 1 bit each
  std::int32_t code_step = 1;    ///< 1, or 2 for codes that stand for -1 and +1
  std::int32_t zero = 0;         ///< of every row, 0..255; unused with has_zeros
  bool has_zeros = false;        ///< a zero of 0..255 for every row and run; one plane only
  bool has_offsets = false;      ///< an offset for every row and run
  bool has_wide_scales = false;  ///< scales and offsets are fp32, else fp16
  bool has_book = false;         ///< 4-bit codes choose from `book`
  bool has_ratios = false;       ///< 1 bit: planes share a scale, times `ratios`
  std::uint8_t book[16] = {};
  float ratios[8] = {};

  [[nodiscard]] constexpr index_t scale_bytes() const noexcept {
    return code_tile_rows * (has_wide_scales ? 4U : 2U);
  }
  /// Bytes from a plane's codes to those of the next one.
  [[nodiscard]] constexpr index_t plane_bytes(index_t quads) const noexcept {
    return (has_ratios ? 0U : scale_bytes()) + quads * code_quad_bytes * bits;
  }
  /// Where in a run a plane's scales and codes are.
  [[nodiscard]] constexpr index_t scales_at(index_t plane, index_t quads) const noexcept {
    return has_ratios ? 0U : plane * plane_bytes(quads);
  }
  [[nodiscard]] constexpr index_t codes_at(index_t plane, index_t quads) const noexcept {
    return scale_bytes() + plane * plane_bytes(quads);
  }
  /// Where zeros and offsets are.
  [[nodiscard]] constexpr index_t zeros_at(index_t quads) const noexcept {
    return (has_ratios ? scale_bytes() : 0U) + planes * plane_bytes(quads);
  }
  [[nodiscard]] constexpr index_t offsets_at(index_t quads) const noexcept {
    return zeros_at(quads) + (has_zeros ? code_tile_rows : 0U);
  }
  /// Bytes of one run of a tile: [plane]{scales, codes}, zeros, offsets; with ratios
  /// scales, [plane]{codes}, zeros, offsets.
  [[nodiscard]] constexpr index_t run_bytes(index_t quads) const noexcept {
    return offsets_at(quads) + (has_offsets ? scale_bytes() : 0U);
  }
  /// What multiplies the scales of a plane; 1 changes none.
  [[nodiscard]] constexpr float ratio(index_t plane) const noexcept {
    return has_ratios ? ratios[plane] : 1.0F;
  }
};

/// Where row r's code of 1, 2, 4 or 8 bits lies in the 64 * bits bytes of a quad (4 columns):
/// byte 64 * line + 4 * (r % 16) + column, bits [shift, shift + bits). Sets that share a line lie
/// in the bits of one byte, so that one activation meets all of them.
struct code_place {
  index_t line;
  unsigned shift;

  [[nodiscard]] static constexpr code_place of(unsigned bits, index_t row) noexcept {
    const index_t set = row / 16;
    const index_t sets_per_line = 8 / bits;
    return {set / sets_per_line, static_cast<unsigned>(set % sets_per_line) * bits};
  }
};

/// 3-bit codes: three lines A, B, C. Bits 7..5 of them hold sets 0, 2, 4, bits 4..2 sets 1, 3, 5.
/// Set 6 has its low bits in A[1..0] and its high bit in C[0], set 7 in B[1..0] and C[1].
[[nodiscard]] constexpr unsigned code_of_3_bits(unsigned a, unsigned b, unsigned c,
                                                index_t set) noexcept {
  const unsigned lines[] = {a, b, c};
  if (set < 6) return (lines[set / 2] >> (set % 2 == 0 ? 5U : 2U)) & 7U;
  return set == 6 ? (a & 3U) | ((c & 1U) << 2U) : (b & 3U) | ((c & 2U) << 1U);
}

struct code_gemm_tile_args {
  const std::uint8_t* weights;     ///< [run]{run_bytes(quads)}
  const std::int8_t* activations;  ///< [run], `activation_stride` bytes apart: [token][4 * quads]
  const std::int32_t* sums;        ///< [run], `sum_stride` apart: [token] sums of activations
  const float* steps;              ///< like sums: a factor per run and token; or null
  float* y;                        ///< [token][code_tile_rows], read and written; 64-byte aligned
  index_t runs;
  index_t quads;
  index_t tokens;
  index_t activation_stride;
  index_t sum_stride;
  index_t prefetch;  ///< how many bytes of weights to prefetch ahead: speed only
  const code_format* format;
};

using code_gemm_tile_fn = void (*)(const code_gemm_tile_args&) noexcept;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
