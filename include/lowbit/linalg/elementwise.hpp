// linalg/elementwise.hpp: a matrix of doubles that owns its memory, and what is done to its
// elements. Layer L2, on top of kernels/dense.
//
// Invariant: same bits on every CPU, tier and compiler: no expression that a compiler could
// contract; sums are fused, in increasing order.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/dense/driver.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// M[rows, cols] without gaps between rows, zeros at first. Behind the last element lie zeros up to
/// what an axpy takes, so that one may run over all elements at once or past the end of any row.
class dense_matrix {
 public:
  dense_matrix() noexcept = default;
  dense_matrix(index_t rows, index_t cols)
      : rows_(rows), cols_(cols), data_(padded(shape2{rows, cols}.size()) + step) {}

  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] shape2 shape() const noexcept { return {rows_, cols_}; }
  [[nodiscard]] index_t size() const noexcept { return rows_ * cols_; }
  [[nodiscard]] matrix_view<double> view() noexcept { return {data_.data(), rows_, cols_}; }
  [[nodiscard]] matrix_view<const double> view() const noexcept {
    return {data_.data(), rows_, cols_};
  }
  [[nodiscard]] double* data() noexcept { return data_.data(); }
  [[nodiscard]] const double* data() const noexcept { return data_.data(); }
  [[nodiscard]] std::span<double> elements() noexcept { return {data_.data(), size()}; }
  [[nodiscard]] std::span<const double> elements() const noexcept { return {data_.data(), size()}; }
  [[nodiscard]] std::span<double> row(index_t i) noexcept {
    return {data_.data() + i * cols_, cols_};
  }
  [[nodiscard]] std::span<const double> row(index_t i) const noexcept {
    return {data_.data() + i * cols_, cols_};
  }
  double& operator()(index_t i, index_t j) noexcept { return data_[i * cols_ + j]; }
  const double& operator()(index_t i, index_t j) const noexcept { return data_[i * cols_ + j]; }

  void fill(double value) noexcept { std::fill_n(data_.data(), size(), value); }
  /// Zeros of this shape, in the memory that is there if it has that size.
  void reset(index_t rows, index_t cols) {
    if (shape2{rows, cols} == shape()) return fill(0.0);
    if (shape2{rows, cols}.size() != size()) {
      *this = dense_matrix(rows, cols);
    } else {
      fill(0.0);
      rows_ = rows;
      cols_ = cols;
    }
  }
  /// A copy of other, in the memory that is there if it has that size.
  void assign(const dense_matrix& other) {
    if (other.shape() != shape()) reset(other.rows(), other.cols());
    std::copy_n(other.data(), size(), data());
  }

  /// `count` rounded up to what an axpy takes.
  [[nodiscard]] static constexpr index_t padded(index_t count) noexcept {
    return div_up(count, step) * step;
  }

 private:
  static constexpr index_t step = kernels::dense_axpy_step;
  index_t rows_ = 0;
  index_t cols_ = 0;
  aligned_buffer<double> data_;
};

/// y += a x, for matrices of one shape.
inline void add_scaled(dense_matrix& y, double a, const dense_matrix& x,
                       const kernels::context& ctx) {
  kernels::select_dense(ctx.allowed)
      .run.axpy(a, x.data(), y.data(), dense_matrix::padded(y.size()));
}

/// The sum of a[i] b[i], fused, in increasing order.
[[nodiscard]] inline double dot(std::span<const double> a, std::span<const double> b) noexcept {
  double sum = 0.0;
  for (index_t i = 0; i < a.size(); ++i) sum = std::fma(a[i], b[i], sum);
  return sum;
}

namespace detail {

/// out = factor * x, or its transpose.
inline void copy_scaled(matrix_view<const double> x, double factor,
                        matrix_view<double> out) noexcept {
  for (index_t i = 0; i < x.rows(); ++i) {
    for (index_t j = 0; j < x.cols(); ++j) out(i, j) = factor * x(i, j);
  }
}
template <class T>
void copy_transposed(matrix_view<const std::type_identity_t<T>> x, matrix_view<T> out) noexcept {
  constexpr index_t block = 16;  // of columns that are written: their lines stay in the L1 cache
  for (index_t i0 = 0; i0 < x.rows(); i0 += block) {
    for (index_t j = 0; j < x.cols(); ++j) {
      for (index_t i = i0; i < std::min(i0 + block, x.rows()); ++i) out(j, i) = x(i, j);
    }
  }
}
/// out = value * I.
inline void set_diagonal(matrix_view<double> out, double value) noexcept {
  for (index_t i = 0; i < out.rows(); ++i) {
    for (index_t j = 0; j < out.cols(); ++j) out(i, j) = i == j ? value : 0.0;
  }
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
