#include "lowbit/core/executor.hpp"

#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {
int twice(int x) { return 2 * x; }
int called = 0;
void count(index_t, index_t) { ++called; }
}  // namespace

TEST_CASE("function_ref: calls what it refers to, without copying it") {
  int sum = 0;
  auto add = [&sum, calls = 0](int x) mutable {
    sum += x;
    return ++calls;
  };
  const function_ref<int(int)> ref = add;
  CHECK(ref(3) == 1);
  CHECK(ref(4) == 2);
  const function_ref<int(int)> copy = ref;  // refers to `add` too, not to `ref`
  CHECK(copy(5) == 3);
  CHECK(sum == 12);
  CHECK(add(0) == 4);
}

TEST_CASE("function_ref: const callables, plain functions, references and moves as arguments") {
  const auto constant = [](int x) { return x + 1; };
  CHECK(function_ref<int(int)>(constant)(1) == 2);
  CHECK(function_ref<long(int)>(constant)(1) == 2);  // converts the result
  CHECK(function_ref<int(int)>(twice)(4) == 8);
  auto* const pointer = &twice;
  CHECK(function_ref<int(int)>(pointer)(4) == 8);

  const auto increment = [](int& x) { ++x; };
  int n = 0;
  function_ref<void(int&)>{increment}(n);
  CHECK(n == 1);
  const auto take = [](std::string&& s) { return std::string(std::move(s)).size(); };
  CHECK(function_ref<std::size_t(std::string &&)>{take}(std::string("abc")) == 3);
  const auto returns = [](int x) { return x; };
  function_ref<void(int)>{returns}(1);  // a result may be dropped
  static_assert(!std::is_constructible_v<function_ref<void(int)>, void (*)(std::string)>);
}

TEST_CASE("serial_executor: every task once, in order, as worker 0") {
  serial_executor serial;
  CHECK(serial.workers() == 1);
  std::vector<std::pair<index_t, index_t>> calls;
  const auto note = [&](index_t task, index_t worker) { calls.emplace_back(task, worker); };
  serial.parallel_for(3, note);
  CHECK(calls == std::vector<std::pair<index_t, index_t>>{{0, 0}, {1, 0}, {2, 0}});
  serial.parallel_for(0, note);
  CHECK(calls.size() == 3);
  serial.parallel_for(4, count);
  CHECK(called == 4);
}

TEST_CASE("serial_executor: an exception of a task reaches the caller") {
  serial_executor serial;
  index_t ran = 0;
  CHECK(message_of<value_error>([&] {
          serial.parallel_for(5, [&](index_t task, index_t) {
            ++ran;
            LOWBIT_CHECK(task < 2, value, "task ", task);
          });
        }) == "task 2");
  CHECK(ran == 3);
}
