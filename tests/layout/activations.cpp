// Quantized activations: the arithmetic of weights, per token or per token and group, as bytes and
// as bit-planes.
#include "lowbit/layout/activations.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

namespace {

using namespace lowbit;
using layout::quantized_activations;
using lowbit_test::message_of;

constexpr index_t tokens = 3;
constexpr index_t channels = 131;

std::vector<float> inputs() {
  std::vector<float> x(tokens * channels);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(21, i);
  x[5] = 40.0F;  // an outlier channel, as real activations have
  return x;
}

}  // namespace

TEST_CASE("activations decode to within half a step, whatever the grouping") {
  const auto x = inputs();
  const matrix_view<const float> view(x.data(), tokens, channels);
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
      for (const index_t group_size : std::initializer_list<index_t>{0, 1, 32, 100, 500}) {
        INFO("bits " << bits << " kind " << static_cast<int>(kind) << " group " << group_size);
        const quantized_activations q(view, {.bits = bits, .kind = kind, .group_size = group_size});
        std::vector<float> decoded(x.size());
        q.dequantize({decoded.data(), tokens, channels});
        CHECK(q.groups() == div_up(channels, group_size == 0 ? channels : q.group_size()));
        for (index_t t = 0; t < tokens; ++t) {
          for (index_t k = 0; k < channels; ++k) {
            const auto scaling = q.scaling(t, k / q.group_size());
            const double step = static_cast<double>(scaling.step);
            const int code = q.codes(t)[k];
            // The scaling is the decoding: value = step * (code - zero), rounded once.
            CHECK(decoded[t * channels + k] ==
                  static_cast<float>(step * (code - 0.5 * scaling.twice_zero)));
            CHECK(code < (1 << bits));
            // Half a step, the rounding of x / step (below 2^8) and that of the value. The zero
            // point is rounded too: at the ends of an asymmetric range up to half a step is
            // clipped.
            const double clipped = kind == symmetry::asymmetric ? 0.5 * step : 0.0;
            const double value = static_cast<double>(x[t * channels + k]);
            CHECK(std::fabs(value - static_cast<double>(decoded[t * channels + k])) <=
                  step * (0.5 + 0x1p-16) + 0x1p-24 * std::fabs(value) + clipped);
          }
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
}

TEST_CASE("codes, int8 and planes are the same numbers") {
  const auto x = inputs();
  for (unsigned bits = 1; bits <= 8; ++bits) {
    const quantized_activations q({x.data(), tokens, channels}, {.bits = bits, .group_size = 50});
    const layout::bit_matrix planes = q.planes();
    CHECK(planes.planes() == bits);
    CHECK(planes.padding_is_zero());
    std::vector<std::int8_t> bytes(channels);
    for (index_t t = 0; t < tokens; ++t) {
      q.int8_codes(t, bytes);
      for (index_t k = 0; k < channels; ++k) {
        int from_planes = 0;
        for (unsigned p = 0; p < bits; ++p) from_planes |= planes.bit(p, t, k) ? 1 << p : 0;
        CHECK(from_planes == q.codes(t)[k]);
        CHECK(bytes[k] == from_planes - 128);
      }
    }
  }
}

TEST_CASE("eight symmetric bits are int8 in -127 .. 127, with the extremes met") {
  const std::vector<float> x{-3.0F, 1.5F, 3.0F, 0.0F};
  const quantized_activations q({x.data(), 1, 4}, {});
  std::vector<std::int8_t> bytes(4);
  q.int8_codes(0, bytes);
  CHECK(bytes == std::vector<std::int8_t>{-127, 64, 127, 0});  // 63.5 rounds to even
}

TEST_CASE("zeros, constants, denormals and the widest range have stated results") {
  const float largest = std::numeric_limits<float>::max();
  const float denormal = std::numeric_limits<float>::denorm_min();
  const auto decode = [](std::vector<float> x, symmetry kind) {
    const quantized_activations q({x.data(), 1, x.size()}, {.kind = kind});
    std::vector<float> decoded(x.size());
    q.dequantize({decoded.data(), 1, x.size()});
    return decoded;
  };
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric}) {
    CHECK(decode({0.0F, -0.0F}, kind) == std::vector<float>{0.0F, 0.0F});
    for (const float value : decode({denormal, -denormal}, kind)) CHECK(std::isfinite(value));
    CHECK_THROWS_AS(decode({largest, -largest}, kind), value_error);
    for (const float value : decode({0.5F * largest, 0.0F}, kind)) CHECK(std::isfinite(value));
  }
  CHECK(decode({127.0F, 127.0F}, symmetry::symmetric) == std::vector<float>{127.0F, 127.0F});
  CHECK(decode({255.0F, 255.0F}, symmetry::asymmetric) == std::vector<float>{255.0F, 255.0F});
}

TEST_CASE("activations that cannot be quantized are refused with the reason") {
  auto x = inputs();
  const matrix_view<const float> view(x.data(), tokens, channels);
  CHECK(message_of([&] { quantized_activations(view, {.bits = 0}); }) ==
        "activation bits = 0 is outside 1..8");
  CHECK(message_of([&] { quantized_activations(view, {.bits = 9}); }) ==
        "activation bits = 9 is outside 1..8");
  CHECK_THROWS_AS(quantized_activations(view, {.kind = symmetry::offset}), value_error);
  x[channels + 4] = -std::numeric_limits<float>::infinity();
  CHECK(message_of([&] { quantized_activations(view, {}); }) ==
        "the activation matrix holds -Inf at row 1, column 4");
  const quantized_activations none({nullptr, 0, 0}, {});
  CHECK(none.groups() == 0);
}
