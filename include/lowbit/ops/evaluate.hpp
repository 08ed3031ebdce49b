// ops/evaluate.hpp: what quantization cost, for any format. Layer L4.
#pragma once

#include "lowbit/core/error_stats.hpp"
#include "lowbit/linalg/eigen.hpp"
#include "lowbit/ops/dequantize.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

namespace detail {

/// Calls f(rows, approximation) for each block of rows of t, dequantized. Memory for one block.
template <class F>
void for_each_block(tensor_ref t, F&& f) {
  const shape2 shape = t.shape();
  const index_t size = std::min(shape.rows, dequantize_block_rows(t));
  aligned_buffer<float> values(checked_mul(size, shape.cols, "block"));
  for (index_t begin = 0; begin < shape.rows; begin += size) {
    const row_range rows{begin, std::min(begin + size, shape.rows)};
    const matrix_view<float> block(values.data(), rows.size(), shape.cols);
    t.dequantize(rows, block);
    f(rows, block);
  }
}

inline void check_same_shape(matrix_view<const float> weights, tensor_ref t) {
  LOWBIT_CHECK(weights.shape() == t.shape(), shape, "comparing weights [", weights.rows(), ", ",
               weights.cols(), "] with a tensor of [", t.shape().rows, ", ", t.shape().cols, "]");
}

}  // namespace detail

/// How far the tensor is from the weights W [N, K] that it stands for.
[[nodiscard]] inline error_stats weight_error(matrix_view<const float> weights, tensor_ref t) {
  detail::check_same_shape(weights, t);
  error_stats stats;
  detail::for_each_block(t, [&](row_range rows, matrix_view<float> block) {
    for (index_t r = 0; r < rows.size(); ++r) {
      stats.add(weights.row(rows.begin + r), block.row(r));
    }
  });
  return stats;
}

/// How far the layer's output is off: compares X W^T, for inputs X [tokens, K] of the original
/// network, with X̂ Ŵ^T, where Ŵ is the tensor and `seen` are the inputs X̂ that it meets, distorted
/// by what was quantized before it. Refuses shapes that do not fit (shape).
[[nodiscard]] inline error_stats output_error(matrix_view<const float> inputs,
                                              matrix_view<const float> seen,
                                              matrix_view<const float> weights, tensor_ref t) {
  detail::check_same_shape(weights, t);
  LOWBIT_CHECK(inputs.cols() == weights.cols(), shape, "inputs have ", inputs.cols(),
               " channels, weights ", weights.cols(), " columns");
  LOWBIT_CHECK(seen.shape() == inputs.shape(), shape, "inputs are [", inputs.rows(), ", ",
               inputs.cols(), "], those that the tensor meets [", seen.rows(), ", ", seen.cols(),
               "]");
  error_stats stats;
  const index_t width = std::min(weights.rows(), dequantize_block_rows(t));
  aligned_buffer<float> exact(checked_mul(inputs.rows(), width, "outputs"));
  aligned_buffer<float> approximate(exact.size());
  detail::for_each_block(t, [&](row_range rows, matrix_view<float> block) {
    const matrix_view<float> y(exact.data(), inputs.rows(), rows.size());
    const matrix_view<float> y_hat(approximate.data(), inputs.rows(), rows.size());
    linalg::multiply_transposed(inputs, weights.middle_rows(rows), y);
    linalg::multiply_transposed(seen, block, y_hat);
    stats.add({y.data(), inputs.rows() * rows.size()}, {y_hat.data(), inputs.rows() * rows.size()});
  });
  return stats;
}

/// The same where the tensor meets the inputs X [tokens, K] themselves: what its error means to the
/// next layer, which the weight error alone does not show.
[[nodiscard]] inline error_stats output_error(matrix_view<const float> inputs,
                                              matrix_view<const float> weights, tensor_ref t) {
  return output_error(inputs, inputs, weights, t);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
