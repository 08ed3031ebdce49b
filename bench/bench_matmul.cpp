// bench_matmul: Y = X W^T through ops::matmul, path by path, beside Eigen's float product.
//
//   matmul/<format>/w<bits>[a<bits>]/<path>/M<m>_N<n>_K<k>
//   baseline/eigen_sgemm/M<m>_N<n>_K<k>         the same shape in floats, same build flags
//
// One thread; float in, float out: quantizing and packing activations, and packing weights where a
// path does that per call, are counted. Counters: macs_per_second counts M * N * K;
// relative_error is against the double product of the *unquantized* operands.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "lowbit/lowbit.hpp"
#include "run.hpp"

namespace {

using namespace lowbit;

constexpr index_t size = 2048;  // N and K

struct operands {
  std::vector<float> w, x, y;
  matrix_view<const float> weights() const { return {w.data(), size, size}; }
  matrix_view<const float> inputs(index_t m) const { return {x.data(), m, size}; }
  matrix_view<float> outputs(index_t m) { return {y.data(), m, size}; }
};

operands& shared_operands() {
  static operands o = [] {
    operands made{std::vector<float>(size * size), std::vector<float>(128 * size),
                  std::vector<float>(128 * size)};
    for (index_t i = 0; i < made.w.size(); ++i) made.w[i] = random_normal(1, i);
    for (index_t i = 0; i < made.x.size(); ++i) made.x[i] = random_normal(2, i);
    return made;
  }();
  return o;
}

/// |Y - X W^T|^2 / |X W^T|^2 of what lies in the outputs, for the first token.
double relative_error(const operands& o) {
  double error = 0.0;
  double reference = 0.0;
  for (index_t n = 0; n < size; ++n) {
    double sum = 0.0;
    for (index_t k = 0; k < size; ++k) {
      sum += static_cast<double>(o.w[n * size + k]) * static_cast<double>(o.x[k]);
    }
    const double e = sum - static_cast<double>(o.y[n]);
    error += e * e;
    reference += sum * sum;
  }
  return error / reference;
}

template <class Run>
void add(const std::string& name, index_t m, Run run) {
  const std::string full = lowbit::detail::message(name, "/M", m, "_N", size, "_K", size);
  benchmark::RegisterBenchmark(full.c_str(), [m, run](benchmark::State& state) {
    operands& o = shared_operands();
    for (auto _ : state) {
      run(o, m);
      benchmark::ClobberMemory();
    }
    state.counters["macs_per_second"] = benchmark::Counter(
        static_cast<double>(m * size * size), benchmark::Counter::kIsIterationInvariantRate);
    state.counters["relative_error"] = relative_error(o);
  })->Unit(benchmark::kMillisecond);
}

void add_all() {
  static const context ctx = context::best();
  for (const index_t m : {index_t{1}, index_t{8}, index_t{128}}) {
    add("baseline/eigen_sgemm", m, [](operands& o, index_t tokens) {
      linalg::multiply_transposed(o.inputs(tokens), o.weights(), o.outputs(tokens));
    });
    for (const unsigned bits : {1U, 2U, 4U, 8U}) {
      const formats::uniform_quantizer q{.params = {.bits = bits, .group_size = 64}};
      const auto tensor =
          std::make_shared<formats::uniform_tensor>(q.quantize(shared_operands().weights()));
      add(lowbit::detail::message("matmul/uniform/w", bits, "/dequantize"), m,
          [tensor](operands& o, index_t tokens) {
            static workspace scratch;
            context with_scratch = ctx;
            with_scratch.scratch = &scratch;
            ops::matmul(o.inputs(tokens), *tensor, o.outputs(tokens), with_scratch);
          });
      for (const unsigned activation_bits : {4U, 8U}) {
        add(lowbit::detail::message("matmul/uniform/w", bits, "a", activation_bits, "/bit_serial"),
            m, [tensor, activation_bits](operands& o, index_t tokens) {
              ops::matmul(o.inputs(tokens), *tensor, o.outputs(tokens), ctx,
                          {.activations = {{.bits = activation_bits}}});
            });
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  return bench::run(argc, argv);
}
