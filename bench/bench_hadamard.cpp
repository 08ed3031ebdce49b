// bench_hadamard: Hadamard transforms of rows of floats, signs and scale included, every variant of
// this machine, on one thread.
//
//   hadamard/<n>/VARIANT/<batch>_rows[_out_of_place]     y = H D x / sqrt(b) of every row
//
// n is the length of a row, whose block b is n where there is a Hadamard matrix of this size, else
// the largest power of two that divides n (11008: 43 blocks of 256). 64 rows of 4096 floats are
// 1 MiB: in the L2 cache of most CPUs.
//
// Counters: ns_per_row, adds_per_second (what the definition asks for: n (m - 1 + k) for b = m 2^k)
// and peak_fraction, of the float additions per second of the variant's own tier, which are
// measured before and after each run, because clocks drift. A fraction may exceed 1: part of the
// sums goes through multipliers. Time is CPU time of the thread. The oracle runs up to 4096.
//
//   bench_hadamard --benchmark_filter=/4096/ --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/hadamard/driver.hpp"

namespace {

using namespace bench;
using lowbit::matrix_view;
using lowbit::detail::message;
using lowbit::linalg::hadamard_direction;
using lowbit::linalg::hadamard_matrix;

using variant = kernels::variant<kernels::hadamard_functions>;

/// The rows of one benchmark.
struct rows {
  hadamard_matrix h;
  std::vector<std::uint64_t> signs;
  lowbit::aligned_buffer<float> x;
  lowbit::aligned_buffer<float> y;
};

rows make_rows(index_t n, index_t batch) {
  const bool whole = lowbit::linalg::hadamard_order(n).exist();
  rows r{hadamard_matrix(whole ? n : index_t{1} << std::countr_zero(n)),
         std::vector<std::uint64_t>(lowbit::div_up(n, 64)),
         lowbit::aligned_buffer<float>(batch * n), lowbit::aligned_buffer<float>(batch * n)};
  for (index_t w = 0; w < r.signs.size(); ++w) r.signs[w] = lowbit::random_bits(1, w);
  for (index_t i = 0; i < r.x.size(); ++i) r.x[i] = lowbit::random_uniform(2, i) - 0.5F;
  return r;
}

void time_rows(benchmark::State& state, const variant& v, index_t n, index_t batch, bool in_place) {
  const auto r = cached(message(n, "x", batch), [&] { return make_rows(n, batch); });
  kernels::context ctx = allowed_context();
  kernels::workspace scratch;
  ctx.allowed = v.needs;
  ctx.scratch = &scratch;
  const matrix_view<float> x(r->x.data(), batch, n);
  const matrix_view<float> y(in_place ? r->x.data() : r->y.data(), batch, n);
  const auto run = [&] {
    kernels::hadamard_rows(r->h, hadamard_direction::forward, r->signs, x, y, ctx);
  };
  const auto& f = r->h.factors();
  const double adds =
      static_cast<double>(batch * n) *
      static_cast<double>(f.dense - 1 + static_cast<index_t>(std::countr_zero(f.power)));
  const instruction_limit* const limit = find_limit(operation::float_add, v.needs);
  run();
  std::vector<double> times;
  std::vector<double> fractions;
  double before = limit != nullptr ? limit->measure() : 0;
  for (auto _ : state) {
    constexpr int repeats = 4;
    const double begin = cpu_seconds();
    for (int i = 0; i < repeats; ++i) run();
    const double seconds = (cpu_seconds() - begin) / repeats;
    state.SetIterationTime(seconds);
    times.push_back(seconds);
    if (limit == nullptr || times.size() % 8 != 0) continue;
    const double after = limit->measure();
    fractions.push_back(2 * adds / seconds / (before + after));
    before = after;
  }
  const double time = median(times);
  state.counters["ns_per_row"] = 1e9 * time / static_cast<double>(batch);
  state.counters["adds_per_second"] = adds / time;
  if (!fractions.empty()) state.counters["peak_fraction"] = median(fractions);
}

const registration hadamard_rows([] {
  if (allowed_context().threads != nullptr) return;  // one thread only
  for (const index_t n : {512U, 1024U, 4096U, 16384U, 1536U, 5120U, 14336U, 29568U, 11008U}) {
    for (const variant& v : kernels::hadamard_variants) {
      if (!v.is_supported(allowed_context().allowed)) continue;
      if (v.name == "scalar" && n > 4096) continue;
      for (const index_t batch : {64U, 1U}) {
        for (const bool in_place : {true, false}) {
          if (batch == 1 && !in_place) continue;
          benchmark::RegisterBenchmark(message("hadamard/", n, "/", v.name, "/", batch, "_rows",
                                               in_place ? "" : "_out_of_place")
                                           .c_str(),
                                       [&v, n, batch, in_place](benchmark::State& state) {
                                         time_rows(state, v, n, batch, in_place);
                                       })
              ->UseManualTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
});

}  // namespace
