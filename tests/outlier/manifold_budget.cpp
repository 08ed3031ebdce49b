// What budgets are spent on, against every other way to spend them where these can be counted; and
// the report.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "../ops/executors.hpp"
#include "blocks.hpp"
#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/outlier/budget.hpp"
#include "lowbit/outlier/distortion_report.hpp"

using namespace lowbit;
using namespace lowbit::outlier;
using test::floats;

namespace {

const kernels::context best = kernels::context::best();
constexpr index_t n = 60;
constexpr index_t k = 8;

/// Correlated weights in one stripe, and a trial.
struct problem {
  floats w;
  floats q;
  weight_manifold m;
  explicit problem(floats weights, const manifold_params& p = {.dimension = k})
      : w(std::move(weights)), q(test::noisy(w, 0.3F, 2)), m(w.view(), p, best) {}

  [[nodiscard]] std::vector<float> scores(const outlier_policy& policy = {}) const {
    const auto s = distortion_scores(m, w.view(), q.view(), policy, best);
    return {s.begin(), s.end()};
  }
  [[nodiscard]] double md(index_t row, const floats& approximation) const {
    return measure_distortion(m, w.view(), approximation.view(), best)(row, 0).md;
  }
  /// Sum of MD^2 where the weights at these places are kept.
  [[nodiscard]] double without(const std::vector<index_t>& places) const {
    floats kept = q;
    for (const index_t i : places) kept.values[i] = w.values[i];
    double sum = 0.0;
    for (const auto& b : measure_distortion(m, w.view(), kept.view(), best).blocks) {
      sum += b.md * b.md;
    }
    return sum;
  }
};

std::vector<index_t> top(const std::vector<float>& scores, index_t count) {
  std::vector<index_t> order(scores.size());
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t a, index_t b) { return scores[a] > scores[b]; });
  order.resize(count);
  return order;
}

}  // namespace

TEST_CASE("scores are what keeping a weight takes off MD^2") {
  for (const auto points : {neighbourhood::stripe, neighbourhood::knn}) {
    const problem p(test::correlated(n, k, 0.9F, 1, k),
                    {.dimension = k, .points = points, .neighbours = 40});
    REQUIRE(p.m.tangent(0, 0) < k);
    const auto scores = p.scores();
    const double all = p.without({});
    double least = all;
    for (index_t i = 0; i < scores.size(); i += 3) {
      const double gain = all - p.without({i});
      const auto s = static_cast<double>(scores[i]);
      CHECK((s >= 0.0 && s < 1.0));
      // g / (1 + g) as a float.
      if (gain > 0.0) CHECK(std::fabs(s - gain / (1.0 + gain)) < 1e-6);
      if (gain < 0.0) CHECK(s == 0.0F);
    }
    for (index_t i = 0; i < scores.size(); ++i) least = std::min(least, p.without({i}));
    CHECK(std::fabs(p.without(top(scores, 1)) - least) < 1e-6);
  }
}

TEST_CASE("where axes are coordinates, the highest scores are the best of all choices") {
  // t = 2 of 4; errors of coordinates 2 and 3 count, each on its own. A permutation of few weights.
  floats w(12, 4);
  for (index_t i = 0; i < 12; ++i) {
    w(i, 0) = i % 2 == 0 ? 8.0F : -8.0F;
    w(i, 1) = i % 4 < 2 ? 8.0F : -8.0F;
    w(i, 2) = i % 8 < 4 ? 1.0F : -1.0F;
    w(i, 3) = i % 3 == 0 ? 1.0F : -0.5F;
  }
  problem p(w, {.dimension = 4, .variance = 0.9});
  REQUIRE(p.m.tangent(0, 0) == 2);
  for (index_t i = 0; i < 12; ++i) {
    for (index_t j = 0; j < 4; ++j) p.q(i, j) = w(i, j);
  }
  for (const index_t i : {1U, 4U, 7U}) {  // 12 weights with errors: 4096 choices
    for (index_t j = 0; j < 4; ++j) p.q(i, j) += 0.3F * random_normal(3, i * 4 + j);
  }
  const auto scores = p.scores();
  std::vector<index_t> places;
  for (const index_t i : {1U, 4U, 7U}) {
    for (index_t j = 0; j < 4; ++j) places.push_back(i * 4 + j);
  }
  double least[13];
  std::fill(std::begin(least), std::end(least), 1e300);
  for (unsigned choice = 0; choice < 4096; ++choice) {
    std::vector<index_t> kept;
    for (index_t i = 0; i < 12; ++i) {
      if (((choice >> i) & 1U) != 0) kept.push_back(places[i]);
    }
    if (kept.size() <= 6) least[kept.size()] = std::min(least[kept.size()], p.without(kept));
  }
  for (index_t count = 1; count <= 6; ++count) {
    // The axes are tilted by the correlations of 12 rows, which a greedy choice does not see.
    CHECK(p.without(top(scores, count)) <= least[count] * 1.05 + 1e-12);
  }
}

TEST_CASE("blocks that are to be functional come first, as many as can be satisfied") {
  const problem p(test::correlated(n, k, 0.9F, 1, k));
  std::vector<block_class> classes(n);
  for (index_t i = 0; i < n; ++i) {
    if (i % 4 == 1) classes[i] = {outlier_class::functional, 0.0};
    if (i % 4 == 2) classes[i] = {outlier_class::sensitive, 1.0};
    if (i % 4 == 3) classes[i] = {outlier_class::overlapping, 0.25};
  }
  const outlier_policy policy{classes, {.functional = 0.7}};
  const auto plain = p.scores();
  const auto scores = p.scores(policy);
  floats kept = p.q;
  index_t before = 0;
  for (index_t i = 0; i < n; ++i) {
    CAPTURE(i);
    const bool constrained = i % 2 == 1;
    const bool misses = constrained && p.md(i, p.q) > 0.7;
    before += misses ? 1U : 0U;
    std::vector<index_t> first;
    for (index_t j = 0; j < k; ++j) {
      const float s = scores[i * k + j];
      if (s > 1.0F) {
        first.push_back(j);
        kept(i, j) = p.w(i, j);
      } else if (i % 4 == 2) {
        CHECK(s == 0.0F);
      } else if (i % 4 != 3) {
        CHECK(s == plain[i * k + j]);
      } else {
        CHECK(s <= plain[i * k + j]);
      }
    }
    CHECK(misses == !first.empty());
    for (const index_t j : first) {
      CHECK(scores[i * k + j] == 1.0F + 1.0F / static_cast<float>(first.size() + 1));
    }
    if (first.empty()) continue;
    // The number is never below the least of all subsets, and here at most one above.
    index_t fewest = k;
    for (unsigned subset = 1; subset < 256; ++subset) {
      std::vector<double> e(k);
      index_t count = 0;
      for (index_t j = 0; j < k; ++j) {
        if (((subset >> j) & 1U) != 0) {
          ++count;
        } else {
          e[j] = static_cast<double>(p.w(i, j)) - static_cast<double>(p.q(i, j));
        }
      }
      if (p.m.measure_block(i, 0, e, 1.0).md <= 0.7) fewest = std::min(fewest, count);
    }
    CHECK(first.size() >= fewest);
    CHECK(first.size() <= fewest + 1);
  }
  CHECK(before > 5);
  for (index_t i = 1; i < n; i += 2) CHECK(p.md(i, kept) <= 0.7 * (1.0 + 1e-12));
  CHECK_THROWS_AS(p.scores({std::span(classes).first(3), {}}), shape_error);
}

TEST_CASE(
    "scores have the same bits on every tier and executor; a constant stripe scores nothing") {
  const problem p(test::correlated(n, 20, 0.8F, 4, 20));
  const auto expected = p.scores();
  for (const auto& v : kernels::dense_variants) {
    if (!v.is_supported(best.allowed)) continue;
    test::on_each_executor({.allowed = v.needs}, {2}, [&](const kernels::context& ctx) {
      const auto s = distortion_scores(p.m, p.w.view(), p.q.view(), {}, ctx);
      CHECK(std::vector<float>(s.begin(), s.end()) == expected);
    });
  }
  for (const float s : problem(floats(n, k)).scores()) CHECK(s == 0.0F);
}

TEST_CASE("bits go where every target is met if any choice meets it, and then where error falls") {
  constexpr index_t blocks = 5;
  constexpr index_t options = 3;
  constexpr index_t choices = 243;
  index_t feasible = 0;
  index_t infeasible = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::vector<bit_candidate> table;
    std::vector<block_class> classes;
    double largest_step = 0.0;
    for (index_t b = 0; b < blocks; ++b) {
      const auto x = [&](index_t i) {
        return static_cast<double>(random_uniform(seed, b * 16 + i));
      };
      classes.push_back(classify(x(0) < 0.5 ? 1.0 : 0.0, x(1) < 0.3 ? 1.0 : 0.0));
      // Convex: error falls by a half or more per step, steps cost the same bits.
      double error = 1.0 + x(2);
      double md = 0.3 + x(3);
      for (index_t o = 0; o < options; ++o) {
        table.push_back({.bits = 64 + 32 * o, .md = md, .error = error, .accepts_noise = false});
        const double next = error * 0.5 * x(4);
        if (o + 1 < options) largest_step = std::max(largest_step, error - next);
        error = next;
        md *= 0.4 + 0.2 * x(5);
      }
    }
    const outlier_policy policy{classes, {.functional = 0.4, .sensitive = 0.3}};
    const std::uint64_t budget = 320 + 32 * (seed % 11);
    const auto found = allocate_bits(table, options, budget, policy);

    index_t fewest_missed = blocks;
    double least_error = 1e300;
    for (index_t choice = 0; choice < choices; ++choice) {
      std::uint64_t bits = 0;
      index_t missed = 0;
      double error = 0.0;
      for (index_t b = 0, rest = choice; b < blocks; ++b, rest /= options) {
        const auto& c = table[b * options + rest % options];
        const auto kind = classes[b].kind;
        const bool func = kind == outlier_class::functional || kind == outlier_class::overlapping;
        const bool priv = kind == outlier_class::sensitive || kind == outlier_class::overlapping;
        bits += c.bits;
        error += c.error;
        missed += (func && c.md > 0.4) || (priv && c.md < 0.3) ? 1U : 0U;
      }
      if (bits > budget) continue;
      if (missed < fewest_missed || (missed == fewest_missed && error < least_error)) {
        least_error = error;
        fewest_missed = missed;
      }
    }
    std::set<index_t> missed(found.not_functional.begin(), found.not_functional.end());
    missed.insert(found.not_sensitive.begin(), found.not_sensitive.end());
    std::uint64_t bits = 0;
    double error = 0.0;
    for (index_t b = 0; b < blocks; ++b) {
      bits += table[b * options + found.choice[b]].bits;
      error += table[b * options + found.choice[b]].error;
    }
    CHECK(found.bits == bits);
    CHECK(bits <= budget);
    CHECK(std::fabs(found.error - error) < 1e-12);
    CHECK(missed.size() == fewest_missed);
    // Greedy on convex curves is exact up to the step that no longer fits. With all targets met
    // nothing else separates the two.
    if (fewest_missed == 0) {
      ++feasible;
      CHECK(error >= least_error - 1e-12);
      CHECK(error <= least_error + largest_step);
    } else {
      ++infeasible;
    }
  }
  CHECK(feasible > 20);
  CHECK(infeasible > 20);
}

TEST_CASE("without classes, convex curves of equal steps are allocated at the optimum") {
  std::vector<bit_candidate> table;
  for (index_t b = 0; b < 6; ++b) {
    const double scale = 1.0 + static_cast<double>(random_uniform(5, b)) * 8.0;
    for (index_t o = 0; o < 3; ++o) {
      table.push_back({.bits = 10 * (o + 1), .error = scale / std::pow(4.0, o)});
    }
  }
  for (std::uint64_t budget = 60; budget <= 180; budget += 10) {
    double least = 1e300;
    for (index_t choice = 0; choice < 729; ++choice) {
      std::uint64_t bits = 0;
      double error = 0.0;
      for (index_t b = 0, rest = choice; b < 6; ++b, rest /= 3) {
        bits += table[b * 3 + rest % 3].bits;
        error += table[b * 3 + rest % 3].error;
      }
      if (bits <= budget) least = std::min(least, error);
    }
    const auto found = allocate_bits(table, 3, budget);
    CHECK(std::fabs(found.error - least) < 1e-12);
    CHECK((found.bits <= budget && found.bits + 10 > budget));
  }
  CHECK(lowbit_test::message_of<value_error>([&] {
          static_cast<void>(allocate_bits(table, 3, 59));
        }) == "the cheapest candidates take 60 bits, available are 59");
  CHECK_THROWS_AS(allocate_bits(table, 5, 1000), shape_error);
  CHECK_THROWS_AS(allocate_bits(table, 0, 1000), shape_error);
  table[4].error = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(allocate_bits(table, 3, 1000), value_error);
  CHECK(allocate_bits({}, 3, 0).choice.empty());
}

TEST_CASE("sensitive blocks take noise where they may, and an undefined MD meets nothing") {
  const block_class priv{outlier_class::sensitive, 1.0};
  const block_class func{outlier_class::functional, 0.0};
  const block_class both{outlier_class::overlapping, 0.5};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<bit_candidate> table{
      {.bits = 1, .md = 0.1, .error = 1, .accepts_noise = true},
      {.bits = 1, .md = 0.1, .error = 1, .accepts_noise = false},
      {.bits = 1, .md = 0.1, .error = 1, .accepts_noise = true},
      {.bits = 1, .md = nan, .error = 1, .accepts_noise = false},
      {.bits = 1, .md = 0.9, .error = 1, .accepts_noise = false}};
  const std::vector<block_class> classes{priv, priv, both, func, priv};
  const auto found = allocate_bits(table, 1, 5, {classes, {.functional = 0.5, .sensitive = 0.4}});
  CHECK(found.need_noise == std::vector<index_t>{0, 2});
  CHECK(found.not_sensitive == std::vector<index_t>{1});
  CHECK(found.not_functional == std::vector<index_t>{3});
  // Targets that exclude each other: an overlapping block is left as it is.
  const auto torn = allocate_bits(table, 1, 5, {classes, {.functional = 0.5, .sensitive = 0.6}});
  CHECK(torn.need_noise == std::vector<index_t>{0});
  CHECK(torn.not_sensitive == std::vector<index_t>{1, 2});
}

TEST_CASE("candidates of a layer are in the order of its blocks") {
  const problem p(test::correlated(n, 12, 0.9F, 6, 12));
  const auto d = measure_distortion(p.m, p.w.view(), p.q.view(), best);
  const auto exact = measure_distortion(p.m, p.w.view(), p.w.view(), best);
  const std::vector<double> errors(2 * n, 1.0);
  const std::vector<double> none(2 * n, 0.0);
  const bit_option options[] = {{&d, errors, 21}, {&exact, none, 128}};
  const auto table = bit_candidates(p.m, options, true);
  REQUIRE(table.size() == 4 * n);
  for (index_t b = 0; b < 2 * n; ++b) {
    CHECK(table[2 * b].bits == (b % 2 == 0 ? 21 : 11));  // 8 and 4 columns
    CHECK(table[2 * b].md == d.blocks[b].md);
    CHECK(table[2 * b].error == 1.0);
    CHECK(table[2 * b + 1].md == 0.0);
    CHECK(table[2 * b].accepts_noise == (p.m.tangent(0, b % 2) < (b % 2 == 0 ? 8U : 4U)));
  }
  CHECK_THROWS_AS(bit_candidates(p.m, std::vector<bit_option>{{&d, {}, 1}}, true), shape_error);
}

TEST_CASE("noise raises MD to its target, by little more than it must") {
  problem p(test::correlated(n, k, 0.9F, 7, k));
  for (index_t i = 0; i < n; ++i) {
    CAPTURE(i);
    const double before = p.md(i, p.q);
    const floats untouched = p.q;
    const auto amplitude = add_noise(p.m, p.w.view(), p.q.view(), i, 0, 0.8, 9);
    REQUIRE(amplitude.has_value());
    const double after = p.md(i, p.q);
    CHECK(after >= 0.8);
    if (before >= 0.8) {
      CHECK(*amplitude == 0.0);
      CHECK(p.q.values == untouched.values);
    } else {
      // One part in a million of the amplitude, and floats of 2^-24 that round |v| < 8.
      CHECK(after < 0.8 * (1.0 + 1e-5) + 1e-5);
      floats again = untouched;
      CHECK(add_noise(p.m, p.w.view(), again.view(), i, 0, 0.8, 9) == amplitude);
      CHECK(again.values == p.q.values);
    }
  }
  problem full(test::correlated(n, k, 0.9F, 7, k), {.dimension = k, .variance = 1.0});
  CHECK(!add_noise(full.m, full.w.view(), full.q.view(), 0, 0, 0.8, 9).has_value());
  problem constant{floats(n, k)};
  CHECK(!add_noise(constant.m, constant.w.view(), constant.q.view(), 0, 0, 0.8, 9).has_value());
  CHECK_THROWS_AS(add_noise(p.m, p.w.view(), p.q.view(), n, 0, 0.8, 9), shape_error);
  CHECK(!find_amplitude(1.0, 0.5, [](double) { return 0.0; }).has_value());
}

TEST_CASE("the report has the errors that double arithmetic has, and ranks blocks by them") {
  const problem p(test::correlated(n, 24, 0.8F, 8, 24));
  std::vector<double> root(24 * 24);
  std::vector<double> h(24 * 24);
  for (index_t i = 0; i < root.size(); ++i) root[i] = static_cast<double>(random_normal(9, i));
  for (index_t i = 0; i < 24; ++i) {
    for (index_t j = 0; j < 24; ++j) {
      for (index_t r = 0; r < 24; ++r) h[i * 24 + j] += root[r * 24 + i] * root[r * 24 + j];
    }
  }
  const matrix_view<const double> h_view(h.data(), 24, 24);
  const auto report = md_report(p.m, p.w.view(), p.q.view(), h_view, best);
  const auto costs = block_hessian_errors(p.m, p.w.view(), p.q.view(), h_view, best);
  double squared = 0.0;
  double whole = 0.0;
  for (index_t i = 0; i < n; ++i) {
    double e[24];
    for (index_t c = 0; c < 24; ++c) {
      e[c] = static_cast<double>(p.w(i, c)) - static_cast<double>(p.q(i, c));
      squared += e[c] * e[c];
    }
    double block[3] = {};
    for (index_t a = 0; a < 24; ++a) {
      for (index_t b = 0; b < 24; ++b) {
        const double term = e[a] * h[a * 24 + b] * e[b];
        whole += term;
        if (a / k == b / k) block[a / k] += term;
      }
    }
    // 64 terms that may cancel: relative to |e|^2 |H|, both below 100.
    for (index_t c = 0; c < 3; ++c) CHECK(std::fabs(costs[i * 3 + c] - block[c]) < 1e-10);
  }
  CHECK(report.blocks == 3 * n);
  CHECK(std::fabs(report.squared_error - squared) < 1e-12 * squared);
  CHECK(std::fabs(report.hessian_error - whole) < 1e-12 * whole);
  const auto layer = measure_distortion(p.m, p.w.view(), p.q.view(), best);
  CHECK(report.md == aggregate(layer));
  CHECK(report.md_largest == aggregate(layer, layer_aggregate::largest));
  CHECK(report.md_percentile_95 <= report.md_largest);
  std::vector<double> md;
  for (const auto& b : layer.blocks) md.push_back(b.md);
  CHECK(report.md_rank == rank_correlation(md, costs));

  // H = I: e^T H e is |e|^2.
  std::vector<double> identity(24 * 24);
  for (index_t i = 0; i < 24; ++i) identity[i * 25] = 1.0;
  const auto plain = md_report(p.m, p.w.view(), p.q.view(),
                               matrix_view<const double>(identity.data(), 24, 24), best);
  CHECK(plain.error_rank > 1.0 - 1e-6);  // sums in another order may swap neighbours
  CHECK(std::fabs(plain.hessian_error - squared) < 1e-12 * squared);

  const auto without = md_report(p.m, p.w.view(), p.q.view(), {}, best);
  CHECK((std::isnan(without.hessian_error) && std::isnan(without.md_rank)));
  CHECK(without.md == report.md);
  CHECK_THROWS_AS(md_report(p.m, p.w.view(), p.q.view(), h_view.middle_rows({0, 23}), best),
                  shape_error);

  const auto tensor =
      formats::uniform_quantizer{.params = {.bits = 3, .group_size = 8}}.quantize(p.w.view(), {});
  floats values(n, 24);
  tensor.dequantize({0, n}, values.view());
  const auto of_tensor = md_report(p.m, p.w.view(), tensor, h_view, best);
  const auto of_values = md_report(p.m, p.w.view(), values.view(), h_view, best);
  CHECK(of_tensor.md == of_values.md);
  CHECK(of_tensor.hessian_error == of_values.hessian_error);
}
