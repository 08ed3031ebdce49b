// bench_bit_gemm: products of planes with planes, every variant of this machine, beside Eigen's
// float product. See harness.hpp for names and counters; bit_macs_per_second are macs_per_second
// times both numbers of planes.
//
//   bit_gemm/planes/...  the integer driver on packed planes, integers out: what the kernel and its
//                        blocking reach. Neither quantizing nor packing activations is counted
//   bit_gemm/float/...   floats in, floats out: quantizing activations, packing their planes and
//                        scaling the outputs are counted, as in every other product
//
//   bench_bit_gemm --benchmark_filter=M1024 --benchmark_repetitions=7
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "baseline_products.hpp"
#include "harness.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/activations/quantized.hpp"
#include "lowbit/kernels/bit_gemm/driver.hpp"

namespace {

using namespace bench;
using lowbit::matrix_view;
using lowbit::random_bits;
using lowbit::detail::message;
using lowbit::layout::bit_matrix;

bit_matrix random_planes(unsigned planes, lowbit::shape2 shape, std::uint64_t seed) {
  bit_matrix m(planes, shape);  // widths here are multiples of 512: no padding to keep zero
  for (index_t i = 0; i < m.words().size(); ++i) m.words()[i] = random_bits(seed, i);
  return m;
}

/// The number that the planes of one element spell.
std::int64_t code(const bit_matrix& m, index_t row, index_t col) {
  std::int64_t u = 0;
  for (index_t p = 0; p < m.planes(); ++p) u += std::int64_t{m.bit(p, row, col)} << p;
  return u;
}

struct packed_copies {
  bit_matrix planes;
  std::vector<kernels::packed_weight_planes> copies;
};

std::shared_ptr<packed_copies> make_weights(unsigned bits, product_shape shape, bool cold) {
  return cached(message("w", bits, "/N", shape.rows, "_K", shape.cols, cold ? "/cold" : "/warm"),
                [&] {
                  packed_copies made{random_planes(bits, {shape.rows, shape.cols}, 1), {}};
                  const kernels::packed_weight_planes packed(made.planes);
                  const auto bytes = 8.0 * static_cast<double>(made.planes.words().size());
                  made.copies.assign(copies_of(bytes, cold), packed);
                  return made;
                });
}

/// What both kinds of product share.
struct product_state {
  std::shared_ptr<packed_copies> weights;
  product_shape shape;
  kernels::context ctx;
  std::vector<std::int64_t> sums;
  index_t next = 0;

  product_state(unsigned weight_bits, product_shape s, bool cold, cpu::cpu_set allowed)
      : weights(make_weights(weight_bits, s, cold)),
        shape(s),
        ctx(allowed_context()),
        sums(s.tokens * s.rows) {
    ctx.allowed = allowed;
  }
  [[nodiscard]] matrix_view<std::int64_t> integers() {
    return {sums.data(), shape.tokens, shape.rows};
  }
  [[nodiscard]] const kernels::packed_weight_planes& next_copy() {
    const auto& copy = weights->copies[next];
    if (++next == weights->copies.size()) next = 0;
    return copy;
  }
  /// Calls compare(token, row), which returns what is wrong, for some outputs.
  template <class Compare>
  [[nodiscard]] std::string check_some(const Compare& compare) const {
    for (index_t i = 0; i < 16; ++i) {
      const index_t t = i == 0 ? shape.tokens - 1 : random_bits(6, i) % shape.tokens;
      const index_t n = i == 0 ? shape.rows - 1 : random_bits(7, i) % shape.rows;
      const std::string wrong = compare(t, n);
      if (!wrong.empty()) return message("wrong: output [", t, ", ", n, "] is ", wrong);
    }
    return {};
  }
};

struct integer_product : product_state {
  bit_matrix inputs;
  kernels::packed_activation_planes packed;

  integer_product(unsigned weight_bits, unsigned activation_bits, product_shape s, bool cold,
                  cpu::cpu_set allowed)
      : product_state(weight_bits, s, cold, allowed),
        inputs(random_planes(activation_bits, {s.tokens, s.cols}, 2)),
        packed(inputs) {}
  void run() { kernels::bit_gemm(next_copy(), packed, integers(), ctx); }
  [[nodiscard]] std::string check() {
    return check_some([&](index_t t, index_t n) -> std::string {
      std::int64_t expected = 0;
      for (index_t k = 0; k < shape.cols; ++k) {
        expected += code(weights->planes, n, k) * code(inputs, t, k);
      }
      const std::int64_t found = integers()(t, n);
      return found == expected ? "" : message(found, ", not ", expected);
    });
  }
};

/// value = 1/64 * (u - (2^b - 1) / 2) of the weights' codes u: +-1/128 for one plane.
struct float_product : product_state {
  static constexpr float weight_step = 1.0F / 64;

  kernels::activation_params params;
  float weight_zero;
  std::vector<float> x, y;
  std::vector<std::int64_t> weight_sums;
  kernels::quantized_activations activations;

  float_product(unsigned weight_bits, unsigned activation_bits, product_shape s, bool cold,
                cpu::cpu_set allowed)
      : product_state(weight_bits, s, cold, allowed),
        params{.bits = activation_bits},
        weight_zero(0.5F * static_cast<float>((1U << weight_bits) - 1U)),
        x(s.tokens * s.cols),
        y(s.tokens * s.rows) {
    for (index_t i = 0; i < x.size(); ++i) x[i] = lowbit::random_normal(5, i);
    const auto& packed = weights->copies[0];
    for (index_t tile = 0; tile < packed.tiles(); ++tile) {
      for (const std::int64_t sum : packed.sum_codes(tile, 0)) weight_sums.push_back(sum);
    }
  }
  [[nodiscard]] matrix_view<const float> inputs() const {
    return {x.data(), shape.tokens, shape.cols};
  }
  /// sum (u - zu)(v - zv) = sum u v - zv sum u - zu sum v + K zu zv over the codes v of a token.
  void run() {
    activations.assign(inputs(), params, ctx);
    const kernels::packed_activation_planes packed(activations.planes(ctx));
    kernels::bit_gemm(next_copy(), packed, integers(), ctx);
    for (index_t t = 0; t < shape.tokens; ++t) {
      const kernels::activation_scaling scaling = activations.scaling(t, 0);
      const float zero = 0.5F * static_cast<float>(scaling.twice_zero);
      const float step = scaling.step * weight_step;
      const float all = weight_zero * (static_cast<float>(shape.cols) * zero -
                                       static_cast<float>(activations.sum_codes(t, 0)));
      for (index_t n = 0; n < shape.rows; ++n) {
        const float products = static_cast<float>(sums[t * shape.rows + n]);
        y[t * shape.rows + n] = step * (products - zero * static_cast<float>(weight_sums[n]) + all);
      }
    }
  }
  [[nodiscard]] std::string check() {
    std::vector<float> values(shape.tokens * shape.cols);
    activations.dequantize({values.data(), shape.tokens, shape.cols});
    return check_some([&](index_t t, index_t n) -> std::string {
      double expected = 0;
      double magnitude = 0;  // of what is added up, with the zeros taken apart
      for (index_t k = 0; k < shape.cols; ++k) {
        const auto u = static_cast<double>(code(weights->planes, n, k));
        const auto v = static_cast<double>(values[t * shape.cols + k]);
        const double step = static_cast<double>(weight_step);
        expected += step * (u - static_cast<double>(weight_zero)) * v;
        magnitude += step * 2 * static_cast<double>(weight_zero) *
                     (std::abs(v) + static_cast<double>(activations.scaling(t, 0).step) *
                                        activations.scaling(t, 0).twice_zero);
      }
      const auto found = static_cast<double>(y[t * shape.rows + n]);
      return std::abs(found - expected) <= magnitude * 0x1p-20 ? ""
                                                               : message(found, ", not ", expected);
    });
  }
};

struct precision {
  unsigned weight_bits;
  unsigned activation_bits;
};

template <class State>
void register_products(const char* format, precision bits, product_shape shape, bool cold) {
  // The last one of the table is the oracle: seconds for a large product.
  constexpr double oracle_steps = 1e10;
  const double steps = bits.weight_bits * bits.activation_bits;
  for (const auto& v : kernels::bit_gemm_variants) {
    const bool is_oracle = &v == std::end(kernels::bit_gemm_variants) - 1;
    if (is_oracle && shape.macs() * steps > oracle_steps) continue;
    register_product({.family = "bit_gemm",
                      .format = format,
                      .weight_bits = bits.weight_bits,
                      .activation_bits = bits.activation_bits,
                      .variant = std::string(v.name),
                      .shape = shape,
                      .cold = cold,
                      .needs = v.needs,
                      .what = operation::bit_mac,
                      .steps_per_mac = steps,
                      .prepare = [bits, shape, cold, needs = v.needs]() -> prepared_product {
                        const auto state = std::make_shared<State>(
                            bits.weight_bits, bits.activation_bits, shape, cold, needs);
                        return {.run = [state] { state->run(); },
                                .check = [state] { return state->check(); },
                                .weight_bytes = 8.0 * static_cast<double>(
                                                          state->weights->planes.words().size())};
                      }});
  }
}

const registration bit_products([] {
  const product_shape gemm{1024, 1024, 8192};
  for (const precision bits : {precision{1, 1}, {1, 2}, {2, 2}, {1, 4}}) {
    register_products<integer_product>("planes", bits, gemm, false);
    register_products<float_product>("float", bits, gemm, false);
  }
  register_eigen_baseline(gemm, false);

  const product_shape gemv{1, 4096, 4096};
  for (const precision bits : {precision{1, 1}, {1, 2}, {2, 2}, {1, 4}, {1, 8}, {4, 8}}) {
    register_products<float_product>("float", bits, gemv, true);
    register_products<float_product>("float", bits, gemv, false);
  }
  register_eigen_baseline(gemv, true);
});

}  // namespace
