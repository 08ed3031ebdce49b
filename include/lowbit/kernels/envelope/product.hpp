// kernels/envelope/product.hpp: products with enveloped signs, made of products with the signs
// alone. Layer L2.
//
//   F x = sum over j of row_j o (S (column_j o x))      (MDBF, arXiv 2512.24545)
//
// so l envelopes are l right-hand sides on the same sign bits, which are read once.
#pragma once

#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/envelope/driver.hpp"
#include "lowbit/layout/enveloped_signs.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// y [M, N] = x [M, K] F^T, or y += that. product(x', z) computes z [l M, N] = x' S^T with the
/// signs S of F, whatever path that takes. Shapes fit; y overlaps nothing. The bits do not depend
/// on ctx.
template <class Product>
void multiply_enveloped(matrix_view<const float> x, const layout::enveloped_signs& f,
                        matrix_view<float> y, envelope_sum sum, const context& ctx,
                        const Product& product) {
  const shape2 shape = f.shape();
  const index_t vectors = checked_mul(f.rank(), x.rows(), "right-hand sides");
  borrowed<float> inputs(ctx, checked_mul(vectors, shape.cols, "enveloped inputs"));
  borrowed<float> outputs(ctx, checked_mul(vectors, shape.rows, "products with signs"));
  const matrix_view<float> in(inputs.data(), vectors, shape.cols);
  const matrix_view<float> out(outputs.data(), vectors, shape.rows);
  expand_envelopes(f.column_envelopes(), x, in, ctx);
  product(matrix_view<const float>(in), out);
  combine_envelopes(f.row_envelopes(), matrix_view<const float>(out), sum, y, ctx);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
