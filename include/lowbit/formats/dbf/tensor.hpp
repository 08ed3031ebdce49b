// formats/dbf/tensor.hpp: a matrix as a sum of products of two enveloped sign matrices. Layer L3.
//
// Invariants:
//  * dequantize() sums over the middle, path after path, in increasing order in double by fused
//    multiply-adds (kernels/dense) and rounds to float once.
//  * A product runs from right to left and rounds to float between its stages.
//  * Stored: buffers g<p>_... of G_p [r, K] and f<p>_... of F_p [N, r] for each path p.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "lowbit/core/prefixed_buffers.hpp"
#include "lowbit/cpu/features.hpp"
#include "lowbit/formats/dbf/format.hpp"
#include "lowbit/kernels/dense/driver.hpp"
#include "lowbit/kernels/envelope/product.hpp"
#include "lowbit/layout/enveloped_signs.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// Models quantized_tensor and composite_operand: its parts are the sign matrices.
class dbf_tensor {
 public:
  using format = dbf;
  using part_type = layout::sign_matrix;

  /// All zero. Refuses params outside their range, and a middle of 0 (value).
  dbf_tensor(shape2 shape, const dbf::params& params)
      : dbf_tensor(shape, params, [&](index_t, shape2 factor) {
          return layout::enveloped_signs(factor, params.envelope_rank, params.scale_type);
        }) {}

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const dbf::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const {
    std::uint64_t bits = 0;
    for (const layout::enveloped_signs& f : factors_) bits += f.storage_bits();
    return bits;
  }

  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape(), rows, out);
    if (out.empty()) return;
    constexpr index_t block = 256;  // of the middle: bounds memory, changes no bit
    const kernels::context ctx{.allowed = cpu::detect()};
    const index_t middle = params_.middle;
    aligned_buffer<double> sums(out.shape().size());
    aligned_buffer<double> left(checked_mul(rows.size(), middle, "rows of F"));
    aligned_buffer<double> right(checked_mul(std::min(block, middle), shape_.cols, "rows of G"));
    const matrix_view<double> f(left.data(), rows.size(), middle);
    const matrix_view<double> w(sums.data(), rows.size(), shape_.cols);
    std::fill_n(sums.data(), sums.size(), 0.0);
    for (unsigned p = 0; p < params_.paths; ++p) {
      output_factor(p).decode(rows, f);
      for (index_t i = 0; i < middle; i += block) {
        const row_range part{i, std::min(i + block, middle)};
        const matrix_view<double> g(right.data(), part.size(), shape_.cols);
        input_factor(p).decode(part, g);
        kernels::add_product(w, kernels::dense_sign::add,
                             matrix_view<const double>(f).middle_cols(part.begin, part.end),
                             matrix_view<const double>(g), ctx);
      }
    }
    for (index_t r = 0; r < rows.size(); ++r) {
      for (index_t k = 0; k < shape_.cols; ++k) out(r, k) = static_cast<float>(w(r, k));
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    for (index_t i = 0; i < factors_.size(); ++i) {
      prefixing_visitor named(prefix(i), visitor);
      factors_[i].for_each_buffer(named);
    }
  }

  /// Refuses params outside their range (value); values that are not finite or whose products may
  /// overflow, and stray bits (format).
  [[nodiscard]] static dbf_tensor from_buffers(shape2 shape, const dbf::params& params,
                                               buffer_source& source) {
    dbf_tensor t(shape, params, [&](index_t i, shape2 factor) {
      prefixing_source named(prefix(i), source);
      return layout::enveloped_signs::from_buffers(factor, params.envelope_rank, params.scale_type,
                                                   named);
    });
    LOWBIT_CHECK(t.largest_sum() < 0x1p127, format, "the product of the factors overflows");
    return t;
  }

  // -- composite_operand -------------------------------------------------------------------------

  [[nodiscard]] index_t parts() const noexcept { return factors_.size(); }
  /// The signs of G_0, F_0, G_1, F_1.
  [[nodiscard]] const layout::sign_matrix& part(index_t i) const noexcept {
    return factors_[i].signs();
  }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    kernels::borrowed<float> values(ctx,
                                    checked_mul(x.rows(), params_.middle, "middle of a product"));
    const matrix_view<float> middle(values.data(), x.rows(), params_.middle);
    for (unsigned p = 0; p < params_.paths; ++p) {
      const auto product_of = [&](index_t part) {
        return [&product, part](matrix_view<const float> in, matrix_view<float> out) {
          product(part, in, out);
        };
      };
      kernels::multiply_enveloped(x, input_factor(p), middle, kernels::envelope_sum::overwrite, ctx,
                                  product_of(2 * p));
      const auto sum = p == 0 ? kernels::envelope_sum::overwrite : kernels::envelope_sum::add;
      kernels::multiply_enveloped(matrix_view<const float>(middle), output_factor(p), y, sum, ctx,
                                  product_of(2 * p + 1));
    }
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept {
    return "two enveloped sign matrices";
  }

  /// G_p [r, K].
  [[nodiscard]] const layout::enveloped_signs& input_factor(unsigned p) const noexcept {
    return factors_[2 * p];
  }
  [[nodiscard]] layout::enveloped_signs& input_factor(unsigned p) noexcept {
    return factors_[2 * p];
  }
  /// F_p [N, r].
  [[nodiscard]] const layout::enveloped_signs& output_factor(unsigned p) const noexcept {
    return factors_[2 * p + 1];
  }
  [[nodiscard]] layout::enveloped_signs& output_factor(unsigned p) noexcept {
    return factors_[2 * p + 1];
  }

  /// A bound of every partial sum of |W|.
  [[nodiscard]] double largest_sum() const noexcept {
    double sum = 0.0;
    for (unsigned p = 0; p < params_.paths; ++p) {
      sum += static_cast<double>(params_.middle) * input_factor(p).largest_magnitude() *
             output_factor(p).largest_magnitude();
    }
    return sum;
  }

 private:
  /// make(i, shape) makes factor i; nothing is allocated before.
  template <class Make>
  dbf_tensor(shape2 shape, const dbf::params& params, const Make& make)
      : shape_(shape), params_(params) {
    check_params<dbf>(params);
    LOWBIT_CHECK(params.middle >= 1, value, "middle is 0: no size was chosen");
    for (index_t i = 0; i < 2 * index_t{params.paths}; ++i) {
      factors_.push_back(make(
          i, i % 2 == 0 ? shape2{params.middle, shape.cols} : shape2{shape.rows, params.middle}));
    }
  }

  [[nodiscard]] static std::string prefix(index_t i) {
    return lowbit::detail::message(i % 2 == 0 ? "g" : "f", i / 2, "_");
  }

  shape2 shape_;
  dbf::params params_;
  std::vector<layout::enveloped_signs> factors_;  ///< G_0, F_0, G_1, F_1
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
