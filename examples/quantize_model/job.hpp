// job.hpp: quantizes every chosen tensor of a model, several at a time, and writes them in order.
//
// Bounded memory: a worker holds one tensor at a time, and waits for its turn to write before it
// takes the next. The order of the output is the order of the input, so the file is the same for
// any number of workers.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <regex>
#include <vector>

#include "../common/thread_pool.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "lowbit/lowbit.hpp"
#include "progress.hpp"
#include "source_model.hpp"

namespace quantize_model {

/// Activations beside a weight "X.weight": rows of the layer's real input. The first half may be
/// fitted to, the second is for judging.
inline constexpr std::string_view calibration_suffix = ".input.calibration";
inline constexpr std::string_view heldout_suffix = ".input.heldout";

/// What is to be done with one tensor of the input.
struct work_item {
  const lowbit::io::stored_tensor* tensor;
  bool quantize;
  const lowbit::io::stored_tensor* calibration = nullptr;  ///< of the same layer, if at hand
  const lowbit::io::stored_tensor* heldout = nullptr;
};

/// What became of one tensor.
struct tensor_result {
  std::string name;
  lowbit::shape2 shape;
  bool quantized = false;
  std::uint64_t bits = 0;  ///< everything stored
  lowbit::error_stats weights;
  std::optional<double> output_error;  ///< relative MSE of the outputs on held-out activations
};

/// Which tensors to quantize.
struct selection {
  std::regex include;
  std::optional<std::regex> exclude;
};

/// How to quantize them.
struct job_options {
  unsigned jobs = 1;
  bool use_importance = false;  ///< weigh columns by the mean square of their calibration inputs
};

[[nodiscard]] inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

[[nodiscard]] inline bool is_activations(std::string_view name) {
  return ends_with(name, calibration_suffix) || ends_with(name, heldout_suffix);
}

/// Everything to do for a model: matrices of floats whose name is selected are quantized, other
/// tensors are copied. Activations are used, not copied; they come from `activations`.
[[nodiscard]] inline std::vector<work_item> plan_work(const source_model& model,
                                                      const source_model& activations,
                                                      const selection& select) {
  using lowbit::element_type;
  std::vector<work_item> items;
  for (const auto& tensor : model.tensors()) {
    if (is_activations(tensor.name)) continue;
    const bool is_matrix = tensor.shape.size() >= 2 &&
                           (tensor.type == element_type::f32 || tensor.type == element_type::f16 ||
                            tensor.type == element_type::bf16);
    const bool chosen = std::regex_search(tensor.name, select.include) &&
                        !(select.exclude && std::regex_search(tensor.name, *select.exclude));
    work_item item{&tensor, is_matrix && chosen};
    if (item.quantize) {
      constexpr std::string_view weight = ".weight";
      const std::string layer = ends_with(tensor.name, weight)
                                    ? tensor.name.substr(0, tensor.name.size() - weight.size())
                                    : tensor.name;
      item.calibration = activations.find(layer + std::string(calibration_suffix));
      item.heldout = activations.find(layer + std::string(heldout_suffix));
    }
    items.push_back(item);
  }
  return items;
}

/// A stored tensor as floats.
class float_matrix {
 public:
  explicit float_matrix(const lowbit::io::stored_tensor& tensor)
      : shape_(lowbit::io::matrix_shape(tensor)), values_(shape_.size()) {
    lowbit::io::read_rows(tensor, {0, shape_.rows}, {values_.data(), shape_.rows, shape_.cols});
  }
  [[nodiscard]] lowbit::matrix_view<const float> view() const {
    return {values_.data(), shape_.rows, shape_.cols};
  }

 private:
  lowbit::shape2 shape_;
  lowbit::aligned_buffer<float> values_;
};

/// Mean square of each channel.
[[nodiscard]] inline std::vector<float> channel_energy(lowbit::matrix_view<const float> inputs) {
  std::vector<double> sums(inputs.cols(), 0.0);
  for (lowbit::index_t t = 0; t < inputs.rows(); ++t) {
    for (lowbit::index_t k = 0; k < inputs.cols(); ++k) {
      const double x = static_cast<double>(inputs(t, k));
      sums[k] += x * x;
    }
  }
  std::vector<float> energy(sums.size());
  for (std::size_t k = 0; k < sums.size(); ++k) {
    energy[k] = static_cast<float>(sums[k] / static_cast<double>(inputs.rows()));
  }
  return energy;
}

/// One run over a model with one quantizer.
template <lowbit::quantizer Q>
class quantization_job {
 public:
  /// `out` may be null: then nothing is written.
  quantization_job(const source_model& model, std::vector<work_item> items, const Q& quantizer,
                   const job_options& options, lowbit::io::checkpoint_writer* out)
      : model_(model),
        items_(std::move(items)),
        quantizer_(quantizer),
        options_(options),
        out_(out),
        progress_(items_.size(), total_weights()) {}

  /// Runs to the end. Throws what the first failing tensor threw, or lowbit::cancelled_error.
  [[nodiscard]] std::vector<tensor_result> run() {
    {
      examples::thread_pool helpers(options_.jobs - 1);
      for (unsigned i = 1; i < options_.jobs; ++i) helpers.submit([this] { work(); });
      work();
    }  // waits for the helpers
    if (failure_) std::rethrow_exception(failure_);
    return std::move(results_);
  }

 private:
  [[nodiscard]] std::uint64_t total_weights() const {
    std::uint64_t sum = 0;
    for (const work_item& item : items_) sum += lowbit::io::matrix_shape(*item.tensor).size();
    return sum;
  }

  void work() {
    try {
      while (const auto i = take()) {
        if (items_[*i].quantize) {
          quantize(*i);
        } else {
          copy(*i);
        }
        model_.release_pages(*items_[*i].tensor);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      turn_changed_.notify_all();
    }
  }

  /// The next tensor to work on; none when all are taken or a worker failed.
  std::optional<std::size_t> take() {
    const std::lock_guard lock(mutex_);
    if (failure_ || next_ == items_.size()) return std::nullopt;
    LOWBIT_CHECK(stop_signal == 0, cancelled, "interrupted");
    return next_++;
  }

  void quantize(std::size_t i) {
    const work_item& item = items_[i];
    try {
      const float_matrix weights(*item.tensor);
      std::vector<float> importance;
      if (options_.use_importance && item.calibration != nullptr) {
        importance = channel_energy(float_matrix(*item.calibration).view());
      }
      const auto tensor = quantizer_.quantize(weights.view(), {.importance = importance});
      tensor_result result{.name = item.tensor->name,
                           .shape = tensor.shape(),
                           .quantized = true,
                           .bits = tensor.storage_bits(),
                           .weights = lowbit::ops::weight_error(weights.view(), tensor),
                           .output_error = std::nullopt};
      if (const auto* inputs = item.heldout != nullptr ? item.heldout : item.calibration) {
        result.output_error =
            lowbit::ops::output_error(float_matrix(*inputs).view(), weights.view(), tensor)
                .relative_mse();
      }
      finish(i, std::move(result), [&] { out_->add(item.tensor->name, tensor); });
    } catch (const lowbit::cancelled_error&) {
      throw;
    } catch (const lowbit::error& e) {  // say which tensor it was
      lowbit::detail::fail(e.kind(), "tensor '" + item.tensor->name + "': " + e.what());
    }
  }

  void copy(std::size_t i) {
    const auto& tensor = *items_[i].tensor;
    finish(i,
           {.name = tensor.name,
            .shape = lowbit::io::matrix_shape(tensor),
            .quantized = false,
            .bits = 8 * std::uint64_t{tensor.bytes.size()},
            .weights = {},
            .output_error = std::nullopt},
           [&] { out_->add_plain(tensor.name, tensor.type, tensor.shape, tensor.bytes); });
  }

  /// Waits until all tensors before number i are written, then writes this one.
  template <class Write>
  void finish(std::size_t i, tensor_result result, Write&& write) {
    std::unique_lock lock(mutex_);
    turn_changed_.wait(lock, [&] { return results_.size() == i || failure_; });
    if (failure_) return;
    LOWBIT_CHECK(stop_signal == 0, cancelled, "interrupted");
    if (out_ != nullptr) write();
    progress_.finished(result.name, result.shape.size());
    results_.push_back(std::move(result));
    turn_changed_.notify_all();
  }

  const source_model& model_;
  const std::vector<work_item> items_;
  const Q quantizer_;
  const job_options options_;
  lowbit::io::checkpoint_writer* const out_;
  progress progress_;

  std::mutex mutex_;  // guards all below
  std::condition_variable turn_changed_;
  std::size_t next_ = 0;
  std::vector<tensor_result> results_;  // as many as are written
  std::exception_ptr failure_;
};

}  // namespace quantize_model
