// executors/openmp.hpp: lends lowbit the threads of the program's OpenMP runtime. Layer L1,
// optional: lowbit.hpp does not include it; needs -fopenmp.
//
// Invariants:
//  * Tasks are handed out dynamically; a thread that is held up costs what it had taken.
//  * What waits, and how, is the runtime's affair: a parallel region ends when every thread of the
//    team has reached its end, and until then, and for a while after it, runtimes spin unless told
//    otherwise. On a machine with other work set OMP_WAIT_POLICY=passive.
#pragma once

#ifndef _OPENMP
#error "lowbit/executors/openmp.hpp needs OpenMP: compile with -fopenmp (CMake: OpenMP::OpenMP_CXX)"
#endif

#include <omp.h>

#include "lowbit/executors/detail/task_queue.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors {

/// Runs tasks in a parallel region of up to workers() threads, the calling thread among them.
///
/// Thread-safe. Each call opens a region of its own: calls from several threads have teams of their
/// own, and a call inside of a task (or of any parallel region) runs on the calling thread alone
/// unless the program raised OpenMP's max-active-levels. Worker numbers are unique within each call
/// only, so calls that overlap must not share a kernels::workspace.
class openmp_executor final : public executor {
 public:
  /// As many workers as OpenMP would use here (OMP_NUM_THREADS, omp_set_num_threads).
  openmp_executor() : openmp_executor(static_cast<index_t>(std::max(1, omp_get_max_threads()))) {}
  /// At most `workers` threads; 0 counts as 1. The runtime may provide fewer.
  explicit openmp_executor(index_t workers) : workers_(std::clamp<index_t>(workers, 1, max)) {}

  [[nodiscard]] index_t workers() const noexcept override { return workers_; }

  /// As executor::parallel_for. The first exception of a task is rethrown when no task runs any
  /// more; tasks that had not begun may be dropped.
  void parallel_for(index_t tasks, task run) override {
    const index_t participants = std::min(tasks, workers_);
    if (participants <= 1) {
      for (index_t i = 0; i < tasks; ++i) run(i, 0);
      return;
    }
    detail::task_queue queue(tasks, participants, run);
#pragma omp parallel num_threads(static_cast <int>(participants))
    queue.work(static_cast<index_t>(omp_get_thread_num()));
    queue.wait();
  }

 private:
  static constexpr index_t max =
      1U << 20U;  // fits the runtime's int, and is more than any machine has
  const index_t workers_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors
