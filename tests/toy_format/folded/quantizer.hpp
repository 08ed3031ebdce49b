// folded/quantizer.hpp: the sign of each weight and the mean magnitude of each run.
#pragma once

#include "lowbit/core/affine.hpp"
#include "lowbit/core/quantizer.hpp"
#include "tensor.hpp"

namespace toy {

struct folded_quantizer {
  using tensor = folded_tensor;
  static constexpr std::string_view summary = "a toy: signs and the mean magnitude of each run";

  folded::params params = {};

  static void describe(folded_quantizer& q, lowbit::params_visitor& v) {
    folded::describe(q.params, v);
  }

  [[nodiscard]] folded_tensor quantize(lowbit::matrix_view<const float> weights,
                                       const lowbit::calibration& known) const {
    lowbit::check_params<folded_quantizer>(*this);
    lowbit::check_finite(weights, "the weight matrix");
    lowbit::check_importance(known.importance, weights.cols());
    folded_tensor t(weights.shape(), params);
    for (lowbit::index_t r = 0; r < weights.rows(); ++r) {
      const auto row = weights.row(r);
      for (lowbit::index_t begin = 0; begin < row.size(); begin += params.run) {
        const auto size = std::min<lowbit::index_t>(params.run, row.size() - begin);
        t.magnitude(r, begin / params.run) = lowbit::mean_magnitude(row.subspan(begin, size), {});
        for (lowbit::index_t c = begin; c < begin + size; ++c) {
          t.sign(r, c) = row[c] < 0.0F ? std::int8_t{-1} : std::int8_t{1};
        }
      }
    }
    return t;
  }
};

}  // namespace toy
