// rotation/dfrot.hpp: a rotation of the residual stream refined for quantized activations (DFRot).
// Layer L3.
//
// DFRot (arXiv 2412.00648) starts from a random Hadamard matrix R0 and turns rows x of activations
// further, towards levels of their quantizer Q (symmetric, one scale per row). Two steps in turn
// lower the loss
//   sqrt(sum over t of w_t |x_t R - Q(x_t R)|^2)
// first the codes of x_t R are chosen (B = Q(X R)), then R becomes the orthogonal matrix that
// brings X R nearest to B: the polar factor of (X R)^T W B (orthogonal Procrustes). w_t = alpha^2
// for massive rows: rows with a few huge elements, of which an LLM has few, and which decide its
// error.
//
// The second step holds the scales that the first one chose, and the quantizer then chooses others:
// the loss may rise. So the iteration goes on from wherever it is, but the best R is what is
// returned; R0 itself if nothing was better.
//
// Invariant: the same bytes on every CPU, compiler and number of threads.
#pragma once

#include <vector>

#include "lowbit/core/affine.hpp"
#include "lowbit/core/listener.hpp"
#include "lowbit/core/params.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/rotation/orthogonal.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation {

/// Which rows count as massive, by the norms of their errors |x - Q(x)|.
enum class massive_rule : std::uint8_t {
  none,         ///< none
  no_gain,      ///< a random rotation does not lower the error (the authors' for Mistral)
  small_error,  ///< without rotation the error is below a limit (theirs for LLaMA)
};

struct dfrot_options {
  unsigned bits = 4;     ///< of activations, 2..8
  double alpha = 100.0;  ///< massive rows count alpha^2 times; 1..1e6
  massive_rule massive = massive_rule::no_gain;
  double error_limit = 8.5;   ///< of small_error: made for rows of norm 64, as of 4096 columns
  unsigned iterations = 100;  ///< at most
  /// A loss counts as better if it is lower by more than this part of R0's. (The authors ask for
  /// 0.1, in units in which R0's is a few thousand.)
  double least_gain = 0x1p-15;
  unsigned patience = 10;  ///< stops after so many iterations without a better loss
  std::uint64_t seed = 0;  ///< of the random rotation of no_gain
  listener* progress = nullptr;
};

struct dfrot_result {
  dense_rotation rotation;
  std::vector<bool> massive = {};   ///< by row
  std::vector<double> losses = {};  ///< of R0, then of each iterate
  index_t best = 0;                 ///< losses[best] is that of `rotation`
};

namespace detail {

/// x R and its loss for any R, in chunks of rows.
class activation_loss {
 public:
  activation_loss(matrix_view<const float> x, unsigned bits, const kernels::context& ctx)
      : x_(x), grid_{.bits = bits, .kind = symmetry::symmetric}, ctx_(ctx) {
    const index_t size = checked_mul(std::min(chunk, x.rows()), x.cols(), "rotated rows");
    wide_ = aligned_buffer<double>(size);
    product_ = aligned_buffer<double>(size);
    rotated_ = aligned_buffer<float>(size);
    quantized_ = aligned_buffer<float>(size);
    codes_ = aligned_buffer<std::uint8_t>(size);
  }

  /// |x_t R - Q(x_t R)|^2 for every row t, into `errors`; R = I without a matrix. With `moment`
  /// [K, K]: that becomes the sum of weights[t] (x_t R)^T Q(x_t R).
  void evaluate(matrix_view<const double> r, std::span<double> errors,
                std::span<const float> weights = {}, matrix_view<double> moment = {}) {
    const index_t n = x_.cols();
    for (index_t i = 0; i < moment.rows(); ++i) std::fill_n(moment.row(i).data(), n, 0.0);
    for (index_t begin = 0; begin < x_.rows(); begin += chunk) {
      const row_range rows{begin, std::min(begin + chunk, x_.rows())};
      const index_t count = rows.size();
      const matrix_view<double> x(wide_.data(), count, n);
      const matrix_view<double> y(product_.data(), count, n);
      for_each_row(count, [&](index_t i) {
        const auto in = x_.row(begin + i);
        for (index_t k = 0; k < n; ++k) x(i, k) = static_cast<double>(in[k]);
        std::fill_n(y.row(i).data(), n, 0.0);
      });
      if (!r.empty()) kernels::add_product(y, kernels::dense_sign::add, x, r, ctx_);
      for_each_row(count, [&](index_t i) {
        errors[begin + i] = quantize(i, r.empty() ? x.row(i) : y.row(i));
      });
      if (moment.empty()) continue;
      kernels::add_cross(moment, {rotated_.data(), count, n}, {quantized_.data(), count, n},
                         weights.subspan(begin, count), ctx_);
    }
  }

 private:
  static constexpr index_t chunk = 512;

  template <class F>
  void for_each_row(index_t count, const F& f) const {
    kernels::parallel_for_blocks(ctx_, count, 16, [&](row_range rows) {
      for (index_t i = rows.begin; i < rows.end; ++i) f(i);
    });
  }

  /// Row i of the chunk to floats and to levels; the error.
  [[nodiscard]] double quantize(index_t i, std::span<const double> row) noexcept {
    const index_t n = row.size();
    const std::span<float> y = rotated_.span().subspan(i * n, n);
    const std::span<float> level = quantized_.span().subspan(i * n, n);
    const std::span<std::uint8_t> codes = codes_.span().subspan(i * n, n);
    for (index_t k = 0; k < n; ++k) y[k] = static_cast<float>(row[k]);
    const affine_levels levels = levels_for_range(grid_, find_range(y));
    encode(grid_, levels, y, codes.data());
    decode(grid_, levels, codes, level.data());
    double error = 0.0;
    for (index_t k = 0; k < n; ++k) {
      const float d = y[k] - level[k];
      error += static_cast<double>(d) * static_cast<double>(d);  // exact: a product of two floats
    }
    return error;
  }

  matrix_view<const float> x_;
  affine_grid grid_;
  const kernels::context& ctx_;
  aligned_buffer<double> wide_;
  aligned_buffer<double> product_;
  aligned_buffer<float> rotated_;
  aligned_buffer<float> quantized_;
  aligned_buffer<std::uint8_t> codes_;
};

[[nodiscard]] inline double weighted_loss(std::span<const double> errors,
                                          std::span<const float> weights) noexcept {
  double sum = 0.0;
  for (index_t t = 0; t < errors.size(); ++t) {
    sum = std::fma(static_cast<double>(weights[t]), errors[t], sum);
  }
  return std::sqrt(sum);
}

/// S [n, n], the moment of turned rows and their levels, becomes the step of R: the polar factor of
/// S + delta I. delta is far below what S is worth, but where rows leave directions out (fewer rows
/// than columns) it keeps R as it is. False if there is no step.
[[nodiscard]] inline bool procrustes_step(matrix_view<double> s, const kernels::context& ctx) {
  const double delta = std::ldexp(linalg::detail::spectral_bound(s), -27);
  for (index_t i = 0; i < s.rows(); ++i) s(i, i) += delta;
  return linalg::polar_factor(s, ctx);
}

}  // namespace detail

/// Refines R0 for rows x [T, n] of the stream as its readers meet it: outputs of norms whose
/// weights are fused (fold.hpp), of every layer or of some. Never worse than R0 on these rows.
/// About (2 T + 20 n) n^2 fused multiply-adds per iteration; memory: 9 n^2 doubles. Refuses NaN and
/// Inf, options out of range (value), and another width of R0 (shape). Tells options.progress
/// "dfrot".
template <orthogonal_map R>
[[nodiscard]] dfrot_result refine_rotation(matrix_view<const float> x, const R& r0,
                                           const dfrot_options& options,
                                           const kernels::context& ctx) {
  const index_t n = x.cols();
  LOWBIT_CHECK(n == r0.columns(), shape, "the activations have ", n, " columns, the rotation ",
               r0.columns());
  LOWBIT_CHECK(options.bits >= 2 && options.bits <= 8, value, "bits = ", options.bits,
               " is outside 2..8");
  LOWBIT_CHECK(options.alpha >= 1.0 && options.alpha <= 1e6, value, "alpha = ", options.alpha,
               " is outside 1..1e6");
  LOWBIT_CHECK(options.least_gain >= 0.0 && options.least_gain <= 1.0, value,
               "least_gain = ", options.least_gain, " is outside 0..1");
  check_finite(x, "the activations to rotate for");

  dfrot_result result{.rotation = dense_rotation(r0)};
  if (x.empty()) return result;
  kernels::workspace own;
  kernels::context inner = ctx;
  if (inner.scratch == nullptr) inner.scratch = &own;
  detail::activation_loss loss(x, options.bits, inner);
  std::vector<double> errors(x.rows());

  result.massive.assign(x.rows(), false);
  if (options.massive != massive_rule::none) {
    loss.evaluate({}, errors);
    std::vector<double> random(x.rows());
    if (options.massive == massive_rule::no_gain) {
      loss.evaluate(random_rotation(n, options.seed, inner).matrix(), random);
    }
    for (index_t t = 0; t < x.rows(); ++t) {
      result.massive[t] = options.massive == massive_rule::no_gain
                              ? random[t] >= errors[t]
                              : std::sqrt(errors[t]) < options.error_limit;
    }
  }
  std::vector<float> weights(x.rows());
  for (index_t t = 0; t < x.rows(); ++t) {
    weights[t] = result.massive[t] ? static_cast<float>(options.alpha * options.alpha) : 1.0F;
  }

  aligned_buffer<double> memory[4] = {aligned_buffer<double>(n * n), aligned_buffer<double>(n * n),
                                      aligned_buffer<double>(n * n), aligned_buffer<double>(n * n)};
  const auto matrix = [&](index_t i) { return matrix_view<double>(memory[i].data(), n, n); };
  const matrix_view<double> current = matrix(0);
  const matrix_view<double> next = matrix(1);
  const matrix_view<double> moment = matrix(2);
  const matrix_view<double> best = matrix(3);
  linalg::detail::copy_scaled(result.rotation.matrix(), 1.0, current);
  loss.evaluate(current, errors, weights, moment);
  result.losses.push_back(detail::weighted_loss(errors, weights));
  const double gain = options.least_gain * result.losses[0];
  for (index_t i = 1; i <= options.iterations && i <= result.best + options.patience; ++i) {
    if (!detail::procrustes_step(moment, inner)) break;
    linalg::detail::set_diagonal(next, 0.0);
    kernels::add_product(next, kernels::dense_sign::add, current, moment, inner);
    if (!linalg::reorthonormalize(next, inner)) break;
    linalg::detail::copy_scaled(next, 1.0, current);
    loss.evaluate(current, errors, weights, moment);
    result.losses.push_back(detail::weighted_loss(errors, weights));
    const double lowest = result.losses[result.best];
    if (lowest - result.losses[i] > gain) {
      result.best = i;
      linalg::detail::copy_scaled(current, 1.0, best);
    }
    if (options.progress != nullptr) options.progress->advanced("dfrot", i, options.iterations);
  }
  if (result.best != 0) result.rotation = dense_rotation(best, inner);
  return result;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation
