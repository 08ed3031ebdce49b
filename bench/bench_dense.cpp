// bench_dense: dense fp64 products and what is built on them, every variant of this machine, on one
// thread.
//
//   dense/product/VARIANT/M<m>_N<n>_K<k>      C[M, N] -= A[M, K] * B[K, N]
//   dense/gram/VARIANT/T<t>_K<k>              lower triangle of H[K, K] += X[T, K]^T X, floats
//   dense/inverse_upper_factor/VARIANT/N<n>   U with H^-1 = U^T U
//
// Counters: fmas_per_second (those that the definition asks for: half of all for triangles, N^3 / 3
// for the last) and peak_fraction, of the fp64 FMA peak of the variant's own tier, which is
// measured before and after each run, because clocks drift. Time is CPU time of the thread. The
// oracle runs where it takes a second at most.
//
//   bench_dense --benchmark_filter=dense/product --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/dense/driver.hpp"
#include "lowbit/linalg/cholesky.hpp"

namespace {

using namespace bench;
using kernels::dense_sign;
using lowbit::matrix_view;
using lowbit::detail::message;

using variant = kernels::variant<kernels::dense_functions>;

std::vector<double> doubles(index_t count, std::uint64_t seed) {
  std::vector<double> values(count);
  for (index_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(lowbit::random_uniform(seed, i)) - 0.5;
  }
  return values;
}

/// The work of one benchmark, ready to be repeated.
using work = std::function<void(const kernels::context&)>;

void time_work(benchmark::State& state, const variant& v, double fmas, const work& run) {
  kernels::context ctx = allowed_context();
  kernels::workspace scratch;
  ctx.allowed = v.needs;
  ctx.scratch = &scratch;
  const instruction_limit* const limit = find_limit(operation::double_fma, v.needs);
  run(ctx);
  std::vector<double> fractions;
  double before = limit != nullptr ? limit->measure() : 0;
  double total = 0;
  for (auto _ : state) {
    const double begin = cpu_seconds();
    run(ctx);
    const double seconds = cpu_seconds() - begin;
    state.SetIterationTime(seconds);
    total += seconds;
    if (limit == nullptr) continue;
    const double after = limit->measure();
    fractions.push_back(2 * fmas / seconds / (before + after));
    before = after;
  }
  state.counters["fmas_per_second"] = static_cast<double>(state.iterations()) * fmas / total;
  if (limit != nullptr) state.counters["peak_fraction"] = median(fractions);
}

/// Registers one benchmark for each variant; prepare() makes the work when it is needed.
void add(const std::string& what, const std::string& shape, double fmas,
         const std::function<work()>& prepare) {
  constexpr double oracle_fmas = 2e8;
  for (const variant& v : kernels::dense_variants) {
    if (!v.is_supported(allowed_context().allowed)) continue;
    if (v.needs == cpu::none && fmas > oracle_fmas) continue;
    benchmark::RegisterBenchmark(
        message("dense/", what, "/", v.name, "/", shape).c_str(),
        [&v, fmas, prepare](benchmark::State& state) { time_work(state, v, fmas, prepare()); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

void add_product(product_shape s) {
  add("product", message("M", s.tokens, "_N", s.rows, "_K", s.cols), s.macs(), [s]() -> work {
    const auto a = std::make_shared<std::vector<double>>(doubles(s.tokens * s.cols, 1));
    const auto b = std::make_shared<std::vector<double>>(doubles(s.cols * s.rows, 2));
    const auto c = std::make_shared<std::vector<double>>(doubles(s.tokens * s.rows, 3));
    return [=](const kernels::context& ctx) {
      kernels::add_product({c->data(), s.tokens, s.rows}, dense_sign::subtract,
                           matrix_view<double>(a->data(), s.tokens, s.cols),
                           matrix_view<double>(b->data(), s.cols, s.rows), ctx);
    };
  });
}

/// X[rows, cols] of normal numbers.
std::vector<float> normals(index_t rows, index_t cols) {
  std::vector<float> x(rows * cols);
  for (index_t i = 0; i < x.size(); ++i) x[i] = lowbit::random_normal(4, i);
  return x;
}

void add_gram(index_t tokens, index_t k) {
  const double fmas = 0.5 * static_cast<double>(tokens * k * (k + 1));
  add("gram", message("T", tokens, "_K", k), fmas, [=]() -> work {
    const auto x = std::make_shared<std::vector<float>>(normals(tokens, k));
    const auto h = std::make_shared<std::vector<double>>(k * k);
    return [=](const kernels::context& ctx) {
      kernels::add_gram({h->data(), k, k}, {x->data(), tokens, k}, {}, ctx);
    };
  });
}

void add_inverse_upper_factor(index_t n) {
  const double fmas = static_cast<double>(n) * static_cast<double>(n * n) / 3;
  add("inverse_upper_factor", message("N", n), fmas, [n]() -> work {
    const auto h = std::make_shared<std::vector<double>>(n * n);
    const auto u = std::make_shared<std::vector<double>>(n * n);
    for (index_t i = 0; i < n; ++i) (*h)[i * n + i] = 1.0;
    const auto x = normals(n / 4, n);
    kernels::add_gram({h->data(), n, n}, {x.data(), n / 4, n}, {}, kernels::context::best());
    return [=](const kernels::context& ctx) {
      const bool ok = lowbit::linalg::inverse_upper_factor(matrix_view<double>(h->data(), n, n),
                                                           {u->data(), n, n}, ctx);
      LOWBIT_CHECK(ok, value, "the matrix is not positive definite");
    };
  });
}

const registration dense_products([] {
  if (allowed_context().threads != nullptr) return;  // one thread only
  for (const product_shape s :
       {product_shape{128, 128, 128}, {1024, 1024, 1024}, {4096, 4096, 128}, {4096, 128, 4096}}) {
    add_product(s);
  }
  add_gram(1024, 1024);
  add_gram(1024, 4096);
  for (const index_t n : {256U, 1024U, 4096U}) add_inverse_upper_factor(n);
});

}  // namespace
