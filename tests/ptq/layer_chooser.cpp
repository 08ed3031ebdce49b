// ptq::choose_layers against every choice there is, on lists small enough for that.
#include "lowbit/ptq/layer_chooser.hpp"

#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

namespace {

using namespace lowbit;
using ptq::layer_candidates;
using ptq::layer_option;
using ptq::layer_plan;

/// Losses are integers, so that sums are exact in any order.
std::vector<layer_candidates> random_layers(index_t count, std::uint64_t seed) {
  std::vector<layer_candidates> layers;
  for (index_t i = 0; i < count; ++i) {
    layer_candidates layer{lowbit::detail::message("layer", i), 10 * (i + 1), {}};
    const index_t options = 1 + random_bits(seed, 100 * i) % 5;
    for (index_t k = 0; k < options; ++k) {
      layer.options.push_back({random_bits(seed, 100 * i + 2 * k + 1) % 12,
                               static_cast<double>(random_bits(seed, 100 * i + 2 * k + 2) % 30)});
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

struct totals {
  std::uint64_t bits = 0;
  double loss = 0.0;
};

/// Calls f(totals) for every choice.
template <class F>
void for_each_choice(const std::vector<layer_candidates>& layers, F&& f) {
  std::vector<index_t> at(layers.size(), 0);
  while (true) {
    totals t;
    for (index_t i = 0; i < layers.size(); ++i) {
      t.bits += layers[i].options[at[i]].bits;
      t.loss += layers[i].options[at[i]].loss;
    }
    f(t);
    index_t i = 0;
    while (i < at.size() && ++at[i] == layers[i].options.size()) at[i++] = 0;
    if (i == at.size()) return;
  }
}

double best_loss(const std::vector<layer_candidates>& layers, std::uint64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  for_each_choice(layers, [&](const totals& t) {
    if (t.bits <= budget) best = std::min(best, t.loss);
  });
  return best;
}

std::uint64_t least_bits(const std::vector<layer_candidates>& layers) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  for_each_choice(layers, [&](const totals& t) { least = std::min(least, t.bits); });
  return least;
}

}  // namespace

TEST_CASE("plans are within budget, add up, and are as near the best choice as they say") {
  index_t optimal = 0;
  index_t plans = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const auto layers = random_layers(4, seed);
    const std::uint64_t least = least_bits(layers);
    if (least > 0) CHECK_THROWS_AS(ptq::choose_layers(layers, least - 1), value_error);
    for (std::uint64_t budget = least; budget < least + 30; ++budget) {
      const layer_plan plan = ptq::choose_layers(layers, budget);
      const double best = best_loss(layers, budget);
      CAPTURE(seed, budget);
      totals t;
      for (index_t i = 0; i < layers.size(); ++i) {
        t.bits += layers[i].options[plan.option[i]].bits;
        t.loss += layers[i].options[plan.option[i]].loss;
      }
      CHECK(t.bits == plan.bits);
      CHECK(t.loss == plan.loss);
      CHECK(plan.bits <= budget);
      CHECK(plan.loss >= best);
      CHECK(plan.least_possible <= best * (1.0 + 0x1p-40) + 0x1p-40);
      CHECK(plan.least_possible <= plan.loss);
      ++plans;
      optimal += plan.loss == best ? 1 : 0;

      // With exactly the bits of the steps along the hulls, the plan is the best choice.
      std::uint64_t used = plan.bits;
      for (index_t i = plan.hull_steps; i < plan.steps.size(); ++i) used -= plan.steps[i].bits;
      const layer_plan exact = ptq::choose_layers(layers, used);
      CHECK(exact.hull_steps == exact.steps.size());
      CHECK(exact.loss == best_loss(layers, used));
    }
  }
  // Elsewhere it usually is as well: not a promise, but a fill-up that does nothing would show.
  CAPTURE(optimal, plans);
  CHECK(optimal * 10 >= plans * 8);
}

TEST_CASE("steps go by what they save per bit, of equal ones the first layer's first") {
  // Hulls: a saves 4 per bit, then 1; b 2 per bit, and its middle option is above the hull; c ties
  // with b.
  const std::vector<layer_candidates> layers{
      {"a", 10, {{10, 100.0}, {20, 60.0}, {40, 40.0}}},
      {"b", 10, {{10, 50.0}, {15, 49.0}, {20, 30.0}}},
      {"c", 10, {{20, 10.0}, {10, 30.0}}},
  };
  const layer_plan plan = ptq::choose_layers(layers, 55);
  CHECK(plan.option == std::vector<index_t>{1, 2, 1});
  CHECK(plan.bits == 50);
  CHECK(plan.loss == 60.0 + 30.0 + 30.0);
  CHECK(plan.hull_steps == 2);
  CHECK(plan.least_possible == 120.0 - 5 * 2.0);
  REQUIRE(plan.steps.size() == 2);
  CHECK(plan.steps[0].layer == 0);
  CHECK(plan.steps[1].layer == 1);
  CHECK(plan.steps[1].saved_per_bit() == 2.0);
  CHECK(ptq::explain(plan, layers) ==
        "a: option 0 -> 1, 10 bits save 40 (4 per bit)\n"
        "b: option 0 -> 2, 10 bits save 20 (2 per bit)\n"
        "50 bits, loss 120; no choice within the budget can reach less than 110\n");

  // Five bits more than the cheapest: no hull step fits, b's middle option does.
  const layer_plan small = ptq::choose_layers(layers, 35);
  CHECK(small.option == std::vector<index_t>{0, 1, 1});
  CHECK(small.hull_steps == 0);
  CHECK(small.least_possible == 180.0 - 5 * 4.0);
  // Everything.
  CHECK(ptq::choose_layers(layers, 1000).loss == 80.0);
  CHECK(ptq::choose_layers(layers, 1000).least_possible == 80.0);
}

TEST_CASE("a budget per weight counts all weights") {
  const std::vector<layer_candidates> layers{{"a", 100, {{}}}, {"b", 11, {{}}}};
  CHECK(ptq::budget_of(layers, 2.5) == 277);
  CHECK_THROWS_AS(ptq::budget_of(layers, -1.0), value_error);
  CHECK_THROWS_AS(ptq::budget_of(layers, std::numeric_limits<double>::quiet_NaN()), value_error);
}

TEST_CASE("layers without options and losses that are no numbers are refused") {
  const std::vector<layer_candidates> none{{"a", 1, {}}};
  CHECK_THROWS_AS(ptq::choose_layers(none, 10), value_error);
  const std::vector<layer_candidates> nan{
      {"a", 1, {{1, std::numeric_limits<double>::quiet_NaN()}}}};
  CHECK_THROWS_AS(ptq::choose_layers(nan, 10), value_error);
  const layer_plan empty = ptq::choose_layers({}, 0);
  CHECK(empty.option.empty());
  CHECK(empty.loss == 0.0);
}
