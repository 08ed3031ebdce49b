// Aggregation, classes and losses: their tables and formulas.
#include <cmath>
#include <limits>
#include <vector>

#include "blocks.hpp"
#include "catch.hpp"
#include "lowbit/outlier/aggregation.hpp"
#include "lowbit/outlier/classification.hpp"

using namespace lowbit;
using namespace lowbit::outlier;

namespace {

const double not_a_number = std::numeric_limits<double>::quiet_NaN();

layer_distortion layer(const std::vector<double>& md, const std::vector<double>& error) {
  layer_distortion d{md.size(), 1, {}};
  for (index_t i = 0; i < md.size(); ++i) d.blocks.push_back({.error = error[i], .md = md[i]});
  return d;
}
bool near(double a, double b) { return std::fabs(a - b) <= 1e-14 * std::fabs(b); }

}  // namespace

TEST_CASE("blocks become a layer: mean by squared error, largest, 95th percentile") {
  const auto d = layer({0.5, not_a_number, 2.0, 1.0}, {1.0, 100.0, 2.0, 0.0});
  CHECK(near(aggregate(d), (0.5 + 4.0 * 2.0) / 5.0));
  CHECK(aggregate(d, layer_aggregate::largest) == 2.0);
  CHECK(near(aggregate(d, layer_aggregate::weighted_mean, &block_distortion::error),
             (1.0 + 1e6 + 8.0) / 10005.0));
  CHECK(aggregate(layer({0.5, 0.7}, {0.0, 0.0})) == 0.0);
  CHECK(aggregate(layer({not_a_number}, {1.0}), layer_aggregate::largest) == 0.0);
  CHECK(aggregate({}) == 0.0);
  std::vector<double> md;
  for (int i = 40; i > 0; --i) md.push_back(i);
  const auto forty = layer(md, md);
  CHECK(aggregate(forty, layer_aggregate::percentile_95) == 38.0);  // 38 of 40 do not exceed it
  md.push_back(41);
  CHECK(aggregate(layer(md, md), layer_aggregate::percentile_95) == 39.0);  // 38 of 41 are 92.7 %
}

TEST_CASE("layers become a transformer: profiles, their angle, alpha") {
  // Rows 0..49 vary across the tangent of axis 0 by nothing, the others by axis 1.
  test::floats w(100, 4);
  for (index_t i = 0; i < 100; ++i) {
    w(i, 0) = 10.0F * random_normal(1, i);
    w(i, 1) = i < 50 ? 0.0F : (i % 2 == 0 ? 0.5F : -0.5F);
  }
  const weight_manifold m(w.view(), {.dimension = 4}, kernels::context::best());
  REQUIRE(m.tangent(0, 0) == 1);
  const auto profile = normal_profile(m);
  REQUIRE(profile.size() == 100);
  // |n| is 0.5, or 0 in the first half, up to the tilt of the axis (a covariance of 10 * 0.35 /
  // sqrt(100) over 100: below 1 %, which meets values of 40 at most); RMS over 4 columns.
  for (index_t i = 0; i < 100; ++i) {
    CHECK(std::fabs(profile[i] - (i < 50 ? 0.0 : 0.25)) < 0.2);
    CHECK(near(profile[i] * profile[i] * 4.0, m.normal_distance(i, 0) * m.normal_distance(i, 0)));
  }
  using v = std::vector<double>;
  CHECK(near(alignment(v{1, 0}, v{1, 1}), std::sqrt(0.5)));
  CHECK(alignment(v{1, 2}, v{2, 4}) == 1.0);
  CHECK(alignment(v{1, -2}, v{-1, 2}) == 0.0);  // never negative
  CHECK(alignment(v{0, 0}, v{1, 2}) == 0.0);
  CHECK_THROWS_AS(alignment(v{1}, v{1, 2}), shape_error);
  CHECK(near(transformer_distortion(0.4, 0.8, 0.5), 0.65 * 0.4 + 0.35 * 0.5 * 0.8));
  CHECK(near(transformer_distortion(0.4, 0.8, 1.0, 0.25), 0.25 * 0.4 + 0.75 * 0.8));
  CHECK_THROWS_AS(transformer_distortion(1, 1, 0.5, 1.5), value_error);
  CHECK_THROWS_AS(transformer_distortion(1, 1, -0.1), value_error);
}

TEST_CASE("experts become a mixture") {
  const std::vector<std::uint64_t> counts{6, 2, 0, 12};
  const auto f = routed_shares(counts, 10, 2);  // top-2: 20 tokens routed
  CHECK(f == std::vector<double>{0.3, 0.1, 0.0, 0.6});
  CHECK(near(mixture_distortion(f, std::vector<double>{1, 2, 3, 4}), 0.3 + 0.2 + 2.4));
  CHECK_THROWS_AS(routed_shares(counts, 10, 1), value_error);
  CHECK_THROWS_AS(routed_shares({}, 0, 2), value_error);
  CHECK_THROWS_AS(mixture_distortion(f, std::vector<double>{1}), shape_error);
  CHECK_THROWS_AS(mixture_distortion(std::vector<double>{0.5}, std::vector<double>{1}),
                  value_error);
  CHECK_THROWS_AS(mixture_distortion(std::vector<double>{1.5, -0.5}, std::vector<double>{1, 1}),
                  value_error);
  CHECK(expert_threshold(0.8, 0.15) == 0.8);
  CHECK(near(expert_threshold(0.8, 0.16), 0.7));
}

TEST_CASE("scores saturate, and improvements are no losses") {
  CHECK(near(functional_score(0.15, 0.02), 0.25));
  CHECK(functional_score(3, 1) == 1.0);
  CHECK(functional_score(-3, -1) == 0.0);
  CHECK(functional_score(3, 0) == 0.0);
  CHECK(near(sensitive_score(4, 0.05), 0.25));
  CHECK(near(sensitive_score(4, 0.05, {.entropy = 4, .attack = 0.05}), 1.0));
  CHECK_THROWS_AS(functional_score(not_a_number, 1), value_error);
  CHECK_THROWS_AS(sensitive_score(1, 1, {.attack = 0}), value_error);
}

TEST_CASE("the table of classes") {
  struct row {
    double func, priv;
    outlier_class kind;
    double omega;
  };
  for (const row& r :
       {row{0.7, 0.69, outlier_class::functional, 0.0},
        row{0.69, 0.7, outlier_class::sensitive, 1.0}, row{0.69, 0.69, outlier_class::normal, 0.0},
        row{0.7, 0.7, outlier_class::overlapping, 0.5},
        row{1.0, 0.8, outlier_class::overlapping, 0.8 / 1.8}}) {
    CAPTURE(r.func, r.priv);
    const auto found = classify(r.func, r.priv);
    CHECK(found.kind == r.kind);
    CHECK(std::fabs(found.omega - r.omega) < 1e-15);
  }
  CHECK(near(classify(0.8, 0.9, {.lambda = 0.25}).omega, 0.225 / 0.825));
  CHECK(classify(0, 0, {.functional = 0, .sensitive = 0}).omega == 0.5);
  CHECK(classify(0.5, 0.1, {.functional = 0.4}).kind == outlier_class::functional);
  CHECK_THROWS_AS(classify(1.1, 0), value_error);
  CHECK_THROWS_AS(classify(0, not_a_number), value_error);
}

TEST_CASE("losses") {
  using v = std::vector<double>;
  CHECK(near(functional_loss(v{0.4, 0.7, 1.0}, 0.5), (0.04 + 0.25) / 3));
  CHECK(near(sensitive_loss(v{0.4, 0.7, 1.0}, 0.6), 0.04 / 3));
  CHECK(functional_loss({}, 0.5) == 0.0);

  const block_class normal{};
  const block_class func{outlier_class::functional, 0.0};
  const block_class priv{outlier_class::sensitive, 1.0};
  const block_class both{outlier_class::overlapping, 0.25};
  const std::vector<block_class> classes{normal, func, func, priv, both};
  const v md{9.0, 0.7, 0.3, 0.2, 0.1};
  const double expected = 0.04 / 2 + 0.16 + 0.25 * 0.25;
  CHECK(near(geometric_loss(md, classes), expected));
  CHECK(near(geometric_loss(v{0.75}, std::vector<block_class>{both}), 0.75 * 0.0625));
  CHECK(geometric_loss({}, {}) == 0.0);
  CHECK_THROWS_AS(geometric_loss(md, {}), shape_error);
  CHECK_THROWS_AS(geometric_loss(v{not_a_number}, std::vector<block_class>{func}), value_error);

  // The better the attack, the higher the loss: least where it guesses.
  CHECK(attack_loss(0.5) == 0.0);
  CHECK(near(attack_loss(0.9), 0.8));
  CHECK(attack_loss(0.0) == 1.0);  // an attack that is always wrong always knows
  CHECK(attack_loss(0.6) < attack_loss(0.7));
  CHECK_THROWS_AS(attack_loss(1.5), value_error);
  CHECK(near(joint_objective(1, 2, 3, {.accuracy = 0.5, .attack = 0.25, .geometry = 2}), 7.0));
}
