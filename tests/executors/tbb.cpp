// The adapter for oneTBB.
#include "lowbit/executors/tbb.hpp"

#include <oneapi/tbb/global_control.h>

#include <atomic>

#include "catch.hpp"
#include "make_executor.hpp"

std::unique_ptr<lowbit::executor> make_executor(lowbit::index_t workers) {
  // More threads than cores: tasks overlap and are interrupted on small machines too.
  static const tbb::global_control threads(tbb::global_control::max_allowed_parallelism, 8);
  return std::make_unique<lowbit::executors::tbb_executor>(workers);
}

TEST_CASE("tbb_executor: as many workers as TBB would use") {
  CHECK(lowbit::executors::tbb_executor{}.workers() ==
        static_cast<lowbit::index_t>(tbb::this_task_arena::max_concurrency()));
}

TEST_CASE("tbb_executor: works with fewer threads than workers") {
  const tbb::global_control one_thread(tbb::global_control::max_allowed_parallelism, 1);
  lowbit::executors::tbb_executor threads(4);
  std::atomic<int> ran{0};
  threads.parallel_for(100, [&](lowbit::index_t, lowbit::index_t) { ++ran; });
  CHECK(ran == 100);
}
