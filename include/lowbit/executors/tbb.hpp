// executors/tbb.hpp: lends lowbit threads of oneTBB. Layer L1, optional: lowbit.hpp does not
// include it; needs oneTBB 2021 or newer.
//
// Invariants:
//  * The number of a worker is its slot in the arena: below workers(), and one thread's at a time.
//  * While a thread waits inside of a call it runs tasks of that call only: a slot never runs a
//    second task of lowbit in the middle of a first one.
#pragma once

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>

#include "lowbit/core/executor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors {

/// Runs tasks in an arena of up to workers() threads, the calling thread among them.
///
/// Thread-safe. Calls from several threads share the arena and its slots, so their worker numbers
/// are unique among them too; a caller that finds no free slot waits for one. A call inside of a
/// task runs in the same arena, with the outer task's number for the calling thread: the two must
/// not share a kernels::workspace. A caller from outside that waits is a matter of TBB: it looks
/// for work for a while (yielding), then sleeps.
class tbb_executor final : public executor {
 public:
  /// As many workers as TBB would use here.
  tbb_executor() : tbb_executor(slots(tbb::this_task_arena::max_concurrency())) {}
  /// At most `workers` threads; 0 counts as 1. TBB, or a tbb::global_control, may provide fewer.
  explicit tbb_executor(index_t workers)
      : workers_(std::clamp<index_t>(workers, 1, max)), arena_(static_cast<int>(workers_)) {}

  [[nodiscard]] index_t workers() const noexcept override { return workers_; }

  /// As executor::parallel_for. An exception of a task is rethrown when no task runs any more;
  /// tasks that had not begun may be dropped.
  void parallel_for(index_t tasks, task run) override {
    if (std::min(tasks, workers_) <= 1) {
      for (index_t i = 0; i < tasks; ++i) run(i, 0);
      return;
    }
    // About 16 chunks a worker: a slow one keeps the others waiting for little.
    const index_t grain = std::max<index_t>(1, tasks / (16 * workers_));
    const auto run_range = [run](const tbb::blocked_range<index_t>& range) {
      const auto worker = static_cast<index_t>(tbb::this_task_arena::current_thread_index());
      for (index_t i = range.begin(); i < range.end(); ++i) run(i, worker);
    };
    arena_.execute([&] {
      tbb::this_task_arena::isolate([&] {
        tbb::parallel_for(tbb::blocked_range<index_t>(0, tasks, grain), run_range,
                          tbb::simple_partitioner{});
      });
    });
  }

 private:
  static constexpr index_t max = 1U << 15U;  // TBB counts slots in 16 bits
  static index_t slots(int concurrency) noexcept {
    return static_cast<index_t>(std::max(1, concurrency));
  }

  const index_t workers_;
  tbb::task_arena arena_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors
