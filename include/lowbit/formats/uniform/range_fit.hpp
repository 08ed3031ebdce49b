// formats/uniform/range_fit.hpp: how the scale (and zero point or offset) of a group is chosen.
// Layer L3.
//
//   min_max     the grid spans the least and the greatest value
//   percentile  the grid spans the central `percentile` % of the values, the rest is clipped
//   half_quadratic
//               HQQ (Badri and Shaji, 2023): the scale of min_max, and the zero point (or offset)
//               for which the errors, but for a few large ones, are least
//   least_mse   search for the least sum of h (x - x̂)²: shrink the range of the values with h > 0
//               step by step (towards zero; offset grids, which need not span zero, towards the
//               mean), then alternate {nearest codes, least-squares levels} from the best of them
//
// Sign grids have no range: their scale is always the least-squares one, mean |x|.
//
// Every candidate is judged with its scale and offset as they will be stored, and only an
// improvement replaces what is there, so least_mse is never worse than min_max.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/core/affine.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
enum class range_method : std::uint8_t { min_max, percentile, least_mse, half_quadratic };
}
template <>
inline constexpr std::string_view enum_names<formats::range_method>[] = {
    "min_max", "percentile", "least_mse", "half_quadratic"};
namespace formats {

struct range_fit {
  range_method method = range_method::min_max;
  double percentile = 99.9;  ///< read for method percentile only

  /// Levels for the values x (finite) with importance h (empty, or one weight >= 0 per value),
  /// their scale and offset rounded to `type`. The scale is infinite if it overflows the type.
  [[nodiscard]] affine_levels levels(const affine_grid& grid, scale_type type,
                                     std::span<const float> x, std::span<const float> h) const {
    const bool no_importance =
        std::all_of(h.begin(), h.end(), [](float weight) { return weight == 0.0F; });
    if (no_importance) h = {};
    if (grid.is_sign()) return {.scale = layout::round_to(type, mean_magnitude(x, h))};
    switch (method) {
      case range_method::min_max: break;
      case range_method::percentile: return span_range(grid, type, percentile_range(grid, x));
      case range_method::least_mse: return search(grid, type, x, h);
      case range_method::half_quadratic: return half_quadratic(grid, type, x);
    }
    return span_range(grid, type, find_range(x));
  }

 private:
  static constexpr int shrink_parts = 20;    ///< the search shrinks by a twentieth of the range
  static constexpr int smallest_shrink = 4;  ///< down to a fifth of it
  static constexpr int refine_rounds = 5;

  [[nodiscard]] static affine_levels span_range(const affine_grid& grid, scale_type type,
                                                value_range range) noexcept {
    affine_levels levels = levels_for_range(grid, range);
    levels.scale = layout::round_to(type, levels.scale);
    levels.offset = layout::round_to(type, levels.offset);
    if (grid.kind == symmetry::asymmetric) {
      levels.zero_point = zero_point_for(grid, range, levels.scale);
    }
    return levels;
  }

  /// The value below which a share p of the sorted values lies, interpolated between neighbours.
  [[nodiscard]] static float quantile(std::vector<float>& values, double p) {
    // An explicit fma, so that no compiler fuses the product with the difference below.
    const double position = std::fma(p, static_cast<double>(values.size() - 1), 0.0);
    const auto below = static_cast<std::ptrdiff_t>(position);
    const double share = position - static_cast<double>(below);
    const auto at = values.begin() + below;
    std::nth_element(values.begin(), at, values.end());
    const auto next = at + 1 == values.end() ? at : std::min_element(at + 1, values.end());
    return static_cast<float>(std::fma(share, static_cast<double>(*next) - static_cast<double>(*at),
                                       static_cast<double>(*at)));
  }

  [[nodiscard]] value_range percentile_range(const affine_grid& grid,
                                             std::span<const float> x) const {
    if (x.empty()) return {};
    std::vector<float> values(x.begin(), x.end());
    const double kept = percentile / 100.0;
    if (grid.kind == symmetry::symmetric) {
      for (float& v : values) v = std::fabs(v);
      return {0.0F, quantile(values, kept)};
    }
    const float low = quantile(values, (1.0 - kept) / 2.0);
    return {low, quantile(values, (1.0 + kept) / 2.0)};
  }

  /// The range with part / shrink_parts of its distance from `pivot`. Explicitly fused, also with a
  /// pivot of 0: the compiler could fuse a product with the difference that its user takes, even
  /// one that is rounded from double, because it may narrow that to a product of floats.
  [[nodiscard]] static value_range shrink(value_range range, float pivot, int part) noexcept {
    const float share = static_cast<float>(part) / float{shrink_parts};
    return {std::fma(range.low - pivot, share, pivot), std::fma(range.high - pivot, share, pivot)};
  }

  /// The range of the values that have an importance; some h is above 0.
  [[nodiscard]] static value_range important_range(std::span<const float> x,
                                                   std::span<const float> h) {
    if (h.empty()) return find_range(x);
    std::vector<float> values;
    for (index_t i = 0; i < x.size(); ++i) {
      if (h[i] > 0.0F) values.push_back(x[i]);
    }
    return find_range(values);
  }

  /// sum(h x) / sum(h) of x, which is not empty; some h is above 0.
  [[nodiscard]] static float mean(std::span<const float> x, std::span<const float> h) noexcept {
    double sum = 0.0;
    double weight = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      const double w = h.empty() ? 1.0 : static_cast<double>(h[i]);
      sum += w * static_cast<double>(x[i]);  // exact: a product of two floats
      weight += w;
    }
    return static_cast<float>(sum / weight);
  }

  /// Scratch of one search: the codes under trial.
  using code_buffer = std::vector<std::uint8_t>;

  /// e², cut to its upper 29 bits, so that its product with a float is exact in double.
  [[nodiscard]] static double short_square(float e) noexcept {
    const double square = static_cast<double>(e) * static_cast<double>(e);
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(square) & ~std::uint64_t{0xffffff});
  }

  /// sum of h (x - x̂)² with the nearest codes, which it leaves in `codes`. Every product below is
  /// exact in double, so that no compiler can change the sum by fusing it, and in range for any
  /// float, denormals included.
  [[nodiscard]] static double nearest_error(const affine_grid& grid, const affine_levels& levels,
                                            std::span<const float> x, std::span<const float> h,
                                            code_buffer& codes) {
    encode(grid, levels, x, codes.data());
    std::array<float, 256> values;
    const unsigned count = 1U << grid.bits;
    for (unsigned u = 0; u < count; ++u) values[u] = decode(grid, levels, u);
    double sum = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      const float e = x[i] - values[codes[i]];
      if (h.empty()) {
        sum += static_cast<double>(e) * static_cast<double>(e);
      } else {
        sum += static_cast<double>(h[i]) * short_square(e);
      }
    }
    return sum;
  }

  /// Least-squares scale (and offset) for the codes in `codes`, unrounded. Sums over u and u² are
  /// weighted by h; a degenerate system keeps the old levels.
  [[nodiscard]] static affine_levels least_squares(const affine_grid& grid,
                                                   const affine_levels& old,
                                                   std::span<const float> x,
                                                   std::span<const float> h,
                                                   const code_buffer& codes) {
    const bool has_offset = grid.kind == symmetry::offset;
    const int zero = has_offset                         ? 0
                     : grid.kind == symmetry::symmetric ? grid.symmetric_zero()
                                                        : old.zero_point;
    double s1 = 0.0;
    double su = 0.0;
    double suu = 0.0;
    double sx = 0.0;
    double sxu = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      // Weights and values are floats, u fits 9 bits, so h*u and h*u*u are exact in double; x*h is
      // too, and its product with u is fused on purpose.
      const double weight = h.empty() ? 1.0 : static_cast<double>(h[i]);
      const double u = static_cast<double>(static_cast<int>(codes[i]) - zero);
      const double hx = weight * static_cast<double>(x[i]);
      s1 += weight;
      su += weight * u;
      suu += weight * (u * u);
      sx += hx;
      sxu = std::fma(hx, u, sxu);
    }
    affine_levels levels = old;
    if (has_offset) {
      const double det = std::fma(s1, suu, -(su * su));
      if (!(det > 0.0)) return old;
      const double scale = std::fma(s1, sxu, -(su * sx)) / det;
      levels.scale = static_cast<float>(scale);
      levels.offset = static_cast<float>(std::fma(-scale, su, sx) / s1);
    } else {
      if (!(suu > 0.0)) return old;
      levels.scale = static_cast<float>(sxu / suu);
    }
    return levels.scale > 0.0F ? levels : old;
  }

  /// Mean |x - x̂| with the nearest codes, which it leaves in `codes`.
  [[nodiscard]] static double mean_deviation(const affine_grid& grid, const affine_levels& levels,
                                             std::span<const float> x, code_buffer& codes) {
    encode(grid, levels, x, codes.data());
    std::array<float, 256> values;
    for (unsigned u = 0; u < 1U << grid.bits; ++u) values[u] = decode(grid, levels, u);
    double sum = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      sum += std::fabs(static_cast<double>(x[i]) - static_cast<double>(values[codes[i]]));
    }
    return sum / static_cast<double>(x.size());
  }

  /// Half-quadratic splitting: errors e are split in a sparse part e' = shrink(e) and the rest, and
  /// the offset is the mean of what is left, o = mean(x - e' - scale u), in turn:
  ///   shrink(e) = sign(e) max(|e| - |e|^(p-1) / beta, 0),  beta = 10, growing by a hundredth a
  /// round, for at most 20 rounds or until the mean |x - x̂| stops falling. Errors are measured in
  /// steps, so that the result does not depend on the unit of the weights (the authors' does), and
  /// p = 3/4 (theirs: 0.7), a root that every machine rounds alike. Symmetric grids have nothing to
  /// choose. Importance is ignored.
  [[nodiscard]] static affine_levels half_quadratic(const affine_grid& grid, scale_type type,
                                                    std::span<const float> x) {
    affine_levels best = span_range(grid, type, find_range(x));
    const float scale = best.scale;
    if (grid.kind == symmetry::symmetric || scale == 0.0F || !std::isfinite(scale) ||
        !std::isfinite(best.offset)) {
      return best;
    }
    code_buffer codes(x.size());
    double least = mean_deviation(grid, best, x, codes);
    const auto step = static_cast<double>(scale);
    double beta = 10.0;
    for (int round = 0; round < 20; ++round, beta *= 1.01) {
      // mean_deviation left the codes of `best`.
      const double offset = static_cast<double>(decode(grid, best, 0));
      double sum = 0.0;
      for (index_t i = 0; i < x.size(); ++i) {
        const double level = step * static_cast<double>(codes[i]);  // exact
        const double rest = static_cast<double>(x[i]) - level;
        const double e = (rest - offset) / step;
        const double magnitude = std::fabs(e);
        const double sparse =
            magnitude > 0.0 ? magnitude - 1.0 / (beta * std::sqrt(std::sqrt(magnitude))) : 0.0;
        const double kept = std::fma(-step, std::copysign(std::max(sparse, 0.0), e), rest);
        sum += kept;
      }
      const double mean = sum / static_cast<double>(x.size());
      affine_levels next = best;
      if (grid.kind == symmetry::offset) {
        next.offset = layout::round_to(type, static_cast<float>(mean));
      } else {
        const auto position = static_cast<float>(-mean / step);
        const auto top = static_cast<float>(grid.steps());
        next.zero_point = static_cast<int>(round_even(std::clamp(position, 0.0F, top)));
      }
      if (!std::isfinite(next.offset)) break;
      const double deviation = mean_deviation(grid, next, x, codes);
      if (!(deviation < least)) break;
      best = next;
      least = deviation;
    }
    return best;
  }

  [[nodiscard]] static affine_levels search(const affine_grid& grid, scale_type type,
                                            std::span<const float> x, std::span<const float> h) {
    code_buffer codes(x.size());
    affine_levels best = span_range(grid, type, find_range(x));
    if (best.scale == 0.0F || !std::isfinite(best.scale) || !std::isfinite(best.offset))
      return best;
    const value_range full = important_range(x, h);
    const float pivot = grid.kind == symmetry::offset ? mean(x, h) : 0.0F;
    double best_error = nearest_error(grid, best, x, h, codes);
    const auto keep_if_better = [&](const affine_levels& levels) {
      if (!(levels.scale > 0.0F) || !std::isfinite(levels.scale)) return false;
      const double error = nearest_error(grid, levels, x, h, codes);
      if (!(error < best_error)) return false;
      best = levels;
      best_error = error;
      return true;
    };
    for (int part = h.empty() ? shrink_parts - 1 : shrink_parts; part >= smallest_shrink; --part) {
      keep_if_better(span_range(grid, type, shrink(full, pivot, part)));
    }
    for (int round = 0; round < refine_rounds; ++round) {
      encode(grid, best, x, codes.data());
      affine_levels refined = least_squares(grid, best, x, h, codes);
      refined.scale = layout::round_to(type, refined.scale);
      refined.offset = layout::round_to(type, refined.offset);
      if (!keep_if_better(refined)) break;
    }
    return best;
  }
};

}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
