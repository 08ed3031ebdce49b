// rotation/fold.hpp: rotations folded into the weights of a network, whose outputs stay what they
// are. Layer L3.
//
// A residual stream h is a row per token. Tables (embeddings) and the layers that write to it may
// turn what they write, h' = h R, if everybody who reads it turns it back: a reader y = h W^T
// becomes y = h' (W R)^T. In between there are norms. RMSNorm without weights commutes with an
// orthogonal R, because |h R| = |h|; its weights move into the readers first. LayerNorm is an
// RMSNorm of centred rows: if nobody writes a mean, it has none to subtract. So, in this order:
//   fuse_norms   W <- W diag(g), b <- b + W beta;  then g = 1, beta = 0
//   centre       tables, weights and biases of writers less their mean over the stream (LayerNorm)
//   rotate       tables E <- E R; readers W <- W R; writers W <- R^T W, b <- R^T b
// (QuaRot, arXiv 2404.00456; SliceGPT, arXiv 2401.15024). README.md has the roles in a block.
//
// Functions change weights in place. What they refuse, they refuse before they have changed
// anything.
//
// Invariants: sums in double in one order, each weight rounded once per function: the same bytes on
// every CPU, compiler and number of threads. An error of float rounding per function is what
// outputs change by.
#pragma once

#include <algorithm>
#include <functional>
#include <string_view>
#include <vector>

#include "lowbit/core/quantizer.hpp"
#include "lowbit/rotation/orthogonal.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation {

/// A layer y = x W^T + b, in the caller's memory.
struct linear {
  matrix_view<float> weight;   ///< [N, K]
  std::span<float> bias = {};  ///< N elements, or none
};

/// A norm of the stream's rows, and who reads what it makes of them.
struct norm {
  std::span<float> weight = {};  ///< an element per column of the stream, or none: all 1
  std::span<float> bias = {};    ///< the same, or none: all 0
  std::span<const linear> readers = {};
};

/// Everybody who touches a stream h[tokens, columns]: all or nothing may be rotated. The spans'
/// memory is the caller's.
struct residual_stream {
  std::span<const matrix_view<float>> tables = {};  ///< [*, columns]: rows that are added to it
  std::span<const linear> writers = {};             ///< [columns, *]: outputs that are added to it
  std::span<const norm> norms = {};                 ///< readers are [*, columns]
};

namespace detail {

/// Lines (rows or columns) that one task copies: 16 floats fill a cache line where lines are
/// columns.
inline constexpr index_t lines_of_task = 16;
/// Lines that are rotated by one product.
inline constexpr index_t lines_of_product = 512;

/// store(i, l_i R) for l_i that load(i, l) wrote, for every line i < lines.
template <orthogonal_map R, class Load, class Store>
void rotate_lines(const R& r, index_t lines, const Load& load, const Store& store,
                  const kernels::context& ctx) {
  const index_t n = r.columns();
  const index_t most = std::min(lines, lines_of_product);
  aligned_buffer<double> from(checked_mul(most, n, "rotated lines"));
  aligned_buffer<double> to(from.size());
  for (index_t begin = 0; begin < lines; begin += most) {
    const index_t count = std::min(most, lines - begin);
    const matrix_view<double> x(from.data(), count, n);
    const matrix_view<double> y(to.data(), count, n);
    const auto for_each_line = [&](auto&& f) {
      kernels::parallel_for_blocks(ctx, count, lines_of_task, [&](row_range some) {
        for (index_t i = some.begin; i < some.end; ++i) f(i);
      });
    };
    for_each_line([&](index_t i) { load(begin + i, x.row(i)); });
    rotate_rows(r, x, y, ctx);
    for_each_line([&](index_t i) { store(begin + i, y.row(i)); });
  }
}

/// Rows of w, each cut into heads of r.columns() columns.
template <orthogonal_map R>
void rotate_row_heads(const R& r, matrix_view<float> w, const kernels::context& ctx) {
  const index_t n = r.columns();
  const index_t heads = n == 0 ? 0 : w.cols() / n;
  const auto head = [&](index_t line) { return w.row(line / heads).subspan(line % heads * n, n); };
  rotate_lines(
      r, w.rows() * heads,
      [&](index_t i, std::span<double> x) {
        const auto in = head(i);
        for (index_t k = 0; k < n; ++k) x[k] = static_cast<double>(in[k]);
      },
      [&](index_t i, std::span<const double> x) {
        const auto out = head(i);
        for (index_t k = 0; k < n; ++k) out[k] = static_cast<float>(x[k]);
      },
      ctx);
}

/// Columns of w, each cut into heads of r.columns() rows.
template <orthogonal_map R>
void rotate_column_heads(const R& r, matrix_view<float> w, const kernels::context& ctx) {
  const index_t n = r.columns();
  const index_t heads = n == 0 ? 0 : w.rows() / n;
  rotate_lines(
      r, w.cols() * heads,
      [&](index_t i, std::span<double> x) {
        const index_t row = i / w.cols() * n;
        for (index_t k = 0; k < n; ++k) x[k] = static_cast<double>(w(row + k, i % w.cols()));
      },
      [&](index_t i, std::span<const double> x) {
        const index_t row = i / w.cols() * n;
        for (index_t k = 0; k < n; ++k) w(row + k, i % w.cols()) = static_cast<float>(x[k]);
      },
      ctx);
}

inline void check_linear(const linear& layer, std::string_view what) {
  LOWBIT_CHECK(layer.bias.empty() || layer.bias.size() == layer.weight.rows(), shape, what, " of [",
               layer.weight.rows(), ", ", layer.weight.cols(), "] has a bias of ",
               layer.bias.size());
  check_finite(layer.weight, what);
  check_finite({layer.bias.data(), 1, layer.bias.size()}, what);
}

inline void check_columns(matrix_view<const float> w, index_t columns, std::string_view what) {
  LOWBIT_CHECK(w.cols() == columns, shape, what, " has ", w.cols(), " columns, not ", columns);
}

/// Whether two views share an element. Of views with different strides it may say so wrongly.
[[nodiscard]] inline bool overlap(matrix_view<const float> a, matrix_view<const float> b) noexcept {
  if (a.empty() || b.empty()) return false;
  const std::less<const float*> before;
  if (before(b.data(), a.data())) std::swap(a, b);
  const float* const last = a.data() + (a.rows() - 1) * a.row_stride() + a.cols();
  if (!before(b.data(), last)) return false;
  if (a.row_stride() != b.row_stride()) return true;
  // Columns of one matrix: b begins `at` columns to the right of a.
  const auto at = static_cast<index_t>(b.data() - a.data()) % a.row_stride();
  return at < a.cols() || at + b.cols() > a.row_stride();
}

/// A matrix that a function will change, and what to call it.
struct named_view {
  matrix_view<const float> view;
  std::string_view what;
  index_t index;
};

/// Refuses matrices that share memory: one of them would be changed twice.
inline void check_disjoint(std::span<const named_view> views) {
  for (index_t i = 0; i < views.size(); ++i) {
    for (index_t j = 0; j < i; ++j) {
      LOWBIT_CHECK(!overlap(views[i].view, views[j].view), value, views[j].what, " ",
                   views[j].index, " and ", views[i].what, " ", views[i].index,
                   " share memory; tied matrices have to be copied apart, because each role "
                   "changes them in its own way");
    }
  }
}

[[nodiscard]] inline matrix_view<const float> as_row(std::span<const float> x) noexcept {
  return {x.data(), 1, x.size()};
}

inline void add_views(const linear& layer, std::string_view what, index_t index,
                      std::vector<named_view>& out) {
  out.push_back({layer.weight, what, index});
  out.push_back({as_row(layer.bias), what, index});
}

inline void add_views(const norm& n, index_t index, std::vector<named_view>& out) {
  out.push_back({as_row(n.weight), "norm", index});
  out.push_back({as_row(n.bias), "norm", index});
  for (const linear& reader : n.readers) add_views(reader, "reader of norm", index, out);
}

/// A norm alone: shapes, finite values, and whether the bias has where to go.
inline void check_norm(const norm& n) {
  const index_t columns = !n.weight.empty() ? n.weight.size() : n.bias.size();
  LOWBIT_CHECK(n.bias.empty() || n.bias.size() == columns, shape, "a norm of ", columns,
               " columns has a bias of ", n.bias.size());
  check_finite(as_row(n.weight), "a norm's weight");
  check_finite(as_row(n.bias), "a norm's bias");
  const bool shifts = std::any_of(n.bias.begin(), n.bias.end(), [](float b) { return b != 0.0F; });
  for (const linear& reader : n.readers) {
    check_linear(reader, "a norm's reader");
    if (columns != 0) check_columns(reader.weight, columns, "a norm's reader");
    LOWBIT_CHECK(!shifts || !reader.bias.empty() || reader.weight.rows() == 0, value,
                 "a norm has a bias, which its reader of [", reader.weight.rows(), ", ",
                 reader.weight.cols(), "] needs a bias to take: give it one of zeros");
  }
}

/// Refuses a stream whose parts do not fit, or share memory. Returns its columns.
inline index_t check_stream(const residual_stream& s) {
  index_t columns = 0;
  if (!s.tables.empty())
    columns = s.tables[0].cols();
  else if (!s.writers.empty())
    columns = s.writers[0].weight.rows();
  else if (!s.norms.empty() && !s.norms[0].readers.empty())
    columns = s.norms[0].readers[0].weight.cols();
  std::vector<named_view> views;
  for (index_t i = 0; i < s.tables.size(); ++i) {
    check_columns(s.tables[i], columns, "a table");
    check_finite(s.tables[i], "a table");
    views.push_back({s.tables[i], "table", i});
  }
  for (index_t i = 0; i < s.writers.size(); ++i) {
    const linear& writer = s.writers[i];
    check_linear(writer, "a writer");
    LOWBIT_CHECK(writer.weight.rows() == columns, shape, "a writer has ", writer.weight.rows(),
                 " outputs, the stream ", columns, " columns");
    add_views(writer, "writer", i, views);
  }
  for (index_t i = 0; i < s.norms.size(); ++i) {
    const norm& n = s.norms[i];
    check_norm(n);
    LOWBIT_CHECK(n.weight.empty() || n.weight.size() == columns, shape, "a norm has ",
                 n.weight.size(), " weights, the stream ", columns, " columns");
    LOWBIT_CHECK(n.bias.empty() || n.bias.size() == columns, shape, "a norm has a bias of ",
                 n.bias.size(), ", the stream ", columns, " columns");
    for (const linear& reader : n.readers) check_columns(reader.weight, columns, "a norm's reader");
    add_views(n, i, views);
  }
  check_disjoint(views);
  return columns;
}

inline void fuse_checked_norm(const norm& n) {
  for (const linear& reader : n.readers) {
    for (index_t r = 0; r < reader.weight.rows(); ++r) {
      const auto w = reader.weight.row(r);
      if (!n.bias.empty() && !reader.bias.empty()) {
        double sum = static_cast<double>(reader.bias[r]);
        for (index_t k = 0; k < w.size(); ++k) {
          sum = std::fma(static_cast<double>(w[k]), static_cast<double>(n.bias[k]), sum);
        }
        reader.bias[r] = static_cast<float>(sum);
      }
      if (n.weight.empty()) continue;
      for (index_t k = 0; k < w.size(); ++k) w[k] *= n.weight[k];
    }
  }
  std::fill(n.weight.begin(), n.weight.end(), 1.0F);
  std::fill(n.bias.begin(), n.bias.end(), 0.0F);
}

/// Each row less its mean.
inline void centre_rows(matrix_view<float> x) noexcept {
  for (index_t r = 0; r < x.rows(); ++r) {
    double sum = 0.0;
    for (const float v : x.row(r)) sum += static_cast<double>(v);
    const double mean = sum / static_cast<double>(x.cols());
    for (float& v : x.row(r)) v = static_cast<float>(static_cast<double>(v) - mean);
  }
}

/// Each column less its mean.
inline void centre_columns(matrix_view<float> x) {
  aligned_buffer<double> means(x.cols());
  for (index_t r = 0; r < x.rows(); ++r) {
    for (index_t c = 0; c < x.cols(); ++c) means[c] += static_cast<double>(x(r, c));
  }
  for (double& mean : means) mean /= static_cast<double>(x.rows());
  for (index_t r = 0; r < x.rows(); ++r) {
    for (index_t c = 0; c < x.cols(); ++c) {
      x(r, c) = static_cast<float>(static_cast<double>(x(r, c)) - means[c]);
    }
  }
}

}  // namespace detail

// Pieces -----------------------------------------------------------------------------------------
// For networks that residual_stream does not describe. All refuse what does not fit (shape), NaN
// and Inf (value). Thread-safe, as far as memory is not shared, but for ctx.scratch.

/// The norm's weight and bias move into its readers: W <- W diag(g), b <- b + W beta; then g = 1
/// and beta = 0, so that a second call changes nothing. Refuses (value) a bias that is not all 0
/// where a reader has none to add it to, and readers that share memory.
inline void fuse_norm(const norm& n) {
  detail::check_norm(n);
  std::vector<detail::named_view> views;
  detail::add_views(n, 0, views);
  detail::check_disjoint(views);
  detail::fuse_checked_norm(n);
}

/// Rows of a table less their mean: what it adds to a stream has none.
inline void centre_table(matrix_view<float> table) {
  check_finite(table, "a table");
  detail::centre_rows(table);
}

/// The outputs of a layer less their mean over all outputs, whatever the inputs: each column of W
/// and the bias less its mean.
inline void centre_outputs(const linear& layer) {
  detail::check_linear(layer, "a writer");
  detail::centre_columns(layer.weight);
  detail::centre_rows({layer.bias.data(), 1, layer.bias.size()});
}

/// W[N, K] <- W R: for inputs x' = x R, the outputs that W gave for x. Of a table, the rows times
/// R. For R4: W is down_proj's, and x R is transform_input(x) at run time.
template <orthogonal_map R>
void rotate_inputs(matrix_view<float> w, const R& r, const kernels::context& ctx) {
  detail::check_columns(w, r.columns(), "a rotated layer");
  check_finite(w, "a rotated layer");
  detail::rotate_row_heads(r, w, ctx);
}

/// W[N, K] <- R^T W, b <- R^T b: outputs y' = y R.
template <orthogonal_map R>
void rotate_outputs(const linear& layer, const R& r, const kernels::context& ctx) {
  detail::check_linear(layer, "a rotated layer");
  LOWBIT_CHECK(layer.weight.rows() == r.columns(), shape, "a rotated layer has ",
               layer.weight.rows(), " outputs, the rotation ", r.columns(), " columns");
  detail::rotate_column_heads(r, layer.weight, ctx);
  detail::rotate_row_heads(
      r, {layer.bias.data(), layer.bias.empty() ? index_t{0} : index_t{1}, layer.bias.size()}, ctx);
}

/// R2: every head of the values v[kv_heads * d, *] turns by R[d, d], and every head of `output`
/// [*, heads * d], the layer that reads what attention makes of them, turns back. Attention mixes
/// tokens, not the elements of a head, and with grouped queries several heads read one of the
/// values: hence one R for all heads. Refuses sizes that are no multiples of d, or heads that are
/// none of kv_heads (shape), and v and output that share memory (value).
template <orthogonal_map R>
void rotate_heads(const linear& v, matrix_view<float> output, const R& r,
                  const kernels::context& ctx) {
  detail::check_linear(v, "the values' layer");
  check_finite(output, "the layer behind attention");
  const index_t d = r.columns();
  LOWBIT_CHECK(d != 0 && v.weight.rows() % d == 0 && output.cols() % d == 0, shape, "heads of ", d,
               " elements fit neither evenly into ", v.weight.rows(), " values nor into ",
               output.cols(), " inputs behind attention");
  LOWBIT_CHECK(v.weight.rows() != 0 && output.cols() % v.weight.rows() == 0, shape,
               output.cols() / d, " heads cannot share ", v.weight.rows() / d, " heads of values");
  const detail::named_view views[] = {
      {v.weight, "values", 0}, {detail::as_row(v.bias), "values", 0}, {output, "output", 0}};
  detail::check_disjoint(views);
  detail::rotate_column_heads(r, v.weight, ctx);
  detail::rotate_row_heads(
      r, {v.bias.data(), v.bias.empty() ? index_t{0} : index_t{1}, v.bias.size()}, ctx);
  detail::rotate_row_heads(r, output, ctx);
}

// A whole stream ---------------------------------------------------------------------------------
// All of these refuse (shape) parts that do not have the stream's columns, (value) NaN, Inf and
// parts that share memory: an embedding that is tied to the lm_head takes another change than that
// does, which has the last norm's weight to take, so that there have to be two of them.

/// fuse_norm for every norm.
inline void fuse_norms(const residual_stream& s) {
  detail::check_stream(s);
  for (const norm& n : s.norms) detail::fuse_checked_norm(n);
}

/// Nothing writes a mean any more, so that LayerNorm, once its weights are fused, is RMSNorm with
/// the same epsilon. Call it before rotate(): afterwards a norm must not subtract means.
inline void centre(const residual_stream& s) {
  detail::check_stream(s);
  for (const auto& table : s.tables) detail::centre_rows(table);
  for (const linear& writer : s.writers) {
    detail::centre_columns(writer.weight);
    detail::centre_rows({writer.bias.data(), 1, writer.bias.size()});
  }
}

/// R1: the stream becomes h R. Norms must be RMSNorm (or LayerNorm behind centre(), run as RMSNorm
/// from now on). Refuses (value) a norm whose weight is not all 1 or bias not all 0: fuse it first.
template <orthogonal_map R>
void rotate(const residual_stream& s, const R& r, const kernels::context& ctx) {
  const index_t columns = detail::check_stream(s);
  LOWBIT_CHECK(columns == r.columns(), shape, "the stream has ", columns, " columns, the rotation ",
               r.columns());
  for (index_t i = 0; i < s.norms.size(); ++i) {
    const norm& n = s.norms[i];
    const bool fused =
        std::all_of(n.weight.begin(), n.weight.end(), [](float g) { return g == 1.0F; }) &&
        std::all_of(n.bias.begin(), n.bias.end(), [](float b) { return b == 0.0F; });
    LOWBIT_CHECK(fused, value, "norm ", i,
                 " has weights of its own, which do not commute with a rotation: fuse it first");
  }
  for (const auto& table : s.tables) rotate_inputs(table, r, ctx);
  for (const linear& writer : s.writers) rotate_outputs(writer, r, ctx);
  for (const norm& n : s.norms) {
    for (const linear& reader : n.readers) rotate_inputs(reader.weight, r, ctx);
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation
