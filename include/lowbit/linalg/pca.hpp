// linalg/pca.hpp: principal axes of points in few dimensions. Layer L2.
//
// Points are columns of doubles, x[d, n]: d coordinates, each a row, so that sums over points run
// on kernels/dense.
//
// Invariant: same bits on every CPU, tier and compiler, by fused or plain additions in one order;
// scaling all points by a power of two scales every result exactly.
#pragma once

#include "lowbit/linalg/symmetric_eigen.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// The mean of each coordinate of points [n, d], n >= 1, that are given as rows of floats. Summed
/// as differences from the first point: points that are all the same are their mean exactly.
/// mean.size() is d.
inline void mean_point(matrix_view<const float> points, std::span<double> mean) noexcept {
  const auto first = points.row(0);
  std::fill(mean.begin(), mean.end(), 0.0);
  for (index_t i = 1; i < points.rows(); ++i) {
    const auto x = points.row(i);
    for (index_t k = 0; k < mean.size(); ++k) {
      mean[k] += static_cast<double>(x[k]) - static_cast<double>(first[k]);
    }
  }
  const auto count = static_cast<double>(points.rows());
  for (index_t k = 0; k < mean.size(); ++k) {
    mean[k] /= count;
    mean[k] += static_cast<double>(first[k]);
  }
}

/// out[d, n] = points[n, d] transposed, less centre[d].
inline void centre_points(matrix_view<const float> points, std::span<const double> centre,
                          matrix_view<double> out) noexcept {
  for (index_t i = 0; i < points.rows(); ++i) {
    const auto x = points.row(i);
    for (index_t k = 0; k < x.size(); ++k) out(k, i) = static_cast<double>(x[k]) - centre[k];
  }
}

/// Variances (decreasing, never negative) along the principal axes of n >= 2 centred points x[d,
/// n], and the axes as orthonormal rows: those of x x^T / (n - 1). Refuses what symmetric_eigen
/// refuses. Uses ctx for the sums.
inline void principal_axes(matrix_view<const double> centred, std::span<double> variances,
                           matrix_view<double> axes, const kernels::context& ctx) {
  const index_t d = centred.rows();
  aligned_buffer<double> sums(d * d);
  const matrix_view<double> covariance(sums.data(), d, d);
  kernels::add_outer_gram(covariance, kernels::dense_sign::add, centred, ctx);
  const auto freedom = static_cast<double>(centred.cols() - 1);
  for (double& s : sums) s /= freedom;
  symmetric_eigen(covariance, variances, axes, ctx);
  for (double& v : variances) v = std::max(v, 0.0);  // of a singular matrix: rounding errors
}

/// How many of the leading axes hold `share` (0..1) of the variance: the least t with
/// v_1 + ... + v_t >= share * sum, with a slack of 1e-12 of the sum. 0 if there is no variance.
[[nodiscard]] inline index_t leading_axes(std::span<const double> variances,
                                          double share) noexcept {
  double sum = 0.0;
  for (const double v : variances) sum += v;
  const double wanted = (share - 1e-12) * sum;
  double held = 0.0;
  index_t t = 0;
  while (t < variances.size() && sum > 0.0 && held < wanted) held += variances[t++];
  return t;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
