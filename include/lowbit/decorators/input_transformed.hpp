// decorators/input_transformed.hpp: a decorator over any quantized tensor: W = B T, where B is the
// base tensor's matrix and T a cheap map of the inputs. Layer L3.
//
// y = W x = B (T x): a product transforms the inputs once and goes the way of the base (see
// ops/matmul.hpp). Decorators nest: rotated<permuted<T>> rotates the inputs, then permutes them.
//
// Stored: the params of the transform, then the base's, as one flat list; the buffers of the
// transform, then the base's, under their own names.
#pragma once

#include <algorithm>
#include <string_view>

#include "lowbit/decorators/nesting.hpp"
#include "lowbit/decorators/transform.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// Models quantized_tensor, input_transformed_operand and composite_operand. Copyable if its parts
/// are.
template <quantized_tensor Base, input_transform Transform>
class input_transformed {
 public:
  using format = nested_format<typename Transform::format, typename Base::format>;
  using part_type = Base;

  /// W = base * transform. Refuses parts with different numbers of columns (shape).
  input_transformed(Transform transform, Base base)
      : transform_(std::move(transform)),
        base_(std::move(base)),
        params_{transform_.params(), base_.params()} {
    LOWBIT_CHECK(transform_.columns() == base_.shape().cols, shape, "a transform of ",
                 transform_.columns(), " columns does not fit a tensor of ", base_.shape().cols);
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return base_.shape(); }
  [[nodiscard]] const typename format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// Rows of the base, each through Transform::restore_weights().
  void dequantize(row_range rows, matrix_view<float> out) const {
    base_.dequantize(rows, out);
    if (out.empty()) return;
    aligned_buffer<float> row(out.cols());
    for (index_t r = 0; r < out.rows(); ++r) {
      std::copy_n(out.row(r).data(), row.size(), row.data());
      transform_.restore_weights(row.span(), out.row(r));
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    transform_.for_each_buffer(visitor);
    base_.for_each_buffer(visitor);
  }

  /// Refuses what either part refuses (format).
  [[nodiscard]] static input_transformed from_buffers(shape2 shape,
                                                      const typename format::params& params,
                                                      buffer_source& source) {
    Base base = Base::from_buffers(shape, params.base, source);
    return {Transform::from_buffers(shape.cols, params.own, source), std::move(base)};
  }

  // -- input_transformed_operand, composite_operand, row_coupled_tensor -------------------------

  [[nodiscard]] const Base& base() const noexcept { return base_; }
  /// out [M, K] = x T^T, row by row. Refuses other shapes (shape).
  void transform_inputs(matrix_view<const float> x, matrix_view<float> out,
                        const kernels::context& ctx) const {
    decorators::transform_inputs(transform_, x, out, ctx);
  }

  [[nodiscard]] index_t parts() const noexcept { return 1; }
  [[nodiscard]] const Base& part(index_t) const noexcept { return base_; }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    aligned_buffer<float> values(checked_mul(x.rows(), x.cols(), "transformed inputs"));
    const matrix_view<float> transformed(values.data(), x.rows(), x.cols());
    transform_inputs(x, transformed, ctx);
    product(index_t{0}, transformed, y);
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept {
    return Transform::inputs_step;
  }

  [[nodiscard]] index_t coupled_rows() const requires row_coupled_tensor<Base> {
    return base_.coupled_rows();
  }

  [[nodiscard]] const Transform& transform() const noexcept { return transform_; }

 private:
  Transform transform_;
  Base base_;
  typename format::params params_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
