// formats/envelope/tensor.hpp: a sum of sign matrices under envelopes of low rank. Layer L3.
//
// Stored buffers of plane p, in this order (docs/file_format.md); r is envelope_rank:
//   plane<p>_signs             U8 [bytes]    layout/sign_matrix.hpp
//   plane<p>_row_envelopes     real [r, N]   layout/enveloped_signs.hpp
//   plane<p>_column_envelopes  real [r, K]
// where real is scale_type: F32, F16 or BF16.
//
// Invariants: planes are added in increasing order, in floats, and no product is near the sums: the
// same bits everywhere. No sum overflows, whatever its signs.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/core/prefixed_buffers.hpp"
#include "lowbit/formats/envelope/format.hpp"
#include "lowbit/kernels/envelope/product.hpp"
#include "lowbit/layout/enveloped_signs.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// Models quantized_tensor and composite_operand: a part is the signs of a plane.
class envelope_tensor {
 public:
  using format = envelope;
  using part_type = layout::sign_matrix;

  /// Signs -1, envelopes zero. Refuses params outside their range (value).
  envelope_tensor(shape2 shape, const envelope::params& params) : shape_(shape), params_(params) {
    check_params<envelope>(params);
    planes_.reserve(params.planes);
    for (unsigned p = 0; p < params.planes; ++p) {
      planes_.emplace_back(shape, params.envelope_rank, params.scale_type);
    }
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const envelope::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const {
    std::uint64_t bits = 0;
    for (const auto& plane : planes_) bits += plane.storage_bits();
    return bits;
  }

  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape_, rows, out);
    if (out.empty()) return;
    planes_[0].decode(rows, out);
    aligned_buffer<float> values(parts() > 1 ? out.shape().size() : 0);
    const matrix_view<float> plane(values.data(), out.rows(), out.cols());
    for (index_t p = 1; p < parts(); ++p) {
      planes_[p].decode(rows, plane);
      for (index_t r = 0; r < out.rows(); ++r) {
        for (index_t k = 0; k < out.cols(); ++k) out(r, k) += plane(r, k);
      }
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    for (index_t p = 0; p < parts(); ++p) {
      prefixing_visitor plane(prefix(p), visitor);
      planes_[p].for_each_buffer(plane);
    }
  }

  /// Refuses params outside their range (value); set bits past the last sign, envelopes that are
  /// not finite, and such as could overflow (format). Allocates nothing before the source has shown
  /// the buffers of a plane.
  [[nodiscard]] static envelope_tensor from_buffers(shape2 shape, const envelope::params& params,
                                                    buffer_source& source) {
    std::vector<layout::enveloped_signs> planes;
    for (index_t p = 0; p < params.planes; ++p) {
      prefixing_source plane(prefix(p), source);
      planes.push_back(layout::enveloped_signs::from_buffers(shape, params.envelope_rank,
                                                             params.scale_type, plane));
    }
    envelope_tensor t(shape, params, std::move(planes));
    LOWBIT_CHECK(t.bound() <= largest_bound, format, "the envelopes may add up to ", t.bound());
    return t;
  }

  // -- composite_operand -------------------------------------------------------------------------

  [[nodiscard]] index_t parts() const noexcept { return planes_.size(); }
  [[nodiscard]] const layout::sign_matrix& part(index_t p) const noexcept {
    return planes_[p].signs();
  }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    for (index_t p = 0; p < parts(); ++p) {
      kernels::multiply_enveloped(
          x, planes_[p], y, p == 0 ? kernels::envelope_sum::overwrite : kernels::envelope_sum::add,
          ctx, [&](matrix_view<const float> inputs, matrix_view<float> outputs) {
            product(p, inputs, outputs);
          });
    }
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept { return "envelopes"; }

  // -- how a quantizer fills the tensor ----------------------------------------------------------

  [[nodiscard]] const layout::enveloped_signs& plane(index_t p) const noexcept {
    return planes_[p];
  }
  /// Row and column envelopes may be set, as long as bound() stays at most largest_bound.
  [[nodiscard]] layout::enveloped_signs& plane(index_t p) noexcept { return planes_[p]; }

  /// Stores the codes of one row, each below 2^planes: bit p is the sign of plane p, set for +1.
  void set_codes(index_t row, std::span<const std::uint8_t> codes) {
    std::vector<std::uint8_t> bits(codes.size());
    for (index_t p = 0; p < parts(); ++p) {
      for (index_t k = 0; k < codes.size(); ++k) {
        bits[k] = static_cast<std::uint8_t>((static_cast<unsigned>(codes[k]) >> p) & 1U);
      }
      planes_[p].signs().set_row(row, bits);
    }
  }

  /// What bound() may be at most: far enough from the largest float for roundings.
  static constexpr double largest_bound = 0x1p127;
  /// A bound of every |W[n, k]| and of the sums on the way to it, roundings apart.
  [[nodiscard]] double bound() const noexcept {
    double sum = 0.0;
    for (const auto& plane : planes_) sum += plane.largest_magnitude();
    return sum;
  }

 private:
  envelope_tensor(shape2 shape, const envelope::params& params,
                  std::vector<layout::enveloped_signs> planes)
      : shape_(shape), params_(params), planes_(std::move(planes)) {}

  [[nodiscard]] static std::string prefix(index_t p) {
    return lowbit::detail::message("plane", p, "_");
  }

  shape2 shape_;
  envelope::params params_;
  std::vector<layout::enveloped_signs> planes_;
};

static_assert(composite_operand<envelope_tensor>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
