// session.hpp: what every command of the program starts with: threads, how to load a model, the
// runtime, and Ctrl-C.
#pragma once

#include <CLI/CLI.hpp>

#include "../common/thread_pool.hpp"
#include "lowbit/executors/thread_pool.hpp"
#include "model_file.hpp"
#include "runtime.hpp"

namespace whisper {

struct session_options {
  unsigned threads = 1;
  load_options load;
};

/// --threads, --float-weights, --activations and --cache.
void add_session_options(CLI::App& command, session_options& options);

/// A runtime on so many threads, which stops (lowbit::cancelled_error) after Ctrl-C or SIGTERM.
class session {
 public:
  explicit session(const session_options& options);
  session(const session&) = delete;
  session& operator=(const session&) = delete;

  [[nodiscard]] const runtime& rt() const noexcept { return rt_; }

 private:
  struct submitter {
    examples::thread_pool* pool;
    void operator()(std::function<void()> job) const { pool->submit(std::move(job)); }
  };

  examples::thread_pool pool_;
  lowbit::executors::thread_pool_executor<submitter> executor_;
  lowbit::kernels::workspace scratch_;
  runtime rt_;
};

}  // namespace whisper
