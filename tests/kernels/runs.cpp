// How columns are cut into runs: every column in exactly one, none too long, all nearly equal.
#include "lowbit/kernels/runs.hpp"

#include <algorithm>
#include <cstddef>

#include "catch.hpp"

using namespace lowbit;
using kernels::code_runs;

namespace {

constexpr index_t group_sizes[] = {0, 1, 2, 3, 5, 31, 64, 255, 256, 257, 300, 1025};

/// What is wrong with the runs, or nothing.
const char* fault(index_t cols, index_t group_size) {
  const code_runs runs(cols, group_size);
  const index_t size = group_size == 0 || group_size > cols ? cols : group_size;
  if (runs.cols() != cols) return "another number of columns";
  if (runs.group_size() != size) return "another size of groups";
  if (runs.groups() != div_up(cols, size)) return "another number of groups";
  if (runs.run_size() == 0 || runs.run_size() > code_runs::max_columns) return "a long run";
  if (runs.quads() != div_up(runs.run_size(), 4)) return "too little or too much room";

  index_t next = 0;  // column
  index_t longest = 0;
  index_t runs_of_group = 0;
  index_t shortest_of_group = cols;
  for (index_t i = 0; i < runs.count(); ++i) {
    const index_t begin = runs.begin(i);
    const index_t count = runs.size(i);
    if (begin != next) return "a gap or an overlap";
    if (count == 0 || count > runs.run_size()) return "an empty or a long run";
    if (runs.group(i) != begin / size) return "a run in the wrong group";
    if ((begin + count - 1) / size != begin / size) return "a run of two groups";
    next = begin + count;
    longest = std::max(longest, count);
    if (begin % size == 0) {
      runs_of_group = 0;
      shortest_of_group = cols;
    }
    ++runs_of_group;
    shortest_of_group = std::min(shortest_of_group, count);
    const bool group_is_whole = next % size == 0;
    if (group_is_whole && runs.run_size() - shortest_of_group >= runs_of_group) return "unequal";
    if (group_is_whole && runs_of_group != div_up(size, code_runs::max_columns)) return "many runs";
  }
  if (next != cols) return "columns are left over";
  if (longest != runs.run_size()) return "room for more than the longest run";
  return nullptr;
}

}  // namespace

TEST_CASE("runs: every column is in exactly one run, of one group") {
  std::size_t wrong = 0;
  for (const index_t group_size : group_sizes) {
    for (index_t cols = 1; cols <= 1100; ++cols) {
      const char* const found = fault(cols, group_size);
      if (found != nullptr && wrong++ < 10) {
        UNSCOPED_INFO("K " << cols << " group " << group_size << ": " << found);
      }
    }
  }
  CHECK(wrong == 0);
  for (const index_t cols : {65536U, 65537U, 76801U, 100003U}) {
    for (const index_t group_size : {0U, 128U, 257U, 66000U}) {
      INFO("K " << cols << " group " << group_size);
      CHECK(fault(cols, group_size) == nullptr);
    }
  }
}

TEST_CASE("runs: cut as documented") {
  const code_runs whole(512, 128);
  CHECK(whole.count() == 4);
  CHECK(whole.run_size() == 128);
  CHECK(whole.quads() == 32);

  const code_runs halves(1000, 300);  // 150 + 150, three times, and the rest in the same pieces
  CHECK(halves.run_size() == 150);
  CHECK(halves.quads() == 38);
  CHECK(halves.groups() == 4);
  REQUIRE(halves.count() == 7);
  CHECK(halves.begin(6) == 900);
  CHECK(halves.size(6) == 100);
  CHECK(halves.group(6) == 3);

  const code_runs one_group(1025, 0);
  CHECK(one_group.group_size() == 1025);
  REQUIRE(one_group.count() == 5);
  for (index_t i = 0; i < 5; ++i) CHECK(one_group.size(i) == 205);
}

TEST_CASE("runs: no columns, no runs; equality is that of what was asked for") {
  for (const index_t group_size : {0U, 7U}) {
    const code_runs none(0, group_size);
    CHECK(none.count() == 0);
    CHECK(none.groups() == 0);
    CHECK(none.quads() == 0);
    CHECK(none.cols() == 0);
  }
  CHECK(code_runs{} == code_runs(0, 0));
  CHECK(code_runs(100, 0) == code_runs(100, 100));
  CHECK(code_runs(100, 0) == code_runs(100, 5000));
  CHECK(code_runs(100, 50) != code_runs(100, 25));
  CHECK(code_runs(100, 50) != code_runs(101, 50));
}
