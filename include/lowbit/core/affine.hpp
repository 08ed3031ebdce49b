// core/affine.hpp: the uniform affine quantizer, one group at a time. Layer L1.
//
// Weights (formats/uniform) and activations (kernels/activations) share this arithmetic.
//
// A group has a grid of levels indexed by unsigned codes u = 0 .. 2^bits - 1:
//   symmetric   x = scale * (u - 2^(bits-1)),  u >= 1     (bits >= 2: 2^bits - 1 levels around 0)
//   symmetric   x = scale * (2u - 1)                      (bits = 1: sign times scale)
//   asymmetric  x = scale * (u - zero_point)              (integer zero point: 0 is a level)
//   offset      x = scale * u + offset, rounded once      (any range)
//
// Invariants: every operation is a correctly rounded float operation that no compiler may fuse
// (divisions, sums and products never meet in one expression, products are exact in double, or the
// fusion is explicit): the same codes with every compiler, flag and instruction set. Rounding is to
// nearest even.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

#include "lowbit/core/checked.hpp"
#include "lowbit/core/params.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// Where the levels of a group lie.
enum class symmetry : std::uint8_t {
  symmetric,   ///< around zero
  asymmetric,  ///< from below zero to above it, with an integer zero point
  offset,      ///< from a stored real number on
};
template <>
inline constexpr std::string_view enum_names<symmetry>[] = {"symmetric", "asymmetric", "offset"};

/// The shape of a grid: what all groups of a tensor share.
struct affine_grid {
  unsigned bits = 8;
  symmetry kind = symmetry::symmetric;

  [[nodiscard]] constexpr bool is_sign() const noexcept {
    return bits == 1 && kind == symmetry::symmetric;
  }
  /// Steps between the lowest and the highest level.
  [[nodiscard]] constexpr int steps() const noexcept {
    return kind == symmetry::symmetric && bits > 1 ? (1 << bits) - 2 : (1 << bits) - 1;
  }
  /// The code of zero where it does not depend on the group.
  [[nodiscard]] constexpr int symmetric_zero() const noexcept { return 1 << (bits - 1); }
};

/// The levels of one group. `zero_point` belongs to asymmetric grids, `offset` to offset grids.
struct affine_levels {
  float scale = 0.0F;
  int zero_point = 0;
  float offset = 0.0F;
};

/// Rounds to nearest even. |x| must be at most 2^22.
[[nodiscard]] constexpr float round_even(float x) noexcept {
  constexpr float shift = 0x1.8p23F;  // from here on floats are integers
  return (x + shift) - shift;
}

/// The value of one code. This defines dequantization.
[[nodiscard]] inline float decode(const affine_grid& grid, const affine_levels& levels,
                                  unsigned code) noexcept {
  const int u = static_cast<int>(code);
  switch (grid.kind) {
    case symmetry::symmetric:
      return levels.scale *
             static_cast<float>(grid.is_sign() ? 2 * u - 1 : u - grid.symmetric_zero());
    case symmetry::asymmetric: return levels.scale * static_cast<float>(u - levels.zero_point);
    case symmetry::offset: break;
  }
  return std::fma(levels.scale, static_cast<float>(u), levels.offset);
}

/// The values of many codes, into out[0 .. codes.size()): a table of the levels where that is less
/// work than decoding each.
inline void decode(const affine_grid& grid, const affine_levels& levels,
                   std::span<const std::uint8_t> codes, float* out) noexcept {
  const unsigned level_count = 1U << grid.bits;
  if (level_count > codes.size()) {
    for (index_t i = 0; i < codes.size(); ++i) out[i] = decode(grid, levels, codes[i]);
    return;
  }
  float table[256];
  for (unsigned u = 0; u < level_count; ++u) table[u] = decode(grid, levels, u);
  for (index_t i = 0; i < codes.size(); ++i) out[i] = table[codes[i]];
}

/// Whether every level is a finite float. Levels grow with their code, so the ends tell.
[[nodiscard]] inline bool has_finite_levels(const affine_grid& grid,
                                            const affine_levels& levels) noexcept {
  return std::isfinite(decode(grid, levels, 0)) &&
         std::isfinite(decode(grid, levels, (1U << grid.bits) - 1U));
}

namespace detail {

/// codes[i] = clamp(round_even((x[i] - offset) / scale), lowest, highest) + zero, for scale > 0.
inline void encode_affine(std::span<const float> x, const affine_levels& levels, int lowest,
                          int highest, int zero, std::uint8_t* codes) noexcept {
  constexpr float shift = 0x1.8p23F;
  const float scale = levels.scale;
  const float offset = levels.offset;
  const auto low = static_cast<float>(lowest);
  const auto high = static_cast<float>(highest);
  const std::int32_t bias = std::bit_cast<std::int32_t>(shift) - zero;
  for (index_t i = 0; i < x.size(); ++i) {
    float t = (x[i] - offset) / scale;
    t = t < low ? low : t;
    t = t > high ? high : t;
    // After the sum the low bits of the float are the rounded integer.
    codes[i] = static_cast<std::uint8_t>(std::bit_cast<std::int32_t>(t + shift) - bias);
  }
}

}  // namespace detail

/// The code of the nearest level for each x (ties to even; sign grids: +1 for x >= 0, -0 included).
/// A group whose scale is 0 gets the codes of level 0 (symmetric, asymmetric) or of its offset.
/// `codes` has x.size() elements. x must be finite.
inline void encode(const affine_grid& grid, const affine_levels& levels, std::span<const float> x,
                   std::uint8_t* codes) noexcept {
  const int top = (1 << grid.bits) - 1;
  if (grid.is_sign()) {
    for (index_t i = 0; i < x.size(); ++i) codes[i] = x[i] >= 0.0F ? 1 : 0;
    return;
  }
  switch (grid.kind) {
    case symmetry::symmetric: {
      const int zero = grid.symmetric_zero();
      if (levels.scale == 0.0F) break;
      return detail::encode_affine(x, {.scale = levels.scale}, 1 - zero, top - zero, zero, codes);
    }
    case symmetry::asymmetric:
      if (levels.scale == 0.0F) break;
      return detail::encode_affine(x, {.scale = levels.scale}, -levels.zero_point,
                                   top - levels.zero_point, levels.zero_point, codes);
    case symmetry::offset:
      if (levels.scale == 0.0F) break;
      return detail::encode_affine(x, levels, 0, top, 0, codes);
  }
  const int zero = grid.kind == symmetry::symmetric    ? grid.symmetric_zero()
                   : grid.kind == symmetry::asymmetric ? levels.zero_point
                                                       : 0;
  std::fill_n(codes, x.size(), static_cast<std::uint8_t>(zero));
}

/// The least and the greatest of some floats.
struct value_range {
  float low = 0.0F;
  float high = 0.0F;
};

/// Least and greatest of x; {0, 0} for none. x must be finite. -0 and +0 count as equal.
[[nodiscard]] inline value_range find_range(std::span<const float> x) noexcept {
  if (x.empty()) return {};
  constexpr index_t lanes = 8;  // independent chains, which compilers turn into vectors
  float low[lanes];
  float high[lanes];
  std::fill_n(low, lanes, x[0]);
  std::fill_n(high, lanes, x[0]);
  const index_t whole = x.size() - x.size() % lanes;
  for (index_t i = 0; i < whole; i += lanes) {
    for (index_t j = 0; j < lanes; ++j) {
      low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
      high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
    }
  }
  for (index_t i = whole; i < x.size(); ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
  }
  return {*std::min_element(low, low + lanes), *std::max_element(high, high + lanes)};
}

/// The scale (and offset) whose grid spans a range, before they are rounded for storage. The zero
/// point follows from the *stored* scale: zero_point_for. Sign grids: see mean_magnitude.
[[nodiscard]] inline affine_levels levels_for_range(const affine_grid& grid,
                                                    value_range range) noexcept {
  const auto steps = static_cast<float>(grid.steps());
  switch (grid.kind) {
    case symmetry::symmetric: {
      const float largest = std::max(std::fabs(range.low), std::fabs(range.high));
      return {.scale = grid.is_sign() ? largest : largest / (0.5F * steps)};
    }
    case symmetry::asymmetric: {
      const float low = std::min(range.low, 0.0F);  // zero must be a level
      const float high = std::max(range.high, 0.0F);
      return {.scale = (high - low) / steps};
    }
    case symmetry::offset: break;
  }
  return {.scale = (range.high - range.low) / steps, .offset = range.low};
}

/// The integer zero point of an asymmetric grid for a range and a stored scale.
[[nodiscard]] inline int zero_point_for(const affine_grid& grid, value_range range,
                                        float scale) noexcept {
  if (scale == 0.0F) return 0;
  const auto top = static_cast<float>(grid.steps());
  const float position = -std::min(range.low, 0.0F) / scale;
  return static_cast<int>(round_even(std::clamp(position, 0.0F, top)));
}

/// The least-squares scale of a sign grid: sum(h |x|) / sum(h), where h is the importance of each x
/// (empty: all alike). 0 for no values or no importance.
[[nodiscard]] inline float mean_magnitude(std::span<const float> x,
                                          std::span<const float> importance) noexcept {
  double sum = 0.0;
  double weight = 0.0;
  for (index_t i = 0; i < x.size(); ++i) {
    const double h = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
    sum += h * static_cast<double>(std::fabs(x[i]));  // exact: a product of two floats
    weight += h;
  }
  return weight > 0.0 ? static_cast<float>(sum / weight) : 0.0F;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
