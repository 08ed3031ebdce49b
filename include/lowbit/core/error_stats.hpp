// core/error_stats.hpp: how far an approximation is from its reference, in the measures people ask
// for. Layer L1.
//
// Several measures, because each hides something: relative MSE and SQNR rank formats on one matrix,
// the largest error finds clipped outliers, and neither ranks formats across a network.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// Accumulates over pairs (reference, approximation). Adding the same blocks in the same order
/// gives the same bits with every compiler: sums are of exact products, over eight fixed lanes.
class error_stats {
 public:
  /// Both spans have the same size.
  void add(std::span<const float> reference, std::span<const float> approximation) {
    LOWBIT_CHECK(reference.size() == approximation.size(), shape, "comparing ", reference.size(),
                 " values with ", approximation.size());
    for (index_t i = 0; i < reference.size(); ++i) {
      const float r = reference[i];
      const float e = r - approximation[i];
      // A product of two floats is exact in double: fusing it with the sum changes nothing.
      squared_error_[i % lanes] += static_cast<double>(e) * static_cast<double>(e);
      squared_reference_[i % lanes] += static_cast<double>(r) * static_cast<double>(r);
      largest_[i % lanes] = std::max(largest_[i % lanes], std::fabs(e));
    }
    count_ += reference.size();
  }

  /// Adds all that `other` has seen.
  void merge(const error_stats& other) noexcept {
    for (index_t i = 0; i < lanes; ++i) {
      squared_error_[i] += other.squared_error_[i];
      squared_reference_[i] += other.squared_reference_[i];
      largest_[i] = std::max(largest_[i], other.largest_[i]);
    }
    count_ += other.count_;
  }

  [[nodiscard]] index_t count() const noexcept { return count_; }
  /// sum (r - a)^2 / count; 0 for nothing.
  [[nodiscard]] double mse() const noexcept {
    return count_ == 0 ? 0.0 : total(squared_error_) / static_cast<double>(count_);
  }
  /// sum (r - a)^2 / sum r^2. A reference of zeros gives 0 if it is met exactly, else infinity.
  [[nodiscard]] double relative_mse() const noexcept {
    const double error = total(squared_error_);
    const double reference = total(squared_reference_);
    if (error == 0.0) return 0.0;
    return reference == 0.0 ? std::numeric_limits<double>::infinity() : error / reference;
  }
  /// Signal to quantization noise, -10 log10(relative_mse()): infinite for an exact copy.
  [[nodiscard]] double sqnr_db() const noexcept { return -10.0 * std::log10(relative_mse()); }
  /// How far, in dB, relative_mse() lies above 2^(-2 bits), the least error that any code of so
  /// many bits per value can leave of a normal distribution.
  [[nodiscard]] double db_above_bound(double bits_per_value) const noexcept {
    return 10.0 * (std::log10(relative_mse()) + 2.0 * bits_per_value * std::log10(2.0));
  }
  /// The largest |r - a|.
  [[nodiscard]] float max_abs_error() const noexcept {
    return *std::max_element(largest_.begin(), largest_.end());
  }

 private:
  static constexpr index_t lanes = 8;

  [[nodiscard]] static double total(const std::array<double, lanes>& sums) noexcept {
    double sum = 0.0;
    for (const double s : sums) sum += s;
    return sum;
  }

  std::array<double, lanes> squared_error_{};
  std::array<double, lanes> squared_reference_{};
  std::array<float, lanes> largest_{};
  index_t count_ = 0;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
