// budget.hpp: mixed precision: which candidate each tensor gets, so that what all lose is least at
// the bits that they may take.
//
// Every tensor is quantized by every candidate; the results are thrown away, but for their bits and
// losses, and those that are chosen are made again: quantizing is deterministic, and memory stays
// what it is without a budget.
//
// The loss of a tensor is sensitivity * tr E H E^T / tr W H W^T, with the sensitivity that a
// calibration file gives its layer: nats of KL. Without sensitivities it is tr E H E^T, the mean
// squared error of the outputs, summed over them.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../common/thread_pool.hpp"
#include "job.hpp"
#include "lowbit/ptq/layer_chooser.hpp"

namespace quantize_model {

/// What was chosen, and among what.
struct budget_plan {
  std::vector<std::size_t> items;  ///< of the work, by layer
  std::vector<lowbit::ptq::layer_candidates> layers;
  std::vector<choice> candidates;
  lowbit::ptq::layer_plan plan;
  bool has_sensitivities = false;
  std::uint64_t weights = 0;

  [[nodiscard]] const choice& chosen(std::size_t layer) const {
    return candidates[plan.option[layer]];
  }
  [[nodiscard]] double bits_per_weight() const {
    return static_cast<double>(plan.bits) /
           static_cast<double>(std::max<std::uint64_t>(weights, 1));
  }
};

/// Measures every candidate on every tensor that is to be quantized and no override names.
class budget_search {
 public:
  budget_search(const std::vector<work_item>& items, std::vector<choice> candidates,
                const job_options& options)
      : items_(items), options_(options), progress_(0, 0) {
    plan_.candidates = std::move(candidates);
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!items[i].quantize || items[i].is_fixed) continue;
      const auto shape = lowbit::io::matrix_shape(*items[i].tensor);
      plan_.items.push_back(i);
      plan_.layers.push_back({items[i].tensor->name, shape.size(),
                              std::vector<lowbit::ptq::layer_option>(plan_.candidates.size())});
      plan_.weights += shape.size();
    }
    LOWBIT_CHECK(!plan_.items.empty(), value,
                 "--budget: no tensor is left that --set does not name");
    find_sensitivities();
    progress_.expect(plan_.items.size() * plan_.candidates.size(),
                     plan_.weights * plan_.candidates.size());
  }

  /// Refuses what quantizing refuses, layers without calibration, and a budget below what the
  /// smallest candidates take (value).
  [[nodiscard]] budget_plan run(double bits_per_weight) {
    {
      examples::thread_pool helpers(options_.jobs - 1);
      for (unsigned i = 1; i < options_.jobs; ++i) helpers.submit([this] { work(); });
      work();
    }
    if (failure_) std::rethrow_exception(failure_);
    const std::uint64_t bits = lowbit::ptq::budget_of(plan_.layers, bits_per_weight);
    plan_.plan = lowbit::ptq::choose_layers(plan_.layers, bits);
    return std::move(plan_);
  }

 private:
  /// Losses of some layers in nats and of others in squares of outputs have no sum.
  void find_sensitivities() {
    for (const std::size_t i : plan_.items) {
      const work_item& item = items_[i];
      sensitivities_.push_back(
          item.statistics == nullptr ? std::nullopt : item.statistics->sensitivity(item.layer));
    }
    const auto without = std::find(sensitivities_.begin(), sensitivities_.end(), std::nullopt);
    plan_.has_sensitivities = without == sensitivities_.end();
    const auto known = std::count(sensitivities_.begin(), sensitivities_.end(), std::nullopt);
    LOWBIT_CHECK(plan_.has_sensitivities || known == std::ssize(sensitivities_), value,
                 "--budget: the calibration file has sensitivities of other layers but none of '",
                 plan_.layers[static_cast<std::size_t>(without - sensitivities_.begin())].name,
                 "'");
  }

  void work() {
    try {
      for (std::size_t i = next_++; i < plan_.items.size() && !failed_; i = next_++) measure(i);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      failed_ = true;
    }
  }

  void measure(std::size_t layer) {
    const work_item& item = items_[plan_.items[layer]];
    in_tensor(item, [&] {
      const auto ctx = lowbit::kernels::context::best();
      const float_matrix weights(*item.tensor);
      const layer_inputs known = read_inputs(item, true, options_, ctx);
      // What a configuration that asks for no calibration gets.
      const layer_inputs unfitted = read_inputs(item, false, options_, ctx);
      for (std::size_t c = 0; c < plan_.candidates.size(); ++c) {
        const choice& candidate = plan_.candidates[c];
        const std::string name = item.tensor->name + " " + candidate.text();
        step_listener listener(progress_, name);
        LOWBIT_CHECK(stop_signal == 0, cancelled, "interrupted");
        const auto made = candidate.how->quantize(
            weights.view(), (candidate.how->needs_calibration() ? known : unfitted).knowledge(),
            ctx, &listener);
        const output_energy energy =
            energy_of_outputs(weights.view(), made.tensor, *known.moments, ctx);
        const auto nats = sensitivities_[layer];
        // A layer that seems to gain by errors was measured with noise.
        plan_.layers[layer].options[c] = {
            made.tensor.storage_bits(),
            nats ? std::max(*nats, 0.0) * energy.relative_error() : energy.error};
        progress_.finished(name, weights.view().shape().size());
      }
    });
  }

  const std::vector<work_item>& items_;
  const job_options options_;
  budget_plan plan_;
  std::vector<std::optional<double>> sensitivities_;
  progress progress_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace quantize_model
