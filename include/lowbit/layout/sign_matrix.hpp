// layout/sign_matrix.hpp: a matrix of -1 and +1 as a tensor, the part of which formats with sign
// factors are made. Layer L2.
//
// Invariants:
//  * In memory a plane of layout/bit_matrix.hpp: a set bit is +1, padding is clear.
//  * Stored without gaps, because rows of a factor have any length and padding them to 512 bits
//    would cost more than the envelopes do: bit n * K + k of the buffer is the sign of W[n, k],
//    least significant bit of a byte first; the last byte is padded with zeros.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

/// Bytes that the bits of a matrix take without gaps.
[[nodiscard]] inline index_t gapless_bytes(shape2 shape) {
  return div_up(checked_mul(shape.rows, shape.cols, "signs"), 8);
}

/// Writes the bits of a plane without gaps; `out` has gapless_bytes(in.shape()).
inline void write_gapless(const bit_matrix& in, index_t plane,
                          std::span<std::uint8_t> out) noexcept {
  const index_t cols = in.shape().cols;
  std::uint64_t pending = 0;  // bits that do not fill a byte yet, fewer than 8
  index_t count = 0;
  std::uint8_t* at = out.data();
  for (index_t r = 0; r < in.shape().rows; ++r) {
    const auto words = in.row(plane, r);
    // 32 bits at a time, so that they and the pending ones fit.
    for (index_t c = 0; c < cols; c += 32) {
      const index_t size = std::min<index_t>(32, cols - c);
      pending |= ((words[c / word_bits] >> (c % word_bits)) & low_bits(size)) << count;
      count += size;
      for (; count >= 8; count -= 8, pending >>= 8U) *at++ = static_cast<std::uint8_t>(pending);
    }
  }
  if (count > 0) *at = static_cast<std::uint8_t>(pending);
}

/// The inverse of write_gapless; the plane is all zero before.
inline void read_gapless(std::span<const std::byte> in, bit_matrix& out, index_t plane) noexcept {
  const index_t cols = out.shape().cols;
  std::uint64_t pending = 0;
  index_t count = 0;
  const std::byte* at = in.data();
  for (index_t r = 0; r < out.shape().rows; ++r) {
    const auto words = out.row(plane, r);
    for (index_t c = 0; c < cols; c += 32) {
      const index_t size = std::min<index_t>(32, cols - c);
      for (; count < size; count += 8) {
        pending |= static_cast<std::uint64_t>(std::to_integer<std::uint8_t>(*at++)) << count;
      }
      words[c / word_bits] |= (pending & low_bits(size)) << (c % word_bits);
      pending >>= size;
      count -= size;
    }
  }
}

/// Models quantized_tensor and sign_operand.
class sign_matrix {
 public:
  struct format {
    static constexpr std::string_view name = "signs";
    static constexpr std::uint32_t version = 1;
    struct params {
      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params&, params_visitor&) {}
  };

  /// All -1.
  explicit sign_matrix(shape2 shape) : signs_(1, shape) {}

  /// True for +1.
  [[nodiscard]] bool is_positive(index_t r, index_t c) const noexcept {
    return signs_.bit(0, r, c);
  }
  /// Writes a row, a byte of 0 (-1) or 1 (+1) for each of K columns.
  void set_row(index_t r, std::span<const std::uint8_t> bits) noexcept {
    pack_row(bits, r, signs_);
  }

  // -- quantized_tensor, sign_operand ------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return signs_.shape(); }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return 8 * gapless_bytes(shape()); }

  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape(), rows, out);
    for (index_t r = 0; r < rows.size(); ++r) {
      const auto words = signs_.row(0, rows.begin + r);
      for (index_t c = 0; c < out.cols(); ++c) {
        out(r, c) = ((words[c / word_bits] >> (c % word_bits)) & 1U) != 0 ? 1.0F : -1.0F;
      }
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    aligned_buffer<std::uint8_t> bytes(gapless_bytes(shape()));
    write_gapless(signs_, 0, bytes.span());
    const std::array<index_t, 1> extents{bytes.size()};
    visitor({"signs", element_type::u8, extents, std::as_bytes(std::span(bytes.span()))});
  }

  /// Refuses bits past the last sign (format).
  [[nodiscard]] static sign_matrix from_buffers(shape2 shape, const format::params&,
                                                buffer_source& source) {
    const auto stored = get_buffer(source, "signs", element_type::u8, {gapless_bytes(shape)});
    sign_matrix t(shape);
    const index_t used = shape.size() % 8;
    LOWBIT_CHECK(used == 0 || (std::to_integer<unsigned>(stored.back()) >> used) == 0, format,
                 "signs have set bits past the last one");
    read_gapless(stored, t.signs_, 0);
    return t;
  }

  [[nodiscard]] const bit_matrix& signs() const noexcept { return signs_; }

 private:
  bit_matrix signs_;
  [[no_unique_address]] format::params params_;
};

static_assert(sign_operand<sign_matrix>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
