// sbvr_products.hpp: products of packed SBVR tensors with int8 activations, for bench_gemv and
// bench_gemm.
#pragma once

#include "harness.hpp"

namespace bench {

/// Registers a product once for every kernel of code_products.hpp: weights are normal numbers that
/// the SBVR quantizer made sums of `planes` vectors of +-1, with ratios of the tensor and an fp16
/// scale per group (family plane_gemm), packed by ops::pack. The outputs are compared with products
/// of the dequantized weights in double, within what floats may round.
void register_sbvr_product(unsigned planes, index_t group_size, product_shape shape, bool cold);

}  // namespace bench
