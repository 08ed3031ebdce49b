// linalg/cholesky.hpp: Cholesky factors and what is solved with them, in fp64. Layer L2, on top of
// kernels/dense.
//
// Invariants:
//  * Same bits on every CPU, tier, compiler and number of threads. An element of a factor or a
//    solution is a sum of fused multiply-adds in one order (stated at each function) and a division
//    or a square root. Blocking does not show, but where a function says so.
//  * Inner products are kernels/dense tiles; what is left of a block of columns runs on its axpy,
//    with columns side by side, so that each step is a row of independent sums.
//  * Matrices are square where they have to be, else refused (shape). Results are left unspecified
//    when a function returns false.
//  * Thread-safe, but for ctx.scratch, which one call at a time may use.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {
namespace detail {

using kernels::context;
using kernels::dense_sign;

inline constexpr index_t factor_block = 128;  ///< columns that are factored without products
inline constexpr index_t solve_lanes = 64;    ///< right-hand sides of a task: 64 KiB with a block

/// A context that has scratch: the given one's, or its own.
class scratch_context {
 public:
  explicit scratch_context(const context& ctx) : ctx_(ctx) {
    if (ctx_.scratch == nullptr) ctx_.scratch = &own_;
  }
  scratch_context(const scratch_context&) = delete;
  scratch_context& operator=(const scratch_context&) = delete;
  ~scratch_context() = default;
  [[nodiscard]] const context& get() const noexcept { return ctx_; }

 private:
  kernels::workspace own_;
  context ctx_;
};

inline void check_square(shape2 shape, std::string_view what) {
  LOWBIT_CHECK(shape.rows == shape.cols, shape, what, " is [", shape.rows, ", ", shape.cols,
               "], not square");
}

template <class T>
[[nodiscard]] matrix_view<T> block_of(const matrix_view<T>& m, row_range rows,
                                      row_range cols) noexcept {
  return m.middle_rows(rows).middle_cols(cols.begin, cols.end);
}

/// Copies rows (at most solve_lanes) of b to the columns of t[b.cols()][solve_lanes]. Other lanes
/// become zeros.
inline void load_transposed(matrix_view<const double> b, double* t) noexcept {
  for (index_t i = 0; i < solve_lanes; ++i) {
    for (index_t j = 0; j < b.cols(); ++j) t[j * solve_lanes + i] = i < b.rows() ? b(i, j) : 0.0;
  }
}

inline void store_transposed(const double* t, matrix_view<double> b) noexcept {
  for (index_t i = 0; i < b.rows(); ++i) {
    for (index_t j = 0; j < b.cols(); ++j) b(i, j) = t[j * solve_lanes + i];
  }
}

/// Calls solve(t) on every solve_lanes rows of b, transposed to t[b.cols()][solve_lanes]; then b is
/// what t has become.
template <class Solve>
void solve_rows(matrix_view<double> b, const context& ctx, const Solve& solve) {
  ctx.scratch->reserve(kernels::workers(ctx), sizeof(double) * b.cols() * solve_lanes);
  kernels::parallel_for(ctx, div_up(b.rows(), solve_lanes), [&](index_t task, index_t worker) {
    const index_t begin = task * solve_lanes;
    const auto rows = b.middle_rows({begin, std::min(begin + solve_lanes, b.rows())});
    auto* const t = reinterpret_cast<double*>(ctx.scratch->slot(worker).data());
    load_transposed(rows, t);
    solve(t);
    store_transposed(t, rows);
  });
}

/// X L^T = B for one block of columns; X replaces B.
inline void solve_forward(matrix_view<const double> l, matrix_view<double> b, const context& ctx) {
  const auto axpy = kernels::select_dense(ctx.allowed).run.axpy;
  solve_rows(b, ctx, [&](double* t) {
    for (index_t j = 0; j < l.rows(); ++j) {
      double* const x = t + j * solve_lanes;
      for (index_t k = 0; k < j; ++k) axpy(-l(j, k), t + k * solve_lanes, x, solve_lanes);
      for (index_t i = 0; i < solve_lanes; ++i) x[i] /= l(j, j);
    }
  });
}

/// X L = B for one block of columns; X replaces B.
inline void solve_backward(matrix_view<const double> l, matrix_view<double> b, const context& ctx) {
  const auto axpy = kernels::select_dense(ctx.allowed).run.axpy;
  solve_rows(b, ctx, [&](double* t) {
    for (index_t j = l.rows(); j-- > 0;) {
      double* const x = t + j * solve_lanes;
      for (index_t k = j + 1; k < l.rows(); ++k)
        axpy(-l(k, j), t + k * solve_lanes, x, solve_lanes);
      for (index_t i = 0; i < solve_lanes; ++i) x[i] /= l(j, j);
    }
  });
}

/// The factor of one block, in place; the upper triangle becomes zero.
[[nodiscard]] inline bool factor_diagonal(matrix_view<double> a, kernels::dense_axpy_fn axpy) {
  constexpr index_t step = kernels::dense_axpy_step;
  constexpr index_t stride = factor_block;
  const index_t n = a.rows();
  // t[j] is column j from the diagonal down. Lanes above it hold what is never read.
  aligned_buffer<double> t(n * stride);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) t[j * stride + i] = a(i, j);
  }
  for (index_t j = 0; j < n; ++j) {
    double* const column = t.data() + j * stride;
    const index_t first = j / step * step;
    for (index_t k = 0; k < j; ++k) {
      const double* const earlier = t.data() + k * stride;
      axpy(-earlier[j], earlier + first, column + first, div_up(n - first, step) * step);
    }
    const double pivot = column[j];
    if (!(pivot > 0.0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    column[j] = root;
    for (index_t i = j + 1; i < n; ++i) column[i] /= root;
  }
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) a(i, j) = j <= i ? t[j * stride + i] : 0.0;
  }
  return true;
}

/// Exchanges element (i, j) with (n-1-i, n-1-j).
inline void reverse_both(matrix_view<double> a) noexcept {
  for (index_t i = 0; i < (a.rows() + 1) / 2; ++i) {
    const auto top = a.row(i);
    const auto bottom = a.row(a.rows() - 1 - i);
    if (top.data() == bottom.data()) {
      std::reverse(top.begin(), top.end());
    } else {
      for (index_t j = 0; j < a.cols(); ++j) std::swap(top[j], bottom[a.cols() - 1 - j]);
    }
  }
}

}  // namespace detail

/// The lower factor L of A[N, N] = L L^T, in place. Only A's lower triangle is read; the upper one
/// becomes zero. Each element is
///   c = a[i][j];  for k = 0 .. j-1: c = fma(-l[i][k], l[j][k], c);  then sqrt(c) or c / l[j][j].
/// Returns false when a pivot c is not a finite number > 0: A is not positive definite.
[[nodiscard]] inline bool cholesky(matrix_view<double> a, const kernels::context& ctx) {
  using namespace detail;
  check_square(a.shape(), "the matrix to factor");
  const scratch_context with_scratch(ctx);
  const context& inner = with_scratch.get();
  const auto axpy = kernels::select_dense(ctx.allowed).run.axpy;
  const index_t n = a.rows();
  for (index_t begin = 0; begin < n; begin += factor_block) {
    const row_range block{begin, std::min(begin + factor_block, n)};
    const row_range below{block.end, n};
    const auto diagonal = block_of(a, block, block);
    if (!factor_diagonal(diagonal, axpy)) return false;
    for (index_t i = block.begin; i < block.end; ++i) {
      std::fill_n(a.row(i).data() + block.end, n - block.end, 0.0);
    }
    const auto panel = block_of(a, below, block);
    solve_forward(diagonal, panel, inner);
    kernels::add_outer_gram(block_of(a, below, below), dense_sign::subtract, panel, inner);
  }
  return true;
}

/// The inverse X of a lower triangular L[N, N], in place; the diagonal must not hold zeros, and the
/// upper triangle is not read and becomes zero. Each element is
///   c = (i == j);  for k = j .. i-1: c = fma(-l[i][k], x[k][j], c);  then c / l[i][i].
inline void invert_lower(matrix_view<double> l, const kernels::context& ctx) {
  using namespace detail;
  check_square(l.shape(), "the matrix to invert");
  const scratch_context with_scratch(ctx);
  const context& inner = with_scratch.get();
  const auto axpy = kernels::select_dense(ctx.allowed).run.axpy;
  const index_t n = l.rows();
  aligned_buffer<double> rows_of_l(std::min(factor_block, n) * n);
  for (index_t begin = 0; begin < n; begin += factor_block) {
    const row_range block{begin, std::min(begin + factor_block, n)};
    const auto x = l.middle_rows(block);
    const matrix_view<double> copy(rows_of_l.data(), block.size(), block.end, n);
    for (index_t i = 0; i < block.size(); ++i) {
      std::copy_n(x.row(i).data(), block.end, copy.row(i).data());
      std::fill_n(x.row(i).data(), n, 0.0);
      x(i, block.begin + i) = 1.0;
    }
    // Columns of X are zero above the diagonal: each block of columns starts at its own.
    constexpr index_t width = 4 * factor_block;
    for (index_t col = 0; col < block.begin; col += width) {
      const row_range cols{col, std::min(col + width, block.begin)};
      const row_range depth{col, block.begin};
      kernels::add_product(x.middle_cols(cols.begin, cols.end), dense_sign::subtract,
                           copy.middle_cols(depth.begin, depth.end), block_of(l, depth, cols),
                           inner);
    }
    // What is left is the block's own triangle, for all columns: rows of sums.
    const matrix_view<const double> triangle = copy.middle_cols(block.begin, block.end);
    inner.scratch->reserve(kernels::workers(inner), sizeof(double) * factor_block * solve_lanes);
    kernels::parallel_for(inner, div_up(block.end, solve_lanes), [&](index_t task, index_t worker) {
      const index_t first = task * solve_lanes;
      const index_t count = std::min(solve_lanes, block.end - first);
      auto* const t = reinterpret_cast<double*>(inner.scratch->slot(worker).data());
      for (index_t i = 0; i < block.size(); ++i) {
        double* const row = t + i * solve_lanes;
        std::copy_n(&x(i, first), count, row);
        std::fill_n(row + count, solve_lanes - count, 0.0);
        for (index_t k = 0; k < i; ++k) {
          axpy(-triangle(i, k), t + k * solve_lanes, row, solve_lanes);
        }
        for (index_t j = 0; j < solve_lanes; ++j) row[j] /= triangle(i, i);
        std::copy_n(row, count, &x(i, first));
      }
    });
  }
}

/// The upper triangular U with H^-1 = U^T U, for a positive definite H[N, N] of which only the
/// lower triangle is read: what error feedback needs, without H^-1 itself. With J for reversal of
/// rows or columns, J H J = L L^T gives H = R R^T for the upper triangular R = J L J, hence
/// U = R^-1 = J L^-1 J. Returns false when H is not positive definite (see cholesky). U must not
/// overlap H.
[[nodiscard]] inline bool inverse_upper_factor(matrix_view<const double> h, matrix_view<double> u,
                                               const kernels::context& ctx) {
  detail::check_square(h.shape(), "the matrix to factor");
  LOWBIT_CHECK(u.shape() == h.shape(), shape, "the matrix to factor is [", h.rows(), ", ", h.cols(),
               "], the output [", u.rows(), ", ", u.cols(), "]");
  const index_t n = h.rows();
  constexpr index_t block = 32;  // of columns that are read: their lines stay in the L1 cache
  for (index_t j0 = 0; j0 < n; j0 += block) {
    for (index_t i = j0; i < n; ++i) {
      // Element (i, j) of J H J, from H's lower triangle: H is symmetric.
      for (index_t j = j0; j < std::min(j0 + block, i + 1); ++j) u(i, j) = h(n - 1 - j, n - 1 - i);
    }
  }
  const detail::scratch_context with_scratch(ctx);
  if (!cholesky(u, with_scratch.get())) return false;
  invert_lower(u, with_scratch.get());
  detail::reverse_both(u);
  return true;
}

/// X[M, N] with X * L^T = B[M, N], for a lower triangular L[N, N] whose diagonal holds no zeros; X
/// replaces B. An element sums over k in increasing order, as cholesky's do.
inline void solve_factor(matrix_view<const double> l, matrix_view<double> b,
                         const kernels::context& ctx) {
  using namespace detail;
  check_square(l.shape(), "the factor");
  LOWBIT_CHECK(b.cols() == l.rows(), shape, "the factor has ", l.rows(),
               " rows, the right-hand sides ", b.cols(), " columns");
  const scratch_context with_scratch(ctx);
  const context& inner = with_scratch.get();
  const index_t n = l.rows();
  const row_range all{0, b.rows()};
  for (index_t begin = 0; begin < n; begin += factor_block) {
    const row_range block{begin, std::min(begin + factor_block, n)};
    const row_range before{0, begin};
    const auto x = block_of(b, all, block);
    kernels::add_product_transposed(x, dense_sign::subtract, block_of(b, all, before),
                                    block_of(l, block, before), inner);
    solve_forward(block_of(l, block, block), x, inner);
  }
}

/// X[M, N] with X * (L L^T) = B[M, N], for a lower triangular L[N, N] whose diagonal holds no
/// zeros; X replaces B. First Z L^T = B (solve_factor); then X L = Z, from the last block of 128
/// columns to the first: an element sums over the columns beyond its block, then over those of its
/// block, each in increasing order.
inline void solve_cholesky(matrix_view<const double> l, matrix_view<double> b,
                           const kernels::context& ctx) {
  using namespace detail;
  const scratch_context with_scratch(ctx);
  const context& inner = with_scratch.get();
  solve_factor(l, b, inner);
  const index_t n = l.rows();
  const row_range all{0, b.rows()};
  for (index_t i = div_up(n, factor_block); i-- > 0;) {
    const row_range block{i * factor_block, std::min((i + 1) * factor_block, n)};
    const row_range after{block.end, n};
    const auto x = block_of(b, all, block);
    kernels::add_product(x, dense_sign::subtract, block_of(b, all, after),
                         block_of(l, after, block), inner);
    solve_backward(block_of(l, block, block), x, inner);
  }
}

/// x with A x = b for a small positive definite A[n, n] (row-major, lower triangle read): x
/// replaces b, A's lower triangle becomes its factor. For the refit of a few coefficients: no
/// allocation, no threads, no variants. a.size() must be n * n for n = b.size(). Returns false,
/// leaving both unspecified, when a pivot is not a finite number > 0.
[[nodiscard]] inline bool solve_spd_small(std::span<double> a, std::span<double> b) {
  const index_t n = b.size();
  LOWBIT_CHECK(a.size() == n * n, shape, "a system of ", n, " unknowns has a matrix of ", n * n,
               " elements, not ", a.size());
  const matrix_view<double> l(a.data(), n, n);
  for (index_t j = 0; j < n; ++j) {
    for (index_t i = j; i < n; ++i) {
      double c = l(i, j);
      for (index_t k = 0; k < j; ++k) c = std::fma(-l(i, k), l(j, k), c);
      if (i == j && (!(c > 0.0) || !std::isfinite(c))) return false;
      l(i, j) = i == j ? std::sqrt(c) : c / l(j, j);
    }
  }
  for (index_t i = 0; i < n; ++i) {
    for (index_t k = 0; k < i; ++k) b[i] = std::fma(-l(i, k), b[k], b[i]);
    b[i] /= l(i, i);
  }
  for (index_t i = n; i-- > 0;) {
    for (index_t k = i + 1; k < n; ++k) b[i] = std::fma(-l(k, i), b[k], b[i]);
    b[i] /= l(i, i);
  }
  return true;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
