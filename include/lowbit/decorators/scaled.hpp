// decorators/scaled.hpp: a base tensor whose columns were multiplied by scales before quantizing.
// Layer L3.
//
// AWQ (arXiv 2306.00978): columns that meet large inputs are scaled up, so that rounding hurts them
// less, and their inputs are scaled down. B = W diag(s); T x = x / s.
//
// Stored: column_scales, F16, F32 or BF16 [K], finite and > 0: W[:, k] = B[:, k] / s[k]. All
// arithmetic uses scales as stored and rounds once: a division never becomes a multiplication by
// an inverse.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "lowbit/decorators/input_transformed.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// out[k] = in[k] / s[k].
class column_scaling {
 public:
  struct format {
    static constexpr std::string_view name = "scaled";
    static constexpr std::uint32_t version = 1;

    struct params {
      lowbit::scale_type scale_type = lowbit::scale_type::fp16;

      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params& p, params_visitor& v) {
      v({"column_scale_type", "how the scales of columns are stored"}, p.scale_type);
    }
  };

  static constexpr std::string_view inputs_step = "scaled inputs";

  /// Rounds the scales to their type. Refuses (value) those that are then not finite and > 0.
  column_scaling(const format::params& params, std::span<const float> scales)
      : column_scaling(params, scales.size()) {
    for (index_t k = 0; k < columns_; ++k) {
      scales_.set(0, k, scales[k]);
      LOWBIT_CHECK(is_scale(scale(k)), value, "the scale of column ", k, " is ", scales[k],
                   ", stored as ", scale(k), "; it must be finite and > 0");
    }
  }

  [[nodiscard]] index_t columns() const noexcept { return columns_; }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  /// The scale of a column as it is stored.
  [[nodiscard]] float scale(index_t k) const noexcept { return scales_.get(0, k); }

  template <std::floating_point Real>
  void transform_input(std::type_identity_t<std::span<const Real>> x,
                       std::span<Real> out) const noexcept {
    for (index_t k = 0; k < columns_; ++k) out[k] = x[k] / static_cast<Real>(scale(k));
  }
  /// out[k] = w[k] * s[k].
  void transform_weights(std::span<const float> w, std::span<float> out) const noexcept {
    for (index_t k = 0; k < columns_; ++k) out[k] = w[k] * scale(k);
  }
  void restore_weights(std::span<const float> b, std::span<float> out) const noexcept {
    transform_input(b, out);
  }
  /// Importance is a mean square of inputs (see calibration): out[k] = importance[k] / s[k]^2,
  /// divided in double.
  void transform_importance(std::span<const float> importance,
                            std::span<float> out) const noexcept {
    for (index_t k = 0; k < columns_; ++k) {
      const auto s = static_cast<double>(scale(k));
      out[k] = static_cast<float>(static_cast<double>(importance[k]) / (s * s));
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    visitor({"column_scales", scales_.element(), {&columns_, 1}, scales_.bytes()});
  }
  /// Refuses (format) scales that are not finite and > 0.
  [[nodiscard]] static column_scaling from_buffers(index_t columns, const format::params& params,
                                                   buffer_source& source) {
    const auto bytes =
        source.get("column_scales", layout::element_type_of(params.scale_type), {&columns, 1});
    column_scaling t(params, columns);
    if (!bytes.empty()) std::memcpy(t.scales_.bytes().data(), bytes.data(), bytes.size());
    for (index_t k = 0; k < columns; ++k) {
      LOWBIT_CHECK(is_scale(t.scale(k)), format, "column_scales[", k, "] is ", t.scale(k),
                   "; it must be finite and > 0");
    }
    return t;
  }

 private:
  column_scaling(const format::params& params, index_t columns)
      : columns_(columns), params_(params) {
    check_params<format>(params);
    scales_ = layout::scale_matrix(params.scale_type, {1, columns});
  }
  [[nodiscard]] static bool is_scale(float s) noexcept { return std::isfinite(s) && s > 0.0F; }

  index_t columns_;
  format::params params_;
  layout::scale_matrix scales_;
};

static_assert(input_transform<column_scaling>);

/// W[:, k] = B[:, k] / s[k].
template <quantized_tensor Base>
using scaled = input_transformed<Base, column_scaling>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
