// sign_products.cpp: random signs, packed, and the check of their product.
#include "sign_products.hpp"

#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/kernels/sign_gemm/driver.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "packed_product.hpp"

namespace bench {

namespace {

using lowbit::detail::message;
namespace layout = lowbit::layout;

struct sign_weights {
  layout::bit_matrix signs;
  std::vector<kernels::packed_signs> copies;
};

sign_weights make_weights(product_shape shape, const kernels::context& ctx, bool cold) {
  sign_weights made{layout::bit_matrix(1, {shape.rows, shape.cols}), {}};
  for (index_t r = 0; r < shape.rows; ++r) {
    const std::span<std::uint64_t> words = made.signs.row(0, r);
    for (index_t w = 0; w * layout::word_bits < shape.cols; ++w) {
      words[w] = lowbit::random_bits(1, r * words.size() + w) &
                 layout::low_bits(shape.cols - w * layout::word_bits);
    }
  }
  const kernels::packed_signs packed(made.signs, ctx);
  made.copies.assign(copies_of(static_cast<double>(packed.size_bytes()), cold), packed);
  return made;
}

struct product_state {
  product_state(std::shared_ptr<const sign_weights> from, product_shape of,
                kernels::context allowed)
      : weights(std::move(from)),
        shape(of),
        ctx(allowed),
        x(normal_numbers(5, of.tokens * of.cols)),
        y(of.tokens * of.rows) {}

  void run() {
    const kernels::packed_signs& w = weights->copies[next];
    if (++next == weights->copies.size()) next = 0;
    activations.assign({x.data(), shape.tokens, shape.cols}, 8, ctx);
    kernels::sign_gemm(w, activations, {y.data(), shape.tokens, shape.rows}, ctx);
  }
  [[nodiscard]] std::string check() const {
    const kernels::sign_activations scalar(
        lowbit::matrix_view<const float>(x.data(), shape.tokens, shape.cols), 8,
        {.allowed = cpu::none});
    for (index_t i = 0; i < sampled_output::count; ++i) {
      const auto [t, n] = sampled_output::number(i, shape);
      std::int32_t sum = 0;
      const auto signs = weights->signs.row(0, n);
      for (index_t k = 0; k < shape.cols; k += 5) {
        // The sign of the fifth column, and which of the other four are like it. A column that is
        // not there is zero, whatever its sign.
        unsigned bits = 0;
        for (index_t j = 0; j < 5 && k + j < shape.cols; ++j) {
          const index_t at = k + j;
          bits |=
              static_cast<unsigned>(signs[at / layout::word_bits] >> at % layout::word_bits & 1U)
              << j;
        }
        const unsigned pattern = (bits < 16 ? ~bits : bits) & 15U;
        const std::int32_t q = scalar.tables(t)[k / 5 * 16 + pattern] - 128;
        sum += bits < 16 ? -q : q;
      }
      const float expected = scalar.step(t) * static_cast<float>(sum);
      const float found = y[t * shape.rows + n];
      if (!(found == expected)) {
        return message("wrong: output [", t, ", ", n, "] is ", found, ", not ", expected);
      }
    }
    return {};
  }

  std::shared_ptr<const sign_weights> weights;
  product_shape shape;
  kernels::context ctx;
  std::vector<float> x, y;
  kernels::sign_activations activations;
  index_t next = 0;
};

}  // namespace

void register_sign_product(product_shape shape, bool cold) {
  // The last one of lowbit's table is the oracle.
  const std::span<const kernels::variant<kernels::sign_gemm_functions>> table =
      kernels::sign_gemm_variants;
  for (const auto& v : table.first(table.size() - 1)) {
    const auto prepare = [=, needs = v.needs, name = v.name] {
      kernels::context ctx = allowed_context();
      ctx.allowed = needs;
      auto weights =
          cached(message("signs/N", shape.rows, "_K", shape.cols, cold ? "/cold/" : "/warm/", name),
                 [&] { return make_weights(shape, ctx, cold); });
      const auto state = std::make_shared<product_state>(std::move(weights), shape, ctx);
      const auto bytes = static_cast<double>(state->weights->copies[0].size_bytes());
      return prepared_product{.run = [state] { state->run(); },
                              .check = [state] { return state->check(); },
                              .weight_bytes = bytes};
    };
    register_product({.family = "sign_gemm",
                      .format = "signs",
                      .weight_bits = 1,
                      .activation_bits = 8,
                      .variant = std::string(v.name),
                      .shape = shape,
                      .cold = cold,
                      .needs = v.needs,
                      .what = operation::look_up,
                      .prepare = prepare});
  }
}

}  // namespace bench
