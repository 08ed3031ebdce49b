// ptq/scale_search.hpp: activation-aware scales of columns (AWQ). Layer L3.
//
// AWQ (arXiv 2306.00978): s_k = mean|x_k|^alpha, divided by sqrt(max s * min s); the alpha whose
// quantized W diag(s) has the least output error is taken. alpha is a sixteenth (the authors use
// twentieths), because such powers are square roots and products, which every machine rounds alike.
// The authors' search for clipped ranges is the quantizer's own (uniform: range=least_mse).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

namespace detail {

inline constexpr unsigned scale_steps = 16;

/// x^(steps / 16) for x > 0.
[[nodiscard]] inline double sixteenth_power(double x, unsigned steps) noexcept {
  const double root = std::sqrt(std::sqrt(std::sqrt(std::sqrt(x))));
  double power = 1.0;
  for (unsigned i = 0; i < steps; ++i) power *= root;
  return power;
}

/// The scales of AWQ for one alpha, as they are stored. Inputs that are always zero count as the
/// smallest others.
[[nodiscard]] inline decorators::column_scaling scales_for(std::span<const double> magnitudes,
                                                           unsigned steps) {
  double least = std::numeric_limits<double>::infinity();
  for (const double m : magnitudes) {
    if (m > 0.0) least = std::min(least, m);
  }
  std::vector<double> powers(magnitudes.size(), 1.0);
  double low = std::numeric_limits<double>::infinity();
  double high = 0.0;
  for (index_t k = 0; k < powers.size(); ++k) {
    if (std::isfinite(least)) {
      powers[k] = sixteenth_power(std::max(magnitudes[k], least), steps);
    }
    low = std::min(low, powers[k]);
    high = std::max(high, powers[k]);
  }
  const double middle = std::sqrt(low) * std::sqrt(high);
  constexpr double limit = 1024.0;  // what an fp16 weight and its scale can bear
  std::vector<float> scales(powers.size());
  for (index_t k = 0; k < powers.size(); ++k) {
    scales[k] = static_cast<float>(std::clamp(powers[k] / middle, 1.0 / limit, limit));
  }
  return decorators::column_scaling({}, scales);
}

/// tr E H E^T for E = W - Ŵ.
[[nodiscard]] inline double output_error(matrix_view<const float> w, matrix_view<const float> w_hat,
                                         matrix_view<const double> h, const kernels::context& ctx) {
  aligned_buffer<double> e(w.shape().size());
  aligned_buffer<double> product(e.size());
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t k = 0; k < w.cols(); ++k) {
      e[r * w.cols() + k] = static_cast<double>(w(r, k)) - static_cast<double>(w_hat(r, k));
    }
  }
  kernels::add_product({product.data(), w.rows(), w.cols()}, kernels::dense_sign::add,
                       matrix_view<const double>(e.data(), w.rows(), w.cols()), h, ctx);
  double sum = 0.0;
  for (index_t i = 0; i < e.size(); ++i) sum = std::fma(e[i], product[i], sum);
  return sum;
}

}  // namespace detail

/// The scales of columns with which `q` quantizes W [N, K] with the least output error on inputs
/// with these moments, judged on at most 256 evenly spaced rows. alpha = 0 (no scaling) is among
/// the candidates. `q` is a quantizer, or does no more of it than quantize(). Refuses moments of
/// another width (shape), and what q.quantize() refuses.
template <class Q>
requires quantized_tensor<typename Q::tensor>
[[nodiscard]] decorators::column_scaling search_scales(const Q& q, matrix_view<const float> weights,
                                                       const observers::second_moments& moments,
                                                       const kernels::context& ctx) {
  LOWBIT_CHECK(moments.channels() == weights.cols(), shape, "moments of ", moments.channels(),
               " channels do not fit ", weights.cols(), " columns");
  constexpr index_t most_rows = 256;
  const index_t step = std::max<index_t>(1, div_up(weights.rows(), most_rows));
  const matrix_view<const float> sample(weights.data(), div_up(weights.rows(), step),
                                        weights.cols(), weights.row_stride() * step);
  const std::vector<float> importance = moments.importance();
  std::vector<float> scaled_importance(importance.size());
  aligned_buffer<float> scaled(sample.shape().size());
  aligned_buffer<float> restored(sample.shape().size());
  const matrix_view<float> b(scaled.data(), sample.rows(), sample.cols());
  const matrix_view<float> w_hat(restored.data(), sample.rows(), sample.cols());

  double best_error = std::numeric_limits<double>::infinity();
  unsigned best = 0;
  for (unsigned steps = 0; steps < detail::scale_steps; ++steps) {
    const auto scales = detail::scales_for(moments.mean_magnitude, steps);
    decorators::transform_weights(scales, sample, b);
    scales.transform_importance(importance, scaled_importance);
    const decorators::scaled<typename Q::tensor> t(
        scales, q.quantize(b, {.importance = scaled_importance}));
    t.dequantize({0, sample.rows()}, w_hat);
    const double error = detail::output_error(sample, w_hat, moments.matrix(), ctx);
    if (!(error < best_error)) continue;
    best_error = error;
    best = steps;
  }
  return detail::scales_for(moments.mean_magnitude, best);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
