// decorators/output_transformed.hpp: a decorator over any quantized tensor: W = T^T B, where B is
// the base tensor's matrix and T a cheap map of vectors of N numbers. Layer L3.
//
// y = W x = T^T (B x): a product goes the way of the base and restores its outputs, token by token.
// Stored as an input_transformed tensor is.
#pragma once

#include <algorithm>
#include <string_view>

#include "lowbit/decorators/input_transformed.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// An input_transform of a tensor's outputs: its columns() are the N rows of the tensor.
///  * outputs_step: what products do, such as "rotated outputs".
template <class T>
concept output_transform = input_transform<T> && requires {
  { T::outputs_step } -> std::convertible_to<std::string_view>;
};

namespace detail {

/// Calls map(rows, mapped) for blocks of columns of `from` [N, K] as rows of N numbers, and writes
/// column k of what it makes to column k of `to`, rows `wanted` of it only. `to` may be `from`.
template <class Map>
void map_columns(matrix_view<const float> from, row_range wanted, matrix_view<float> to,
                 const Map& map) {
  constexpr index_t block = 16;
  const index_t n = from.rows();
  aligned_buffer<float> buffer(2 * block * n);
  for (index_t begin = 0; begin < from.cols(); begin += block) {
    const index_t size = std::min(block, from.cols() - begin);
    const matrix_view<float> rows(buffer.data(), size, n);
    const matrix_view<float> mapped(buffer.data() + block * n, size, n);
    for (index_t r = 0; r < n; ++r) {
      for (index_t k = 0; k < size; ++k) rows(k, r) = from(r, begin + k);
    }
    map(matrix_view<const float>(rows), mapped);
    for (index_t r = wanted.begin; r < wanted.end; ++r) {
      for (index_t k = 0; k < size; ++k) to(r - wanted.begin, begin + k) = mapped(k, r);
    }
  }
}

}  // namespace detail

/// What to quantize in place of W [N, K]: out [N, K] = B = T^-T W. out may be W. Refuses other
/// shapes (shape).
template <output_transform T>
void transform_columns(const T& t, matrix_view<const float> w, matrix_view<float> out) {
  LOWBIT_CHECK(w.rows() == t.columns() && w.shape() == out.shape(), shape, "a transform of ",
               t.columns(), " rows does not map [", w.rows(), ", ", w.cols(), "] to [", out.rows(),
               ", ", out.cols(), "]");
  detail::map_columns(w, {0, w.rows()}, out,
                      [&](matrix_view<const float> rows, matrix_view<float> mapped) {
                        transform_weights(t, rows, mapped);
                      });
}

/// Models quantized_tensor, composite_operand and row_coupled_tensor. Copyable if its parts are.
template <quantized_tensor Base, output_transform Transform>
class output_transformed {
 public:
  using format = nested_format<typename Transform::format, typename Base::format>;
  using part_type = Base;

  /// W = transform^T * base. Refuses a base of another number of rows (shape).
  output_transformed(Transform transform, Base base)
      : transform_(std::move(transform)),
        base_(std::move(base)),
        params_{transform_.params(), base_.params()} {
    LOWBIT_CHECK(transform_.columns() == base_.shape().rows, shape, "a transform of ",
                 transform_.columns(), " outputs does not fit a tensor of ", base_.shape().rows,
                 " rows");
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return base_.shape(); }
  [[nodiscard]] const typename format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// Every column of the base through Transform::restore_rows(). Dequantizes the whole base,
  /// whatever the rows (see coupled_rows()).
  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape(), rows, out);
    if (out.empty()) return;
    aligned_buffer<float> values(checked_mul(shape().rows, shape().cols, "dequantized base"));
    const matrix_view<float> base(values.data(), shape().rows, shape().cols);
    base_.dequantize({0, shape().rows}, base);
    detail::map_columns(base, rows, out,
                        [&](matrix_view<const float> from, matrix_view<float> restored) {
                          decorators::restore_rows(transform_, from, restored, {});
                        });
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    transform_.for_each_buffer(visitor);
    base_.for_each_buffer(visitor);
  }

  /// Refuses what either part refuses (format).
  [[nodiscard]] static output_transformed from_buffers(shape2 shape,
                                                       const typename format::params& params,
                                                       buffer_source& source) {
    Base base = Base::from_buffers(shape, params.base, source);
    return {Transform::from_buffers(shape.rows, params.own, source), std::move(base)};
  }

  // -- composite_operand, row_coupled_tensor ----------------------------------------------------

  [[nodiscard]] const Base& base() const noexcept { return base_; }
  [[nodiscard]] index_t parts() const noexcept { return 1; }
  [[nodiscard]] const Base& part(index_t) const noexcept { return base_; }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    aligned_buffer<float> values(checked_mul(y.rows(), y.cols(), "outputs of the base"));
    const matrix_view<float> outputs(values.data(), y.rows(), y.cols());
    product(index_t{0}, x, outputs);
    decorators::restore_rows(transform_, matrix_view<const float>(outputs), y, ctx);
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept {
    return Transform::outputs_step;
  }
  [[nodiscard]] index_t coupled_rows() const noexcept { return shape().rows; }

  [[nodiscard]] const Transform& transform() const noexcept { return transform_; }

 private:
  Transform transform_;
  Base base_;
  typename format::params params_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
