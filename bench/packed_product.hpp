// packed_product.hpp: what all products of packed weights with int8 activations have in common.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "code_products.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/code_gemm/driver.hpp"

namespace bench {

/// `size` standard normal numbers of a seed.
[[nodiscard]] inline std::vector<float> normal_numbers(std::uint64_t seed, index_t size) {
  std::vector<float> x(size);
  for (index_t i = 0; i < size; ++i) x[i] = lowbit::random_normal(seed, i);
  return x;
}

/// As many copies of packed weights as a cold or warm product takes in turn.
[[nodiscard]] inline std::vector<kernels::packed_codes> copy_packed(kernels::packed_codes first,
                                                                    bool cold) {
  const index_t count = copies_of(static_cast<double>(first.size_bytes()), cold);
  std::vector<kernels::packed_codes> copies(count, first);
  return copies;
}

/// Everything that one product reads and writes; the copies belong to somebody else.
struct packed_product {
  packed_product(std::span<const kernels::packed_codes> weights, product_shape of,
                 const code_gemm_kernel& kernel)
      : copies(weights),
        shape(of),
        tile(kernel.run),
        ctx(allowed_context()),
        x(normal_numbers(5, of.tokens * of.cols)),
        y(of.tokens * of.rows) {
    ctx.allowed = kernel.needs;
  }

  [[nodiscard]] lowbit::matrix_view<const float> inputs() const {
    return {x.data(), shape.tokens, shape.cols};
  }
  [[nodiscard]] lowbit::matrix_view<float> outputs() {
    return {y.data(), shape.tokens, shape.rows};
  }
  [[nodiscard]] double weight_bytes() const { return static_cast<double>(copies[0].size_bytes()); }

  void run() { run(inputs()); }
  void run(lowbit::matrix_view<const float> in) {
    const kernels::packed_codes& w = copies[next];
    if (++next == copies.size()) next = 0;
    activations.assign(in, {.bits = 8, .group_size = w.runs().group_size()}, ctx);
    kernels::code_gemm(w, activations, outputs(), ctx, tile);
  }

  std::span<const kernels::packed_codes> copies;
  product_shape shape;
  kernels::code_gemm_tile_fn tile;
  kernels::context ctx;
  std::vector<float> x, y;
  kernels::int8_activations activations;
  index_t next = 0;
};

/// An output that a check looks at: number i of 64, of which the first is the last output.
struct sampled_output {
  index_t token;
  index_t row;

  static constexpr index_t count = 64;
  [[nodiscard]] static sampled_output number(index_t i, product_shape shape) {
    if (i == 0) return {shape.tokens - 1, shape.rows - 1};
    return {lowbit::random_bits(6, i) % shape.tokens, lowbit::random_bits(7, i) % shape.rows};
  }
};

/// Registers `p`, whose variant, needs and preparation follow from the kernel, once for every
/// kernel that takes its format.
void register_packed_product(
    product p, const kernels::code_format& format,
    const std::function<prepared_product(const code_gemm_kernel& kernel)>& prepare);

}  // namespace bench
