// formats/uniform/quantizer.hpp: round-to-nearest with a choice of how the range is fitted. Layer
// L3.
//
// Stated results: a group of zeros has scale 0 and decodes to +0; a constant group c is exact up to
// the rounding of its scale or offset; denormals are ordinary numbers; -0 is 0; a scale that
// underflows in scale_type is 0 and its group decodes to 0 (offset: to its offset); one that
// overflows, or whose levels would, is refused. NaN and Inf are refused with their row and column.
#pragma once

#include "lowbit/core/group_codec.hpp"
#include "lowbit/formats/uniform/codec.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// quantize() is const, deterministic and thread-safe.
struct uniform_quantizer {
  using tensor = uniform_tensor;
  using codec = uniform_codec;
  static constexpr std::string_view size_field = "bits";
  static constexpr std::string_view summary =
      "uniform INT-b, round to nearest: x = scale * (code - zero_point)";

  uniform::params params = {};
  range_fit fit = {};

  static void describe(uniform_quantizer& q, params_visitor& v) {
    uniform::describe(q.params, v);
    v({"range", "how the range of a group is chosen"}, q.fit.method);
    v({"percentile", "share of the values that a percentile range keeps, in percent"},
      q.fit.percentile, 50.0, 100.0);
  }

  /// Refuses NaN/Inf (value, with row and column), an importance that does not have K finite values
  /// >= 0 (shape, value), params out of range (value), and scales that overflow scale_type (value).
  [[nodiscard]] uniform_tensor quantize(matrix_view<const float> weights,
                                        const calibration& known = {}) const {
    const uniform_codec groups = prepare(weights, known);
    uniform_tensor t = groups.make_tensor();
    if (weights.empty()) return t;
    aligned_buffer<std::uint8_t> codes(weights.cols());
    for (index_t r = 0; r < weights.rows(); ++r) {
      for (index_t g = 0, begin = 0; begin < weights.cols(); ++g, begin += t.group_size()) {
        const auto x =
            weights.row(r).subspan(begin, std::min(t.group_size(), weights.cols() - begin));
        const auto h =
            known.importance.empty() ? known.importance : known.importance.subspan(begin, x.size());
        const affine_levels levels = groups.fit(r, g, x, h);
        groups.store(t, r, g, levels);
        encode(t.grid(), levels, x, codes.data() + begin);
      }
      t.set_codes(r, codes.span());
    }
    return t;
  }

  /// The codec of a matrix (core/group_codec.hpp). Refuses what quantize() refuses of its input.
  [[nodiscard]] uniform_codec prepare(matrix_view<const float> weights,
                                      const calibration& known = {},
                                      [[maybe_unused]] float headroom = 1.0F) const {
    check_params<uniform_quantizer>(*this);
    check_finite(weights, "the weight matrix");
    check_importance(known.importance, weights.cols());
    return {weights, params, fit, known.importance};
  }
};

static_assert(quantizer<uniform_quantizer>);
static_assert(groupwise_quantizer<uniform_quantizer>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
