// ops/transform_inputs.hpp: the inputs of a decorated tensor, as its base meets them. Layer L4.
#pragma once

#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

/// out [M, K] = x T^T for w = B T, on ctx's executor; x and out do not overlap. Tensors that share
/// a T (q, k and v of a layer, say) share the result: multiply it by each w.base(), whose own
/// inputs may be transformed again. Refuses shapes that do not fit (shape).
template <input_transformed_operand T>
void transform_inputs(matrix_view<const float> x, const T& w, matrix_view<float> out,
                      const kernels::context& ctx) {
  LOWBIT_CHECK(x.cols() == w.shape().cols && x.shape() == out.shape(), shape, "inputs [", x.rows(),
               ", ", x.cols(), "] of weights with ", w.shape().cols, " columns do not fit [",
               out.rows(), ", ", out.cols(), "]");
  w.transform_inputs(x, out, ctx);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
