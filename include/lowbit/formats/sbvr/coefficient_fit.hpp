// formats/sbvr/coefficient_fit.hpp: coefficients (and an offset) for one group alone. Layer L3.
//
// From several starts: nearest of all 2^planes levels, least squares for the coefficients, and so
// on until the error stops falling. Each candidate is judged as it will be stored, and the best of
// all is the result. Never greedy, plane by plane: from 3 planes on that ends far from the optimum.
// A few values are served optimally, by enumeration.
#pragma once

#include <array>
#include <cmath>

#include "lowbit/formats/sbvr/group.hpp"
#include "lowbit/formats/sbvr/least_squares.hpp"
#include "lowbit/formats/sbvr/ratios.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

class coefficient_fit {
 public:
  struct result {
    sbvr_levels levels;
    double error;  ///< sum of h (x - level)^2
  };

  explicit coefficient_fit(const sbvr::params& p)
      : params_(p), symmetric_(p.basis == sbvr_basis::sign && !p.has_offset()) {}

  /// Whether group_values are to hold magnitudes.
  [[nodiscard]] bool symmetric() const noexcept { return symmetric_; }

  /// sum of h (x - nearest level)^2 for levels as per_group or table stores them.
  [[nodiscard]] double error(const group_values& x, const sbvr_levels& l) const noexcept {
    sorted_levels sorted;
    level_sums sums;
    return evaluate(x, l, sorted, sums);
  }

  /// Coefficients and offset of little error after `rounds` rounds from each start.
  [[nodiscard]] result fit(const group_values& x, unsigned rounds) const noexcept {
    const double mean = params_.has_offset() && x.weight() > 0.0 ? x.moment() / x.weight() : 0.0;
    sbvr_levels constant{.offset = stored(mean)};
    result best{constant, error(x, constant)};
    const double variance = std::fma(-mean, mean, x.weight() > 0.0 ? x.energy() / x.weight() : 0.0);
    if (!(variance > 0.0)) return best;
    const double spread = std::sqrt(variance);

    const auto try_start = [&](const coefficient_set& ratios, double scale) {
      improve(x, start(ratios, scale, mean), rounds, best);
    };
    constexpr double factors[] = {1.0, 0.8, 1.25, 0.6};
    const bool one_sided = params_.basis == sbvr_basis::zero_one && !params_.has_offset();
    for (const double factor : factors) {
      for (const auto& ratios : {normal_ratios(params_), equal_step_ratios(params_)}) {
        try_start(ratios, factor * spread);
        if (one_sided) try_start(ratios, -factor * spread);
      }
    }
    try_all_assignments(x, best);
    return best;
  }

 private:
  static constexpr index_t always_enumerated = 8;      ///< values; 102,960 assignments at most
  static constexpr double most_assignments = 16384.0;  ///< of more values

  /// Levels in increasing order, with the code of each: only the upper half if they are symmetric.
  struct sorted_levels {
    index_t count;
    std::array<double, 256> level;
    std::array<std::uint8_t, 256> code;
  };

  [[nodiscard]] float stored(double value) const noexcept {
    return layout::round_to(params_.scale_type, static_cast<float>(value)) + 0.0F;
  }

  [[nodiscard]] sbvr_levels start(const coefficient_set& ratios, double scale,
                                  double mean) const noexcept {
    std::array<double, sbvr::max_planes + 1> c{};
    double sum = 0.0;
    for (index_t i = 0; i < params_.planes; ++i) {
      c[i] = std::fma(scale, static_cast<double>(ratios[i]), 0.0);  // not to be fused with the sum
      sum += c[i];
    }
    c[params_.planes] = params_.basis == sbvr_basis::zero_one ? mean - 0.5 * sum : mean;
    return normalised(c);
  }

  /// Coefficients as they will be stored: rounded, sorted by magnitude, and not negative where a
  /// sign would only exchange codes.
  [[nodiscard]] sbvr_levels normalised(
      const std::array<double, sbvr::max_planes + 1>& c) const noexcept {
    sbvr_levels l;
    if (params_.has_offset()) l.offset = stored(c[params_.planes]);
    for (index_t i = 0; i < params_.planes; ++i) {
      const float value = stored(c[i]);
      l.coefficients[i] = params_.basis == sbvr_basis::sign ? std::fabs(value) : value;
    }
    sort_by_magnitude(std::span(l.coefficients).first(params_.planes));
    return l;
  }

  /// A handful of values has many local optima, but few assignments that can be optimal: codes
  /// whose levels do not fall where the values rise. With up to 3 planes the order of the levels is
  /// that of one of a few prototypes, so the optimum can be enumerated. Does nothing where that
  /// would take too long.
  void try_all_assignments(const group_values& x, result& best) const noexcept {
    const index_t n = x.size();
    const index_t planes = params_.planes;
    if (planes > 3 || n == 0 || n > 16) return;
    const index_t levels = (index_t{1} << planes) / (symmetric_ ? 2 : 1);
    const bool one_sided = params_.basis == sbvr_basis::zero_one && !params_.has_offset();
    const index_t sign_sets = one_sided ? index_t{1} << planes : 1;
    const index_t shapes = planes == 3 ? 2 : 1;  // the largest may exceed the sum of the others
    double count = static_cast<double>(sign_sets * shapes);
    for (index_t i = 1; i < levels; ++i)
      count *= static_cast<double>(n + i) / static_cast<double>(i);
    if (n > always_enumerated && count > most_assignments) return;

    constexpr std::array<std::array<float, 3>, 2> prototypes{{{4, 2, 1}, {4, 3, 2}}};
    sorted_levels sorted;
    level_sums sums;
    for (index_t shape = 0; shape < shapes; ++shape) {
      for (index_t signs = 0; signs < sign_sets; ++signs) {
        auto prototype = prototypes[shape];
        for (index_t i = 0; i < planes; ++i) {
          if (((signs >> i) & 1U) != 0) prototype[i] = -prototype[i];
        }
        std::array<float, 256> values;
        std::array<std::uint8_t, 256> order;
        sum_levels(params_.basis, std::span(prototype).first(planes), 0.0F, values);
        sort_codes(std::span(values).first(index_t{1} << planes), order.data());
        const std::uint8_t* const codes = order.data() + (symmetric_ ? levels : 0);

        std::array<index_t, 16> level{};
        while (true) {
          least_squares problem(params_, params_.has_offset());
          for (index_t i = 0; i < n; ++i) problem.add(codes[level[i]], x.weight(i), x.moment(i));
          const sbvr_levels l = normalised(problem.solve());
          const double error = evaluate(x, l, sorted, sums);
          if (error < best.error) best = {l, error};
          index_t i = n;
          while (i > 0 && level[i - 1] + 1 == levels) --i;
          if (i == 0) break;
          std::fill(level.begin() + static_cast<std::ptrdiff_t>(i - 1), level.end(),
                    level[i - 1] + 1);
        }
      }
    }
  }

  void improve(const group_values& x, sbvr_levels l, unsigned rounds, result& best) const noexcept {
    sorted_levels sorted;
    level_sums sums;
    double before = std::numeric_limits<double>::infinity();
    for (unsigned round = 0; round <= rounds; ++round) {
      const double now = evaluate(x, l, sorted, sums);
      if (now < best.error) best = {l, now};
      if (!(now < before)) return;  // NaN included
      before = now;
      least_squares problem(params_, params_.has_offset());
      for (index_t i = 0; i < sorted.count; ++i) {
        problem.add(sorted.code[i], sums.weight[i],
                    std::fma(-sums.weight[i], sorted.level[i], sums.moment[i]));
      }
      auto c = problem.solve();
      for (index_t i = 0; i < params_.planes; ++i) {
        c[i] += static_cast<double>(l.coefficients[i]);
      }
      c[params_.planes] += static_cast<double>(l.offset);
      const sbvr_levels next = normalised(c);
      if (next == l) return;
      l = next;
    }
  }

  /// The error with nearest levels; NaN if the levels are not finite.
  [[nodiscard]] double evaluate(const group_values& x, const sbvr_levels& l, sorted_levels& sorted,
                                level_sums& sums) const noexcept {
    std::array<float, 256> values;
    const index_t count = index_t{1} << params_.planes;
    sum_levels(params_.basis, std::span<const float>(l.coefficients.data(), params_.planes),
               l.offset, values);
    if (!std::all_of(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count),
                     [](float v) { return std::isfinite(v); })) {
      return std::numeric_limits<double>::quiet_NaN();
    }
    std::array<std::uint8_t, 256> order;
    sort_codes({values.data(), count}, order.data());
    const index_t first = symmetric_ ? count / 2 : 0;
    sorted.count = count - first;
    std::array<double, 256> midpoints;
    for (index_t i = 0; i < sorted.count; ++i) {
      sorted.code[i] = order[first + i];
      sorted.level[i] = static_cast<double>(values[sorted.code[i]]);
      if (i > 0) midpoints[i - 1] = 0.5 * (sorted.level[i - 1] + sorted.level[i]);
    }
    x.sum_by_level({midpoints.data(), sorted.count - 1}, sums);
    double sum = x.energy();
    for (index_t i = 0; i < sorted.count; ++i) {
      const double level = sorted.level[i];
      sum = std::fma(level, std::fma(sums.weight[i], level, -2.0 * sums.moment[i]), sum);
    }
    return sum;
  }

  sbvr::params params_;
  bool symmetric_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
