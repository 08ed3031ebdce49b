// ptq/error_feedback.hpp: rounding column by column, each column's error corrected by the columns
// that are still to be rounded. Layer L3.
//
// GPTQ (arXiv 2210.17323), which is LDLQ of QuIP (arXiv 2307.13304): with H^-1 = U^T U,
//   q_j = nearest level of w_j;  e_j = (w_j - q_j) / U_jj;  w_k -= e_j U_jk  for k > j
// makes tr (W - Q) H (W - Q)^T = sum of e_j^2, each term as small as rounding allows given the
// columns before.
//
// The levels of a group are fixed first, on the weights as feedback has left them when the first of
// its columns comes (or on the original weights, for static groups), and then each column is
// rounded by itself.
//
// Columns go in blocks: inside a block a row is corrected at once, the columns after it by one
// product per block.
#pragma once

#include <string_view>
#include <vector>

#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/ptq/coding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

struct feedback_options {
  /// The order in which columns are rounded: columns of the weights; empty: as they stand. An order
  /// other than that makes groups static: their levels are those of the original weights.
  std::span<const index_t> order = {};
  listener* progress = nullptr;
};

/// Adds `share` of the mean of H's diagonal to the diagonal: how far to trust H (the literature's
/// damping is 0.01). A column whose input is always zero is then rounded to nearest and costs
/// nothing. If all are, the diagonal becomes ones, which is round to nearest.
inline void damp(matrix_view<double> h, double share) {
  LOWBIT_CHECK(h.rows() == h.cols(), shape, "the Hessian is [", h.rows(), ", ", h.cols(), "]");
  LOWBIT_CHECK(share >= 0.0 && std::isfinite(share), value, "damping = ", share,
               " is not a finite number of at least 0");
  double sum = 0.0;
  for (index_t k = 0; k < h.rows(); ++k) sum += h(k, k);
  const double mean = sum / static_cast<double>(std::max<index_t>(h.rows(), 1));
  // By fma, so that no compiler fuses the product with the sums below.
  const double extra = mean > 0.0 ? std::fma(share, mean, 0.0) : 1.0;
  for (index_t k = 0; k < h.rows(); ++k) h(k, k) += extra;
}

namespace detail {

/// U with H^-1 = U^T U. Where H is not positive definite it is damped, more and more. Refuses
/// (value) an H that no damping makes positive definite.
[[nodiscard]] inline aligned_buffer<double> inverse_factor(matrix_view<const double> h,
                                                           const kernels::context& ctx) {
  const index_t n = h.rows();
  aligned_buffer<double> factor(n * n);
  const matrix_view<double> u(factor.data(), n, n);
  if (linalg::inverse_upper_factor(h, u, ctx)) return factor;
  aligned_buffer<double> damped(n * n);
  const matrix_view<double> copy(damped.data(), n, n);
  constexpr double shares[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
  for (const double share : shares) {
    for (index_t r = 0; r < n; ++r) std::copy_n(h.row(r).data(), n, copy.row(r).data());
    damp(copy, share);
    if (linalg::inverse_upper_factor(copy, u, ctx)) return factor;
  }
  LOWBIT_CHECK(false, value, "the Hessian of ", n,
               " columns is not positive definite, not even with its mean diagonal added");
  return factor;
}

/// Where the blocks of columns end: at the end of every group that is at least as long as a block,
/// and at multiples of short groups.
[[nodiscard]] inline std::vector<index_t> block_ends(index_t columns, index_t group_size) {
  constexpr index_t width = 128;
  const index_t step = group_size < width ? width / group_size * group_size : width;
  std::vector<index_t> ends;
  for (index_t begin = 0; begin < columns;) {
    index_t end = std::min(begin + step, columns);
    if (group_size >= width) end = std::min(end, (begin / group_size + 1) * group_size);
    ends.push_back(end);
    begin = end;
  }
  return ends;
}

/// A block of rows under feedback.
template <group_codec C>
class feedback_rows {
 public:
  feedback_rows(coding<C>& state, row_range rows, matrix_view<const double> u,
                const feedback_options& options, std::span<const float> importance,
                const kernels::context& ctx)
      : state_(state),
        rows_(rows),
        u_(u),
        order_(options.order),
        importance_(importance),
        ctx_(ctx),
        axpy_(kernels::select_dense(ctx.allowed).run.axpy),
        work_(rows.size() * u.cols()),
        tables_(order_.empty() ? 1 : state.groups()) {
    for (index_t r = 0; r < rows.size(); ++r) {
      const auto w = state.weights().row(rows.begin + r);
      for (index_t k = 0; k < u.cols(); ++k) {
        work_[r * u.cols() + k] = static_cast<double>(w[column(k)]);
      }
    }
  }

  void run(std::span<const index_t> ends) {
    index_t begin = 0;
    for (const index_t end : ends) {
      run_block({begin, end});
      begin = end;
    }
  }

 private:
  [[nodiscard]] index_t column(index_t k) const noexcept { return order_.empty() ? k : order_[k]; }
  [[nodiscard]] matrix_view<double> work() noexcept {
    return {work_.data(), rows_.size(), u_.cols()};
  }

  void run_block(row_range block) {
    const index_t stride = padded(block.size());
    factor_.assign(block.size() * stride, 0.0);
    copy_padded(u_, block, block, factor_.data());
    errors_.assign(rows_.size() * block.size(), 0.0);
    row_.assign(stride, 0.0);
    for (index_t r = 0; r < rows_.size(); ++r) round_row(r, block);
    // Columns after the block: W -= E U[block, rest].
    if (block.end == u_.cols()) return;
    kernels::add_product(work().middle_cols(block.end, u_.cols()), kernels::dense_sign::subtract,
                         matrix_view<const double>(errors_.data(), rows_.size(), block.size()),
                         u_.middle_rows(block).middle_cols(block.end, u_.cols()), ctx_);
  }

  void round_row(index_t r, row_range block) {
    const index_t stride = padded(block.size());
    const double* const w = work().row(r).data() + block.begin;
    std::copy_n(w, block.size(), row_.data());
    const index_t row = rows_.begin + r;
    const bool in_place = order_.empty();  // then one group after the other
    if (!in_place) {
      for (index_t g = 0; g < state_.groups(); ++g) tables_[g] = state_.table(row, g);
    }
    for (index_t i = 0; i < block.size(); ++i) {
      const index_t k = column(block.begin + i);
      const index_t g = state_.group_of(k);
      if (in_place && k == state_.columns_of(g).begin) {
        fit_group(r, g, block, i);
      } else if (in_place && i == 0) {
        tables_[0] = state_.table(row, g);
      }
      const auto level = tables_[in_place ? 0 : g].nearest(row_[i]);
      state_.codes(row)[k] = level.code;
      const double e = (row_[i] - static_cast<double>(level.value)) / factor_[i * stride + i];
      errors_[r * block.size() + i] = e;
      // U is upper triangular: elements before i are zeros, element i was used already.
      const index_t from = i / kernels::dense_axpy_step * kernels::dense_axpy_step;
      axpy_(-e, factor_.data() + i * stride + from, row_.data() + from, stride - from);
    }
  }

  /// Fits the group that starts at column i of the block. What lies beyond the block was corrected
  /// by the blocks before, and so far by nothing in this one, because a long group starts one.
  void fit_group(index_t r, index_t g, row_range block, index_t i) {
    const row_range columns = state_.columns_of(g);
    values_.resize(columns.size());
    for (index_t j = 0; j < columns.size(); ++j) {
      const index_t k = columns.begin + j;
      values_[j] = static_cast<float>(k < block.end ? row_[i + j] : work()(r, k));
    }
    const index_t row = rows_.begin + r;
    state_.levels_of(row, g) = state_.codec().fit(
        row, g, values_,
        importance_.empty() ? importance_ : importance_.subspan(columns.begin, columns.size()));
    tables_[0] = state_.table(row, g);
  }

  coding<C>& state_;
  row_range rows_;
  matrix_view<const double> u_;
  std::span<const index_t> order_;
  std::span<const float> importance_;
  const kernels::context& ctx_;
  kernels::dense_axpy_fn axpy_;
  aligned_buffer<double> work_;  // [rows, K], in the order of rounding
  std::vector<level_table> tables_;
  std::vector<double> factor_;  // the block of U
  std::vector<double> errors_;
  std::vector<double> row_;
  std::vector<float> values_;
};

}  // namespace detail

/// Chooses levels and codes of all groups of `state` by error feedback under h [K, K], symmetric,
/// in the order of the columns of `state` and damped (see damp). `importance` weighs the fit of
/// levels: empty, or one per column. Time about 2 N K^2 + K^3 / 3 products, memory 2 K^2 doubles
/// and N K codes. An h that is not positive definite is damped further.
/// Refuses an h of another size (shape), one that no damping makes positive definite (value), an
/// order that is no permutation (value), and what the codec's fit() refuses.
template <group_codec C>
void apply_feedback(coding<C>& state, matrix_view<const double> h,
                    std::span<const float> importance, const feedback_options& options,
                    const kernels::context& ctx) {
  const shape2 shape = state.weights().shape();
  LOWBIT_CHECK((h.shape() == shape2{shape.cols, shape.cols}), shape, "the Hessian is [", h.rows(),
               ", ", h.cols(), "] for ", shape.cols, " columns");
  LOWBIT_CHECK(options.order.empty() || options.order.size() == shape.cols, shape, "the order has ",
               options.order.size(), " columns of ", shape.cols);
  if (shape.rows == 0 || shape.cols == 0) return;

  if (options.progress != nullptr) options.progress->advanced("factor", 0, 1);
  aligned_buffer<double> ordered;
  matrix_view<const double> in_order = h;
  if (!options.order.empty()) {
    std::vector<bool> seen(shape.cols);
    for (const index_t k : options.order) {
      LOWBIT_CHECK(k < shape.cols && !seen[k], value, "the order names column ", k,
                   k < shape.cols ? " twice" : ", which does not exist");
      seen[k] = true;
    }
    state.round_to_nearest(importance, ctx);  // static groups: levels of the original weights
    ordered = aligned_buffer<double>(shape.cols * shape.cols);
    for (index_t i = 0; i < shape.cols; ++i) {
      for (index_t j = 0; j < shape.cols; ++j) {
        ordered[i * shape.cols + j] = h(options.order[i], options.order[j]);
      }
    }
    in_order = {ordered.data(), shape.cols, shape.cols};
  }
  const aligned_buffer<double> factor = detail::inverse_factor(in_order, ctx);
  const matrix_view<const double> u(factor.data(), shape.cols, shape.cols);
  ordered = {};
  if (options.progress != nullptr) options.progress->advanced("factor", 1, 1);

  const std::vector<index_t> ends = detail::block_ends(shape.cols, state.columns_of(0).size());
  const index_t tasks = div_up(shape.rows, rows_of_a_task);
  detail::task_counter finished(options.progress, "feedback", tasks);
  std::vector<kernels::workspace> scratch(kernels::workers(ctx));
  kernels::parallel_for_blocks(
      ctx, shape.rows, rows_of_a_task, [&](row_range rows, index_t worker) {
        const kernels::context serial = ctx.serial(&scratch[worker]);
        detail::feedback_rows<C>(state, rows, u, options, importance, serial).run(ends);
        finished.finished();
      });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
