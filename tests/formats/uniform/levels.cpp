// What the uniform quantizer stores is right: bytes, levels, codes and errors, for every
// combination of parameters, against the double-precision oracle.
#include "catch.hpp"
#include "lowbit/testing/format.hpp"
#include "oracle.hpp"

namespace {

using namespace uniform_oracle;
using lowbit::testing::normal_matrix;
using lowbit::testing::test_matrix;

constexpr std::uint64_t seed = 11;

/// K = 130 crosses two words, and no group size but 1 divides it.
const test_matrix normal = normal_matrix({3, 130}, seed);
/// All positive and far from zero in row 0: where offset and asymmetric grids differ.
const test_matrix shifted = lowbit::testing::make_matrix(
    "shifted", {3, 130},
    [](index_t r, index_t c) { return normal.view()(r, c) + (r == 0 ? 8.0F : 0.0F); });

/// The first violation that `check(n, k)` returns as a text; empty if there is none.
template <class F>
std::string first_violation(shape2 shape, F&& check) {
  for (index_t n = 0; n < shape.rows; ++n) {
    for (index_t k = 0; k < shape.cols; ++k) {
      const std::string found = check(n, k);
      if (!found.empty()) {
        return "row " + std::to_string(n) + ", column " + std::to_string(k) + ": " + found;
      }
    }
  }
  return {};
}

std::string numbers(double a, double b) { return std::to_string(a) + ", " + std::to_string(b); }

}  // namespace

TEST_CASE("every setting makes a tensor that conforms") {
  index_t settings = 0;
  for_each_setting([&](const uniform_quantizer& q) {
    ++settings;
    const auto list = lowbit::testing::check_tensor(q.quantize(normal.view(), {}));
    if (all_passed(list)) return;
    INFO(text(q) << ", seed " << seed << "\n" << failures(list));
    CHECK(all_passed(list));
  });
  CHECK(settings == settings_count);
}

// scale * k is exact in double (24 bits times 9), so its rounding to float is the definition. An
// offset grid's sum is one fused rounding; here it was rounded to double first, hence the slack.
TEST_CASE("dequantize is the stored bytes in float arithmetic") {
  index_t settings = 0;
  for_each_setting([&](const uniform_quantizer& q) {
    ++settings;
    const uniform_tensor t = q.quantize(shifted.view(), {});
    const stored_uniform stored(t);
    const auto values = dequantize(t);
    const std::string violation = first_violation(t.shape(), [&](index_t n, index_t k) {
      const float actual = values[n * t.shape().cols + k];
      const double expected = stored.value(n, k);
      const bool right = q.params.kind == symmetry::offset
                             ? std::fabs(static_cast<double>(actual) - expected) <=
                                   u * (1.0 + 0x1p-28) * std::fabs(expected) + 0x1p-150
                             : actual == static_cast<float>(expected);
      return right ? std::string() : numbers(static_cast<double>(actual), expected);
    });
    INFO(text(q) << ", seed " << seed);
    if (!violation.empty()) CHECK(violation == "");
  });
  CHECK(settings == settings_count);
}

// Let t be the position of x on the grid, (x - offset) / scale, and t' what float arithmetic makes
// of it. Symmetric and asymmetric grids divide only: |t' - t| <= u |t|; offset grids subtract
// first: |t' - t| <= (2u + u²) |t|. The code is the integer nearest to t' (an exact operation), so
// its level is at most scale (1/2 + |t' - t|) from x, any other level at least scale (1/2 - |t' -
// t|): the level chosen is never further than the nearest by more than 2 scale |t' - t| <= 2 (2u +
// u²) |x - offset|. The oracle's own levels add a rounding to double each.
TEST_CASE("each code is the nearest level") {
  index_t settings = 0;
  index_t codes = 0;
  for_each_setting([&](const uniform_quantizer& q) {
    if (q.params.bits == 1 && q.params.kind == symmetry::symmetric) return;  // see "sign grids"
    ++settings;
    const uniform_tensor t = q.quantize(shifted.view(), {});
    const stored_uniform stored(t);
    std::vector<double> levels;
    const std::string violation = first_violation(t.shape(), [&](index_t n, index_t k) {
      ++codes;
      const index_t g = k / stored.group_size();
      if (k % stored.group_size() == 0) {
        levels.clear();
        for (unsigned code = 0; code <= stored.highest_code(); ++code) {
          levels.push_back(stored.level(n, g, code));
        }
      }
      const double x = static_cast<double>(shifted.view()(n, k));
      double nearest = std::numeric_limits<double>::infinity();
      for (unsigned code = stored.lowest_code(); code <= stored.highest_code(); ++code) {
        nearest = std::min(nearest, std::fabs(x - levels[code]));
      }
      const unsigned code = stored.code(n, k);
      const bool has_offset = q.params.kind == symmetry::offset;
      const double distance = std::fabs(x - (has_offset ? stored.offset(n, g) : 0.0));
      const double slack = 2.0 * (has_offset ? 2.0 * u + u * u : u) * distance + 0x1p-50 * distance;
      const double chosen = std::fabs(x - levels[code]);
      const bool used = code >= stored.lowest_code();
      return chosen <= nearest + slack && used ? std::string() : numbers(chosen, nearest);
    });
    INFO(text(q) << ", seed " << seed);
    if (!violation.empty()) CHECK(violation == "");
  });
  CHECK(settings == settings_count - settings_count / 24);
  CHECK(codes == settings * normal.shape.size());
}

// Between the lowest and the highest level the error is half a step, up to the rounding of the
// position (above) and of the value. Beyond them it is the distance to the end. The ends miss the
// range of the group by no more than: the rounding of the scale, `steps` times over; the rounding
// of the offset; and, for an integer zero point, half a step.
TEST_CASE("errors are at most half a step inside the range, and min_max covers the range") {
  index_t groups = 0;
  for_each_setting([&](const uniform_quantizer& q) {
    if (q.params.bits == 1 && q.params.kind == symmetry::symmetric) return;
    const uniform_tensor t = q.quantize(shifted.view(), {});
    const stored_uniform stored(t);
    const auto values = dequantize(t);
    const bool per_tensor = q.params.granularity == granularity::tensor;
    const std::string violation = first_violation(t.shape(), [&](index_t n, index_t k) {
      const index_t g = k / stored.group_size();
      const double scale = stored.scale(n, g);
      const double low = stored.level(n, g, stored.lowest_code());
      const double high = stored.level(n, g, stored.highest_code());
      const double x = static_cast<double>(shifted.view()(n, k));
      const double beyond = std::max({low - x, x - high, 0.0});
      const double error = std::fabs(x - static_cast<double>(values[n * t.shape().cols + k]));
      const double rounding = 4.0 * u * (std::fabs(x) + std::fabs(low) + std::fabs(high));
      if (error > std::max(scale / 2.0, beyond) + rounding) return numbers(error, scale / 2.0);

      if (q.fit.method != range_method::min_max) return std::string();
      ++groups;
      // The exact scale, from the extremes of the group.
      double least = std::numeric_limits<double>::infinity();
      double greatest = -least;
      for (index_t r = per_tensor ? 0 : n; r < (per_tensor ? t.shape().rows : n + 1); ++r) {
        for (index_t c = g * stored.group_size();
             c < std::min((g + 1) * stored.group_size(), t.shape().cols); ++c) {
          least = std::min(least, static_cast<double>(shifted.view()(r, c)));
          greatest = std::max(greatest, static_cast<double>(shifted.view()(r, c)));
        }
      }
      if (q.params.kind == symmetry::symmetric) {
        greatest = std::max(std::fabs(least), std::fabs(greatest));
        least = -greatest;
      }
      if (q.params.kind == symmetry::asymmetric) {
        least = std::min(least, 0.0);
        greatest = std::max(greatest, 0.0);
      }
      const double exact = (greatest - least) / stored.steps();
      const double scale_error = rounding_error(q.params.scale_type, exact) + 2.0 * u * exact;
      if (std::fabs(scale - exact) > scale_error) return "scale " + numbers(scale, exact);
      double missed = stored.steps() * scale_error;
      if (q.params.kind == symmetry::offset) missed += rounding_error(q.params.scale_type, least);
      if (q.params.kind == symmetry::asymmetric) missed += scale / 2.0;
      return beyond <= missed + rounding ? std::string() : "beyond " + numbers(beyond, missed);
    });
    INFO(text(q) << ", seed " << seed);
    if (!violation.empty()) CHECK(violation == "");
  });
  CHECK(groups == 8 * 23 * 3 * normal.shape.size());
}

TEST_CASE(
    "the stored scale of min_max is its formula, rounded once to float and once for storage") {
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (const auto type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
      uniform_quantizer q;
      q.params = {.bits = bits, .granularity = granularity::channel, .scale_type = type};
      const stored_uniform stored(q.quantize(normal.view(), {}));
      for (index_t n = 0; n < normal.shape.rows; ++n) {
        double largest = 0.0;
        const auto row = normal.view().row(n);
        for (const float x : row) {
          largest = std::max(largest, std::fabs(static_cast<double>(x)));
        }
        const double q_max = std::ldexp(1.0, static_cast<int>(bits) - 1) - 1.0;
        CAPTURE(bits, n, seed);
        CHECK(stored.scale(n, 0) ==
              round_to(type, static_cast<double>(static_cast<float>(largest / q_max))));
      }
    }
  }
}

TEST_CASE("ties go to the even code, counted from zero or from the offset") {
  const auto codes_of = [](symmetry kind, const std::vector<float>& row) {
    uniform_quantizer q;
    q.params = {.bits = 4, .kind = kind, .granularity = granularity::channel};
    const stored_uniform stored(q.quantize({row.data(), 1, row.size()}, {}));
    std::vector<int> codes;
    for (index_t k = 0; k < row.size(); ++k) codes.push_back(static_cast<int>(stored.code(0, k)));
    return codes;
  };
  const float s = 0.125F;
  SECTION("symmetric: 7 steps to each side of code 8") {
    CHECK(codes_of(symmetry::symmetric, {7 * s, 0.5F * s, 1.5F * s, 2.5F * s, -0.5F * s, -1.5F * s,
                                         -2.5F * s}) == std::vector<int>{15, 8, 10, 10, 8, 6, 6});
  }
  SECTION("asymmetric: zero point 5, so that even distances from it are odd codes") {
    CHECK(codes_of(symmetry::asymmetric, {-5 * s, 10 * s, 0.5F * s, 1.5F * s, 2.5F * s, -0.5F * s,
                                          -1.5F * s}) == std::vector<int>{0, 15, 5, 7, 7, 5, 3});
  }
  SECTION("offset: from 3 on") {
    CHECK(codes_of(symmetry::offset, {3.0F, 3.0F + 15 * s, 3.0F + 0.5F * s, 3.0F + 1.5F * s,
                                      3.0F + 2.5F * s, 3.0F + 13.5F * s}) ==
          std::vector<int>{0, 15, 0, 2, 2, 14});
  }
}

TEST_CASE("sign grids: the sign of each weight times the mean magnitude of its group") {
  for (const auto type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
    for (const std::uint32_t size : {1U, 7U, 64U, 130U}) {
      uniform_quantizer q;
      q.params = {.bits = 1, .group_size = size, .scale_type = type};
      const stored_uniform stored(q.quantize(normal.view(), {}));
      CAPTURE(size, seed);
      for (index_t n = 0; n < normal.shape.rows; ++n) {
        for (index_t g = 0; g < stored.groups(); ++g) {
          double sum = 0.0;
          index_t count = 0;
          for (index_t k = g * size; k < std::min<index_t>((g + 1) * size, 130); ++k, ++count) {
            const float x = normal.view()(n, k);
            sum += std::fabs(static_cast<double>(x));
            REQUIRE(stored.code(n, k) == (x >= 0.0F ? 1 : 0));
          }
          const double mean = sum / static_cast<double>(count);
          REQUIRE(stored.scale(n, g) ==
                  round_to(type, static_cast<double>(static_cast<float>(mean))));
        }
      }
    }
  }
}

TEST_CASE("a group is quantized as if it were alone, wherever it begins in its words") {
  index_t groups = 0;
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    for (const unsigned bits : {1U, 3U, 5U, 8U}) {
      for (const std::uint32_t size : {1U, 3U, 7U, 63U, 64U, 65U, 100U, 127U}) {
        uniform_quantizer q;
        q.params = {.bits = bits, .kind = kind, .group_size = size};
        const auto whole = dequantize(q.quantize(normal.view(), {}));
        const index_t cols = normal.shape.cols;
        for (index_t begin = 0; begin < cols; begin += size, ++groups) {
          const index_t end = std::min<index_t>(begin + size, cols);
          const auto part = dequantize(q.quantize(normal.view().middle_cols(begin, end), {}));
          std::vector<float> same;
          for (index_t n = 0; n < normal.shape.rows; ++n) {
            same.insert(same.end(), &whole[n * cols + begin],
                        &whole[n * cols + begin] + (end - begin));
          }
          INFO(text(q) << ", columns from " << begin << ", seed " << seed);
          if (part != same) CHECK(part == same);
        }
      }
    }
  }
  CHECK(groups == 12 * (130 + 44 + 19 + 3 + 3 + 2 + 2 + 2));
}

TEST_CASE("all rows of three small integers: what fits the grid is exact") {
  // Values from -3 to 3: with 3 bits, symmetric, and a 3 among them, each is a level.
  index_t exact = 0;
  index_t rows = 0;
  for (int a = -3; a <= 3; ++a) {
    for (int b = -3; b <= 3; ++b) {
      for (int c = -3; c <= 3; ++c, ++rows) {
        const float row[] = {static_cast<float>(a), static_cast<float>(b), static_cast<float>(c)};
        for (unsigned bits = 1; bits <= 3; ++bits) {
          for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
            for (const auto method :
                 {range_method::min_max, range_method::percentile, range_method::least_mse}) {
              uniform_quantizer q;
              q.params = {.bits = bits, .kind = kind, .granularity = granularity::channel};
              q.fit = {.method = method, .percentile = 100.0};
              const auto values = dequantize(q.quantize({row, 1, 3}, {}));
              const auto [least, greatest] = std::minmax({a, b, c});
              const int largest = std::max(std::abs(least), std::abs(greatest));
              const int levels = 1 << bits;
              bool fits = false;
              if (kind == symmetry::symmetric) fits = bits > 1 && largest == levels / 2 - 1;
              if (kind == symmetry::asymmetric) {
                fits = std::max(greatest, 0) - std::min(least, 0) == levels - 1;
              }
              if (kind == symmetry::offset) fits = greatest - least == levels - 1;
              fits = fits || largest == 0;
              if (!fits) continue;
              ++exact;
              CAPTURE(a, b, c, text(q));
              if (values != std::vector<float>(row, row + 3)) {
                CHECK(values == std::vector<float>(row, row + 3));
              }
            }
          }
        }
      }
    }
  }
  CHECK(rows == 343);
  CHECK(exact > 1000);
}
