// ops/dequantize.hpp: back to floats, whatever the format. Layer L4.
#pragma once

#include <algorithm>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/kernels/context.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

/// Rows that are dequantized at a time wherever a whole matrix would be too much memory. Fixed, so
/// that results do not depend on how many threads share the work.
inline constexpr index_t dequantize_block_rows = 64;

/// Block number `i` of dequantize_block_rows rows of a matrix.
[[nodiscard]] constexpr row_range dequantize_block(index_t i, index_t rows) noexcept {
  const index_t begin = i * dequantize_block_rows;
  return {begin, std::min(begin + dequantize_block_rows, rows)};
}

/// Writes the whole tensor [N, K] to `out`. Refuses an output of another shape (shape).
template <quantized_tensor T>
void dequantize(const T& t, matrix_view<float> out, const kernels::context& ctx) {
  LOWBIT_CHECK(out.shape() == t.shape(), shape, "a tensor of [", t.shape().rows, ", ",
               t.shape().cols, "] does not fit an output of [", out.rows(), ", ", out.cols(), "]");
  const index_t rows = t.shape().rows;
  kernels::parallel_for(ctx, div_up(rows, dequantize_block_rows), [&](index_t block, index_t) {
    const row_range range = dequantize_block(block, rows);
    t.dequantize(range, out.middle_rows(range));
  });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
