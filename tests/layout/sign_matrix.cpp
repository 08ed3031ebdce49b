// layout/sign_matrix.hpp and layout/enveloped_signs.hpp.
#include "lowbit/layout/sign_matrix.hpp"

#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/layout/enveloped_signs.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/format.hpp"

using namespace lowbit;
using layout::enveloped_signs;
using layout::sign_matrix;

namespace {

constexpr std::uint64_t seed = 20261126;

[[nodiscard]] bool random_bit(index_t i) { return (random_bits(seed, i) & 1U) != 0; }

[[nodiscard]] sign_matrix random_signs(shape2 shape) {
  sign_matrix t(shape);
  std::vector<std::uint8_t> bits(shape.cols);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) bits[c] = random_bit(r * shape.cols + c) ? 1 : 0;
    t.set_row(r, bits);
  }
  return t;
}

}  // namespace

TEST_CASE("sign matrices conform and store their bits without gaps") {
  for (const shape2 shape :
       {shape2{0, 5}, shape2{5, 0}, shape2{3, 7}, shape2{8, 8}, shape2{5, 63}, shape2{7, 64},
        shape2{3, 65}, shape2{9, 401}, shape2{2, 512}, shape2{3, 1030}}) {
    INFO("seed " << seed << ", [" << shape.rows << ", " << shape.cols << "]");
    const sign_matrix t = random_signs(shape);
    const auto list = testing::check_tensor(t);
    INFO(testing::failures(list));
    CHECK(testing::all_passed(list));
    CHECK(t.storage_bits() == (shape.size() + 7) / 8 * 8);
    struct : buffer_visitor {
      std::vector<std::byte> bytes;
      void operator()(const buffer_view& buffer) override {
        bytes.assign(buffer.bytes.begin(), buffer.bytes.end());
      }
    } stored;
    t.for_each_buffer(stored);
    bool equal = stored.bytes.size() * 8 >= shape.size();
    for (index_t i = 0; equal && i < shape.size(); ++i) {
      const bool bit = ((std::to_integer<unsigned>(stored.bytes[i / 8]) >> (i % 8)) & 1U) != 0;
      equal = bit == random_bit(i) && t.is_positive(i / shape.cols, i % shape.cols) == bit;
    }
    CHECK(equal);
  }
}

TEST_CASE("enveloped signs decode to sign times the sum of products") {
  enveloped_signs f({3, 70}, 2, scale_type::fp16);
  f.signs() = random_signs({3, 70});
  for (index_t j = 0; j < 2; ++j) {
    for (index_t n = 0; n < 3; ++n) f.row_envelopes().set(j, n, random_normal(seed, j * 3 + n));
    for (index_t k = 0; k < 70; ++k) {
      f.column_envelopes().set(j, k, random_normal(seed + 1, j * 70 + k));
    }
  }
  // 11 bits times 11 bits is exact in a double, and so is the sum of two of similar size.
  std::vector<float> values(2 * 70);
  f.decode(row_range{1, 3}, matrix_view<float>(values.data(), 2, 70));
  for (index_t n = 1; n < 3; ++n) {
    for (index_t k = 0; k < 70; ++k) {
      double sum = 0.0;
      for (index_t j = 0; j < 2; ++j) {
        sum += static_cast<double>(f.row_envelopes().get(j, n)) *
               static_cast<double>(f.column_envelopes().get(j, k));
      }
      const auto e = static_cast<float>(sum);
      CHECK(values[(n - 1) * 70 + k] == (random_bit(n * 70 + k) ? e : -e));
      CHECK(std::abs(sum) <= f.largest_magnitude());
    }
  }
  CHECK(f.storage_bits() == 8 * 27 + 16 * 2 * 73);  // 210 signs fill 26.25 bytes
}
