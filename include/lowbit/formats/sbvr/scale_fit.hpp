// formats/sbvr/scale_fit.hpp: the scale (and offset) of a group whose ratios are given. Layer L3.
//
// From several starting scales around the one that suits a normal distribution: sums per nearest
// level, the least-squares scale for them, and so on until the error stops falling. Each candidate
// is judged as it will be stored, and the best of all is the result, so that the error never rises
// with the number of candidates.
#pragma once

#include <array>
#include <cmath>

#include "lowbit/formats/sbvr/group.hpp"
#include "lowbit/formats/sbvr/ratios.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// Which numbers can be stored as the scale of a group of one row.
struct scale_grid {
  scale_type type = scale_type::fp16;
  unsigned bits = 0;  ///< 0: any number of `type`; else multiples of row_scale
  float row_scale = 0.0F;

  /// The levels whose scale is nearest to `scale` >= 0, with code 1 at least; infinite on overflow.
  [[nodiscard]] sbvr_levels nearest(double scale, double offset) const noexcept {
    // Adding 0 makes -0 a +0.
    sbvr_levels l{.offset = layout::round_to(type, static_cast<float>(offset)) + 0.0F};
    if (bits == 0) {
      l.scale = layout::round_to(type, static_cast<float>(scale));
    } else if (row_scale > 0.0F) {
      const double code = std::nearbyint(scale / static_cast<double>(row_scale));
      l.index = static_cast<std::uint32_t>(std::clamp(code, 1.0, largest_code()));
      l.scale = static_cast<float>(l.index) * row_scale;
    }
    return l;
  }
  [[nodiscard]] double largest_code() const noexcept {
    return static_cast<double>((1U << bits) - 1U);
  }
};

class scale_fit {
 public:
  /// Reads the ratios of `codebook`, which has shared_ratios.
  explicit scale_fit(const sbvr_codebook& codebook)
      : has_offset_(codebook.params().has_offset()),
        symmetric_(codebook.params().basis == sbvr_basis::sign && !has_offset_) {
    const std::span<const float> ratio_levels = codebook.ratio_levels();
    sort_codes(ratio_levels, order_.data());
    first_ = symmetric_ ? ratio_levels.size() / 2 : 0;
    count_ = ratio_levels.size() - first_;
    double sum = 0.0;
    for (index_t l = 0; l < count_; ++l) {
      ratio_[l] = static_cast<double>(ratio_levels[order_[first_ + l]]);
      sum += ratio_[l];
      if (l > 0) midpoint_[l - 1] = 0.5 * (ratio_[l - 1] + ratio_[l]);
    }
    mean_ratio_ = has_offset_ ? sum / static_cast<double>(count_) : 0.0;
  }

  /// The codes in increasing order of their levels, for any scale > 0.
  [[nodiscard]] const std::uint8_t* order() const noexcept { return order_.data(); }
  /// Whether group_values are to hold magnitudes.
  [[nodiscard]] bool symmetric() const noexcept { return symmetric_; }

  struct result {
    sbvr_levels levels;
    double error;  ///< sum of h (x - level)^2
  };

  /// Levels of little error after at most `candidates` evaluations. Scale 0 (and the offset) where
  /// nothing that can be stored is better.
  [[nodiscard]] result fit(const group_values& x, const scale_grid& grid,
                           unsigned candidates) const noexcept {
    const double mean = x.weight() > 0.0 && has_offset_ ? x.moment() / x.weight() : 0.0;
    result best = constant(x, grid, mean);
    const double base = spread(x, mean);
    if (!(base > 0.0)) return best;

    std::array<float, 256> seen;
    index_t seen_count = 0;
    unsigned left = std::min(candidates, 256U);
    level_sums sums;
    const auto starts = x.size() <= few_values ? std::span<const double>(many_starts)
                                               : std::span<const double>(few_starts);
    for (const double factor : starts) {
      const double start = factor * base;
      sbvr_levels l = grid.nearest(start, has_offset_ ? std::fma(-start, mean_ratio_, mean) : 0.0);
      double before = std::numeric_limits<double>::infinity();
      for (; left > 0; --left) {
        if (!std::isfinite(l.scale) || !std::isfinite(l.offset) || !(l.scale > 0.0F)) break;
        if (!has_offset_) {  // then the scale alone says what follows
          if (std::find(seen.begin(), seen.begin() + seen_count, l.scale) !=
              seen.begin() + seen_count) {
            break;
          }
          seen[seen_count++] = l.scale;
        }
        const trial t = evaluate(x, l, sums);
        if (t.error < best.error) best = {l, t.error};
        if (!(t.error < before) || !(t.scale > 0.0)) break;
        before = t.error;
        const sbvr_levels next = grid.nearest(t.scale, t.offset);
        if (next == l) break;
        l = next;
      }
    }
    return best;
  }

  /// Adds to a least-squares problem for the ratios what this group says of them: with b(u) the
  /// bits of a code, normal += scale^2 sum of h b b^T and rhs += scale sum of h b (x - level).
  template <class Problem>
  void accumulate(const group_values& x, const sbvr_levels& l, Problem& problem) const noexcept {
    level_sums sums;
    static_cast<void>(evaluate(x, l, sums));
    const auto scale = static_cast<double>(l.scale);
    for (index_t i = 0; i < count_; ++i) {
      const double level = std::fma(scale, ratio_[i], static_cast<double>(l.offset));
      // Products by fma, so that no compiler fuses them with the sums that they go into.
      problem.add(order_[first_ + i], std::fma(scale * scale, sums.weight[i], 0.0),
                  std::fma(scale, std::fma(-sums.weight[i], level, sums.moment[i]), 0.0));
    }
  }

 private:
  struct trial {
    double error;
    double scale;  ///< the least-squares ones for the same assignment
    double offset;
  };

  static constexpr index_t few_values = 16;
  static constexpr std::array<double, 7> few_starts{1.0, 0.9, 1.1, 0.8, 1.22, 0.7, 1.36};
  static constexpr std::array<double, 24> many_starts{1.0, 0.9, 1.1,  0.8,  1.2,  0.7, 1.3, 0.65,
                                                      1.4, 0.6, 1.5,  0.55, 1.65, 0.5, 1.8, 0.45,
                                                      2.0, 0.4, 2.25, 0.35, 2.5,  0.3, 3.0, 0.25};

  /// The root of the mean square around `mean`.
  [[nodiscard]] double spread(const group_values& x, double mean) const noexcept {
    if (!has_offset_) return x.rms();
    if (!(x.weight() > 0.0)) return 0.0;
    const double variance = std::fma(-mean, mean, x.energy() / x.weight());
    return variance > 0.0 ? std::sqrt(variance) : 0.0;
  }

  /// All values at the offset (0 without one).
  [[nodiscard]] result constant(const group_values& x, const scale_grid& grid,
                                double mean) const noexcept {
    result r{.levels = {.offset = layout::round_to(grid.type, static_cast<float>(mean)) + 0.0F},
             .error = 0.0};
    const auto o = static_cast<double>(r.levels.offset);
    r.error = std::fma(o, std::fma(o, x.weight(), -2.0 * x.moment()), x.energy());
    return r;
  }

  [[nodiscard]] trial evaluate(const group_values& x, const sbvr_levels& l,
                               level_sums& sums) const noexcept {
    const auto s = static_cast<double>(l.scale);
    const auto o = static_cast<double>(l.offset);
    std::array<double, 256> midpoints;
    for (index_t i = 0; i + 1 < count_; ++i) {
      midpoints[i] = has_offset_ ? std::fma(s, midpoint_[i], o) : s * midpoint_[i];
    }
    x.sum_by_level({midpoints.data(), count_ - 1}, sums);
    double rr = 0.0;  // sums of h r^2, h r x and h r
    double rx = 0.0;
    double r = 0.0;
    for (index_t i = 0; i < count_; ++i) {
      rr = std::fma(sums.weight[i] * ratio_[i], ratio_[i], rr);
      rx = std::fma(sums.moment[i], ratio_[i], rx);
      if (has_offset_) r = std::fma(sums.weight[i], ratio_[i], r);
    }
    const double common = std::fma(s, std::fma(s, rr, -2.0 * rx), x.energy());
    if (!has_offset_) return {.error = common, .scale = rr > 0.0 ? rx / rr : 0.0, .offset = 0.0};
    const double n = x.weight();
    trial t{.error = std::fma(o, std::fma(o, n, std::fma(2.0 * s, r, -2.0 * x.moment())), common),
            .scale = 0.0,
            .offset = 0.0};
    const double det = std::fma(n, rr, -(r * r));
    if (det > 0.0) {
      t.scale = std::fma(n, rx, -(r * x.moment())) / det;
      t.offset = std::fma(-t.scale, r, x.moment()) / n;
    }
    return t;
  }

  bool has_offset_;
  bool symmetric_;
  index_t first_ = 0;  ///< of the sorted levels, those from here on count
  index_t count_ = 0;
  double mean_ratio_ = 0.0;
  std::array<std::uint8_t, 256> order_{};
  std::array<double, 256> ratio_{};
  std::array<double, 256> midpoint_{};
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
