// bench_manifold: local PCA, manifold distortion and what is chosen by it, on one thread.
//
//   manifold/<what>/<variant>/N<n>_K<k>
//
// what: fit (the local PCA of W), measure (the distortion of all blocks under it), layer (both,
// what one layer costs; issue 6 allows 2 s for 4096 x 4096) and scores (of every weight, for
// outliers). Weights are a seeded standard normal, of which 31 of 32 dimensions are tangent: the
// most work for the eigenvectors, the least for projections. Counter: weights_per_second, of CPU
// time.
//
//   bench_manifold --benchmark_filter=layer --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <string_view>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/outlier/budget.hpp"
#include "run.hpp"

namespace {

using namespace lowbit;
using outlier::weight_manifold;

/// W and an approximation of it, made once.
struct layer {
  index_t n;
  std::vector<float> weights;
  std::vector<float> trial;

  explicit layer(index_t size) : n(size), weights(n * n), trial(n * n) {
    for (index_t i = 0; i < weights.size(); ++i) {
      weights[i] = random_normal(1, i);
      trial[i] = weights[i] + 0.25F * (random_uniform(2, i) - 0.5F);
    }
  }
  [[nodiscard]] matrix_view<const float> w() const noexcept { return {weights.data(), n, n}; }
  [[nodiscard]] matrix_view<const float> q() const noexcept { return {trial.data(), n, n}; }
};

const layer& layer_of(index_t n) {
  static const layer made(n);
  return made;
}

template <class Run>
void add(std::string_view what, index_t n, const Run& run) {
  for (const auto& v : kernels::dense_variants) {
    if (!v.is_supported(kernels::context::best().allowed)) continue;
    const auto name = lowbit::detail::message("manifold/", what, "/", v.name, "/N", n, "_K", n);
    benchmark::RegisterBenchmark(name.c_str(), [&v, n, run](benchmark::State& state) {
      const layer& l = layer_of(n);
      const kernels::context ctx{.allowed = v.needs};
      const weight_manifold fitted(l.w(), {}, ctx);
      for (auto _ : state) run(l, fitted, ctx);
      state.counters["weights_per_second"] = benchmark::Counter(
          static_cast<double>(n * n), benchmark::Counter::kIsIterationInvariantRate);
    })->Unit(benchmark::kMillisecond);
  }
}

void add_all() {
  constexpr index_t n = 4096;
  add("fit", n, [](const layer& l, const weight_manifold&, const kernels::context& ctx) {
    benchmark::DoNotOptimize(weight_manifold(l.w(), {}, ctx).stripes().data());
  });
  add("measure", n, [](const layer& l, const weight_manifold& m, const kernels::context& ctx) {
    benchmark::DoNotOptimize(outlier::measure_distortion(m, l.w(), l.q(), ctx).blocks.data());
  });
  add("layer", n, [](const layer& l, const weight_manifold&, const kernels::context& ctx) {
    const weight_manifold m(l.w(), {}, ctx);
    benchmark::DoNotOptimize(outlier::measure_distortion(m, l.w(), l.q(), ctx).blocks.data());
  });
  add("scores", n, [](const layer& l, const weight_manifold& m, const kernels::context& ctx) {
    benchmark::DoNotOptimize(outlier::distortion_scores(m, l.w(), l.q(), {}, ctx).data());
  });
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  return bench::run(argc, argv);
}
