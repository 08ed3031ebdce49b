// The measures of ops::evaluate and error_stats against plain double loops.
#include "lowbit/ops/evaluate.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/formats/all.hpp"

namespace {

using namespace lowbit;

std::vector<float> normal(index_t size, std::uint64_t seed) {
  std::vector<float> values(size);
  for (index_t i = 0; i < size; ++i) values[i] = random_normal(seed, i);
  return values;
}

}  // namespace

TEST_CASE("weight_error and output_error equal their definitions") {
  constexpr index_t rows = 130, cols = 77, tokens = 9;
  const auto w = normal(rows * cols, 1);
  const auto x = normal(tokens * cols, 2);
  const auto t = formats::uniform_quantizer{}.quantize({w.data(), rows, cols}, {});
  std::vector<float> w_hat(w.size());
  t.dequantize({0, rows}, {w_hat.data(), rows, cols});

  double error = 0.0, reference = 0.0, largest = 0.0;
  for (index_t i = 0; i < w.size(); ++i) {
    const double e = static_cast<double>(w[i]) - static_cast<double>(w_hat[i]);
    error += e * e;
    reference += static_cast<double>(w[i]) * static_cast<double>(w[i]);
    largest = std::max(largest, std::fabs(e));
  }
  const error_stats stats = ops::weight_error({w.data(), rows, cols}, t);
  CHECK(stats.count() == w.size());
  // Each difference is rounded to float: a relative 2^-24, doubled by the square; the reference's
  // squares are exact, and double sums add less than 1e-12.
  const double tolerance = 2.0 * 0x1p-24 + 1e-12;
  CHECK(std::fabs(stats.relative_mse() / (error / reference) - 1.0) <= tolerance);
  CHECK(std::fabs(stats.mse() / (error / static_cast<double>(w.size())) - 1.0) <= tolerance);
  CHECK(std::fabs(static_cast<double>(stats.max_abs_error()) / largest - 1.0) <= tolerance);
  CHECK(std::fabs(stats.sqnr_db() + 10.0 * std::log10(error / reference)) <= 1e-6);

  // Twice: the tensor meets the inputs themselves, and distorted ones.
  auto seen = x;
  for (const bool distorted : {false, true}) {
    for (index_t i = 0; distorted && i < seen.size(); ++i) seen[i] += 0.1F * random_normal(3, i);
    double output_error = 0.0, output_reference = 0.0, slack = 0.0;
    for (index_t m = 0; m < tokens; ++m) {
      for (index_t n = 0; n < rows; ++n) {
        double y = 0.0, y_hat = 0.0, magnitude = 0.0;
        for (index_t k = 0; k < cols; ++k) {
          const double exact =
              static_cast<double>(x[m * cols + k]) * static_cast<double>(w[n * cols + k]);
          const double approximate =
              static_cast<double>(seen[m * cols + k]) * static_cast<double>(w_hat[n * cols + k]);
          y += exact;
          y_hat += approximate;
          magnitude += std::fabs(exact) + std::fabs(approximate);
        }
        const double e = y - y_hat;
        output_error += e * e;
        output_reference += y * y;
        // Two float sums of K terms, and their difference, are off by at most d = (K + 1) u M.
        const double d = static_cast<double>(cols + 1) * 0x1p-24 * magnitude;
        slack += 2.0 * std::fabs(e) * d + d * d;
      }
    }
    const matrix_view<const float> inputs(x.data(), tokens, cols);
    const matrix_view<const float> weights(w.data(), rows, cols);
    const double relative =
        distorted
            ? ops::output_error(inputs, {seen.data(), tokens, cols}, weights, t).relative_mse()
            : ops::output_error(inputs, weights, t).relative_mse();
    CHECK(std::fabs(relative - output_error / output_reference) <=
          slack / output_reference + 1e-5 * relative);
  }
}

TEST_CASE("error_stats of nothing, of exact copies and of a zero reference") {
  error_stats none;
  CHECK(none.count() == 0);
  CHECK(none.mse() == 0.0);
  CHECK(none.relative_mse() == 0.0);

  const std::vector<float> ones(10, 1.0F), zeros(10, 0.0F);
  error_stats copy;
  copy.add(ones, ones);
  CHECK(copy.relative_mse() == 0.0);
  CHECK(copy.sqnr_db() == std::numeric_limits<double>::infinity());

  error_stats lost;
  lost.add(zeros, ones);
  CHECK(lost.relative_mse() == std::numeric_limits<double>::infinity());
  CHECK(lost.mse() == 1.0);
  CHECK(lost.max_abs_error() == 1.0F);

  copy.merge(lost);  // ten errors of 1 against ten references of 1
  CHECK(copy.count() == 20);
  CHECK(copy.relative_mse() == 1.0);
  CHECK_THROWS_AS(copy.add(ones, {}), shape_error);
}

TEST_CASE("evaluation refuses what does not fit") {
  const auto w = normal(6 * 8, 3);
  const auto t = formats::uniform_quantizer{}.quantize({w.data(), 6, 8}, {});
  CHECK_THROWS_AS(ops::weight_error({w.data(), 8, 6}, t), shape_error);
  CHECK_THROWS_AS(ops::output_error({w.data(), 6, 7}, {w.data(), 6, 8}, t), shape_error);
  CHECK_THROWS_AS(ops::output_error({w.data(), 6, 8}, {w.data(), 5, 8}, {w.data(), 6, 8}, t),
                  shape_error);
  std::vector<float> out(48);
  CHECK_THROWS_AS(ops::dequantize(t, {out.data(), 8, 6}, kernels::context::best()), shape_error);
}
