// layout/activations.hpp: inputs of a layer, quantized on the fly. Layer L2.
//
// The same arithmetic as weights (core/affine.hpp), min-max, per token or per token and group, with
// scales kept in fp32 (they are never stored). Codes are unsigned, value = step * (code - zero):
// one byte each, or as bit-planes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "lowbit/core/affine.hpp"
#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/layout/bit_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

struct activation_params {
  unsigned bits = 8;                    ///< 1..8
  symmetry kind = symmetry::symmetric;  ///< symmetric or asymmetric
  index_t group_size = 0;               ///< columns per scale; 0: one scale per token
};

/// How the codes of one group map to values: value = step * (code - twice_zero / 2).
struct activation_scaling {
  float step = 0.0F;
  int twice_zero = 0;  ///< an integer even for sign codes, whose zero is one half
};

class quantized_activations {
 public:
  /// Quantizes x [tokens, K]. Refuses NaN/Inf (value, with token and channel), ranges whose levels
  /// overflow a float, bits outside 1..8 and symmetry offset (value).
  quantized_activations(matrix_view<const float> x, const activation_params& params)
      : params_(params), shape_(x.shape()) {
    LOWBIT_CHECK(params.bits >= 1 && params.bits <= 8, value, "activation bits = ", params.bits,
                 " is outside 1..8");
    LOWBIT_CHECK(params.kind != symmetry::offset, value,
                 "activations are symmetric or asymmetric; symmetry 'offset' is for weights");
    check_finite(x, "the activation matrix");
    if (params_.group_size == 0 || params_.group_size > shape_.cols) {
      params_.group_size = shape_.cols;
    }
    groups_ = params_.group_size == 0 ? 0 : div_up(shape_.cols, params_.group_size);
    codes_ = aligned_buffer<std::uint8_t>(shape_.size());
    levels_ = aligned_buffer<affine_levels>(checked_mul(shape_.rows, groups_, "scales"));
    for (index_t t = 0; t < shape_.rows; ++t) {
      for (index_t g = 0; g < groups_; ++g) quantize_group(x.row(t), t, g);
    }
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] unsigned bits() const noexcept { return params_.bits; }
  [[nodiscard]] index_t group_size() const noexcept { return params_.group_size; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  [[nodiscard]] std::span<const std::uint8_t> codes(index_t token) const noexcept {
    return codes_.span().subspan(token * shape_.cols, shape_.cols);
  }
  /// The codes of a token as signed bytes, code - 128; with 8 bits and symmetric levels these are
  /// the int8 values -127 .. 127 themselves. `out` has K elements.
  void int8_codes(index_t token, std::span<std::int8_t> out) const {
    LOWBIT_CHECK(out.size() == shape_.cols, shape, "int8 codes of ", shape_.cols,
                 " channels do not fit ", out.size());
    const auto from = codes(token);
    for (index_t k = 0; k < out.size(); ++k) {
      out[k] = static_cast<std::int8_t>(static_cast<int>(from[k]) - 128);
    }
  }
  /// The codes as canonical bit-planes [bits, tokens, K].
  [[nodiscard]] bit_matrix planes() const {
    bit_matrix out(params_.bits, shape_);
    for (index_t t = 0; t < shape_.rows; ++t) pack_row(codes(t), t, out);
    return out;
  }
  [[nodiscard]] activation_scaling scaling(index_t token, index_t group) const noexcept {
    const affine_levels& levels = levels_[token * groups_ + group];
    if (grid().is_sign()) return {2.0F * levels.scale, 1};
    return {levels.scale, 2 * (params_.kind == symmetry::symmetric ? grid().symmetric_zero()
                                                                   : levels.zero_point)};
  }
  /// The values that the codes stand for; `out` is [tokens, K].
  void dequantize(matrix_view<float> out) const {
    LOWBIT_CHECK(out.shape() == shape_, shape, "activations [", shape_.rows, ", ", shape_.cols,
                 "] do not fit [", out.rows(), ", ", out.cols(), "]");
    for (index_t t = 0; t < shape_.rows; ++t) {
      for (index_t k = 0; k < shape_.cols; ++k) {
        out(t, k) = decode(grid(), levels_[t * groups_ + k / params_.group_size], codes(t)[k]);
      }
    }
  }

 private:
  [[nodiscard]] affine_grid grid() const noexcept { return {params_.bits, params_.kind}; }

  void quantize_group(std::span<const float> row, index_t token, index_t group) {
    const index_t begin = group * params_.group_size;
    const auto x = row.subspan(begin, std::min(params_.group_size, shape_.cols - begin));
    affine_levels levels;
    if (grid().is_sign()) {
      levels.scale = mean_magnitude(x, {});
    } else {
      const value_range range = find_range(x);
      levels = levels_for_range(grid(), range);
      levels.zero_point = zero_point_for(grid(), range, levels.scale);
    }
    LOWBIT_CHECK(has_finite_levels(grid(), levels), value, "the levels of token ", token,
                 ", group ", group, " overflow: the activations are too large");
    encode(grid(), levels, x, codes_.data() + token * shape_.cols + begin);
    levels_[token * groups_ + group] = levels;
  }

  activation_params params_;
  shape2 shape_;
  index_t groups_ = 0;
  aligned_buffer<std::uint8_t> codes_;
  aligned_buffer<affine_levels> levels_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
