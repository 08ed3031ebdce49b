// factor_products.cpp: random factors, packed, and the check of their product.
#include "factor_products.hpp"

#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/formats/dbf/tensor.hpp"
#include "lowbit/ops/matmul.hpp"
#include "packed_product.hpp"

namespace bench {

namespace {

using lowbit::detail::message;
using lowbit::formats::dbf;
using lowbit::formats::dbf_tensor;

void randomize(lowbit::layout::enveloped_signs& f, std::uint64_t seed) {
  const lowbit::shape2 shape = f.shape();
  std::vector<std::uint8_t> bits(shape.cols);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) {
      bits[c] = static_cast<std::uint8_t>(lowbit::random_bits(seed, r * shape.cols + c) & 1U);
    }
    f.signs().set_row(r, bits);
  }
  const auto fill = [&](lowbit::layout::scale_matrix& e, std::uint64_t stream) {
    for (index_t j = 0; j < e.shape().rows; ++j) {
      for (index_t i = 0; i < e.shape().cols; ++i) {
        e.set(j, i, 0.1F * lowbit::random_normal(seed + stream, j * e.shape().cols + i));
      }
    }
  };
  fill(f.row_envelopes(), 1);
  fill(f.column_envelopes(), 2);
}

/// A copy of the weights: packed signs, and the tensor, to whose envelopes products come back.
struct weight_copy {
  weight_copy(const dbf_tensor& from, const kernels::context& ctx)
      : tensor(from), packed(lowbit::ops::pack(tensor, ctx)) {}

  dbf_tensor tensor;
  lowbit::ops::packed_parts<dbf_tensor> packed;
};
using weight_copies = std::list<weight_copy>;  // which stay where they are

struct product_state {
  product_state(std::shared_ptr<const weight_copies> from, product_shape of, cpu::cpu_set allowed)
      : weights(std::move(from)),
        next(weights->begin()),
        shape(of),
        ctx(allowed_context()),
        x(normal_numbers(5, of.tokens * of.cols)),
        y(of.tokens * of.rows) {
    ctx.allowed = allowed;
    ctx.scratch = &scratch;
  }

  [[nodiscard]] lowbit::matrix_view<const float> inputs() const {
    return {x.data(), shape.tokens, shape.cols};
  }
  void run() {
    const auto& packed = next->packed;
    if (++next == weights->end()) next = weights->begin();
    lowbit::ops::matmul(inputs(), packed, {y.data(), shape.tokens, shape.rows}, ctx);
  }
  [[nodiscard]] std::string check() const {
    std::vector<float> expected(y.size());
    const lowbit::ops::activation_quantization how;
    lowbit::ops::matmul(inputs(), weights->front().tensor,
                        {expected.data(), shape.tokens, shape.rows}, {.allowed = cpu::none},
                        {.path = lowbit::ops::matmul_path::int8, .activations = how});
    for (index_t i = 0; i < y.size(); ++i) {
      if (!(y[i] == expected[i])) {
        return message("wrong: output [", i / shape.rows, ", ", i % shape.rows, "] is ", y[i],
                       ", not ", expected[i]);
      }
    }
    return {};
  }

  std::shared_ptr<const weight_copies> weights;
  weight_copies::const_iterator next;
  product_shape shape;
  kernels::context ctx;
  kernels::workspace scratch;
  std::vector<float> x, y;
};

}  // namespace

void register_dbf_product(unsigned envelope_rank, double target_bits, product_shape shape,
                          bool cold) {
  dbf::params params{.envelope_rank = envelope_rank};
  const lowbit::shape2 matrix{shape.rows, shape.cols};
  params.middle = dbf::middle_for(matrix, target_bits, params);
  const double bytes = static_cast<double>(dbf::stored_bits(matrix, params)) / 8.0;
  // The last one of lowbit's table is the oracle.
  for (const auto& v : kernels::sign_gemm_variants) {
    if (v.run == std::end(kernels::sign_gemm_variants)[-1].run) continue;
    const auto prepare = [=, needs = v.needs] {
      auto weights = cached(message("dbf/l", envelope_rank, "/r", params.middle, "/N", shape.rows,
                                    "_K", shape.cols, cold ? "/cold/" : "/warm/", v.name),
                            [&] {
                              dbf_tensor t(matrix, params);
                              randomize(t.input_factor(0), 8);
                              randomize(t.output_factor(0), 16);
                              kernels::context ctx = allowed_context();
                              ctx.allowed = needs;
                              weight_copies copies;
                              for (index_t i = copies_of(bytes, cold); i > 0; --i) {
                                copies.emplace_back(t, ctx);
                              }
                              return copies;
                            });
      const auto state = std::make_shared<product_state>(std::move(weights), shape, needs);
      return prepared_product{.run = [state] { state->run(); },
                              .check = [state] { return state->check(); },
                              .weight_bytes = bytes};
    };
    register_product({.family = "sign_gemm",
                      .format = message("dbf_l", envelope_rank),
                      .weight_bits = 1,
                      .activation_bits = 8,
                      .variant = std::string(v.name),
                      .shape = shape,
                      .cold = cold,
                      .needs = v.needs,
                      .what = operation::look_up,
                      // Two factors of `middle` rows or columns, and l right-hand sides.
                      .steps_per_mac = static_cast<double>(envelope_rank * params.middle) *
                                       static_cast<double>(shape.rows + shape.cols) /
                                       static_cast<double>(shape.rows * shape.cols),
                      .prepare = prepare});
  }
}

}  // namespace bench
