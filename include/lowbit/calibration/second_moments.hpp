// calibration/second_moments.hpp: what a layer's inputs look like: E[x x^T], streamed. Layer L3.
//
// The output error of a layer whose weights W became Ŵ is E |(W - Ŵ) x|^2 = tr (W - Ŵ) H (W - Ŵ)^T
// with H = E[x x^T]: all that error feedback (ptq/) needs of the inputs. Literature writes
// H = 2 X X^T / N; the factor changes no result.
//
// H of few rows is a bad estimate: off-diagonal entries are noise that feedback would fit. So the
// accumulator also estimates how far to shrink them towards zero (Ledoit and Wolf, 2004; Schäfer
// and Strimmer, 2005, target "diagonal, unequal variance"):
//   shrinkage = sum over i != j of Var(r_ij) / sum over i != j of r_ij^2
// for r = H scaled to unit diagonal. Var(r_ij) is estimated from blocks of 16 rows in a row,
// because neighbouring tokens are alike and count for less than as many independent ones, and over
// 128 evenly spaced channels, which is plenty for two sums over all pairs.
//
// Invariants: bytes depend on the rows and their order only: not on how they are cut into calls,
// the CPU or the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::observers {

/// E[x x^T] of a layer's K inputs, and what is known of its quality. A plain value.
class second_moments {
 public:
  second_moments() noexcept = default;
  /// All zero.
  explicit second_moments(index_t channels)
      : channels_(channels), values_(checked_mul(channels, channels, "second moments")) {}

  [[nodiscard]] index_t channels() const noexcept { return channels_; }
  /// [K, K], symmetric.
  [[nodiscard]] matrix_view<double> matrix() noexcept {
    return {values_.data(), channels_, channels_};
  }
  [[nodiscard]] matrix_view<const double> matrix() const noexcept {
    return {values_.data(), channels_, channels_};
  }

  /// How far the off-diagonal entries should be shrunk, 0..1; 1 if there are too few rows to tell.
  double shrinkage = 1.0;
  index_t rows = 0;  ///< that were added with a weight above 0
  /// E |x_k|: what activation-aware scaling goes by.
  std::vector<double> mean_magnitude = {};
  std::vector<double> mean = {};  ///< E x_k

  /// Multiplies every off-diagonal entry by 1 - amount (0..1), once.
  void shrink(double amount) {
    LOWBIT_CHECK(amount >= 0.0 && amount <= 1.0, value, "shrinkage = ", amount, " is outside 0..1");
    const matrix_view<double> h = matrix();
    const double kept = 1.0 - amount;
    for (index_t i = 0; i < channels_; ++i) {
      for (index_t j = 0; j < channels_; ++j) {
        if (i != j) h(i, j) *= kept;
      }
    }
  }

  /// The mean square of each channel: the diagonal, as the importance of a column.
  [[nodiscard]] std::vector<float> importance() const {
    std::vector<float> out(channels_);
    for (index_t k = 0; k < channels_; ++k) out[k] = static_cast<float>(matrix()(k, k));
    return out;
  }

 private:
  index_t channels_ = 0;
  aligned_buffer<double> values_;
};

/// Streams rows of inputs. Memory: 8 K^2 bytes, however many rows. One thread at a time; add() uses
/// the executor of its context.
class moment_accumulator {
 public:
  explicit moment_accumulator(index_t channels)
      : channels_(channels),
        sum_(checked_mul(channels, channels, "second moments")),
        magnitudes_(channels),
        totals_(channels),
        probes_(std::min(channels, max_probes)),
        block_(block_rows * probes_),
        block_weights_(block_rows),
        gram_(probes_ * probes_),
        sum_of_blocks_(probes_ * probes_),
        sum_of_squares_(probes_ * probes_) {}

  [[nodiscard]] index_t channels() const noexcept { return channels_; }
  /// Rows with a weight above 0 so far.
  [[nodiscard]] index_t rows() const noexcept { return rows_; }

  /// Adds the rows of inputs [T, K], each with its weight >= 0 (none: all 1), such as the
  /// importance of a kind of token; rows of weight 0, such as padding, are as if they were not
  /// there. Refuses other widths (shape), NaN and Inf with their row and
  /// column, and weights that are negative or not finite (value).
  void add(matrix_view<const float> inputs, const kernels::context& ctx,
           std::span<const float> weights = {}) {
    LOWBIT_CHECK(inputs.cols() == channels_, shape, "inputs have ", inputs.cols(),
                 " channels, the accumulator ", channels_);
    LOWBIT_CHECK(weights.empty() || weights.size() == inputs.rows(), shape, "there are ",
                 inputs.rows(), " rows, but ", weights.size(), " weights");
    check_finite(inputs, "the calibration inputs");
    kernels::add_gram({sum_.data(), channels_, channels_}, inputs, weights, ctx);
    for (index_t t = 0; t < inputs.rows(); ++t) {
      const float weight = weights.empty() ? 1.0F : weights[t];
      // A row of zeros would still count as one whose channels do not correlate.
      if (!(weight > 0.0F)) continue;
      ++rows_;
      weight_ += static_cast<double>(weight);
      const auto x = inputs.row(t);
      for (index_t k = 0; k < channels_; ++k) {
        // Exact: a product of two floats.
        const double value = static_cast<double>(weight) * static_cast<double>(x[k]);
        magnitudes_[k] += std::fabs(value);
        totals_[k] += value;
      }
      add_to_block(x, weight, ctx);
    }
  }

  /// The moments of all rows so far; more may be added afterwards. Refuses (value) if there were
  /// none, or none with a weight above 0.
  [[nodiscard]] second_moments finish() const {
    LOWBIT_CHECK(weight_ > 0.0, value, "no calibration rows with a weight above 0");
    second_moments m(channels_);
    const matrix_view<double> h = m.matrix();
    for (index_t i = 0; i < channels_; ++i) {
      for (index_t j = 0; j <= i; ++j) h(i, j) = sum_[i * channels_ + j] / weight_;
    }
    kernels::mirror_lower(h);
    m.mean_magnitude.resize(channels_);
    m.mean.resize(channels_);
    for (index_t k = 0; k < channels_; ++k) {
      m.mean_magnitude[k] = magnitudes_[k] / weight_;
      m.mean[k] = totals_[k] / weight_;
    }
    m.rows = rows_;
    m.shrinkage = estimate_shrinkage();
    return m;
  }

  /// Calls f(name, values) for all that add() changes, in a fixed order: spans of const double,
  /// float or index_t, whose sizes depend on channels() only. To be stored and restored.
  template <class F>
  void save_state(F&& f) const {
    visit_state(*this, f);
  }
  /// The same with spans that f fills with what save_state() of an accumulator of as many channels
  /// gave: afterwards this one goes on as that one would. Refuses (value) what none can have said;
  /// the accumulator is of no use then.
  template <class F>
  void restore_state(F&& f) {
    visit_state(*this, f);
    LOWBIT_CHECK(
        filled_ < block_rows && blocks_ <= rows_ && std::isfinite(weight_) && weight_ >= 0.0, value,
        "the saved state of an accumulator of ", channels_, " channels is none: ", rows_,
        " rows in ", blocks_, " blocks and ", filled_);
  }

 private:
  static constexpr index_t block_rows = 16;
  static constexpr index_t max_probes = 128;

  template <class Self, class F>
  static void visit_state(Self& self, F&& f) {
    f("sum", std::span(self.sum_.data(), self.sum_.size()));
    f("magnitudes", std::span(self.magnitudes_));
    f("totals", std::span(self.totals_));
    f("weight", std::span(&self.weight_, 1));
    f("rows", std::span(&self.rows_, 1));
    f("block", std::span(self.block_));
    f("block_weights", std::span(self.block_weights_));
    f("filled", std::span(&self.filled_, 1));
    f("blocks", std::span(&self.blocks_, 1));
    f("sum_of_blocks", std::span(self.sum_of_blocks_));
    f("sum_of_squares", std::span(self.sum_of_squares_));
  }

  [[nodiscard]] index_t probe(index_t i) const noexcept { return i * channels_ / probes_; }

  void add_to_block(std::span<const float> x, float weight, const kernels::context& ctx) {
    for (index_t i = 0; i < probes_; ++i) block_[filled_ * probes_ + i] = x[probe(i)];
    block_weights_[filled_] = weight;
    if (++filled_ < block_rows) return;
    filled_ = 0;
    ++blocks_;
    std::fill(gram_.begin(), gram_.end(), 0.0);
    kernels::add_gram({gram_.data(), probes_, probes_},
                      matrix_view<const float>(block_.data(), block_rows, probes_), block_weights_,
                      ctx);
    for (index_t i = 0; i < probes_; ++i) {
      for (index_t j = i * probes_; j <= i * probes_ + i; ++j) {
        sum_of_blocks_[j] += gram_[j];
        sum_of_squares_[j] = std::fma(gram_[j], gram_[j], sum_of_squares_[j]);
      }
    }
  }

  [[nodiscard]] double estimate_shrinkage() const {
    if (blocks_ < 2) return 1.0;
    const auto n = static_cast<double>(blocks_);
    double noise = 0.0;
    double signal = 0.0;
    for (index_t i = 0; i < probes_; ++i) {
      for (index_t j = 0; j < i; ++j) {
        const double scale = diagonal(i) * diagonal(j);
        if (!(scale > 0.0)) continue;
        const double mean = sum_of_blocks_[i * probes_ + j] / n;
        const double square = sum_of_squares_[i * probes_ + j] / n;
        const double variance = std::fma(-mean, mean, square) / (n - 1.0);
        noise += std::max(variance, 0.0) / scale;
        signal = std::fma(mean / scale, mean, signal);
      }
    }
    return signal > 0.0 ? std::min(noise / signal, 1.0) : 1.0;
  }
  /// Mean of a probed channel's square over a block, up to the factor that all have.
  [[nodiscard]] double diagonal(index_t i) const noexcept {
    return sum_of_blocks_[i * probes_ + i] / static_cast<double>(blocks_);
  }

  index_t channels_;
  aligned_buffer<double> sum_;  // the lower triangle
  std::vector<double> magnitudes_;
  std::vector<double> totals_;
  double weight_ = 0.0;
  index_t rows_ = 0;

  // The estimate of the shrinkage.
  index_t probes_;
  std::vector<float> block_;  // [block_rows, probes]
  std::vector<float> block_weights_;
  index_t filled_ = 0;
  index_t blocks_ = 0;
  std::vector<double> gram_;  // of one block
  std::vector<double> sum_of_blocks_;
  std::vector<double> sum_of_squares_;
};

/// E[x y^T] of two streams of inputs of one layer, row by row: of the original network (x) and of
/// one whose earlier layers are quantized already (y). For ptq/input_correction.hpp.
class cross_accumulator {
 public:
  explicit cross_accumulator(index_t channels)
      : channels_(channels), sum_(checked_mul(channels, channels, "cross moments")) {}

  [[nodiscard]] index_t channels() const noexcept { return channels_; }

  /// Adds pairs of rows, each with its weight >= 0 (none: all 1): x and y are [T, K]. Refuses other
  /// shapes (shape); NaN and Inf, and weights that are negative or not finite (value).
  void add(matrix_view<const float> x, matrix_view<const float> y, const kernels::context& ctx,
           std::span<const float> weights = {}) {
    LOWBIT_CHECK(x.cols() == channels_ && x.shape() == y.shape(), shape, "inputs are [", x.rows(),
                 ", ", x.cols(), "] and [", y.rows(), ", ", y.cols(), "], the accumulator has ",
                 channels_, " channels");
    check_finite(x, "the calibration inputs");
    check_finite(y, "the distorted calibration inputs");
    kernels::add_cross({sum_.data(), channels_, channels_}, x, y, weights, ctx);
    for (index_t t = 0; t < x.rows(); ++t) {
      weight_ += weights.empty() ? 1.0 : static_cast<double>(weights[t]);
    }
  }

  /// [K, K], not symmetric. Refuses (value) if there were no rows with a weight above 0.
  [[nodiscard]] aligned_buffer<double> finish() const {
    LOWBIT_CHECK(weight_ > 0.0, value, "no calibration rows with a weight above 0");
    aligned_buffer<double> mean = sum_;
    for (double& v : mean) v /= weight_;
    return mean;
  }

  /// As those of moment_accumulator.
  template <class F>
  void save_state(F&& f) const {
    visit_state(*this, f);
  }
  template <class F>
  void restore_state(F&& f) {
    visit_state(*this, f);
    LOWBIT_CHECK(std::isfinite(weight_) && weight_ >= 0.0, value,
                 "the saved state of cross moments of ", channels_, " channels is none");
  }

 private:
  template <class Self, class F>
  static void visit_state(Self& self, F&& f) {
    f("sum", std::span(self.sum_.data(), self.sum_.size()));
    f("weight", std::span(&self.weight_, 1));
  }

  index_t channels_;
  aligned_buffer<double> sum_;
  double weight_ = 0.0;
};

/// Which rows of a calibration set to fit to and which to judge by.
struct row_split {
  row_range calibration;
  row_range heldout;
};

/// The last `heldout_share` (0..1) of the rows is held out: rows of one text stay together, since
/// neighbouring tokens are alike and a row between two calibrated ones proves nothing. Both parts
/// have a row if there are two. Refuses a share outside 0..1 (value).
[[nodiscard]] inline row_split split_rows(index_t rows, double heldout_share) {
  LOWBIT_CHECK(heldout_share >= 0.0 && heldout_share <= 1.0, value,
               "heldout_share = ", heldout_share, " is outside 0..1");
  auto heldout = static_cast<index_t>(static_cast<double>(rows) * heldout_share);
  if (rows >= 2) heldout = std::clamp<index_t>(heldout, 1, rows - 1);
  return {{0, rows - heldout}, {rows - heldout, rows}};
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::observers
