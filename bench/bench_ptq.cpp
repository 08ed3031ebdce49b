// bench_ptq: how long calibration, error feedback and refinement take, on one thread.
//
//   ptq/<step>/N<n>_K<k>
//
// moments: 1024 rows of inputs added. feedback: the factor of H and all codes of a matrix, by
// 2-plane SBVR in groups of 128. refine: one round of refit and coordinate descent after it.
// Weights are a seeded standard normal, inputs have correlated channels. Counters:
// weights_per_second and peak_memory_mib, the most that the process had resident so far (weights
// and H included).
//
//   bench_ptq --benchmark_filter=4096
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "examples/common/peak_memory.hpp"
#include "lowbit/lowbit.hpp"
#include "run.hpp"

namespace {

using namespace lowbit;

constexpr index_t calibration_rows = 1024;

/// A layer of n outputs and k inputs, and rows of its inputs: white noise plus a part of 32
/// dimensions.
struct layer {
  explicit layer(index_t size) : n(size), weights(size * size), inputs(calibration_rows * size) {
    for (index_t i = 0; i < weights.size(); ++i) weights[i] = random_normal(1, i);
    constexpr index_t rank = 32;
    for (index_t t = 0; t < calibration_rows; ++t) {
      for (index_t k = 0; k < n; ++k) {
        float x = random_normal(2, t * n + k);
        for (index_t d = k % 8; d < rank; d += 8) {
          x = std::fma(random_normal(3, t * rank + d), random_normal(4, d * n + k), x);
        }
        inputs[t * n + k] = x;
      }
    }
  }
  [[nodiscard]] matrix_view<const float> weight_view() const { return {weights.data(), n, n}; }
  [[nodiscard]] matrix_view<const float> input_view() const {
    return {inputs.data(), calibration_rows, n};
  }
  [[nodiscard]] observers::second_moments moments(const context& ctx) const {
    observers::moment_accumulator accumulator(n);
    accumulator.add(input_view(), ctx);
    observers::second_moments m = accumulator.finish();
    m.shrink(m.shrinkage);
    ptq::damp(m.matrix(), 0.01);
    return m;
  }

  index_t n;
  std::vector<float> weights;
  std::vector<float> inputs;
};

void finish(benchmark::State& state, index_t n) {
  state.counters["weights_per_second"] =
      benchmark::Counter(static_cast<double>(n * n), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak_memory_mib"] = examples::peak_memory_mib();
}

void moments(benchmark::State& state, index_t n) {
  const layer l(n);
  const context ctx = context::best();
  for (auto _ : state) {
    observers::moment_accumulator accumulator(n);
    accumulator.add(l.input_view(), ctx);
    benchmark::DoNotOptimize(accumulator);
  }
  finish(state, n);
}

constexpr formats::sbvr_quantizer quantizer{.params = {.planes = 2, .group_size = 128}};

void feedback(benchmark::State& state, index_t n) {
  const layer l(n);
  const context ctx = context::best();
  const observers::second_moments h = l.moments(ctx);
  const std::vector<float> importance = h.importance();
  for (auto _ : state) {
    const auto codec = quantizer.prepare(l.weight_view(), {.importance = importance}, 1.1F);
    ptq::coding coded(codec, l.weight_view());
    ptq::apply_feedback(coded, h.matrix(), importance, {}, ctx);
    benchmark::DoNotOptimize(coded);
  }
  finish(state, n);
}

void refine(benchmark::State& state, index_t n) {
  const layer l(n);
  const context ctx = context::best();
  const observers::second_moments h = l.moments(ctx);
  const std::vector<float> importance = h.importance();
  const auto codec = quantizer.prepare(l.weight_view(), {.importance = importance}, 1.1F);
  ptq::coding coded(codec, l.weight_view());
  ptq::apply_feedback(coded, h.matrix(), importance, {}, ctx);
  for (auto _ : state) {
    auto copy = coded;
    benchmark::DoNotOptimize(ptq::refine(copy, h.matrix(), {.rounds = 1}, ctx));
  }
  finish(state, n);
}

void add_all() {
  for (const index_t n : {index_t{512}, index_t{2048}, index_t{4096}}) {
    const auto add = [n](const char* step, void (*run)(benchmark::State&, index_t)) {
      const std::string name = lowbit::detail::message("ptq/", step, "/N", n, "_K", n);
      benchmark::RegisterBenchmark(name.c_str(), [n, run](benchmark::State& state) {
        run(state, n);
      })->Unit(benchmark::kMillisecond);
    };
    add("moments", moments);
    add("feedback", feedback);
    add("refine", refine);
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  return bench::run(argc, argv);
}
