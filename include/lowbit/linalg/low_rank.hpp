// linalg/low_rank.hpp: dominant subspaces and truncated singular value decompositions, in fp64.
// Layer L2, on top of kernels/dense and linalg/cholesky.
//
// Block power iteration with a random start (Halko, Martinsson and Tropp, 2011), orthonormalized by
// shifted Cholesky QR (Fukaya and others, 2020), which is products and a factor; and, for few
// vectors, Rayleigh and Ritz's step, by Jacobi.
//
// Invariant: same bits on every CPU, tier, compiler and number of threads.
#pragma once

#include <utility>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/linalg/elementwise.hpp"
#include "lowbit/linalg/symmetric_eigen.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// M ~ left diag(values) right^T: singular vectors as columns, values in decreasing order.
struct truncated_svd {
  dense_matrix left;           ///< [rows of M, k]
  std::vector<double> values;  ///< k
  dense_matrix right;          ///< [columns of M, k]
};

struct truncated_svd_options {
  unsigned iterations = 4;  ///< products with M M^T
  index_t more = 8;  ///< vectors beyond those asked for, which make iterations converge faster
  std::uint64_t seed = 0;
};

namespace detail {

/// The columns of x [n, k] become orthonormal; those that depend on the ones before become
/// something small or arbitrary (a column of zeros stays), but finite.
inline void orthonormalize_columns(dense_matrix& x, const kernels::context& ctx) {
  dense_matrix transposed(x.cols(), x.rows());
  dense_matrix gram(x.cols(), x.cols());
  for (unsigned round = 0; round < 3; ++round) {
    copy_transposed(x.view(), transposed.view());
    gram.fill(0.0);
    kernels::add_outer_gram(gram.view(), kernels::dense_sign::add, transposed.view(), ctx);
    // Columns of length 1, so that none is lost beside larger ones.
    std::vector<double> length(x.cols());
    for (index_t j = 0; j < x.cols(); ++j) {
      const double root = std::sqrt(gram(j, j));
      length[j] = root > 0.0 ? root : 1.0;
    }
    for (index_t i = 0; i < x.rows(); ++i) {
      for (index_t j = 0; j < x.cols(); ++j) x(i, j) /= length[j];
    }
    for (index_t i = 0; i < x.cols(); ++i) {
      for (index_t j = 0; j <= i; ++j) {
        gram(i, j) /= length[i];
        gram(i, j) /= length[j];
      }
      gram(i, i) += round == 0 ? 1e-10 : 1e-14;
    }
    if (!cholesky(gram.view(), ctx)) return;
    solve_factor(gram.view(), x.view(), ctx);
  }
}

/// How many singular values Jacobi's method still separates in reasonable time.
inline constexpr index_t most_ritz_vectors = 160;

}  // namespace detail

/// The `rank` largest singular values of m and their vectors, at most min(rows, cols) of them.
/// Converges by (s_{k + more} / s_k)^2 per iteration. With more than 150 vectors there is no Ritz
/// step: the span is as good, but the single vectors are what the iteration has separated, in the
/// order of |M^T u|, and `values` are these lengths. m must be finite. Thread-safe, but for
/// ctx.scratch.
[[nodiscard]] inline truncated_svd find_truncated_svd(matrix_view<const double> m, index_t rank,
                                                      const truncated_svd_options& options,
                                                      const kernels::context& ctx) {
  using kernels::dense_sign;
  const index_t most = std::min(m.rows(), m.cols());
  const index_t kept = std::min(rank, most);
  const index_t k = std::min(kept + options.more, most);
  truncated_svd svd{dense_matrix(m.rows(), kept), std::vector<double>(kept),
                    dense_matrix(m.cols(), kept)};
  if (kept == 0) return svd;
  const detail::scratch_context with_scratch(ctx);
  const kernels::context& inner = with_scratch.get();
  dense_matrix transposed(m.cols(), m.rows());
  detail::copy_transposed(m, transposed.view());
  dense_matrix right(m.cols(), k);
  dense_matrix left(m.rows(), k);
  for (index_t i = 0; i < right.size(); ++i) {
    right.data()[i] = static_cast<double>(random_uniform(options.seed, i)) - 0.5;
  }
  for (unsigned i = 0;; ++i) {
    left.fill(0.0);
    kernels::add_product(left.view(), dense_sign::add, m, right.view(), inner);
    detail::orthonormalize_columns(left, inner);
    right.fill(0.0);
    kernels::add_product(right.view(), dense_sign::add, transposed.view(), left.view(), inner);
    if (i == options.iterations) break;
    detail::orthonormalize_columns(right, inner);
  }
  // M ~ left right^T. The eigenvectors of right^T right turn both.
  dense_matrix rows(k, m.cols());
  detail::copy_transposed(right.view(), rows.view());
  std::vector<double> squares(k);
  dense_matrix turn(kept, k);
  if (k <= detail::most_ritz_vectors) {
    dense_matrix gram(k, k);
    dense_matrix vectors(k, k);
    kernels::add_outer_gram(gram.view(), dense_sign::add, rows.view(), inner);
    symmetric_eigen(gram.view(), squares, vectors.view(), inner);
    std::copy_n(vectors.data(), turn.size(), turn.data());
  } else {
    std::vector<index_t> order(k);
    for (index_t j = 0; j < k; ++j) {
      order[j] = j;
      squares[j] = dot(rows.row(j), rows.row(j));
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](index_t a, index_t b) { return squares[a] > squares[b]; });
    for (index_t j = 0; j < kept; ++j) turn(j, order[j]) = 1.0;
    std::stable_sort(squares.begin(), squares.end(), [](double a, double b) { return a > b; });
  }
  kernels::add_product_transposed(svd.left.view(), dense_sign::add, left.view(), turn.view(),
                                  inner);
  kernels::add_product_transposed(svd.right.view(), dense_sign::add, right.view(), turn.view(),
                                  inner);
  for (index_t j = 0; j < kept; ++j) {
    svd.values[j] = std::sqrt(std::max(squares[j], 0.0));
    const double length = svd.values[j] > 0.0 ? svd.values[j] : 1.0;
    for (index_t i = 0; i < m.cols(); ++i) svd.right(i, j) /= length;
  }
  return svd;
}

namespace detail {

/// Gram and Schmidt's process, modified, twice, for few rows. What depends on the rows before
/// becomes zeros.
inline void orthonormalize_rows(dense_matrix& x) {
  for (index_t k = 0; k < x.rows(); ++k) {
    const double before = dot(x.row(k), x.row(k));
    for (unsigned round = 0; round < 2; ++round) {
      for (index_t t = 0; t < k; ++t) {
        const double part = -dot(x.row(t), x.row(k));
        for (index_t j = 0; j < x.cols(); ++j) x(k, j) = std::fma(part, x(t, j), x(k, j));
      }
    }
    const double length = std::sqrt(dot(x.row(k), x.row(k)));
    const bool independent = length > 1e-13 * std::sqrt(before);
    for (double& v : x.row(k)) v = independent ? v / length : 0.0;
  }
}

/// Of left^T right, with orthonormal rows (or zeros) of left: turns both so that the rows of right
/// are orthogonal, too, the longest first. A row of left whose sum is negative changes its sign.
inline void separate_products(dense_matrix& left, dense_matrix& right,
                              const kernels::context& ctx) {
  const index_t k = left.rows();
  dense_matrix gram(k, k);
  dense_matrix vectors(k, k);
  std::vector<double> squares(k);
  kernels::add_outer_gram(gram.view(), kernels::dense_sign::add, std::as_const(right).view(), ctx);
  symmetric_eigen(gram.view(), squares, vectors.view(), ctx);
  for (dense_matrix* const x : {&left, &right}) {
    dense_matrix turned(k, x->cols());
    kernels::add_product(turned.view(), kernels::dense_sign::add, std::as_const(vectors).view(),
                         std::as_const(*x).view(), ctx);
    *x = std::move(turned);
  }
  for (index_t i = 0; i < k; ++i) {
    double sum = 0.0;
    for (const double v : left.row(i)) sum += v;
    if (sum < 0.0) {
      for (double& v : left.row(i)) v = -v;
      for (double& v : right.row(i)) v = -v;
    }
  }
}

}  // namespace detail

/// left^T right, a sum of few outer products, with orthogonal ones: what is largest comes first,
/// and nothing cancels. Rows of left have length 1 then.
inline void orthogonalize_products(dense_matrix& left, dense_matrix& right,
                                   const kernels::context& ctx) {
  dense_matrix basis = left;
  detail::orthonormalize_rows(basis);
  dense_matrix parts(left.rows(), left.rows());
  for (index_t t = 0; t < left.rows(); ++t) {
    for (index_t k = 0; k < left.rows(); ++k) {
      parts(t, k) = dot(std::as_const(basis).row(t), std::as_const(left).row(k));
    }
  }
  dense_matrix turned(right.rows(), right.cols());
  kernels::add_product(turned.view(), kernels::dense_sign::add, std::as_const(parts).view(),
                       std::as_const(right).view(), ctx);
  left = std::move(basis);
  right = std::move(turned);
  detail::separate_products(left, right, ctx);
}

/// The best approximation of a matrix by a sum of few outer products, found again and again for a
/// matrix that changes little: each time starts where the last one ended.
class low_rank_tracker {
 public:
  low_rank_tracker() = default;
  /// Of matrices [rows, cols], by `rank` products. Of rank 1 it expects them to be non-negative.
  low_rank_tracker(index_t rows, index_t cols, index_t rank)
      : rank_(rank),
        width_(std::min({rank == 1 ? rank : rank + more, rows, cols})),
        left_(width_, rows),
        right_(width_, cols),
        row_factors_(rank, rows),
        column_factors_(rank, cols) {}

  /// M ~ the sum over k < rank of row_factors[k]^T column_factors[k]; factors beyond the rank of M
  /// are zeros. Row factors have length 1. `iterations` >= 1 products with M and M^T.
  void fit(const dense_matrix& m, unsigned iterations, const kernels::context& ctx) {
    using kernels::dense_sign;
    if (width_ == 0) return;
    restart_lost_rows();
    for (unsigned i = 0; i < iterations; ++i) {
      left_.fill(0.0);
      kernels::add_product_transposed(left_.view(), dense_sign::add, right_.view(), m.view(), ctx);
      detail::orthonormalize_rows(left_);
      right_.fill(0.0);
      kernels::add_product(right_.view(), dense_sign::add, left_.view(), m.view(), ctx);
      if (i + 1 < iterations && width_ > 1) detail::orthonormalize_rows(right_);
    }
    if (width_ > 1) detail::separate_products(left_, right_, ctx);
    const index_t kept = std::min(rank_, width_);
    std::copy_n(left_.data(), kept * left_.cols(), row_factors_.data());
    std::copy_n(right_.data(), kept * right_.cols(), column_factors_.data());
  }

  [[nodiscard]] const dense_matrix& row_factors() const noexcept { return row_factors_; }
  [[nodiscard]] const dense_matrix& column_factors() const noexcept { return column_factors_; }

 private:
  static constexpr index_t more = 4;

  /// Where there is nothing to start from: ones, for what is non-negative, then random numbers.
  void restart_lost_rows() {
    for (index_t k = 0; k < width_; ++k) {
      if (dot(right_.row(k), right_.row(k)) > 0.0) continue;
      for (index_t j = 0; j < right_.cols(); ++j) {
        right_(k, j) = k == 0 ? 1.0 : static_cast<double>(random_uniform(k, j)) - 0.5;
      }
    }
  }

  index_t rank_ = 0;
  index_t width_ = 0;
  dense_matrix left_;   // [width, rows]
  dense_matrix right_;  // [width, cols]
  dense_matrix row_factors_;
  dense_matrix column_factors_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
