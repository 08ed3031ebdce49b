// progress.hpp: what a person sees while a long job runs, and how they stop it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "../common/peak_memory.hpp"
#include "../common/seconds_since.hpp"
#include "../common/stop_signal.hpp"

namespace quantize_model {

using examples::install_stop_handler;
using examples::seconds_since;
using examples::stop_signal;  // jobs look at it between tensors, stop, and leave no file

/// One line on stderr that is rewritten as tensors finish; nothing if stderr is no terminal.
class progress {
 public:
  progress(std::size_t tensors, std::uint64_t weights) : tensors_(tensors), weights_(weights) {}
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() {
    if (visible_) std::fputs("\r\033[K", stderr);
  }

  /// Other totals, before the work begins.
  void expect(std::size_t tensors, std::uint64_t weights) {
    tensors_ = tensors;
    weights_ = weights;
  }
  /// A tensor of `weights` weights is done. Thread-safe.
  void finished(std::string_view name, std::uint64_t weights) {
    if (!visible_) return;
    const std::lock_guard lock(mutex_);
    done_tensors_ += 1;
    done_weights_ += weights;
    show(name);
  }

  /// A tensor has come as far as step `done` of `total` of a stage. Thread-safe.
  void working(std::string_view name, std::string_view stage, std::uint64_t done,
               std::uint64_t total) {
    if (!visible_ || total == 0) return;
    const std::lock_guard lock(mutex_);
    stage_start& at = stages_[std::string(name)];
    if (at.stage != stage) at = {std::string(stage), std::chrono::steady_clock::now(), done};
    show(name);
    std::fprintf(stderr, ": %.*s %.0f %%", static_cast<int>(stage.size()), stage.data(),
                 100.0 * static_cast<double>(done) / static_cast<double>(total));
    if (done > at.done) {
      const double per_step = seconds_since(at.time) / static_cast<double>(done - at.done);
      std::fprintf(stderr, " (%.0f s left)", per_step * static_cast<double>(total - done));
    }
    std::fprintf(stderr, ", peak %.0f MiB", examples::peak_memory_mib());
    std::fflush(stderr);
  }

 private:
  /// Where the stage of a tensor was first heard of.
  struct stage_start {
    std::string stage = {};
    std::chrono::steady_clock::time_point time = {};
    std::uint64_t done = 0;
  };

  void show(std::string_view name) const {
    const double elapsed = seconds_since(start_);
    const double done = static_cast<double>(done_weights_);
    const double total = static_cast<double>(weights_);
    const double rate = elapsed > 0.0 ? done / elapsed : 0.0;
    std::fprintf(stderr, "\r\033[K[%zu/%zu] %3.0f %%  ", done_tensors_, tensors_,
                 total > 0.0 ? 100.0 * done / total : 100.0);
    if (rate > 0.0) {  // unknown before the first tensor is done
      std::fprintf(stderr, "%6.2f M weights/s  %4.0f s left  ", rate * 1e-6, (total - done) / rate);
    }
    std::fprintf(stderr, "%.*s", static_cast<int>(name.size()), name.data());
    std::fflush(stderr);
  }

  const bool visible_ = ::isatty(STDERR_FILENO) != 0;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::size_t tensors_;
  std::uint64_t weights_;
  std::mutex mutex_;
  std::size_t done_tensors_ = 0;
  std::uint64_t done_weights_ = 0;
  std::map<std::string, stage_start> stages_;
};

}  // namespace quantize_model
