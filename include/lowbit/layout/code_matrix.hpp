// layout/code_matrix.hpp: a matrix of small unsigned integers, packed without gaps. Layer L2.
//
// For side information (zero points, table indices), which is looked up, not multiplied: the planes
// of bit_matrix would pad each row to 512 bits.
//
// Invariants: element c of a row is bits [c*bits, (c+1)*bits) of the row's bytes, least significant
// bit first; a row is padded with zero bits to a whole byte.
#pragma once

#include <array>
#include <cstdint>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

class code_matrix {
 public:
  code_matrix() noexcept = default;
  /// All zero; bits is 1..8.
  code_matrix(unsigned bits, shape2 shape)
      : bits_(bits),
        shape_(shape),
        row_bytes_(row_bytes(bits, shape.cols)),
        bytes_(checked_mul(shape.rows, row_bytes_, "codes")) {}

  /// Bytes that a row of `cols` codes takes.
  [[nodiscard]] static index_t row_bytes(unsigned bits, index_t cols) {
    return div_up(checked_mul(cols, bits, "codes"), 8);
  }

  [[nodiscard]] unsigned bits() const noexcept { return bits_; }
  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  /// [rows, bytes of a row]: the extents of the stored buffer.
  [[nodiscard]] std::array<index_t, 2> extents() const noexcept {
    return {shape_.rows, row_bytes_};
  }
  [[nodiscard]] std::span<std::uint8_t> bytes() noexcept { return bytes_.span(); }
  [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept { return bytes_.span(); }

  [[nodiscard]] unsigned get(index_t r, index_t c) const noexcept {
    const index_t bit = c * bits_;
    const std::uint8_t* const at = bytes_.data() + r * row_bytes_ + bit / 8;
    const unsigned shift = bit % 8;
    unsigned word = at[0];
    if (shift + bits_ > 8) word |= static_cast<unsigned>(at[1]) << 8U;
    return (word >> shift) & mask();
  }
  /// `code` must be below 2^bits.
  void set(index_t r, index_t c, unsigned code) noexcept {
    const index_t bit = c * bits_;
    std::uint8_t* const at = bytes_.data() + r * row_bytes_ + bit / 8;
    const unsigned shift = bit % 8;
    at[0] = static_cast<std::uint8_t>((at[0] & ~(mask() << shift)) | (code << shift));
    if (shift + bits_ > 8) {
      at[1] = static_cast<std::uint8_t>((at[1] & ~(mask() >> (8 - shift))) | (code >> (8 - shift)));
    }
  }

 private:
  [[nodiscard]] unsigned mask() const noexcept { return (1U << bits_) - 1U; }

  unsigned bits_ = 1;
  shape2 shape_;
  index_t row_bytes_ = 0;
  aligned_buffer<std::uint8_t> bytes_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
