// layout/sparse_matrix.hpp: the canonical layout of a few fp16 values at scattered places of a
// matrix. Layer L2.
//
// Rows come in blocks of 16. Within a block a place is its linear index r * K + k, and places come
// in increasing order, each as the distance g from the place after the one before (from 0 for the
// first): floor(g / 255) bytes of 255, then one byte g % 255. So a byte d < 255 is a value after d
// places that have none, and 255 skips 255 places and is no value.
//
// Stored, for `count` values and `bytes` bytes of distances:
//   values  F16 [count]       finite, in the order of their places
//   deltas  U8  [bytes]       the distances
//   ends    U32 [blocks, 2]   where each block of rows ends in values and in deltas
//
// Invariants: every place is there at most once; one code for one set of places; what get() and
// for_each() return is exactly what is stored. At a density p of places at random a value costs
// about 16 + 8 / (1 - (1 - p)^255) bits: 27 at p = 0.5 %.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/core/matrix_view.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

/// What two buffers of a sparse matrix hold; with its shape this determines all extents.
struct sparse_extents {
  std::uint32_t count = 0;  ///< values
  std::uint32_t bytes = 0;  ///< of distances

  friend bool operator==(const sparse_extents&, const sparse_extents&) = default;
};

class sparse_matrix {
 public:
  static constexpr index_t block_rows = 16;
  static constexpr std::uint8_t skip = 255;
  static constexpr index_t most = std::numeric_limits<std::uint32_t>::max();  ///< values, and bytes

  /// The values as bytes to be filled in: see from_bytes().
  struct stored_bytes {
    std::span<const std::byte> values;
    std::span<const std::byte> deltas;
    std::span<const std::byte> ends;
  };

  sparse_matrix() noexcept = default;
  /// places: linear indices row * K + column, increasing. values: one for each, rounded to fp16.
  /// Refuses places that do not increase or lie outside, values that are not finite as fp16
  /// (value), another number of values and more than `most` of anything (shape).
  sparse_matrix(shape2 shape, std::span<const index_t> places, std::span<const float> values)
      : sparse_matrix(shape, extents_of(shape, places)) {
    LOWBIT_CHECK(values.size() == places.size(), shape, places.size(), " places, ", values.size(),
                 " values");
    std::uint8_t* out = deltas_.data();
    index_t next = 0;
    for (index_t i = 0; i < places.size(); ++i) {
      const float16 half = from_float<float16>(values[i]);
      LOWBIT_CHECK(std::isfinite(to_float(half)), value, "the value ", values[i], " at row ",
                   places[i] / shape.cols, ", column ", places[i] % shape.cols,
                   " is not finite as fp16");
      values_[i] = half;
      next = std::max(next, block_begin(places[i]));
      const index_t gap = places[i] - next;
      out = std::fill_n(out, gap / skip, skip);
      *out++ = static_cast<std::uint8_t>(gap % skip);
      next = places[i] + 1;
      const index_t block = places[i] / block_size();
      ends_[2 * block] = static_cast<std::uint32_t>(i + 1);
      ends_[2 * block + 1] = static_cast<std::uint32_t>(out - deltas_.data());
    }
    for (index_t i = 2; i < ends_.size(); ++i) ends_[i] = std::max(ends_[i], ends_[i - 2]);
  }

  /// What places need, without storing them. Refuses what the constructor refuses of places.
  [[nodiscard]] static sparse_extents extents_of(shape2 shape, std::span<const index_t> places) {
    const index_t block = shape.cols * block_rows;
    index_t bytes = 0;
    index_t next = 0;
    for (index_t i = 0; i < places.size(); ++i) {
      LOWBIT_CHECK(places[i] < shape.size() && (i == 0 || places[i] > places[i - 1]), value,
                   "place ", places[i], " of ", shape.size(),
                   " is outside the matrix or does not follow the one before");
      next = std::max(next, places[i] / block * block);
      bytes += (places[i] - next) / skip + 1;
      next = places[i] + 1;
    }
    LOWBIT_CHECK(places.size() <= most && bytes <= most, shape, places.size(), " values and ",
                 bytes, " bytes of distances are more than 32 bits count");
    return {static_cast<std::uint32_t>(places.size()), static_cast<std::uint32_t>(bytes)};
  }
  /// Everything that is stored for these extents.
  [[nodiscard]] static std::uint64_t storage_bits(shape2 shape, sparse_extents e) noexcept {
    return 16U * std::uint64_t{e.count} + 8U * std::uint64_t{e.bytes} + 64U * blocks(shape);
  }

  /// Rebuilds a matrix from its bytes, whose sizes fit the extents. Refuses (format) what the
  /// constructor does not write.
  [[nodiscard]] static sparse_matrix from_bytes(shape2 shape, sparse_extents extents,
                                                const stored_bytes& bytes) {
    sparse_matrix m(shape, extents);
    copy(bytes.values, m.values_);
    copy(bytes.deltas, m.deltas_);
    copy(bytes.ends, m.ends_);
    m.check_stored(extents);
    return m;
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t count() const noexcept { return values_.size(); }
  [[nodiscard]] sparse_extents extents() const noexcept {
    return {static_cast<std::uint32_t>(values_.size()), static_cast<std::uint32_t>(deltas_.size())};
  }
  [[nodiscard]] std::span<const float16> values() const noexcept { return values_.span(); }
  [[nodiscard]] std::span<const std::uint8_t> deltas() const noexcept { return deltas_.span(); }
  [[nodiscard]] std::span<const std::uint32_t> ends() const noexcept { return ends_.span(); }
  [[nodiscard]] std::array<index_t, 2> ends_extents() const noexcept { return {blocks(shape_), 2}; }
  /// Blocks of rows of a shape; none where a row has no columns.
  [[nodiscard]] static index_t blocks(shape2 shape) noexcept {
    return shape.cols == 0 ? 0 : div_up(shape.rows, block_rows);
  }

  /// Calls f(row, column, value) for the values in these rows, row by row, columns in increasing
  /// order. Costs as much as all values of the blocks that the rows lie in.
  template <class F>
  void for_each(row_range rows, F&& f) const {
    if (rows.size() == 0 || count() == 0) return;
    for (index_t block = rows.begin / block_rows; block < div_up(rows.end, block_rows); ++block) {
      const index_t first_row = block * block_rows;
      index_t row = first_row;  // of the place that comes next, at column `column`
      index_t column = 0;
      index_t value = block == 0 ? 0 : ends_[2 * block - 2];
      const index_t end = ends_[2 * block + 1];
      for (index_t i = block == 0 ? 0 : ends_[2 * block - 1]; i < end; ++i) {
        column += deltas_[i];
        if (column >= shape_.cols) {
          row += column / shape_.cols;
          column %= shape_.cols;
        }
        if (deltas_[i] == skip) continue;
        if (row >= rows.end) break;
        if (row >= rows.begin) f(row, column, values_[value]);
        ++value;
        ++column;
      }
    }
  }

 private:
  sparse_matrix(shape2 shape, sparse_extents extents)
      : shape_(shape),
        values_(extents.count),
        deltas_(extents.bytes),
        ends_(checked_mul(blocks(shape), 2, "blocks of rows")) {
    static_cast<void>(checked_mul(shape.size(), block_rows, "places of a sparse matrix"));
  }

  [[nodiscard]] index_t block_size() const noexcept { return shape_.cols * block_rows; }
  /// The first place of the block that a place lies in.
  [[nodiscard]] index_t block_begin(index_t place) const noexcept {
    return place / block_size() * block_size();
  }

  template <class T>
  static void copy(std::span<const std::byte> from, aligned_buffer<T>& to) noexcept {
    if (!to.empty()) std::memcpy(static_cast<void*>(to.data()), from.data(), from.size());
  }

  void check_stored(sparse_extents extents) const {
    for (index_t i = 0; i < values_.size(); ++i) {
      LOWBIT_CHECK(std::isfinite(to_float(values_[i])), format, "sparse value ", i,
                   " is not finite");
    }
    index_t value = 0;
    index_t byte = 0;
    for (index_t block = 0; block < blocks(shape_); ++block) {
      const index_t end = ends_[2 * block + 1];
      LOWBIT_CHECK(end >= byte && end <= deltas_.size(), format, "block ", block,
                   " of sparse rows ends at byte ", end, " of ", deltas_.size());
      const index_t size = std::min(block_rows, shape_.rows - block * block_rows) * shape_.cols;
      LOWBIT_CHECK(end == byte || deltas_[end - 1] != skip, format, "block ", block,
                   " of sparse rows ends with a skip");
      index_t place = 0;
      for (; byte < end; ++byte) {
        place += deltas_[byte];
        if (deltas_[byte] == skip) continue;
        LOWBIT_CHECK(place < size, format, "block ", block, " of sparse rows has a value at place ",
                     place, " of ", size);
        ++place;
        ++value;
      }
      LOWBIT_CHECK(ends_[2 * block] == value, format, "block ", block, " of sparse rows has ",
                   value, " values up to its end, not ", ends_[2 * block]);
    }
    LOWBIT_CHECK(value == extents.count && byte == extents.bytes, format, "the sparse rows have ",
                 value, " values in ", byte, " bytes, not ", extents.count, " in ", extents.bytes);
  }

  shape2 shape_;
  aligned_buffer<float16> values_;
  aligned_buffer<std::uint8_t> deltas_;
  aligned_buffer<std::uint32_t> ends_;  // [blocks, 2]
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
