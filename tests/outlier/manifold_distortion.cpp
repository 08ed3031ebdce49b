// The measures of manifold distortion: what they must not depend on, what they must be for errors
// of known direction, their edge cases, and what they were measured to be on correlated weights.
#include "lowbit/outlier/manifold_distortion.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../ops/executors.hpp"
#include "blocks.hpp"
#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/outlier/aggregation.hpp"

using namespace lowbit;
using outlier::block_distortion;
using outlier::block_flag;
using outlier::layer_distortion;
using outlier::manifold_params;
using outlier::weight_manifold;
using test::floats;

namespace {

const kernels::context best = kernels::context::best();

layer_distortion measure(const floats& w, const floats& q, const manifold_params& p = {},
                         const kernels::context& ctx = best) {
  return outlier::measure_distortion(weight_manifold(w.view(), p, ctx), w.view(), q.view(), ctx);
}

bool same_bits(const block_distortion& a, const block_distortion& b) {
  const double x[] = {a.error, a.normal_error, a.md, a.md_point, a.md_frac, a.md_excess};
  const double y[] = {b.error, b.normal_error, b.md, b.md_point, b.md_frac, b.md_excess};
  return std::memcmp(x, y, sizeof x) == 0 && a.flag == b.flag;
}
bool same_bits(const layer_distortion& a, const layer_distortion& b) {
  if (a.rows != b.rows || a.stripes != b.stripes || a.blocks.empty()) return false;
  for (index_t i = 0; i < a.blocks.size(); ++i) {
    if (!same_bits(a.blocks[i], b.blocks[i])) return false;
  }
  return a.blocks.size() == b.blocks.size();
}

double rms(const layer_distortion& d, double block_distortion::*measure) {
  double sum = 0.0;
  for (const auto& b : d.blocks) sum += b.*measure * (b.*measure);
  return std::sqrt(sum / static_cast<double>(d.blocks.size()));
}

/// 6 large and 2 small deviations: t = 6 of 8, far from another t (the small ones hold 1 % of the
/// variance).
const std::vector<float> six_of_eight{4, 3, 0.2F, 3, 2, 0.3F, 2, 2};

floats dequantized(const floats& w, unsigned bits, index_t group) {
  const formats::uniform_quantizer q{.params = {.bits = bits,
                                                .kind = symmetry::asymmetric,
                                                .group_size = static_cast<std::uint32_t>(group)}};
  floats out(w.rows, w.cols);
  q.quantize(w.view(), {}).dequantize({0, w.rows}, out.view());
  return out;
}

}  // namespace

TEST_CASE("errors in the tangent have no distortion, errors across it all of it") {
  const floats w = test::correlated(400, 32, 0.9F, 1);
  const weight_manifold m(w.view(), {}, best);
  const auto axes = m.normal_axes(0, 0);
  const auto& s = m.stripes()[0];
  REQUIRE(axes.rows() > 2);
  REQUIRE(axes.rows() < 30);
  for (index_t r = 0; r < axes.rows(); ++r) {
    std::vector<double> across(32);
    for (index_t k = 0; k < 32; ++k) across[k] = 0.25 * axes(r, k);
    const auto d = m.measure_block(r, 0, across, 1.0);
    // Rows are orthonormal up to 1e-12 (tests/linalg/pca.cpp).
    CHECK(std::fabs(d.md_frac - 1.0) < 1e-11);
    CHECK(std::fabs(d.md - 0.25 / s.normal_rms) < 1e-11 / s.normal_rms);
    CHECK(std::fabs(d.md_point - 0.25 / m.normal_distance(r, 0)) < 1e-11 / m.normal_distance(r, 0));
  }
  for (index_t i = 0; i < 20; ++i) {  // x - N^T N x
    std::vector<double> along(32);
    for (index_t k = 0; k < 32; ++k) along[k] = static_cast<double>(random_normal(2, i * 32 + k));
    const auto x = along;
    for (index_t r = 0; r < axes.rows(); ++r) {
      double y = 0.0;
      for (index_t k = 0; k < 32; ++k) y += axes(r, k) * x[k];
      for (index_t k = 0; k < 32; ++k) along[k] -= axes(r, k) * y;
    }
    const auto d = m.measure_block(i, 0, along, 1.0);
    CHECK(d.error > 0.5);
    CHECK(d.md_frac < 1e-11);
    CHECK(d.md * s.normal_rms < 1e-11 * 10);
  }
}

TEST_CASE("isotropic errors leave the tangent by 1 - t / d of their square") {
  const floats w = test::axis_aligned(2000, 16, {4, 3, 0.2F, 3, 2, 0.3F, 2, 2}, 3);
  const floats q = test::noisy(w, 0.1F, 4);
  const auto d = measure(w, q, {.dimension = 8});
  const weight_manifold m(w.view(), {.dimension = 8}, best);
  REQUIRE(m.tangent(0, 0) == 6);
  REQUIRE(m.tangent(0, 1) == 6);
  double mean = 0.0;
  for (const auto& b : d.blocks) mean += b.md_frac * b.md_frac;
  mean /= static_cast<double>(d.blocks.size());
  // md_frac^2 is Beta(1, 3): mean 1/4, variance 3/80. Four standard errors of 4000 blocks.
  CHECK(std::fabs(mean - 0.25) < 4.0 * std::sqrt(3.0 / 80.0 / 4000.0));
  CHECK(std::fabs(rms(d, &block_distortion::md_excess) - std::sqrt(mean / 0.25)) < 1e-12);
}

TEST_CASE("scaling all weights changes nothing") {
  const floats w = test::correlated(200, 64, 0.8F, 5);
  const floats q = test::noisy(w, 0.2F, 6);
  floats small_w = w;
  floats small_q = q;
  for (float& v : small_w.values) v = std::ldexp(v, -20);
  for (float& v : small_q.values) v = std::ldexp(v, -20);
  auto expected = measure(w, q);
  for (auto& b : expected.blocks) {
    b.error = std::ldexp(b.error, -20);
    b.normal_error = std::ldexp(b.normal_error, -20);
  }
  CHECK(same_bits(measure(small_w, small_q), expected));

  // By 3, exactly: numbers of 12 bits.
  floats w3 = w;
  floats q3 = q;
  floats w1 = w;
  floats q1 = q;
  for (index_t i = 0; i < w.values.size(); ++i) {
    w1.values[i] = std::nearbyint(w.values[i] * 256.0F);
    q1.values[i] = std::nearbyint(q.values[i] * 256.0F);
    w3.values[i] = 3.0F * w1.values[i];
    q3.values[i] = 3.0F * q1.values[i];
  }
  const auto one = measure(w1, q1);
  const auto three = measure(w3, q3);
  for (index_t i = 0; i < one.blocks.size(); ++i) {
    const auto& a = one.blocks[i];
    const auto& b = three.blocks[i];
    // Axes turn by rounding errors of the covariance (2^-53 times a small multiple of 200) over the
    // gap of its spectrum at t (more than 1e-3 of its norm).
    REQUIRE(std::fabs(a.md - b.md) < 1e-9 * a.md + 1e-9);
    REQUIRE(std::fabs(a.md_frac - b.md_frac) < 1e-9);
    REQUIRE(std::fabs(b.error - 3.0 * a.error) < 1e-12 * b.error);
  }
}

TEST_CASE("an orthogonal change of coordinates in a stripe changes nothing") {
  const floats w = test::axis_aligned(300, 8, six_of_eight, 7);
  const floats q = test::noisy(w, 0.1F, 8);
  const manifold_params p{.dimension = 8};
  const auto before = measure(w, q, p);
  const weight_manifold m(w.view(), p, best);
  REQUIRE(m.tangent(0, 0) == 6);
  // Signed permutation: exact. Householder: I - 2 a a^T, rounded to floats.
  for (const bool is_exact : {true, false}) {
    CAPTURE(is_exact);
    const double a[] = {0.5, -0.5, 0.5, 0.25, 0.25, 0.25, -0.25, 0.0};  // length 1
    floats turned_w = w;
    floats turned_q = q;
    const auto turn = [&](const floats& from, floats& to) {
      for (index_t i = 0; i < from.rows; ++i) {
        double along = 0.0;
        for (index_t k = 0; k < 8; ++k) along += a[k] * static_cast<double>(from(i, k));
        for (index_t k = 0; k < 8; ++k) {
          to(i, k) = is_exact
                         ? (k % 3 == 0 ? -1.0F : 1.0F) * from(i, (k * 5 + 2) % 8)
                         : static_cast<float>(static_cast<double>(from(i, k)) - 2.0 * along * a[k]);
        }
      }
    };
    turn(w, turned_w);
    turn(q, turned_q);
    const auto after = measure(turned_w, turned_q, p);
    for (index_t i = 0; i < before.blocks.size(); ++i) {
      const auto& x = before.blocks[i];
      const auto& y = after.blocks[i];
      // Floats that round change e by sqrt(8) 2^-23 |v|, |v| < 30, and turn the axes by 2^-23 times
      // the condition of the gap, 16 / 4: errors of 0.3 move by less than 1e-5.
      const double bound = is_exact ? 1e-12 : 2e-5;
      REQUIRE(std::fabs(x.normal_error - y.normal_error) < bound);
      REQUIRE(std::fabs(x.md - y.md) < 10.0 * bound);
      REQUIRE(std::fabs(x.md_frac - y.md_frac) < 40.0 * bound);
    }
  }
}

TEST_CASE("same bits on every tier, with any workers, and block by block") {
  const floats w = test::correlated(150, 72, 0.7F, 9);  // the last stripe has 8 columns
  const floats q = test::noisy(w, 0.3F, 10);
  for (const auto points : {outlier::neighbourhood::stripe, outlier::neighbourhood::knn}) {
    if (points == outlier::neighbourhood::knn && lowbit_test::is_sanitized) continue;
    const manifold_params p{.dimension = 16, .points = points, .neighbours = 50};
    const weight_manifold m(w.view(), p, best);
    const auto expected = outlier::measure_distortion(m, w.view(), q.view(), best);
    for (const auto& v : kernels::dense_variants) {
      if (!v.is_supported(best.allowed)) continue;
      CAPTURE(v.name, static_cast<int>(points));
      CHECK(same_bits(measure(w, q, p, {.allowed = v.needs}), expected));
    }
    test::on_each_executor(best, {2}, [&](const kernels::context& ctx) {
      CHECK(same_bits(measure(w, q, p, ctx), expected));
    });
    for (index_t i = 0; i < w.rows; i += 7) {
      for (index_t c = 0; c < m.stripes().size(); ++c) {
        const auto& s = m.stripes()[c];
        std::vector<double> e(s.width);
        double length = 0.0;
        for (index_t k = 0; k < s.width; ++k) {
          const auto v = static_cast<double>(w(i, s.begin + k));
          e[k] = v - static_cast<double>(q(i, s.begin + k));
          length += v * v;
        }
        CHECK(same_bits(m.measure_block(i, c, e, std::sqrt(length)), expected(i, c)));
      }
    }
  }
}

TEST_CASE("the last stripe is what its columns are alone") {
  const floats w = test::correlated(80, 40, 0.9F, 11, 40);
  const floats q = test::noisy(w, 0.1F, 12);
  floats w_tail(80, 8);
  floats q_tail(80, 8);
  for (index_t i = 0; i < 80; ++i) {
    for (index_t k = 0; k < 8; ++k) {
      w_tail(i, k) = w(i, 32 + k);
      q_tail(i, k) = q(i, 32 + k);
    }
  }
  const auto whole = measure(w, q);
  const auto tail = measure(w_tail, q_tail, {.dimension = 8});
  REQUIRE(whole.stripes == 2);
  for (index_t i = 0; i < 80; ++i) CHECK(same_bits(whole(i, 1), tail(i, 0)));
}

TEST_CASE("neighbourhoods: evenly spaced rows, and the nearest blocks") {
  const floats w = test::correlated(120, 8, 0.9F, 13, 8);
  const floats q = test::noisy(w, 0.1F, 14);
  const manifold_params p{.dimension = 8, .neighbours = 40};
  floats third(40, 8);
  for (index_t i = 0; i < 40; ++i) {
    for (index_t k = 0; k < 8; ++k) third(i, k) = w(i * 3, k);
  }
  const weight_manifold sampled(w.view(), p, best);
  const weight_manifold alone(third.view(), {.dimension = 8}, best);
  REQUIRE(sampled.tangent(0, 0) == alone.tangent(0, 0));
  for (index_t r = 0; r < alone.normal_axes(0, 0).rows(); ++r) {
    for (index_t k = 0; k < 8; ++k) {
      CHECK(sampled.normal_axes(0, 0)(r, k) == alone.normal_axes(0, 0)(r, k));
    }
  }

  // All rows are one neighbourhood, whichever way it is looked for.
  manifold_params all{.dimension = 8, .points = outlier::neighbourhood::knn, .neighbours = 120};
  CHECK(same_bits(measure(w, q, all), measure(w, q, {.dimension = 8})));

  // Two flat clusters: along axis 0 in one, along axis 1 in the other.
  floats clusters(80, 4);
  for (index_t i = 0; i < 80; ++i) {
    clusters(i, i % 2) = random_normal(15, i);
    clusters(i, 2) = i % 2 == 0 ? 100.0F : -100.0F;
  }
  all = {.dimension = 4, .points = outlier::neighbourhood::knn, .neighbours = 10};
  const weight_manifold local(clusters.view(), all, best);
  for (index_t i = 0; i < 80; ++i) {
    REQUIRE(local.tangent(i, 0) == 1);
    std::vector<double> along(4);
    std::vector<double> across(4);
    along[i % 2] = across[1 - i % 2] = 0.1;
    CHECK(local.measure_block(i, 0, along, 100.0).md_frac < 1e-7);
    CHECK(local.measure_block(i, 0, across, 100.0).md_frac > 1.0 - 1e-12);
  }
  CHECK(weight_manifold(clusters.view(), {.dimension = 4}, best).tangent(0, 0) == 1);  // axis 2
}

TEST_CASE("edge cases have stated results") {
  const floats w = test::correlated(100, 8, 0.5F, 16, 8);
  floats q = test::noisy(w, 0.1F, 17);

  SECTION("a tangent of all dimensions") {
    for (const auto& b : measure(w, q, {.dimension = 8, .variance = 1.0}).blocks) {
      CHECK(b.error > 0.0);
      CHECK((b.normal_error == 0.0 && b.md == 0.0 && b.md_point == 0.0 && b.md_frac == 0.0));
      CHECK(b.md_excess == 1.0);
      CHECK(b.flag == block_flag::no_normal_space);
    }
  }
  SECTION("a constant stripe") {
    floats constant(100, 8);
    for (index_t i = 0; i < constant.values.size(); ++i) {
      constant.values[i] = 0.1F * static_cast<float>(i % 8);
    }
    const weight_manifold m(constant.view(), {.dimension = 8}, best);
    CHECK(m.tangent(3, 0) == 0);
    CHECK(m.stripes()[0].normal_rms == 0.0);
    CHECK(m.stripes()[0].spread_rms == 0.0);
    q = constant;
    q(3, 4) += 1.0F;
    const auto d = outlier::measure_distortion(m, constant.view(), q.view(), best);
    for (index_t i = 0; i < 100; ++i) {
      const auto& b = d(i, 0);
      CHECK(std::isnan(b.md) == (i == 3));
      CHECK((b.flag == (i == 3 ? block_flag::undefined : block_flag::none)));
      CHECK(b.md_frac == (i == 3 ? 1.0 : 0.0));
      if (i != 3) CHECK((b.md == 0.0 && b.md_point == 0.0 && b.md_excess == 0.0));
    }
  }
  SECTION("weights that all lie in their tangent") {
    floats flat = w;
    for (index_t i = 0; i < 100; ++i) {
      for (index_t j = 4; j < 8; ++j) flat(i, j) = 0.0F;
    }
    const weight_manifold m(flat.view(), {.dimension = 8, .variance = 1.0}, best);
    const auto& s = m.stripes()[0];
    REQUIRE(m.tangent(0, 0) == 4);
    std::vector<double> e(8);
    e[6] = 0.5;
    const auto d = m.measure_block(7, 0, e, 1.0);
    CHECK(d.md_frac == 1.0);
    // N is rounding errors: a thousandth of V takes its place.
    CHECK(s.normal_rms < 1e-12);
    CHECK(std::fabs(d.md * 1e-3 * s.spread_rms - 0.5) < 1e-12);
    CHECK(d.md_point > 50.0);
  }
  SECTION("errors that are none") {
    for (const auto& b : measure(w, w, {.dimension = 8}).blocks) {
      CHECK((b.error == 0.0 && b.md == 0.0 && b.md_point == 0.0 && b.md_frac == 0.0));
      CHECK(b.flag == block_flag::none);
    }
    const weight_manifold m(w.view(), {.dimension = 8}, best);
    const std::vector<double> e(8, 1e-13);
    CHECK(m.measure_block(0, 0, e, 1.0).md_frac == 0.0);  // |e| < 1e-12 |v|
    CHECK(m.measure_block(0, 0, e, 0.1).md_frac > 0.0);
    CHECK(m.measure_block(0, 0, e, 1.0).md > 0.0);
  }
  SECTION("too few points") {
    const auto text = [&](index_t rows, const manifold_params& p) {
      return lowbit_test::message_of<value_error>([&] {
        weight_manifold(w.view().middle_rows({0, rows}), p, best);
      });
    };
    CHECK(text(8, {.dimension = 8}) ==
          "8 of 8 rows are no neighbourhood in blocks of 8 columns: more points than columns are "
          "needed");
    CHECK(text(100, {.dimension = 8, .neighbours = 8}).substr(0, 8) == "8 of 100");
    CHECK(text(100, {.dimension = 8, .neighbours = 101}).substr(0, 10) == "101 of 100");
    CHECK(weight_manifold(w.view().middle_rows({0, 9}), {.dimension = 8}, best)
              .stripes()[0]
              .has_few_points);
    CHECK(!weight_manifold(w.view().middle_rows({0, 16}), {.dimension = 8}, best)
               .stripes()[0]
               .has_few_points);
    CHECK_THROWS_AS(weight_manifold(w.view(), {.dimension = 1}, best), value_error);
    CHECK_THROWS_AS(weight_manifold(w.view(), {.variance = 1.01}, best), value_error);
  }
  SECTION("what is not finite, by its place") {
    const weight_manifold m(w.view(), {.dimension = 8}, best);
    q(17, 5) = std::numeric_limits<float>::infinity();
    CHECK(lowbit_test::message_of<value_error>([&] {
            static_cast<void>(outlier::measure_distortion(m, w.view(), q.view(), best));
          }) == "the approximation holds +Inf at row 17, column 5");
    CHECK_THROWS_AS(weight_manifold(q.view(), {.dimension = 8}, best), value_error);
    CHECK_THROWS_AS(outlier::measure_distortion(m, w.view(), q.view().middle_cols(0, 7), best),
                    shape_error);
  }
  SECTION("nothing") {
    const floats none(0, 8);
    const weight_manifold m(none.view(), {}, best);
    CHECK(m.stripes().empty());
    CHECK(outlier::measure_distortion(m, none.view(), none.view(), best).blocks.empty());
  }
  SECTION("far too large and far too small") {
    for (const int exponent : {120, -140}) {  // squares leave float, denormals lose bits
      floats scaled_w = w;
      floats scaled_q = q;
      for (float& v : scaled_w.values) v = std::ldexp(v, exponent);
      for (float& v : scaled_q.values) v = std::ldexp(v, exponent);
      for (const auto& b : measure(scaled_w, scaled_q, {.dimension = 8}).blocks) {
        CHECK(std::isfinite(b.md));
        CHECK((b.md_frac >= 0.0 && b.md_frac <= 1.0));
      }
    }
  }
}

TEST_CASE("on correlated weights MD falls with every bit and MD_frac says nothing about bits") {
  struct row {
    float rho;
    double isotropic;  // sqrt(1 - t / d)
    double points[3];  // md_point at 2, 3, 4 bits
  };
  // As methods.md 5.2 measured them, with a block quantizer that it does not describe: hence a
  // third of tolerance for md_point. On uncorrelated weights, with one normal direction, small
  // denominators rule its mean.
  for (const row& r : {row{0.5F, 0.354, {0.63, 0.34, 0.17}}, row{0.9F, 0.771, {0.92, 0.51, 0.26}},
                       row{0.0F, 0.177, {}}}) {
    const floats w = test::correlated(4096, 32, r.rho, 20);
    const weight_manifold m(w.view(), {}, best);
    const double isotropic = std::sqrt(1.0 - m.stripes()[0].tangent / 32.0);
    CHECK(std::fabs(isotropic - r.isotropic) < 0.001);
    double md_before = 0.0;
    for (const unsigned bits : {2U, 3U, 4U}) {
      CAPTURE(r.rho, bits);
      const floats q = dequantized(w, bits, 32);
      const auto d = outlier::measure_distortion(m, w.view(), q.view(), best);
      // Rounding errors are uniform and independent, but not normal: 3 % for that.
      CHECK(std::fabs(rms(d, &block_distortion::md_frac) / isotropic - 1.0) < 0.03);
      const double md = outlier::aggregate(d);
      // Min-max steps shrink by 7/3 and 15/7.
      if (bits > 2) CHECK((md < md_before / 2.0 && md > md_before / 2.6));
      md_before = md;
      std::vector<double> points;
      for (const auto& b : d.blocks) points.push_back(b.md_point);
      std::nth_element(points.begin(), points.begin() + 2048, points.end());
      if (r.rho > 0.0F) {
        CHECK(std::fabs(points[2048] / r.points[bits - 2] - 1.0) < 1.0 / 3.0);
      } else {
        CHECK(rms(d, &block_distortion::md_point) > 3.0 * points[2048]);
      }
    }
  }
}
