// bench_threads: what a second thread is worth, on idle cores and beside a busy neighbour.
//
//   code_gemm/uniform_g64/w4a8/best/M128_N4096_K4096/warm/threads:1|2
//   .../neighbour:1                another process spins on one of the cores meanwhile
//
// Wall-clock time, since this is about waiting: read medians. The threads are those of the pool in
// examples/common through executors/thread_pool.hpp. Counter macs_per_second.
#include <benchmark/benchmark.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "examples/common/thread_pool.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/executors/thread_pool.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ops/pack.hpp"

namespace {

using namespace lowbit;

/// Another process that does nothing but use the last core, until it is destroyed.
class neighbour {
 public:
  neighbour() : process_(::fork()) {
    if (process_ != 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(::sysconf(_SC_NPROCESSORS_ONLN) - 1), &set);
    static_cast<void>(::sched_setaffinity(0, sizeof set, &set));
    for (std::uint64_t i = 0;; ++i) benchmark::DoNotOptimize(i);
  }
  ~neighbour() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  neighbour(const neighbour&) = delete;
  neighbour& operator=(const neighbour&) = delete;

 private:
  ::pid_t process_;
};

const kernels::packed_codes& weights(index_t rows, index_t cols) {
  static const kernels::packed_codes packed = [&] {
    std::vector<float> w(rows * cols);
    for (index_t i = 0; i < w.size(); ++i) w[i] = random_normal(1, i);
    const formats::uniform_quantizer q{.params = {.bits = 4, .group_size = 64}};
    return ops::pack(q.quantize({w.data(), rows, cols}));
  }();
  return packed;
}

void run(benchmark::State& state, index_t tokens, index_t threads, bool busy) {
  constexpr index_t rows = 4096;
  constexpr index_t cols = 4096;
  const kernels::packed_codes& w = weights(rows, cols);
  std::vector<float> x(tokens * cols);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(2, i);
  std::vector<float> y(tokens * rows);
  const std::unique_ptr<neighbour> other = busy ? std::make_unique<neighbour>() : nullptr;
  examples::thread_pool pool(static_cast<unsigned>(threads - 1));
  executors::thread_pool_executor lent([&](auto job) { pool.submit(job); }, threads);
  kernels::workspace scratch;
  kernels::context ctx = kernels::context::best();
  ctx.scratch = &scratch;
  if (threads > 1) ctx.threads = &lent;
  kernels::int8_activations codes;
  for (auto _ : state) {
    codes.assign({x.data(), tokens, cols}, {.group_size = 64}, ctx);
    kernels::code_gemm(w, codes, {y.data(), tokens, rows}, ctx);
    benchmark::ClobberMemory();
  }
  state.counters["macs_per_second"] = benchmark::Counter(
      static_cast<double>(tokens * rows * cols), benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main(int argc, char** argv) {
  for (const index_t tokens : {index_t{1}, index_t{128}}) {
    for (const bool busy : {false, true}) {
      for (const index_t threads : {index_t{1}, index_t{2}, index_t{4}, index_t{8}, index_t{16}}) {
        if (threads > static_cast<index_t>(::sysconf(_SC_NPROCESSORS_ONLN))) continue;
        const std::string name = lowbit::detail::message(
            "code_gemm/uniform_g64/w4a8/best/M", tokens, "_N4096_K4096/warm/threads:", threads,
            busy ? "/neighbour:1" : "");
        benchmark::RegisterBenchmark(
            name.c_str(), [=](benchmark::State& state) { run(state, tokens, threads, busy); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
