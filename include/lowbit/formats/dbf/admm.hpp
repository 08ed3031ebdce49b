// formats/dbf/admm.hpp: W ~ F G for sign matrices with low-rank envelopes, by alternating directions.
// Layer L3.
//
// One path of the factorization is two sides, F [n, r] and G^T [m, r], each
//
//   sign o (the sum over k < l of row_envelope[k] column_envelope[k]^T).
//
// A step improves one side while the other is fixed: least squares with a penalty for the distance
// to that form, and the multipliers of ADMM (Boža and Macko, arXiv 2505.11076; several envelopes:
// Ichikawa and others, arXiv 2512.24545).
//
// Invariant: everything is products, Cholesky factors and fused or single operations: the same bits
// on every CPU, tier, compiler and number of threads.
#pragma once

#include <utility>
#include <vector>

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/linalg/elementwise.hpp"
#include "lowbit/linalg/low_rank.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

using kernels::dense_sign;
using linalg::dense_matrix;

/// sign o envelope, as tall as the outputs (F) or the inputs (G^T) are many.
struct dbf_side {
  dense_matrix value;             ///< [rows, r]
  dense_matrix row_envelopes;     ///< [l, rows]
  dense_matrix column_envelopes;  ///< [l, r]
  dense_matrix gram;              ///< [r, r], lower triangle: value^T value

  dbf_side() = default;
  dbf_side(index_t rows, index_t middle, index_t envelopes)
      : value(rows, middle),
        row_envelopes(envelopes, rows),
        column_envelopes(envelopes, middle),
        gram(middle, middle) {}

  [[nodiscard]] index_t rows() const noexcept { return value.rows(); }
  [[nodiscard]] index_t middle() const noexcept { return value.cols(); }
};

/// out = A^T B of a side's envelopes.
inline void multiply_envelopes(const dense_matrix& row_envelopes,
                               const dense_matrix& column_envelopes, dense_matrix& out,
                               const kernels::context& ctx) {
  dense_matrix rows(row_envelopes.cols(), row_envelopes.rows());
  linalg::detail::copy_transposed(row_envelopes.view(), rows.view());
  out.fill(0.0);
  kernels::add_product(out.view(), dense_sign::add, rows.view(), column_envelopes.view(), ctx);
}

/// The lower triangle of gram = x^T x.
inline void find_column_gram(const dense_matrix& x, dense_matrix& gram,
                             const kernels::context& ctx) {
  dense_matrix transposed(x.cols(), x.rows());
  linalg::detail::copy_transposed(x.view(), transposed.view());
  gram.fill(0.0);
  kernels::add_outer_gram(gram.view(), dense_sign::add, transposed.view(), ctx);
}

/// What ADMM remembers of a side.
struct dbf_multipliers {
  dense_matrix dual;                  ///< scaled multipliers [rows, r]
  linalg::low_rank_tracker envelope;  ///< of the magnitudes

  dbf_multipliers() = default;
  dbf_multipliers(index_t rows, index_t middle, index_t envelopes)
      : dual(rows, middle), envelope(rows, middle, envelopes) {}
};

/// How a side is updated.
struct dbf_step {
  double penalty = 1.0;  ///< of the first solution
  double ridge = 0.03;   ///< times the mean of the diagonal
  double later = 1.0;
  unsigned inner = 3;    ///< solutions per step
  unsigned power_iterations = 2;
};

class dbf_stepper {
 public:
  explicit dbf_stepper(const kernels::context& ctx) : with_scratch_(ctx), ctx_(with_scratch_.get()) {}

  /// x.value = the matrix of the form that is nearest to `m`, but for what the power iteration has
  /// not found and for envelopes below zero.
  void project(const dense_matrix& m, dbf_side& x, dbf_multipliers& kept, unsigned iterations) {
    magnitudes_ = m;
    for (double& v : magnitudes_.elements()) v = std::fabs(v);
    kept.envelope.fit(magnitudes_, iterations, ctx_);
    x.row_envelopes = kept.envelope.row_factors();
    x.column_envelopes = kept.envelope.column_factors();
    multiply_envelopes(x.row_envelopes, x.column_envelopes, x.value, ctx_);
    for (index_t i = 0; i < m.size(); ++i) {
      if (m.data()[i] < 0.0) x.value.data()[i] = -x.value.data()[i];
    }
  }

  /// One step for x in target [rows of x, rows of y] ~ x y^T. Returns |target - x y^T|^2 -
  /// |target|^2.
  double update(dbf_side& x, dbf_multipliers& kept, const dbf_side& y,
                matrix_view<const double> target, const dbf_step& step) {
    const index_t r = x.middle();
    find_system(y, target);
    double trace = 0.0;
    for (index_t j = 0; j < r; ++j) trace += system_(j, j);
    const double ridge = step.ridge * (trace / static_cast<double>(r));
    // With y's columns of length 1 the penalty means the same for each of them.
    dense_matrix first = system_;
    for (index_t j = 0; j < r; ++j) first(j, j) += ridge + step.penalty;
    factor(first);
    dense_matrix later = system_;
    for (index_t j = 0; j < r; ++j) later(j, j) += ridge + step.later;
    factor(later);
    for (unsigned i = 0; i < step.inner; ++i) {
      // (K + penalty I) B = R + penalty (Z - U); then Z is nearest to B + U, and U = B + U - Z.
      dense_matrix& difference = magnitudes_;
      difference = x.value;
      for (index_t e = 0; e < x.value.size(); ++e) difference.data()[e] -= kept.dual.data()[e];
      dense_matrix solution = right_;
      linalg::add_scaled(solution, i == 0 ? step.penalty : step.later, difference, ctx_);
      linalg::solve_cholesky((i == 0 ? first : later).view(), solution.view(), ctx_);
      for (index_t e = 0; e < solution.size(); ++e) solution.data()[e] += kept.dual.data()[e];
      project(solution, x, kept, step.power_iterations);
      for (index_t e = 0; e < solution.size(); ++e) {
        kept.dual.data()[e] = solution.data()[e] - x.value.data()[e];
      }
    }
    find_column_gram(x.value, x.gram, ctx_);
    // x fits target ~ x (y / length)^T.
    double change = -2.0 * linalg::dot(right_.elements(), x.value.elements());
    for (index_t i = 0; i < r; ++i) {
      const double off =
          2.0 * linalg::dot(system_.row(i).first(i), std::as_const(x.gram).row(i).first(i));
      change += off;
      change = std::fma(system_(i, i), x.gram(i, i), change);
    }
    return change;
  }

  [[nodiscard]] const std::vector<double>& lengths() const noexcept { return lengths_; }

 private:
  void factor(dense_matrix& a) {
    LOWBIT_CHECK(linalg::cholesky(a.view(), ctx_), value,
                 "the factors' products are not finite");
  }

  /// The normal equations of target ~ x y^T, with y's columns of length 1.
  void find_system(const dbf_side& y, matrix_view<const double> target) {
    const index_t r = y.middle();
    lengths_.resize(r);
    for (index_t j = 0; j < r; ++j) {
      const double length = std::sqrt(y.gram(j, j));
      lengths_[j] = length > 0.0 ? length : 1.0;
    }
    system_ = y.gram;
    for (index_t i = 0; i < r; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        system_(i, j) /= lengths_[i];
        system_(i, j) /= lengths_[j];
      }
    }
    right_ = dense_matrix(target.rows(), r);
    kernels::add_product(right_.view(), dense_sign::add, target, y.value.view(), ctx_);
    for (index_t i = 0; i < right_.rows(); ++i) {
      for (index_t j = 0; j < r; ++j) right_(i, j) /= lengths_[j];
    }
  }

  linalg::detail::scratch_context with_scratch_;
  const kernels::context& ctx_;
  dense_matrix system_;  // lower triangle
  dense_matrix right_;
  dense_matrix magnitudes_;
  std::vector<double> lengths_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
