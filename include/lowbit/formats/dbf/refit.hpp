// formats/dbf/refit.hpp: one side of F G improved while the other is fixed, never for the worse.
// Layer L3.
//
// For x [rows, r], a side, the objective is, but for a constant,
//
//   tr(H x K x^T) - 2 <R, x>,  K = y^T y (or y^T H y) of the other side, R = target y
//
// with H = I, unless x is the side of the inputs and their Hessian is known. With the gradient
// C = H x K - R kept up to date:
//  * signs: an element is turned if that lowers the objective;
//  * row envelopes: the l numbers of a row, by least squares;
//  * column envelopes: the r numbers of one envelope, by least squares, one envelope after the
//  other.
//
// Invariant: as in side.hpp.
#pragma once

#include "lowbit/formats/dbf/side.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// What one side is fitted to.
struct dbf_target {
  const dense_matrix& curvature;           ///< K [r, r], both triangles
  const dense_matrix& right;               ///< R [rows, r]
  matrix_view<const double> hessian = {};  ///< H [rows, rows], or empty for I
};

class dbf_refitter {
 public:
  explicit dbf_refitter(const kernels::context& ctx)
      : with_scratch_(ctx),
        ctx_(with_scratch_.get()),
        axpy_(kernels::select_dense(ctx.allowed).run.axpy) {}

  /// One round over x. `sweeps` of turning signs per row.
  void improve(dbf_side& x, const dbf_target& target, unsigned sweeps) {
    find_signs(x, signs_, ctx_);
    turned_ = 0;
    find_gradient(x, target);
    for (index_t begin = 0; begin < x.rows(); begin += block_rows) {
      improve_rows(x, target, {begin, std::min(begin + block_rows, x.rows())}, sweeps);
    }
    improve_columns(x, target);
    apply_signs(signs_, x, ctx_);
  }
  /// How many signs the last round turned.
  [[nodiscard]] index_t turned() const noexcept { return turned_; }

 private:
  static constexpr index_t block_rows = 256;

  void find_gradient(const dbf_side& x, const dbf_target& target) {
    gradient_ = target.right;
    for (double& v : gradient_.elements()) v = -v;
    add_curvature(x.value, target);
  }
  /// gradient += H d K.
  void add_curvature(const dense_matrix& d, const dbf_target& target) {
    if (target.hessian.empty()) {
      kernels::add_product(gradient_.view(), dense_sign::add, d.view(), target.curvature.view(),
                           ctx_);
      return;
    }
    dense_matrix product(d.rows(), d.cols());
    kernels::add_product(product.view(), dense_sign::add, d.view(), target.curvature.view(), ctx_);
    kernels::add_product(gradient_.view(), dense_sign::add, target.hessian, product.view(), ctx_);
  }

  /// gradient of the rows `later` of a block += H[., row] step.
  void propagate(const dbf_target& target, index_t row, row_range later, const double* step) {
    for (index_t i = later.begin; i < later.end; ++i) {
      if (i == row) continue;
      double* const g = gradient_.row(i).data();
      const double h = target.hessian(i, row);
      const index_t r = gradient_.cols();
      const index_t whole = r / kernels::dense_axpy_step * kernels::dense_axpy_step;
      axpy_(h, step, g, whole);
      for (index_t j = whole; j < r; ++j) g[j] = std::fma(h, step[j], g[j]);
    }
  }

  /// Turns signs of one row. `step` becomes what (change of x) K is.
  index_t turn_signs(dbf_side& x, const dbf_target& target, index_t row, unsigned sweeps, double* g,
                     double* step) {
    const index_t r = x.middle();
    const index_t width = dense_matrix::padded(r);
    const double h = target.hessian.empty() ? 1.0 : target.hessian(row, row);
    const auto v = x.value.row(row);
    const auto s = signs_.row(row);
    std::fill_n(step, width, 0.0);
    std::copy_n(gradient_.row(row).data(), r, g);
    index_t turned = 0;
    for (unsigned sweep = 0; sweep < sweeps; ++sweep) {
      bool any = false;
      for (index_t j = 0; j < r; ++j) {
        // -4 v g + 4 v^2 H K < 0, with what this row's turns have added to g
        const double curvature = h * target.curvature(j, j);
        const double now = std::fma(h, step[j], g[j]);
        if (!(v[j] * std::fma(-v[j], curvature, now) > 0.0)) continue;
        axpy_(-2.0 * v[j], target.curvature.row(j).data(), step, width);
        v[j] = -v[j];
        s[j] = -s[j];
        any = true;
        ++turned;
      }
      if (!any) break;
    }
    return turned;
  }

  void improve_rows(dbf_side& x, const dbf_target& target, row_range rows, unsigned sweeps) {
    const index_t r = x.middle();
    const index_t l = x.row_envelopes.rows();
    const index_t width = dense_matrix::padded(r);
    const bool coupled = !target.hessian.empty();
    dense_matrix before;
    if (coupled) {
      before = dense_matrix(rows.size(), r);
      std::copy_n(x.value.row(rows.begin).data(), before.size(), before.data());
    }
    // Rows meet through H only.
    const kernels::context alone = ctx_.serial();
    const kernels::context& spread = coupled ? alone : ctx_;
    constexpr index_t task_rows = 16;
    std::vector<index_t> turned(div_up(rows.size(), task_rows));
    kernels::parallel_for(spread, turned.size(), [&](index_t task, index_t) {
      aligned_buffer<double> g(width);
      aligned_buffer<double> step(width);
      const row_range part{rows.begin + task * task_rows,
                           std::min(rows.begin + (task + 1) * task_rows, rows.end)};
      for (index_t i = part.begin; i < part.end; ++i) {
        const index_t count = turn_signs(x, target, i, sweeps, g.data(), step.data());
        if (count == 0) continue;
        turned[task] += count;
        propagate_own(target, i, step.data());
        if (coupled) propagate(target, i, rows, step.data());
      }
    });
    for (const index_t count : turned) turned_ += count;

    // With the signs as they are now, x K = sum of a_k P_k.
    std::vector<dense_matrix> directions(l);
    std::vector<dense_matrix> products(l);
    for (index_t k = 0; k < l; ++k) {
      directions[k] = dense_matrix(rows.size(), r);
      products[k] = dense_matrix(rows.size(), r);
      for (index_t i = 0; i < rows.size(); ++i) {
        for (index_t j = 0; j < r; ++j) {
          directions[k](i, j) = signs_(rows.begin + i, j) * x.column_envelopes(k, j);
        }
      }
      kernels::add_product(products[k].view(), dense_sign::add, directions[k].view(),
                           target.curvature.view(), ctx_);
    }
    kernels::parallel_for(spread, div_up(rows.size(), task_rows), [&](index_t task, index_t) {
      std::vector<double> system(l * l);
      std::vector<double> delta(l);
      aligned_buffer<double> step(width);
      const row_range part{task * task_rows, std::min((task + 1) * task_rows, rows.size())};
      for (index_t i = part.begin; i < part.end; ++i) {
        const index_t row = rows.begin + i;
        const double h = coupled ? target.hessian(row, row) : 1.0;
        if (!(h > 0.0)) continue;
        for (index_t k = 0; k < l; ++k) {
          for (index_t t = 0; t <= k; ++t) {
            system[k * l + t] = h * linalg::dot(directions[t].row(i), products[k].row(i));
          }
          system[k * l + k] *= 1.0 + 1e-12;
          delta[k] = -linalg::dot(directions[k].row(i), std::as_const(gradient_).row(row));
        }
        if (!linalg::solve_spd_small(system, delta)) continue;
        std::fill_n(step.data(), width, 0.0);
        for (index_t k = 0; k < l; ++k) {
          x.row_envelopes(k, row) += delta[k];
          for (index_t j = 0; j < r; ++j) {
            step[j] = std::fma(delta[k], products[k](i, j), step[j]);
            x.value(row, j) = std::fma(delta[k], directions[k](i, j), x.value(row, j));
          }
        }
        propagate_own(target, row, step.data());
        if (coupled) propagate(target, row, rows, step.data());
      }
    });
    if (!coupled) return;
    // What the block has changed reaches all other rows.
    for (index_t i = 0; i < before.size(); ++i) {
      before.data()[i] = x.value.row(rows.begin).data()[i] - before.data()[i];
    }
    dense_matrix change(rows.size(), r);
    kernels::add_product(change.view(), dense_sign::add, std::as_const(before).view(),
                         target.curvature.view(), ctx_);
    const auto h = target.hessian.middle_cols(rows.begin, rows.end);
    const auto gradient = gradient_.view();
    for (const row_range others : {row_range{0, rows.begin}, row_range{rows.end, x.rows()}}) {
      kernels::add_product(gradient.middle_rows(others), dense_sign::add, h.middle_rows(others),
                           std::as_const(change).view(), ctx_);
    }
  }

  void propagate_own(const dbf_target& target, index_t row, const double* step) {
    const double h = target.hessian.empty() ? 1.0 : target.hessian(row, row);
    for (index_t j = 0; j < gradient_.cols(); ++j) {
      gradient_(row, j) = std::fma(h, step[j], gradient_(row, j));
    }
  }

  void improve_columns(dbf_side& x, const dbf_target& target) {
    const index_t r = x.middle();
    const index_t l = x.row_envelopes.rows();
    dense_matrix direction(x.rows(), r);
    dense_matrix transposed(r, x.rows());
    dense_matrix system(r, r);
    for (index_t k = 0; k < l; ++k) {
      // The slope of column envelope j is that of x_ij = a_ki s_ij q_kj.
      for (index_t i = 0; i < x.rows(); ++i) {
        for (index_t j = 0; j < r; ++j) direction(i, j) = x.row_envelopes(k, i) * signs_(i, j);
      }
      linalg::detail::copy_transposed(std::as_const(direction).view(), transposed.view());
      system.fill(0.0);
      if (target.hessian.empty()) {
        kernels::add_outer_gram(system.view(), dense_sign::add, transposed.view(), ctx_);
      } else {
        dense_matrix weighted(x.rows(), r);
        kernels::add_product(weighted.view(), dense_sign::add, target.hessian,
                             std::as_const(direction).view(), ctx_);
        kernels::add_product(system.view(), dense_sign::add, transposed.view(),
                             std::as_const(weighted).view(), ctx_);
      }
      dense_matrix delta(1, r);
      for (index_t i = 0; i < x.rows(); ++i) {
        for (index_t j = 0; j < r; ++j) {
          delta(0, j) = std::fma(-direction(i, j), gradient_(i, j), delta(0, j));
        }
      }
      for (index_t i = 0; i < r; ++i) {
        for (index_t j = 0; j <= i; ++j) system(i, j) *= target.curvature(i, j);
        system(i, i) *= 1.0 + 1e-10;
        if (!(system(i, i) > 0.0)) system(i, i) = 1.0;
      }
      if (!linalg::cholesky(system.view(), ctx_)) continue;
      linalg::solve_cholesky(system.view(), delta.view(), ctx_);
      for (index_t j = 0; j < r; ++j) x.column_envelopes(k, j) += delta(0, j);
      if (k + 1 == l) break;
      for (index_t i = 0; i < x.rows(); ++i) {
        for (index_t j = 0; j < r; ++j) direction(i, j) *= delta(0, j);
      }
      add_curvature(direction, target);
    }
  }

  linalg::detail::scratch_context with_scratch_;
  const kernels::context& ctx_;
  kernels::dense_axpy_fn axpy_;
  dense_matrix signs_;     // +-1 [rows, r]
  dense_matrix gradient_;  // H x K - R [rows, r]
  index_t turned_ = 0;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
