// ptq/coding.hpp: a matrix on its way to codes: weights, the levels of each group, codes. Layer L3.
//
// Written once over group_codec (core/group_codec.hpp): nothing here or elsewhere in ptq/ knows a
// format.
//
// Invariants: a value is always that of its code in the levels of its group, as dequantize() will
// give it; work is cut into blocks of rows of fixed size and rows never meet, so results do not
// depend on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <string_view>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/group_codec.hpp"
#include "lowbit/core/listener.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

using lowbit::listener;

/// The level values of one group in increasing order, and their codes.
class level_table {
 public:
  /// Level values by code; NaN marks codes that are not to be used.
  void assign(std::span<const float> by_code) {
    count_ = 0;
    for (index_t code = 0; code < by_code.size(); ++code) {
      const float value = by_code[code];
      if (value != value) continue;
      // Insertion: levels of most formats come in order. Of equal ones the lower code is first.
      index_t at = count_++;
      for (; at > 0 && values_[at - 1] > value; --at) {
        values_[at] = values_[at - 1];
        codes_[at] = codes_[at - 1];
      }
      values_[at] = value;
      codes_[at] = static_cast<std::uint8_t>(code);
    }
  }

  struct level {
    std::uint8_t code;
    float value;
  };
  /// The level nearest to x, of two the lower one. x must not be NaN.
  [[nodiscard]] level nearest(double x) const noexcept {
    index_t low = 0;  // values_[low] <= x, or low = 0
    for (index_t rest = count_; rest > 1;) {
      const index_t half = rest / 2;
      low = static_cast<double>(values_[low + half]) <= x ? low + half : low;
      rest -= half;
    }
    const index_t high = std::min(low + 1, count_ - 1);
    const bool up = static_cast<double>(values_[high]) - x < x - static_cast<double>(values_[low]);
    const index_t at = up ? high : low;
    return {codes_[at], values_[at]};
  }

 private:
  index_t count_ = 0;
  std::array<float, 256> values_;
  std::array<std::uint8_t, 256> codes_;
};

/// Rows that one task works on: enough for products to run well, few enough for the caches.
inline constexpr index_t rows_of_a_task = 64;

/// The levels and codes of a matrix of a codec, as they are chosen.
template <group_codec C>
class coding {
 public:
  using levels = typename C::levels;

  /// The weights and the codec must outlive this. What rows of a codec share stays.
  coding(const C& codec, matrix_view<const float> weights) : coding(codec, nullptr, weights) {}
  /// The same, but refinement may change what rows of the codec share (row_codec).
  coding(C& codec, matrix_view<const float> weights) : coding(codec, &codec, weights) {}

  [[nodiscard]] const C& codec() const noexcept { return *codec_; }
  /// Null for a codec that stays.
  [[nodiscard]] C* changeable_codec() const noexcept { return changeable_; }
  [[nodiscard]] matrix_view<const float> weights() const noexcept { return weights_; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  [[nodiscard]] index_t group_of(index_t column) const noexcept { return column / group_size_; }
  /// The columns of a group.
  [[nodiscard]] row_range columns_of(index_t group) const noexcept {
    return {group * group_size_, std::min((group + 1) * group_size_, weights_.cols())};
  }

  [[nodiscard]] levels& levels_of(index_t row, index_t group) noexcept {
    return levels_[row * groups_ + group];
  }
  [[nodiscard]] std::uint8_t* codes(index_t row) noexcept {
    return codes_.data() + row * weights_.cols();
  }
  [[nodiscard]] level_table table(index_t row, index_t group) const {
    std::array<float, 256> by_code;
    const auto used = std::span(by_code).first(index_t{1} << codec_->bits());
    codec_->values(levels_[row * groups_ + group], used);
    level_table t;
    t.assign(used);
    return t;
  }
  /// Writes the values of the codes of a group to out[0 ..].
  void values(index_t row, index_t group, double* out) const {
    std::array<float, 256> by_code;
    const auto used = std::span(by_code).first(index_t{1} << codec_->bits());
    codec_->values(levels_[row * groups_ + group], used);
    const row_range columns = columns_of(group);
    const std::uint8_t* const at = codes_.data() + row * weights_.cols();
    for (index_t k = columns.begin; k < columns.end; ++k) {
      out[k - columns.begin] = static_cast<double>(by_code[at[k]]);
    }
  }

  /// Levels fitted to the weights as they are and the nearest code of each: round to nearest.
  void round_to_nearest(std::span<const float> importance, const kernels::context& ctx) {
    kernels::parallel_for_blocks(ctx, weights_.rows(), rows_of_a_task, [&](row_range rows) {
      for (index_t r = rows.begin; r < rows.end; ++r) {
        for (index_t g = 0; g < groups_; ++g) {
          const row_range columns = columns_of(g);
          const auto x = weights_.row(r).subspan(columns.begin, columns.size());
          levels_of(r, g) = codec_->fit(
              r, g, x,
              importance.empty() ? importance : importance.subspan(columns.begin, x.size()));
          const level_table nearby = table(r, g);
          for (index_t k = 0; k < x.size(); ++k) {
            codes(r)[columns.begin + k] = nearby.nearest(static_cast<double>(x[k])).code;
          }
        }
      }
    });
  }

  /// The tensor that stores these levels and codes.
  [[nodiscard]] typename C::tensor make_tensor() {
    typename C::tensor t = codec_->make_tensor();
    for (index_t r = 0; r < weights_.rows(); ++r) {
      for (index_t g = 0; g < groups_; ++g) codec_->store(t, r, g, levels_of(r, g));
      if (weights_.cols() > 0) t.set_codes(r, {codes(r), weights_.cols()});
    }
    return t;
  }

 private:
  coding(const C& codec, C* changeable, matrix_view<const float> weights)
      : codec_(&codec),
        changeable_(changeable),
        weights_(weights),
        group_size_(codec.group_size()),
        groups_(group_size_ == 0 ? 0 : div_up(weights.cols(), group_size_)),
        levels_(checked_mul(weights.rows(), groups_, "groups")),
        codes_(weights.shape().size()) {}

  const C* codec_;
  C* changeable_;
  matrix_view<const float> weights_;
  index_t group_size_;
  index_t groups_;
  std::vector<levels> levels_;
  aligned_buffer<std::uint8_t> codes_;
};

namespace detail {

/// Counts finished tasks for a listener, which hears of them one at a time and in order.
class task_counter {
 public:
  task_counter(listener* to, std::string_view stage, index_t total)
      : to_(to), stage_(stage), total_(total) {}
  /// Called by the worker that finished a task.
  void finished() {
    if (to_ == nullptr) return;
    const std::lock_guard lock(mutex_);
    to_->advanced(stage_, ++done_, total_);
  }

 private:
  listener* to_;
  std::string_view stage_;
  index_t total_;
  std::mutex mutex_;
  index_t done_ = 0;
};

/// `count` rounded up to what an axpy takes.
[[nodiscard]] constexpr index_t padded(index_t count) noexcept {
  return div_up(count, kernels::dense_axpy_step) * kernels::dense_axpy_step;
}

/// Copies columns [begin, end) of rows `rows` of m into out[rows.size()][stride], zeros after them.
inline void copy_padded(matrix_view<const double> m, row_range rows, row_range columns,
                        double* out) noexcept {
  const index_t stride = padded(columns.size());
  for (index_t r = 0; r < rows.size(); ++r) {
    const double* const in = m.row(rows.begin + r).data() + columns.begin;
    std::fill_n(std::copy_n(in, columns.size(), out + r * stride), stride - columns.size(), 0.0);
  }
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
