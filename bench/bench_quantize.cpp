// bench_quantize: how fast weights are quantized, and what is left of them. One thread.
//
//   quantize/<format>/<name=value,...>/N<n>_K<k>
//
// Every format of formats::all with its default options, the uniform format over bits, symmetry and
// range method, SBVR over planes, scales, bases and ways of storing coefficients, formats of sign
// factors over ranks and bits. Weights are a
// seeded standard normal. Counters: weights_per_second, bits_per_weight (everything stored),
// relative_mse, and db_above_bound: how far that error lies above 4^-bits_per_weight, the least
// that any code of so many bits can leave of a normal distribution. So speed is never read without
// quality, nor quality without what it costs.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "lowbit/lowbit.hpp"
#include "run.hpp"

namespace {

using namespace lowbit;

/// An n x n standard normal matrix, made once per size.
matrix_view<const float> normal_matrix(index_t n) {
  static std::vector<float> values;
  if (values.size() != n * n) {
    values.resize(n * n);
    for (index_t i = 0; i < values.size(); ++i) values[i] = random_normal(42, i);
  }
  return {values.data(), n, n};
}

/// The fields of a quantizer whose values differ from the defaults' text, or all of them.
template <quantizer Q>
std::string describe_options(Q q) {
  struct lister final : params_visitor {
    std::string text;
    void put(field f, std::string_view value) {
      text.append(text.empty() ? "" : ",").append(f.name).append("=").append(value);
    }
    void integer(field f, std::int64_t& value, std::int64_t, std::int64_t) override {
      put(f, std::to_string(value));
    }
    void real(field f, double& value, double, double) override {
      put(f, lowbit::detail::message(value));
    }
    void choice(field f, std::size_t& index, std::span<const std::string_view> names) override {
      put(f, names[index]);
    }
  } fields;
  Q::describe(q, fields);
  return fields.text;
}

template <quantizer Q>
void add(const Q& q, index_t n) {
  const std::string name = lowbit::detail::message("quantize/", format_of<Q>::name, "/",
                                                   describe_options(q), "/N", n, "_K", n);
  benchmark::RegisterBenchmark(name.c_str(), [q, n](benchmark::State& state) {
    const auto weights = normal_matrix(n);
    for (auto _ : state) {
      auto tensor = q.quantize(weights, {});
      benchmark::DoNotOptimize(tensor);
    }
    const auto tensor = q.quantize(weights, {});
    state.counters["weights_per_second"] = benchmark::Counter(
        static_cast<double>(n * n), benchmark::Counter::kIsIterationInvariantRate);
    const double bits = bits_per_weight(tensor);
    const error_stats error = ops::weight_error(weights, tensor);
    state.counters["bits_per_weight"] = bits;
    state.counters["relative_mse"] = error.relative_mse();
    state.counters["db_above_bound"] = error.db_above_bound(bits);
  })->Unit(benchmark::kMillisecond);
}

void add_sbvr() {
  using enum formats::sbvr_coefficients;
  const auto add_params = [](const formats::sbvr::params& params, index_t n,
                             formats::sbvr_method method = formats::sbvr_method::alternating) {
    const formats::sbvr_quantizer q{.params = params, .fit = {.method = method}};
    if (describe_options(q) != describe_options(formats::sbvr_quantizer{})) add(q, n);
  };
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    for (const unsigned scale_bits : {0U, 8U}) {
      add_params({.planes = planes, .scale_bits = scale_bits}, 4096);
    }
    add_params({.planes = planes, .group_size = 64, .scale_bits = 4}, 4096);
    add_params({.planes = planes, .group_size = 32, .scale_bits = 3}, 4096);
    add_params({.planes = planes, .group_size = 32, .scale_bits = 4}, 4096);
    add_params({.planes = planes, .coefficients = per_group}, 1024);
    add_params({.planes = planes, .offset = formats::sbvr_offset::per_group}, 1024);
    add_params({.planes = planes}, 1024, formats::sbvr_method::learned_ratios);
    add_params({.planes = planes, .basis = formats::sbvr_basis::zero_one, .coefficients = table},
               1024);
  }
}

void add_factors() {
  for (const unsigned rank : {1U, 2U, 4U}) {
    for (const double bits : {1.0, 1.5, 2.0}) {
      const formats::dbf_quantizer q{.params = {.envelope_rank = rank},
                                     .fit = {.target_bits = bits}};
      add(q, 512);
    }
  }
  for (const unsigned planes : {1U, 2U, 3U}) {
    for (const unsigned rank : {1U, 2U}) {
      add(formats::envelope_quantizer{.params = {.planes = planes, .envelope_rank = rank}}, 1024);
    }
  }
}

void add_all() {
  // A fit of a matrix as a whole takes minutes at 4096.
  formats::all::for_each(
      []<class Q>(std::type_identity<Q>) { add(Q{}, ptq::matrix_quantizer<Q> ? 1024 : 4096); });
  add_sbvr();
  add_factors();
  using formats::range_method;
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
      for (const auto method :
           {range_method::min_max, range_method::percentile, range_method::least_mse}) {
        const formats::uniform_quantizer q{.params = {.bits = bits, .kind = kind, .group_size = 64},
                                           .fit = {.method = method}};
        if (describe_options(q) == describe_options(formats::uniform_quantizer{})) continue;
        const bool searches = method != range_method::min_max;
        add(q, searches ? 1024 : 4096);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  return bench::run(argc, argv);
}
