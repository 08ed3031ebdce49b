// ptq/input_correction.hpp: weights that make up for inputs which earlier quantized layers have
// distorted (QEP). Layer L3.
//
// Quantization error propagation (arXiv 2504.09629): a layer that was fitted to inputs X of the
// original network will see X̂. The weights that come nearest to the original outputs on X̂ are
//   W* = W + alpha W (X - X̂) X̂^T (X̂ X̂^T + lambda I)^-1
// for alpha = 1; alpha = 0.5 keeps half of it, since the correction is fitted to few samples. Then
// quantize W* under the Hessian of X̂.
#pragma once

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/ptq/error_feedback.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

struct correction_options {
  double alpha = 0.5;     ///< 0..1: how much of the correction to take
  double damping = 0.01;  ///< lambda, as a share of the mean diagonal of E[x̂ x̂^T]
};

/// out [N, K] = W*, for weights W [N, K], cross [K, K] = E[x x̂^T] and distorted [K, K] =
/// E[x̂ x̂^T]. out may be weights itself. Refuses other shapes (shape), an alpha outside 0..1, and
/// moments that are not positive definite when damped (value).
inline void correct_for_inputs(matrix_view<const float> weights, matrix_view<const double> cross,
                               matrix_view<const double> distorted,
                               const correction_options& options, matrix_view<float> out,
                               const kernels::context& ctx) {
  const auto [n, k] = weights.shape();
  LOWBIT_CHECK((cross.shape() == shape2{k, k} && distorted.shape() == shape2{k, k}), shape,
               "moments of [", cross.rows(), ", ", cross.cols(), "] and [", distorted.rows(), ", ",
               distorted.cols(), "] for ", k, " columns");
  LOWBIT_CHECK(out.shape() == weights.shape(), shape, "weights are [", n, ", ", k,
               "], the output [", out.rows(), ", ", out.cols(), "]");
  LOWBIT_CHECK(options.alpha >= 0.0 && options.alpha <= 1.0, value, "alpha = ", options.alpha,
               " is outside 0..1");
  aligned_buffer<double> difference(k * k);
  aligned_buffer<double> factor(k * k);
  const matrix_view<double> l(factor.data(), k, k);
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < k; ++j) {
      difference[i * k + j] = cross(i, j) - distorted(i, j);
      l(i, j) = distorted(i, j);
    }
  }
  damp(l, options.damping);
  LOWBIT_CHECK(linalg::cholesky(l, ctx), value, "E[x̂ x̂^T] of ", k,
               " channels is not positive definite with a damping of ", options.damping);

  aligned_buffer<double> wide(n * k);
  aligned_buffer<double> correction(n * k);
  const matrix_view<double> w(wide.data(), n, k);
  const matrix_view<double> step(correction.data(), n, k);
  for (index_t r = 0; r < n; ++r) {
    for (index_t c = 0; c < k; ++c) w(r, c) = static_cast<double>(weights(r, c));
  }
  kernels::add_product(step, kernels::dense_sign::add, w,
                       matrix_view<const double>(difference.data(), k, k), ctx);
  linalg::solve_cholesky(l, step, ctx);
  for (index_t r = 0; r < n; ++r) {
    for (index_t c = 0; c < k; ++c) {
      out(r, c) = static_cast<float>(std::fma(options.alpha, step(r, c), w(r, c)));
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
