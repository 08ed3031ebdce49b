// kernels/sparse/driver.hpp: packing and products of a few scattered values. Layer L2.
//
//   y[m][n] = y[m][n] + s,  s = fma(v, x[m][k], s) from 0 over the values v of row n in increasing
//   order of columns k; rows without values are left as they are.
//
// One definition per output: the same bits on every tier, for any number of tokens and threads.
//
// Rows that have values stand in slices of 16 (contract.hpp), by falling number of values within
// windows of rows, so that few steps are padding. Columns are 16 bits: wide matrices are cut into
// panels of 65535 columns, which a slice passes in order; x is copied once per product, each panel
// followed by the 1 that padding asks for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/sparse/contract.hpp"
#include "lowbit/kernels/sparse/variants.hpp"
#include "lowbit/layout/sparse_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// A sparse matrix as the kernel reads it: 4 bytes a value, and padding. In memory only.
class packed_sparse {
 public:
  /// Columns of a panel: one less than 16 bits count, since padding takes a column, too.
  static constexpr index_t panel_columns = 65535;
  static constexpr index_t window_rows = 4096;  ///< rows that are sorted together

  packed_sparse() noexcept = default;
  /// Refuses (shape) more than 2^32 - 1 rows that have values.
  explicit packed_sparse(const layout::sparse_matrix& matrix)
      : shape_(matrix.shape()), count_(matrix.count()) {
    const std::vector<index_t> begins = row_begins(matrix);
    std::vector<index_t> order;
    for (index_t begin = 0; begin < shape_.rows; begin += window_rows) {
      append_window(begins, {begin, std::min(begin + window_rows, shape_.rows)}, order);
    }
    rows_ = aligned_buffer<std::uint32_t>(order.size());
    for (index_t i = 0; i < order.size(); ++i) {
      LOWBIT_CHECK(order[i] <= layout::sparse_matrix::most, shape, "row ", order[i],
                   " is more than 32 bits count");
      rows_[i] = static_cast<std::uint32_t>(order[i]);
    }
    fill(matrix, begins);
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t count() const noexcept { return count_; }
  /// Slices of rows; rows without values are in none.
  [[nodiscard]] index_t slices() const noexcept { return div_up(rows_.size(), sparse_lanes); }
  [[nodiscard]] index_t panels() const noexcept { return div_up(shape_.cols, panel_columns); }
  /// The rows of a slice, up to sparse_lanes.
  [[nodiscard]] std::span<const std::uint32_t> rows(index_t slice) const noexcept {
    return rows_.span().subspan(slice * sparse_lanes,
                                std::min(sparse_lanes, rows_.size() - slice * sparse_lanes));
  }
  [[nodiscard]] std::span<const sparse_step> steps(index_t slice, index_t panel) const noexcept {
    const index_t i = slice * panels() + panel;
    return steps_.span().subspan(begins_[i], begins_[i + 1] - begins_[i]);
  }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept {
    return steps_.size() * sizeof(sparse_step) + begins_.size() * sizeof(index_t) +
           rows_.size() * sizeof(std::uint32_t);
  }

 private:
  /// Where the values of each row begin, and where those of the last one end.
  [[nodiscard]] static std::vector<index_t> row_begins(const layout::sparse_matrix& matrix) {
    const index_t rows = matrix.shape().rows;
    std::vector<index_t> begins(rows + 1, 0);
    matrix.for_each({0, rows}, [&](index_t row, index_t, float16) { ++begins[row + 1]; });
    for (index_t r = 0; r < rows; ++r) begins[r + 1] += begins[r];
    return begins;
  }

  /// Rows with values, by falling number of them; of equals the first comes first.
  static void append_window(const std::vector<index_t>& begins, row_range rows,
                            std::vector<index_t>& order) {
    const auto size = [&](index_t r) { return begins[r + 1] - begins[r]; };
    const auto first = static_cast<std::ptrdiff_t>(order.size());
    for (index_t r = rows.begin; r < rows.end; ++r) {
      if (size(r) > 0) order.push_back(r);
    }
    std::stable_sort(order.begin() + first, order.end(),
                     [&](index_t a, index_t b) { return size(a) > size(b); });
  }

  void fill(const layout::sparse_matrix& matrix, const std::vector<index_t>& begins) {
    std::vector<std::uint32_t> columns(count_);
    std::vector<float16> values(count_);
    index_t at = 0;
    matrix.for_each({0, shape_.rows}, [&](index_t, index_t column, float16 value) {
      columns[at] = static_cast<std::uint32_t>(column);
      values[at++] = value;
    });
    // Where the values of a row in a panel begin.
    const auto begin_of = [&](index_t row, index_t panel) {
      const auto first = columns.begin() + static_cast<std::ptrdiff_t>(begins[row]);
      const auto last = columns.begin() + static_cast<std::ptrdiff_t>(begins[row + 1]);
      const auto found = std::lower_bound(first, last, panel * panel_columns);
      return static_cast<index_t>(found - columns.begin());
    };
    begins_ = aligned_buffer<index_t>(slices() * panels() + 1);
    for (index_t slice = 0; slice < slices(); ++slice) {
      for (index_t panel = 0; panel < panels(); ++panel) {
        index_t depth = 0;
        for (const index_t row : rows(slice)) {
          depth = std::max(depth, begin_of(row, panel + 1) - begin_of(row, panel));
        }
        const index_t i = slice * panels() + panel;
        begins_[i + 1] = begins_[i] + depth;
      }
    }
    steps_ = aligned_buffer<sparse_step>(begins_[begins_.size() - 1], huge_pages::even_for_part);
    for (index_t slice = 0; slice < slices(); ++slice) {
      for (index_t panel = 0; panel < panels(); ++panel) {
        const auto out =
            steps_.span().subspan(begins_[slice * panels() + panel], steps(slice, panel).size());
        const index_t first_column = panel * panel_columns;
        const auto pad =
            static_cast<std::uint16_t>(std::min(panel_columns, shape_.cols - first_column));
        for (index_t lane = 0; lane < sparse_lanes; ++lane) {
          const bool used = lane < rows(slice).size();
          const index_t begin = used ? begin_of(rows(slice)[lane], panel) : 0;
          const index_t end = used ? begin_of(rows(slice)[lane], panel + 1) : 0;
          for (index_t t = 0; t < out.size(); ++t) {
            const bool real = begin + t < end;
            out[t].columns[lane] =
                real ? static_cast<std::uint16_t>(columns[begin + t] - first_column) : pad;
            out[t].values[lane] = real ? values[begin + t] : from_float<float16>(-0.0F);
          }
        }
      }
    }
  }

  shape2 shape_;
  index_t count_ = 0;
  aligned_buffer<std::uint32_t> rows_;  // by slices
  aligned_buffer<index_t> begins_;      // of the steps of [slice][panel], and the end
  aligned_buffer<sparse_step> steps_;
};

namespace detail {

/// From how many tokens on they go 16 side by side: README.md.
inline constexpr index_t sparse_block_tokens = 4;
inline constexpr index_t sparse_slices_of_a_task = 16;

/// x[0 .. K) in panels, each followed by a 1, and what may be read behind.
inline void copy_panels(std::span<const float> x, float* out) noexcept {
  for (index_t begin = 0; begin < x.size(); begin += packed_sparse::panel_columns) {
    const index_t size = std::min(packed_sparse::panel_columns, x.size() - begin);
    out = std::copy_n(x.data() + begin, size, out);
    *out++ = 1.0F;
  }
  std::fill_n(out, sparse_slack, 0.0F);
}

/// The same for up to 16 tokens side by side; tokens that do not exist are zeros. A line of x after
/// the other: tokens that lie a power of two apart fall into one set of the cache.
inline void copy_panels_of(matrix_view<const float> x, row_range columns, float* out) noexcept {
  constexpr index_t line = 16;
  for (index_t k = columns.begin; k < columns.end;) {
    const index_t panel = k / packed_sparse::panel_columns;
    const index_t panel_end = std::min((panel + 1) * packed_sparse::panel_columns, x.cols());
    const index_t size = std::min({line, columns.end - k, panel_end - k});
    float* const at = out + (k + panel) * sparse_tokens;  // after the ones of the panels before
    for (index_t i = 0; i < sparse_tokens; ++i) {
      if (i < x.rows()) {
        const float* const in = x.row(i).data() + k;
        for (index_t j = 0; j < size; ++j) at[j * sparse_tokens + i] = in[j];
      } else {
        for (index_t j = 0; j < size; ++j) at[j * sparse_tokens + i] = 0.0F;
      }
    }
    k += size;
    if (k == panel_end) std::fill_n(at + size * sparse_tokens, sparse_tokens, 1.0F);
  }
}

inline void add_sparse_token(const packed_sparse& w, const float* x, std::span<float> y,
                             sparse_vector_fn run, const context& ctx) {
  parallel_for_blocks(ctx, w.slices(), sparse_slices_of_a_task, [&](row_range slices) {
    for (index_t slice = slices.begin; slice < slices.end; ++slice) {
      alignas(64) float sums[sparse_lanes] = {};
      for (index_t panel = 0; panel < w.panels(); ++panel) {
        const auto steps = w.steps(slice, panel);
        run({.steps = steps.data(),
             .depth = steps.size(),
             .x = x + panel * (packed_sparse::panel_columns + 1),
             .sums = sums,
             .prefetch_bytes = ctx.prefetch_bytes});
      }
      const auto rows = w.rows(slice);
      for (index_t lane = 0; lane < rows.size(); ++lane) y[rows[lane]] += sums[lane];
    }
  });
}

inline void add_sparse_tokens(const packed_sparse& w, const float* x, matrix_view<float> y,
                              sparse_block_fn run, const context& ctx) {
  parallel_for_blocks(ctx, w.slices(), sparse_slices_of_a_task, [&](row_range slices) {
    for (index_t slice = slices.begin; slice < slices.end; ++slice) {
      alignas(64) float sums[sparse_lanes][sparse_tokens] = {};
      for (index_t panel = 0; panel < w.panels(); ++panel) {
        const auto steps = w.steps(slice, panel);
        run({.steps = steps.data(),
             .depth = steps.size(),
             .x = x + panel * (packed_sparse::panel_columns + 1) * sparse_tokens,
             .sums = sums[0]});
      }
      const auto rows = w.rows(slice);
      for (index_t token = 0; token < y.rows(); ++token) {
        for (index_t lane = 0; lane < rows.size(); ++lane) {
          y(token, rows[lane]) += sums[lane][token];
        }
      }
    }
  });
}

}  // namespace detail

/// y[M, N] += x[M, K] S^T. y does not overlap x. Refuses shapes that do not fit (shape). Uses ctx's
/// executor, and ctx's scratch or its own: K floats, or 16 K from four tokens on.
inline void add_sparse_product(matrix_view<const float> x, const packed_sparse& w,
                               matrix_view<float> y, const context& ctx) {
  const shape2 shape = w.shape();
  LOWBIT_CHECK(x.cols() == shape.cols && (y.shape() == shape2{x.rows(), shape.rows}), shape,
               "inputs [", x.rows(), ", ", x.cols(), "] and sparse weights [", shape.rows, ", ",
               shape.cols, "] do not give [", y.rows(), ", ", y.cols(), "]");
  if (w.count() == 0 || x.rows() == 0) return;
  const sparse_functions run = select_sparse(ctx.allowed).run;
  const bool blocks = x.rows() >= detail::sparse_block_tokens;
  const index_t width = shape.cols + w.panels() + sparse_slack;  // a 1 after each panel
  workspace own;
  workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  scratch.reserve(1, checked_mul(width * (blocks ? sparse_tokens : 1), sizeof(float), "inputs"));
  auto* const copy = reinterpret_cast<float*>(scratch.slot(0).data());
  if (!blocks) {
    for (index_t token = 0; token < x.rows(); ++token) {
      detail::copy_panels(x.row(token), copy);
      detail::add_sparse_token(w, copy, y.row(token), run.vector, ctx);
    }
    return;
  }
  for (index_t token = 0; token < x.rows(); token += sparse_tokens) {
    const row_range tokens{token, std::min(token + sparse_tokens, x.rows())};
    const matrix_view<const float> part = x.middle_rows(tokens);
    constexpr index_t columns_of_a_task = 512;
    parallel_for_blocks(ctx, shape.cols, columns_of_a_task,
                        [&](row_range columns) { detail::copy_panels_of(part, columns, copy); });
    detail::add_sparse_tokens(w, copy, y.middle_rows(tokens), run.block, ctx);
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
