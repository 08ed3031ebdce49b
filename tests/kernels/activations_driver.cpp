// Activations as int8 codes in runs: values, layout, reuse, refusals, threads.
#include "lowbit/kernels/activations/driver.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/activations.hpp"

namespace {

using namespace lowbit;
using kernels::code_runs;
using kernels::int8_activations;
using lowbit_test::message_of;

std::vector<float> inputs(index_t size, std::uint64_t seed = 3) {
  std::vector<float> x(size);
  for (index_t i = 0; i < size; ++i) x[i] = random_normal(seed, i);
  return x;
}

std::vector<kernels::context> contexts() {
  std::vector<kernels::context> all;
  for (const cpu::tier& tier : cpu::tiers) {
    if (cpu::detect().contains(tier.features)) all.push_back({.allowed = tier.features});
  }
  return all;
}

/// Runs every task on threads of its own, the last first.
struct backwards final : executor {
  index_t calls = 0;
  [[nodiscard]] index_t workers() const noexcept override { return 4; }
  void parallel_for(index_t tasks, task run) override {
    ++calls;
    for (index_t i = tasks; i-- > 0;) std::thread([&, i] { run(i, i % 4); }).join();
  }
};

bool equal(const int8_activations& a, const int8_activations& b) {
  if (a.tokens() != b.tokens() || a.runs() != b.runs() || a.per_group() != b.per_group()) {
    return false;
  }
  const auto same = [](auto x, auto y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  };
  for (index_t run = 0; run < a.runs().count(); ++run) {
    if (!same(a.codes(run), b.codes(run)) || !same(a.sums(run), b.sums(run)) ||
        !same(a.steps(run), b.steps(run))) {
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("int8 activations: codes, sums, steps and padding are as stated") {
  for (const index_t cols : {1U, 3U, 64U, 130U, 257U, 700U}) {
    for (const index_t group_size : {0U, 1U, 5U, 32U, 64U, 130U, 256U, 300U, 600U}) {
      for (const unsigned bits : {2U, 3U, 5U, 8U}) {
        for (const bool per_group : {false, true}) {
          constexpr index_t tokens = 3;
          INFO("K " << cols << " group " << group_size << " bits " << bits << " per group "
                    << per_group);
          const index_t stride = cols + 2;
          const auto x = inputs(tokens * stride);
          const matrix_view<const float> view(x.data(), tokens, cols, stride);
          const int8_activations q(view,
                                   {.bits = bits, .group_size = group_size, .per_group = per_group},
                                   kernels::context::best());
          const code_runs runs(cols, group_size);
          CHECK(q.runs() == runs);
          CHECK(q.tokens() == tokens);
          CHECK(q.bits() == bits);
          CHECK(q.run_bytes() == 4 * runs.quads());
          const auto qmax = static_cast<float>((1 << (bits - 1)) - 1);
          std::vector<float> decoded(tokens * cols);
          q.dequantize({decoded.data(), tokens, cols});
          index_t wrong = 0;
          for (index_t run = 0; run < runs.count(); ++run) {
            for (index_t t = 0; t < tokens; ++t) {
              const index_t group = runs.group(run) * runs.group_size();
              const index_t begin = per_group ? group : 0;
              const index_t end = per_group ? std::min(cols, group + runs.group_size()) : cols;
              float largest = 0.0F;
              for (index_t k = begin; k < end; ++k) {
                largest = std::max(largest, std::fabs(view(t, k)));
              }
              const float step = largest / qmax;
              wrong += q.steps(run)[t] != step;
              std::int32_t sum = 0;
              const auto codes = q.codes(run).subspan(t * q.run_bytes(), q.run_bytes());
              for (index_t i = 0; i < codes.size(); ++i) {
                if (i >= runs.size(run)) {
                  wrong += codes[i] != 0;
                  continue;
                }
                const index_t k = runs.begin(run) + i;
                const float value = view(t, k);
                wrong += codes[i] != testing::detail::round_product(value, qmax / largest);
                wrong += std::abs(codes[i]) > static_cast<int>(qmax);
                wrong += decoded[t * cols + k] != step * static_cast<float>(codes[i]);
                sum += codes[i];
              }
              wrong += q.sums(run)[t] != sum;
            }
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("int8 activations: all tiers and any number of threads give the same") {
  for (const index_t tokens : {1U, 5U, 600U}) {
    for (const bool per_group : {false, true}) {
      constexpr index_t cols = 431;
      const auto x = inputs(tokens * cols);
      const matrix_view<const float> view(x.data(), tokens, cols);
      const kernels::activation_params params{.bits = 8, .group_size = 96, .per_group = per_group};
      const int8_activations expected(view, params, {.allowed = cpu::none});
      for (kernels::context ctx : contexts()) {
        CHECK(equal(int8_activations(view, params, ctx), expected));
        backwards threads;
        ctx.threads = &threads;
        CHECK(equal(int8_activations(view, params, ctx), expected));
        CHECK(threads.calls == (tokens == 600 ? 1 : 0));  // few tokens wake nobody
      }
    }
  }
}

TEST_CASE(
    "int8 activations: an object that is assigned again keeps its memory and no old content") {
  const auto x = inputs(8 * 512);
  const auto ctx = kernels::context::best();
  int8_activations q({x.data(), 8, 512}, {}, ctx);
  const auto* const codes = q.codes(0).data();
  const auto* const sums = q.sums(0).data();
  const auto* const steps = q.steps(0).data();
  for (const index_t cols : {37U, 512U, 1U, 258U}) {  // other runs, other padding
    for (const index_t group_size : {0U, 7U, 31U}) {
      const index_t tokens = group_size == 7 ? 1 : 2;
      const matrix_view<const float> view(x.data(), tokens, cols, 512);
      const kernels::activation_params params{.bits = 5, .group_size = group_size};
      q.assign(view, params, ctx);
      CHECK(equal(q, int8_activations(view, params, ctx)));
      if (group_size != 7) CHECK(q.codes(0).data() == codes);
    }
  }
  q.assign({x.data(), 8, 512}, {}, ctx);
  CHECK(q.codes(0).data() == codes);
  CHECK(q.steps(0).data() == steps);
  (void)sums;  // needs more room in groups of 7
}

TEST_CASE("int8 activations: zeros, tiny and huge values have stated results") {
  const float tiny = 3e-37F;  // 127 / tiny is no float
  const float denormal = std::numeric_limits<float>::denorm_min();
  const float largest = std::numeric_limits<float>::max();
  for (const kernels::context& ctx : contexts()) {
    const auto codes_of = [&](std::vector<float> x, unsigned bits = 8) {
      const int8_activations q({x.data(), 1, x.size()}, {.bits = bits}, ctx);
      const auto codes = q.codes(0);
      return std::pair(q.steps(0)[0], std::vector<int>(codes.begin(), codes.end()));
    };
    using result = std::pair<float, std::vector<int>>;
    // 127 / 4 is a float, so 63.5 is a tie and rounds to even; 127 / 3 is rounded down.
    CHECK(codes_of({-4.0F, 2.0F, 4.0F, 0.0F}) == result{4.0F / 127.0F, {-127, 64, 127, 0}});
    CHECK(codes_of({-3.0F, 1.5F, 3.0F, 0.0F}) == result{3.0F / 127.0F, {-127, 63, 127, 0}});
    CHECK(codes_of({0.0F, -0.0F}) == result{0.0F, {0, 0, 0, 0}});
    CHECK(codes_of({tiny, -tiny}) == result{0.0F, {0, 0, 0, 0}});
    CHECK(codes_of({denormal}) == result{0.0F, {0, 0, 0, 0}});
    CHECK(codes_of({4e-37F}).second == std::vector<int>{127, 0, 0, 0});
    CHECK(codes_of({4e-37F, -4e-37F}, 2).second == std::vector<int>{1, -1, 0, 0});
    CHECK(codes_of({largest, -largest, 1.0F}, 2) == result{largest, {1, -1, 0, 0}});
    CHECK(codes_of({0.5F * largest, 0.0F}).second == std::vector<int>{127, 0, 0, 0});
  }
}

TEST_CASE("int8 activations: what cannot be quantized is refused with the reason") {
  constexpr index_t tokens = 700;
  constexpr index_t cols = 300;
  auto x = inputs(tokens * cols);
  const matrix_view<const float> view(x.data(), tokens, cols);
  for (const unsigned bits : {0U, 1U, 9U}) {
    CHECK(message_of<value_error>([&] { int8_activations(view, {.bits = bits}); }) ==
          "activation bits = " + std::to_string(bits) + " is outside 2..8");
  }
  CHECK(message_of<value_error>([&] { int8_activations(view, {.kind = symmetry::asymmetric}); }) ==
        "int8 activations are symmetric");
  CHECK_THROWS_AS(int8_activations(view, {.kind = symmetry::offset}), value_error);

  x[650 * cols + 2] = std::numeric_limits<float>::quiet_NaN();
  x[411 * cols + 299] = -std::numeric_limits<float>::infinity();
  for (kernels::context ctx : contexts()) {
    backwards threads;
    for (executor* const e : {static_cast<executor*>(nullptr), static_cast<executor*>(&threads)}) {
      for (const index_t group_size : {0U, 64U}) {
        ctx.threads = e;
        int8_activations q;
        CHECK(message_of<value_error>([&] {
                q.assign(view, {.group_size = group_size, .per_group = group_size != 0}, ctx);
              }) == "the activations hold -Inf at token 411, channel 299");
        CHECK(q.tokens() == 0);
      }
    }
  }
  const float largest = std::numeric_limits<float>::max();
  CHECK(message_of<value_error>([&] {
          int8_activations({&largest, 1, 1}, {});
        }) == "the levels of token 0 overflow: the activations are too large");
}

TEST_CASE("int8 activations: nothing to quantize is fine") {
  const int8_activations never;
  CHECK(never.tokens() == 0);
  CHECK(never.runs().count() == 0);
  const int8_activations none({nullptr, 0, 300}, {});
  CHECK(none.tokens() == 0);
  CHECK(none.codes(0).empty());
  const int8_activations narrow({nullptr, 2, 0}, {});
  CHECK(narrow.tokens() == 2);
  CHECK(narrow.runs().count() == 0);
}
