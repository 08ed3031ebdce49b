// Quantized activations of 1 to 8 bits, symmetric and asymmetric, as bytes and as bit-planes.
#include "lowbit/kernels/activations/quantized.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/activations/driver.hpp"

namespace {

using namespace lowbit;
using kernels::plane_activations;
using kernels::quantized_activations;
using lowbit_test::message_of;

constexpr index_t tokens = 3;
constexpr index_t channels = 131;

std::vector<float> inputs() {
  std::vector<float> x(tokens * channels);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(21, i);
  x[5] = 40.0F;  // an outlier channel, as real activations have
  return x;
}

std::vector<kernels::context> contexts() {
  std::vector<kernels::context> all;
  for (const cpu::tier& tier : cpu::tiers) {
    if (cpu::detect().contains(tier.features)) all.push_back({.allowed = tier.features});
  }
  return all;
}

/// The unsigned number that code k of a token stands for.
int unsigned_code(const quantized_activations& q, index_t t, index_t k) {
  return q.codes(t)[k] + (1 << (q.bits() - 1));
}

}  // namespace

TEST_CASE("activations decode to within half a step, whatever the grouping") {
  const auto x = inputs();
  const matrix_view<const float> view(x.data(), tokens, channels);
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
      for (const index_t group_size : std::initializer_list<index_t>{0, 1, 32, 100, 500}) {
        for (const bool per_group : {false, true}) {
          INFO("bits " << bits << " kind " << static_cast<int>(kind) << " group " << group_size
                       << " per group " << per_group);
          const quantized_activations q(
              view, {.bits = bits, .kind = kind, .group_size = group_size, .per_group = per_group},
              kernels::context::best());
          std::vector<float> decoded(x.size());
          q.dequantize({decoded.data(), tokens, channels});
          CHECK(q.groups() == div_up(channels, group_size == 0 ? channels : q.group_size()));
          index_t wrong = 0;
          for (index_t t = 0; t < tokens; ++t) {
            for (index_t k = 0; k < channels; ++k) {
              const auto scaling = q.scaling(t, k / q.group_size());
              const double step = static_cast<double>(scaling.step);
              const int code = unsigned_code(q, t, k);
              // The scaling is the decoding: value = step * (code - zero), rounded once.
              wrong += decoded[t * channels + k] !=
                       static_cast<float>(step * (code - 0.5 * scaling.twice_zero));
              wrong += code < 0 || code >= (1 << bits);
              // Half a step, the rounding of step and inverse_step (codes are below 2^7) and that
              // of the value. The zero point is rounded too: at the ends of an asymmetric range up
              // to half a step is clipped.
              const double clipped = kind == symmetry::asymmetric ? 0.5 * step : 0.0;
              const double value = static_cast<double>(x[t * channels + k]);
              wrong += std::fabs(value - static_cast<double>(decoded[t * channels + k])) >
                       step * (0.5 + 0x1p-16) + 0x1p-24 * std::fabs(value) + clipped;
            }
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("one bit is the sign times the mean magnitude") {
  const std::vector<float> x{1.0F, -2.0F, 0.0F, -0.0F, 5.0F, -4.0F};
  const quantized_activations q({x.data(), 1, 6}, {.bits = 1});
  std::vector<float> decoded(6);
  q.dequantize({decoded.data(), 1, 6});
  CHECK(decoded == std::vector<float>{2, -2, 2, 2, 2, -2});  // (1+2+0+0+5+4) / 6 = 2
  CHECK(q.scaling(0, 0).step == 4.0F);
  CHECK(q.scaling(0, 0).twice_zero == 1);
  CHECK(q.sum_codes(0, 0) == 4);
}

TEST_CASE("one bit: the mean is right to its last bits at any length") {
  for (index_t count = 1; count <= 70; ++count) {
    std::vector<float> x(count);
    double sum = 0.0;
    for (index_t i = 0; i < count; ++i) {
      x[i] = random_normal(count, i);
      sum += static_cast<double>(std::fabs(x[i]));
    }
    const quantized_activations q({x.data(), 1, count}, {.bits = 1});
    const double mean = sum / static_cast<double>(count);
    // Two sums in double, then one rounding to float.
    CHECK(std::fabs(0.5 * static_cast<double>(q.scaling(0, 0).step) - mean) <=
          mean * (0x1p-24 + 0x1p-44));
  }
}

TEST_CASE("codes, sums, planes and packed planes are the same numbers") {
  const auto x = inputs();
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
      for (const index_t group_size : std::initializer_list<index_t>{0, 3, 50, 64, 100}) {
        for (const kernels::context& ctx : contexts()) {
          const quantized_activations q(
              {x.data(), tokens, channels},
              {.bits = bits, .kind = kind, .group_size = group_size, .per_group = true}, ctx);
          const layout::bit_matrix planes = q.planes(ctx);
          CHECK(planes.planes() == bits);
          CHECK(planes.padding_is_zero());
          plane_activations packed;
          packed.assign(quantized_activations({x.data(), tokens, channels}, {}, ctx), ctx);
          packed.assign(q, ctx);  // over old content
          CHECK(packed.words() == div_up(q.group_size(), 64));
          index_t wrong = 0;
          for (index_t t = 0; t < tokens; ++t) {
            for (index_t g = 0; g < q.groups(); ++g) {
              const auto group = packed.group(t, g);
              std::int64_t sum = 0;
              for (index_t i = 0; i < 64 * packed.words(); ++i) {
                const index_t k = g * q.group_size() + i;
                const bool inside = i < q.group_size() && k < channels;
                int from_planes = 0;
                int from_packed = 0;
                for (unsigned p = 0; p < bits; ++p) {
                  if (inside && planes.bit(p, t, k)) from_planes |= 1 << p;
                  const std::uint64_t word = group[p * packed.words() + i / 64];
                  if ((word >> (i % 64) & 1U) != 0) from_packed |= 1 << p;
                }
                wrong += from_planes != (inside ? unsigned_code(q, t, k) : 0);
                wrong += from_packed != from_planes;
                sum += from_planes;
              }
              wrong += q.sum_codes(t, g) != sum;
              wrong += packed.sum_codes(t, g) != sum;
            }
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("symmetric codes are those of int8 activations") {
  const auto x = inputs();
  const matrix_view<const float> view(x.data(), tokens, channels);
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (const bool per_group : {false, true}) {
      const kernels::activation_params params{
          .bits = bits, .group_size = 48, .per_group = per_group};
      const quantized_activations q(view, params);
      const kernels::int8_activations c(view, params);
      std::vector<float> a(x.size());
      std::vector<float> b(x.size());
      q.dequantize({a.data(), tokens, channels});
      c.dequantize({b.data(), tokens, channels});
      CHECK(a == b);
      for (index_t run = 0; run < c.runs().count(); ++run) {
        for (index_t t = 0; t < tokens; ++t) {
          CHECK(q.scaling(t, c.runs().group(run)).step == c.steps(run)[t]);
          for (index_t i = 0; i < c.runs().size(run); ++i) {
            CHECK(q.codes(t)[c.runs().begin(run) + i] == c.codes(run)[t * c.run_bytes() + i]);
          }
        }
      }
    }
  }
}

TEST_CASE("eight symmetric bits are int8 in -127 .. 127, with the extremes met") {
  const std::vector<float> x{-4.0F, 2.0F, 4.0F, 0.0F};
  const quantized_activations q({x.data(), 1, 4});
  const auto codes = q.codes(0);
  CHECK(std::vector<std::int8_t>(codes.begin(), codes.end()) ==
        std::vector<std::int8_t>{-127, 64, 127, 0});  // 63.5 rounds to even
}

TEST_CASE("zeros, constants, denormals and the widest range have stated results") {
  const float largest = std::numeric_limits<float>::max();
  const float denormal = std::numeric_limits<float>::denorm_min();
  const auto decode = [](std::vector<float> x, symmetry kind, unsigned bits = 8) {
    const quantized_activations q({x.data(), 1, x.size()}, {.bits = bits, .kind = kind});
    std::vector<float> decoded(x.size());
    q.dequantize({decoded.data(), 1, x.size()});
    return decoded;
  };
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
    for (const unsigned bits : {1U, 2U, 8U}) {
      if (bits == 1 && kind == symmetry::symmetric) continue;
      CHECK(decode({0.0F, -0.0F}, kind, bits) == std::vector<float>{0.0F, 0.0F});
    }
    for (const float value : decode({denormal, -denormal}, kind)) CHECK(std::isfinite(value));
    CHECK_THROWS_AS(decode({largest, -largest}, kind), value_error);
    for (const float value : decode({0.5F * largest, 0.0F}, kind)) CHECK(std::isfinite(value));
  }
  CHECK(decode({0.0F, -0.0F}, symmetry::symmetric, 1) == std::vector<float>{0.0F, 0.0F});
  CHECK(decode({127.0F, 127.0F}, symmetry::symmetric) == std::vector<float>{127.0F, 127.0F});
  CHECK(decode({255.0F, 255.0F}, symmetry::asymmetric) == std::vector<float>{255.0F, 255.0F});
  CHECK_THROWS_AS(decode({largest, largest}, symmetry::symmetric, 1), value_error);
}

TEST_CASE("activations that cannot be quantized are refused with the reason") {
  auto x = inputs();
  const matrix_view<const float> view(x.data(), tokens, channels);
  for (const char* bits : {"0", "9"}) {
    const auto n = static_cast<unsigned>(*bits - '0');
    CHECK(message_of([&] { quantized_activations(view, {.bits = n}); }) ==
          std::string("activation bits = ") + bits + " is outside 1..8");
  }
  CHECK_THROWS_AS(quantized_activations(view, {.kind = symmetry::offset}), value_error);
  x[channels + 4] = -std::numeric_limits<float>::infinity();
  for (const unsigned bits : {1U, 4U}) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
      quantized_activations q;
      CHECK(message_of([&] { q.assign(view, {.bits = bits, .kind = kind}, {}); }) ==
            "the activations hold -Inf at token 1, channel 4");
      CHECK(q.shape() == shape2{});
    }
  }
  const quantized_activations none({nullptr, 0, 0}, {});
  CHECK(none.groups() == 0);
  CHECK(plane_activations(none).tokens() == 0);
  const quantized_activations narrow({nullptr, 2, 0}, {});
  CHECK(narrow.shape() == shape2{2, 0});
  CHECK(plane_activations(narrow).stride() == 0);
  CHECK(narrow.planes().shape() == shape2{2, 0});
}

TEST_CASE("activations that are assigned again keep their memory") {
  const auto x = inputs();
  const auto ctx = kernels::context::best();
  quantized_activations q({x.data(), tokens, channels}, {}, ctx);
  plane_activations p(q, ctx);
  const auto* const codes = q.codes(0).data();
  const auto* const words = p.group(0, 0).data();
  for (const unsigned bits : {1U, 3U, 8U}) {
    q.assign({x.data(), 2, 77, channels}, {.bits = bits}, ctx);
    p.assign(q, ctx);
    CHECK(q.codes(0).data() == codes);
    CHECK(p.group(0, 0).data() == words);
    const quantized_activations fresh({x.data(), 2, 77, channels}, {.bits = bits}, ctx);
    CHECK(std::equal(q.codes(1).begin(), q.codes(1).end(), fresh.codes(1).begin()));
  }
}
