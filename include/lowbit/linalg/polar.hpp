// linalg/polar.hpp: orthogonal polar factors, hence orthogonal Procrustes, in fp64. Layer L2, on
// top of kernels/dense and linalg/cholesky.
//
// M = U H with U orthogonal and H symmetric positive semidefinite. Of all orthogonal matrices U is
// the nearest to M, and for M = A^T B the one that brings A U nearest to B (Schönemann, 1966): with
// the singular vectors of M, U = P Q^T for M = P S Q^T. No singular value is computed here.
//
// The iteration is QDWH (Nakatsukasa, Bai and Gygi, 2010): X <- X (a I + b X^T X) (I + c X^T X)^-1
// keeps singular vectors and takes every singular value in [l, 1] closer to 1, with the best a, b,
// c for each l. Here l starts at 2^-27 of the largest, whatever M is, so that the weights are
// constants; smaller values take another round of the same four steps. Newton and Schulz's
// X <- X (3 I - X^T X) / 2 ends it.
//
// Invariant: products, Cholesky factors and elementwise operations that no compiler can contract:
// the same bits on every CPU, tier, compiler and number of threads.
#pragma once

#include <array>
#include <cmath>

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/linalg/elementwise.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {
namespace detail {

/// X <- X (a I + b X^T X) (I + c X^T X)^-1 = (b / c) X + (a - b / c) X (I + c X^T X)^-1.
struct polar_step {
  double c;        ///< what X^T X is multiplied by
  double keep;     ///< b / c
  double inverse;  ///< a - b / c

  /// b = (a - 1)^2 / 4 and c = a + b - 1 are best for every a: 1 stays where it is.
  [[nodiscard]] static constexpr polar_step with(double a) noexcept {
    const double b = (a - 1.0) * (a - 1.0) / 4.0;
    const double c = a + b - 1.0;
    return {c, b / c, a - b / c};
  }
};

/// The best a for l = 2^-27, and for what each step makes of l: .0049, .41, .989, 1 - 1.9e-8. (Any
/// weights near the best will do: they decide the speed, not the limit.)
inline constexpr std::array<polar_step, 4> polar_steps = {
    polar_step::with(660561.487), polar_step::with(87.1135), polar_step::with(4.89521),
    polar_step::with(3.01593)};
/// Where c is larger, I + c X^T X is too ill-conditioned to be inverted.
inline constexpr double most_c_of_cholesky = 100.0;
inline constexpr unsigned polar_rounds = 4;

/// The matrices that an iteration works on.
class polar_workspace {
 public:
  explicit polar_workspace(index_t n)
      : n_(n), a_(checked_mul(n, n, "a polar factor")), b_(n * n), c_(n * n) {}
  [[nodiscard]] matrix_view<double> a() noexcept { return {a_.data(), n_, n_}; }
  [[nodiscard]] matrix_view<double> b() noexcept { return {b_.data(), n_, n_}; }
  [[nodiscard]] matrix_view<double> c() noexcept { return {c_.data(), n_, n_}; }

 private:
  index_t n_;
  aligned_buffer<double> a_;
  aligned_buffer<double> b_;
  aligned_buffer<double> c_;
};

/// The lower triangle of gram += x^T x, for a square x; `scratch` is overwritten.
inline void add_column_gram(matrix_view<const double> x, matrix_view<double> gram,
                            matrix_view<double> scratch, const context& ctx) {
  copy_transposed(x, scratch);
  kernels::add_outer_gram(gram, dense_sign::add, scratch, ctx);
}

/// One step where I + c X^T X is well-conditioned.
[[nodiscard]] inline bool polar_by_cholesky(matrix_view<double> x, const polar_step& step,
                                            polar_workspace& w, const context& ctx) {
  const auto z = w.a();
  const auto solution = w.b();
  copy_scaled(x, std::sqrt(step.c), solution);
  set_diagonal(z, 1.0);
  add_column_gram(solution, z, w.c(), ctx);
  if (!cholesky(z, ctx)) return false;
  copy_scaled(x, step.inverse, solution);
  solve_cholesky(z, solution, ctx);
  for (index_t i = 0; i < x.rows(); ++i) {
    for (index_t j = 0; j < x.cols(); ++j) {
      x(i, j) = std::fma(step.keep, x(i, j), solution(i, j));
    }
  }
  return true;
}

/// One step where it is not: [sqrt(c) X; I] = [Q1; Q2] R gives sqrt(c) X (I + c X^T X)^-1 = Q1
/// Q2^T. Q comes from two rounds of Cholesky QR (Yamamoto and others, 2015): the second makes good
/// what the first lost to the condition of R, which is about sqrt(c) at most.
[[nodiscard]] inline bool polar_by_qr(matrix_view<double> x, const polar_step& step,
                                      polar_workspace& w, const context& ctx) {
  aligned_buffer<double> memory(x.shape().size());
  const matrix_view<double> q2(memory.data(), x.rows(), x.cols());
  const auto q1 = w.b();
  const double root = std::sqrt(step.c);
  copy_scaled(x, root, q1);
  set_diagonal(q2, 1.0);
  const auto gram = w.a();
  for (unsigned round = 0; round < 2; ++round) {
    set_diagonal(gram, round == 0 ? 1.0 : 0.0);  // q2 is I at first
    add_column_gram(q1, gram, w.c(), ctx);
    if (round != 0) add_column_gram(q2, gram, w.c(), ctx);
    if (!cholesky(gram, ctx)) return false;
    solve_factor(gram, q1, ctx);
    solve_factor(gram, q2, ctx);
  }
  copy_scaled(q1, step.inverse / root, q1);
  copy_scaled(x, step.keep, x);
  kernels::add_product_transposed(x, dense_sign::add, q1, q2, ctx);
  return true;
}

/// I - X^T X into w.a(), and its Frobenius norm.
[[nodiscard]] inline double orthogonality_defect(matrix_view<const double> x, polar_workspace& w,
                                                 const context& ctx) {
  const auto defect = w.a();
  set_diagonal(defect, 1.0);
  copy_transposed(x, w.c());
  kernels::add_outer_gram(defect, dense_sign::subtract, w.c(), ctx);
  kernels::mirror_lower(defect);
  double sum = 0.0;
  for (index_t i = 0; i < x.rows(); ++i) {
    for (index_t j = 0; j < x.cols(); ++j) sum = std::fma(defect(i, j), defect(i, j), sum);
  }
  return std::sqrt(sum);
}

/// Newton and Schulz's steps, from a defect that is below 1: each squares it. False if it is not.
[[nodiscard]] inline bool polish_orthogonal(matrix_view<double> x, polar_workspace& w,
                                            const context& ctx) {
  for (double before = 0.5;;) {
    const double defect = orthogonality_defect(x, w, ctx);
    if (!(defect < before)) return before < 0.5;  // from where on it is rounding only
    before = defect;
    copy_scaled(x, 0.5, w.b());
    kernels::add_product(x, dense_sign::add, w.b(), w.a(), ctx);
    if (defect <= 1e-8) return true;  // 1e-16 by now
  }
}

/// A bound of the spectral norm: the lesser of Frobenius' norm and sqrt(|M|_1 |M|_inf).
[[nodiscard]] inline double spectral_bound(matrix_view<const double> m) {
  aligned_buffer<double> columns(m.cols());
  double squares = 0.0;
  double largest_row = 0.0;
  for (index_t i = 0; i < m.rows(); ++i) {
    double row = 0.0;
    for (index_t j = 0; j < m.cols(); ++j) {
      const double size = std::fabs(m(i, j));
      squares = std::fma(size, size, squares);
      row += size;
      columns[j] += size;
    }
    largest_row = std::max(largest_row, row);
  }
  double largest_column = 0.0;
  for (const double size : columns) largest_column = std::max(largest_column, size);
  return std::min(std::sqrt(squares), std::sqrt(largest_row) * std::sqrt(largest_column));
}

}  // namespace detail

/// M[N, N] becomes the nearest orthogonal matrix, for an M that is nearly orthogonal already
/// (|I - M^T M| < 1/2 in Frobenius' norm): orthogonal to rounding afterwards. False, leaving M as
/// it was, if it is not.
[[nodiscard]] inline bool reorthonormalize(matrix_view<double> m, const kernels::context& ctx) {
  detail::check_square(m.shape(), "the matrix to orthonormalize");
  const detail::scratch_context with_scratch(ctx);
  detail::polar_workspace w(m.rows());
  return detail::polish_orthogonal(m, w, with_scratch.get());
}

/// M[N, N] becomes its orthogonal polar factor U, orthogonal to rounding: the orthogonal matrix
/// nearest to M. Where singular values of M are so small that rounding decides (below about 2^-50
/// of the largest), so does rounding about U's part in their directions, the same way everywhere.
/// Returns false, leaving M unspecified, if M is singular (or not finite). About 18 N^3 fused
/// multiply-adds; memory: 4 N^2 doubles.
[[nodiscard]] inline bool polar_factor(matrix_view<double> m, const kernels::context& ctx) {
  detail::check_square(m.shape(), "the matrix to factor");
  if (m.rows() == 0) return true;
  const double bound = detail::spectral_bound(m);
  if (!(bound > 0.0) || !std::isfinite(bound)) return false;
  for (index_t i = 0; i < m.rows(); ++i) {
    for (double& x : m.row(i)) x /= bound;
  }
  const detail::scratch_context with_scratch(ctx);
  const kernels::context& inner = with_scratch.get();
  detail::polar_workspace w(m.rows());
  for (unsigned round = 0; round < detail::polar_rounds; ++round) {
    for (const detail::polar_step& step : detail::polar_steps) {
      const bool done = step.c > detail::most_c_of_cholesky
                            ? detail::polar_by_qr(m, step, w, inner)
                            : detail::polar_by_cholesky(m, step, w, inner);
      if (!done) return false;
    }
    if (detail::polish_orthogonal(m, w, inner)) return true;
  }
  return false;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
