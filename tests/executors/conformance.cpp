// What every adapter must do, whatever threads it lends: each task once, no worker twice at a time,
// exceptions, reuse, calls inside of and beside each other, and products that equal serial ones.
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/lowbit.hpp"
#include "make_executor.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {

/// What happened in one or more calls. Catch2's macros are not thread-safe, so tasks count and the
/// test compares.
class record {
 public:
  record(index_t tasks, index_t workers) : runs_(tasks), busy_(workers) {}

  void begin(index_t task, index_t worker) {
    if (task >= runs_.size() || worker >= busy_.size()) {
      ++out_of_range_;
      return;
    }
    ++runs_[task];
    if (busy_[worker].exchange(true)) ++overlaps_;
  }
  void end(index_t worker) {
    if (worker < busy_.size()) busy_[worker] = false;
  }

  [[nodiscard]] bool each_task_ran(int times) const {
    for (const std::atomic<int>& runs : runs_) {
      if (runs != times) return false;
    }
    return true;
  }
  [[nodiscard]] int out_of_range() const { return out_of_range_; }
  [[nodiscard]] int overlaps() const { return overlaps_; }

 private:
  std::vector<std::atomic<int>> runs_;
  std::vector<std::atomic<bool>> busy_;
  std::atomic<int> out_of_range_{0};
  std::atomic<int> overlaps_{0};
};

std::vector<float> normal(index_t count, std::uint64_t seed) {
  std::vector<float> values(count);
  for (index_t i = 0; i < count; ++i) values[i] = random_normal(seed, i);
  return values;
}

}  // namespace

TEST_CASE("executor: the number of workers is what was asked for, and at least 1") {
  for (const index_t workers : {1U, 2U, 3U, 8U})
    CHECK(make_executor(workers)->workers() == workers);
  CHECK(make_executor(0)->workers() == 1);
}

TEST_CASE("executor: each task once, and no worker twice at a time") {
  for (const index_t workers : {1U, 2U, 3U, 8U}) {
    const auto threads = make_executor(workers);
    for (const index_t tasks : {0U, 1U, 2U, 3U, 7U, 8U, 9U, 64U, 1000U}) {
      record seen(tasks, workers);
      threads->parallel_for(tasks, [&](index_t task, index_t worker) {
        seen.begin(task, worker);
        std::this_thread::yield();  // so that other workers come in between, also on one core
        seen.end(worker);
      });
      INFO(workers << " workers, " << tasks << " tasks");
      CHECK(seen.each_task_ran(1));
      CHECK(seen.out_of_range() == 0);
      CHECK(seen.overlaps() == 0);
    }
  }
}

TEST_CASE("executor: what tasks wrote is seen by the caller, call after call") {
  const auto threads = make_executor(3);
  constexpr index_t tasks = 50;
  std::vector<index_t> sums(tasks);  // no atomics: the executor orders all accesses
  constexpr index_t calls = 3000;
  for (index_t call = 0; call < calls; ++call) {
    threads->parallel_for(tasks, [&](index_t task, index_t) { sums[task] += call; });
  }
  CHECK(sums == std::vector<index_t>(tasks, calls * (calls - 1) / 2));
}

TEST_CASE("executor: an exception of a task is rethrown, and the executor can be used again") {
  for (const index_t workers : {1U, 2U, 4U}) {
    const auto threads = make_executor(workers);
    for (const index_t bad : {0U, 1U, 50U, 99U}) {
      std::atomic<int> ran{0};
      INFO(workers << " workers, task " << bad);
      CHECK(message_of<std::runtime_error>([&] {
              threads->parallel_for(100, [&](index_t task, index_t) {
                ++ran;
                if (task == bad) throw std::runtime_error("task " + std::to_string(task));
              });
            }) == "task " + std::to_string(bad));
      const int ran_at_return = ran;
      CHECK(ran_at_return >= 1);
      CHECK(ran_at_return <= 100);
      record seen(20, workers);
      threads->parallel_for(20, [&](index_t task, index_t worker) {
        seen.begin(task, worker);
        seen.end(worker);
      });
      CHECK(seen.each_task_ran(1));
      CHECK(ran == ran_at_return);  // nobody was still at it
    }
  }
}

TEST_CASE("executor: of many exceptions one is rethrown") {
  const auto threads = make_executor(4);
  for (int repetition = 0; repetition < 100; ++repetition) {
    const std::string message = message_of<std::logic_error>([&] {
      threads->parallel_for(64, [](index_t task, index_t) {
        std::this_thread::yield();
        throw std::logic_error("task " + std::to_string(task));
      });
    });
    CHECK(message.substr(0, 5) == "task ");
  }
}

TEST_CASE("executor: lowbit's own errors keep their type") {
  const auto threads = make_executor(2);
  CHECK(message_of<value_error>([&] {
          threads->parallel_for(
              8, [](index_t task, index_t) { LOWBIT_CHECK(task != 5, value, "task ", task); });
        }) == "task 5");
}

TEST_CASE("executor: calls inside of a task end") {
  const auto threads = make_executor(3);
  constexpr index_t outer = 10;
  constexpr index_t inner = 40;
  std::vector<std::atomic<int>> runs(outer * inner);
  threads->parallel_for(outer, [&](index_t i, index_t) {
    threads->parallel_for(inner, [&](index_t j, index_t) { ++runs[i * inner + j]; });
  });
  int wrong = 0;
  for (const std::atomic<int>& n : runs) wrong += n != 1 ? 1 : 0;
  CHECK(wrong == 0);
}

TEST_CASE("executor: calls from several threads each run their own tasks") {
  const auto threads = make_executor(3);
  constexpr index_t callers = 4;
  constexpr int calls = 200;
  constexpr index_t tasks = 30;
  std::vector<std::unique_ptr<record>> seen;
  for (index_t c = 0; c < callers; ++c) seen.push_back(std::make_unique<record>(tasks, 3U));
  std::vector<std::thread> program;
  for (index_t c = 0; c < callers; ++c) {
    program.emplace_back([&, c] {
      for (int call = 0; call < calls; ++call) {
        threads->parallel_for(tasks, [&](index_t task, index_t worker) {
          seen[c]->begin(task, worker);
          seen[c]->end(worker);
        });
      }
    });
  }
  for (std::thread& thread : program) thread.join();
  for (const auto& calls_seen : seen) {
    CHECK(calls_seen->each_task_ran(calls));
    CHECK(calls_seen->out_of_range() == 0);
    CHECK(calls_seen->overlaps() == 0);
  }
}

TEST_CASE("executor: products equal serial ones bit for bit") {
  constexpr index_t m = 9;
  constexpr index_t n = 203;
  constexpr index_t k = 320;
  const std::vector<float> weights = normal(n * k, 1);
  const std::vector<float> input = normal(m * k, 2);
  const formats::uniform_quantizer quantizer{.params = {.bits = 3, .group_size = 64}};
  const auto tensor = quantizer.quantize({weights.data(), n, k});
  const ops::matmul_options exact{};
  const ops::matmul_options int8_inputs{.activations = {{.bits = 8}}};
  for (const ops::matmul_options& options : {exact, int8_inputs}) {
    const auto product = [&](const context& ctx) {
      std::vector<float> y(m * n, -1.0F);
      ops::matmul({input.data(), m, k}, tensor, {y.data(), m, n}, ctx, options);
      return y;
    };
    const std::vector<float> serial = product(context::best());
    for (const index_t workers : {1U, 2U, 3U, 8U}) {
      const auto threads = make_executor(workers);
      context ctx = context::best();
      ctx.threads = threads.get();
      kernels::workspace scratch;
      ctx.scratch = &scratch;
      for (int repetition = 0; repetition < 10; ++repetition) CHECK(product(ctx) == serial);
    }
  }
}
