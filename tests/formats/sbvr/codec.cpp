// What error feedback asks of the codec (core/group_codec.hpp).
#include <cmath>

#include "catch.hpp"
#include "common.hpp"

using namespace sbvr_test;

TEST_CASE("sbvr codec: values are those of the tensor, and linear in the terms") {
  const shape2 shape{5, 200};
  const auto m = testing::normal_matrix(shape, 21);
  for (const auto& p : configurations({1, 2, 4})) {
    INFO(text(p));
    const sbvr_quantizer q{.params = p};
    const auto codec = q.prepare(m.view(), {}, 2.0F);
    REQUIRE(codec.bits() == p.planes);
    REQUIRE(codec.group_size() == std::min<index_t>(p.group_size, shape.cols));
    auto t = codec.make_tensor();
    const index_t levels = index_t{1} << p.planes;
    std::vector<std::uint8_t> codes(shape.cols);
    for (index_t c = 0; c < shape.cols; ++c) codes[c] = static_cast<std::uint8_t>(c % levels);
    for (index_t r = 0; r < shape.rows; ++r) {
      t.set_codes(r, codes);
      for (index_t g = 0; g * p.group_size < shape.cols; ++g) {
        const index_t begin = g * p.group_size;
        const auto x =
            m.view().row(r).subspan(begin, std::min<index_t>(p.group_size, shape.cols - begin));
        const auto l = codec.fit(r, g, x, {});
        codec.store(t, r, g, l);
        CHECK(t.levels_of(r, g) == l);

        std::vector<float> values(levels);
        codec.values(l, values);
        std::vector<float> terms(codec.terms());
        // Half of the first coefficient more, and 0.25 of each other.
        std::vector<double> delta(codec.terms(), 0.25);
        if (!delta.empty()) delta[0] = 0.0625;
        const auto moved = codec.adjusted(l, r, delta);
        std::vector<float> moved_values(levels);
        codec.values(moved, moved_values);
        for (index_t u = 0; u < levels && !terms.empty(); ++u) {
          codec.term(l, static_cast<std::uint8_t>(u), terms);
          double expected = static_cast<double>(values[u]);
          double size = std::fabs(expected);
          for (index_t i = 0; i < terms.size(); ++i) {
            double change = delta[i] * static_cast<double>(terms[i]);
            if (i == 0 && p.has_scale_codes()) {  // to the nearest multiple of the row's number
              change = (static_cast<double>(moved.scale) - static_cast<double>(l.scale)) *
                       static_cast<double>(terms[i]);
            }
            expected += change;
            size += std::fabs(change) + 4.0 * std::fabs(static_cast<double>(terms[i]));
          }
          // fp16 rounds each coefficient, none of which exceeds 4, by 2^-12 of it.
          CHECK(std::fabs(static_cast<double>(moved_values[u]) - expected) <= 0x1p-11 * size);
        }
        if (p.coefficients == sbvr_coefficients::shared_ratios) {
          delta[0] = -100.0;
          CHECK(codec.adjusted(l, r, delta) == l);
        }
      }
    }
    const auto w_hat = values_of(t);
    for (index_t r = 0; r < shape.rows; ++r) {
      for (index_t c = 0; c < shape.cols; ++c) {
        std::vector<float> values(levels);
        codec.values(t.levels_of(r, c / p.group_size), values);
        CHECK(w_hat[r * shape.cols + c] == values[codes[c]]);
      }
    }
  }
}

TEST_CASE("sbvr codec: quantize is prepare, fit and the nearest levels") {
  const auto m = testing::normal_matrix({4, 150}, 22);
  for (const auto& p : configurations({1, 3, 5})) {
    INFO(text(p));
    const sbvr_quantizer q{.params = p};
    const auto codec = q.prepare(m.view(), {}, 1.0F);
    const auto t = q.quantize(m.view());
    std::vector<std::uint8_t> codes(150);
    for (index_t r = 0; r < 4; ++r) {
      t.codes(r, codes);
      for (index_t c = 0; c < 150; ++c) {
        const index_t g = c / p.group_size;
        const index_t begin = g * p.group_size;
        const auto l = codec.fit(
            r, g, m.view().row(r).subspan(begin, std::min<index_t>(p.group_size, 150 - begin)), {});
        CHECK(l == t.levels_of(r, g));
        std::vector<float> values(index_t{1} << p.planes);
        codec.values(l, values);
        const auto distance = [&](float v) {
          return std::fabs(static_cast<double>(v) - static_cast<double>(m.view()(r, c)));
        };
        for (const float v : values) CHECK(distance(values[codes[c]]) <= distance(v));
      }
    }
  }
}

TEST_CASE("sbvr codec: headroom is room for larger groups") {
  const auto m = testing::normal_matrix({3, 128}, 23);
  const sbvr_quantizer q{.params = {.planes = 2, .scale_bits = 6}};
  const auto codec = q.prepare(m.view(), {}, 4.0F);
  std::vector<float> larger;
  const auto row = m.view().row(1);
  for (const float v : row) larger.push_back(3.9F * v);
  const auto l = codec.fit(1, 0, larger, {});
  std::vector<float> values(4);
  codec.values(l, values);
  double error = 0.0;
  double energy = 0.0;
  for (const float x : larger) {
    double least = std::numeric_limits<double>::infinity();
    for (const float v : values) {
      const double d = static_cast<double>(x) - static_cast<double>(v);
      least = std::min(least, d * d);
    }
    error += least;
    energy += static_cast<double>(x) * static_cast<double>(x);
  }
  CHECK(error < 0.13 * energy);
}
