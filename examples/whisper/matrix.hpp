// matrix.hpp: a matrix of floats that owns its memory.
#pragma once

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"

namespace whisper {

using lowbit::index_t;
using lowbit::matrix_view;
using lowbit::row_range;
using lowbit::shape2;

/// Row-major, zero at first. Copies are deep.
class matrix {
 public:
  matrix() = default;
  explicit matrix(shape2 shape) : shape_(shape), values_(shape.size()) {}
  matrix(index_t rows, index_t cols) : matrix(shape2{rows, cols}) {}

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t rows() const noexcept { return shape_.rows; }
  [[nodiscard]] index_t cols() const noexcept { return shape_.cols; }
  [[nodiscard]] matrix_view<float> view() noexcept {
    return {values_.data(), shape_.rows, shape_.cols};
  }
  [[nodiscard]] matrix_view<const float> view() const noexcept {
    return {values_.data(), shape_.rows, shape_.cols};
  }
  [[nodiscard]] std::span<float> values() noexcept { return values_.span(); }
  [[nodiscard]] std::span<const float> values() const noexcept { return values_.span(); }

 private:
  shape2 shape_;
  lowbit::aligned_buffer<float> values_;
};

}  // namespace whisper
