// Canonical bit-planes: the bits that are written to disk, pinned by hand.
#include "lowbit/layout/bit_matrix.hpp"

#include <cstdint>
#include <cstring>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using layout::bit_matrix;
using lowbit_test::message_of;

TEST_CASE("bit_matrix: rows are padded to 512 bits") {
  static_assert(layout::words_per_row(0) == 0);
  static_assert(layout::words_per_row(1) == 8);
  static_assert(layout::words_per_row(512) == 8);
  static_assert(layout::words_per_row(513) == 16);
  for (index_t cols = 0; cols <= 2048; ++cols) {
    const index_t words = layout::words_per_row(cols);
    CHECK(words % 8 == 0);
    CHECK(words * 64 >= cols);
    CHECK((words == 0 || (words - 8) * 64 < cols));
  }
  CHECK(layout::words_per_row(~index_t{0}) == (index_t{1} << 58U));  // no overflow at the top
}

TEST_CASE("bit_matrix: extents, strides and order of the stored words") {
  bit_matrix m(3, {5, 600});
  CHECK(m.planes() == 3);
  CHECK(m.shape() == shape2{5, 600});
  CHECK(m.row_words() == 16);
  CHECK(m.extents() == std::array<index_t, 3>{3, 5, 16});
  REQUIRE(m.words().size() == 3 * 5 * 16);
  CHECK(reinterpret_cast<std::uintptr_t>(m.words().data()) % 64 == 0);
  for (const std::uint64_t word : m.words()) REQUIRE(word == 0);
  for (index_t p = 0; p < 3; ++p) {
    for (index_t r = 0; r < 5; ++r) {
      CHECK(m.row(p, r).data() == m.words().data() + (p * 5 + r) * 16);
      CHECK(m.row(p, r).size() == 16);
      CHECK(std::as_const(m).row(p, r).data() == m.row(p, r).data());
    }
  }
}

TEST_CASE("bit_matrix: column k is bit k % 64 of word k / 64, least significant first") {
  bit_matrix m(1, {2, 130});
  m.row(0, 1)[0] = 0b101;                    // columns 0 and 2
  m.row(0, 1)[1] = std::uint64_t{1} << 63U;  // column 127
  m.row(0, 1)[2] = 0b10;                     // column 129
  for (index_t c = 0; c < 130; ++c) {
    CHECK(m.bit(0, 1, c) == (c == 0 || c == 2 || c == 127 || c == 129));
    CHECK_FALSE(m.bit(0, 0, c));
  }
  // In the file: little-endian bytes, so byte c / 8 of a row holds column c as bit c % 8.
  unsigned char bytes[64];
  std::memcpy(bytes, m.row(0, 1).data(), sizeof bytes);
  CHECK(bytes[0] == 5);
  CHECK(bytes[15] == 0x80);
  CHECK(bytes[16] == 2);
}

TEST_CASE("bit_matrix: empty shapes and absurd ones") {
  CHECK(bit_matrix().words().empty());
  CHECK(bit_matrix(0, {3, 3}).words().empty());
  CHECK(bit_matrix(2, {0, 7}).words().empty());
  CHECK(bit_matrix(2, {7, 0}).words().empty());
  CHECK(bit_matrix(2, {7, 0}).padding_is_zero());
  CHECK(message_of<shape_error>([] {
          bit_matrix(8, {index_t{1} << 40U, index_t{1} << 40U});
        }).find("overflows 64 bits") != std::string::npos);
  CHECK(message_of<shape_error>([] {
          bit_matrix(16, {~index_t{0} / 8, 1});
        }).find("bit planes: 16 * ") == 0);
}

TEST_CASE("bit_matrix: padding_is_zero finds every stray bit and no other") {
  for (const index_t cols : {1U, 63U, 64U, 65U, 511U, 512U, 513U}) {
    bit_matrix m(2, {2, cols});
    CHECK(m.padding_is_zero());
    for (std::uint64_t& word : m.words()) word = 0;
    for (index_t p = 0; p < 2; ++p) {
      for (index_t r = 0; r < 2; ++r) {
        for (index_t c = 0; c < m.row_words() * 64; ++c) {
          m.row(p, r)[c / 64] = std::uint64_t{1} << (c % 64);
          if (m.padding_is_zero() != (c < cols)) FAIL_CHECK("cols " << cols << ", bit " << c);
          m.row(p, r)[c / 64] = 0;
        }
      }
    }
  }
}

TEST_CASE("low_bits: the lowest bits") {
  static_assert(layout::low_bits(0) == 0);
  static_assert(layout::low_bits(1) == 1);
  static_assert(layout::low_bits(63) == ~std::uint64_t{0} >> 1U);
  static_assert(layout::low_bits(64) == ~std::uint64_t{0});
  for (index_t n = 0; n <= 64; ++n) {
    CHECK(static_cast<index_t>(std::popcount(layout::low_bits(n))) == n);
    CHECK((layout::low_bits(n) & (layout::low_bits(n) + 1)) == 0);
  }
}

TEST_CASE("transpose_8x8: equals the definition, and is its own inverse") {
  const auto naive = [](std::uint64_t x) {
    std::uint64_t y = 0;
    for (unsigned i = 0; i < 8; ++i) {
      for (unsigned j = 0; j < 8; ++j) y |= ((x >> (8 * j + i)) & 1U) << (8 * i + j);
    }
    return y;
  };
  static_assert(layout::transpose_8x8(0xffU) == 0x0101010101010101U);
  static_assert(layout::transpose_8x8(0x8040201008040201U) == 0x8040201008040201U);
  for (unsigned bit = 0; bit < 64; ++bit) {  // linear: single bits prove all inputs
    const std::uint64_t x = std::uint64_t{1} << bit;
    CHECK(layout::transpose_8x8(x) == naive(x));
  }
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const std::uint64_t x = random_bits(3, i);
    REQUIRE(layout::transpose_8x8(x) == naive(x));
    REQUIRE(layout::transpose_8x8(layout::transpose_8x8(x)) == x);
  }
}

TEST_CASE("pack_row and unpack_row: inverse of each other, every plane count and width") {
  std::vector<index_t> widths;
  for (index_t k = 1; k <= 130; ++k) widths.push_back(k);
  for (const index_t k : {511U, 512U, 513U}) widths.push_back(k);
  std::size_t wrong = 0;
  for (unsigned planes = 1; planes <= 8; ++planes) {
    for (const index_t cols : widths) {
      bit_matrix m(planes, {3, cols});
      std::vector<std::uint8_t> codes(cols);
      for (index_t c = 0; c < cols; ++c) {
        codes[c] = static_cast<std::uint8_t>(random_bits(planes, c) & layout::low_bits(planes));
      }
      for (index_t p = 0; p < planes; ++p) m.row(p, 1)[0] = ~std::uint64_t{0};  // is overwritten
      layout::pack_row(codes, 1, m);
      wrong += m.padding_is_zero() ? 0U : 1U;
      for (unsigned p = 0; p < planes; ++p) {
        for (index_t c = 0; c < cols; ++c) {
          wrong += m.bit(p, 1, c) == ((codes[c] >> p & 1) != 0) ? 0U : 1U;
          wrong += m.bit(p, 0, c) || m.bit(p, 2, c) ? 1U : 0U;  // other rows untouched
        }
      }
      std::vector<std::uint8_t> back(cols + 1, 0xee);
      layout::unpack_row(m, 1, {back.data(), cols});
      wrong += back[cols] == 0xee ? 0U : 1U;
      back.pop_back();
      wrong += back == codes ? 0U : 1U;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("spread_bits: every byte") {
  static_assert(layout::spread_bits(0x81) == 0x0100000000000001U);
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint64_t expected = 0;
    for (unsigned i = 0; i < 8; ++i) expected |= std::uint64_t{byte >> i & 1U} << (8 * i);
    CHECK(layout::spread_bits(static_cast<std::uint8_t>(byte)) == expected);
  }
}

TEST_CASE("unpack_plane_row: the bits of one row of one plane, every width") {
  std::size_t wrong = 0;
  for (const index_t planes : {1U, 3U}) {
    for (index_t cols = 0; cols <= 130; ++cols) {
      bit_matrix m(planes, {3, cols});
      for (index_t i = 0; i < m.words().size(); ++i) m.words()[i] = random_bits(5, i);
      for (index_t p = 0; p < planes; ++p) {
        for (index_t r = 0; r < 3; ++r) {
          std::vector<std::uint8_t> bits(cols + 1, 0xee);
          layout::unpack_plane_row(m, p, r, {bits.data(), cols});
          for (index_t c = 0; c < cols; ++c) wrong += bits[c] != (m.bit(p, r, c) ? 1 : 0) ? 1U : 0U;
          wrong += bits[cols] == 0xee ? 0U : 1U;
        }
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("pack_row: every byte value at every place of a word") {
  bit_matrix m(8, {1, 64});
  std::size_t wrong = 0;
  for (index_t place = 0; place < 64; ++place) {
    for (unsigned value = 0; value < 256; ++value) {
      std::vector<std::uint8_t> codes(64, 0);
      codes[place] = static_cast<std::uint8_t>(value);
      layout::pack_row(codes, 0, m);
      for (unsigned p = 0; p < 8; ++p) {
        wrong += m.row(p, 0)[0] == std::uint64_t{value >> p & 1U} << place ? 0U : 1U;
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("pack_row: fewer planes than the codes' bits never write past the matrix") {
  // Only the planes that exist are written: the guard is the address sanitizer.
  bit_matrix m(3, {1, 70});
  const std::vector<std::uint8_t> codes(70, 7);
  layout::pack_row(codes, 0, m);
  for (index_t p = 0; p < 3; ++p) {
    CHECK(m.row(p, 0)[0] == ~std::uint64_t{0});
    CHECK(m.row(p, 0)[1] == layout::low_bits(6));
  }
}
