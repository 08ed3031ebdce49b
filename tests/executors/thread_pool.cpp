// The adapter for a pool of std::threads, with the examples' pool and with pools that do what one
// may: run jobs late, at once, never, or refuse them.
#include "lowbit/executors/thread_pool.hpp"

#include <time.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../examples/common/thread_pool.hpp"
#include "catch.hpp"
#include "make_executor.hpp"

using namespace lowbit;
using executors::thread_pool_executor;
using lowbit_test::message_of;

namespace {

/// A pool and its adapter in one.
class pool_executor final : public executor {
 public:
  explicit pool_executor(index_t workers)
      : pool_(static_cast<unsigned>(workers > 1 ? workers - 1 : 0)),
        adapter_([this](auto job) { pool_.submit(job); }, workers) {}
  [[nodiscard]] index_t workers() const noexcept override { return adapter_.workers(); }
  void parallel_for(index_t tasks, task run) override { adapter_.parallel_for(tasks, run); }

 private:
  examples::thread_pool pool_;
  thread_pool_executor<std::function<void(std::function<void()>)>> adapter_;
};

/// Opened once; a wait that takes a minute is a failed test, not a hanging one.
class gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  bool pass() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [this] { return is_open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

std::chrono::nanoseconds cpu_time_of_this_thread() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

}  // namespace

std::unique_ptr<executor> make_executor(index_t workers) {
  return std::make_unique<pool_executor>(workers);
}

TEST_CASE("thread_pool_executor: threads of the pool do run tasks") {
  pool_executor threads(3);
  // Three tasks that each wait for the others can only end on three threads.
  std::atomic<int> arrived{0};
  gate all_here;
  std::atomic<int> lonely{0};
  threads.parallel_for(3, [&](index_t, index_t) {
    if (++arrived == 3) all_here.open();
    if (!all_here.pass()) ++lonely;
  });
  CHECK(lonely == 0);
}

TEST_CASE("thread_pool_executor: no more jobs than can be of use") {
  std::vector<executors::pool_job> jobs;
  thread_pool_executor threads([&](const executors::pool_job& job) { jobs.push_back(job); }, 4);
  const auto jobs_for = [&](index_t tasks) {
    jobs.clear();
    threads.parallel_for(tasks, [](index_t, index_t) {});
    return jobs.size();
  };
  CHECK(jobs_for(0) == 0);
  CHECK(jobs_for(1) == 0);
  CHECK(jobs_for(2) == 1);
  CHECK(jobs_for(4) == 3);
  CHECK(jobs_for(100) == 3);
}

TEST_CASE("thread_pool_executor: jobs that run after their call, or twice, do nothing") {
  std::vector<executors::pool_job> jobs;
  {
    std::vector<int> runs(1000);  // freed before the jobs run: ASan would see a touch
    thread_pool_executor threads([&](const executors::pool_job& job) { jobs.push_back(job); }, 4);
    threads.parallel_for(runs.size(), [&](index_t task, index_t worker) {
      ++runs[task];
      if (worker != 0) ++runs[task];
    });
    CHECK(runs == std::vector<int>(1000, 1));
    CHECK_THROWS_AS(
        threads.parallel_for(9, [](index_t, index_t) { throw std::runtime_error("no"); }),
        std::runtime_error);
  }
  REQUIRE(jobs.size() == 6);
  for (const executors::pool_job& job : jobs) job();
  for (const executors::pool_job& job : jobs) job();
}

TEST_CASE("thread_pool_executor: a pool that is busy delays nobody") {
  gate release;
  std::atomic<bool> waited_too_long{false};
  examples::thread_pool pool(2);
  for (int i = 0; i < 2; ++i) {
    pool.submit([&] {
      if (!release.pass()) waited_too_long = true;
    });
  }
  thread_pool_executor threads([&](auto job) { pool.submit(job); }, 3);
  for (int call = 0; call < 100; ++call) {
    index_t others = 0;  // no atomic: only this thread runs
    index_t ran = 0;
    threads.parallel_for(20, [&](index_t, index_t worker) {
      others += worker;
      ++ran;
    });
    CHECK(ran == 20);
    CHECK(others == 0);
  }
  release.open();  // now the pool runs 200 jobs whose calls are over
  CHECK_FALSE(waited_too_long);
}

TEST_CASE("thread_pool_executor: submit may run the job itself") {
  std::vector<int> runs(100);
  thread_pool_executor threads([](const executors::pool_job& job) { job(); }, 4);
  threads.parallel_for(100,
                       [&](index_t task, index_t worker) { runs[task] += worker == 1 ? 1 : 0; });
  CHECK(runs == std::vector<int>(100, 1));
  CHECK(message_of<std::runtime_error>([&] {
          threads.parallel_for(100, [&](index_t, index_t) { throw std::runtime_error("task"); });
        }) == "task");
}

TEST_CASE("thread_pool_executor: what submit throws is rethrown when no task runs any more") {
  examples::thread_pool pool(1);
  gate helper_runs;
  std::atomic<int> ended{0};
  int submitted = 0;
  thread_pool_executor threads(
      [&](const executors::pool_job& job) {
        if (++submitted == 2) {
          if (!helper_runs.pass()) ended = -100;
          throw std::runtime_error("the pool is closed");
        }
        pool.submit(job);
      },
      3);
  CHECK(message_of<std::runtime_error>([&] {
          threads.parallel_for(1000, [&](index_t, index_t) {
            helper_runs.open();
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            ++ended;
          });
        }) == "the pool is closed");
  const int ended_at_return = ended;
  CHECK(ended_at_return >= 1);
  CHECK(ended_at_return < 1000);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(ended == ended_at_return);
}

TEST_CASE("thread_pool_executor: the caller sleeps while it waits") {
  pool_executor threads(2);
  gate helper_runs;
  std::atomic<int> lonely{0};
  const auto begin = std::chrono::steady_clock::now();
  const auto cpu_begin = cpu_time_of_this_thread();
  threads.parallel_for(2, [&](index_t, index_t worker) {
    if (worker == 0) {
      if (!helper_runs.pass()) ++lonely;
    } else {
      helper_runs.open();
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
  });
  const auto cpu = cpu_time_of_this_thread() - cpu_begin;
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  CHECK(lonely == 0);
  CHECK(elapsed >= std::chrono::milliseconds(300));
  CHECK(cpu < elapsed / 4);  // spinning would make them equal
}
