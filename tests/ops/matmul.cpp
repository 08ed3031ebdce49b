// Products agree with double arithmetic within bounds that are derived here, and with themselves
// bit for bit however the work is spread and whichever tier runs.
#include "lowbit/ops/matmul.hpp"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "catch.hpp"
#include "executors.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/formats/all.hpp"

namespace {

using namespace lowbit;
using formats::uniform_quantizer;
using formats::uniform_tensor;
using lowbit_test::message_of;

constexpr double unit_roundoff = 0x1p-24;

/// n roundings in a row change a sum of terms by at most gamma(n) times the sum of their magnitudes
/// (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1).
double gamma(index_t n) {
  const double nu = static_cast<double>(n) * unit_roundoff;
  return nu / (1.0 - nu);
}

struct matrix {
  index_t rows;
  index_t cols;
  std::vector<float> values;

  matrix(index_t r, index_t c) : rows(r), cols(c), values(r * c) {}
  static matrix normal(index_t r, index_t c, std::uint64_t seed) {
    matrix m(r, c);
    for (index_t i = 0; i < m.values.size(); ++i) m.values[i] = random_normal(seed, i);
    return m;
  }
  [[nodiscard]] matrix_view<const float> view() const { return {values.data(), rows, cols}; }
  [[nodiscard]] matrix_view<float> view() { return {values.data(), rows, cols}; }
};

matrix dequantized(const uniform_tensor& t) {
  matrix m(t.shape().rows, t.shape().cols);
  t.dequantize({0, m.rows}, m.view());
  return m;
}

/// Everything that a bit-serial product is compared with.
struct bit_serial_case {
  unsigned weight_bits;
  symmetry weight_symmetry;
  index_t group_size;
  ops::activation_quantization activations;
  index_t tokens;
  index_t rows;
  index_t cols;
  std::uint64_t seed;
};

std::string text(const bit_serial_case& c) {
  return lowbit::detail::message("w", c.weight_bits, " ",
                                 enum_names<symmetry>[static_cast<std::size_t>(c.weight_symmetry)],
                                 " g", c.group_size, " a", c.activations.bits, " ",
                                 enum_names<symmetry>[static_cast<std::size_t>(c.activations.kind)],
                                 c.activations.per_group ? " per group" : " per token", " M",
                                 c.tokens, " N", c.rows, " K", c.cols, " seed ", c.seed);
}

/// Compares one bit-serial product with double arithmetic on what weights and activations decode
/// to, and with the product of the original activations.
///
/// The path computes, per output, sum over groups of step * (offset * A' + sum_i c_i * P'_i) with
/// exact integers A', P'_i that are converted to float (one rounding), so each term sees at most:
/// that conversion, its product or fma (b + 1 of them in a row), and the accumulation over G
/// groups; then b + G + 3 roundings. The decoded weight itself is off the sum of planes by the
/// rounding of the offset and of decode(), the decoded activation by one more: 3. Magnitudes: |A'|
/// and |P'_i| are at most the sums of |code - zero| over their columns, so
///   M = sum_k (|offset| + sum_i |c_i| bit_i) |x̂_k|   bounds the sum of the terms' magnitudes.
void check(const bit_serial_case& c) {
  INFO(text(c));
  const uniform_quantizer quantizer{
      .params = {.bits = c.weight_bits,
                 .kind = c.weight_symmetry,
                 .group_size = static_cast<std::uint32_t>(c.group_size)}};
  const uniform_tensor w = quantizer.quantize(matrix::normal(c.rows, c.cols, c.seed).view(), {});
  const matrix x = matrix::normal(c.tokens, c.cols, c.seed + 1);
  const kernels::quantized_activations codes(x.view(), {.bits = c.activations.bits,
                                                        .kind = c.activations.kind,
                                                        .group_size = w.group_size(),
                                                        .per_group = c.activations.per_group});
  matrix x_hat(c.tokens, c.cols);
  codes.dequantize(x_hat.view());
  const matrix w_hat = dequantized(w);

  matrix y(c.tokens, c.rows);
  const auto ctx = kernels::context::best();
  ops::matmul(x.view(), w, y.view(), ctx,
              {.path = ops::matmul_path::bit_serial, .activations = c.activations});

  const index_t groups = div_up(c.cols, w.group_size());
  const double relative = gamma(c.weight_bits + groups + 6);
  for (index_t t = 0; t < c.tokens; ++t) {
    for (index_t n = 0; n < c.rows; ++n) {
      double exact = 0.0;
      double original = 0.0;
      double magnitude = 0.0;
      double activation_error = 0.0;
      for (index_t k = 0; k < c.cols; ++k) {
        const index_t g = k / w.group_size();
        float coefficients[8] = {};
        double levels = std::fabs(static_cast<double>(w.plane_coefficients(n, g, coefficients)));
        for (index_t i = 0; i < c.weight_bits; ++i) {
          if (w.planes().bit(i, n, k)) levels += std::fabs(static_cast<double>(coefficients[i]));
        }
        const double xk = static_cast<double>(x_hat.view()(t, k));
        const double wk = static_cast<double>(w_hat.view()(n, k));
        exact += wk * xk;
        original += wk * static_cast<double>(x.view()(t, k));
        magnitude += levels * std::fabs(xk);
        // |x - x̂| <= step / 2, plus the roundings of the step and of its inverse or of x / step
        // (each below 2^8 steps, so 2^8 u of one) and that of x̂.
        const double step = static_cast<double>(codes.scaling(t, g).step);
        activation_error +=
            std::fabs(wk) * (step * (0.5 + 0x1p10 * unit_roundoff) + unit_roundoff * std::fabs(xk));
      }
      const double value = static_cast<double>(y.view()(t, n));
      INFO("token " << t << ", row " << n);
      CHECK(std::fabs(value - exact) <= relative * magnitude);
      if (c.activations.bits > 1) {  // signs have no step
        CHECK(std::fabs(value - original) <= relative * magnitude + activation_error);
      }
    }
  }
}

}  // namespace

TEST_CASE("the dequantize path is the float product of the decoded weights") {
  const auto ctx = kernels::context::best();
  for (const index_t tokens : std::initializer_list<index_t>{0, 1, 2, 3, 5}) {
    for (const index_t rows : std::initializer_list<index_t>{0, 1, 7, 63, 64, 65, 130}) {
      for (const index_t cols : std::initializer_list<index_t>{0, 1, 63, 64, 65, 333}) {
        INFO("M " << tokens << " N " << rows << " K " << cols);
        const auto w = uniform_quantizer{}.quantize(matrix::normal(rows, cols, 3).view(), {});
        const matrix w_hat = dequantized(w);
        const matrix x = matrix::normal(tokens, cols, 4);
        matrix y(tokens, rows);
        y.values.assign(y.values.size(), NAN);  // must be overwritten
        ops::matmul(x.view(), w, y.view(), ctx);
        for (index_t t = 0; t < tokens; ++t) {
          for (index_t n = 0; n < rows; ++n) {
            double exact = 0.0;
            double magnitude = 0.0;
            for (index_t k = 0; k < cols; ++k) {
              const double term =
                  static_cast<double>(x.view()(t, k)) * static_cast<double>(w_hat.view()(n, k));
              exact += term;
              magnitude += std::fabs(term);
            }
            // K products and K - 1 sums in any order, fused or not: at most K roundings per term.
            CHECK(std::fabs(static_cast<double>(y.view()(t, n)) - exact) <=
                  gamma(cols) * magnitude);
          }
        }
      }
    }
  }
}

TEST_CASE("the bit-serial path is within its bound, for all bits and symmetries") {
  std::uint64_t seed = 100;
  for (unsigned weight_bits = 1; weight_bits <= 8; ++weight_bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const unsigned bits : {1U, 2U, 5U, 8U}) {
        for (const auto activation_kind : {symmetry::symmetric, symmetry::asymmetric}) {
          for (const bool per_group : {false, true}) {
            check({.weight_bits = weight_bits,
                   .weight_symmetry = kind,
                   .group_size = 48,
                   .activations = {.bits = bits, .kind = activation_kind, .per_group = per_group},
                   .tokens = 2,
                   .rows = 9,
                   .cols = 131,
                   .seed = seed++});
          }
        }
      }
    }
  }
}

TEST_CASE("the bit-serial path is within its bound, for shapes around its blocks") {
  std::uint64_t seed = 1000;
  for (const index_t tokens : std::initializer_list<index_t>{0, 1, 5, 16, 17}) {
    for (const index_t rows : std::initializer_list<index_t>{0, 1, 7, 8, 9, 65}) {
      for (const index_t cols : std::initializer_list<index_t>{1, 63, 64, 65, 200}) {
        for (const index_t group_size : std::initializer_list<index_t>{1, 7, 64, 100, 500}) {
          if (group_size == 1 && cols > 65) continue;
          check({.weight_bits = 3,
                 .weight_symmetry = symmetry::asymmetric,
                 .group_size = group_size,
                 .activations = {.bits = 8},
                 .tokens = tokens,
                 .rows = rows,
                 .cols = cols,
                 .seed = seed++});
        }
      }
    }
  }
}

TEST_CASE("results do not depend on the executor, the workspace or the tier") {
  const matrix x = matrix::normal(19, 300, 5);
  const auto w = uniform_quantizer{}.quantize(matrix::normal(203, 300, 6).view(), {});
  const auto best = kernels::context::best();
  kernels::workspace scratch;
  test::backwards_executor one(1), two(2), seven(7);
  test::thread_executor threads(3);

  for (const auto& options :
       {ops::matmul_options{}, ops::matmul_options{.activations = {{.bits = 8}}},
        ops::matmul_options{.path = ops::matmul_path::bit_serial, .activations = {{.bits = 8}}}}) {
    matrix expected(19, 203);
    ops::matmul(x.view(), w, expected.view(), best, options);
    int compared = 0;
    const auto compare = [&](const kernels::context& ctx, const std::string& what) {
      INFO(what << ": " << ops::explain(w, ctx, options).text());
      matrix y(19, 203);
      ops::matmul(x.view(), w, y.view(), ctx, options);
      CHECK(y.values == expected.values);
      ++compared;
    };
    for (executor* e : std::initializer_list<executor*>{&one, &two, &seven, &threads}) {
      compare({.allowed = best.allowed, .threads = e}, "executor");
      compare({.allowed = best.allowed, .threads = e, .scratch = &scratch}, "executor and scratch");
    }
    for (const cpu::tier& tier : cpu::tiers) {
      if (best.allowed.contains(tier.features)) {
        compare(best.narrowed_to(tier.name), std::string(tier.name));
      }
    }
    CHECK(compared >= 9);  // the scalar tier at least
  }
}

TEST_CASE("operands and results may be parts of larger matrices") {
  const matrix wide_x = matrix::normal(4, 150, 7);
  const matrix_view<const float> x(wide_x.values.data() + 11, 4, 100, 150);
  const auto w = uniform_quantizer{}.quantize(matrix::normal(70, 100, 8).view(), {});
  matrix packed_x(4, 100);
  for (index_t t = 0; t < 4; ++t) {
    for (index_t k = 0; k < 100; ++k) packed_x.view()(t, k) = x(t, k);
  }
  const auto ctx = kernels::context::best();
  for (const auto& options :
       {ops::matmul_options{}, ops::matmul_options{.activations = {{.bits = 4}}}}) {
    matrix expected(4, 70);
    ops::matmul(packed_x.view(), w, expected.view(), ctx, options);
    matrix wide_y(4, 90);
    ops::matmul(x, w, {wide_y.values.data() + 5, 4, 70, 90}, ctx, options);
    for (index_t t = 0; t < 4; ++t) {
      for (index_t c = 0; c < 90; ++c) {
        const bool inside = c >= 5 && c < 75;
        CHECK(wide_y.view()(t, c) == (inside ? expected.view()(t, c - 5) : 0.0F));
      }
    }
  }
}

TEST_CASE("explain says what matmul does and why") {
  const auto ctx = kernels::context::best();
  const auto w = uniform_quantizer{}.quantize(matrix::normal(8, 64, 9).view(), {});

  const auto exact = ops::explain(w, ctx);
  CHECK(exact.path == ops::matmul_path::dequantize);
  CHECK(exact.text().find("dequantize through eigen") == 0);

  const ops::matmul_options may{.activations = {{.bits = 8}}};
  const auto int8 = ops::explain(w, ctx.narrowed_to("scalar"), may);
  CHECK(int8.text() ==
        "int8 through code_gemm/scalar: 2 vector operations for 64 products; not bit_serial: 19.2 "
        "vector operations for 64 products; not dequantize: decoding every weight to float costs "
        "more");
  const auto asymmetric = ops::explain(
      w, ctx.narrowed_to("scalar"), {.activations = {{.bits = 4, .kind = symmetry::asymmetric}}});
  CHECK(asymmetric.path == ops::matmul_path::bit_serial);
  CHECK(asymmetric.variant == "scalar");
  CHECK(asymmetric.text().find("bit_serial through bit_gemm/scalar: 9.6 vector") == 0);
  CHECK(asymmetric.text().find("not int8: int8 activations are symmetric") != std::string::npos);

  // What it says is what runs: the paths give different numbers.
  const matrix x = matrix::normal(1, 64, 10);
  const auto multiply = [&](ops::matmul_path path) {
    matrix y(1, 8);
    ops::matmul(x.view(), w, y.view(), ctx, {.path = path, .activations = may.activations});
    return y.values;
  };
  CHECK(multiply(ops::matmul_path::automatic) == multiply(ops::matmul_path::int8));
  CHECK(multiply(ops::matmul_path::automatic) != multiply(ops::matmul_path::dequantize));
}

TEST_CASE("the choice follows the cost: few planes go bit-serially") {
  const auto ctx = kernels::context::best();
  struct {
    unsigned weight_bits, activation_bits;
    ops::matmul_path path;
  } const cases[] = {{1, 1, ops::matmul_path::bit_serial}, {1, 3, ops::matmul_path::bit_serial},
                     {1, 4, ops::matmul_path::int8},       {2, 1, ops::matmul_path::bit_serial},
                     {2, 2, ops::matmul_path::int8},       {4, 1, ops::matmul_path::bit_serial},
                     {4, 8, ops::matmul_path::int8},       {8, 8, ops::matmul_path::int8}};
  for (const auto& c : cases) {
    CAPTURE(c.weight_bits, c.activation_bits);
    const uniform_quantizer q{.params = {.bits = c.weight_bits}};
    const auto w = q.quantize(matrix::normal(8, 64, 9).view(), {});
    CHECK(ops::explain(w, ctx, {.activations = {{.bits = c.activation_bits}}}).path == c.path);
  }
}

TEST_CASE("what cannot be multiplied is refused with the reason") {
  const auto ctx = kernels::context::best();
  const auto w = uniform_quantizer{}.quantize(matrix::normal(8, 64, 11).view(), {});
  const matrix x = matrix::normal(2, 64, 12);
  const matrix narrow = matrix::normal(2, 63, 12);
  matrix y(2, 8), wrong(2, 7);

  CHECK(message_of([&] { ops::matmul(narrow.view(), w, y.view(), ctx); }) ==
        "inputs have 63 channels, weights 64 columns");
  CHECK(message_of([&] { ops::matmul(x.view(), w, wrong.view(), ctx); }) ==
        "the product is [2, 8], the output [2, 7]");
  CHECK(message_of([&] {
          ops::matmul(x.view(), w, y.view(), ctx, {.path = ops::matmul_path::bit_serial});
        }) == "path bit_serial: it quantizes activations: set matmul_options::activations");
  CHECK_THROWS_AS(ops::matmul(x.view(), w, y.view(), ctx, {.activations = {{.bits = 9}}}),
                  value_error);
  CHECK_THROWS_AS(
      ops::matmul(x.view(), w, y.view(), ctx, {.activations = {{.kind = symmetry::offset}}}),
      value_error);

  matrix bad = x;
  bad.view()(1, 7) = NAN;
  CHECK(message_of([&] {
          ops::matmul(bad.view(), w, y.view(), ctx, {.activations = {{.bits = 8}}});
        }) == "the activations hold NaN at token 1, channel 7");
}
