// The results that formats/uniform/README.md states for inputs at the edge.
#include <bit>

#include "catch.hpp"
#include "oracle.hpp"

namespace {

using namespace uniform_oracle;
using lowbit::bits_per_weight;
using lowbit_test::message_of;

constexpr symmetry kinds[] = {symmetry::symmetric, symmetry::asymmetric, symmetry::offset};
constexpr scale_type types[] = {scale_type::fp32, scale_type::fp16, scale_type::bf16};

uniform_quantizer per_row(unsigned bits, symmetry kind, scale_type type = scale_type::fp32) {
  uniform_quantizer q;
  q.params = {.bits = bits, .kind = kind, .granularity = granularity::channel, .scale_type = type};
  return q;
}

std::vector<float> quantize_row(const uniform_quantizer& q, const std::vector<float>& row) {
  return dequantize(q.quantize({row.data(), 1, row.size()}, {}));
}

bool is_plus_zero(float x) { return std::bit_cast<std::uint32_t>(x) == 0; }

/// Calls f for each kind, scale type, method and number of bits.
template <class F>
void for_each_row_quantizer(F&& f) {
  for (const symmetry kind : kinds) {
    for (const scale_type type : types) {
      for (const auto method :
           {range_method::min_max, range_method::percentile, range_method::least_mse}) {
        for (unsigned bits = 1; bits <= 8; ++bits) {
          uniform_quantizer q = per_row(bits, kind, type);
          q.fit.method = method;
          f(q);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("zeros, of either sign: scale 0, values +0") {
  index_t cases = 0;
  for_each_row_quantizer([&](const uniform_quantizer& q) {
    ++cases;
    const std::vector<float> row = {0.0F, -0.0F, -0.0F, 0.0F, -0.0F};
    const uniform_tensor t = q.quantize({row.data(), 1, row.size()}, {});
    CAPTURE(text(q));
    CHECK(stored_uniform(t).scale(0, 0) == 0.0);
    for (const float x : dequantize(t)) CHECK(is_plus_zero(x));
  });
  CHECK(cases == 3 * 3 * 3 * 8);
}

TEST_CASE("a zero among other values stays an exact +0 where zero is a level") {
  for_each_row_quantizer([&](const uniform_quantizer& q) {
    const bool is_sign = q.params.bits == 1 && q.params.kind == symmetry::symmetric;
    if (is_sign || q.params.kind == symmetry::offset) return;
    CAPTURE(text(q));
    const auto values = quantize_row(q, {0.3F, -0.0F, -2.0F, 0.0F, 1.1F});
    CHECK(is_plus_zero(values[1]));
    CHECK(is_plus_zero(values[3]));
  });
}

TEST_CASE("sign grids have no zero: it counts as positive, -0 included") {
  CHECK(quantize_row(per_row(1, symmetry::symmetric), {0.0F, -0.0F, 3.0F, -1.0F}) ==
        std::vector<float>{1.0F, 1.0F, 1.0F, -1.0F});
}

// A constant c: symmetric and asymmetric grids store c / steps (or c itself for one step, or its
// magnitude for signs), rounded, and multiply it again by at most 255; offset grids store c itself.
TEST_CASE("a constant group is exact up to the rounding of its scale or offset") {
  index_t cases = 0;
  for_each_row_quantizer([&](const uniform_quantizer& q) {
    for (const float c : {0.1F, -3.0F, 1.0F, 1000.0F, -0.017F}) {
      ++cases;
      const auto values = quantize_row(q, {c, c, c, c, c});
      const double exact = static_cast<double>(c);
      const double relative = std::ldexp(1.0, -real_type_of(q.params.scale_type).fraction_bits - 1);
      CAPTURE(text(q), c);
      for (const float x : values) {
        // storage, and two float roundings: the division and the product
        CHECK(std::fabs(static_cast<double>(x) - exact) <=
              (relative + 2.0 * u) * (1.0 + relative) * std::fabs(exact));
        if (q.params.kind == symmetry::offset) {
          CHECK(static_cast<double>(x) == round_to(q.params.scale_type, exact));
        }
      }
    }
  });
  CHECK(cases == 3 * 3 * 3 * 8 * 5);
}

TEST_CASE("denormals are ordinary numbers: multiples of the step are exact") {
  constexpr float tiny = std::numeric_limits<float>::denorm_min();
  CHECK(quantize_row(per_row(4, symmetry::symmetric), {7 * tiny, -3 * tiny, 0.0F, -7 * tiny}) ==
        std::vector<float>{7 * tiny, -3 * tiny, 0.0F, -7 * tiny});
  CHECK(quantize_row(per_row(4, symmetry::asymmetric), {10 * tiny, -5 * tiny, tiny}) ==
        std::vector<float>{10 * tiny, -5 * tiny, tiny});
  CHECK(quantize_row(per_row(4, symmetry::offset), {100 * tiny, 85 * tiny, 90 * tiny}) ==
        std::vector<float>{100 * tiny, 85 * tiny, 90 * tiny});
  CHECK(quantize_row(per_row(1, symmetry::symmetric), {3 * tiny, -5 * tiny}) ==
        std::vector<float>{4 * tiny, -4 * tiny});
}

TEST_CASE("a scale that underflows its type is 0, and its group decodes to 0 or to its offset") {
  // A scale of 2^-27, an eighth of the least fp16 number; bf16 has the exponents of fp32.
  const std::vector<float> row = {0x1p-27F, -7 * 0x1p-27F, 8 * 0x1p-27F};
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric}) {
    for (const float x : quantize_row(per_row(4, kind, scale_type::fp16), row)) {
      CHECK(is_plus_zero(x));
    }
    CHECK(quantize_row(per_row(4, kind, scale_type::bf16), row)[0] > 0.0F);
  }
  CHECK(quantize_row(per_row(4, symmetry::offset, scale_type::fp16), row) ==
        std::vector<float>(3, -0x1p-24F));
  CHECK(quantize_row(per_row(4, symmetry::offset, scale_type::bf16), row) == row);
}

TEST_CASE("a scale that overflows its type is refused with its row and group") {
  std::vector<float> w(2 * 8, 7.0F);
  w[8 + 5] = -65520.0F * 7.0F;  // rounds to fp16's infinity
  for (const auto method : {range_method::min_max, range_method::least_mse}) {
    uniform_quantizer q;
    q.params = {.bits = 4, .group_size = 4};
    q.fit.method = method;
    CHECK(message_of<lowbit::value_error>([&] {
            return q.quantize({w.data(), 2, 8}, {});
          }) == "the scale of row 1, group 1 overflows fp16; use a scale_type with a larger range");
    q.params.scale_type = scale_type::bf16;
    CHECK(dequantize(q.quantize({w.data(), 2, 8}, {}))[0] == 7.0F);
  }
  w[8 + 5] = -65519.0F * 7.0F;  // rounds to its largest number
  uniform_quantizer q;
  q.params = {.bits = 4, .group_size = 4};
  CHECK(stored_uniform(q.quantize({w.data(), 2, 8}, {})).scale(1, 1) == 65504.0);
}

TEST_CASE("an offset that overflows its type is refused, by every method") {
  const std::vector<float> row = {-70000.0F, -69999.0F, -69000.0F};
  for (const auto method :
       {range_method::min_max, range_method::percentile, range_method::least_mse}) {
    uniform_quantizer q = per_row(4, symmetry::offset, scale_type::fp16);
    q.fit.method = method;
    CHECK(message_of<lowbit::value_error>([&] {
            quantize_row(q, row);
          }).find("row 0, group 0 overflows fp16") != std::string::npos);
  }
}

TEST_CASE("levels that overflow float are refused, not decoded to infinity") {
  constexpr float largest = std::numeric_limits<float>::max();
  index_t refused = 0;
  for_each_row_quantizer([&](const uniform_quantizer& q) {
    if (q.params.scale_type == scale_type::fp16) return;
    CAPTURE(text(q));
    for (const float low : {-largest, 0.0F, largest}) {
      const std::vector<float> row = {low, largest};
      try {
        for (const float x : quantize_row(q, row)) CHECK(std::isfinite(x));
      } catch (const lowbit::value_error& e) {
        ++refused;
        CHECK(std::string(e.what()).find("row 0, group 0") != std::string::npos);
      }
    }
  });
  CHECK(refused > 0);
}

TEST_CASE("NaN and Inf are refused with their place") {
  std::vector<float> w(3 * 5, 1.0F);
  w[2 * 5 + 3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(message_of<lowbit::value_error>([&] {
          return uniform_quantizer{}.quantize({w.data(), 3, 5});
        }) == "the weight matrix holds NaN at row 2, column 3");
  w[2 * 5 + 3] = -std::numeric_limits<float>::infinity();
  CHECK(message_of<lowbit::value_error>([&] {
          return uniform_quantizer{}.quantize({w.data(), 3, 5});
        }) == "the weight matrix holds -Inf at row 2, column 3");
}

TEST_CASE("params out of range are refused with their name and value") {
  const std::vector<float> row(8, 1.0F);
  const auto message = [&](const uniform_quantizer& q) {
    return message_of<lowbit::value_error>([&] { return quantize_row(q, row); });
  };
  uniform_quantizer q;
  q.params.bits = 0;
  CHECK(message(q) == "bits = 0 is outside 1..8");
  q.params.bits = 9;
  CHECK(message(q) == "bits = 9 is outside 1..8");
  q = {};
  q.params.group_size = 0;
  CHECK(message(q) == "group_size = 0 is outside 1..4294967295");
  q = {};
  q.params.kind = static_cast<symmetry>(3);
  CHECK(message(q) == "symmetry has no choice number 3");
  q = {};
  q.fit.percentile = 49.0;
  CHECK(message(q) == "percentile = 49 is outside 50..100");
  q.fit.percentile = std::numeric_limits<double>::quiet_NaN();
  CHECK(message(q) == "percentile = nan is outside 50..100");
}

TEST_CASE("an empty matrix has empty codes and scales, and no bits per weight") {
  for (const shape2 shape : {shape2{0, 0}, shape2{0, 5}, shape2{5, 0}}) {
    for (const auto size : {granularity::tensor, granularity::channel, granularity::group}) {
      uniform_quantizer q;
      q.params.granularity = size;
      const uniform_tensor t = q.quantize({nullptr, shape.rows, shape.cols}, {});
      CHECK(t.shape() == shape);
      CHECK(bits_per_weight(t) == 0.0);
    }
  }
}
