// formats/dbf/side.hpp: one factor while it is fitted: a sign matrix with a low-rank envelope.
// Layer L3.
//
// W ~ F G is worked on as two sides, F [n, r] and G^T [m, r], because normal equations have their
// right-hand sides as rows; each is
//
//   sign o (the sum over k < l of row_envelopes[k]^T column_envelopes[k]).
//
// An envelope may be negative somewhere: then the value has the other sign than `sign`.
//
// Invariant: everything here and in what builds on it is products, Cholesky factors and fused or
// single operations: the same bits on every CPU, tier, compiler and number of threads.
#pragma once

#include <utility>
#include <vector>

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/linalg/elementwise.hpp"
#include "lowbit/linalg/low_rank.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

using kernels::dense_sign;
using linalg::dense_matrix;

struct dbf_side {
  dense_matrix value;             ///< [rows, r]
  dense_matrix row_envelopes;     ///< [l, rows]
  dense_matrix column_envelopes;  ///< [l, r]
  dense_matrix gram;              ///< [r, r], lower triangle: value^T H value; H: see dbf_fitter

  dbf_side() = default;
  dbf_side(index_t rows, index_t middle, index_t envelopes)
      : value(rows, middle),
        row_envelopes(envelopes, rows),
        column_envelopes(envelopes, middle),
        gram(middle, middle) {}

  [[nodiscard]] index_t rows() const noexcept { return value.rows(); }
  [[nodiscard]] index_t middle() const noexcept { return value.cols(); }
  [[nodiscard]] index_t envelopes() const noexcept { return row_envelopes.rows(); }
};

/// out = row_envelopes^T column_envelopes.
inline void multiply_envelopes(const dense_matrix& row_envelopes,
                               const dense_matrix& column_envelopes, dense_matrix& out,
                               const kernels::context& ctx) {
  dense_matrix rows(row_envelopes.cols(), row_envelopes.rows());
  linalg::detail::copy_transposed(row_envelopes.view(), rows.view());
  out.reset(row_envelopes.cols(), column_envelopes.cols());
  kernels::add_product(out.view(), dense_sign::add, std::as_const(rows).view(),
                       column_envelopes.view(), ctx);
}

/// +-1 such that the side's value is sign * envelope, exactly.
inline void find_signs(const dbf_side& x, dense_matrix& signs, const kernels::context& ctx) {
  multiply_envelopes(x.row_envelopes, x.column_envelopes, signs, ctx);
  for (index_t i = 0; i < signs.size(); ++i) {
    const bool same = std::signbit(signs.data()[i]) == std::signbit(x.value.data()[i]);
    signs.data()[i] = same ? 1.0 : -1.0;
  }
}

/// x.value from signs (of which only their signs count) and the envelopes.
inline void apply_signs(const dense_matrix& signs, dbf_side& x, const kernels::context& ctx) {
  multiply_envelopes(x.row_envelopes, x.column_envelopes, x.value, ctx);
  for (index_t i = 0; i < signs.size(); ++i) {
    if (std::signbit(signs.data()[i])) x.value.data()[i] = -x.value.data()[i];
  }
}

/// The lower triangle of gram = x^T H x, or of x^T x if `hessian` is empty.
inline void find_column_gram(const dense_matrix& x, matrix_view<const double> hessian,
                             dense_matrix& gram, const kernels::context& ctx) {
  dense_matrix transposed(x.cols(), x.rows());
  linalg::detail::copy_transposed(x.view(), transposed.view());
  gram.reset(x.cols(), x.cols());
  if (hessian.empty()) {
    kernels::add_outer_gram(gram.view(), dense_sign::add, std::as_const(transposed).view(), ctx);
    return;
  }
  dense_matrix weighted(x.rows(), x.cols());
  kernels::add_product(weighted.view(), dense_sign::add, hessian, x.view(), ctx);
  kernels::add_product(gram.view(), dense_sign::add, std::as_const(transposed).view(),
                       std::as_const(weighted).view(), ctx);
}

/// The sum of the elements of A o B for symmetric A and B, of which the lower triangles are read.
[[nodiscard]] inline double dot_symmetric(const dense_matrix& a, const dense_matrix& b) noexcept {
  double sum = 0.0;
  for (index_t i = 0; i < a.rows(); ++i) {
    sum += 2.0 * linalg::dot(a.row(i).first(i), b.row(i).first(i));
    sum = std::fma(a(i, i), b(i, i), sum);
  }
  return sum;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
