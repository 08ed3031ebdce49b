// Rows as floats: every f16 and bf16 value, every type, every alignment.
#include "lowbit/io/stored_tensor.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "files.hpp"

namespace lowbit_test {
namespace {

using lowbit::element_type;
using lowbit::index_t;
using lowbit::io::matrix_shape;
using lowbit::io::read_rows;
using lowbit::io::stored_tensor;

/// What IEEE 754 says of a number with these field widths, in double, where all of it is exact.
double decoded(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = static_cast<int>(bits) & ((1 << fraction_bits) - 1);
  const double sign = (bits >> (exponent_bits + fraction_bits)) != 0U ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  const int implicit = exponent == 0 ? 0 : 1 << fraction_bits;
  return sign * std::ldexp(implicit + fraction, std::max(exponent, 1) - bias - fraction_bits);
}

/// All values of 16 bits as one tensor of 256 rows, shifted by `offset` bytes in memory.
struct all_halves {
  all_halves(element_type type, std::size_t offset) : memory(2 * 65536 + offset) {
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const auto value = static_cast<std::uint16_t>(i);
      std::memcpy(memory.data() + offset + 2 * i, &value, sizeof value);
    }
    tensor = {"h", type, {256, 256}, std::span(memory).subspan(offset)};
  }
  byte_vector memory;
  stored_tensor tensor;
};

std::vector<float> rows_of(const stored_tensor& tensor, lowbit::row_range rows) {
  const auto shape = matrix_shape(tensor);
  std::vector<float> out(rows.size() * shape.cols);
  read_rows(tensor, rows, {out.data(), rows.size(), shape.cols});
  return out;
}

void check_all_halves(element_type type, int exponent_bits, int fraction_bits) {
  for (const std::size_t offset : {0U, 1U}) {
    const all_halves halves(type, offset);
    const std::vector<float> values = rows_of(halves.tensor, {0, 256});
    std::size_t wrong = 0;
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const double expected = decoded(i, exponent_bits, fraction_bits);
      const double found = values[i];
      const bool same = std::isnan(expected)
                            ? std::isnan(found)
                            : std::bit_cast<std::uint64_t>(found) ==
                                  std::bit_cast<std::uint64_t>(expected);  // tells -0 from 0
      wrong += same ? 0U : 1U;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("all values of f16 are read exactly") { check_all_halves(element_type::f16, 5, 10); }

TEST_CASE("all values of bf16 are read exactly") { check_all_halves(element_type::bf16, 8, 7); }

template <class T>
void check_bytes(element_type type) {
  byte_vector memory(256);
  for (std::size_t i = 0; i < 256; ++i) memory[i] = static_cast<std::byte>(i);
  const std::vector<float> values = rows_of({"b", type, {256}, memory}, {0, 1});
  for (std::size_t i = 0; i < 256; ++i) {
    CHECK(values[i] == static_cast<float>(static_cast<T>(i)));
  }
}

TEST_CASE("all bytes are read as the integers that they are") {
  check_bytes<std::uint8_t>(element_type::u8);
  check_bytes<std::int8_t>(element_type::i8);
}

TEST_CASE("any rows of any width come from the right place, and nothing else is touched") {
  std::vector<float> source(7 * 300);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i) * 0.5F - 3.0F;
  byte_vector memory(4 * source.size() + 3);
  std::memcpy(memory.data() + 3, source.data(), 4 * source.size());
  for (const index_t cols : {1U, 5U, 63U, 64U, 65U, 128U, 300U}) {
    const index_t stride = cols + 2;
    const stored_tensor tensor{
        "f", element_type::f32, {7, cols}, std::span(memory).subspan(3, 4 * 7 * cols)};
    std::vector<float> out(3 * stride, -1.0F);
    read_rows(tensor, {2, 5}, {out.data(), 3, cols, stride});
    std::size_t wrong = 0;
    for (index_t i = 0; i < out.size(); ++i) {
      const index_t row = i / stride;
      const index_t col = i % stride;
      wrong += out[i] != (col < cols ? source[(row + 2) * cols + col] : -1.0F) ? 1U : 0U;
    }
    INFO(cols);
    CHECK(wrong == 0);
  }
}

TEST_CASE("tensors of any rank are matrices") {
  const auto shape = [](std::vector<index_t> extents) {
    return matrix_shape({"t", element_type::u8, std::move(extents), {}});
  };
  CHECK(shape({}) == lowbit::shape2{1, 1});
  CHECK(shape({7}) == lowbit::shape2{1, 7});
  CHECK(shape({2, 3}) == lowbit::shape2{2, 3});
  CHECK(shape({2, 3, 5, 7}) == lowbit::shape2{2, 105});
  CHECK(shape({0}) == lowbit::shape2{1, 0});
  CHECK(shape({4, 0, 5}) == lowbit::shape2{4, 0});
  CHECK(shape({0, 3}) == lowbit::shape2{0, 3});
}

TEST_CASE("a scalar and empty tensors are read") {
  const float value = 2.5F;
  const stored_tensor scalar{"s", element_type::f32, {}, std::as_bytes(std::span(&value, 1))};
  CHECK(rows_of(scalar, {0, 1}) == std::vector<float>{2.5F});
  CHECK(rows_of({"e", element_type::f16, {0, 3}, {}}, {0, 0}).empty());
  CHECK(rows_of({"e", element_type::f16, {3, 0}, {}}, {1, 3}).empty());
}

TEST_CASE("what cannot be read as floats, or does not fit, is refused") {
  const byte_vector memory(48);
  float out[6] = {};
  const auto read = [&](element_type type, lowbit::row_range rows, lowbit::shape2 into) {
    const stored_tensor tensor{
        "some.name", type, {2, 3}, std::span(memory).first(6 * element_size(type))};
    read_rows(tensor, rows, {out, into.rows, into.cols});
  };
  for (const auto type :
       {element_type::u16, element_type::i16, element_type::u32, element_type::i32,
        element_type::u64, element_type::i64, element_type::f64}) {
    const std::string message = message_of<lowbit::value_error>([&] {
      read(type, {0, 2}, {2, 3});
    });
    CHECK(message == "tensor 'some.name' is stored as " +
                         std::string(lowbit::io::dtype_name(type)) +
                         ", which cannot be read as floats (F32, F16, BF16, I8 and U8 can)");
  }
  CHECK_NOTHROW(read(element_type::f32, {0, 2}, {2, 3}));
  CHECK_THROWS_AS(read(element_type::f32, {0, 3}, {3, 3}), lowbit::shape_error);
  CHECK_THROWS_AS(read(element_type::f32, {2, 1}, {1, 3}), lowbit::shape_error);
  CHECK_THROWS_AS(read(element_type::f32, {0, 1}, {2, 3}), lowbit::shape_error);
  CHECK(message_of<lowbit::shape_error>([&] {
          read(element_type::f32, {0, 2}, {2, 2});
        }) == "tensor 'some.name': 2 x 3 values do not fit a matrix of 2 x 2");
}

}  // namespace
}  // namespace lowbit_test
