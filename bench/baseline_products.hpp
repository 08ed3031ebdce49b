// baseline_products.hpp: registers the float products of baselines.hpp.
#pragma once

#include "harness.hpp"

namespace bench {

/// Eigen's product (baseline/eigen_sgemm, or eigen_sgemv for one token).
void register_eigen_baseline(product_shape shape, bool cold);
/// Float dot products (baseline/fp32_dot).
void register_dot_baseline(product_shape shape, bool cold);
/// Codes turned to floats block by block, then multiplied (baseline/dequantize_g<group_size>).
void register_dequantize_baseline(unsigned bits, index_t group_size, product_shape shape,
                                  bool cold);

}  // namespace bench
