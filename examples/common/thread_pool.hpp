// thread_pool.hpp: the least that a pool of threads needs, for programs that have none yet.
//
// lowbit starts no threads. This pool can lend it some:
//
//     examples::thread_pool pool(3);  // beside the calling thread
//     lowbit::executors::thread_pool_executor threads([&](auto job) { pool.submit(job); }, 4);
//     context.threads = &threads;
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace examples {

/// Threads that run what is submitted, first come, first served. Idle ones sleep. Thread-safe.
class thread_pool {
 public:
  explicit thread_pool(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  /// Runs what was submitted to its end.
  ~thread_pool() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  /// A job that throws ends the program.
  void submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      {
        const std::function<void()> job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job();
      }  // what it holds is freed before the lock is taken
      lock.lock();
    }
  }

  std::mutex mutex_;  // guards jobs_ and closing_
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace examples
