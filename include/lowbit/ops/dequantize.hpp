// ops/dequantize.hpp: back to floats, whatever the format. Layer L4.
#pragma once

#include <algorithm>

#include "lowbit/core/tensor_ref.hpp"
#include "lowbit/kernels/context.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

/// Writes the whole tensor [N, K] to `out`. Refuses an output of another shape (shape).
inline void dequantize(tensor_ref t, matrix_view<float> out, const kernels::context& ctx) {
  LOWBIT_CHECK(out.shape() == t.shape(), shape, "a tensor of [", t.shape().rows, ", ",
               t.shape().cols, "] does not fit an output of [", out.rows(), ", ", out.cols(), "]");
  kernels::parallel_for_blocks(ctx, t.shape().rows, dequantize_block_rows(t),
                               [&](row_range rows) { t.dequantize(rows, out.middle_rows(rows)); });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
