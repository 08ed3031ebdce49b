// core/matrix_view.hpp: shapes, row ranges and the non-owning matrix that public functions take.
// Layer L1.
//
// Invariants: row-major; the columns of a row are contiguous; row_stride >= cols. A view never
// owns.
#pragma once

#include <span>
#include <type_traits>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// The shape of a weight matrix: {out_features N, in_features K}.
struct shape2 {
  index_t rows = 0;
  index_t cols = 0;

  friend constexpr bool operator==(const shape2&, const shape2&) = default;
  /// Elements, checked against overflow.
  [[nodiscard]] index_t size() const { return checked_mul(rows, cols, "shape"); }
};

/// Rows [begin, end).
struct row_range {
  index_t begin = 0;
  index_t end = 0;

  [[nodiscard]] constexpr index_t size() const noexcept { return end - begin; }
};

/// Refuses a range that does not lie inside `rows` rows.
inline void check_row_range(row_range range, index_t rows) {
  LOWBIT_CHECK(range.begin <= range.end && range.end <= rows, shape, "row range [", range.begin,
               ", ", range.end, ") does not lie in a matrix of ", rows, " rows");
}

/// A view of a row-major matrix. T is `float` to write, `const float` to read.
template <class T>
class matrix_view {
 public:
  constexpr matrix_view() noexcept = default;
  constexpr matrix_view(T* data, index_t rows, index_t cols) noexcept
      : matrix_view(data, rows, cols, cols) {}
  /// `row_stride` counts elements from one row to the next.
  constexpr matrix_view(T* data, index_t rows, index_t cols, index_t row_stride) noexcept
      : data_(data), rows_(rows), cols_(cols), row_stride_(row_stride) {}
  /// A view to write converts to a view to read.
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr matrix_view(const matrix_view<U>& other) noexcept  // NOLINT: implicit on purpose
      : matrix_view(other.data(), other.rows(), other.cols(), other.row_stride()) {}

  [[nodiscard]] constexpr T* data() const noexcept { return data_; }
  [[nodiscard]] constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] constexpr index_t row_stride() const noexcept { return row_stride_; }
  [[nodiscard]] constexpr shape2 shape() const noexcept { return {rows_, cols_}; }
  [[nodiscard]] constexpr bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }

  [[nodiscard]] constexpr std::span<T> row(index_t r) const noexcept {
    return {data_ + r * row_stride_, cols_};
  }
  constexpr T& operator()(index_t r, index_t c) const noexcept {
    return data_[r * row_stride_ + c];
  }
  /// The rows of `range` as a view; the range must lie inside.
  [[nodiscard]] constexpr matrix_view middle_rows(row_range range) const noexcept {
    return {data_ + range.begin * row_stride_, range.size(), cols_, row_stride_};
  }
  /// Columns [begin, end) as a view; the range must lie inside.
  [[nodiscard]] constexpr matrix_view middle_cols(index_t begin, index_t end) const noexcept {
    // Without rows the pointer may be null, to which nothing may be added.
    return {rows_ == 0 ? data_ : data_ + begin, rows_, end - begin, row_stride_};
  }

 private:
  T* data_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t row_stride_ = 0;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
