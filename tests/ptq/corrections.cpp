// ptq::search_scales (AWQ) and ptq::correct_for_inputs (QEP).
#include "catch.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ptq/input_correction.hpp"
#include "lowbit/ptq/scale_search.hpp"
#include "ops/executors.hpp"
#include "problems.hpp"

using namespace lowbit;
using formats::uniform_quantizer;

namespace {

const kernels::context best = kernels::context::best();

/// The output error of W quantized with scaled columns, as the search judges it but plainly.
template <class Q>
double scaled_error(const Q& q, matrix_view<const float> w, const observers::second_moments& m,
                    const decorators::column_scaling& scales) {
  std::vector<float> b(w.shape().size());
  decorators::transform_weights(scales, w, {b.data(), w.rows(), w.cols()});
  const auto importance = m.importance();
  std::vector<float> scaled_importance(importance.size());
  scales.transform_importance(importance, scaled_importance);
  const decorators::scaled<typename Q::tensor> t(
      scales, q.quantize({b.data(), w.rows(), w.cols()}, {.importance = scaled_importance}));
  return test::objective_of(w, test::dequantized(t).view(), m.matrix()).value;
}

std::vector<float> values_of(const decorators::column_scaling& scales) {
  std::vector<float> out(scales.columns());
  for (index_t k = 0; k < out.size(); ++k) out[k] = scales.scale(k);
  return out;
}

/// tr (W X - W' Y)(W X - W' Y)^T / T, plainly.
double output_distance(matrix_view<const float> w, const test::test_matrix& x,
                       matrix_view<const float> other, const test::test_matrix& y) {
  double sum = 0.0;
  for (index_t t = 0; t < x.shape.rows; ++t) {
    for (index_t r = 0; r < w.rows(); ++r) {
      double d = 0.0;
      for (index_t k = 0; k < w.cols(); ++k) {
        d += static_cast<double>(w(r, k)) * static_cast<double>(x.view()(t, k)) -
             static_cast<double>(other(r, k)) * static_cast<double>(y.view()(t, k));
      }
      sum += d * d;
    }
  }
  return sum / static_cast<double>(x.shape.rows);
}

/// Inputs as a layer meets them when earlier layers are quantized: off by a linear map and by
/// noise.
test::test_matrix distorted(const test::test_matrix& x, std::uint64_t seed) {
  const index_t k = x.shape.cols;
  return testing::make_matrix("distorted", x.shape, [&](index_t t, index_t c) {
    double y = static_cast<double>(x.view()(t, c));
    for (index_t i = 0; i < k; ++i) {
      y += 0.15 / std::sqrt(static_cast<double>(k)) *
           static_cast<double>(random_normal(seed, i * k + c)) *
           static_cast<double>(x.view()(t, i));
    }
    return static_cast<float>(y + 0.05 * static_cast<double>(random_normal(seed + 1, t * k + c)));
  });
}

struct pair_of_moments {
  observers::second_moments distorted;
  aligned_buffer<double> cross;
  index_t columns;

  pair_of_moments(const test::test_matrix& x, const test::test_matrix& y)
      : distorted(test::moments_of(y.view())), columns(x.shape.cols) {
    observers::cross_accumulator sums(columns);
    sums.add(x.view(), y.view(), best);
    cross = sums.finish();
  }
  matrix_view<const double> of_both() const { return {cross.data(), columns, columns}; }
  matrix_view<const double> of_distorted() const { return distorted.matrix(); }
};

std::vector<float> corrected(matrix_view<const float> w, const pair_of_moments& m,
                             const ptq::correction_options& options,
                             const kernels::context& ctx = best) {
  std::vector<float> out(w.shape().size());
  ptq::correct_for_inputs(w, m.of_both(), m.of_distorted(), options,
                          {out.data(), w.rows(), w.cols()}, ctx);
  return out;
}

}  // namespace

// -- scales of columns ----------------------------------------------------------------------------

TEST_CASE("search_scales takes the best of all powers, of which one is no scaling") {
  for (std::uint64_t seed = 60; seed < 66; ++seed) {
    INFO("seed " << seed);
    const auto w = testing::normal_matrix({8, 64}, seed);
    const auto m = test::moments_of(test::correlated_inputs({100, 64}, 3, seed).view());
    const uniform_quantizer q{.params = {.bits = 3, .group_size = 32}};
    const auto found = ptq::search_scales(q, w.view(), m, best);
    const double error = scaled_error(q, w.view(), m, found);

    const auto none = ptq::detail::scales_for(m.mean_magnitude, 0);
    CHECK(values_of(none) == std::vector<float>(64, 1.0F));
    bool is_a_power = false;
    for (unsigned steps = 0; steps < 16; ++steps) {
      const auto scales = ptq::detail::scales_for(m.mean_magnitude, steps);
      // The search sums in another order: 64 * 64 terms of double.
      CHECK(error <= scaled_error(q, w.view(), m, scales) * (1.0 + 0x1p-40));
      is_a_power = is_a_power || values_of(scales) == values_of(found);
    }
    CHECK(is_a_power);
    CHECK(error <= scaled_error(q, w.view(), m, none));
  }
}

TEST_CASE("scales are the stated powers of the mean magnitudes") {
  // s = m^alpha / sqrt(max * min): 2^-4 .. 2^4 at alpha = 1/2.
  const std::vector<double> magnitudes{1.0, 4.0, 16.0, 65536.0};
  CHECK(values_of(ptq::detail::scales_for(magnitudes, 8)) ==
        std::vector<float>{0.0625F, 0.125F, 0.25F, 16.0F});
  CHECK(values_of(ptq::detail::scales_for(magnitudes, 0)) == std::vector<float>(4, 1.0F));
  // Channels without input count as the smallest others, and where all are, nothing is scaled.
  CHECK(values_of(ptq::detail::scales_for(std::vector<double>{0.0, 4.0, 16.0, 65536.0}, 8)) ==
        values_of(ptq::detail::scales_for(std::vector<double>{4.0, 4.0, 16.0, 65536.0}, 8)));
  CHECK(values_of(ptq::detail::scales_for(std::vector<double>(3, 0.0), 15)) ==
        std::vector<float>(3, 1.0F));
  // However far apart inputs are, what is stored is a normal fp16 number.
  for (unsigned steps = 0; steps < 16; ++steps) {
    for (const float s :
         values_of(ptq::detail::scales_for(std::vector<double>{1e-300, 1.0, 1e300}, steps))) {
      CHECK(s >= 0x1p-10F);
      CHECK(s <= 0x1p10F);
    }
  }
}

TEST_CASE("search_scales: dead channels, inputs of zeros, many rows") {
  const uniform_quantizer q{.params = {.bits = 3, .group_size = 32}};
  auto x = test::correlated_inputs({100, 64}, 3, 1);
  for (index_t t = 0; t < 100; ++t) {
    for (const index_t dead : {0U, 31U, 63U}) x.values[t * 64 + dead] = 0.0F;
  }
  const auto w = testing::normal_matrix({600, 64}, 2);  // every third row is judged
  for (const auto& inputs :
       {x, testing::make_matrix("zeros", {5, 64}, [](index_t, index_t) { return 0.0F; })}) {
    const auto found = ptq::search_scales(q, w.view(), test::moments_of(inputs.view()), best);
    CHECK(found.columns() == 64);
    for (const float s : values_of(found)) CHECK((std::isfinite(s) && s > 0.0F));
  }
}

TEST_CASE("search_scales refuses moments of another width, and is the same everywhere") {
  const auto w = testing::normal_matrix({90, 64}, 2);
  const uniform_quantizer q{.params = {.bits = 3, .group_size = 32}};
  const auto narrow = test::moments_of(test::correlated_inputs({10, 63}, 3, 1).view());
  CHECK_THROWS_AS(ptq::search_scales(q, w.view(), narrow, best), shape_error);
  CHECK_THROWS_AS(ptq::search_scales(q, w.view(), observers::second_moments{}, best), shape_error);

  const auto m = test::moments_of(test::correlated_inputs({100, 64}, 3, 1).view());
  const auto expected = values_of(ptq::search_scales(q, w.view(), m, best));
  for (const cpu::tier& tier : cpu::tiers) {
    if (!best.allowed.contains(tier.features)) continue;
    CHECK(values_of(ptq::search_scales(q, w.view(), m, best.narrowed_to(tier.name))) == expected);
  }
  kernels::context ctx = best;
  test::thread_executor threads(3);
  ctx.threads = &threads;
  CHECK(values_of(ptq::search_scales(q, w.view(), m, ctx)) == expected);
}

// -- distorted inputs -----------------------------------------------------------------------------

TEST_CASE("correct_for_inputs: alpha = 0, or inputs that are not distorted, change nothing") {
  const auto w = testing::normal_matrix({5, 48}, 1);
  const auto x = test::correlated_inputs({100, 48}, 4, 2);
  CHECK(corrected(w.view(), pair_of_moments(x, distorted(x, 3)), {.alpha = 0.0}) == w.values);

  // E[x x^T] of add_gram and add_cross are sums of the same products in the same order: equal.
  CHECK(corrected(w.view(), pair_of_moments(x, x), {.alpha = 1.0}) == w.values);
}

TEST_CASE("correct_for_inputs: alpha = 1 without damping solves the normal equations") {
  const index_t k = 40;
  const auto w = testing::normal_matrix({4, k}, 1);
  const auto x = test::correlated_inputs({200, k}, 4, 12);
  const auto y = distorted(x, 13);
  const pair_of_moments m(x, y);
  const auto w_star = corrected(w.view(), m, {.alpha = 1.0, .damping = 0.0});

  // W* E[y y^T] = W E[x y^T] up to what rounding W* to float changes: |dW*| <= 2^-24 |W*|.
  const auto h = test::gram_of(y);
  for (index_t r = 0; r < 4; ++r) {
    for (index_t j = 0; j < k; ++j) {
      double left = 0.0;
      double right = 0.0;
      double bound = 0.0;
      for (index_t i = 0; i < k; ++i) {
        left += static_cast<double>(w_star[r * k + i]) * h(i, j);
        right += static_cast<double>(w.view()(r, i)) * m.of_both()(i, j);
        bound += std::fabs(static_cast<double>(w_star[r * k + i]) * h(i, j));
      }
      CHECK(std::fabs(left - right) <= 0x1p-23 * bound);
    }
  }
  // So no change of any weight brings outputs nearer.
  const matrix_view<const float> star(w_star.data(), 4, k);
  const double least = output_distance(w.view(), x, star, y);
  CHECK(least < output_distance(w.view(), x, w.view(), y));
  for (index_t i = 0; i < 4 * k; i += 7) {
    for (const float step : {-0.05F, 0.05F}) {
      auto other = w_star;
      other[i] += step;
      CHECK(output_distance(w.view(), x, {other.data(), 4, k}, y) > least);
    }
  }
}

TEST_CASE("correct_for_inputs: half of the correction is half of the way") {
  const auto w = testing::normal_matrix({4, 40}, 1);
  const auto x = test::correlated_inputs({200, 40}, 4, 12);
  const pair_of_moments m(x, distorted(x, 13));
  const auto whole = corrected(w.view(), m, {.alpha = 1.0});
  const auto half = corrected(w.view(), m, {.alpha = 0.5});
  for (index_t i = 0; i < half.size(); ++i) {
    // Each was rounded once to float.
    const double mean = 0.5 * (static_cast<double>(w.values[i]) + static_cast<double>(whole[i]));
    const double bound = 0x1p-23 * (std::fabs(mean) + std::fabs(static_cast<double>(whole[i])));
    CHECK(std::fabs(static_cast<double>(half[i]) - mean) <= bound);
  }
}

TEST_CASE("correct_for_inputs brings the outputs of other inputs nearer, too") {
  for (std::uint64_t seed = 70; seed < 80; ++seed) {
    INFO("seed " << seed);
    const auto w = testing::normal_matrix({6, 48}, seed);
    const auto all = test::correlated_inputs({600, 48}, 4, seed);
    const auto all_distorted = distorted(all, seed + 5);
    const auto part = [](const test::test_matrix& m, index_t begin, index_t end) {
      return testing::make_matrix("part", {end - begin, 48},
                                  [&](index_t t, index_t c) { return m.view()(begin + t, c); });
    };
    const pair_of_moments m(part(all, 0, 400), part(all_distorted, 0, 400));
    const auto x = part(all, 400, 600);
    const auto y = part(all_distorted, 400, 600);
    const double before = output_distance(w.view(), x, w.view(), y);
    const auto half = corrected(w.view(), m, {});
    const auto whole = corrected(w.view(), m, {.alpha = 1.0});
    // The error falls from d to (1 - alpha) d plus what noise leaves.
    CHECK(output_distance(w.view(), x, {half.data(), 6, 48}, y) < 0.5 * before);
    CHECK(output_distance(w.view(), x, {whole.data(), 6, 48}, y) < 0.25 * before);
  }
}

TEST_CASE("correct_for_inputs: in place, on every tier and at any number of workers") {
  const auto w = testing::normal_matrix({150, 140}, 1);
  const auto x = test::correlated_inputs({200, 140}, 4, 12);
  const pair_of_moments m(x, distorted(x, 13));
  const auto expected = corrected(w.view(), m, {});
  auto in_place = w.values;
  const matrix_view<float> view(in_place.data(), 150, 140);
  ptq::correct_for_inputs(view, m.of_both(), m.of_distorted(), {}, view, best);
  CHECK(in_place == expected);
  for (const cpu::tier& tier : cpu::tiers) {
    if (!best.allowed.contains(tier.features)) continue;
    CHECK(corrected(w.view(), m, {}, best.narrowed_to(tier.name)) == expected);
  }
  for (const index_t workers : {2U, 3U}) {
    kernels::context ctx = best;
    test::thread_executor threads(workers);
    ctx.threads = &threads;
    CHECK(corrected(w.view(), m, {}, ctx) == expected);
  }
}

TEST_CASE("correct_for_inputs refuses what does not fit") {
  const auto w = testing::normal_matrix({3, 20}, 1);
  const auto x = test::correlated_inputs({100, 20}, 4, 2);
  const pair_of_moments m(x, distorted(x, 3));
  const auto run = [&](matrix_view<const double> cross, matrix_view<const double> of_distorted,
                       const ptq::correction_options& options, shape2 out_shape = {3, 20}) {
    std::vector<float> out(out_shape.size());
    ptq::correct_for_inputs(w.view(), cross, of_distorted, options,
                            {out.data(), out_shape.rows, out_shape.cols}, best);
  };
  const auto wide = test::identity(21);
  CHECK_THROWS_AS(run(wide.view(), m.of_distorted(), {}), shape_error);
  CHECK_THROWS_AS(run(m.of_both(), wide.view(), {}), shape_error);
  CHECK_THROWS_AS(run(m.of_both(), m.of_distorted(), {}, {3, 21}), shape_error);
  CHECK_THROWS_AS(run(m.of_both(), m.of_distorted(), {}, {2, 20}), shape_error);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {-0.1, 1.1, nan}) {
    CHECK_THROWS_AS(run(m.of_both(), m.of_distorted(), {.alpha = bad}), value_error);
  }
  for (const double bad : {-0.1, nan}) {
    CHECK_THROWS_AS(run(m.of_both(), m.of_distorted(), {.damping = bad}), value_error);
  }
  test::double_matrix negative = test::identity(20);
  negative(4, 4) = -1.0;
  CHECK_THROWS_AS(run(m.of_both(), negative.view(), {}), value_error);
}
