// ptq::apply_feedback is GPTQ: bit for bit what the algorithm gives column by column on the whole
// matrix. Blocks change nothing, because a weight receives the same corrections in the same order.
#include "lowbit/ptq/error_feedback.hpp"

#include "catch.hpp"
#include "lowbit/formats/envelope/quantizer.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ptq/refine.hpp"
#include "ops/executors.hpp"
#include "problems.hpp"

using namespace lowbit;
using formats::sbvr_quantizer;
using formats::uniform_quantizer;

namespace {

const kernels::context best = kernels::context::best();

/// U of H^-1 = U^T U. H must be positive definite.
test::double_matrix factor_of(matrix_view<const double> h) {
  test::double_matrix u(h.shape());
  REQUIRE(linalg::inverse_upper_factor(h, u.view(), best));
  return u;
}

/// GPTQ as its paper writes it, a row at a time, without blocks.
template <class Codec>
typename Codec::tensor plain_gptq(const Codec& codec, matrix_view<const float> w,
                                  const test::double_matrix& u, std::span<const float> importance,
                                  std::span<const index_t> order) {
  auto t = codec.make_tensor();
  const index_t k = w.cols();
  const index_t size = codec.group_size();
  const index_t count = index_t{1} << codec.bits();
  const auto weights_of = [&](index_t begin, index_t end) {
    return importance.empty() ? importance : importance.subspan(begin, end - begin);
  };
  std::vector<std::vector<float>> levels(div_up(k, size), std::vector<float>(count));
  const auto fit = [&](index_t row, index_t g, std::span<const float> x) {
    const auto l = codec.fit(row, g, x, weights_of(g * size, g * size + x.size()));
    codec.store(t, row, g, l);
    codec.values(l, levels[g]);
  };
  for (index_t row = 0; row < w.rows(); ++row) {
    std::vector<double> v(k);
    for (index_t i = 0; i < k; ++i)
      v[i] = static_cast<double>(w(row, order.empty() ? i : order[i]));
    if (!order.empty()) {
      for (index_t g = 0; g < levels.size(); ++g) {
        fit(row, g, w.row(row).subspan(g * size, std::min(size, k - g * size)));
      }
    }
    std::vector<std::uint8_t> codes(k);
    for (index_t i = 0; i < k; ++i) {
      const index_t column = order.empty() ? i : order[i];
      if (order.empty() && i % size == 0) {
        std::vector<float> x(std::min(size, k - i));
        for (index_t j = 0; j < x.size(); ++j) x[j] = static_cast<float>(v[i + j]);
        fit(row, i / size, x);
      }
      const auto& of_group = levels[column / size];
      codes[column] = test::nearest_code(of_group, v[i]);
      const double e = (v[i] - static_cast<double>(of_group[codes[column]])) / u(i, i);
      for (index_t j = i + 1; j < k; ++j) v[j] = std::fma(-e, u(i, j), v[j]);
    }
    t.set_codes(row, codes);
  }
  return t;
}

template <class Q>
typename Q::tensor feed_back(const Q& q, matrix_view<const float> w, matrix_view<const double> h,
                             std::span<const float> importance, std::span<const index_t> order,
                             const kernels::context& ctx) {
  const auto codec = q.prepare(w, {.importance = importance}, 1.25F);
  ptq::coding<typename Q::codec> state(codec, w);
  ptq::apply_feedback(state, h, importance, {.order = order}, ctx);
  return state.make_tensor();
}
template <class Q>
typename Q::tensor feed_back(const Q& q, matrix_view<const float> w, matrix_view<const double> h) {
  return feed_back(q, w, h, {}, {}, best);
}
template <class Q>
typename Q::tensor nearest(const Q& q, matrix_view<const float> w) {
  const auto codec = q.prepare(w, {}, 1.0F);
  ptq::coding<typename Q::codec> state(codec, w);
  state.round_to_nearest({}, best);
  return state.make_tensor();
}

struct problem {
  test::test_matrix w;
  observers::second_moments moments;
};

/// Weights, and a positive definite Hessian of inputs.
problem make_problem(shape2 shape, std::uint64_t seed) {
  const auto x = test::correlated_inputs({shape.cols / 2 + 40, shape.cols}, 5, seed);
  problem p{testing::normal_matrix(shape, seed + 10), test::moments_of(x.view())};
  ptq::damp(p.moments.matrix(), 0.01);
  return p;
}
matrix_view<const double> hessian(const problem& p) { return p.moments.matrix(); }

/// A permutation of 0 .. n-1.
std::vector<index_t> shuffled(index_t n, std::uint64_t seed) {
  std::vector<index_t> order(n);
  std::iota(order.begin(), order.end(), index_t{0});
  for (index_t i = n; i > 1; --i) std::swap(order[i - 1], order[random_bits(seed, i) % i]);
  return order;
}

uniform_quantizer uniform_of(unsigned bits, symmetry kind, std::uint32_t group) {
  return {.params = {.bits = bits, .kind = kind, .group_size = group}};
}
uniform_quantizer uniform_rows(unsigned bits, symmetry kind, formats::granularity which) {
  return {.params = {.bits = bits, .kind = kind, .granularity = which}};
}
sbvr_quantizer sbvr_of(unsigned planes, std::uint32_t group) {
  return {.params = {.planes = planes, .group_size = group}};
}

/// Compares with plain_gptq in the natural order and in a shuffled one, weighted and not.
template <class Q>
void check_against_plain(const Q& q, shape2 shape, std::uint64_t seed) {
  const problem p = make_problem(shape, seed);
  const std::vector<float> importance = p.moments.importance();
  for (const auto& weights : {std::vector<float>{}, importance}) {
    const auto codec = q.prepare(p.w.view(), {.importance = weights}, 1.25F);
    INFO("[" << shape.rows << ", " << shape.cols << "], seed " << seed << ", groups of "
             << codec.group_size() << (weights.empty() ? "" : ", weighted"));
    CHECK(test::difference(feed_back(q, p.w.view(), hessian(p), weights, {}, best),
                           plain_gptq(codec, p.w.view(), factor_of(hessian(p)), weights, {})) ==
          "");

    const auto order = shuffled(shape.cols, seed);
    test::double_matrix ordered({shape.cols, shape.cols});
    for (index_t i = 0; i < shape.cols; ++i) {
      for (index_t j = 0; j < shape.cols; ++j) ordered(i, j) = hessian(p)(order[i], order[j]);
    }
    CHECK(test::difference(
              feed_back(q, p.w.view(), hessian(p), weights, order, best),
              plain_gptq(codec, p.w.view(), factor_of(ordered.view()), weights, order)) == "");
  }
}

}  // namespace

TEST_CASE("feedback equals GPTQ column by column: uniform") {
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    for (const std::uint32_t group : {32U, 96U, 128U, 200U}) {
      for (const shape2 shape : {shape2{3, 70}, {2, 200}, {2, 300}}) {
        check_against_plain(uniform_of(3, kind, group), shape, 100 + group);
      }
    }
    check_against_plain(uniform_rows(4, kind, formats::granularity::channel), {3, 270}, 3);
    check_against_plain(uniform_rows(4, kind, formats::granularity::tensor), {3, 270}, 4);
  }
  check_against_plain(uniform_of(2, symmetry::symmetric, 1), {2, 37}, 5);
  check_against_plain(uniform_of(1, symmetry::symmetric, 5), {2, 131}, 6);
  check_against_plain(uniform_of(8, symmetry::asymmetric, 7), {1, 129}, 7);
  check_against_plain(uniform_of(4, symmetry::symmetric, 64), {70, 130}, 8);  // two tasks
  check_against_plain(uniform_of(4, symmetry::symmetric, 64), {3, 1}, 9);
}

TEST_CASE("feedback equals GPTQ column by column: sbvr") {
  for (const std::uint32_t group : {32U, 96U, 128U, 200U, 256U}) {
    for (const shape2 shape : {shape2{2, 70}, {2, 300}}) {
      check_against_plain(sbvr_of(2, group), shape, 200 + group);
    }
  }
  check_against_plain(sbvr_of(4, 128), {66, 130}, 9);
  sbvr_quantizer coded = sbvr_of(2, 64);
  coded.params.scale_bits = 5;
  coded.params.offset = formats::sbvr_offset::per_group;
  check_against_plain(coded, {3, 200}, 10);
}

TEST_CASE("feedback equals GPTQ column by column: envelope") {
  check_against_plain(formats::envelope_quantizer{}, {3, 200}, 11);
  check_against_plain(formats::envelope_quantizer{.params = {.planes = 3, .envelope_rank = 2}},
                      {70, 40}, 12);
}

TEST_CASE("feedback under H = 1 is round to nearest") {
  const auto w = testing::normal_matrix({67, 150}, 3);
  test::double_matrix h = test::identity(150);
  for (const double size : {1.0, 4.0, 0x1p-40}) {
    for (index_t k = 0; k < 150; ++k) h(k, k) = size;
    CHECK(test::difference(feed_back(uniform_of(3, symmetry::asymmetric, 40), w.view(), h.view()),
                           nearest(uniform_of(3, symmetry::asymmetric, 40), w.view())) == "");
    CHECK(test::difference(feed_back(sbvr_of(3, 64), w.view(), h.view()),
                           nearest(sbvr_of(3, 64), w.view())) == "");
  }
}

TEST_CASE("feedback leaves less output error than round to nearest") {
  // Of 60 problems, all: feedback gains a factor where inputs are correlated, chance a few percent.
  index_t problems = 0;
  const auto compare = [&](const auto& q, shape2 shape, std::uint64_t seed) {
    const problem p = make_problem(shape, seed);
    const auto with = test::dequantized(feed_back(q, p.w.view(), hessian(p)));
    const auto without = test::dequantized(nearest(q, p.w.view()));
    INFO("seed " << seed << ", [" << shape.rows << ", " << shape.cols << "]");
    CHECK(test::objective_of(p.w.view(), with.view(), hessian(p)).value <
          test::objective_of(p.w.view(), without.view(), hessian(p)).value);
    ++problems;
  };
  for (std::uint64_t seed = 1000; seed < 1020; ++seed) {
    compare(uniform_of(2, symmetry::asymmetric, 64), {4, 96}, seed);
    compare(uniform_of(4, symmetry::symmetric, 32), {4, 130}, seed);
    compare(sbvr_of(2, 64), {4, 100}, seed);
  }
  CHECK(problems == 60);
}

TEST_CASE("feedback: the objective is what it minimises, the sum of e^2") {
  // Column by column e_j = (w_j - q_j) / U_jj, and tr (W - Q) H (W - Q)^T = sum of e_j^2 exactly in
  // exact arithmetic. Here it shows that a code per column is the best one, given those before:
  // no other code of the last column of each row lowers the objective.
  const problem p = make_problem({5, 60}, 77);
  const auto q = uniform_of(3, symmetry::asymmetric, 20);
  const auto t = feed_back(q, p.w.view(), hessian(p));
  const auto values = test::dequantized(t);
  for (index_t r = 0; r < 5; ++r) {
    std::vector<float> levels(8);
    for (unsigned u = 0; u < 8; ++u) levels[u] = decode(t.grid(), t.levels_of(r, 2), u);
    const auto row = p.w.view().middle_rows({r, r + 1});
    const double chosen =
        test::objective_of(row, values.view().middle_rows({r, r + 1}), hessian(p)).value;
    for (const float level : levels) {
      test::test_matrix other = values;
      other.values[r * 60 + 59] = level;
      const auto changed =
          test::objective_of(row, other.view().middle_rows({r, r + 1}), hessian(p));
      CHECK(changed.value >= chosen - 60 * 0x1p-50 * changed.magnitude);
    }
  }
}

TEST_CASE("static groups keep the levels of the original weights") {
  const problem p = make_problem({4, 130}, 31);
  const auto q = uniform_of(4, symmetry::asymmetric, 48);
  const auto order = shuffled(130, 5);
  const auto t = feed_back(q, p.w.view(), hessian(p), {}, order, best);
  const auto rounded = nearest(q, p.w.view());
  for (index_t r = 0; r < 4; ++r) {
    for (index_t g = 0; g < 3; ++g) {
      CHECK(t.levels_of(r, g).scale == rounded.levels_of(r, g).scale);
      CHECK(t.levels_of(r, g).zero_point == rounded.levels_of(r, g).zero_point);
    }
  }
}

TEST_CASE("feedback refuses what does not fit") {
  const problem p = make_problem({3, 40}, 4);
  const auto q = uniform_of(4, symmetry::symmetric, 16);
  const auto run = [&](matrix_view<const double> h, std::span<const index_t> order) {
    return [&q, &p, h, order] { static_cast<void>(feed_back(q, p.w.view(), h, {}, order, best)); };
  };
  const test::double_matrix wide = test::identity(41);
  CHECK_THROWS_AS(run(wide.view(), {})(), shape_error);
  CHECK_THROWS_AS(run(wide.view().middle_rows({0, 40}), {})(), shape_error);

  std::vector<index_t> order = shuffled(40, 1);
  order.pop_back();
  CHECK_THROWS_AS(run(hessian(p), order)(), shape_error);
  order = shuffled(40, 1);
  order[3] = 40;
  CHECK(lowbit_test::message_of<value_error>(run(hessian(p), order)).find("column 40") !=
        std::string::npos);
  order = shuffled(40, 1);
  order[39] = order[0];
  CHECK(lowbit_test::message_of<value_error>(run(hessian(p), order))
            .find("column " + std::to_string(order[0]) + " twice") != std::string::npos);

  for (const double damping :
       {-0.1, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    test::double_matrix h = test::identity(3);
    CHECK_THROWS_AS(ptq::damp(h.view(), damping), value_error);
  }
  test::double_matrix flat({2, 3});
  CHECK_THROWS_AS(ptq::damp(flat.view(), 0.01), shape_error);
}

TEST_CASE("feedback refuses a Hessian that is not positive semidefinite, and NaN") {
  const auto w = testing::normal_matrix({2, 20}, 4);
  const auto q = uniform_of(4, symmetry::symmetric, 16);
  test::double_matrix h = test::identity(20);
  h(7, 7) = -1.0;
  CHECK_THROWS_AS(feed_back(q, w.view(), h.view()), value_error);
  h = test::identity(20);
  h(3, 5) = h(5, 3) = 3.0;
  CHECK_THROWS_AS(feed_back(q, w.view(), h.view()), value_error);
  h = test::identity(20);
  h(19, 19) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(feed_back(q, w.view(), h.view()), value_error);
  h(19, 19) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(feed_back(q, w.view(), h.view()), value_error);
}

TEST_CASE("feedback bears singular Hessians") {
  const auto q = uniform_of(3, symmetry::asymmetric, 32);
  const auto w = testing::normal_matrix({5, 100}, 12);
  const auto error = [&](const auto& t, matrix_view<const double> h) {
    return test::objective_of(w.view(), test::dequantized(t).view(), h).value;
  };

  SECTION("fewer rows than columns") {
    const auto x = test::correlated_inputs({30, 100}, 4, 9);
    const auto m = test::moments_of(x.view());
    const auto h = std::as_const(m).matrix();
    CHECK(error(feed_back(q, w.view(), h), h) < 0.5 * error(nearest(q, w.view()), h));
  }
  SECTION("all zero: any rounding costs nothing, and it is nearest") {
    const test::double_matrix h({100, 100});
    CHECK(test::difference(feed_back(q, w.view(), h.view()), nearest(q, w.view())) == "");
  }
  SECTION("columns without input") {
    auto x = test::correlated_inputs({150, 100}, 4, 9);
    for (index_t t = 0; t < 150; ++t) {
      for (const index_t dead : {0U, 17U, 31U, 32U, 99U}) x.values[t * 100 + dead] = 0.0F;
    }
    auto m = test::moments_of(x.view());
    const auto undamped = test::copy_of(m.matrix());
    for (const double damping : {0.0, 0.01}) {
      if (damping > 0.0) ptq::damp(m.matrix(), damping);
      const auto h = std::as_const(m).matrix();
      const auto t = feed_back(q, w.view(), h);
      CHECK(error(t, undamped.view()) < error(nearest(q, w.view()), undamped.view()));
      // What no input reaches is rounded to nearest: the first column of a group meets no feedback
      // of dead columns, and takes none.
      const auto values = test::dequantized(t);
      for (index_t r = 0; r < 5; ++r) {
        for (const index_t dead : {0U, 17U, 31U, 32U, 99U}) {
          std::vector<float> levels(8);
          for (unsigned u = 0; u < 8; ++u) {
            levels[u] = decode(t.grid(), t.levels_of(r, dead / 32), u);
          }
          CHECK(values.view()(r, dead) ==
                levels[test::nearest_code(levels, static_cast<double>(w.view()(r, dead)))]);
        }
      }
    }
  }
}

TEST_CASE("damp: zeros become ones, anything else moves by a share of the mean") {
  test::double_matrix h({3, 3});
  ptq::damp(h.view(), 0.25);
  CHECK(h.values == test::identity(3).values);
  h(1, 1) = 4.0;  // the mean is 2
  h(0, 2) = h(2, 0) = 0.5;
  ptq::damp(h.view(), 0.25);
  CHECK(h(0, 0) == 1.5);
  CHECK(h(1, 1) == 4.5);
  CHECK(h(2, 2) == 1.5);
  CHECK(h(0, 2) == 0.5);
}

TEST_CASE("feedback gives the same bytes on every tier, at any number of workers, row by row") {
  const problem p = make_problem({150, 140}, 55);
  const auto order = shuffled(140, 6);
  const auto check = [&](const auto& q, std::span<const index_t> columns) {
    const auto expected = feed_back(q, p.w.view(), hessian(p), {}, columns, best);
    index_t tiers = 0;
    for (const cpu::tier& tier : cpu::tiers) {
      if (!best.allowed.contains(tier.features)) continue;
      ++tiers;
      INFO("tier " << tier.name);
      CHECK(test::difference(
                feed_back(q, p.w.view(), hessian(p), {}, columns, best.narrowed_to(tier.name)),
                expected) == "");
    }
    CHECK(tiers >= 1);
    test::on_each_executor(best, {1U, 2U, 3U}, [&](const kernels::context& ctx) {
      INFO(ctx.threads->workers() << " workers");
      CHECK(test::difference(feed_back(q, p.w.view(), hessian(p), {}, columns, ctx), expected) ==
            "");
    });
    const auto values = test::dequantized(expected);
    for (const row_range rows : {row_range{0, 1}, {1, 66}, {66, 150}}) {
      const auto part = test::dequantized(
          feed_back(q, p.w.view().middle_rows(rows), hessian(p), {}, columns, best));
      for (index_t r = 0; r < rows.size(); ++r) {
        const auto whole = values.view().row(rows.begin + r);
        CHECK(std::equal(whole.begin(), whole.end(), part.view().row(r).begin()));
      }
    }
  };
  check(uniform_of(3, symmetry::asymmetric, 48), {});
  check(uniform_of(3, symmetry::offset, 48), order);
  check(sbvr_of(2, 128), {});
}

TEST_CASE("feedback and refinement do not see the units of weights and inputs") {
  // Powers of two are exact all the way, square roots of powers of four, too: the same codes.
  const problem p = make_problem({5, 140}, 66);
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    uniform_quantizer q = uniform_of(3, kind, 48);
    q.params.scale_type = scale_type::fp32;
    const auto run = [&](int weight_exponent, int hessian_exponent, std::vector<double>& reported) {
      auto w = p.w;
      for (float& v : w.values) v = std::ldexp(v, weight_exponent);
      auto h = test::copy_of(hessian(p));
      for (double& v : h.values) v = std::ldexp(v, hessian_exponent);
      const auto codec = q.prepare(w.view(), {});
      ptq::coding<formats::uniform_codec> state(codec, w.view());
      ptq::apply_feedback(state, h.view(), {}, {}, best);
      reported = ptq::refine(state, h.view(), {.rounds = 2}, best);
      for (double& v : reported) v = std::ldexp(v, -2 * weight_exponent - hessian_exponent);
      auto values = test::dequantized(state.make_tensor()).values;
      for (float& v : values) v = std::ldexp(v, -weight_exponent);
      return values;
    };
    std::vector<double> expected_objectives;
    std::vector<double> objectives;
    const auto expected = run(0, 0, expected_objectives);
    for (const auto& [w, h] : {std::pair{40, 0}, {-40, 0}, {0, 100}, {0, -100}, {60, -200}}) {
      INFO("weights times 2^" << w << ", H times 2^" << h);
      CHECK(run(w, h, objectives) == expected);
      CHECK(objectives == expected_objectives);
    }
  }
}

TEST_CASE("feedback of an empty matrix") {
  const auto q = uniform_of(4, symmetry::symmetric, 16);
  const test::double_matrix none({0, 0});
  CHECK(feed_back(q, {nullptr, 0, 0}, none.view()).shape() == shape2{0, 0});
  CHECK(feed_back(q, {nullptr, 3, 0}, none.view()).shape() == shape2{3, 0});
  CHECK(feed_back(q, {nullptr, 0, 20}, test::identity(20).view()).shape() == shape2{0, 20});
  CHECK(feed_back(sbvr_quantizer{}, {nullptr, 3, 0}, none.view()).shape() == shape2{3, 0});
}

TEST_CASE("feedback tells a listener its steps, and one that throws stops it") {
  struct recorder final : ptq::listener {
    void advanced(std::string_view stage, index_t done, index_t total) override {
      const bool first = inside.exchange(true);
      if (first) overlapped = true;
      seen.push_back(std::string(stage) + " " + std::to_string(done) + "/" + std::to_string(total));
      if (seen.size() == stop_after) throw cancelled_error("enough");
      inside = false;
    }
    std::atomic<bool> inside = false;
    bool overlapped = false;
    std::vector<std::string> seen;
    index_t stop_after = 0;
  };
  const problem p = make_problem({200, 50}, 8);
  const auto q = uniform_of(4, symmetry::symmetric, 16);
  const auto codec = q.prepare(p.w.view(), {}, 1.0F);
  ptq::coding<formats::uniform_codec> state(codec, p.w.view());

  recorder all;
  ptq::apply_feedback(state, hessian(p), {}, {.progress = &all}, best);
  CHECK(all.seen == std::vector<std::string>{"factor 0/1", "factor 1/1", "feedback 1/4",
                                             "feedback 2/4", "feedback 3/4", "feedback 4/4"});
  for (index_t stop = 1; stop <= 6; ++stop) {
    recorder some;
    some.stop_after = stop;
    CHECK_THROWS_AS(ptq::apply_feedback(state, hessian(p), {}, {.progress = &some}, best),
                    cancelled_error);
    CHECK(some.seen.size() == stop);
  }
}
