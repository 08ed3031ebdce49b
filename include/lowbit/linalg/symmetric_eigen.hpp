// linalg/symmetric_eigen.hpp: eigenvalues and eigenvectors of small symmetric matrices, in fp64.
// Layer L2, on top of kernels/dense.
//
// Cyclic Jacobi (Jacobi, 1846; rotations as in Rutishauser, 1966): slow for large matrices,
// accurate and simple for the 8 to 128 coordinates of local PCA. 32 x 32 takes 0.5 ms.
//
// Invariant: same bits on every CPU, tier and compiler: an element is moved by fused multiply-adds
// in a stated order (the axpy of kernels/dense), and angles come from divisions and square roots.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {
namespace detail {

/// [A | V^T], rows padded for axpy: a Jacobi rotation turns two rows of A and of V^T alike.
class jacobi_rows {
 public:
  jacobi_rows(matrix_view<const double> lower, kernels::dense_axpy_fn axpy)
      : n_(lower.rows()),
        half_(div_up(n_, kernels::dense_axpy_step) * kernels::dense_axpy_step),
        rows_(2 * half_ * n_),
        turned_(4 * half_),
        axpy_(axpy) {
    for (index_t i = 0; i < n_; ++i) {
      for (index_t j = 0; j <= i; ++j) row(i)[j] = row(j)[i] = lower(i, j);
      vector(i)[i] = 1.0;
    }
  }

  [[nodiscard]] double* row(index_t i) noexcept { return rows_.data() + i * 2 * half_; }
  [[nodiscard]] double* vector(index_t i) noexcept { return row(i) + half_; }

  /// One pass over all pairs. False if no element was above `negligible`.
  bool sweep(double negligible) noexcept {
    bool turned = false;
    for (index_t p = 0; p < n_; ++p) {
      for (index_t q = p + 1; q < n_; ++q) {
        if (!(std::fabs(row(p)[q]) > negligible)) continue;
        turn(p, q);
        turned = true;
      }
    }
    return turned;
  }

 private:
  /// Makes A[p][q] zero.
  void turn(index_t p, index_t q) noexcept {
    double* const x = row(p);
    double* const y = row(q);
    const double xx = x[p];
    const double yy = y[q];
    const double xy = x[q];
    const double theta = (yy - xx) / (2.0 * xy);
    const double root = std::sqrt(std::fma(theta, theta, 1.0));
    const double tangent = std::copysign(1.0 / (std::fabs(theta) + root), theta);
    const double cosine = 1.0 / std::sqrt(std::fma(tangent, tangent, 1.0));
    const double sine = tangent * cosine;
    const double ratio = sine / (1.0 + cosine);
    // x' = x - sine (y + ratio x), y' = y + sine (x - ratio y)
    double* const from_y = turned_.data();
    double* const from_x = from_y + 2 * half_;
    std::copy_n(y, 2 * half_, from_y);
    std::copy_n(x, 2 * half_, from_x);
    axpy_(ratio, x, from_y, 2 * half_);
    axpy_(-ratio, y, from_x, 2 * half_);
    axpy_(-sine, from_y, x, 2 * half_);
    axpy_(sine, from_x, y, 2 * half_);
    x[p] = std::fma(-tangent, xy, xx);
    y[q] = std::fma(tangent, xy, yy);
    x[q] = 0.0;
    y[p] = 0.0;
    for (index_t i = 0; i < n_; ++i) {
      row(i)[p] = x[i];
      row(i)[q] = y[i];
    }
  }

  index_t n_;
  index_t half_;
  aligned_buffer<double> rows_;
  aligned_buffer<double> turned_;
  kernels::dense_axpy_fn axpy_;
};

}  // namespace detail

/// The symmetric A[n, n], of which the lower triangle is read: values[n] in decreasing order (equal
/// ones as Jacobi left them) and, as rows of vectors[n, n], the eigenvectors of length 1. Absolute
/// errors of values are a few n * 2^-53 |A|. Refuses other shapes (shape) and a lower triangle that
/// is not finite (value, with the element). Of ctx only the allowed features count. Thread-safe.
inline void symmetric_eigen(matrix_view<const double> a, std::span<double> values,
                            matrix_view<double> vectors, const kernels::context& ctx) {
  const index_t n = a.rows();
  LOWBIT_CHECK(a.cols() == n && values.size() == n && vectors.shape() == a.shape(), shape,
               "eigenvectors of [", n, ", ", a.cols(), "] do not fit [", vectors.rows(), ", ",
               vectors.cols(), "] and ", values.size(), " values");
  double largest = 0.0;
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      LOWBIT_CHECK(std::isfinite(a(i, j)), value, "element (", i, ", ", j,
                   ") of the symmetric matrix is not finite");
      largest = std::max(largest, std::fabs(a(i, j)));
    }
  }
  detail::jacobi_rows rows(a, kernels::select_dense(ctx.allowed).run.axpy);
  // What is left out changes values by less than their rounding errors. Convergence is quadratic
  // (6 to 10 sweeps for n = 32); the limit is for arithmetic that no proof covers.
  constexpr int max_sweeps = 64;
  for (int i = 0; i < max_sweeps && rows.sweep(largest * 0x1p-60); ++i) {
  }
  std::vector<index_t> order(n);
  for (index_t i = 0; i < n; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t i, index_t j) { return rows.row(i)[i] > rows.row(j)[j]; });
  for (index_t i = 0; i < n; ++i) {
    values[i] = rows.row(order[i])[order[i]];
    std::copy_n(rows.vector(order[i]), n, vectors.row(i).data());
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
