// job.hpp: quantizes every chosen tensor of a model, several at a time, and writes them in order.
//
// Bounded memory: a worker holds one tensor at a time, and waits for its turn to write before it
// takes the next. The order of the output is the order of the input, so the file is the same for
// any number of workers.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <optional>
#include <regex>
#include <utility>
#include <vector>

#include "../common/thread_pool.hpp"
#include "calibration_source.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "lowbit/outlier/distortion_report.hpp"
#include "progress.hpp"
#include "request.hpp"
#include "source_model.hpp"

namespace quantize_model {

/// Activations beside a weight "X.weight": rows of the layer's real input. Calibration rows may be
/// fitted to; held-out rows are for judging. Distorted rows, if there are any, are the calibration
/// rows as they come out of a network whose earlier layers are quantized already.
inline constexpr std::string_view calibration_suffix = ".input.calibration";
inline constexpr std::string_view heldout_suffix = ".input.heldout";
inline constexpr std::string_view distorted_suffix = ".input.distorted";

/// What is to be done with one tensor of the input.
struct work_item {
  const lowbit::io::stored_tensor* tensor;
  bool quantize;
  choice chosen = {};                                      ///< how, if it is to be quantized
  bool is_fixed = false;                                   ///< whether --set says how
  const lowbit::io::stored_tensor* calibration = nullptr;  ///< of the same layer, if at hand
  const lowbit::io::stored_tensor* heldout = nullptr;
  const lowbit::io::stored_tensor* distorted = nullptr;
  std::string layer = {};  ///< the tensor's name without ".weight"
  /// Statistics of the layer's inputs, where there are some; then there are no rows.
  const lowbit::io::calibration_reader* statistics = nullptr;
};

/// What became of one tensor.
struct tensor_result {
  std::string name;
  lowbit::shape2 shape;
  bool quantized = false;
  std::uint64_t bits = 0;  ///< everything stored
  lowbit::error_stats weights = {};
  std::optional<double> calibration_error = {};  ///< relative MSE of the outputs on fitted rows
  std::optional<double> output_error = {};       ///< the same on held-out rows
  /// Of the plain quantizer on a Gaussian, from 2^(-2 bits/weight); NaN where that takes too long.
  double db_above_bound = 0.0;
  choice chosen = {};
  std::optional<lowbit::outlier::distortion_report> distortion = {};
  double seconds = 0.0;
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
  bool distortion = false;      ///< whether to measure manifold distortion
  double holdout = 0.2;  ///< share of calibration rows for judging, where a file has no others
};

[[nodiscard]] inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

[[nodiscard]] inline bool is_activations(std::string_view name) {
  return ends_with(name, calibration_suffix) || ends_with(name, heldout_suffix) ||
         ends_with(name, distorted_suffix);
}

/// Everything to do for a model: matrices of floats whose name is selected are quantized, other
/// tensors are copied. Activations are used, not copied; they come from `activations`, or from
/// `statistics` (which may be null).
[[nodiscard]] inline std::vector<work_item> plan_work(
    const source_model& model, const source_model& activations, const selection& select,
    const lowbit::io::calibration_reader* statistics = nullptr) {
  using lowbit::element_type;
  std::vector<work_item> items;
  for (const auto& tensor : model.tensors()) {
    if (is_activations(tensor.name)) continue;
    const bool is_matrix = tensor.shape.size() >= 2 &&
                           (tensor.type == element_type::f32 || tensor.type == element_type::f16 ||
                            tensor.type == element_type::bf16);
    const bool chosen = std::regex_search(tensor.name, select.include) &&
                        !(select.exclude && std::regex_search(tensor.name, *select.exclude));
    work_item item{.tensor = &tensor, .quantize = is_matrix && chosen};
    if (item.quantize) {
      constexpr std::string_view weight = ".weight";
      item.layer = ends_with(tensor.name, weight)
                       ? tensor.name.substr(0, tensor.name.size() - weight.size())
                       : tensor.name;
      item.calibration = activations.find(item.layer + std::string(calibration_suffix));
      item.heldout = activations.find(item.layer + std::string(heldout_suffix));
      item.distorted = activations.find(item.layer + std::string(distorted_suffix));
      const bool known = statistics != nullptr && statistics->contains(item.layer);
      if (known) item.statistics = statistics;
    }
    items.push_back(item);
  }
  return items;
}

/// Rows of a stored tensor as floats.
class float_matrix {
 public:
  explicit float_matrix(const lowbit::io::stored_tensor& tensor)
      : float_matrix(tensor, {0, lowbit::io::matrix_shape(tensor).rows}) {}
  float_matrix(const lowbit::io::stored_tensor& tensor, lowbit::row_range rows)
      : shape_{rows.size(), lowbit::io::matrix_shape(tensor).cols}, values_(shape_.size()) {
    lowbit::io::read_rows(tensor, rows, {values_.data(), shape_.rows, shape_.cols});
  }
  [[nodiscard]] lowbit::matrix_view<const float> view() const {
    return {values_.data(), shape_.rows, shape_.cols};
  }

 private:
  lowbit::shape2 shape_;
  lowbit::aligned_buffer<float> values_;
};

/// What the activations of one layer tell.
struct layer_inputs {
  std::vector<float> importance = {};
  std::optional<lowbit::observers::second_moments> moments = {};
  lowbit::aligned_buffer<double> cross = {};
  lowbit::row_range calibration = {};  ///< rows that were fitted to
  lowbit::row_range heldout = {};      ///< of the calibration rows, where there are no others
  bool is_fitted = true;               ///< whether the moments are for more than judging

  [[nodiscard]] lowbit::ptq::knowledge knowledge() const {
    if (!is_fitted) return {.importance = importance};
    const lowbit::index_t k = moments ? moments->channels() : 0;
    return {.moments = moments ? &*moments : nullptr,
            .cross = cross.empty() ? lowbit::matrix_view<const double>{}
                                   : lowbit::matrix_view<const double>(cross.data(), k, k),
            .importance = importance};
  }
};

/// Calls f(rows) for chunks of a range, so that many rows need little memory.
template <class F>
void for_each_chunk(lowbit::row_range rows, F&& f) {
  constexpr lowbit::index_t chunk = 512;
  for (lowbit::index_t begin = rows.begin; begin < rows.end; begin += chunk) {
    f(lowbit::row_range{begin, std::min(begin + chunk, rows.end)});
  }
}

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

/// Reads what is known of a layer's inputs: moments if they are needed, and then refuses (value) a
/// layer without calibration rows.
[[nodiscard]] inline layer_inputs read_inputs(const work_item& item, bool needed,
                                              const job_options& options,
                                              const lowbit::kernels::context& ctx) {
  layer_inputs known;
  if (item.statistics != nullptr) {
    auto found = item.statistics->find(item.layer);
    known.is_fitted = needed;
    known.moments = std::move(found->moments);
    known.cross = std::move(found->cross);
    if (options.use_importance && !needed) known.importance = known.moments->importance();
    return known;
  }
  LOWBIT_CHECK(!needed || item.calibration != nullptr, value,
               "there are no calibration rows of its input (X", calibration_suffix,
               " beside a weight X.weight); name a file that has them with --calibrate, or leave "
               "the tensor out with --exclude");
  if (item.calibration == nullptr) return known;
  const lowbit::shape2 shape = lowbit::io::matrix_shape(*item.calibration);
  known.calibration = {0, shape.rows};
  if (item.heldout == nullptr) {
    const auto split = lowbit::observers::split_rows(shape.rows, options.holdout);
    known.calibration = split.calibration;
    known.heldout = split.heldout;
  }
  if (options.use_importance && !needed) {
    known.importance = channel_energy(float_matrix(*item.calibration, known.calibration).view());
  }
  if (!needed) return known;
  const bool distorted = item.distorted != nullptr;
  LOWBIT_CHECK(!distorted || lowbit::io::matrix_shape(*item.distorted) == shape, shape, "'",
               distorted ? item.distorted->name : "", "' and '", item.calibration->name,
               "' have different shapes");
  lowbit::observers::moment_accumulator moments(shape.cols);
  std::optional<lowbit::observers::cross_accumulator> cross;
  if (distorted) cross.emplace(shape.cols);
  for_each_chunk(known.calibration, [&](lowbit::row_range rows) {
    const float_matrix x(*item.calibration, rows);
    if (!distorted) return moments.add(x.view(), ctx);
    const float_matrix x_hat(*item.distorted, rows);
    moments.add(x_hat.view(), ctx);
    cross->add(x.view(), x_hat.view(), ctx);
  });
  known.moments = moments.finish();
  if (cross) known.cross = cross->finish();
  return known;
}

/// Calls f(); errors say which tensor they are about.
template <class F>
void in_tensor(const work_item& item, F&& f) {
  try {
    f();
  } catch (const lowbit::cancelled_error&) {
    throw;
  } catch (const lowbit::error& e) {
    lowbit::detail::fail(e.kind(), "tensor '" + item.tensor->name + "': " + e.what());
  }
}

/// Forwards the steps of one tensor to the progress line, and Ctrl-C to the steps.
class step_listener final : public lowbit::ptq::listener {
 public:
  step_listener(progress& to, const std::string& name) : to_(to), name_(name) {}
  void advanced(std::string_view stage, lowbit::index_t done, lowbit::index_t total) override {
    LOWBIT_CHECK(stop_signal == 0, cancelled, "interrupted");
    to_.working(name_, stage, done, total);
  }

 private:
  progress& to_;
  const std::string& name_;
};

/// One run over a model, in which every item has its configuration.
class quantization_job {
 public:
  /// `out` may be null: then nothing is written.
  quantization_job(const source_model& model, std::vector<work_item> items,
                   const job_options& options, lowbit::io::checkpoint_writer* out)
      : model_(model),
        items_(std::move(items)),
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
    const auto start = std::chrono::steady_clock::now();
    in_tensor(item, [&] {
      const configuration& how = *item.chosen.how;
      const auto ctx = lowbit::kernels::context::best();
      const float_matrix weights(*item.tensor);
      const layer_inputs known = read_inputs(item, how.needs_calibration(), options_, ctx);
      step_listener listener(progress_, item.tensor->name);
      const lowbit::ptq::recipe_result made =
          how.quantize(weights.view(), known.knowledge(), ctx, &listener);
      tensor_result result = judge(item, weights.view(), known, made.tensor);
      result.seconds = seconds_since(start);
      finish(i, std::move(result), [&] { out_->add(item.tensor->name, made.tensor); });
    });
  }

  /// How good a tensor is. The reported errors are of what is stored.
  [[nodiscard]] tensor_result judge(const work_item& item, lowbit::matrix_view<const float> weights,
                                    const layer_inputs& known, lowbit::tensor_ref tensor) {
    // Rows of the calibration set; with distorted ones, as the tensor meets them.
    const auto on_calibration_rows = [&](lowbit::row_range rows) {
      const float_matrix inputs(*item.calibration, rows);
      if (item.distorted == nullptr) {
        return lowbit::ops::output_error(inputs.view(), weights, tensor).relative_mse();
      }
      const float_matrix seen(*item.distorted, rows);
      return lowbit::ops::output_error(inputs.view(), seen.view(), weights, tensor).relative_mse();
    };
    tensor_result result{.name = item.tensor->name,
                         .shape = tensor.shape(),
                         .quantized = true,
                         .bits = tensor.storage_bits(),
                         .weights = lowbit::ops::weight_error(weights, tensor)};
    result.chosen = item.chosen;
    result.db_above_bound = bound_for(*item.chosen.how, tensor.shape());
    if (item.statistics != nullptr) {
      result.calibration_error =
          energy_of_outputs(weights, tensor, *known.moments, lowbit::kernels::context::best())
              .relative_error();
    }
    if (item.calibration != nullptr) {
      result.calibration_error = on_calibration_rows(known.calibration);
    }
    if (item.heldout != nullptr) {
      const float_matrix inputs(*item.heldout);
      result.output_error =
          lowbit::ops::output_error(inputs.view(), weights, tensor).relative_mse();
    } else if (known.heldout.size() > 0) {
      result.output_error = on_calibration_rows(known.heldout);
    }
    if (options_.distortion) result.distortion = measure_distortion(item, weights, known, tensor);
    return result;
  }

  /// Manifold distortion beside tr E H E^T, with H of the rows that errors are judged by, or of all
  /// that there are.
  [[nodiscard]] static lowbit::outlier::distortion_report measure_distortion(
      const work_item& item, lowbit::matrix_view<const float> weights, const layer_inputs& known,
      lowbit::tensor_ref tensor) {
    namespace outlier = lowbit::outlier;
    const auto ctx = lowbit::kernels::context::best();
    const auto* const rows_from = item.heldout != nullptr ? item.heldout : item.calibration;
    std::optional<lowbit::observers::second_moments> moments;
    if (item.statistics != nullptr) moments = known.moments;
    if (rows_from != nullptr) {
      const lowbit::row_range all{0, lowbit::io::matrix_shape(*rows_from).rows};
      lowbit::observers::moment_accumulator inputs(weights.cols());
      for_each_chunk(
          item.heldout == nullptr && known.heldout.size() > 0 ? known.heldout : all,
          [&](lowbit::row_range rows) { inputs.add(float_matrix(*rows_from, rows).view(), ctx); });
      moments = inputs.finish();
    }
    const outlier::weight_manifold manifold(weights, outlier::manifold_params_for(weights.rows()),
                                            ctx);
    return outlier::md_report(
        manifold, weights, tensor,
        moments ? std::as_const(*moments).matrix() : lowbit::matrix_view<const double>{}, ctx);
  }

  /// db_above_bound(), once for each shape and configuration.
  [[nodiscard]] double bound_for(const configuration& how, lowbit::shape2 shape) {
    const std::lock_guard lock(bounds_mutex_);
    for (const bound& known : bounds_) {
      if (known.how == &how && known.shape == shape) return known.db;
    }
    return bounds_.emplace_back(bound{&how, shape, how.db_above_bound(shape)}).db;
  }

  void copy(std::size_t i) {
    const auto& tensor = *items_[i].tensor;
    finish(i,
           {.name = tensor.name,
            .shape = lowbit::io::matrix_shape(tensor),
            .quantized = false,
            .bits = 8 * std::uint64_t{tensor.bytes.size()}},
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
  const job_options options_;
  lowbit::io::checkpoint_writer* const out_;
  progress progress_;

  std::mutex bounds_mutex_;
  struct bound {
    const configuration* how;
    lowbit::shape2 shape;
    double db;
  };
  std::vector<bound> bounds_;

  std::mutex mutex_;  // guards all below
  std::condition_variable turn_changed_;
  std::size_t next_ = 0;
  std::vector<tensor_result> results_;  // as many as are written
  std::exception_ptr failure_;
};

}  // namespace quantize_model
