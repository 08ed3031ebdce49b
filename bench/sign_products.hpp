// sign_products.hpp: products of sign matrices with activations as tables, for bench_gemv.
#pragma once

#include "harness.hpp"

namespace bench {

/// Registers a product of random signs, floats in and floats out, once for every variant of
/// kernels/sign_gemm but the oracle (family sign_gemm). Outputs must equal sums of table entries.
void register_sign_product(product_shape shape, bool cold);

}  // namespace bench
