// harness.cpp: registration, timing and the main function of the programs that use harness.hpp.
#include "harness.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "examples/common/thread_pool.hpp"
#include "lowbit/core/error.hpp"
#include "lowbit/executors/thread_pool.hpp"

namespace bench {

namespace {

using lowbit::detail::message;

/// How long a benchmark runs between two measurements of the limits.
constexpr double piece_seconds = 0.015;

std::vector<void (*)()>& registrations() {
  static std::vector<void (*)()> all;
  return all;
}

/// What the command line says beside Google Benchmark's flags.
struct options {
  std::size_t cold_bytes = 0;  ///< 0: find out
  bool best_only = false;      ///< of each product only the variant that is registered first
  unsigned threads = 1;
};

options& asked() {
  static options o;
  return o;
}

/// CPU time of this thread; with more of them, what the clock on the wall says.
double seconds_now() {
  if (asked().threads == 1) return cpu_seconds();
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What cold benchmarks rotate over: four times the last-level cache, as far as memory allows.
struct cold_size {
  std::size_t bytes = 0;
  bool is_capped = false;

  [[nodiscard]] static cold_size find() {
    if (asked().cold_bytes != 0) return {asked().cold_bytes, false};
    const std::size_t wanted = 4 * cpu::detect_caches().l3;
    const std::size_t share = memory_share();
    return {std::min(wanted, share), wanted > share};
  }
  [[nodiscard]] static const cold_size& get() {
    static const cold_size found = find();
    return found;
  }
};

read_limit& shared_read_limit() {
  static read_limit limit(cold_size::get().bytes);
  return limit;
}

/// The limits that bound one product, at one moment.
struct bounds {
  double peak = 0;            ///< steps per second; 0: unknown
  double read_bandwidth = 0;  ///< bytes per second; 0: not asked for

  [[nodiscard]] static bounds measure(const product& p) {
    bounds now;
    if (p.cold) now.read_bandwidth = shared_read_limit().measure(shared_read_limit().best());
    if (const auto* const limit = find_limit(p.what, p.needs)) now.peak = limit->measure();
    return now;
  }
};

/// Clocks drift and neighbours come and go within a benchmark, so it runs in pieces with the limits
/// measured between them. Each piece is compared with the limits on both of its sides; the median
/// of the pieces counts.
class piecewise_timer {
 public:
  explicit piecewise_timer(const product& p, double weight_bytes)
      : product_(p), weight_bytes_(weight_bytes), left_(bounds::measure(p)) {}

  void start() { begin_ = seconds_now(); }
  void stop(std::int64_t runs) {
    if (runs == 0) return;
    const double seconds = seconds_now() - begin_;
    const bounds right = bounds::measure(product_);
    const double rate = static_cast<double>(runs) / seconds;
    const double steps = product_.shape.macs() * product_.steps_per_mac;
    const auto fraction = [rate](double work, double limit, double other) {
      return rate * work / (0.5 * (limit + other));
    };
    peak_fractions_.push_back(fraction(steps, left_.peak, right.peak));
    read_fractions_.push_back(fraction(weight_bytes_, left_.read_bandwidth, right.read_bandwidth));
    seconds_ += seconds;
    runs_ += runs;
    left_ = right;
  }

  void report(benchmark::State& state) const {
    const double rate = static_cast<double>(runs_) / seconds_;
    const double macs = product_.shape.macs() * rate;
    state.counters["macs_per_second"] = macs;
    state.counters["bytes_per_second"] = weight_bytes_ * rate;
    if (product_.what == operation::bit_mac) {
      state.counters["bit_macs_per_second"] = macs * product_.steps_per_mac;
    }
    if (left_.read_bandwidth > 0) {
      state.counters["read_bandwidth_fraction"] = median(read_fractions_);
    }
    if (left_.peak > 0) state.counters["peak_fraction"] = median(peak_fractions_);
  }

 private:
  const product& product_;
  double weight_bytes_;
  bounds left_;  // before the piece that runs
  double begin_ = 0;
  double seconds_ = 0;
  std::int64_t runs_ = 0;
  std::vector<double> peak_fractions_, read_fractions_;
};

/// The product that runs now. Google Benchmark calls the function of a benchmark several times.
struct current_product {
  const product* which = nullptr;
  prepared_product ready;
  std::string wrong;

  [[nodiscard]] static current_product& of(const product& p) {
    static current_product current;
    if (current.which == &p) return current;
    current = {};
    try {
      current.ready = p.prepare();
      current.ready.run();
      if (current.ready.check) current.wrong = current.ready.check();
    } catch (const std::exception& e) {
      current.wrong = e.what();
    }
    current.which = &p;
    return current;
  }
};

void time_product(benchmark::State& state, const product& p) {
  current_product& current = current_product::of(p);
  if (!current.wrong.empty()) return state.SkipWithError(current.wrong.c_str());
  const auto& run = current.ready.run;
  const double begin = seconds_now();
  run();
  const auto piece =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(piece_seconds / (seconds_now() - begin)));
  piecewise_timer timer(p, current.ready.weight_bytes);
  if (!p.cold) run();  // back into the caches
  std::int64_t runs = 0;
  timer.start();
  for (auto _ : state) {
    if (runs == piece) {
      state.PauseTiming();
      timer.stop(runs);
      if (!p.cold) run();
      runs = 0;
      timer.start();
      state.ResumeTiming();
    }
    run();
    benchmark::ClobberMemory();
    ++runs;
  }
  timer.stop(runs);
  timer.report(state);
}

void time_instruction_limit(benchmark::State& state, const instruction_limit& limit) {
  constexpr std::uint64_t rounds = 20'000;
  for (auto _ : state) limit.run(rounds);
  state.counters[limit.what == operation::bit_mac ? "bit_macs_per_second" : "macs_per_second"] =
      benchmark::Counter(static_cast<double>(rounds) * limit.macs_per_round,
                         benchmark::Counter::kIsIterationInvariantRate);
}

void time_read_loop(benchmark::State& state, const read_loop& loop) {
  read_limit& limit = shared_read_limit();  // made before the clock runs
  std::vector<double> rates;
  for (auto _ : state) rates.push_back(limit.measure(loop));
  state.counters["bytes_per_second"] = median(rates);
}

void register_limits() {
  for (const instruction_limit& limit : instruction_limits()) {
    if (!allowed_context().allowed.contains(limit.needs)) continue;
    benchmark::RegisterBenchmark(
        message("limit/", limit.name).c_str(),
        [&limit](benchmark::State& state) { time_instruction_limit(state, limit); })
        ->Unit(benchmark::kMicrosecond);
  }
  for (const read_loop& loop : read_loops()) {
    if (!cpu::detect().contains(loop.needs)) continue;
    benchmark::RegisterBenchmark(message("limit/read/", loop.name).c_str(),
                                 [&loop](benchmark::State& state) { time_read_loop(state, loop); })
        ->Unit(benchmark::kMicrosecond);
  }
}

/// The number of bytes that a text says, with an optional K, M or G.
std::size_t parse_bytes(const char* text) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(text, &end, 10);
  const bool is_number = '0' <= *text && *text <= '9';
  unsigned shift = 0;
  if (*end == 'K') shift = 10;
  if (*end == 'M') shift = 20;
  if (*end == 'G') shift = 30;
  if (shift != 0) ++end;
  LOWBIT_CHECK(
      is_number && *end == '\0' && number != 0 && number <= (std::size_t{1} << 40U) >> shift, value,
      "'", text, "' is no number of bytes, such as 512M");
  return static_cast<std::size_t>(number) << shift;
}

/// Takes our own flags out of the command line; the rest is Google Benchmark's.
std::vector<char*> parse_options(int argc, char** argv) {
  const auto value_of = [](const char* argument, const char* flag) -> const char* {
    const std::size_t length = std::strlen(flag);
    return std::strncmp(argument, flag, length) == 0 ? argument + length : nullptr;
  };
  static char min_time[] = "--benchmark_min_time=0.1";  // a later flag wins
  std::vector<char*> rest{argv[0], min_time};
  for (int i = 1; i < argc; ++i) {
    if (const char* const bytes = value_of(argv[i], "--cold_bytes=")) {
      asked().cold_bytes = parse_bytes(bytes);
    } else if (const char* const threads = value_of(argv[i], "--threads=")) {
      const unsigned long number = std::strtoul(threads, nullptr, 10);
      LOWBIT_CHECK(number >= 1 && number <= 1024, value, argv[i], ": 1 to 1024 threads");
      asked().threads = static_cast<unsigned>(number);
    } else if (std::strcmp(argv[i], "--best_only") == 0) {
      asked().best_only = true;
    } else {
      rest.push_back(argv[i]);
    }
  }
  return rest;
}

void add_context() {
  const kernels::context& ctx = allowed_context();
  std::string tiers;
  for (const cpu::tier& tier : cpu::tiers) {
    if (ctx.allowed.contains(tier.features))
      tiers.append(tiers.empty() ? "" : " ").append(tier.name);
  }
  benchmark::AddCustomContext("tiers", tiers);
  benchmark::AddCustomContext("caches", message("L1 ", ctx.caches.l1_data, ", L2 ", ctx.caches.l2,
                                                ", L3 ", ctx.caches.l3, " bytes"));
  const cold_size& cold = cold_size::get();
  benchmark::AddCustomContext(
      "cold_bytes",
      message(cold.bytes,
              cold.is_capped ? " (a third of the free memory; 4 * L3 would be more)" : ""));
  if (asked().threads > 1) {
    benchmark::AddCustomContext("threads", message(asked().threads, ", timed by the wall clock"));
  }
#if !defined(NDEBUG)
  benchmark::AddCustomContext("build", "assertions are ON: these times mean nothing");
#endif
}

int run(int argc, char** argv) {
  std::vector<char*> args = parse_options(argc, argv);
  static_cast<void>(allowed_context());  // refuses a wrong LOWBIT_ISA before anything else
  register_limits();
  for (const auto add : registrations()) add();
  auto count = static_cast<int>(args.size());
  benchmark::Initialize(&count, args.data());
  if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 1;
  add_context();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace

namespace detail {
cache_slot& cache() noexcept {
  static cache_slot slot;
  return slot;
}
}  // namespace detail

std::string product::name() const {
  return message(family, "/", format, "/w", weight_bits, "a", activation_bits, "/", variant, "/M",
                 shape.tokens, "_N", shape.rows, "_K", shape.cols, cold ? "/cold" : "/warm");
}

void register_product(product p) {
  if (!allowed_context().allowed.contains(p.needs)) return;
  if (asked().threads > 1 && p.is_serial) return;
  if (asked().best_only) {
    static std::set<std::string> seen;
    product any_variant = p;
    any_variant.variant.clear();
    if (!seen.insert(any_variant.name()).second) return;
  }
  std::string name = p.name();
  if (asked().threads > 1) name.append(message("/threads", asked().threads));
  // Shared, not moved: the address tells one product from another.
  const auto shared = std::make_shared<const product>(std::move(p));
  auto* const made = benchmark::RegisterBenchmark(name.c_str(), [shared](benchmark::State& state) {
                       time_product(state, *shared);
                     })->Unit(benchmark::kMicrosecond);
  if (asked().threads > 1) made->UseRealTime();
}

const kernels::context& allowed_context() {
  static const kernels::context ctx = [] {
    static kernels::workspace scratch;
    kernels::context best = kernels::context::best();
    best.scratch = &scratch;
    if (asked().threads > 1) {
      static examples::thread_pool pool(asked().threads - 1);
      static lowbit::executors::thread_pool_executor threads(
          [](auto job) { pool.submit(std::move(job)); }, asked().threads);
      best.threads = &threads;
    }
    return best;
  }();
  return ctx;
}

index_t copies_of(double bytes, bool cold) {
  if (!cold) return 1;
  return std::max<index_t>(
      2,
      static_cast<index_t>(static_cast<double>(cold_size::get().bytes) / std::max(1.0, bytes)) + 1);
}

registration::registration(void (*add)()) { registrations().push_back(add); }

}  // namespace bench

int main(int argc, char** argv) {
  try {
    return bench::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 1;
  }
}
