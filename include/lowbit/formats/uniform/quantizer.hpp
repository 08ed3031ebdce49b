// formats/uniform/quantizer.hpp: round-to-nearest with a choice of how the range is fitted. Layer
// L3.
//
// Stated results: a group of zeros has scale 0 and decodes to +0; a constant group c is exact up to
// the rounding of its scale or offset; denormals are ordinary numbers; -0 is 0; a scale that
// underflows in scale_type is 0 and its group decodes to 0 (offset: to its offset); one that
// overflows, or whose levels would, is refused. NaN and Inf are refused with their row and column.
#pragma once

#include <vector>

#include "lowbit/core/quantizer.hpp"
#include "lowbit/formats/uniform/range_fit.hpp"
#include "lowbit/formats/uniform/tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// quantize() is const, deterministic and thread-safe.
struct uniform_quantizer {
  using tensor = uniform_tensor;
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
    check_params<uniform_quantizer>(*this);
    check_finite(weights, "the weight matrix");
    check_importance(known.importance, weights.cols());
    uniform_tensor t(weights.shape(), params);
    if (weights.empty()) return t;
    if (params.granularity == granularity::tensor) fit_whole(weights, known.importance, t);

    aligned_buffer<std::uint8_t> codes(weights.cols());
    for (index_t r = 0; r < weights.rows(); ++r) {
      for (index_t g = 0, begin = 0; begin < weights.cols(); ++g, begin += t.group_size()) {
        const auto x =
            weights.row(r).subspan(begin, std::min(t.group_size(), weights.cols() - begin));
        if (params.granularity != granularity::tensor) {
          const auto h = known.importance.empty() ? known.importance
                                                  : known.importance.subspan(begin, x.size());
          set_checked_levels(t, r, g, fit.levels(t.grid(), params.scale_type, x, h));
        }
        encode(t.grid(), t.levels_of(r, g), x, codes.data() + begin);
      }
      t.set_codes(r, codes.span());
    }
    return t;
  }

 private:
  /// Granularity tensor: one fit over all values, with the importance of each value's column. A
  /// contiguous matrix is not copied.
  void fit_whole(matrix_view<const float> weights, std::span<const float> importance,
                 uniform_tensor& t) const {
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
    set_checked_levels(t, 0, 0, fit.levels(t.grid(), params.scale_type, values, weighting));
  }

  static void set_checked_levels(uniform_tensor& t, index_t r, index_t g,
                                 const affine_levels& levels) {
    LOWBIT_CHECK(std::isfinite(levels.scale) && std::isfinite(levels.offset), value,
                 "the scale of row ", r, ", group ", g, " overflows ",
                 enum_names<scale_type>[static_cast<std::size_t>(t.params().scale_type)],
                 "; use a scale_type with a larger range");
    LOWBIT_CHECK(has_finite_levels(t.grid(), levels), value, "the levels of row ", r, ", group ", g,
                 " overflow: a code times the scale ", levels.scale, " is no finite float");
    t.set_levels(r, g, levels);
  }
};

static_assert(quantizer<uniform_quantizer>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
