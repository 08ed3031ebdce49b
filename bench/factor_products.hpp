// factor_products.hpp: products of tensors made of enveloped sign matrices, for bench_gemv.
#pragma once

#include "harness.hpp"

namespace bench {

/// Registers a product with double binary factors of about `target_bits` per weight, everything
/// counted, once for every variant of kernels/sign_gemm (family sign_gemm): random signs and
/// envelopes of rank `envelope_rank`, packed by ops::pack. weight_bytes are what the tensor stores.
/// The outputs must equal those of scalar kernels.
void register_dbf_product(unsigned envelope_rank, double target_bits, product_shape shape,
                          bool cold);

/// The same with a sum of `planes` sign planes under envelopes of rank `envelope_rank`.
void register_envelope_product(unsigned planes, unsigned envelope_rank, product_shape shape,
                               bool cold);

}  // namespace bench
