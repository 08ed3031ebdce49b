// matrix.hpp: a matrix of floats that owns its memory.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "lowbit/core/matrix_view.hpp"

namespace whisper {

using lowbit::index_t;
using lowbit::matrix_view;
using lowbit::row_range;
using lowbit::shape2;

/// Row-major, zero at first unless made for_overwrite(). Copies are deep. For activations, of which
/// a forward pass makes many of the same sizes: memory comes from malloc, which gives the same
/// pages again, and not fresh from the system as a large aligned_buffer does (a sixth of the time).
class matrix {
 public:
  matrix() = default;
  explicit matrix(shape2 shape) : matrix(for_overwrite(shape)) {
    if (shape.size() != 0) std::memset(values_.get(), 0, shape.size() * sizeof(float));
  }
  matrix(index_t rows, index_t cols) : matrix(shape2{rows, cols}) {}
  /// Unspecified values: for what a product overwrites.
  [[nodiscard]] static matrix for_overwrite(shape2 shape) {
    constexpr index_t cache_line = 64;
    matrix made;
    made.shape_ = shape;
    if (shape.size() == 0) return made;
    const index_t bytes = lowbit::checked_mul(
        lowbit::div_up(shape.size(), cache_line / sizeof(float)), cache_line, "matrix");
    made.values_.reset(static_cast<float*>(std::aligned_alloc(cache_line, bytes)));
    LOWBIT_CHECK(made.values_ != nullptr, system, "no memory for ", bytes, " bytes");
    return made;
  }
  matrix(const matrix& other) : matrix(for_overwrite(other.shape_)) {
    std::copy(other.values().begin(), other.values().end(), values().begin());
  }
  matrix(matrix&& other) noexcept
      : shape_(std::exchange(other.shape_, {})), values_(std::move(other.values_)) {}
  matrix& operator=(const matrix& other) { return *this = matrix(other); }
  matrix& operator=(matrix&& other) noexcept {
    shape_ = std::exchange(other.shape_, {});
    values_ = std::move(other.values_);
    return *this;
  }
  ~matrix() = default;

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t rows() const noexcept { return shape_.rows; }
  [[nodiscard]] index_t cols() const noexcept { return shape_.cols; }
  [[nodiscard]] matrix_view<float> view() noexcept {
    return {values_.get(), shape_.rows, shape_.cols};
  }
  [[nodiscard]] matrix_view<const float> view() const noexcept {
    return {values_.get(), shape_.rows, shape_.cols};
  }
  [[nodiscard]] std::span<float> values() noexcept {
    return {values_.get(), shape_.rows * shape_.cols};
  }
  [[nodiscard]] std::span<const float> values() const noexcept {
    return {values_.get(), shape_.rows * shape_.cols};
  }

 private:
  struct release {
    void operator()(float* values) const noexcept { std::free(values); }
  };

  shape2 shape_;
  std::unique_ptr<float[], release> values_;
};

}  // namespace whisper
