// outlier/fit.hpp: what is left for a base to quantize, and what to store beside it. Layer L3.
//
// W = B + S: the base B quantizes W without its outliers, then S makes up for what it missed. With
// H = E[x x^T] of the layer's inputs the values of a row are those of the least output error,
//   minimise (w - b - s)^T H (w - b - s)  over s on its places S:  s_S = H_SS^-1 (H (w - b))_S,
// so that they correct errors of their neighbours, too; without H they are w - b at their places.
//
// Invariants: same bits on every CPU, compiler and number of threads (kernels/dense, std::fma).
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/core/tensor_ref.hpp"
#include "lowbit/kernels/dense/driver.hpp"
#include "lowbit/linalg/cholesky.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier {

namespace detail {

/// Places of one row that are solved for together: H_SS has the square of it. Longer rows go in
/// parts, each given the parts before, which is not quite optimal and never worse than none.
inline constexpr index_t places_of_a_system = 128;

[[nodiscard]] inline float as_stored(double value) noexcept {
  return to_float(from_float<float16>(static_cast<float>(value)));
}

/// Values for places (columns) of one row. residual [K]: w - b, left as w - b - s. Returns false
/// where H is not positive definite.
[[nodiscard]] inline bool fit_row(matrix_view<const double> h, std::span<const index_t> columns,
                                  std::span<double> residual, std::span<float> values,
                                  const kernels::context& ctx) {
  const index_t k = residual.size();
  for (index_t begin = 0; begin < columns.size(); begin += places_of_a_system) {
    const index_t count = std::min(places_of_a_system, columns.size() - begin);
    const auto part = columns.subspan(begin, count);
    aligned_buffer<double> rows(count * k);
    aligned_buffer<double> system(count * count);
    for (index_t i = 0; i < count; ++i) {
      const auto row = h.row(part[i]);
      std::copy_n(row.data(), k, rows.data() + i * k);
      for (index_t j = 0; j < count; ++j) system[i * count + j] = row[part[j]];
    }
    aligned_buffer<double> s(count);
    kernels::add_product_transposed({s.data(), 1, count}, kernels::dense_sign::add,
                                    matrix_view<const double>(residual.data(), 1, k),
                                    matrix_view<const double>(rows.data(), count, k), ctx);
    if (!linalg::solve_spd_small(system.span(), s.span())) return false;
    for (index_t i = 0; i < count; ++i) {
      values[begin + i] = as_stored(s[i]);
      residual[part[i]] -= static_cast<double>(values[begin + i]);
    }
  }
  return true;
}

}  // namespace detail

/// out [N, K] = W with zeros at `places` (row * K + column): what the base is to quantize. Refuses
/// another shape (shape) and places outside (value).
inline void remove_outliers(matrix_view<const float> w, std::span<const index_t> places,
                            matrix_view<float> out) {
  LOWBIT_CHECK(w.shape() == out.shape(), shape, "a remainder of [", out.rows(), ", ", out.cols(),
               "] for weights of [", w.rows(), ", ", w.cols(), "]");
  for (index_t r = 0; r < w.rows(); ++r) std::copy_n(w.row(r).data(), w.cols(), out.row(r).data());
  for (const index_t place : places) {
    LOWBIT_CHECK(place < w.shape().size(), value, "place ", place, " of ", w.shape().size());
    out(place / w.cols(), place % w.cols()) = 0.0F;
  }
}

/// The values at `places` (row * K + column, increasing) that make up for the errors of `base`, as
/// fp16 stores them. h [K, K]: symmetric and damped; empty for none, and where it is not positive
/// definite that of a row is not used. Uses ctx's executor; time about K products per place.
/// Refuses what does not fit (shape).
[[nodiscard]] inline std::vector<float> fit_outliers(matrix_view<const float> w, tensor_ref base,
                                                     std::span<const index_t> places,
                                                     matrix_view<const double> h,
                                                     const kernels::context& ctx) {
  const shape2 shape = w.shape();
  LOWBIT_CHECK(base.shape() == shape && (h.empty() || h.shape() == shape2{shape.cols, shape.cols}),
               shape, "a base of [", base.shape().rows, ", ", base.shape().cols,
               "] and a Hessian of [", h.rows(), ", ", h.cols(), "] for weights of [", shape.rows,
               ", ", shape.cols, "]");
  std::vector<float> values(places.size());
  const index_t block_rows = dequantize_block_rows(base);
  std::vector<kernels::workspace> scratch(kernels::workers(ctx));
  kernels::parallel_for_blocks(ctx, shape.rows, block_rows, [&](row_range rows, index_t worker) {
    const kernels::context serial = ctx.serial(&scratch[worker]);
    aligned_buffer<float> block(rows.size() * shape.cols);
    const matrix_view<float> b(block.data(), rows.size(), shape.cols);
    base.dequantize(rows, b);
    std::vector<double> residual(shape.cols);
    std::vector<index_t> columns;
    auto at = std::lower_bound(places.begin(), places.end(), rows.begin * shape.cols);
    for (index_t r = rows.begin; r < rows.end; ++r) {
      columns.clear();
      const auto first = static_cast<index_t>(at - places.begin());
      for (; at != places.end() && *at < (r + 1) * shape.cols; ++at) {
        columns.push_back(*at - r * shape.cols);
      }
      const std::span<float> out(values.data() + first, columns.size());
      const auto difference = [&](index_t k) {
        return static_cast<double>(w(r, k)) - static_cast<double>(b(r - rows.begin, k));
      };
      if (!h.empty() && !columns.empty()) {
        for (index_t k = 0; k < shape.cols; ++k) residual[k] = difference(k);
        if (detail::fit_row(h, columns, residual, out, serial)) continue;
      }
      for (index_t i = 0; i < columns.size(); ++i) {
        out[i] = detail::as_stored(difference(columns[i]));
      }
    }
  });
  return values;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier
