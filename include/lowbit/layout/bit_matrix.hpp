// layout/bit_matrix.hpp: canonical bit-planes, the one layout that is written to disk. Layer L2.
//
// Invariants (docs/file_format.md):
//  * Shape [planes, rows, words]: plane-major, so that the first j planes are one contiguous part.
//  * Column k of a row is bit k % 64 of word k / 64, least significant bit first, little-endian.
//  * A row has a multiple of 8 words (512 bits); bits past the last column are zero.
//  * Nothing here depends on an instruction set or on a kernel's tile.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

inline constexpr index_t word_bits = 64;
inline constexpr index_t row_alignment_words = 8;

/// Words that a row of `cols` bits takes.
[[nodiscard]] constexpr index_t words_per_row(index_t cols) noexcept {
  return div_up(cols, word_bits * row_alignment_words) * row_alignment_words;
}

/// The lowest `count` bits set; count <= 64.
[[nodiscard]] constexpr std::uint64_t low_bits(index_t count) noexcept {
  return count >= word_bits ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1U;
}

/// `planes` bit matrices of one shape, owned.
class bit_matrix {
 public:
  bit_matrix() noexcept = default;
  /// All bits zero.
  bit_matrix(index_t planes, shape2 shape)
      : planes_(planes),
        shape_(shape),
        words_per_row_(words_per_row(shape.cols)),
        words_(checked_mul(checked_mul(planes, shape.rows, "bit planes"), words_per_row_,
                           "bit planes")) {}

  [[nodiscard]] index_t planes() const noexcept { return planes_; }
  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t row_words() const noexcept { return words_per_row_; }
  /// [planes, rows, words]: the extents of the stored buffer.
  [[nodiscard]] std::array<index_t, 3> extents() const noexcept {
    return {planes_, shape_.rows, words_per_row_};
  }
  [[nodiscard]] std::span<std::uint64_t> row(index_t plane, index_t r) noexcept {
    return words_.span().subspan((plane * shape_.rows + r) * words_per_row_, words_per_row_);
  }
  [[nodiscard]] std::span<const std::uint64_t> row(index_t plane, index_t r) const noexcept {
    return words_.span().subspan((plane * shape_.rows + r) * words_per_row_, words_per_row_);
  }
  /// Every word, in stored order.
  [[nodiscard]] std::span<std::uint64_t> words() noexcept { return words_.span(); }
  [[nodiscard]] std::span<const std::uint64_t> words() const noexcept { return words_.span(); }

  [[nodiscard]] bool bit(index_t plane, index_t r, index_t c) const noexcept {
    return ((row(plane, r)[c / word_bits] >> (c % word_bits)) & 1U) != 0;
  }

  /// Whether every bit past the last column is zero: what a reader must check, because products
  /// rely on it.
  [[nodiscard]] bool padding_is_zero() const noexcept {
    std::uint64_t stray = 0;
    const index_t full = shape_.cols / word_bits;
    for (index_t p = 0; p < planes_; ++p) {
      for (index_t r = 0; r < shape_.rows; ++r) {
        const auto words = row(p, r);
        for (index_t w = full; w < words_per_row_; ++w) {
          stray |= words[w] & (w == full ? ~low_bits(shape_.cols % word_bits) : ~std::uint64_t{0});
        }
      }
    }
    return stray == 0;
  }

 private:
  index_t planes_ = 0;
  shape2 shape_;
  index_t words_per_row_ = 0;
  aligned_buffer<std::uint64_t> words_;
};

/// Transposes an 8 x 8 bit matrix: bit i of byte j moves to bit j of byte i (Hacker's Delight,
/// 7-3). Its own inverse.
[[nodiscard]] constexpr std::uint64_t transpose_8x8(std::uint64_t x) noexcept {
  std::uint64_t t = (x ^ (x >> 7U)) & 0x00aa00aa00aa00aaULL;
  x ^= t ^ (t << 7U);
  t = (x ^ (x >> 14U)) & 0x0000cccc0000ccccULL;
  x ^= t ^ (t << 14U);
  t = (x ^ (x >> 28U)) & 0x00000000f0f0f0f0ULL;
  return x ^ t ^ (t << 28U);
}

/// Writes the codes of one row into planes 0 .. planes-1 (plane i takes bit i of each code). Codes
/// have no bit at or above `planes()`. `codes` has shape().cols elements.
inline void pack_row(std::span<const std::uint8_t> codes, index_t r, bit_matrix& out) noexcept {
  const index_t planes = out.planes();
  for (index_t w = 0; w * word_bits < codes.size(); ++w) {
    std::array<std::uint64_t, 8> words{};
    for (index_t byte = 0; byte < 8; ++byte) {
      const index_t begin = w * word_bits + byte * 8;
      if (begin >= codes.size()) break;
      std::uint64_t eight = 0;
      if (codes.size() - begin >= 8) {
        std::memcpy(&eight, &codes[begin], 8);
      } else {
        std::memcpy(&eight, &codes[begin], codes.size() - begin);
      }
      const std::uint64_t by_plane = transpose_8x8(eight);
      for (index_t p = 0; p < 8; ++p) words[p] |= ((by_plane >> (8 * p)) & 0xffU) << (8 * byte);
    }
    for (index_t p = 0; p < planes; ++p) out.row(p, r)[w] = words[p];
  }
}

/// Reads the codes of one row back: the inverse of pack_row. `codes` has shape().cols elements.
inline void unpack_row(const bit_matrix& in, index_t r, std::span<std::uint8_t> codes) noexcept {
  const index_t planes = in.planes();
  for (index_t w = 0; w * word_bits < codes.size(); ++w) {
    std::array<std::uint64_t, 8> words{};
    for (index_t p = 0; p < planes; ++p) words[p] = in.row(p, r)[w];
    for (index_t byte = 0; byte < 8; ++byte) {
      const index_t begin = w * word_bits + byte * 8;
      if (begin >= codes.size()) break;
      std::uint64_t by_plane = 0;
      for (index_t p = 0; p < planes; ++p) {
        by_plane |= ((words[p] >> (8 * byte)) & 0xffU) << (8 * p);
      }
      const std::uint64_t eight = transpose_8x8(by_plane);
      std::memcpy(&codes[begin], &eight, codes.size() - begin >= 8 ? 8 : codes.size() - begin);
    }
  }
}

/// Bit i of `bits` as byte i, 0 or 1.
[[nodiscard]] constexpr std::uint64_t spread_bits(std::uint8_t bits) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101ULL;
  const std::uint64_t each = (bits * ones) & 0x8040201008040201ULL;  // byte i: bit i, in its place
  return ((each + 0x7f * ones) >> 7U) & ones;                        // to bit 7, if it is set
}

/// Writes one row of one plane, a byte of 0 or 1 for each bit. `bits` has shape().cols elements.
inline void unpack_plane_row(const bit_matrix& in, index_t plane, index_t r,
                             std::span<std::uint8_t> bits) noexcept {
  const std::span<const std::uint64_t> words = in.row(plane, r);
  for (index_t c = 0; c < bits.size(); c += 8) {
    const auto byte = static_cast<std::uint8_t>(words[c / word_bits] >> (c % word_bits));
    const std::uint64_t eight = spread_bits(byte);
    std::memcpy(&bits[c], &eight, bits.size() - c >= 8 ? 8 : bits.size() - c);
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
