// ptq/layer_chooser.hpp: which layers get more bits (more planes, another format, a replica) under
// a budget for all of them. Layer L3.
//
// Each layer has options of so many stored bits and a loss, measured by the caller in any unit that
// adds up over layers; exactly one is to be chosen per layer (a multiple-choice knapsack).
//
// Guarantee. From the cheapest options on, the steps along the lower convex hulls of all layers are
// taken by falling loss saved per bit. The total loss after each of these steps is the least that
// its bits can buy (exchange argument: every other choice trades steps for flatter ones). When the
// next step no longer fits, no choice within the budget has a loss below
//   least_possible = loss so far - what is left of the budget * the next step's saving per bit,
// and what is left goes to the steps that do fit, on or off the hull, best first. So the plan is
// optimal where no bits were left, and its distance from the optimum is known elsewhere.
//
// Deterministic: of equal steps the first layer's comes first.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

/// One way to store a layer.
struct layer_option {
  std::uint64_t bits = 0;  ///< stored in all
  double loss = 0.0;       ///< as measured; finite
};

/// The ways to store one layer.
struct layer_candidates {
  std::string name;
  index_t weights = 0;  ///< counted by budget_of() only
  std::vector<layer_option> options;
};

/// One exchange of a layer's option for one with more bits.
struct plan_step {
  index_t layer = 0;
  index_t from = 0;  ///< an option of the layer
  index_t to = 0;    ///< the option that replaces it
  std::uint64_t bits = 0;
  double saved = 0.0;  ///< of the loss

  /// Sensitivity: loss saved per stored bit.
  [[nodiscard]] double saved_per_bit() const noexcept { return saved / static_cast<double>(bits); }
};

/// An option per layer, and how it came about.
struct layer_plan {
  std::vector<index_t> option;  ///< of each layer, in the order in which they were given
  std::uint64_t bits = 0;
  double loss = 0.0;
  double least_possible = 0.0;   ///< no choice within the budget has a lower loss
  std::vector<plan_step> steps;  ///< in the order in which they were taken
  index_t hull_steps = 0;        ///< the first so many of them are along hulls, in order
};

/// The bits of a budget that is given per weight: rounded down.
[[nodiscard]] inline std::uint64_t budget_of(std::span<const layer_candidates> layers,
                                             double bits_per_weight) {
  std::uint64_t weights = 0;
  for (const layer_candidates& layer : layers) {
    weights = checked_add(weights, layer.weights, "weights");
  }
  const double bits = bits_per_weight * static_cast<double>(weights);
  LOWBIT_CHECK(bits >= 0.0 && bits < 0x1p63, value, "a budget of ", bits_per_weight,
               " bits for each of ", weights, " weights is none");
  return static_cast<std::uint64_t>(bits);
}

namespace detail {

/// The options on the lower convex hull of (bits, loss), from the cheapest on: bits grow, losses
/// fall, and what a bit saves falls too. Of equal options the first is kept.
[[nodiscard]] inline std::vector<index_t> lower_hull(std::span<const layer_option> options) {
  std::vector<index_t> order(options.size());
  for (index_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
    return options[a].bits != options[b].bits ? options[a].bits < options[b].bits
                                              : options[a].loss < options[b].loss;
  });
  const auto slope = [&](index_t from, index_t to) {
    return (options[from].loss - options[to].loss) /
           static_cast<double>(options[to].bits - options[from].bits);
  };
  std::vector<index_t> hull;
  for (const index_t i : order) {
    if (!hull.empty() && !(options[i].loss < options[hull.back()].loss)) continue;
    while (hull.size() > 1 && slope(hull.back(), i) > slope(hull[hull.size() - 2], hull.back())) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

/// What is chosen on the way.
class planner {
 public:
  planner(std::span<const layer_candidates> layers, std::uint64_t budget)
      : layers_(layers), budget_(budget) {}

  [[nodiscard]] layer_plan run() {
    std::vector<plan_step> steps;  // along all hulls
    for (index_t i = 0; i < layers_.size(); ++i) {
      const std::vector<index_t> hull = lower_hull(layers_[i].options);
      plan_.option.push_back(hull.front());
      plan_.bits = checked_add(plan_.bits, option(i, hull.front()).bits, "bits");
      for (index_t k = 1; k < hull.size(); ++k) steps.push_back(step(i, hull[k - 1], hull[k]));
    }
    LOWBIT_CHECK(plan_.bits <= budget_, value, "a budget of ", budget_,
                 " bits is less than the cheapest options of the layers take: ", plan_.bits);
    std::stable_sort(steps.begin(), steps.end(), [](const plan_step& a, const plan_step& b) {
      return a.saved_per_bit() > b.saved_per_bit();
    });
    auto next = steps.begin();
    for (; next != steps.end() && fits(*next); ++next) take(*next);
    plan_.hull_steps = plan_.steps.size();
    plan_.least_possible = loss();
    if (next != steps.end()) {
      plan_.least_possible = std::fma(
          -next->saved_per_bit(), static_cast<double>(budget_ - plan_.bits), plan_.least_possible);
    }
    while (take_best_that_fits()) {
    }
    plan_.loss = loss();
    return std::move(plan_);
  }

 private:
  [[nodiscard]] const layer_option& option(index_t layer, index_t i) const noexcept {
    return layers_[layer].options[i];
  }
  [[nodiscard]] plan_step step(index_t layer, index_t from, index_t to) const noexcept {
    return {layer, from, to, option(layer, to).bits - option(layer, from).bits,
            option(layer, from).loss - option(layer, to).loss};
  }
  [[nodiscard]] bool fits(const plan_step& s) const noexcept {
    return s.bits <= budget_ - plan_.bits;
  }
  void take(const plan_step& s) {
    plan_.option[s.layer] = s.to;
    plan_.bits += s.bits;
    plan_.steps.push_back(s);
  }
  [[nodiscard]] double loss() const noexcept {
    double sum = 0.0;
    for (index_t i = 0; i < layers_.size(); ++i) sum += option(i, plan_.option[i]).loss;
    return sum;
  }
  /// Any exchange that saves and fits, the best per bit. False if there is none.
  bool take_best_that_fits() {
    plan_step best;
    for (index_t i = 0; i < layers_.size(); ++i) {
      const index_t now = plan_.option[i];
      for (index_t k = 0; k < layers_[i].options.size(); ++k) {
        if (option(i, k).bits <= option(i, now).bits || !(option(i, k).loss < option(i, now).loss))
          continue;
        const plan_step s = step(i, now, k);
        if (fits(s) && (best.bits == 0 || s.saved_per_bit() > best.saved_per_bit())) best = s;
      }
    }
    if (best.bits == 0) return false;
    take(best);
    return true;
  }

  std::span<const layer_candidates> layers_;
  std::uint64_t budget_;
  layer_plan plan_;
};

}  // namespace detail

/// Chooses an option per layer with at most `budget` bits in all. Refuses (value) a layer without
/// options, losses that are not finite, and a budget below the cheapest options.
[[nodiscard]] inline layer_plan choose_layers(std::span<const layer_candidates> layers,
                                              std::uint64_t budget) {
  for (const layer_candidates& layer : layers) {
    LOWBIT_CHECK(!layer.options.empty(), value, "layer '", layer.name, "' has no options");
    for (index_t i = 0; i < layer.options.size(); ++i) {
      LOWBIT_CHECK(std::isfinite(layer.options[i].loss), value, "the loss of option ", i,
                   " of layer '", layer.name, "' is ", layer.options[i].loss);
    }
  }
  return detail::planner(layers, budget).run();
}

/// Why a plan is as it is, a line per step: what it saved per bit, of the total.
[[nodiscard]] inline std::string explain(const layer_plan& plan,
                                         std::span<const layer_candidates> layers) {
  std::string out;
  for (index_t i = 0; i < plan.steps.size(); ++i) {
    const plan_step& s = plan.steps[i];
    out +=
        lowbit::detail::message(layers[s.layer].name, ": option ", s.from, " -> ", s.to, ", ",
                                s.bits, " bits save ", s.saved, " (", s.saved_per_bit(), " per bit",
                                i < plan.hull_steps ? ")\n" : "), with what was left\n");
  }
  return out + lowbit::detail::message(plan.bits, " bits, loss ", plan.loss,
                                       "; no choice within the budget can reach less than ",
                                       plan.least_possible, "\n");
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
