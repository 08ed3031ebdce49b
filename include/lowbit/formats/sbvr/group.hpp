// formats/sbvr/group.hpp: the values of one group, and which level is nearest to each. Layer L3.
//
// Sorted levels divide the line at their midpoints: a value belongs to the level whose number is
// the count of midpoints below it (one that equals a midpoint goes to the lower level). A fit needs
// only the sums of its group per level, never the codes.
//
// Invariants: sums run over fixed lanes in a fixed order; products are exact in double or fused
// explicitly: the same bytes with every compiler, flag and instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>

#include "lowbit/formats/sbvr/codebook.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// Per level, in increasing order: the importance and the weighted values of what is nearest to it.
struct level_sums {
  std::array<double, 256> weight;  ///< sum of h
  std::array<double, 256> moment;  ///< sum of h x
};

/// The values x of a group with importance h. With `magnitudes`, |x| stands for x: for levels that
/// are symmetric around 0, of which the upper half then suffices.
class group_values {
 public:
  static constexpr index_t capacity = sbvr::max_group_size;

  /// x has at most `capacity` finite values; h is empty, or one finite weight >= 0 for each. The
  /// same weight for all, 0 included, is none.
  group_values(std::span<const float> x, std::span<const float> h, bool magnitudes) noexcept
      : size_(x.size()) {
    const bool equal = std::all_of(h.begin(), h.end(), [&](float w) { return w == h[0]; });
    if (equal) h = {};
    std::array<double, lanes> energy{};
    for (index_t i = 0; i < size_; ++i) {
      const auto value = static_cast<double>(magnitudes ? std::fabs(x[i]) : x[i]);
      const double weight = h.empty() ? 1.0 : static_cast<double>(h[i]);
      value_[i] = value;
      weight_[i] = weight;
      moment_[i] = weight * value;  // exact
    }
    const index_t padded = div_up(size_, lanes) * lanes;
    for (index_t i = size_; i < padded; ++i) value_[i] = weight_[i] = moment_[i] = 0.0;
    std::array<double, lanes> weights{};
    std::array<double, lanes> moments{};
    for (index_t i = 0; i < padded; i += lanes) {
      for (index_t k = 0; k < lanes; ++k) {
        weights[k] += weight_[i + k];
        moments[k] += moment_[i + k];
        // Without weights the product is exact. With them it is not, hence the fma below.
        if (h.empty()) energy[k] += value_[i + k] * value_[i + k];
      }
    }
    if (!h.empty()) {
      for (index_t i = 0; i < size_; ++i) {
        energy[i % lanes] = std::fma(moment_[i], value_[i], energy[i % lanes]);
      }
    }
    energy_ = total(energy);
    weight_sum_ = total(weights);
    moment_sum_ = total(moments);
  }

  [[nodiscard]] index_t size() const noexcept { return size_; }
  /// sum of h x^2
  [[nodiscard]] double energy() const noexcept { return energy_; }
  /// sum of h
  [[nodiscard]] double weight() const noexcept { return weight_sum_; }
  /// sum of h x
  [[nodiscard]] double moment() const noexcept { return moment_sum_; }
  /// The root of the mean square, 0 for no values.
  [[nodiscard]] double rms() const noexcept {
    return weight_sum_ > 0.0 ? std::sqrt(energy_ / weight_sum_) : 0.0;
  }

  /// The sums of the values between `midpoints`, which increase; their count is 2^n - 1.
  void sum_by_level(std::span<const double> midpoints, level_sums& sums) const noexcept {
    if (midpoints.size() <= 7) {
      sum_by_scanning(midpoints, sums);
    } else {
      sum_by_searching(midpoints, sums);
    }
  }

 private:
  static constexpr index_t lanes = 4;  // independent chains, which compilers turn into vectors

  [[nodiscard]] static double total(const std::array<double, lanes>& a) noexcept {
    return (a[0] + a[2]) + (a[1] + a[3]);
  }

  /// One pass per midpoint over all values: what lies above it. Differences give the levels.
  void sum_by_scanning(std::span<const double> midpoints, level_sums& sums) const noexcept {
    double weight_above = weight_sum_;
    double moment_above = moment_sum_;
    for (index_t l = 0; l < midpoints.size(); ++l) {
      const double midpoint = midpoints[l];
      std::array<double, lanes> weight{};
      std::array<double, lanes> moment{};
      for (index_t i = 0; i < size_; i += lanes) {
        for (index_t k = 0; k < lanes; ++k) {
          const bool above = value_[i + k] > midpoint;
          weight[k] += above ? weight_[i + k] : 0.0;
          moment[k] += above ? moment_[i + k] : 0.0;
        }
      }
      const double w = total(weight);
      const double m = total(moment);
      sums.weight[l] = weight_above - w;
      sums.moment[l] = moment_above - m;
      weight_above = w;
      moment_above = m;
    }
    sums.weight[midpoints.size()] = weight_above;
    sums.moment[midpoints.size()] = moment_above;
  }

  /// A binary search per value.
  void sum_by_searching(std::span<const double> midpoints, level_sums& sums) const noexcept {
    const index_t levels = midpoints.size() + 1;
    std::fill_n(sums.weight.begin(), levels, 0.0);
    std::fill_n(sums.moment.begin(), levels, 0.0);
    for (index_t i = 0; i < size_; ++i) {
      index_t level = 0;
      for (index_t step = levels / 2; step > 0; step /= 2) {
        level += value_[i] > midpoints[level + step - 1] ? step : 0;
      }
      sums.weight[level] += weight_[i];
      sums.moment[level] += moment_[i];
    }
  }

  alignas(64) std::array<double, capacity> value_;
  alignas(64) std::array<double, capacity> weight_;
  alignas(64) std::array<double, capacity> moment_;
  index_t size_;
  double energy_ = 0.0;
  double weight_sum_ = 0.0;
  double moment_sum_ = 0.0;
};

/// The codes in increasing order of their values, which are finite; equal values by code.
inline void sort_codes(std::span<const float> values, std::uint8_t* order) noexcept {
  std::iota(order, order + values.size(), std::uint8_t{0});
  std::sort(order, order + values.size(), [&](std::uint8_t a, std::uint8_t b) {
    return values[a] < values[b] || (values[a] == values[b] && a < b);
  });
}

/// Finds the codes of the levels nearest to the values of a group.
class nearest_level {
 public:
  /// `values`: of each code, finite; `order`: the codes in increasing order of their values.
  nearest_level(std::span<const float> values, const std::uint8_t* order) noexcept
      : levels_(values.size()), order_(order) {
    for (index_t l = 0; l + 1 < levels_; ++l) {
      // x > midpoint is the same as x > the greatest float that is not above the midpoint.
      const double midpoint =
          0.5 * (static_cast<double>(values[order[l]]) + static_cast<double>(values[order[l + 1]]));
      auto rounded = static_cast<float>(midpoint);
      if (static_cast<double>(rounded) > midpoint) {
        rounded = std::nextafter(rounded, -std::numeric_limits<float>::infinity());
      }
      midpoints_[l] = rounded;
    }
  }

  /// x has at most 256 values.
  void encode(std::span<const float> x, std::uint8_t* codes) const noexcept {
    if (levels_ <= 16) {
      std::array<std::int32_t, group_values::capacity> level{};
      for (index_t l = 0; l + 1 < levels_; ++l) {
        const float midpoint = midpoints_[l];
        for (index_t i = 0; i < x.size(); ++i) level[i] += x[i] > midpoint ? 1 : 0;
      }
      for (index_t i = 0; i < x.size(); ++i) codes[i] = order_[level[i]];
      return;
    }
    for (index_t i = 0; i < x.size(); ++i) {
      index_t level = 0;
      for (index_t step = levels_ / 2; step > 0; step /= 2) {
        level += x[i] > midpoints_[level + step - 1] ? step : 0;
      }
      codes[i] = order_[level];
    }
  }

 private:
  index_t levels_;
  const std::uint8_t* order_;
  std::array<float, 256> midpoints_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
