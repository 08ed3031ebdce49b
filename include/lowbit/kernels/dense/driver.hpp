// kernels/dense/driver.hpp: packing, blocking and edges of dense fp64 products. Layer L2.
//
// What reaches stored bytes (Hessians, error feedback, Cholesky factors) is computed here, because
// every element has one definition that no build, CPU, blocking or number of threads changes:
//
//   c = fma(+-a[i][k], b[k][j], c) for k in increasing order, starting from what C holds.
//
// So a product may be cut over k, in chunks of any size, without changing a bit.
//
// Baseline code: the variant is chosen once per call. Blocking is that of Goto and van de Geijn
// (2008): a block of B, packed once for all, meets blocks of rows of A, packed by whoever runs the
// task; a panel of B stays in the L1 cache, the block of A in L2. Lanes beyond an edge are packed
// as zeros and computed in a tile of their own, from which only what lies inside is copied.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/dense/contract.hpp"
#include "lowbit/kernels/dense/variants.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Whether a product is added to C or subtracted from it.
enum class dense_sign : bool { add, subtract };

namespace detail {

/// Writes one panel: out[k][lane] for the rows of A (or columns of B) `lanes` and terms `depth`;
/// lanes beyond lanes.size() are zeros.
using dense_packer = function_ref<void(double* out, row_range lanes, row_range depth)>;

enum class dense_region : bool { all, lower };

/// C (or its lower triangle, diagonal included) += A * B.
struct dense_product {
  matrix_view<double> c;
  index_t depth;
  dense_packer pack_a;
  dense_packer pack_b;
  dense_region region = dense_region::all;
};

/// How products are cut. Depends on shapes only (and no result depends on it).
struct dense_blocks {
  static constexpr index_t depth = 256;    // a panel of B takes 32 KiB: L1 cache
  static constexpr index_t cols = 512;     // a block of B takes 1 MiB: L2 or L3 cache
  static constexpr index_t max_rows = 96;  // a block of A takes 192 KiB: L2 cache
  static constexpr index_t min_rows = 2 * dense_tile_rows;
  static constexpr index_t min_tasks = 8;         // if there are rows enough
  static constexpr index_t panels_of_a_task = 4;  // when B is packed
};

/// Packs the columns `lanes` of x[depth, lanes], row k multiplied by factor(k).
template <index_t Width, class T, class Factor>
void pack_columns(double* out, matrix_view<const T> x, row_range lanes, row_range depth,
                  Factor factor) noexcept {
  for (index_t k = depth.begin; k < depth.end; ++k, out += Width) {
    const T* const in = x.data() + k * x.row_stride() + lanes.begin;
    const double f = factor(k);
    if (lanes.size() == Width) {
      for (index_t i = 0; i < Width; ++i) out[i] = f * static_cast<double>(in[i]);
    } else {
      for (index_t i = 0; i < Width; ++i) {
        out[i] = i < lanes.size() ? f * static_cast<double>(in[i]) : 0.0;
      }
    }
  }
}

/// Packs the rows `lanes` of x[lanes, depth], times +-1. One line of a row after the other: rows
/// that lie a power of two apart fall into one set of the cache.
template <index_t Width>
void pack_rows(double* out, matrix_view<const double> x, row_range lanes, row_range depth,
               double factor) noexcept {
  constexpr index_t line = 8;
  for (index_t k = depth.begin; k < depth.end; k += line) {
    const index_t count = std::min(line, depth.end - k);
    for (index_t i = 0; i < Width; ++i) {
      if (i < lanes.size()) {
        const double* const in = x.data() + (lanes.begin + i) * x.row_stride() + k;
        for (index_t j = 0; j < count; ++j) out[j * Width + i] = factor * in[j];
      } else {
        for (index_t j = 0; j < count; ++j) out[j * Width + i] = 0.0;
      }
    }
    out += count * Width;
  }
}

/// One tile of C at (row, col), through a copy where it crosses an edge or the diagonal.
inline void add_dense_tile(const dense_product& p, dense_tile_fn run, dense_tile_args args,
                           index_t row, index_t col) noexcept {
  const index_t rows = std::min(dense_tile_rows, p.c.rows() - row);
  const index_t cols = std::min(dense_tile_cols, p.c.cols() - col);
  args.c = p.c.data() + row * p.c.row_stride() + col;
  args.c_stride = p.c.row_stride();
  const bool lower = p.region == dense_region::lower;
  if (rows == dense_tile_rows && cols == dense_tile_cols && (!lower || col + cols <= row + 1)) {
    run(args);
    return;
  }
  alignas(64) double copy[dense_tile_rows][dense_tile_cols] = {};
  double* const out = args.c;
  // How many elements of a row of the tile lie in C and in the region.
  const auto inside = [&](index_t i) {
    if (!lower) return cols;
    return row + i < col ? index_t{0} : std::min(cols, row + i - col + 1);
  };
  for (index_t i = 0; i < rows; ++i) std::copy_n(out + i * args.c_stride, inside(i), copy[i]);
  const index_t stride = args.c_stride;
  args.c = copy[0];
  args.c_stride = dense_tile_cols;
  run(args);
  for (index_t i = 0; i < rows; ++i) std::copy_n(copy[i], inside(i), out + i * stride);
}

/// Rows `rows` and columns `cols` of C, from panels that are packed.
inline void add_dense_block(const dense_product& p, dense_tile_fn run, row_range rows,
                            row_range cols, dense_tile_args args) noexcept {
  const double* const a = args.a;
  for (index_t col = cols.begin; col < cols.end; col += dense_tile_cols) {
    args.a = a;
    for (index_t row = rows.begin; row < rows.end; row += dense_tile_rows) {
      if (p.region == dense_region::all || col < row + dense_tile_rows) {
        // The next tile starts with loads of C, on which all its sums wait.
        for (index_t i = row + dense_tile_rows; i < std::min(row + 2 * dense_tile_rows, rows.end);
             ++i) {
          const double* const next = p.c.data() + i * p.c.row_stride() + col;
          __builtin_prefetch(next, 1);
          __builtin_prefetch(next + 8, 1);
        }
        add_dense_tile(p, run, args, row, col);
      }
      args.a += args.depth * dense_tile_rows;
    }
    args.b += args.depth * dense_tile_cols;
  }
}

inline void add_dense(const dense_product& p, const context& ctx) {
  using blocks = dense_blocks;
  if (p.c.empty() || p.depth == 0) return;
  const dense_tile_fn run = select_dense(ctx.allowed).run.tile;
  const index_t m = p.c.rows();
  const index_t n = p.c.cols();
  const index_t task_rows =
      std::clamp(div_up(m / blocks::min_tasks, dense_tile_rows) * dense_tile_rows, blocks::min_rows,
                 blocks::max_rows);
  const index_t max_depth = std::min(blocks::depth, p.depth);
  const index_t max_cols = div_up(std::min(blocks::cols, n), dense_tile_cols) * dense_tile_cols;

  workspace own;
  workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  const index_t shared = workers(ctx);  // the slot of the block of B
  scratch.reserve(shared + 1, sizeof(double) * max_depth * std::max(task_rows, max_cols));
  auto* const b = reinterpret_cast<double*>(scratch.slot(shared).data());

  for (index_t col = 0; col < n; col += blocks::cols) {
    const row_range cols{col, std::min(col + blocks::cols, n)};
    const index_t panels = div_up(cols.size(), dense_tile_cols);
    for (index_t k = 0; k < p.depth; k += blocks::depth) {
      const row_range depth{k, std::min(k + blocks::depth, p.depth)};
      parallel_for(ctx, div_up(panels, blocks::panels_of_a_task), [&](index_t task, index_t) {
        const index_t first = task * blocks::panels_of_a_task;
        for (index_t i = first; i < std::min(first + blocks::panels_of_a_task, panels); ++i) {
          const index_t begin = cols.begin + i * dense_tile_cols;
          p.pack_b(b + i * dense_tile_cols * depth.size(),
                   {begin, std::min(begin + dense_tile_cols, cols.end)}, depth);
        }
      });
      // Of the lower triangle, the rows above the block's first column have nothing to do.
      const index_t first = p.region == dense_region::lower ? col / task_rows : 0;
      parallel_for(ctx, div_up(m, task_rows) - first, [&](index_t task, index_t worker) {
        const index_t begin = (first + task) * task_rows;
        const row_range rows{begin, std::min(begin + task_rows, m)};
        auto* const a = reinterpret_cast<double*>(scratch.slot(worker).data());
        double* panel = a;
        for (index_t row = rows.begin; row < rows.end; row += dense_tile_rows) {
          p.pack_a(panel, {row, std::min(row + dense_tile_rows, rows.end)}, depth);
          panel += dense_tile_rows * depth.size();
        }
        add_dense_block(p, run, rows, cols,
                        {.a = a, .b = b, .c = nullptr, .c_stride = 0, .depth = depth.size()});
      });
    }
  }
}

[[nodiscard]] constexpr double factor_of(dense_sign sign) noexcept {
  return sign == dense_sign::add ? 1.0 : -1.0;
}

/// The left operand's rows, times +-1.
[[nodiscard]] inline auto rows_packer(matrix_view<const double> a, dense_sign sign) noexcept {
  return [a, factor = factor_of(sign)](double* out, row_range lanes, row_range depth) {
    pack_rows<dense_tile_rows>(out, a, lanes, depth, factor);
  };
}

inline void check_dense_product(shape2 c, shape2 product, shape2 inner) {
  LOWBIT_CHECK(c == product, shape, "the product is [", product.rows, ", ", product.cols,
               "], the output [", c.rows, ", ", c.cols, "]");
  LOWBIT_CHECK(inner.rows == inner.cols, shape, "the left operand has ", inner.rows,
               " terms, the right one ", inner.cols);
}

/// What add_gram and add_cross have in common. `weights` may be empty: all ones.
inline void add_transposed_product(const matrix_view<double>& c, matrix_view<const float> x,
                                   matrix_view<const float> y, std::span<const float> weights,
                                   dense_region region, const context& ctx) {
  check_dense_product(c.shape(), {x.cols(), y.cols()}, {x.rows(), y.rows()});
  LOWBIT_CHECK(weights.empty() || weights.size() == x.rows(), shape, "there are ", x.rows(),
               " rows, but ", weights.size(), " weights");
  for (index_t t = 0; t < weights.size(); ++t) {
    LOWBIT_CHECK(std::isfinite(weights[t]) && weights[t] >= 0.0F, value, "weight ", t, " is ",
                 weights[t], ", not a finite number of at least 0");
  }
  const auto weight = [&](index_t t) {
    return weights.empty() ? 1.0 : static_cast<double>(weights[t]);
  };
  const auto pack_x = [&](double* out, row_range lanes, row_range depth) {
    pack_columns<dense_tile_rows>(out, x, lanes, depth, weight);
  };
  const auto pack_y = [&](double* out, row_range lanes, row_range depth) {
    pack_columns<dense_tile_cols>(out, y, lanes, depth, [](index_t) { return 1.0; });
  };
  add_dense({c, x.rows(), pack_x, pack_y, region}, ctx);
}

}  // namespace detail

// All of these: C must not overlap an operand. Refused are shapes that do not fit (shape). Matrices
// may be empty. Thread-safe, but for ctx.scratch, which one call at a time may use.

/// C[M, N] += or -= A[M, K] * B[K, N].
inline void add_product(matrix_view<double> c, dense_sign sign, matrix_view<const double> a,
                        matrix_view<const double> b, const context& ctx) {
  detail::check_dense_product(c.shape(), {a.rows(), b.cols()}, {a.cols(), b.rows()});
  const auto pack_a = detail::rows_packer(a, sign);
  const auto pack_b = [&](double* out, row_range lanes, row_range depth) {
    detail::pack_columns<dense_tile_cols>(out, b, lanes, depth, [](index_t) { return 1.0; });
  };
  detail::add_dense({c, a.cols(), pack_a, pack_b}, ctx);
}

/// C[M, N] += or -= A[M, K] * B[N, K]^T.
inline void add_product_transposed(matrix_view<double> c, dense_sign sign,
                                   matrix_view<const double> a, matrix_view<const double> b,
                                   const context& ctx) {
  detail::check_dense_product(c.shape(), {a.rows(), b.rows()}, {a.cols(), b.cols()});
  const auto pack_a = detail::rows_packer(a, sign);
  const auto pack_b = [&](double* out, row_range lanes, row_range depth) {
    detail::pack_rows<dense_tile_cols>(out, b, lanes, depth, 1.0);
  };
  detail::add_dense({c, a.cols(), pack_a, pack_b}, ctx);
}

/// The lower triangle of C[N, N] += or -= that of A[N, K] * A^T, diagonal included. What is above
/// the diagonal is neither read nor written.
inline void add_outer_gram(matrix_view<double> c, dense_sign sign, matrix_view<const double> a,
                           const context& ctx) {
  detail::check_dense_product(c.shape(), {a.rows(), a.rows()}, {});
  const auto pack_a = detail::rows_packer(a, sign);
  const auto pack_b = [&](double* out, row_range lanes, row_range depth) {
    detail::pack_rows<dense_tile_cols>(out, a, lanes, depth, 1.0);
  };
  detail::add_dense({c, a.cols(), pack_a, pack_b, detail::dense_region::lower}, ctx);
}

/// The lower triangle of H[K, K] += that of the sum over rows t of weights[t] * x_t^T * x_t, for
/// X[T, K] and T weights >= 0 (an empty span: all ones); a weight that is negative or not finite is
/// refused (value). weights[t] * x[t][i] is a product of floats, hence exact in double, and only
/// the sum rounds: fma(weights[t] * x[t][i], x[t][j], h). Rows may be fed in chunks of any size:
/// the bits of H depend on their order only. mirror_lower makes H whole, once, at the end.
inline void add_gram(matrix_view<double> h, matrix_view<const float> x,
                     std::span<const float> weights, const context& ctx) {
  detail::add_transposed_product(h, x, x, weights, detail::dense_region::lower, ctx);
}

/// C[K, N] += the sum over rows t of weights[t] * x_t^T * y_t, for X[T, K] and Y[T, N]: like
/// add_gram, but two inputs, and all of C.
inline void add_cross(matrix_view<double> c, matrix_view<const float> x, matrix_view<const float> y,
                      std::span<const float> weights, const context& ctx) {
  detail::add_transposed_product(c, x, y, weights, detail::dense_region::all, ctx);
}

/// Copies the lower triangle of H[K, K] to the upper one. Refuses a matrix that is not square.
inline void mirror_lower(matrix_view<double> h) {
  LOWBIT_CHECK(h.rows() == h.cols(), shape, "[", h.rows(), ", ", h.cols(), "] is not square");
  constexpr index_t block = 32;  // so that lines that columns go through stay in the L1 cache
  for (index_t i0 = 0; i0 < h.rows(); i0 += block) {
    for (index_t j0 = 0; j0 <= i0; j0 += block) {
      for (index_t i = i0; i < std::min(i0 + block, h.rows()); ++i) {
        for (index_t j = j0; j < std::min(j0 + block, i); ++j) h(j, i) = h(i, j);
      }
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
