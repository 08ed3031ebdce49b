// sbvr_products.cpp: quantized and packed weights, and the check of their product.
#include "sbvr_products.hpp"

#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "code_products.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/kernels/code_gemm/driver.hpp"
#include "lowbit/ops/pack.hpp"

namespace bench {

namespace {

using lowbit::matrix_view;
using lowbit::detail::message;
using lowbit::formats::sbvr_quantizer;
using lowbit::formats::sbvr_tensor;

struct packed_tensor {
  sbvr_tensor tensor;
  std::vector<kernels::packed_codes> copies;
};

std::vector<float> normal_numbers(std::uint64_t seed, index_t size) {
  std::vector<float> x(size);
  for (index_t i = 0; i < size; ++i) x[i] = lowbit::random_normal(seed, i);
  return x;
}

packed_tensor make_tensor(unsigned planes, index_t group_size, product_shape shape, bool cold) {
  const std::vector<float> w = normal_numbers(8, shape.rows * shape.cols);
  const sbvr_quantizer quantizer{
      .params = {.planes = planes, .group_size = static_cast<std::uint32_t>(group_size)}};
  packed_tensor made{quantizer.quantize({w.data(), shape.rows, shape.cols}), {}};
  made.copies.push_back(lowbit::ops::pack(made.tensor, allowed_context()));
  const index_t count = copies_of(static_cast<double>(made.copies[0].size_bytes()), cold);
  made.copies.reserve(count);
  while (made.copies.size() < count) made.copies.push_back(made.copies[0]);
  return made;
}

/// Everything that one product reads and writes.
struct product_state {
  std::shared_ptr<const packed_tensor> weights;
  product_shape shape;
  kernels::code_gemm_tile_fn tile;
  kernels::context ctx;
  std::vector<float> x, y;
  kernels::int8_activations activations;
  index_t next = 0;

  [[nodiscard]] matrix_view<const float> inputs() const {
    return {x.data(), shape.tokens, shape.cols};
  }

  void run() {
    const kernels::packed_codes& w = weights->copies[next];
    if (++next == weights->copies.size()) next = 0;
    activations.assign(inputs(), {.bits = 8, .group_size = w.runs().group_size()}, ctx);
    kernels::code_gemm(w, activations, {y.data(), shape.tokens, shape.rows}, ctx, tile);
  }

  /// Some outputs against double products. Each group adds one sum per plane, and perhaps an
  /// offset, to a float, each a product with a coefficient that was rounded twice; two more
  /// roundings are those of the step of a token and of the decoded weight.
  [[nodiscard]] std::string check() const {
    const sbvr_tensor& w = weights->tensor;
    std::vector<float> decoded(shape.tokens * shape.cols);
    activations.dequantize({decoded.data(), shape.tokens, shape.cols});
    std::vector<float> row(shape.cols);
    const double additions =
        static_cast<double>(w.group_shape().cols) * static_cast<double>(w.params().planes + 1);
    const double relative = (additions + 4.0) * 0x1p-24;
    constexpr index_t samples = 64;
    for (index_t i = 0; i < samples; ++i) {
      const index_t t = i == 0 ? shape.tokens - 1 : lowbit::random_bits(6, i) % shape.tokens;
      const index_t n = i == 0 ? shape.rows - 1 : lowbit::random_bits(7, i) % shape.rows;
      w.dequantize({n, n + 1}, {row.data(), 1, shape.cols});
      double exact = 0.0;
      double magnitude = 0.0;
      std::array<float, 8> coefficients{};
      for (index_t k = 0; k < shape.cols; ++k) {
        const auto value = static_cast<double>(decoded[t * shape.cols + k]);
        double sum = std::fabs(
            static_cast<double>(w.plane_coefficients(n, k / w.group_size(), coefficients)));
        for (const float c : coefficients) sum += std::fabs(static_cast<double>(c));
        exact += static_cast<double>(row[k]) * value;
        magnitude += sum * std::fabs(value);
      }
      const auto found = static_cast<double>(y[t * shape.rows + n]);
      if (!(std::fabs(found - exact) <= relative * magnitude)) {
        return message("wrong: output [", t, ", ", n, "] is ", found, ", not ", exact, " +- ",
                       relative * magnitude);
      }
    }
    return {};
  }
};

}  // namespace

void register_sbvr_product(unsigned planes, index_t group_size, product_shape shape, bool cold) {
  // The last one of lowbit's table is the oracle, not made for speed: small products only.
  constexpr double oracle_macs = 2e6;
  const auto oracle = std::end(kernels::code_gemm_variants)[-1].run;
  // What a kernel is asked whether it takes: the packed format, but for what the tensor decides.
  kernels::code_format format{.bits = 1, .planes = planes, .code_step = 2, .zero = 1};
  for (const code_gemm_kernel& kernel : code_gemm_kernels()) {
    if (kernel.run == oracle && shape.macs() > oracle_macs) continue;
    if (kernel.takes != nullptr && !kernel.takes(format)) continue;
    const auto prepare = [=] {
      auto state = std::make_shared<product_state>();
      state->weights = cached(message("sbvr/p", planes, "_g", group_size, "/N", shape.rows, "_K",
                                      shape.cols, cold ? "/cold" : "/warm"),
                              [&] { return make_tensor(planes, group_size, shape, cold); });
      state->shape = shape;
      state->tile = kernel.run;
      state->ctx = allowed_context();
      state->ctx.allowed = kernel.needs;
      state->x = normal_numbers(5, shape.tokens * shape.cols);
      state->y.resize(shape.tokens * shape.rows);
      return prepared_product{
          .run = [state] { state->run(); },
          .check = [state] { return state->check(); },
          .weight_bytes = static_cast<double>(state->weights->copies[0].size_bytes())};
    };
    register_product({.family = "plane_gemm",
                      .format = message("sbvr_g", group_size),
                      .weight_bits = planes,
                      .activation_bits = 8,
                      .variant = kernel.name,
                      .shape = shape,
                      .cold = cold,
                      .needs = kernel.needs,
                      .what = operation::int8_mac,
                      .prepare = prepare});
  }
}

}  // namespace bench
