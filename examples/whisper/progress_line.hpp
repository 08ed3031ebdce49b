// progress_line.hpp: how far a long command is, and how long it will take.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace whisper {

/// A line on stderr that is rewritten as work gets done; where stderr is no terminal, a line of its
/// own every 10 s. For one thread.
class progress_line {
 public:
  /// `total` > 0 steps of about the same duration.
  progress_line(std::string what, std::size_t total) : what_(std::move(what)), total_(total) {}
  progress_line(const progress_line&) = delete;
  progress_line& operator=(const progress_line&) = delete;
  ~progress_line() {
    if (is_terminal_ && done_ > 0) std::fputs("\r\033[K", stderr);
  }

  void step() {
    done_ += 1;
    const auto now = clock::now();
    if (now < next_) return;
    next_ = now + (is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10));
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double left = elapsed / static_cast<double>(done_) * static_cast<double>(total_ - done_);
    std::fprintf(stderr, "%s%s: %zu of %zu, %.0f s left%s", is_terminal_ ? "\r\033[K" : "",
                 what_.c_str(), done_, total_, left, is_terminal_ ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  using clock = std::chrono::steady_clock;

  const bool is_terminal_ = ::isatty(STDERR_FILENO) != 0;
  const clock::time_point start_ = clock::now();
  std::string what_;
  std::size_t total_;
  std::size_t done_ = 0;
  clock::time_point next_ = is_terminal_ ? start_ : start_ + std::chrono::seconds(10);
};

}  // namespace whisper
