// executors/detail/task_queue.hpp: the tasks of one parallel_for, handed out to whoever comes.
// Layer L1.
//
// Invariants:
//  * A chunk is taken by one participant and run to its end by it; nobody waits for a participant
//    that took nothing, so one that starts late, or never, delays nobody.
//  * After the last task is done nothing of the caller's is touched: a participant that comes then
//    sees the counter only, which lives as long as the queue.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

#include "lowbit/core/executor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors::detail {

/// The tasks of one call. All members are thread-safe.
class task_queue {
 public:
  task_queue(index_t tasks, index_t workers, executor::task run) noexcept
      : run_(run), tasks_(tasks), shares_(4 * workers), unfinished_(tasks) {}
  task_queue(const task_queue&) = delete;
  task_queue& operator=(const task_queue&) = delete;

  /// Takes tasks and runs them as `worker` until none is left. Once a task threw, tasks that nobody
  /// had taken are dropped.
  void work(index_t worker) noexcept {
    for (chunk next = take(); next.begin != next.end; next = take()) {
      run_chunk(next, worker);
      finished(next.end - next.begin);
    }
  }

  /// Drops the tasks that nobody took, and remembers why if this is the first failure.
  void fail(std::exception_ptr failure) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(failure);
    }
    const index_t taken = next_.exchange(tasks_, std::memory_order_relaxed);
    finished(tasks_ - taken);
  }

  /// Blocks until every task is done or dropped, then rethrows the first failure.
  void wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return unfinished_.load(std::memory_order_acquire) == 0; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  struct chunk {
    index_t begin;
    index_t end;
  };

  /// The next tasks: a share of what is left, hence few operations on the counter at first and
  /// single tasks at the end, where a slow worker would otherwise keep all others waiting.
  chunk take() noexcept {
    index_t begin = next_.load(std::memory_order_relaxed);
    index_t end = begin;
    do {
      if (begin == tasks_) return {tasks_, tasks_};
      end = begin + std::max<index_t>(1, (tasks_ - begin) / shares_);
    } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return {begin, end};
  }

  void run_chunk(chunk which, index_t worker) noexcept {
#if LOWBIT_EXCEPTIONS
    try {
      for (index_t i = which.begin; i < which.end; ++i) run_(i, worker);
    } catch (...) {
      fail(std::current_exception());
    }
#else
    for (index_t i = which.begin; i < which.end; ++i) run_(i, worker);
#endif
  }

  void finished(index_t count) noexcept {
    if (count == 0 || unfinished_.fetch_sub(count, std::memory_order_acq_rel) != count) return;
    const std::lock_guard lock(mutex_);  // whoever waits has seen zero, or waits by now
    done_.notify_all();
  }

  const executor::task run_;
  const index_t tasks_;
  const index_t shares_;
  std::atomic<index_t> next_{0};
  std::atomic<index_t> unfinished_;
  std::mutex mutex_;  // guards failure_
  std::condition_variable done_;
  std::exception_ptr failure_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors::detail
