// bench_bit_gemm: the planes x planes product, every variant of this machine x every shape.
//
//   bit_gemm/planes/w<bits>a<bits>/<variant>/M<m>_N<n>_K<k>/warm   the integer driver on packed
//                                        operands that stay in cache; packing is not counted
//   bit_gemm/pack/...                    the packing alone
//   limit/and_popcount_add/<features>    the instruction peak of one bit-serial step, from
//   registers baseline/eigen_sgemm/...             Eigen's float product of the same shape, same
//   build flags
//
// One thread. Counters, all from CPU time: macs_per_second counts M * N * K integer products,
// bit_macs_per_second those times both plane counts; bytes_per_second what must be touched once
// (packed operands and output); peak_fraction is bit_macs_per_second over the fastest limit that
// LOWBIT_ISA allows, measured at the start of this very process. Machines are noisy: read medians,
//   bench_bit_gemm --benchmark_repetitions=7 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/kernels/bit_gemm/driver.hpp"
#include "run.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>
#elif LOWBIT_AARCH64
#include <arm_neon.h>
#endif

using namespace lowbit;

// Limits -----------------------------------------------------------------------------------------
// Each adds popcount(x & w[i]) to a sum of its own, several registers side by side: no load, no
// chain longer than an add. The empty asm makes x new in every round, so that the loop stays.
namespace {

using limit_fn = std::uint64_t (*)(std::uint64_t rounds);

struct limit {
  const char* name;
  cpu::cpu_set needs;
  limit_fn run;
  double bits_per_round;
};

}  // namespace

#if LOWBIT_X86_64
LOWBIT_TARGET_BEGIN("popcnt")
namespace {
std::uint64_t limit_popcnt(std::uint64_t rounds) {
  std::uint64_t x = 0x123456789abcdefU;
  std::uint64_t w[4] = {1, 3, 7, 15};
  __asm__("" : "+r"(w[0]), "+r"(w[1]), "+r"(w[2]), "+r"(w[3]));
  std::uint64_t sums[4] = {};
  for (std::uint64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" : "+r"(x));
    for (int i = 0; i < 4; ++i) {
      sums[i] += static_cast<std::uint64_t>(__builtin_popcountll(x & w[i]));
    }
    __asm__ volatile("" : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3]));  // no SIMD
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}
}  // namespace
LOWBIT_TARGET_END

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace {
// The popcount of AVX2 (Mula): two look-ups of nibbles, counts kept in bytes.
std::uint64_t limit_avx2(std::uint64_t rounds) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i x = _mm256_set1_epi64x(0x123456789abcdef);
  __m256i w[4];
  __m256i sums[4];
  for (int i = 0; i < 4; ++i) {
    w[i] = _mm256_set1_epi32(3 * i + 1);
    __asm__("" : "+x"(w[i]));
    sums[i] = _mm256_setzero_si256();
  }
  for (std::uint64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" : "+x"(x));
    for (int i = 0; i < 4; ++i) {
      const __m256i both = _mm256_and_si256(x, w[i]);
      const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(both, nibble));
      const __m256i high =
          _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
      sums[i] = _mm256_add_epi8(sums[i], _mm256_add_epi8(low, high));
    }
  }
  const __m256i sum =
      _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<std::uint64_t>(_mm256_extract_epi64(sum, 0));
}
}  // namespace
LOWBIT_TARGET_END

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")
namespace {
std::uint64_t limit_avx512_vpopcntdq(std::uint64_t rounds) {
  __m512i x = _mm512_set1_epi64(0x123456789abcdef);
  __m512i w[8];
  __m512i sums[8];
  for (int i = 0; i < 8; ++i) {
    w[i] = _mm512_set1_epi32(3 * i + 1);
    __asm__("" : "+v"(w[i]));
    sums[i] = _mm512_setzero_si512();
  }
  for (std::uint64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" : "+v"(x));
    for (int i = 0; i < 8; ++i) {
      sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(_mm512_and_si512(x, w[i])));
    }
  }
  std::uint64_t lanes[8];
  for (int i = 1; i < 8; ++i) sums[0] = _mm512_add_epi64(sums[0], sums[i]);
  _mm512_storeu_si512(lanes, sums[0]);
  return lanes[0] + lanes[7];
}
}  // namespace
LOWBIT_TARGET_END
#elif LOWBIT_AARCH64
namespace {
std::uint64_t limit_neon(std::uint64_t rounds) {
  uint8x16_t x = vdupq_n_u8(0x5a);
  uint8x16_t w[8];
  uint8x16_t sums[8];
  for (int i = 0; i < 8; ++i) {
    w[i] = vdupq_n_u8(static_cast<std::uint8_t>(3 * i + 1));
    __asm__("" : "+w"(w[i]));
    sums[i] = vdupq_n_u8(0);
  }
  for (std::uint64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" : "+w"(x));
    for (int i = 0; i < 8; ++i) sums[i] = vaddq_u8(sums[i], vcntq_u8(vandq_u8(x, w[i])));
  }
  for (int i = 1; i < 8; ++i) sums[0] = veorq_u8(sums[0], sums[i]);
  return vgetq_lane_u8(sums[0], 0);
}
}  // namespace
#endif

namespace {

const limit limits[] = {
#if LOWBIT_X86_64
    {"popcnt", cpu::popcnt, &limit_popcnt, 4 * 64},
    {"avx2", cpu::avx2_core, &limit_avx2, 4 * 256},
    {"avx512_vpopcntdq", cpu::avx512_core | cpu::avx512_vpopcntdq, &limit_avx512_vpopcntdq,
     8 * 512},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, &limit_neon, 8 * 128},
#endif
};

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

/// Bit-MACs per second of the fastest limit within `allowed`: the median of 9 runs of about 10 ms.
double peak_bit_macs(cpu::cpu_set allowed) {
  double peak = 0;
  for (const limit& l : limits) {
    if (!allowed.contains(l.needs)) continue;
    std::vector<double> rates;
    for (int i = 0; i < 9; ++i) {
      constexpr std::uint64_t rounds = 4'000'000;
      const double begin = cpu_seconds();
      benchmark::DoNotOptimize(l.run(rounds));
      rates.push_back(double{rounds} * l.bits_per_round / (cpu_seconds() - begin));
    }
    std::nth_element(rates.begin(), rates.begin() + 4, rates.end());
    peak = std::max(peak, rates[4]);
  }
  return peak;
}

// Products ---------------------------------------------------------------------------------------
struct product_shape {
  unsigned weight_bits;
  unsigned activation_bits;
  index_t tokens;
  index_t rows;
  index_t cols;

  [[nodiscard]] double macs() const {
    return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(cols);
  }
  [[nodiscard]] std::string name() const {
    return lowbit::detail::message("M", tokens, "_N", rows, "_K", cols);
  }
};

constexpr product_shape shapes[] = {{1, 1, 1024, 1024, 8192},
                                    {2, 2, 1024, 1024, 8192},
                                    {1, 8, 1, 4096, 4096},
                                    {4, 8, 1, 4096, 4096}};

layout::bit_matrix random_planes(unsigned planes, shape2 shape, std::uint64_t seed) {
  layout::bit_matrix m(planes, shape);  // widths here are multiples of 512: no padding to keep zero
  for (index_t i = 0; i < m.words().size(); ++i) m.words()[i] = random_bits(seed, i);
  return m;
}

/// One output, bit by bit.
std::int64_t one_output(const layout::bit_matrix& w, const layout::bit_matrix& x, index_t n,
                        index_t t) {
  std::int64_t sum = 0;
  for (index_t k = 0; k < w.shape().cols; ++k) {
    std::int64_t u = 0;
    std::int64_t v = 0;
    for (index_t p = 0; p < w.planes(); ++p) u += std::int64_t{w.bit(p, n, k)} << p;
    for (index_t p = 0; p < x.planes(); ++p) v += std::int64_t{x.bit(p, t, k)} << p;
    sum += u * v;
  }
  return sum;
}

void count(benchmark::State& state, double macs, double bytes) {
  using benchmark::Counter;
  state.counters["macs_per_second"] = Counter(macs, Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_second"] = Counter(bytes, Counter::kIsIterationInvariantRate);
}

void run_product(benchmark::State& state, const product_shape& s, cpu::cpu_set allowed,
                 double peak) {
  const layout::bit_matrix w = random_planes(s.weight_bits, {s.rows, s.cols}, 1);
  const layout::bit_matrix x = random_planes(s.activation_bits, {s.tokens, s.cols}, 2);
  const kernels::packed_weight_planes packed_w(w);
  const kernels::packed_activation_planes packed_x(x);
  std::vector<std::int64_t> y(s.tokens * s.rows);
  const matrix_view<std::int64_t> out(y.data(), s.tokens, s.rows);
  const kernels::context ctx{.allowed = allowed};
  kernels::bit_gemm(packed_w, packed_x, out, ctx);
  for (index_t i = 0; i < 8; ++i) {
    const index_t t = random_bits(3, 2 * i) % s.tokens;
    const index_t n = random_bits(3, 2 * i + 1) % s.rows;
    if (out(t, n) != one_output(w, x, n, t)) return state.SkipWithError("wrong result");
  }
  const double begin = cpu_seconds();
  for (auto _ : state) {
    kernels::bit_gemm(packed_w, packed_x, out, ctx);
    benchmark::ClobberMemory();
  }
  const double seconds = cpu_seconds() - begin;
  const double bit_macs = s.macs() * s.weight_bits * s.activation_bits;
  const double words = static_cast<double>(w.words().size() + x.words().size() + y.size());
  count(state, s.macs(), words * 8);
  state.counters["bit_macs_per_second"] =
      benchmark::Counter(bit_macs, benchmark::Counter::kIsIterationInvariantRate);
  if (peak > 0) {
    state.counters["peak_fraction"] =
        bit_macs * static_cast<double>(state.iterations()) / seconds / peak;
  }
}

void run_eigen(benchmark::State& state, const product_shape& s) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto rows = static_cast<Eigen::Index>(s.rows);
  const auto cols = static_cast<Eigen::Index>(s.cols);
  const auto tokens = static_cast<Eigen::Index>(s.tokens);
  const matrix w = matrix::Random(rows, cols);
  const matrix x = matrix::Random(tokens, cols);
  const Eigen::VectorXf v = x.row(0);
  matrix y(tokens, rows);
  Eigen::VectorXf u(rows);
  for (auto _ : state) {
    if (s.tokens == 1) {
      u.noalias() = w * v;
    } else {
      y.noalias() = x * w.transpose();
    }
    benchmark::ClobberMemory();
  }
  count(state, s.macs(), 4.0 * static_cast<double>(w.size() + x.size() + y.size()));
}

// Packing ----------------------------------------------------------------------------------------
void run_pack_weights(benchmark::State& state, unsigned bits, shape2 shape, index_t group_size) {
  const layout::bit_matrix w = random_planes(bits, shape, 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels::packed_weight_planes(w, group_size));
  }
  using benchmark::Counter;
  state.counters["weights_per_second"] =
      Counter(static_cast<double>(shape.size()), Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_second"] =
      Counter(8.0 * static_cast<double>(w.words().size()), Counter::kIsIterationInvariantRate);
}

void run_pack_activations(benchmark::State& state, unsigned bits, shape2 shape) {
  const layout::bit_matrix x = random_planes(bits, shape, 2);
  for (auto _ : state) benchmark::DoNotOptimize(kernels::packed_activation_planes(x));
  using benchmark::Counter;
  state.counters["values_per_second"] =
      Counter(static_cast<double>(shape.size()), Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_second"] =
      Counter(8.0 * static_cast<double>(x.words().size()), Counter::kIsIterationInvariantRate);
}

void run_limit(benchmark::State& state, const limit& l) {
  constexpr std::uint64_t rounds = 100'000;
  for (auto _ : state) benchmark::DoNotOptimize(l.run(rounds));
  state.counters["bit_macs_per_second"] = benchmark::Counter(
      double{rounds} * l.bits_per_round, benchmark::Counter::kIsIterationInvariantRate);
}

template <class Run>
void add(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMicrosecond);
}

void register_all(cpu::cpu_set allowed) {
  using lowbit::detail::message;
  const double peak = peak_bit_macs(allowed);
  for (const limit& l : limits) {
    if (!allowed.contains(l.needs)) continue;
    add(message("limit/and_popcount_add/", l.name),
        [&l](benchmark::State& state) { run_limit(state, l); });
  }
  for (const product_shape& s : shapes) {
    for (const auto& v : kernels::bit_gemm_variants) {
      if (!v.is_supported(allowed)) continue;
      add(message("bit_gemm/planes/w", s.weight_bits, "a", s.activation_bits, "/", v.name, "/",
                  s.name(), "/warm"),
          [&s, &v, peak](benchmark::State& state) { run_product(state, s, v.needs, peak); });
    }
  }
  for (const product_shape& s : {shapes[0], shapes[2]}) {
    add(message("baseline/eigen_sgemm/f32/", s.name(), "/warm"),
        [s](benchmark::State& state) { run_eigen(state, s); });
  }
  for (const unsigned bits : {1U, 4U}) {
    for (const index_t group_size : {index_t{0}, index_t{64}}) {
      add(message("bit_gemm/pack/w", bits, "/g", group_size, "/N4096_K4096"),
          [bits, group_size](benchmark::State& state) {
            run_pack_weights(state, bits, {4096, 4096}, group_size);
          });
    }
  }
  for (const index_t tokens : {index_t{1}, index_t{128}}) {
    add(message("bit_gemm/pack/a8/M", tokens, "_K4096"), [tokens](benchmark::State& state) {
      run_pack_activations(state, 8, {tokens, 4096});
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_all(kernels::context::best().allowed);
  } catch (const error& e) {
    std::fprintf(stderr, "bench_bit_gemm: %s\n", e.what());
    return 1;
  }
  // Short by default: large products take a second each. A later flag wins.
  char min_time[] = "--benchmark_min_time=0.2";
  std::vector<char*> args(argv, argv + argc);
  args.insert(args.begin() + 1, min_time);
  return bench::run(static_cast<int>(args.size()), args.data());
}
