// outlier/fit.hpp: values solve the normal equations, never raise the output error, and are the
// same for any executor.
#include "lowbit/outlier/fit.hpp"

#include <cmath>
#include <vector>

#include "../ops/executors.hpp"
#include "../ptq/problems.hpp"
#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"

using namespace lowbit;
using test::double_matrix;

namespace {

const kernels::context best = kernels::context::best();

struct problem {
  test::test_matrix w;
  formats::uniform_tensor base;
  double_matrix h;
  std::vector<index_t> places;
  std::vector<float> b;  // of the base
};

problem make_problem(shape2 shape, double density, std::uint64_t seed) {
  const auto w = testing::normal_matrix(shape, seed);
  const auto inputs = test::correlated_inputs({2 * shape.cols, shape.cols}, 3, seed + 1);
  double_matrix h = test::gram_of(inputs);
  for (index_t k = 0; k < shape.cols; ++k) h(k, k) += 0.01;
  const formats::uniform_quantizer q{.params = {.bits = 2, .group_size = 32}};
  auto base = q.quantize(w.view());
  std::vector<float> b(shape.size());
  base.dequantize({0, shape.rows}, {b.data(), shape.rows, shape.cols});
  std::vector<index_t> places;
  for (index_t i = 0; i < shape.size(); ++i) {
    if (static_cast<double>(random_uniform(seed + 2, i)) < density) places.push_back(i);
  }
  return {w, std::move(base), std::move(h), std::move(places), std::move(b)};
}

/// Row r of W - B - S.
std::vector<double> residual_of(const problem& p, const std::vector<float>& values, index_t r) {
  const index_t cols = p.w.shape.cols;
  std::vector<double> e(cols);
  for (index_t k = 0; k < cols; ++k) {
    e[k] = static_cast<double>(p.w.view()(r, k)) - static_cast<double>(p.b[r * cols + k]);
  }
  for (index_t i = 0; i < p.places.size(); ++i) {
    if (p.places[i] / cols == r) e[p.places[i] % cols] -= static_cast<double>(values[i]);
  }
  return e;
}

std::vector<double> times_h(const problem& p, const std::vector<double>& e) {
  std::vector<double> out(e.size(), 0.0);
  for (index_t i = 0; i < e.size(); ++i) {
    for (index_t j = 0; j < e.size(); ++j) out[i] += p.h(i, j) * e[j];
  }
  return out;
}

double objective(const problem& p, const std::vector<float>& values, index_t r) {
  const auto e = residual_of(p, values, r);
  const auto he = times_h(p, e);
  double sum = 0.0;
  for (index_t i = 0; i < e.size(); ++i) sum += e[i] * he[i];
  return sum;
}

}  // namespace

TEST_CASE("without a Hessian outliers hold what the base misses, rounded to fp16") {
  const problem p = make_problem({70, 40}, 0.1, 1);
  const auto values = outlier::fit_outliers(p.w.view(), p.base, p.places, {}, best);
  REQUIRE(values.size() == p.places.size());
  for (index_t i = 0; i < values.size(); ++i) {
    const float missing = p.w.values[p.places[i]] - p.b[p.places[i]];
    CHECK(std::fabs(values[i] - missing) <= 0x1p-11F * std::fabs(missing) + 0x1p-24F);
    CHECK(to_float(from_float<float16>(values[i])) == values[i]);
  }
}

TEST_CASE("with a Hessian they solve the normal equations up to fp16") {
  const problem p = make_problem({20, 60}, 0.1, 11);
  const auto values = outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), best);
  for (index_t r = 0; r < 20; ++r) {
    const auto residual = times_h(p, residual_of(p, values, r));  // H (w - b - s): 0 at the places
    for (index_t i = 0; i < p.places.size(); ++i) {
      if (p.places[i] / 60 != r) continue;
      // Rounding changes each value by 2^-11 of it at most, which H carries to the others of its
      // row.
      double bound = 1e-9;
      for (index_t j = 0; j < p.places.size(); ++j) {
        if (p.places[j] / 60 != r) continue;
        bound += std::fabs(p.h(p.places[i] % 60, p.places[j] % 60)) *
                 (0x1p-11 * std::fabs(static_cast<double>(values[j])) + 0x1p-25);
      }
      CHECK(std::fabs(residual[p.places[i] % 60]) <= bound);
    }
  }
}

TEST_CASE("fitted values never raise the output error, many to a row or few") {
  for (const double density : {0.02, 0.9}) {  // 0.9: rows are solved in parts
    const problem p = make_problem({6, 200}, density, 21);
    const auto plain = outlier::fit_outliers(p.w.view(), p.base, p.places, {}, best);
    const auto fitted = outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), best);
    const std::vector<float> none(p.places.size(), 0.0F);
    for (index_t r = 0; r < 6; ++r) {
      // What rounding to fp16 adds: e^T H e for errors of 2^-11 of each value.
      double rounding = 0.0;
      for (index_t i = 0; i < p.places.size(); ++i) {
        if (p.places[i] / 200 != r) continue;
        for (index_t j = 0; j < p.places.size(); ++j) {
          if (p.places[j] / 200 != r) continue;
          rounding += std::fabs(p.h(p.places[i] % 200, p.places[j] % 200)) * 0x1p-22 *
                      std::fabs(static_cast<double>(fitted[i]) * static_cast<double>(fitted[j]));
        }
      }
      const double error = objective(p, fitted, r);
      CHECK(error <= objective(p, none, r) + rounding);
      if (density < 0.5) CHECK(error <= objective(p, plain, r) + rounding);
    }
  }
}

TEST_CASE("values do not depend on who computes them") {
  const problem p = make_problem({150, 50}, 0.05, 31);
  const auto expected = outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), best);
  test::on_each_executor(best, {1U, 3U}, [&](const kernels::context& ctx) {
    CHECK(outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), ctx) == expected);
  });
  const auto scalar = best.narrowed_to("scalar");
  CHECK(outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), scalar) == expected);
}

TEST_CASE("a Hessian that is not positive definite is not used") {
  problem p = make_problem({5, 30}, 0.2, 41);
  for (double& v : p.h.values) v = 0.0;
  CHECK(outlier::fit_outliers(p.w.view(), p.base, p.places, p.h.view(), best) ==
        outlier::fit_outliers(p.w.view(), p.base, p.places, {}, best));
}

TEST_CASE("the remainder has zeros at the outliers and is the matrix elsewhere") {
  const auto w = testing::normal_matrix({4, 6}, 2);
  const std::vector<index_t> places{0, 7, 23};
  std::vector<float> out(24);
  outlier::remove_outliers(w.view(), places, {out.data(), 4, 6});
  for (index_t i = 0; i < 24; ++i) {
    CHECK(out[i] == (i == 0 || i == 7 || i == 23 ? 0.0F : w.values[i]));
  }
  const std::vector<index_t> outside{24};
  CHECK_THROWS_AS(outlier::remove_outliers(w.view(), outside, {out.data(), 4, 6}), value_error);
  CHECK_THROWS_AS(outlier::remove_outliers(w.view(), places, {out.data(), 6, 4}), shape_error);
}
