// factor_products.cpp: random factors, packed, and the check of their product.
#include "factor_products.hpp"

#include <algorithm>
#include <cmath>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/formats/dbf/tensor.hpp"
#include "lowbit/formats/envelope/tensor.hpp"
#include "lowbit/ops/matmul.hpp"
#include "packed_product.hpp"

namespace bench {

namespace {

using lowbit::detail::message;
using lowbit::formats::dbf;
using lowbit::formats::dbf_tensor;
using lowbit::formats::envelope;
using lowbit::formats::envelope_tensor;

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
template <class T>
struct weight_copy {
  weight_copy(const T& from, const kernels::context& ctx)
      : tensor(from), packed(lowbit::ops::pack(tensor, ctx)) {}

  T tensor;
  lowbit::ops::packed_parts<T> packed;
};
template <class T>
using weight_copies = std::list<weight_copy<T>>;  // which stay where they are

template <class T>
struct product_state {
  product_state(std::shared_ptr<const weight_copies<T>> from, product_shape of,
                cpu::cpu_set allowed)
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

  std::shared_ptr<const weight_copies<T>> weights;
  typename weight_copies<T>::const_iterator next;
  product_shape shape;
  kernels::context ctx;
  kernels::workspace scratch;
  std::vector<float> x, y;
};

/// One product for each variant. make() makes the tensor, which stores `bits`; `look_ups` are the
/// products that a look-up does a few of, for each weight.
template <class T, class Make>
void register_factor_product(const std::string& format, std::uint64_t bits, double look_ups,
                             product_shape shape, bool cold, const Make& make) {
  const double bytes = static_cast<double>(bits) / 8.0;
  const auto planes = std::max(
      1.0, std::round(static_cast<double>(bits) / static_cast<double>(shape.rows * shape.cols)));
  for (const auto& v : kernels::sign_gemm_variants) {
    // The last one of lowbit's table is the oracle.
    if (v.run == std::end(kernels::sign_gemm_variants)[-1].run) continue;
    const auto prepare = [=, needs = v.needs, variant = v.name] {
      const auto copy = [&] {
        const T tensor = make();
        kernels::context ctx = allowed_context();
        ctx.allowed = needs;
        weight_copies<T> copies;
        for (index_t i = copies_of(bytes, cold); i > 0; --i) copies.emplace_back(tensor, ctx);
        return copies;
      };
      auto weights = cached(message(format, "/", bits, "/N", shape.rows, "_K", shape.cols,
                                    cold ? "/cold/" : "/warm/", variant),
                            copy);
      const auto state = std::make_shared<product_state<T>>(std::move(weights), shape, needs);
      return prepared_product{.run = [state] { state->run(); },
                              .check = [state] { return state->check(); },
                              .weight_bytes = bytes};
    };
    register_product({.family = "sign_gemm",
                      .format = format,
                      .weight_bits = static_cast<unsigned>(planes),
                      .activation_bits = 8,
                      .variant = std::string(v.name),
                      .shape = shape,
                      .cold = cold,
                      .needs = v.needs,
                      .what = operation::look_up,
                      .steps_per_mac = look_ups,
                      .prepare = prepare});
  }
}

}  // namespace

void register_dbf_product(unsigned envelope_rank, double target_bits, product_shape shape,
                          bool cold) {
  dbf::params params{.envelope_rank = envelope_rank};
  const lowbit::shape2 matrix{shape.rows, shape.cols};
  params.middle = dbf::middle_for(matrix, target_bits, params);
  // Two factors of `middle` rows or columns, and l right-hand sides.
  const double look_ups = static_cast<double>(envelope_rank * params.middle) *
                          static_cast<double>(shape.rows + shape.cols) /
                          static_cast<double>(matrix.size());
  register_factor_product<dbf_tensor>(message("dbf_l", envelope_rank),
                                      dbf::stored_bits(matrix, params), look_ups, shape, cold, [=] {
                                        dbf_tensor t(matrix, params);
                                        randomize(t.input_factor(0), 8);
                                        randomize(t.output_factor(0), 16);
                                        return t;
                                      });
}

void register_envelope_product(unsigned planes, unsigned envelope_rank, product_shape shape,
                               bool cold) {
  const envelope::params params{.planes = planes, .envelope_rank = envelope_rank};
  const lowbit::shape2 matrix{shape.rows, shape.cols};
  register_factor_product<envelope_tensor>(
      message("envelope_r", envelope_rank), envelope_tensor(matrix, params).storage_bits(),
      static_cast<double>(planes * envelope_rank), shape, cold, [=] {
        envelope_tensor t(matrix, params);
        for (unsigned p = 0; p < planes; ++p) randomize(t.plane(p), 8 * (p + 1));
        return t;
      });
}

}  // namespace bench
