// formats/uniform/codec.hpp: the groups of a uniform tensor, one at a time (core/group_codec.hpp).
// Layer L3.
//
// Invariant: levels that fit() and adjusted() return are as stored: scale and offset rounded to
// scale_type, every level a finite float. Granularity tensor has one set of levels, fitted when the
// codec is made; fit() returns it and nothing adjusts it.
#pragma once

#include <limits>
#include <vector>

#include "lowbit/core/group_codec.hpp"
#include "lowbit/formats/uniform/range_fit.hpp"
#include "lowbit/formats/uniform/tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

class uniform_codec {
 public:
  using tensor = uniform_tensor;
  using levels = affine_levels;

  /// Weights are finite, importance is empty or one weight >= 0 per column. Refuses (value) scales
  /// that overflow, for granularity tensor.
  uniform_codec(matrix_view<const float> weights, const uniform::params& params,
                const range_fit& fit, std::span<const float> importance)
      : shape_(weights.shape()), params_(params), fit_(fit) {
    if (params.granularity == granularity::tensor && !weights.empty()) {
      whole_ = fit_whole(weights, importance);
    }
  }

  [[nodiscard]] unsigned bits() const noexcept { return params_.bits; }
  [[nodiscard]] index_t group_size() const noexcept {
    return uniform_tensor::columns_per_group(shape_, params_);
  }

  [[nodiscard]] affine_levels fit(index_t row, index_t group, std::span<const float> x,
                                  std::span<const float> h) const {
    if (params_.granularity == granularity::tensor) return whole_;
    return checked(row, group, fit_.levels(grid(), params_.scale_type, x, h));
  }

  void values(const affine_levels& l, std::span<float> out) const noexcept {
    for (unsigned u = 0; u < out.size(); ++u) out[u] = decode(grid(), l, u);
    // The quantizer leaves out the level that has no counterpart above zero.
    if (grid().kind == symmetry::symmetric && !grid().is_sign()) {
      out[0] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  /// The scale and, of an offset grid, the offset. Zero points stay.
  [[nodiscard]] index_t terms() const noexcept {
    if (params_.granularity == granularity::tensor) return 0;
    return params_.kind == symmetry::offset ? 2 : 1;
  }
  void term(const affine_levels& l, std::uint8_t code, std::span<float> out) const noexcept {
    out[0] = decode(grid(), {.scale = 1.0F, .zero_point = l.zero_point}, code);
    if (out.size() > 1) out[1] = 1.0F;
  }
  [[nodiscard]] affine_levels adjusted(const affine_levels& l, index_t,
                                       std::span<const double> delta) const noexcept {
    affine_levels changed = l;
    if (delta.empty()) return l;
    changed.scale = layout::round_to(params_.scale_type,
                                     static_cast<float>(static_cast<double>(l.scale) + delta[0]));
    if (delta.size() > 1) {
      changed.offset = layout::round_to(
          params_.scale_type, static_cast<float>(static_cast<double>(l.offset) + delta[1]));
    }
    return changed.scale > 0.0F && has_finite_levels(grid(), changed) ? changed : l;
  }

  [[nodiscard]] uniform_tensor make_tensor() const {
    uniform_tensor t(shape_, params_);
    if (params_.granularity == granularity::tensor && shape_.rows > 0 && shape_.cols > 0) {
      t.set_levels(0, 0, whole_);
    }
    return t;
  }
  void store(uniform_tensor& t, index_t row, index_t group, const affine_levels& l) const noexcept {
    if (params_.granularity != granularity::tensor) t.set_levels(row, group, l);
  }

 private:
  [[nodiscard]] affine_grid grid() const noexcept { return {params_.bits, params_.kind}; }

  /// Granularity tensor: one fit over all values, with the importance of each value's column. A
  /// contiguous matrix is not copied.
  [[nodiscard]] affine_levels fit_whole(matrix_view<const float> weights,
                                        std::span<const float> importance) const {
    const bool contiguous = weights.row_stride() == weights.cols();
    std::vector<float> copied;
    std::vector<float> weighting;
    for (index_t r = 0; r < weights.rows(); ++r) {
      const auto row = weights.row(r);
      if (!contiguous) copied.insert(copied.end(), row.begin(), row.end());
      weighting.insert(weighting.end(), importance.begin(), importance.end());
    }
    const std::span<const float> values =
        contiguous ? std::span(weights.data(), weights.shape().size()) : std::span(copied);
    return checked(0, 0, fit_.levels(grid(), params_.scale_type, values, weighting));
  }

  [[nodiscard]] affine_levels checked(index_t r, index_t g, const affine_levels& l) const {
    LOWBIT_CHECK(std::isfinite(l.scale) && std::isfinite(l.offset), value, "the scale of row ", r,
                 ", group ", g, " overflows ",
                 enum_names<scale_type>[static_cast<std::size_t>(params_.scale_type)],
                 "; use a scale_type with a larger range");
    LOWBIT_CHECK(has_finite_levels(grid(), l), value, "the levels of row ", r, ", group ", g,
                 " overflow: a code times the scale ", l.scale, " is no finite float");
    return l;
  }

  shape2 shape_;
  uniform::params params_;
  range_fit fit_;
  affine_levels whole_;
};

static_assert(group_codec<uniform_codec>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
