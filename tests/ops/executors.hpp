// executors.hpp: executors that do what one may: run tasks in a hostile order, or on real threads.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "lowbit/core/executor.hpp"

namespace test {

/// One thread, but last task first and workers taken in turn.
class backwards_executor final : public lowbit::executor {
 public:
  explicit backwards_executor(lowbit::index_t workers) : workers_(workers) {}
  [[nodiscard]] lowbit::index_t workers() const noexcept override { return workers_; }
  void parallel_for(lowbit::index_t tasks, task run) override {
    for (lowbit::index_t i = tasks; i-- > 0;) run(i, i % workers_);
  }

 private:
  lowbit::index_t workers_;
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

}  // namespace test
