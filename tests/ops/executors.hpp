// executors.hpp: executors that do what one may: run tasks in a hostile order, or on real threads.
#pragma once

#include <atomic>
#include <initializer_list>
#include <stdexcept>
#include <thread>
#include <vector>

#include "lowbit/core/executor.hpp"
#include "lowbit/kernels/context.hpp"

namespace test {

/// One thread, but last task first and workers taken in turn. Fails the test if a task asks for
/// more tasks: a pool of threads would wait for itself, and both would use the same scratch.
class backwards_executor final : public lowbit::executor {
 public:
  explicit backwards_executor(lowbit::index_t workers) : workers_(workers) {}
  [[nodiscard]] lowbit::index_t workers() const noexcept override { return workers_; }
  void parallel_for(lowbit::index_t tasks, task run) override {
    if (runs_) throw std::logic_error("parallel_for() inside a task");
    runs_ = true;
    const ended at_the_end{runs_};
    for (lowbit::index_t i = tasks; i-- > 0;) run(i, i % workers_);
  }

 private:
  struct ended {
    bool& runs;
    ~ended() { runs = false; }
  };

  lowbit::index_t workers_;
  bool runs_ = false;
};

/// Real threads that take tasks as they come.
class thread_executor final : public lowbit::executor {
 public:
  explicit thread_executor(lowbit::index_t workers) : workers_(workers) {}
  [[nodiscard]] lowbit::index_t workers() const noexcept override { return workers_; }
  void parallel_for(lowbit::index_t tasks, task run) override {
    std::atomic<lowbit::index_t> next{0};
    std::vector<std::thread> threads;
    for (lowbit::index_t worker = 0; worker < workers_; ++worker) {
      threads.emplace_back([&, worker] {
        for (auto i = next++; i < tasks; i = next++) run(i, worker);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  lowbit::index_t workers_;
};

/// Calls f(context) with `ctx` on each of these executors, for each number of workers.
template <class F>
void on_each_executor(const lowbit::kernels::context& ctx,
                      std::initializer_list<lowbit::index_t> worker_counts, F&& f) {
  for (const lowbit::index_t workers : worker_counts) {
    backwards_executor backwards(workers);
    thread_executor threads(workers);
    for (lowbit::executor* const e :
         {static_cast<lowbit::executor*>(&backwards), static_cast<lowbit::executor*>(&threads)}) {
      lowbit::kernels::context with = ctx;
      with.threads = e;
      f(with);
    }
  }
}

}  // namespace test
