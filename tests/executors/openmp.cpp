// The adapter for OpenMP.
#include "lowbit/executors/openmp.hpp"

#include "catch.hpp"
#include "make_executor.hpp"

std::unique_ptr<lowbit::executor> make_executor(lowbit::index_t workers) {
  return std::make_unique<lowbit::executors::openmp_executor>(workers);
}

// LeakSanitizer: what libomp 14 keeps for each thread of the program that opened a region.
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp"; }

TEST_CASE("openmp_executor: as many workers as OpenMP would use") {
  CHECK(lowbit::executors::openmp_executor{}.workers() ==
        static_cast<lowbit::index_t>(omp_get_max_threads()));
}

TEST_CASE("openmp_executor: inside of a parallel region each thread has its own call") {
  lowbit::executors::openmp_executor threads(2);
  int sums[2] = {};
#pragma omp parallel for num_threads(2)
  for (int t = 0; t < 2; ++t) {
    threads.parallel_for(10, [&sums, t](lowbit::index_t, lowbit::index_t) { ++sums[t]; });
  }
  CHECK(sums[0] == 10);
  CHECK(sums[1] == 10);
}
