// bench_pack: what comes before a product, every variant of this machine.
//
//   pack_weights/...      from codes or planes to what the kernels read: once per matrix
//   pack_activations/...  from floats to int8 codes or to planes: part of every product
//
// Named like products (harness.hpp): M tokens or N rows, of K columns. Counters: values_per_second,
// and bytes_per_second of what is written (weights) or read (activations).
//
//   bench_pack --benchmark_filter=pack_activations.*M1_ --benchmark_repetitions=7
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/formats/sbvr/tensor.hpp"
#include "lowbit/kernels/activations/driver.hpp"
#include "lowbit/kernels/activations/quantized.hpp"
#include "lowbit/kernels/bit_gemm/driver.hpp"
#include "lowbit/kernels/code_gemm/driver.hpp"
#include "lowbit/ops/pack.hpp"

namespace {

using namespace bench;
using lowbit::matrix_view;
using lowbit::detail::message;

void count(benchmark::State& state, product_shape shape, double bytes) {
  using benchmark::Counter;
  const auto values = static_cast<double>((shape.tokens + shape.rows) * shape.cols);
  state.counters["values_per_second"] = Counter(values, Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_second"] = Counter(bytes, Counter::kIsIterationInvariantRate);
}

template <class Run>
void add(const product& p, Run run) {
  benchmark::RegisterBenchmark(p.name().c_str(), run)->Unit(benchmark::kMicrosecond);
}

void pack_codes(benchmark::State& state, unsigned bits, index_t group_size, product_shape shape) {
  const index_t groups = lowbit::div_up(shape.cols, group_size);
  std::vector<std::uint8_t> codes(shape.rows * shape.cols);
  for (index_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(lowbit::random_bits(1, i) & ((1U << bits) - 1U));
  }
  std::vector<float> scales(shape.rows * groups);
  for (index_t i = 0; i < scales.size(); ++i) {
    scales[i] = static_cast<float>(1 + lowbit::random_bits(2, i) % 1024);
  }
  const auto copy_codes = [&](index_t r, index_t, std::span<std::uint8_t> out) {
    std::memcpy(out.data(), codes.data() + r * shape.cols, out.size());
  };
  const auto copy_levels = [&](index_t r, index_t g, std::span<float> out) {
    out[0] = scales[r * groups + g];
    return kernels::code_group{};
  };
  kernels::code_format format;
  format.bits = bits;
  const kernels::code_rows rows{.shape = {shape.rows, shape.cols},
                                .group_size = group_size,
                                .format = format,
                                .codes = copy_codes,
                                .levels = copy_levels};
  double bytes = 0;
  for (auto _ : state) {
    const kernels::packed_codes packed(rows, allowed_context());
    bytes = static_cast<double>(packed.size_bytes());
    benchmark::ClobberMemory();
  }
  count(state, shape, bytes);
}

void pack_planes(benchmark::State& state, unsigned bits, index_t group_size, product_shape shape) {
  lowbit::layout::bit_matrix planes(bits, {shape.rows, shape.cols});
  for (index_t i = 0; i < planes.words().size(); ++i) {
    planes.words()[i] = lowbit::random_bits(1, i);
  }
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels::packed_weight_planes(planes, group_size));
  }
  count(state, shape, 8.0 * static_cast<double>(planes.words().size()));
}

/// A tensor of sums of scaled bit vectors, for products with int8.
void pack_sbvr(benchmark::State& state, unsigned planes, product_shape shape) {
  using lowbit::formats::sbvr_codebook;
  sbvr_codebook codebook({.planes = planes});
  const std::vector<float> ratios{1.0F, 0.5F, 0.25F, 0.125F};
  codebook.set_ratios({ratios.data(), planes});
  lowbit::formats::sbvr_tensor tensor({shape.rows, shape.cols}, codebook);
  std::vector<std::uint8_t> codes(shape.cols);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) {
      codes[c] = static_cast<std::uint8_t>(lowbit::random_bits(1, r * shape.cols + c) &
                                           ((1U << planes) - 1U));
    }
    tensor.set_codes(r, codes);
    for (index_t g = 0; g < tensor.group_shape().cols; ++g) {
      tensor.set_levels(r, g, {.scale = static_cast<float>(1 + (r + g) % 1024)});
    }
  }
  double bytes = 0;
  for (auto _ : state) {
    const kernels::packed_codes packed = lowbit::ops::pack(tensor, allowed_context());
    bytes = static_cast<double>(packed.size_bytes());
    benchmark::ClobberMemory();
  }
  count(state, shape, bytes);
}

std::vector<float> random_floats(product_shape shape) {
  std::vector<float> x(shape.tokens * shape.cols);
  for (index_t i = 0; i < x.size(); ++i) x[i] = lowbit::random_normal(5, i);
  return x;
}

void quantize_int8(benchmark::State& state, const kernels::activation_params& params,
                   product_shape shape, cpu::cpu_set allowed) {
  const std::vector<float> x = random_floats(shape);
  const matrix_view<const float> in(x.data(), shape.tokens, shape.cols);
  kernels::int8_activations activations(in, params, {.allowed = allowed});
  const kernels::int8_activations expected(in, params, {.allowed = cpu::none});
  for (index_t r = 0; r < expected.runs().count(); ++r) {
    const auto same = [](auto a, auto b) { return std::equal(a.begin(), a.end(), b.begin()); };
    if (!same(expected.codes(r), activations.codes(r)) ||
        !same(expected.sums(r), activations.sums(r)) ||
        !same(expected.steps(r), activations.steps(r))) {
      return state.SkipWithError("wrong: differs from the scalar variant");
    }
  }
  for (auto _ : state) {
    activations.assign(in, params, {.allowed = allowed});
    benchmark::ClobberMemory();
  }
  count(state, shape, 4.0 * static_cast<double>(x.size()));
}

void quantize_planes(benchmark::State& state, const kernels::activation_params& params,
                     product_shape shape, cpu::cpu_set allowed) {
  const std::vector<float> x = random_floats(shape);
  const matrix_view<const float> in(x.data(), shape.tokens, shape.cols);
  const kernels::context ctx{.allowed = allowed};
  kernels::quantized_activations codes;
  kernels::plane_activations planes;
  const auto run = [&] {
    codes.assign(in, params, ctx);
    planes.assign(codes, ctx);
  };
  run();
  const kernels::plane_activations expected(
      kernels::quantized_activations(in, params, {.allowed = cpu::none}), {.allowed = cpu::none});
  for (index_t t = 0; t < expected.tokens(); ++t) {
    for (index_t g = 0; g < expected.groups(); ++g) {
      const auto a = expected.group(t, g);
      const auto b = planes.group(t, g);
      if (!std::equal(a.begin(), a.end(), b.begin(), b.end())) {
        return state.SkipWithError("wrong: differs from the scalar variant");
      }
    }
  }
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  count(state, shape, 4.0 * static_cast<double>(x.size()));
}

product name_of(const char* family, std::string format, unsigned weight_bits,
                unsigned activation_bits, std::string_view variant, product_shape shape) {
  product p;
  p.family = family;
  p.format = std::move(format);
  p.weight_bits = weight_bits;
  p.activation_bits = activation_bits;
  p.variant = variant;
  p.shape = shape;
  return p;
}

const registration packing([] {
  const product_shape matrix{0, 4096, 4096};
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    add(name_of("pack_weights", "uniform_g64", bits, 8, "driver", matrix),
        [bits, matrix](benchmark::State& state) { pack_codes(state, bits, 64, matrix); });
  }
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    add(name_of("pack_weights", "sbvr_g128", planes, 8, "driver", matrix),
        [planes, matrix](benchmark::State& state) { pack_sbvr(state, planes, matrix); });
  }
  for (const unsigned bits : {1U, 4U}) {
    for (const index_t group_size : {index_t{0}, index_t{64}}) {
      const std::string format = group_size == 0 ? "planes" : message("planes_g", group_size);
      add(name_of("pack_weights", format, bits, bits, "driver", matrix),
          [bits, group_size, matrix](benchmark::State& state) {
            pack_planes(state, bits, group_size, matrix);
          });
    }
  }
  for (const index_t tokens : {index_t{1}, index_t{128}}) {
    const product_shape shape{tokens, 0, 4096};
    for (const auto& v : kernels::activation_variants) {
      if (!v.is_supported(allowed_context().allowed)) continue;
      for (const bool per_group : {false, true}) {
        const char* const suffix = per_group ? "_group" : "_token";
        add(name_of("pack_activations", message("int8_g64_per", suffix), 0, 8, v.name, shape),
            [per_group, shape, &v](benchmark::State& state) {
              quantize_int8(state, {.bits = 8, .group_size = 64, .per_group = per_group}, shape,
                            v.needs);
            });
        for (const unsigned bits : {1U, 2U, 4U, 8U}) {
          const index_t group_size = per_group ? 64 : 0;
          add(name_of("pack_activations",
                      message("planes", per_group ? "_g64" : "", "_per", suffix), 0, bits, v.name,
                      shape),
              [bits, group_size, per_group, shape, &v](benchmark::State& state) {
                quantize_planes(state,
                                {.bits = bits, .group_size = group_size, .per_group = per_group},
                                shape, v.needs);
              });
        }
      }
    }
  }
});

}  // namespace
