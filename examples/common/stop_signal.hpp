// stop_signal.hpp: Ctrl-C, for programs that look for it between steps.
#pragma once

#include <atomic>
#include <csignal>

namespace examples {

/// Set by Ctrl-C (SIGINT) or SIGTERM, once install_stop_handler() has run.
inline std::atomic<int> stop_signal{0};

inline void install_stop_handler() {
  static_assert(std::atomic<int>::is_always_lock_free, "must be usable in a signal handler");
  const auto handler = [](int signal) {
    stop_signal = signal;
    std::signal(signal, SIG_DFL);  // a second Ctrl-C ends the program at once
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

}  // namespace examples
