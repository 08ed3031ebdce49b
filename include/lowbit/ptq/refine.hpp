// ptq/refine.hpp: levels and codes improved in turn under the Hessian, never for the worse. Layer
// L3.
//
// Minimises tr E H E^T for E = W - Ŵ, row by row (rows never meet). With r = e H, kept up to date:
//  * refit (codes stay): the linear coefficients of a group move by the least-squares step
//      (V^T H_gg V) delta = V^T r_g,  V = one column per coefficient, group_codec::term
//    as far as they can be stored.
//  * refit of rows (codes stay): so do the numbers that the groups of a row share (row_codec).
//  * coordinate descent (levels stay): a code moves to the level nearest to ŵ_j + r_j / H_jj, which
//    changes the objective by -2 d r_j + d^2 H_jj.
// Each step is taken only if it lowers the objective (computed with values as stored), so the
// objective never rises. Related: QuantEase (arXiv 2309.01885).
//
// Columns go in blocks, which are the groups, or several short ones: inside one, r is corrected
// after every step; the other columns by one product per block.
#pragma once

#include <vector>

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/ptq/coding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

struct refine_options {
  unsigned rounds = 3;  ///< of {refit, coordinate descent} over all groups
  listener* progress = nullptr;
};

namespace detail {

/// A block of rows under refinement.
template <group_codec C>
class refined_rows {
 public:
  refined_rows(coding<C>& state, row_range rows, matrix_view<const double> h,
               const kernels::context& ctx)
      : state_(state),
        rows_(rows),
        h_(h),
        ctx_(ctx),
        axpy_(kernels::select_dense(ctx.allowed).run.axpy),
        errors_(rows.size() * h.cols()),
        products_(rows.size() * h.cols()) {
    std::vector<double> values(state.columns_of(0).size());
    for (index_t r = 0; r < rows.size(); ++r) {
      const auto w = state.weights().row(rows.begin + r);
      for (index_t g = 0; g < state.groups(); ++g) {
        const row_range columns = state.columns_of(g);
        state.values(rows.begin + r, g, values.data());
        for (index_t k = columns.begin; k < columns.end; ++k) {
          errors_[r * h.cols() + k] = static_cast<double>(w[k]) - values[k - columns.begin];
        }
      }
    }
    kernels::add_product(products(), kernels::dense_sign::add, errors(), h, ctx);
  }

  /// tr E H E^T of these rows.
  [[nodiscard]] double objective() const noexcept {
    double sum = 0.0;
    for (index_t i = 0; i < errors_.size(); ++i) sum = std::fma(errors_[i], products_[i], sum);
    return sum;
  }

  void run_round() {
    if constexpr (row_codec<C>) {
      if (state_.changeable_codec() != nullptr) refit_rows(*state_.changeable_codec());
    }
    constexpr index_t width = 32;  // products of fewer terms spend their time on loads and stores
    const index_t step = std::max<index_t>(1, width / state_.columns_of(0).size());
    for (index_t g = 0; g < state_.groups(); g += step) {
      run_block({g, std::min(g + step, state_.groups())});
    }
  }

 private:
  [[nodiscard]] matrix_view<double> products() noexcept {
    return {products_.data(), rows_.size(), h_.cols()};
  }
  [[nodiscard]] matrix_view<const double> errors() const noexcept {
    return {errors_.data(), rows_.size(), h_.cols()};
  }

  /// As many rows at a time as make products of some depth.
  void refit_rows(C& codec) requires row_codec<C> {
    const index_t terms = codec.row_terms();
    if (terms == 0) return;
    const index_t step = std::max<index_t>(1, 2 * rows_of_a_task / terms);
    for (index_t r = 0; r < rows_.size(); r += step) {
      refit_rows(codec, {r, std::min(r + step, rows_.size())});
    }
  }
  void refit_rows(C& codec, row_range rows) requires row_codec<C> {
    const index_t terms = codec.row_terms();
    const index_t cols = h_.cols();
    std::vector<float> of_code(terms);
    aligned_buffer<double> directions(rows.size() * terms * cols);  // [rows, terms, K]
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t row = rows_.begin + rows.begin + r;
      for (index_t k = 0; k < cols; ++k) {
        codec.row_term(state_.levels_of(row, state_.group_of(k)), state_.codes(row)[k], of_code);
        for (index_t t = 0; t < terms; ++t) {
          directions[(r * terms + t) * cols + k] = static_cast<double>(of_code[t]);
        }
      }
    }
    aligned_buffer<double> images(directions.size());  // times H
    kernels::add_product(
        matrix_view<double>(images.data(), rows.size() * terms, cols), kernels::dense_sign::add,
        matrix_view<const double>(directions.data(), rows.size() * terms, cols), h_, ctx_);

    // Least squares for the numbers of each row; then what that makes of its values.
    std::vector<float> before(rows.size() * terms);
    std::vector<float> numbers(terms);
    std::vector<double> changed(cols);
    aligned_buffer<double> steps(rows.size() * cols);
    system_.resize(terms * terms);
    delta_.resize(terms);
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t row = rows_.begin + rows.begin + r;
      const auto direction = [&](index_t t) {
        return std::span<const double>(directions.data() + (r * terms + t) * cols, cols);
      };
      for (index_t t = 0; t < terms; ++t) {
        for (index_t s = 0; s <= t; ++s) {
          system_[t * terms + s] = dot(direction(t), images.data() + (r * terms + s) * cols);
        }
        delta_[t] = dot(direction(t), products().row(rows.begin + r).data());
      }
      const std::span<float> old(before.data() + r * terms, terms);
      codec.row_numbers(row, old);
      if (!linalg::solve_spd_small(system_, delta_)) continue;
      for (index_t t = 0; t < terms; ++t) {
        numbers[t] = static_cast<float>(static_cast<double>(old[t]) + delta_[t]);
      }
      double* const at = steps.data() + r * cols;
      const auto read_values = [&, this](double* out) {
        for (index_t g = 0; g < state_.groups(); ++g) {
          state_.values(row, g, out + state_.columns_of(g).begin);
        }
      };
      read_values(at);
      codec.set_row_numbers(row, numbers);
      read_values(changed.data());
      for (index_t k = 0; k < cols; ++k) at[k] = changed[k] - at[k];
    }
    aligned_buffer<double> changes(steps.size());
    const matrix_view<double> change(changes.data(), rows.size(), cols);
    kernels::add_product(change, kernels::dense_sign::add,
                         matrix_view<const double>(steps.data(), rows.size(), cols), h_, ctx_);
    for (index_t r = 0; r < rows.size(); ++r) {
      const std::span<const double> at(steps.data() + r * cols, cols);
      double* const product = products().row(rows.begin + r).data();
      const double gain = std::fma(-2.0, dot(at, product), dot(at, change.row(r).data()));
      if (gain < 0.0) {
        for (index_t k = 0; k < cols; ++k) {
          errors_[(rows.begin + r) * cols + k] -= at[k];
          product[k] -= change(r, k);
        }
      } else {
        codec.set_row_numbers(rows_.begin + rows.begin + r,
                              std::span<const float>(before).subspan(r * terms, terms));
      }
    }
  }

  void run_block(row_range groups) {
    const row_range columns{state_.columns_of(groups.begin).begin,
                            state_.columns_of(groups.end - 1).end};
    const index_t size = columns.size();
    begin_ = columns.begin;
    stride_ = padded(size);
    block_.assign(size * stride_, 0.0);
    copy_padded(h_, columns, columns, block_.data());
    changes_.assign(rows_.size() * size, 0.0);
    values_.assign(stride_, 0.0);
    r_.assign(stride_, 0.0);
    bool any = false;
    for (index_t row = 0; row < rows_.size(); ++row) {
      std::copy_n(products().row(row).data() + columns.begin, size, r_.data());
      for (index_t g = groups.begin; g < groups.end; ++g) {
        state_.values(rows_.begin + row, g, values_.data() + state_.columns_of(g).begin - begin_);
      }
      before_.assign(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(size));
      for (index_t g = groups.begin; g < groups.end; ++g) {
        refit(row, g);
        descend(row, g);
      }
      double* const change = changes_.data() + row * size;
      for (index_t i = 0; i < size; ++i) {
        change[i] = values_[i] - before_[i];  // of Ŵ, hence minus that of E
        any = any || change[i] != 0.0;
        errors_[row * h_.cols() + columns.begin + i] -= change[i];
      }
    }
    if (!any) return;
    kernels::add_product(products(), kernels::dense_sign::subtract,
                         matrix_view<const double>(changes_.data(), rows_.size(), size),
                         h_.middle_rows(columns), ctx_);
  }

  /// out[0 .. stride) = H_bb v for columns of the block from `first` on; v is 0 elsewhere.
  void multiply_block(std::span<const double> v, index_t first, std::vector<double>& out) const {
    out.assign(stride_, 0.0);
    for (index_t i = 0; i < v.size(); ++i) {
      if (v[i] != 0.0) axpy_(v[i], block_.data() + (first + i) * stride_, out.data(), stride_);
    }
  }
  [[nodiscard]] static double dot(std::span<const double> a, const double* b) noexcept {
    double sum = 0.0;
    for (index_t i = 0; i < a.size(); ++i) sum = std::fma(a[i], b[i], sum);
    return sum;
  }

  void refit(index_t row, index_t g) {
    const C& codec = state_.codec();
    const index_t terms = codec.terms();
    if (terms == 0) return;
    const index_t size = state_.columns_of(g).size();
    const index_t first = state_.columns_of(g).begin - begin_;
    double* const values = values_.data() + first;
    auto& levels = state_.levels_of(rows_.begin + row, g);
    const std::uint8_t* const codes = state_.codes(rows_.begin + row) + state_.columns_of(g).begin;

    // V by column, from the terms of each code in use.
    const index_t count = index_t{1} << codec.bits();
    term_of_code_.resize(count * terms);
    for (index_t code = 0; code < count; ++code) {
      codec.term(levels, static_cast<std::uint8_t>(code),
                 std::span(term_of_code_).subspan(code * terms, terms));
    }
    directions_.resize(terms * size);
    for (index_t i = 0; i < size; ++i) {
      for (index_t t = 0; t < terms; ++t) {
        directions_[t * size + i] = static_cast<double>(term_of_code_[codes[i] * terms + t]);
      }
    }
    system_.resize(terms * terms);
    delta_.resize(terms);
    for (index_t t = 0; t < terms; ++t) {
      const auto v = std::span<const double>(directions_).subspan(t * size, size);
      multiply_block(v, first, product_);
      for (index_t s = 0; s < terms; ++s) {
        system_[s * terms + t] = dot(std::span<const double>(directions_).subspan(s * size, size),
                                     product_.data() + first);
      }
      delta_[t] = dot(v, r_.data() + first);
    }
    if (!linalg::solve_spd_small(system_, delta_)) return;  // coefficients that no code tells apart
    const auto changed = codec.adjusted(levels, rows_.begin + row, delta_);

    std::array<float, 256> by_code;
    codec.values(changed, std::span(by_code).first(count));
    step_.resize(size);
    for (index_t i = 0; i < size; ++i) {
      step_[i] = static_cast<double>(by_code[codes[i]]) - values[i];
    }
    multiply_block(step_, first, product_);
    const double change =
        std::fma(-2.0, dot(step_, r_.data() + first), dot(step_, product_.data() + first));
    if (!(change < 0.0)) return;
    levels = changed;
    for (index_t i = 0; i < size; ++i) values[i] = static_cast<double>(by_code[codes[i]]);
    for (index_t i = 0; i < stride_; ++i) r_[i] -= product_[i];
  }

  void descend(index_t row, index_t g) {
    const index_t size = state_.columns_of(g).size();
    std::uint8_t* const codes = state_.codes(rows_.begin + row) + state_.columns_of(g).begin;
    const level_table table = state_.table(rows_.begin + row, g);
    const index_t first = state_.columns_of(g).begin - begin_;
    for (index_t i = 0; i < size; ++i) {
      double& value = values_[first + i];
      const double r = r_[first + i];
      const double* const h = block_.data() + (first + i) * stride_;
      const double curvature = h[first + i];
      if (!(curvature > 0.0)) continue;
      const double target = value + r / curvature;
      if (!std::isfinite(target)) continue;
      const auto level = table.nearest(target);
      const double step = static_cast<double>(level.value) - value;
      if (step == 0.0 || !(step * std::fma(step, curvature, -2.0 * r) < 0.0)) continue;
      codes[i] = level.code;
      value = static_cast<double>(level.value);
      axpy_(-step, h, r_.data(), stride_);
    }
  }

  coding<C>& state_;
  row_range rows_;
  matrix_view<const double> h_;
  const kernels::context& ctx_;
  kernels::dense_axpy_fn axpy_;
  aligned_buffer<double> errors_;    // E [rows, K]
  aligned_buffer<double> products_;  // E H [rows, K]

  // Of one block.
  index_t begin_ = 0;  // its first column
  index_t stride_ = 0;
  std::vector<double> block_;    // H_bb
  std::vector<double> changes_;  // of Ŵ [rows, size]
  std::vector<double> values_;
  std::vector<double> before_;
  std::vector<double> r_;
  std::vector<float> term_of_code_;
  std::vector<double> directions_;
  std::vector<double> system_;
  std::vector<double> delta_;
  std::vector<double> step_;
  std::vector<double> product_;
};

}  // namespace detail

/// Improves the levels and codes of `state` under h [K, K], symmetric, damped (see damp). Returns
/// the objective tr E H E^T before the first round and after each; it never rises. Time about 2 N
/// K^2 products per round. Refuses an h of another size (shape).
template <group_codec C>
std::vector<double> refine(coding<C>& state, matrix_view<const double> h,
                           const refine_options& options, const kernels::context& ctx) {
  const shape2 shape = state.weights().shape();
  LOWBIT_CHECK((h.shape() == shape2{shape.cols, shape.cols}), shape, "the Hessian is [", h.rows(),
               ", ", h.cols(), "] for ", shape.cols, " columns");
  const index_t tasks = div_up(shape.rows, rows_of_a_task);
  std::vector<double> objectives(options.rounds + 1, 0.0);
  if (shape.rows == 0 || shape.cols == 0) return objectives;
  std::vector<double> of_task(tasks * objectives.size());
  detail::task_counter finished(options.progress, "refine", tasks);
  std::vector<kernels::workspace> scratch(kernels::workers(ctx));
  kernels::parallel_for(ctx, tasks, [&](index_t task, index_t worker) {
    const row_range rows{task * rows_of_a_task, std::min((task + 1) * rows_of_a_task, shape.rows)};
    const kernels::context serial = ctx.serial(&scratch[worker]);
    detail::refined_rows<C> block(state, rows, h, serial);
    of_task[task * objectives.size()] = block.objective();
    for (unsigned round = 0; round < options.rounds; ++round) {
      block.run_round();
      of_task[task * objectives.size() + round + 1] = block.objective();
    }
    finished.finished();
  });
  for (index_t task = 0; task < tasks; ++task) {
    for (index_t i = 0; i < objectives.size(); ++i) {
      objectives[i] += of_task[task * objectives.size() + i];
    }
  }
  return objectives;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
