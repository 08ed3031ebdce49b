// sbvr_products.cpp: quantized and packed weights, and the check of their product.
#include "sbvr_products.hpp"

#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/ops/pack.hpp"
#include "packed_product.hpp"

namespace bench {

namespace {

using lowbit::detail::message;
using lowbit::formats::sbvr_quantizer;
using lowbit::formats::sbvr_tensor;

struct packed_tensor {
  sbvr_tensor tensor;
  std::vector<kernels::packed_codes> copies;
};

packed_tensor make_tensor(unsigned planes, index_t group_size, product_shape shape, bool cold) {
  const std::vector<float> w = normal_numbers(8, shape.rows * shape.cols);
  const sbvr_quantizer quantizer{
      .params = {.planes = planes, .group_size = static_cast<std::uint32_t>(group_size)}};
  packed_tensor made{quantizer.quantize({w.data(), shape.rows, shape.cols}), {}};
  made.copies = copy_packed(lowbit::ops::pack(made.tensor, allowed_context()), cold);
  return made;
}

struct product_state : packed_product {
  product_state(std::shared_ptr<const packed_tensor> from, product_shape of,
                const code_gemm_kernel& kernel)
      : packed_product(from->copies, of, kernel), weights(std::move(from)) {}

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
    for (index_t i = 0; i < sampled_output::count; ++i) {
      const auto [t, n] = sampled_output::number(i, shape);
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

  std::shared_ptr<const packed_tensor> weights;
};

}  // namespace

void register_sbvr_product(unsigned planes, index_t group_size, product_shape shape, bool cold) {
  const auto prepare = [=](const code_gemm_kernel& kernel) {
    auto tensor = cached(message("sbvr/p", planes, "_g", group_size, "/N", shape.rows, "_K",
                                 shape.cols, cold ? "/cold" : "/warm"),
                         [&] { return make_tensor(planes, group_size, shape, cold); });
    const auto state = std::make_shared<product_state>(std::move(tensor), shape, kernel);
    return prepared_product{.run = [state] { state->run(); },
                            .check = [state] { return state->check(); },
                            .weight_bytes = state->weight_bytes()};
  };
  // What a kernel is asked whether it takes: the packed format, but for what the tensor decides.
  register_packed_product({.family = "plane_gemm",
                           .format = message("sbvr_g", group_size),
                           .weight_bits = planes,
                           .activation_bits = 8,
                           .shape = shape,
                           .cold = cold,
                           .what = operation::int8_mac},
                          {.bits = 1, .planes = planes, .code_step = 2, .zero = 1}, prepare);
}

}  // namespace bench
