// Products of packed signs with activations as tables, whatever their shape and threads: the
// integers that the contract states, and what a product of the matrices is but for rounding.
#include "lowbit/kernels/sign_gemm/driver.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::context;
using kernels::packed_signs;
using kernels::sign_activations;
using kernels::sign_gemm;
using lowbit_test::message_of;

namespace {

layout::bit_matrix random_signs(shape2 shape) {
  layout::bit_matrix signs(1, shape);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t w = 0; w < div_up(shape.cols, 64); ++w) {
      signs.row(0, r)[w] = random_bits(r + 1, w) & layout::low_bits(shape.cols - 64 * w);
    }
  }
  return signs;
}

std::vector<float> inputs(index_t count) {
  std::vector<float> x(count);
  for (index_t i = 0; i < count; ++i) x[i] = random_normal(9, i);
  return x;
}

std::vector<float> product(const packed_signs& w, const sign_activations& x, const context& ctx) {
  std::vector<float> y(x.shape().rows * w.shape().rows, -77.0F);
  sign_gemm(w, x, {y.data(), x.shape().rows, w.shape().rows}, ctx);
  return y;
}

/// What is wrong with y, or nothing: against the tables, exactly, and against x in double.
std::string fault(const layout::bit_matrix& signs, index_t first_row, const sign_activations& a,
                  matrix_view<const float> x, matrix_view<const float> y) {
  for (index_t t = 0; t < y.rows(); ++t) {
    for (index_t n = 0; n < y.cols(); ++n) {
      std::int32_t sum = 0;
      double exact = 0.0;
      for (index_t k = 0; k < x.cols(); k += 5) {
        bool plus[5] = {};  // a column that is not there is zero, whatever its sign
        for (index_t j = 0; j < 5 && k + j < x.cols(); ++j) {
          plus[j] = signs.bit(0, first_row + n, k + j);
          exact += static_cast<double>(plus[j] ? x(t, k + j) : -x(t, k + j));
        }
        unsigned pattern = 0;
        for (index_t j = 0; j < 4; ++j) pattern |= (plus[j] == plus[4] ? 1U : 0U) << j;
        const std::int32_t q = a.tables(t)[k / 5 * 16 + pattern] - 128;
        sum += plus[4] ? q : -q;
      }
      const float expected = a.step(t) * static_cast<float>(sum);
      if (!(y(t, n) == expected)) {
        return lowbit::detail::message("y[", t, ", ", n, "] is ", y(t, n), ", not ", expected);
      }
      // A group is half a step away, but for the roundings of v (four of 2^-24 of a limit, which
      // is at most 127 steps) and of the step and its inverse (2^-24 of 127 steps, twice): 762
      // * 2^-24. The product with the step rounds once more.
      const auto step = static_cast<double>(a.step(t));
      const auto groups = static_cast<double>(div_up(x.cols(), 5));
      const double bound = groups * step * (0.5 + 762.0 * 0x1p-24) + std::fabs(exact) * 0x1p-23;
      if (a.bits() == 8 && !(std::fabs(static_cast<double>(y(t, n)) - exact) <= bound)) {
        return lowbit::detail::message("y[", t, ", ", n, "] is ", y(t, n), ", not ", exact, " +- ",
                                       bound);
      }
    }
  }
  return {};
}

}  // namespace

TEST_CASE("sign_gemm driver: products are what the tables say, for any shape and variant") {
  for (const shape2 shape :
       {shape2{1, 1}, {3, 31}, {64, 32}, {65, 33}, {300, 100}, {257, 1100}, {66, 1024}}) {
    const layout::bit_matrix signs = random_signs(shape);
    for (const index_t tokens : {1U, 2U, 3U, 4U, 5U, 19U}) {
      const auto x = inputs(tokens * (shape.cols + 1));
      const matrix_view<const float> in(x.data(), tokens, shape.cols, shape.cols + 1);
      for (const auto& v : kernels::sign_gemm_variants) {
        if (!v.is_supported(context::best().allowed)) continue;
        context ctx = context::best();
        ctx.allowed = v.needs;
        if (tokens == 19) ctx.caches.l2 = 0;  // four tokens at a time
        const unsigned bits = tokens == 3 ? 7 : tokens == 5 ? 2 : 8;
        const packed_signs packed(signs, ctx);
        const sign_activations a(in, bits, ctx);
        const auto y = product(packed, a, ctx);
        INFO(v.name << " " << shape.rows << " " << shape.cols << " " << tokens);
        CHECK(fault(signs, 0, a, in, {y.data(), tokens, shape.rows}).empty());
        CHECK(y == product(packed, sign_activations(in, bits), {.allowed = cpu::none}));
        CHECK(y == product(packed_signs(signs), a, ctx));  // packed for another machine
      }
    }
  }
}

TEST_CASE("sign_gemm driver: rows of a matrix are packed, and who runs tasks does not matter") {
  const shape2 shape{700, 200};
  const layout::bit_matrix signs = random_signs(shape);
  const auto x = inputs(6 * shape.cols);
  const matrix_view<const float> in(x.data(), 6, shape.cols);
  for (const row_range rows : {row_range{0, 700}, {1, 2}, {130, 560}, {40, 40}}) {
    test::on_each_executor(context::best(), {1U, 3U}, [&](const context& ctx) {
      const packed_signs packed(signs, rows, ctx);
      CHECK(packed.shape() == shape2{rows.size(), shape.cols});
      const sign_activations a(in, 8, ctx);
      const auto y = product(packed, a, ctx);
      CHECK(fault(signs, rows.begin, a, in, {y.data(), 6, rows.size()}).empty());
    });
  }
  CHECK_THROWS_AS(packed_signs(signs, {0, 701}), shape_error);
}

TEST_CASE("sign_gemm driver: a weight takes a bit, and a row 32") {
  const packed_signs packed(random_signs({256, 4000}));
  CHECK(packed.size_bytes() == 256 * (4000 / 8 + 4));
  CHECK(packed.blocks() == 1);
  const packed_signs padded(random_signs({257, 41}));
  CHECK(padded.tiles() == 5);
  CHECK(padded.tiles(1) == 1);
  CHECK(padded.size_bytes() == 320 * (80 / 8 + 4));
}

TEST_CASE("sign_gemm driver: tables of 5 columns round as well as int8 codes of columns") {
  // A group is off by a uniform error of a step: variance step^2 / 12 for 5 columns, where int8
  // codes have their own step^2 / 12 for each. Of K = 4096 normal columns the largest is about 3.7
  // and the largest sum of 5 magnitudes about 9.25: (9.25 / 3.7)^2 / 5 = 1.26, with a deviation of
  // a fifth.
  constexpr index_t cols = 4096;
  constexpr index_t rows = 512;
  const auto x = inputs(cols);
  const layout::bit_matrix signs = random_signs({rows, cols});
  const sign_activations a(matrix_view<const float>(x.data(), 1, cols));
  const auto y = product(packed_signs(signs), a, context::best());
  std::vector<float> decoded(cols);
  const kernels::int8_activations codes(matrix_view<const float>(x.data(), 1, cols));
  codes.dequantize({decoded.data(), 1, cols});
  double by_tables = 0.0;
  double by_codes = 0.0;
  for (index_t n = 0; n < rows; ++n) {
    double exact = 0.0;
    double coded = 0.0;
    for (index_t k = 0; k < cols; ++k) {
      const double sign = signs.bit(0, n, k) ? 1.0 : -1.0;
      exact += sign * static_cast<double>(x[k]);
      coded += sign * static_cast<double>(decoded[k]);
    }
    by_tables += (static_cast<double>(y[n]) - exact) * (static_cast<double>(y[n]) - exact);
    by_codes += (coded - exact) * (coded - exact);
  }
  const auto step = static_cast<double>(a.step(0));
  const double predicted = static_cast<double>(rows) * (cols / 5.0) * step * step / 12.0;
  // Sums of 512 squares of about normal numbers: a standard deviation of sqrt(2 / 512) = 6 %.
  CHECK(std::fabs(by_tables / predicted - 1.0) < 0.25);
  const double of_steps = std::pow(step / static_cast<double>(codes.steps(0)[0]), 2) / 5.0;
  CAPTURE(step, codes.steps(0)[0], by_tables, by_codes, by_tables / by_codes, of_steps);
  CHECK(std::fabs(by_tables / by_codes / of_steps - 1.0) < 0.35);  // four deviations of both
  CHECK(of_steps < 2.0);
}

TEST_CASE("sign_gemm driver: zeros, tiny and huge tokens have the steps of int8 activations") {
  std::vector<float> x(3 * 8, 0.0F);
  for (index_t k = 8; k < 16; ++k) x[k] = 0x1p-140F;  // 127 / limit overflows: all is zero
  for (index_t k = 16; k < 24; ++k) x[k] = 0x1p125F;
  const sign_activations a(matrix_view<const float>(x.data(), 3, 8));
  CHECK(a.step(0) == 0.0F);
  CHECK(a.step(1) == 0.0F);
  CHECK(a.step(2) == 0x1.4p127F / 127.0F);
  layout::bit_matrix signs(1, {1, 8});
  signs.row(0, 0)[0] = 0xf0;
  const auto y = product(packed_signs(signs), a, context::best());
  CHECK(y == std::vector<float>(3, 0.0F));
}

TEST_CASE("sign_gemm driver: nothing is a shape, and what does not fit is refused") {
  const context ctx = context::best();
  sign_gemm({}, {}, {}, ctx);
  std::vector<float> y(12, 5.0F);
  const sign_activations none(matrix_view<const float>(y.data(), 3, 0));
  sign_gemm(packed_signs(layout::bit_matrix(1, {4, 0})), none, {y.data(), 3, 4}, ctx);
  CHECK(y == std::vector<float>(12, 0.0F));
  CHECK(product(packed_signs(random_signs({4, 8})),
                sign_activations(matrix_view<const float>(y.data(), 0, 8)), ctx)
            .empty());

  const packed_signs w(random_signs({4, 100}));
  const auto x = inputs(300);
  const sign_activations a(matrix_view<const float>(x.data(), 3, 100));
  CHECK(message_of<shape_error>([&] {
          sign_gemm(w, a, {y.data(), 4, 3}, ctx);
        }) == "the product is [3, 4], the output [4, 3]");
  CHECK(message_of<shape_error>([&] {
          sign_gemm(w, sign_activations(matrix_view<const float>(x.data(), 3, 99)),
                    {y.data(), 3, 4}, ctx);
        }) == "signs have 100 columns, activations 99");
  CHECK(message_of<shape_error>([&] {
          packed_signs{layout::bit_matrix(2, {4, 100})};
        }) == "signs are one plane of bits, not 2");
}

TEST_CASE("sign_gemm driver: activations that are no numbers are refused with their place") {
  auto x = inputs(3 * 70);
  const auto refusal = [&](unsigned bits = 8) {
    return message_of<value_error>(
        [&] { (void)sign_activations(matrix_view<const float>(x.data(), 3, 70), bits); });
  };
  x[70 + 69] = std::numeric_limits<float>::quiet_NaN();
  CHECK(refusal() == "the activations hold NaN at token 1, channel 69");
  x[70 + 69] = -std::numeric_limits<float>::infinity();
  CHECK(refusal() == "the activations hold -Inf at token 1, channel 69");
  x[70 + 69] = x[70 + 68] = std::numeric_limits<float>::max();
  CHECK(refusal() == "the levels of token 1 overflow: the activations are too large");
  CHECK(refusal(1) == "activation bits = 1 is outside 2..8");
  CHECK(refusal(9) == "activation bits = 9 is outside 2..8");
}
