// formats/sbvr/grid_search.hpp: the search of the SBVR authors (arXiv 2509.18172) for the lines of
// a table. Layer L3.
//
// A candidate is a shifted and scaled geometric series, c_i = b + s r^i / D, where D is the
// distance of the least and the greatest of its sums of powers; and, up to 6 planes, a point of a
// Cartesian grid over the range of the values. A group searches all of them, unless a line that
// another group has found serves it nearly as well as lines served the last groups.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "lowbit/formats/sbvr/fit.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

class grid_search {
 public:
  struct result {
    sbvr_levels levels;
    double mse;
  };

  grid_search(const sbvr::params& p, const sbvr_fit& options)
      : params_(p), options_(options), fit_(p) {}

  [[nodiscard]] bool symmetric() const noexcept { return fit_.symmetric(); }
  /// The mean square error with nearest levels.
  [[nodiscard]] double mse(const group_values& x, const sbvr_levels& l) const noexcept {
    return x.weight() > 0.0 ? std::fmax(fit_.error(x, l), 0.0) / x.weight() : 0.0;
  }

  /// The best of all candidates for the values x, whose group_values are `values`; the first that
  /// is acceptable ends the search. An `extended` search takes steps that are 1.2 times smaller.
  [[nodiscard]] result search(std::span<const float> x, const group_values& values,
                              bool extended) const {
    const space s = search_space(x, extended);
    result best{{}, std::numeric_limits<double>::infinity()};
    // A series: bias, scale, ratio.
    for (unsigned b = 0; b < s.biases; ++b) {
      const double bias = at(-s.bias, s.bias, b, s.biases);
      for (unsigned i = 1; i <= s.scales; ++i) {
        const double scale = at(s.least_scale, s.greatest_scale, i, s.scales);
        for (unsigned r = 0; r < s.ratios; ++r) {
          if (keep_if_better(values, series(bias, scale, ratio(r, s.ratios)), best)) return best;
        }
      }
    }
    if (params_.planes <= 6) search_grid(values, s, best);
    return best;
  }

 private:
  using coefficients = std::array<double, sbvr::max_planes>;

  struct space {
    unsigned ratios;
    unsigned biases;
    unsigned scales;
    double bias;  ///< biases from -bias to below bias
    double least_scale;
    double greatest_scale;
    double low;  ///< the range of the values
    double high;
  };

  static constexpr double extension = 1.2;

  /// from + (to - from) i / count, fused so that no compiler decides about it.
  [[nodiscard]] static double at(double from, double to, unsigned i, unsigned count) noexcept {
    return std::fma((to - from) / static_cast<double>(count), static_cast<double>(i), from);
  }

  /// Half of the ratios between -pi/6 and -0.94, the other half between -1.06 and -2 pi/3.
  [[nodiscard]] static double ratio(unsigned i, unsigned count) noexcept {
    constexpr double pi = 3.141592653589793;
    const unsigned half = count / 2;
    if (i < half) return -at(pi / 6.0, 0.94, i, std::max(half - 1, 1U));
    return -at(1.06, 2.0 * pi / 3.0, i - half, std::max(count - half - 1, 1U));
  }

  [[nodiscard]] space search_space(std::span<const float> x, bool extended) const {
    const auto steps = [extended](unsigned count) {
      const double more = extension * static_cast<double>(count);
      return extended ? static_cast<unsigned>(more) : count;
    };
    std::vector<float> sorted(x.begin(), x.end());
    std::sort(sorted.begin(), sorted.end());
    double sum = 0.0;
    for (const float v : sorted) sum += static_cast<double>(v);
    const double mean = sum / static_cast<double>(sorted.size());
    // The value below which 95 % lie, interpolated between neighbours.
    const double position = std::fma(0.95, static_cast<double>(sorted.size() - 1), 0.0);
    const auto below = static_cast<index_t>(position);
    const auto low = static_cast<double>(sorted[below]);
    const auto high = static_cast<double>(sorted[std::min(below + 1, sorted.size() - 1)]);
    const double quantile = std::fma(position - static_cast<double>(below), high - low, low);
    const auto front = static_cast<double>(sorted.front());
    const auto back = static_cast<double>(sorted.back());
    return {.ratios = steps(options_.search_ratios) / 2 * 2,
            .biases = steps(options_.search_biases),
            .scales = steps(options_.search_scales),
            .bias = std::fmax(0.3, 2.0 * std::fabs(mean) / static_cast<double>(params_.planes)),
            .least_scale = 2.0 * quantile,
            .greatest_scale = std::fma(1.1, back - front, 0.0),  // not to be fused
            .low = front,
            .high = back};
  }

  [[nodiscard]] coefficients series(double bias, double scale, double ratio) const noexcept {
    coefficients c{};
    double power = 1.0;
    double distance = 0.0;
    for (unsigned i = 0; i < params_.planes; ++i, power = std::fma(power, ratio, 0.0)) {
      c[i] = power;
      distance += std::fabs(power);
    }
    for (unsigned i = 0; i < params_.planes; ++i) c[i] = std::fma(scale, c[i] / distance, bias);
    return c;
  }

  /// As many points as there are series, and 4 in 10 more, spread over `planes` dimensions.
  void search_grid(const group_values& values, const space& s, result& best) const {
    const double points = 1.4 * s.ratios * s.biases * s.scales;
    const auto parts = static_cast<unsigned>(std::pow(points, 1.0 / params_.planes));
    std::array<double, sbvr::max_planes> from{};
    std::array<double, sbvr::max_planes> to{};
    for (unsigned i = 0; i < params_.planes; ++i) {
      const double a = at(s.low, s.high, i, params_.planes);
      const double b = at(s.low, s.high, i + 1, params_.planes);
      from[i] = std::fma(-0.8, std::fabs(a), a);
      to[i] = std::fma(0.8, std::fabs(b), b);
    }
    std::array<unsigned, sbvr::max_planes> digit{};
    while (true) {
      coefficients c{};
      for (unsigned i = 0; i < params_.planes; ++i) {
        c[i] = at(from[i], to[i], digit[i], std::max(parts, 1U));
      }
      if (keep_if_better(values, c, best)) return;
      unsigned i = 0;
      while (i < params_.planes && digit[i] == parts) digit[i++] = 0;
      if (i == params_.planes) return;
      ++digit[i];
    }
  }

  /// Judges a candidate as it will be stored, sorted by magnitude. True ends the search.
  [[nodiscard]] bool keep_if_better(const group_values& values, coefficients c,
                                    result& best) const noexcept {
    sort_by_magnitude(std::span(c).first(params_.planes));
    sbvr_levels l;
    for (unsigned i = 0; i < params_.planes; ++i) {
      l.coefficients[i] =
          layout::round_to(params_.scale_type, static_cast<float>(c[i])) + 0.0F;  // no -0
    }
    const double error = mse(values, l);
    if (error < best.mse) best = {l, error};
    return best.mse < options_.acceptable_mse;
  }

  sbvr::params params_;
  sbvr_fit options_;
  coefficient_fit fit_;
};

/// The table that results when the groups are met in order. A group takes the best line so far if
/// its error is below 0.99 times the mean of the last 20 searches' errors; else it searches, and
/// its result becomes a line unless a line is as good, or nearly the same.
[[nodiscard]] inline sbvr_codebook search_table(const group_list& groups, const sbvr::params& p,
                                                const sbvr_fit& options) {
  constexpr index_t window = 20;
  constexpr index_t batch = 256;
  const grid_search grid(p, options);
  std::vector<sbvr_levels> lines;
  std::vector<double> history;
  index_t hits = 0;
  for (index_t i = 0; i < groups.size(); ++i) {
    const auto [x, h] = groups[i];
    const group_values values(x, h, grid.symmetric());
    double cached = std::numeric_limits<double>::infinity();
    const bool warm = lines.size() >= options.warmup_lines;
    if (warm) {
      const index_t count = std::min(window, history.size());
      const double sum =
          std::accumulate(history.end() - static_cast<std::ptrdiff_t>(count), history.end(), 0.0);
      const double cutoff =
          std::fmax(0.99 * (sum / static_cast<double>(count)), options.acceptable_mse);
      for (index_t l = 0; l < lines.size() && !(l % batch == 0 && cached < cutoff); ++l) {
        cached = std::fmin(cached, grid.mse(values, lines[l]));
      }
      if (cached < cutoff) {
        ++hits;
        continue;
      }
    }
    if (lines.size() >= most_lines(p)) continue;
    const bool extended = !warm || static_cast<double>(hits) > 0.6 * static_cast<double>(i);
    const auto found = grid.search(x, values, extended);
    if (!(found.mse < cached)) continue;
    history.push_back(found.mse);
    const auto nearly_same = [&](const sbvr_levels& line) {
      double distance = 0.0;
      double norm = 0.0;
      for (index_t c = 0; c < p.planes; ++c) {
        distance +=
            static_cast<double>(std::fabs(line.coefficients[c] - found.levels.coefficients[c]));
        norm += static_cast<double>(std::fabs(found.levels.coefficients[c]));
      }
      return distance < 1e-4 * norm;
    };
    if (std::none_of(lines.begin(), lines.end(), nearly_same)) lines.push_back(found.levels);
  }
  std::vector<table_line> table;
  for (const sbvr_levels& l : lines) table.push_back(line_of(l, p));
  return make_table(p, table);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
