// decorators/transform.hpp: cheap linear maps T of a layer's inputs, and what they do to weights
// and to Hessians. Layer L3.
//
// A layer y = W x is also y = B (T x) with B = W T^-1: transforming the inputs of a layer leaves
// another matrix to quantize, an easier one if T is well chosen. decorators/input_transformed.hpp
// makes of a quantized B and of T the quantized W. With x as columns:
//   inputs    x' = T x
//   weights   b  = T^-T w   for a row w of W, and back  w = T^T b
//   Hessian   H' = T H T^T  for H = E[x x^T]
//
// Invariant: every result is rounded in a stated order that no compiler can contract: the same
// bytes everywhere.
#pragma once

#include <algorithm>
#include <concepts>
#include <span>
#include <string_view>
#include <utility>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/kernels/context.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// An invertible map T of vectors of columns() = K numbers.
///  * format, a format_tag: its `name` is an adjective ("rotated") that goes before the name of a
///    format, `version` that of the buffers and of the map, and `describe` names fields that no
///    format has.
///  * inputs_step: what products do first, such as "rotated inputs".
///  * transform_input(x, out): out = T x, in floats and in doubles.
///  * transform_weights(w, out): out = T^-T w, a row of W to a row of B.
///  * restore_weights(b, out): out = T^T b, a row of B to a row of W. With transform_input this
///    DEFINES the map; transform_weights agrees with it up to rounding.
///  * transform_inputs(x, out, ctx) and restore_rows(b, out, ctx), optional: the same for matrices
///    [M, K] of rows, with the same bits, faster; on ctx's executor.
///  * for_each_buffer, from_buffers(columns, params, source): as for a quantized_tensor; buffers
///    have names that no format uses.
/// All spans have K elements and do not overlap. Const functions are thread-safe.
template <class T>
concept input_transform = std::movable<T> && format_tag<typename T::format> &&
    requires(const T& t, const typename T::format::params& params, index_t columns,
             std::span<const float> x, std::span<float> out, std::span<const double> wide_x,
             std::span<double> wide_out, buffer_visitor& visitor, buffer_source& source) {
  { T::inputs_step } -> std::convertible_to<std::string_view>;
  { t.columns() } -> std::same_as<index_t>;
  { t.params() } -> std::same_as<const typename T::format::params&>;
  { t.transform_input(x, out) } -> std::same_as<void>;
  { t.transform_input(wide_x, wide_out) } -> std::same_as<void>;
  { t.transform_weights(x, out) } -> std::same_as<void>;
  { t.restore_weights(x, out) } -> std::same_as<void>;
  { t.for_each_buffer(visitor) } -> std::same_as<void>;
  { T::from_buffers(columns, params, source) } -> std::same_as<T>;
};

namespace detail {

template <input_transform T>
void check_columns(const T& t, shape2 in, shape2 out) {
  LOWBIT_CHECK(in.cols == t.columns() && in == out, shape, "a transform of ", t.columns(),
               " columns does not map [", in.rows, ", ", in.cols, "] to [", out.rows, ", ",
               out.cols, "]");
}

}  // namespace detail

/// Tokens that one task transforms: for speed only, tokens do not know of each other.
inline constexpr index_t transform_block_tokens = 4;

/// The inputs x [M, K] as B meets them: out [M, K] = x T^T, by t.transform_inputs(x, out, ctx)
/// where T has that, with the same bits. x and out do not overlap. Uses ctx's executor and scratch.
/// Refuses other shapes (shape).
template <input_transform T>
void transform_inputs(const T& t, matrix_view<const float> x, matrix_view<float> out,
                      const kernels::context& ctx) {
  detail::check_columns(t, x.shape(), out.shape());
  if constexpr (requires { t.transform_inputs(x, out, ctx); }) {
    t.transform_inputs(x, out, ctx);
  } else {
    kernels::parallel_for_blocks(ctx, x.rows(), transform_block_tokens, [&](row_range rows) {
      for (index_t r = rows.begin; r < rows.end; ++r) t.transform_input(x.row(r), out.row(r));
    });
  }
}

/// Rows of B as rows of W: out [M, K] = b T, by t.restore_rows(b, out, ctx) where T has that, with
/// the same bits. b and out do not overlap. Refuses other shapes (shape).
template <input_transform T>
void restore_rows(const T& t, matrix_view<const float> b, matrix_view<float> out,
                  const kernels::context& ctx) {
  detail::check_columns(t, b.shape(), out.shape());
  if constexpr (requires { t.restore_rows(b, out, ctx); }) {
    t.restore_rows(b, out, ctx);
  } else {
    kernels::parallel_for_blocks(ctx, b.rows(), transform_block_tokens, [&](row_range rows) {
      for (index_t r = rows.begin; r < rows.end; ++r) t.restore_weights(b.row(r), out.row(r));
    });
  }
}

/// What to quantize in place of W [N, K]: out [N, K] = B = W T^-1. W and out do not overlap.
/// Refuses other shapes (shape).
template <input_transform T>
void transform_weights(const T& t, matrix_view<const float> w, matrix_view<float> out) {
  detail::check_columns(t, w.shape(), out.shape());
  for (index_t r = 0; r < w.rows(); ++r) t.transform_weights(w.row(r), out.row(r));
}

/// h [K, K] = T h T^T in place: the Hessian of the transformed inputs, in doubles. h is symmetric,
/// and stays so exactly. Refuses other shapes (shape).
template <input_transform T>
void transform_hessian(const T& t, matrix_view<double> h) {
  detail::check_columns(t, h.shape(), {t.columns(), t.columns()});
  const index_t n = h.rows();
  aligned_buffer<double> row(n);
  const auto transform_rows = [&] {
    for (index_t r = 0; r < n; ++r) {
      std::copy_n(h.row(r).data(), n, row.data());
      t.transform_input(row.span(), h.row(r));
    }
  };
  transform_rows();  // h T^T
  for (index_t r = 0; r < n; ++r) {
    for (index_t c = 0; c < r; ++c) std::swap(h(r, c), h(c, r));
  }
  transform_rows();  // (h T^T)^T T^T = T h T^T
  for (index_t r = 0; r < n; ++r) {
    for (index_t c = 0; c < r; ++c) h(c, r) = h(r, c);  // they may differ by a rounding
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
