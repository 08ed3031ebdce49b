// formats/dbf/admm.hpp: one side of W ~ F G fitted while the other is fixed, by alternating
// directions. Layer L3.
//
// For the side x [rows, r] and the other side y, with K = y^T y, R = target y, and H = I or the
// Hessian of the rows of x:
//
//   minimise tr(H x K x^T) - 2 <R, x>   for x = sign o low-rank envelope.
//
// ADMM (Boža and Macko, arXiv 2505.11076; several envelopes: Ichikawa and others, arXiv
// 2512.24545): B solves H B K + p B = R + p (Z - U), which forgets the form of x; Z is nearest to B
// + U in that form; the multipliers U collect what B and Z differ by. y's columns are taken with
// length 1, so that the penalty p means the same to each. It grows from iteration to iteration, and
// the signs freeze slowly.
//
// Without H the solution is one Cholesky factor for all rows. With it, rows meet: conjugate
// gradients, preconditioned by what the solution is without H, from the last solution on.
#pragma once

#include "lowbit/formats/dbf/side.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// What ADMM remembers of a side.
struct dbf_multipliers {
  dense_matrix dual;                  ///< scaled multipliers [rows, r]
  dense_matrix solution;              ///< the last one, if there is a Hessian
  linalg::low_rank_tracker envelope;  ///< of the magnitudes

  dbf_multipliers() = default;
  dbf_multipliers(index_t rows, index_t middle, index_t envelopes)
      : dual(rows, middle), envelope(rows, middle, envelopes) {}
};

struct dbf_step {
  double penalty = 1.0;       ///< of the first solution
  double last_penalty = 1.0;  ///< of the others
  double ridge = 0.03;        ///< times the mean of K's diagonal
  unsigned inner = 2;         ///< solutions
  unsigned power_iterations = 2;
  unsigned conjugate_gradients = 2;
};

class dbf_stepper {
 public:
  explicit dbf_stepper(const kernels::context& ctx)
      : with_scratch_(ctx), ctx_(with_scratch_.get()) {}

  /// x becomes the matrix of its form that is nearest to m, but for what the power iteration has
  /// not found and where envelopes are below zero.
  void project(const dense_matrix& m, dbf_side& x, dbf_multipliers& kept, unsigned iterations) {
    magnitudes_.assign(m);
    for (double& v : magnitudes_.elements()) v = std::fabs(v);
    kept.envelope.fit(magnitudes_, iterations, ctx_);
    x.row_envelopes.assign(kept.envelope.row_factors());
    x.column_envelopes.assign(kept.envelope.column_factors());
    apply_signs(m, x, ctx_);
  }

  /// One step for x in target ~ x y^T, given y's gram (K) and right = R. Returns by what the
  /// objective, as above, is now; x's columns are then those for y's of length 1, and `lengths`
  /// says what y's are.
  double update(dbf_side& x, dbf_multipliers& kept, const dbf_side& y, const dense_matrix& right,
                matrix_view<const double> hessian, const dbf_step& step) {
    const index_t r = x.middle();
    find_system(y, right);
    double trace = 0.0;
    for (index_t j = 0; j < r; ++j) trace += system_(j, j);
    const double mean = trace / static_cast<double>(std::max<index_t>(r, 1));
    const bool coupled = !hessian.empty();
    for (unsigned i = 0; i < step.inner; ++i) {
      const double penalty = i == 0 ? step.penalty : step.last_penalty;
      if (i < 2) factor(std::fma(step.ridge, mean, penalty));
      // R + penalty (Z - U)
      difference_.assign(x.value);
      for (index_t e = 0; e < difference_.size(); ++e) {
        difference_.data()[e] -= kept.dual.data()[e];
      }
      solution_.assign(right_);
      linalg::add_scaled(solution_, penalty, difference_, ctx_);
      if (coupled) {
        if (kept.solution.shape() != x.value.shape()) kept.solution = x.value;
        solve_coupled(kept.solution, hessian, std::fma(step.ridge, mean, 0.0), penalty,
                      step.conjugate_gradients);
        solution_.assign(kept.solution);
      } else {
        linalg::solve_cholesky(std::as_const(factor_).view(), solution_.view(), ctx_);
      }
      for (index_t e = 0; e < solution_.size(); ++e) solution_.data()[e] += kept.dual.data()[e];
      project(solution_, x, kept, step.power_iterations);
      for (index_t e = 0; e < solution_.size(); ++e) {
        kept.dual.data()[e] = solution_.data()[e] - x.value.data()[e];
      }
    }
    find_column_gram(x.value, hessian, x.gram, ctx_);
    return -2.0 * linalg::dot(std::as_const(right_).elements(), std::as_const(x.value).elements()) +
           dot_symmetric(system_, x.gram);
  }

  /// Of the columns of y in the last step; 1 for columns of zeros.
  [[nodiscard]] const std::vector<double>& lengths() const noexcept { return lengths_; }

 private:
  /// K and R with y's columns of length 1.
  void find_system(const dbf_side& y, const dense_matrix& right) {
    const index_t r = y.middle();
    lengths_.resize(r);
    for (index_t j = 0; j < r; ++j) {
      const double length = std::sqrt(y.gram(j, j));
      lengths_[j] = length > 0.0 ? length : 1.0;
    }
    system_.assign(y.gram);
    for (index_t i = 0; i < r; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        system_(i, j) /= lengths_[i];
        system_(i, j) /= lengths_[j];
      }
    }
    right_.assign(right);
    for (index_t i = 0; i < right_.rows(); ++i) {
      for (index_t j = 0; j < r; ++j) right_(i, j) /= lengths_[j];
    }
  }

  /// factor_ of K + diagonal I.
  void factor(double diagonal) {
    factor_.assign(system_);
    for (index_t j = 0; j < factor_.rows(); ++j) factor_(j, j) += diagonal;
    LOWBIT_CHECK(linalg::cholesky(factor_.view(), ctx_), value,
                 "a product of factors is not finite");
  }

  /// x with H x (K + ridge I) + penalty x = solution_, from x on.
  void solve_coupled(dense_matrix& x, matrix_view<const double> hessian, double ridge,
                     double penalty, unsigned iterations) {
    curvature_.assign(system_);
    kernels::mirror_lower(curvature_.view());
    for (index_t j = 0; j < curvature_.rows(); ++j) curvature_(j, j) += ridge;
    residual_.assign(solution_);
    apply_operator(x, hessian, penalty);
    linalg::add_scaled(residual_, -1.0, image_, ctx_);
    double before = 0.0;
    for (unsigned i = 0; i < iterations; ++i) {
      difference_.assign(residual_);
      linalg::solve_cholesky(std::as_const(factor_).view(), difference_.view(), ctx_);
      const double now =
          linalg::dot(std::as_const(residual_).elements(), std::as_const(difference_).elements());
      if (!(now > 0.0)) return;
      if (i == 0) {
        direction_.assign(difference_);
      } else {
        linalg::add_scaled(difference_, now / before, direction_, ctx_);
        std::swap(difference_, direction_);
      }
      before = now;
      apply_operator(direction_, hessian, penalty);
      const double curvature =
          linalg::dot(std::as_const(direction_).elements(), std::as_const(image_).elements());
      if (!(curvature > 0.0)) return;
      linalg::add_scaled(x, now / curvature, direction_, ctx_);
      linalg::add_scaled(residual_, -(now / curvature), image_, ctx_);
    }
  }
  /// image_ = H x curvature_ + penalty x.
  void apply_operator(const dense_matrix& x, matrix_view<const double> hessian, double penalty) {
    product_.reset(x.rows(), x.cols());
    kernels::add_product(product_.view(), dense_sign::add, x.view(),
                         std::as_const(curvature_).view(), ctx_);
    image_.reset(x.rows(), x.cols());
    kernels::add_product(image_.view(), dense_sign::add, hessian, std::as_const(product_).view(),
                         ctx_);
    linalg::add_scaled(image_, penalty, x, ctx_);
  }

  linalg::detail::scratch_context with_scratch_;
  const kernels::context& ctx_;
  dense_matrix system_;  // K, lower triangle
  dense_matrix factor_;
  dense_matrix right_;
  dense_matrix solution_;
  dense_matrix difference_;
  dense_matrix magnitudes_;
  dense_matrix curvature_;  // K + ridge I, both triangles
  dense_matrix residual_;
  dense_matrix direction_;
  dense_matrix product_;
  dense_matrix image_;
  std::vector<double> lengths_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
