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
#include <utility>

#include "lowbit/core/affine.hpp"
#include "lowbit/formats/sbvr/codebook.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// Per level, in increasing order: the importance and the weighted values of what is nearest to it.
struct level_sums {
  std::array<double, 256> weight;  ///< sum of h
  std::array<double, 256> moment;  ///< sum of h x
};

/// The values x of a group with importance h, sorted. With `magnitudes`, |x| stands for x: for
/// levels that are symmetric around 0, of which the upper half then suffices.
class group_values {
 public:
  static constexpr index_t capacity = sbvr::max_group_size;

  /// x has at most `capacity` finite values; h is empty, or one finite weight >= 0 for each. The
  /// same weight for all, 0 included, is none.
  group_values(std::span<const float> x, std::span<const float> h, bool magnitudes) noexcept
      : size_(x.size()) {
    if (std::all_of(h.begin(), h.end(), [&](float w) { return w == h[0]; })) h = {};
    std::array<double, capacity> values;
    for (index_t i = 0; i < size_; ++i) {
      values[i] = static_cast<double>(magnitudes ? std::fabs(x[i]) : x[i]);
    }
    std::array<std::uint8_t, capacity> order;
    const value_range range = find_range(x);
    const float top = std::max(std::fabs(range.low), std::fabs(range.high));
    sort({values.data(), size_}, magnitudes ? value_range{0.0F, top} : range, order.data());

    weight_below_[0] = 0.0;
    moment_below_[0] = 0.0;
    for (index_t i = 0; i < size_; ++i) {  // all products are exact, or fused
      if (h.empty()) {
        weight_below_[i + 1] = static_cast<double>(i + 1);
        moment_below_[i + 1] = moment_below_[i] + value_[i];
        energy_ += value_[i] * value_[i];
      } else {
        const auto weight = static_cast<double>(h[order[i]]);
        weight_below_[i + 1] = weight_below_[i] + weight;
        moment_below_[i + 1] = moment_below_[i] + weight * value_[i];
        energy_ = std::fma(weight * value_[i], value_[i], energy_);
      }
    }
  }

  [[nodiscard]] index_t size() const noexcept { return size_; }
  /// h and h x of the value that `i` others come before.
  [[nodiscard]] double weight(index_t i) const noexcept {
    return weight_below_[i + 1] - weight_below_[i];
  }
  [[nodiscard]] double moment(index_t i) const noexcept {
    return moment_below_[i + 1] - moment_below_[i];
  }
  /// sum of h x^2
  [[nodiscard]] double energy() const noexcept { return energy_; }
  /// sum of h
  [[nodiscard]] double weight() const noexcept { return weight_below_[size_]; }
  /// sum of h x
  [[nodiscard]] double moment() const noexcept { return moment_below_[size_]; }
  /// The root of the mean square, 0 for no values.
  [[nodiscard]] double rms() const noexcept {
    return weight() > 0.0 ? std::sqrt(energy_ / weight()) : 0.0;
  }

  /// The sums of the values between `midpoints`, which increase.
  void sum_by_level(std::span<const double> midpoints, level_sums& sums) const noexcept {
    index_t below = 0;
    for (index_t l = 0; l < midpoints.size(); ++l) {
      const index_t next = count_up_to(midpoints[l]);
      sums.weight[l] = weight_below_[next] - weight_below_[below];
      sums.moment[l] = moment_below_[next] - moment_below_[below];
      below = next;
    }
    sums.weight[midpoints.size()] = weight() - weight_below_[below];
    sums.moment[midpoints.size()] = moment() - moment_below_[below];
  }

 private:
  /// Fills value_, and `order` with where its values come from. Positions in the range of the
  /// values, in 2^16 steps, are sorted by radix, without the mispredicted branches of std::sort;
  /// what then remains for insertions is little, unless a few values are far from all others.
  void sort(std::span<const double> values, value_range range, std::uint8_t* order) noexcept {
    std::array<std::uint32_t, capacity> keys;  // position * 256 + where from
    std::array<std::uint32_t, capacity> other;
    std::array<std::array<std::uint16_t, buckets>, 2> begin{};
    low_ = static_cast<double>(range.low);
    const double width = static_cast<double>(range.high) - low_;
    steps_ = width > 0.0 ? (positions - 1.0) / width : 0.0;
    for (index_t i = 0; i < size_; ++i) {
      const auto p = static_cast<std::uint32_t>(position(values[i]));
      keys[i] = p << 8U | static_cast<std::uint32_t>(i);
      ++begin[0][p % buckets];
      ++begin[1][p / buckets];
    }
    for (auto& counts : begin) {
      unsigned sum = 0;
      for (std::uint16_t& count : counts) {
        sum += std::exchange(count, static_cast<std::uint16_t>(sum));
      }
    }
    bucket_ = begin[1];
    for (index_t i = 0; i < size_; ++i) other[begin[0][(keys[i] >> 8U) % buckets]++] = keys[i];
    for (index_t i = 0; i < size_; ++i) keys[begin[1][(other[i] >> 8U) / buckets]++] = other[i];

    for (index_t i = 0; i < size_; ++i) {
      const auto from = static_cast<std::uint8_t>(keys[i] & 0xffU);
      const double value = values[from];
      index_t at = i;
      for (; at > 0 && value_[at - 1] > value; --at) {
        value_[at] = value_[at - 1];
        order[at] = order[at - 1];
      }
      value_[at] = value;
      order[at] = from;
    }
    value_[size_] = std::numeric_limits<double>::infinity();
  }

  /// Where a value lies in the range of all, in steps: 0 to positions - 1. Never falls where
  /// the value rises.
  [[nodiscard]] double position(double x) const noexcept { return (x - low_) * steps_; }

  /// How many values are <= x: those in lower buckets, and some of its own.
  [[nodiscard]] index_t count_up_to(double x) const noexcept {
    const double p = position(x);
    if (!(p >= 0.0)) return 0;
    if (p >= positions) return size_;
    index_t count = bucket_[static_cast<std::uint32_t>(p) / buckets];
    while (value_[count] <= x) ++count;  // an infinity is the last
    return count;
  }

  static constexpr std::uint32_t buckets = 128;
  static constexpr double positions = 128.0 * 128.0;

  index_t size_;
  double energy_ = 0.0;
  double low_ = 0.0;                               ///< the least value
  double steps_ = 0.0;                             ///< per unit; 0 if all values are the same
  std::array<std::uint16_t, buckets> bucket_;      ///< how many values lie in lower buckets
  std::array<double, capacity + 1> value_;         ///< ascending, then infinity
  std::array<double, capacity + 1> weight_below_;  ///< sums of the first i values
  std::array<double, capacity + 1> moment_below_;
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
