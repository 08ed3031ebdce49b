// decorators/with_outliers.hpp: a base tensor and a few weights beside it: W = B + S. Layer L3.
//
// A few large weights decide the range of their group, and so the error of all others in it. Taken
// out of what the base quantizes and stored apart (SqueezeLLM, arXiv 2306.07629; SpQR, arXiv
// 2306.03078) they cost about 27 bits each at a density of 0.5 %. What S holds is what is missing:
// S = W - B at the outliers, so B may be anything there. Choosing and fitting them: outlier/.
//
// Stored, before the base's params and buffers (layout/sparse_matrix.hpp defines the code):
//   outlier_values  F16 [outlier_count]
//   outlier_deltas  U8  [outlier_index_bytes]
//   outlier_ends    U32 [ceil(N / 16), 2]
#pragma once

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "lowbit/decorators/nesting.hpp"
#include "lowbit/kernels/sparse/driver.hpp"
#include "lowbit/layout/operands.hpp"
#include "lowbit/layout/sparse_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// The params and the name of what with_outliers stores.
struct outlier_format {
  static constexpr std::string_view name = "with_outliers";
  static constexpr std::uint32_t version = 1;

  using params = layout::sparse_extents;

  static void describe(params& p, params_visitor& v) {
    constexpr std::uint32_t most = layout::sparse_matrix::most;
    v({"outlier_count", "weights that are stored beside the base"}, p.count, std::uint32_t{0},
      most);
    v({"outlier_index_bytes", "that say where they are"}, p.bytes, std::uint32_t{0}, most);
  }
};

/// W = B + S. Models quantized_tensor and composite_operand. Copyable if the base is. Beside what
/// is stored it keeps S packed for products: 4 bytes an outlier.
template <quantized_tensor Base>
class with_outliers {
 public:
  using format = nested_format<outlier_format, typename Base::format>;
  using part_type = Base;

  /// Refuses outliers of another shape (shape).
  with_outliers(layout::sparse_matrix outliers, Base base)
      : outliers_(std::move(outliers)),
        base_(std::move(base)),
        packed_(outliers_),
        params_{outliers_.extents(), base_.params()} {
    const shape2 own = outliers_.shape();
    LOWBIT_CHECK(own == base_.shape(), shape, "outliers of [", own.rows, ", ", own.cols,
                 "] do not fit a tensor of [", base_.shape().rows, ", ", base_.shape().cols, "]");
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return outliers_.shape(); }
  [[nodiscard]] const typename format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// B, with the value added where there is an outlier: one float addition.
  void dequantize(row_range rows, matrix_view<float> out) const {
    base_.dequantize(rows, out);
    outliers_.for_each(rows, [&](index_t row, index_t column, float16 value) {
      out(row - rows.begin, column) += to_float(value);
    });
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    const index_t count = params_.own.count;
    visitor({"outlier_values", element_type::f16, {&count, 1}, std::as_bytes(outliers_.values())});
    const index_t bytes = params_.own.bytes;
    visitor({"outlier_deltas", element_type::u8, {&bytes, 1}, std::as_bytes(outliers_.deltas())});
    const auto ends = outliers_.ends_extents();
    visitor({"outlier_ends", element_type::u32, ends, std::as_bytes(outliers_.ends())});
    base_.for_each_buffer(visitor);
  }

  /// Refuses (format) places outside the matrix or not in the one code that they have, and values
  /// that are not finite.
  [[nodiscard]] static with_outliers from_buffers(shape2 shape,
                                                  const typename format::params& params,
                                                  buffer_source& source) {
    Base base = Base::from_buffers(shape, params.base, source);
    const layout::sparse_matrix::stored_bytes bytes{
        .values = get_buffer(source, "outlier_values", element_type::f16, {params.own.count}),
        .deltas = get_buffer(source, "outlier_deltas", element_type::u8, {params.own.bytes}),
        .ends = get_buffer(source, "outlier_ends", element_type::u32,
                           {layout::sparse_matrix::blocks(shape), 2})};
    return {layout::sparse_matrix::from_bytes(shape, params.own, bytes), std::move(base)};
  }

  // -- composite_operand, row_coupled_tensor -----------------------------------------------------

  [[nodiscard]] const Base& base() const noexcept { return base_; }
  [[nodiscard]] index_t parts() const noexcept { return 1; }
  [[nodiscard]] const Base& part(index_t) const noexcept { return base_; }
  /// The base's product, then that of the outliers in floats (kernels/sparse/driver.hpp).
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    product(index_t{0}, x, y);
    kernels::add_sparse_product(x, packed_, y, ctx);
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept { return "outliers"; }
  [[nodiscard]] index_t coupled_rows() const requires row_coupled_tensor<Base> {
    return base_.coupled_rows();
  }

  [[nodiscard]] const layout::sparse_matrix& outliers() const noexcept { return outliers_; }

 private:
  layout::sparse_matrix outliers_;
  Base base_;
  kernels::packed_sparse packed_;
  typename format::params params_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
