// code_products.hpp: products of packed codes with int8 activations, for bench_gemv and bench_gemm.
#pragma once

#include <span>
#include <string>

#include "harness.hpp"
#include "lowbit/kernels/code_gemm/contract.hpp"

namespace bench {

/// A tile function with the contract of kernels/code_gemm/contract.hpp.
struct code_gemm_kernel {
  std::string name;
  cpu::cpu_set needs;  ///< also what may quantize the activations, and which peak it is held to
  kernels::code_gemm_tile_fn run = nullptr;
  /// Whether it computes this format; null: every one. Others are not timed.
  bool (*takes)(const kernels::code_format& format) = nullptr;
};

/// Adds a kernel beside lowbit's own to every benchmark of code products in the program:
///   const bench::code_gemm_registration mine({.name = "mine", .needs = ..., .run = &my_tile});
class code_gemm_registration {
 public:
  explicit code_gemm_registration(code_gemm_kernel kernel);
};

/// Those of lowbit's table, best first, and then those that were added.
[[nodiscard]] std::span<const code_gemm_kernel> code_gemm_kernels();

/// A product of weights in this format: float in, float out.
struct code_product {
  std::string family;
  std::string format_name;
  kernels::code_format format;
  index_t group_size;
  product_shape shape;
  bool cold;
  double outliers = 0.0;  ///< share of the weights that are stored apart and added (kernels/sparse)
  bool rotated = false;   ///< whether inputs are rotated first (kernels/hadamard)
};

/// Codes of `bits` bits around their middle, with an fp16 scale per group (family code_gemm).
[[nodiscard]] code_product uniform_product(unsigned bits, index_t group_size, product_shape shape,
                                           bool cold);
/// The same with a zero of 0..2^bits - 1 per group.
[[nodiscard]] code_product uniform_zeros_product(unsigned bits, index_t group_size,
                                                 product_shape shape, bool cold);
/// 4-bit codes that choose from 16 levels (family code_gemm).
[[nodiscard]] code_product book_product(index_t group_size, product_shape shape, bool cold);
/// `planes` vectors of +-1, each with an fp16 scale per group (family plane_gemm).
[[nodiscard]] code_product plane_product(unsigned planes, index_t group_size, product_shape shape,
                                         bool cold);

/// The product with a share of the weights stored apart (family with_outliers).
[[nodiscard]] code_product with_outliers(code_product p, double share);
/// The product with rotated inputs (family rotated).
[[nodiscard]] code_product rotated(code_product p);

/// Registers a product once for every kernel that takes its format. The outputs are compared with
/// the contract's arithmetic, computed from the codes themselves, with ==.
void register_code_product(const code_product& p);

}  // namespace bench
