// executors/thread_pool.hpp: lends lowbit the threads of a pool that the caller has. Layer L1,
// optional: lowbit.hpp does not include it.
//
// Invariants:
//  * No thread is started here. The calling thread takes part, so a call ends even if the pool
//  never
//    runs a job.
//  * Nobody spins. The caller takes tasks as long as there are any and then sleeps until those that
//    others took are done; it never waits for a job that has not started. A busy core costs its
//    share and no more.
//  * A job that the pool runs late, after its call returned, finds nothing to do and touches
//  nothing
//    but memory that it owns a share of.
#pragma once

#include <concepts>
#include <memory>
#include <utility>

#include "lowbit/executors/detail/task_queue.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors {

/// What is submitted to the pool: copyable, called without arguments, never throws. Calling it late
/// or not at all does no harm; at most one call per job may run at a time.
class pool_job {
 public:
  pool_job(std::shared_ptr<detail::task_queue> queue, index_t worker) noexcept
      : queue_(std::move(queue)), worker_(worker) {}
  void operator()() const noexcept { queue_->work(worker_); }

 private:
  std::shared_ptr<detail::task_queue> queue_;
  index_t worker_;
};

/// Something to call with a job for another thread, such as a lambda that calls pool.submit(job) or
/// a pool's post; it may convert the job to std::function<void()>. It should return soon; should it
/// run the job itself, the calling thread does all the work, correctly.
template <class Submit>
concept job_submitter = std::invocable<Submit&, pool_job>;

/// Runs tasks on the calling thread and up to workers - 1 threads of the caller's pool, which take
/// them in chunks from a counter.
///
///     executors::thread_pool_executor threads([&](auto job) { pool.submit(job); }, 4);
///
/// Thread-safe if `submit` is: calls from several threads, and calls inside of a task, each run on
/// their own tasks and end whatever the others do, also when no thread of the pool is free. Worker
/// numbers are unique within each call only, so such calls must not share a kernels::workspace.
///
/// Each call allocates a few hundred bytes. While all threads of the pool are kept busy by others,
/// calls leave up to workers - 1 jobs each in its queue, to be run (as nothing) or dropped later.
template <job_submitter Submit>
class thread_pool_executor final : public executor {
 public:
  /// `workers`: how many tasks may run at the same time, the caller's included: usually one more
  /// than the pool has threads, at most the number of cores. 0 counts as 1.
  thread_pool_executor(Submit submit, index_t workers)
      : submit_(std::move(submit)), workers_(std::max<index_t>(1, workers)) {}

  [[nodiscard]] index_t workers() const noexcept override { return workers_; }

  /// As executor::parallel_for. The first exception of a task, or of `submit`, is rethrown when no
  /// task runs any more; tasks that had not begun may be dropped.
  void parallel_for(index_t tasks, task run) override {
    const index_t participants = std::min(tasks, workers_);
    if (participants <= 1) {
      for (index_t i = 0; i < tasks; ++i) run(i, 0);
      return;
    }
    const auto queue = std::make_shared<detail::task_queue>(tasks, participants, run);
    call_for_help(queue, participants);
    queue->work(0);
    queue->wait();
  }

 private:
  void call_for_help(const std::shared_ptr<detail::task_queue>& queue, index_t participants) {
#if LOWBIT_EXCEPTIONS
    try {  // those who came already use `run`: the call must not end before they do
      for (index_t worker = 1; worker < participants; ++worker) submit_(pool_job(queue, worker));
    } catch (...) {
      queue->fail(std::current_exception());
    }
#else
    for (index_t worker = 1; worker < participants; ++worker) submit_(pool_job(queue, worker));
#endif
  }

  Submit submit_;
  const index_t workers_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::executors
