// Outliers as a step of ptq::quantize_by_recipe: the largest weights go beside the base, which then
// errs less on the others.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../io/files.hpp"
#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ptq/recipe.hpp"
#include "lowbit/testing/format.hpp"
#include "ops/executors.hpp"
#include "problems.hpp"

using namespace lowbit;
using formats::uniform_quantizer;
using ptq::outlier_criterion;
using ptq::recipe;

namespace {

const kernels::context best = kernels::context::best();
constexpr shape2 shape{12, 80};

/// Normal weights, and 9 from 20 to 28 in magnitude.
test::test_matrix heavy_weights(std::uint64_t seed) {
  auto w = testing::normal_matrix(shape, seed);
  for (index_t i = 0; i < 9; ++i) {
    w.values[i * 101 + 13] = (i % 2 == 0 ? 1.0F : -1.0F) * (20.0F + static_cast<float>(i));
  }
  return w;
}
uniform_quantizer three_bits() { return {.params = {.bits = 3, .group_size = 16}}; }

struct result {
  std::string format;
  std::vector<testing::stored_buffer> buffers;
  std::uint64_t bits = 0;
  test::test_matrix values;
};
result quantized(const recipe& how, matrix_view<const float> w, const ptq::knowledge& known,
                 const kernels::context& ctx = best) {
  const any_tensor t = ptq::quantize_by_recipe(how, three_bits(), w, known, ctx).tensor;
  return {tensor_ref(t).format_name(), testing::copy_buffers(t), t.storage_bits(),
          test::dequantized(t)};
}

double squared_error(const test::test_matrix& w, const result& r) {
  double sum = 0.0;
  for (index_t i = 0; i < w.values.size(); ++i) {
    const double e = static_cast<double>(w.values[i]) - static_cast<double>(r.values.values[i]);
    sum += e * e;
  }
  return sum;
}

}  // namespace

TEST_CASE(
    "a recipe stores outliers around all other decorators, for less error at the same levels") {
  const auto w = heavy_weights(1);
  const auto moments = test::moments_of(test::correlated_inputs({200, shape.cols}, 4, 2).view());
  const std::string inner[] = {"uniform", "rotated.uniform",
                               "scaled.output_rotated.rotated.permuted.uniform"};
  const recipe recipes[] = {{},
                            {.rotate = ptq::rotation::input},
                            {.feedback = ptq::feedback_method::gptq,
                             .refine = 1,
                             .rotate = ptq::rotation::both,
                             .scale = ptq::column_scales::awq}};
  observers::second_moments h = moments;
  h.shrink(moments.shrinkage);
  ptq::damp(h.matrix(), 0.01);
  for (index_t i = 0; i < 3; ++i) {
    INFO(inner[i]);
    recipe how = recipes[i];
    const ptq::knowledge known{.moments = i == 2 ? &moments : nullptr};
    const auto without = quantized(how, w.view(), known);
    CHECK(without.format == inner[i]);
    how.outliers = 0.01;  // 9 of 960
    const auto with = quantized(how, w.view(), known);
    CHECK(with.format == "with_outliers." + inner[i]);
    CHECK(with.buffers[0].shape == std::vector<index_t>{9});
    CHECK(with.bits - without.bits <= 9 * (16 + 5 * 8) + 64);
    if (i < 2) {
      CHECK(squared_error(w, with) < squared_error(w, without));
    } else {
      CHECK(test::objective_of(w.view(), with.values.view(), h.matrix()).value <
            test::objective_of(w.view(), without.values.view(), h.matrix()).value);
    }
    // Without moments they are as exact as fp16: |b| is at most as large as the group's largest.
    if (i == 0) {
      for (index_t o = 0; o < 9; ++o) {
        const index_t at = o * 101 + 13;
        CHECK(std::fabs(w.values[at] - with.values.values[at]) <=
              0x1p-10F * std::fabs(w.values[at]) + 0x1p-10F);
      }
    }
  }
}

TEST_CASE("outliers: criterion and scores of the caller decide which, the budget how many") {
  const auto w = heavy_weights(3);
  const auto moments = test::moments_of(test::correlated_inputs({200, shape.cols}, 4, 4).view());
  const auto by_magnitude = quantized({.outliers = 0.01}, w.view(), {.moments = &moments});
  const auto by_saliency = quantized({.outliers = 0.01, .criterion = outlier_criterion::hessian},
                                     w.view(), {.moments = &moments});
  CHECK(by_magnitude.buffers[0].shape == by_saliency.buffers[0].shape);
  CHECK(testing::first_difference(by_magnitude.buffers, by_saliency.buffers) != "");
  // A score of one weight: it alone.
  std::vector<float> scores(shape.size(), 0.0F);
  scores[500] = 1.0F;
  const auto one = quantized({.outliers = 0.01}, w.view(),
                             {.outlier_scores = {scores.data(), shape.rows, shape.cols}});
  CHECK(one.buffers[0].shape == std::vector<index_t>{1});
  // 0.5 bits of 960 weights, 64 of them the table's.
  const auto budget = quantized({.outliers_budget = 0.5}, w.view(), {});
  const auto plain = quantized({}, w.view(), {});
  CHECK(budget.bits - plain.bits <= 480);
  CHECK(budget.bits - plain.bits > 480 - 16 - 5 * 8);
  // Nothing to store apart: no decorator.
  CHECK(quantized({.outliers = 1e-6}, w.view(), {}).format == "uniform");
}

TEST_CASE("outliers: the same bytes whoever computes them") {
  const auto w = heavy_weights(5);
  const auto moments = test::moments_of(test::correlated_inputs({200, shape.cols}, 4, 6).view());
  const recipe how{.feedback = ptq::feedback_method::gptq,
                   .rotate = ptq::rotation::input,
                   .outliers = 0.02,
                   .criterion = outlier_criterion::hessian};
  const auto expected = quantized(how, w.view(), {.moments = &moments});
  const auto same = [&](const kernels::context& ctx) {
    CHECK(testing::first_difference(quantized(how, w.view(), {.moments = &moments}, ctx).buffers,
                                    expected.buffers) == "");
  };
  same(best.narrowed_to("scalar"));
  test::on_each_executor(best, {3U}, same);
}

TEST_CASE("outliers: what does not fit is refused") {
  const auto w = heavy_weights(7);
  const auto run = [&](const recipe& how, const ptq::knowledge& known = {}) {
    static_cast<void>(quantized(how, w.view(), known));
  };
  CHECK_THROWS_AS(run({.outliers = 0.01, .outliers_budget = 0.1}), value_error);
  CHECK_THROWS_AS(run({.outliers = 0.3}), value_error);
  CHECK_THROWS_AS(run({.outliers_budget = -0.1}), value_error);
  CHECK(lowbit_test::message_of<value_error>([&] {
          run({.outliers = 0.01, .criterion = outlier_criterion::hessian});
        }).find("calibration") != std::string::npos);
  std::vector<float> scores(shape.size(), 1.0F);
  CHECK_THROWS_AS(run({.outliers = 0.01}, {.outlier_scores = {scores.data(), 80, 12}}),
                  shape_error);
}

TEST_CASE("criterion md takes the places that distortion_scores() names for a trial") {
  const auto w = heavy_weights(5);
  const recipe how{.outliers = 0.02, .criterion = outlier_criterion::md};
  CHECK_FALSE(how.needs_calibration());
  const auto r = quantized(how, w.view(), {});
  CHECK(r.format == "with_outliers.uniform");
  // 12 rows tell tangents of 4 columns at most, with 2 d of them.
  const outlier::weight_manifold manifold(w.view(), {.dimension = 4}, best);
  auto trial = test::dequantized(three_bits().quantize(w.view(), {}));
  const auto scores = outlier::distortion_scores(manifold, w.view(), trial.view(), {}, best);
  const matrix_view<const float> view(scores.data(), shape.rows, shape.cols);
  const auto given = quantized({.outliers = 0.02}, w.view(), {.outlier_scores = view});
  CHECK(testing::first_difference(r.buffers, given.buffers) == "");
  CHECK(testing::first_difference(r.buffers, quantized({.outliers = 0.02}, w.view(), {}).buffers) !=
        "");
}
