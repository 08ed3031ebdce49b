// layout/operands.hpp: the refinements of quantized_tensor that fast products consume. Layer L2.
//
// They stand here, not beside the concept, because they speak of layouts. Each is optional.
#pragma once

#include <array>
#include <concepts>
#include <span>
#include <string_view>
#include <type_traits>

#include "lowbit/core/affine.hpp"
#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/layout/bit_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// A tensor that is a sum of scaled bit planes per group of columns,
///   W[n, k] = offset(n, g) + sum over planes i of coefficient_i(n, g) * bit_i(n, k),  g = k /
///   group_size.
///  * planes(): the canonical planes.
///  * group_size(): columns per group (the last group may be shorter); at least 1 unless K is 0.
///  * plane_coefficients(n, g, out): writes one coefficient per plane, returns the offset.
/// The sum may differ from dequantize() by rounding only.
template <class T>
concept bit_serial_operand = quantized_tensor<T> &&
    requires(const T& t, index_t row, index_t group, std::span<float> out) {
  { t.planes() } -> std::same_as<const layout::bit_matrix&>;
  { t.group_size() } -> std::same_as<index_t>;
  { t.plane_coefficients(row, group, out) } -> std::same_as<float>;
};

/// What the bits of planes stand for, and which numbers a group has.
struct plane_form {
  bool is_signed = false;         ///< bits stand for -1 and +1, else for 0 and 1
  bool has_offsets = false;       ///< else every offset is 0
  bool has_ratios = false;        ///< a group has one scale, which `ratios` multiply
  std::array<float, 8> ratios{};  ///< of the first 8 planes, the same for all groups
};

/// A bit_serial_operand that says, at run time, which form its sums have, so that products need not
/// store what follows from it:
///   W[n, k] = offset(n, g) + sum over planes i of c_i(n, g) * b_i(n, k)
/// with b_i = -1 or +1 (is_signed), else 0 or 1, and c_i(n, g) = scale(n, g) * ratios[i]
/// (has_ratios, at most 8 planes), else any.
///  * plane_levels(n, g, out): writes the scale (has_ratios), else one coefficient per plane;
///  returns the offset.
/// The sum may differ from dequantize() by rounding only.
template <class T>
concept plane_sum_operand = bit_serial_operand<T> &&
    requires(const T& t, index_t row, index_t group, std::span<float> out) {
  { t.plane_form() } -> std::same_as<plane_form>;
  { t.plane_levels(row, group, out) } -> std::same_as<float>;
};

/// A tensor of small integers with affine levels per group of columns (core/affine.hpp):
///   W[n, k] = decode(grid(), levels_of(n, g), code(n, k)),  g = k / group_size.
///  * codes(n, out): writes the K codes of a row, one byte each, below 2^grid().bits.
///  * levels_of(n, g): the levels of a group; zero points are in 0 .. 2^bits - 1.
template <class T>
concept code_operand = quantized_tensor<T> &&
    requires(const T& t, index_t row, index_t group, std::span<std::uint8_t> out) {
  { t.grid() } -> std::same_as<affine_grid>;
  { t.group_size() } -> std::same_as<index_t>;
  { t.levels_of(row, group) } -> std::same_as<affine_levels>;
  t.codes(row, out);
};

/// A tensor of signs alone.
///  * signs(): one plane; W[n, k] = +1 where its bit is set, else -1. Bits past the last column are
///  clear.
template <class T>
concept sign_operand = quantized_tensor<T> && requires(const T& t) {
  { t.signs() } -> std::same_as<const layout::bit_matrix&>;
};

/// A tensor W = B T: the matrix B of another tensor, and a cheap map T of the inputs, so that
/// y = W x = B (T x).
///  * base(): the tensor of B, whatever it is; its shape is that of W.
///  * transform_inputs(x, out, ctx): out [M, K] = x T^T, each token (row) by itself; they do not
///  overlap. Uses ctx's executor and scratch; the bits do not depend on ctx.
/// The product may differ from one with dequantize() by rounding only.
template <class T>
concept input_transformed_operand = quantized_tensor<T> &&
    requires(const T& t, matrix_view<const float> x, matrix_view<float> out,
             const kernels::context& ctx) {
  requires quantized_tensor<std::remove_cvref_t<decltype(t.base())>>;
  { t.transform_inputs(x, out, ctx) } -> std::same_as<void>;
};

namespace detail {
/// Any product of a part, for the concept below.
struct part_product {
  void operator()(index_t part, matrix_view<const float> x, matrix_view<float> y) const;
};
}  // namespace detail

/// A tensor whose products are made of products of other tensors, its parts: W = B T, say, or
/// W = B + S.
///  * parts(), part(i): tensors of one type, at least one.
///  * multiply(x, y, ctx, product): y [M, N] = x W^T; calls product(i, x', y') for
///  y' = x' part(i)^T, whatever path that takes. Shapes fit; y overlaps nothing. Uses ctx's
///  executor; the bits do not depend on ctx.
///  * product_step(): what it does beside the products of its parts, such as "rotated inputs".
/// The product may differ from one with dequantize() by rounding only.
template <class T>
concept composite_operand = quantized_tensor<T> && quantized_tensor<typename T::part_type> &&
    requires(const T& t, index_t i, matrix_view<const float> x, matrix_view<float> y,
             const kernels::context& ctx, const detail::part_product& product) {
  { t.parts() } -> std::same_as<index_t>;
  { t.part(i) } -> std::same_as<const typename T::part_type&>;
  { t.multiply(x, y, ctx, product) } -> std::same_as<void>;
  { T::product_step() } -> std::convertible_to<std::string_view>;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
