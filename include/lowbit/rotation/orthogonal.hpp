// rotation/orthogonal.hpp: orthogonal matrices R that multiply rows, x' = x R. Layer L3.
//
// What is folded into weights is one of
//   decorators::hadamard_rotation   x R = T x: n log n per row, applied at run time too
//   dense_rotation                  any R, n^2 per row: for folding only
// Both act on rows x of activations; fold.hpp says what that does to weights.
//
// Invariant: an element of x R is the same bits on every CPU, compiler and number of threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <span>
#include <utility>

#include "lowbit/core/random.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/linalg/polar.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation {

/// Whether a map of rows keeps lengths and angles. True for a type is a promise.
template <class R>
inline constexpr bool is_orthogonal = false;
template <>
inline constexpr bool is_orthogonal<decorators::hadamard_rotation> = true;
class dense_rotation;
template <>
inline constexpr bool is_orthogonal<dense_rotation> = true;

/// An orthogonal matrix R[n, n], n = columns(): transform_input(x, out) writes out = x R, in
/// doubles. x and out have n elements and do not overlap. Const functions are thread-safe.
template <class R>
concept orthogonal_map = is_orthogonal<R> &&
    requires(const R& r, std::span<const double> x, std::span<double> out) {
  { r.columns() } -> std::same_as<index_t>;
  { r.transform_input(x, out) } -> std::same_as<void>;
};

/// An R[n, n] that is stored. A plain value.
class dense_rotation {
 public:
  /// Frobenius' norm of I - R^T R must be below this: an error far below a float's rounding.
  static constexpr double orthogonality_limit = 1e-9;

  dense_rotation() noexcept = default;
  /// Refuses (shape) a matrix that is not square, and (value) one that is not orthogonal: of one
  /// stored in floats take linalg::reorthonormalize first.
  dense_rotation(matrix_view<const double> r, const kernels::context& ctx)
      : columns_(r.rows()), values_(checked_mul(r.rows(), r.rows(), "a rotation")) {
    LOWBIT_CHECK(r.rows() == r.cols(), shape, "a rotation is square, not [", r.rows(), ", ",
                 r.cols(), "]");
    for (index_t i = 0; i < columns_; ++i) {
      std::copy_n(r.row(i).data(), columns_, values_.data() + i * columns_);
    }
    linalg::detail::polar_workspace w(columns_);
    const double defect = linalg::detail::orthogonality_defect(matrix(), w, ctx);
    LOWBIT_CHECK(defect < orthogonality_limit, value, "a rotation of ", columns_,
                 " columns is not orthogonal: |I - R^T R| = ", defect);
  }
  /// The matrix of another map: row i is that of the i-th unit vector.
  template <orthogonal_map R>
  explicit dense_rotation(const R& r)
      : columns_(r.columns()), values_(checked_mul(r.columns(), r.columns(), "a rotation")) {
    aligned_buffer<double> unit(columns_);
    for (index_t i = 0; i < columns_; ++i) {
      unit[i] = 1.0;
      r.transform_input(std::span<const double>(unit.span()),
                        std::span<double>(values_.data() + i * columns_, columns_));
      unit[i] = 0.0;
    }
  }

  [[nodiscard]] index_t columns() const noexcept { return columns_; }
  [[nodiscard]] matrix_view<const double> matrix() const noexcept {
    return {values_.data(), columns_, columns_};
  }

  /// Each element is fma(x[k], R[k][j], c) for k in increasing order, from 0: as in kernels/dense.
  void transform_input(std::span<const double> x, std::span<double> out) const noexcept {
    std::fill_n(out.data(), columns_, 0.0);
    for (index_t k = 0; k < columns_; ++k) {
      const double* const row = values_.data() + k * columns_;
      for (index_t j = 0; j < columns_; ++j) out[j] = std::fma(x[k], row[j], out[j]);
    }
  }

 private:
  index_t columns_ = 0;
  aligned_buffer<double> values_;
};

/// A random R[n, n] without structure: the polar factor of independent values, which are sums of 63
/// random signs, because those are nearly normal and exact. Refuses (value) the rare seed whose
/// matrix is singular.
[[nodiscard]] inline dense_rotation random_rotation(index_t n, std::uint64_t seed,
                                                    const kernels::context& ctx) {
  aligned_buffer<double> values(checked_mul(n, n, "a rotation"));
  for (index_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<double>(2 * std::popcount(random_bits(seed, i) >> 1U) - 63);
  }
  const matrix_view<double> r(values.data(), n, n);
  LOWBIT_CHECK(linalg::polar_factor(r, ctx), value, "seed ", seed, " gives no rotation of ", n,
               " columns: its matrix is singular");
  return dense_rotation(r, ctx);
}

/// out[M, n] = x[M, n] R. x and out do not overlap. Refuses other shapes (shape).
template <orthogonal_map R>
void rotate_rows(const R& r, matrix_view<const double> x, matrix_view<double> out,
                 const kernels::context& ctx) {
  LOWBIT_CHECK(x.cols() == r.columns() && x.shape() == out.shape(), shape, "a rotation of ",
               r.columns(), " columns does not map [", x.rows(), ", ", x.cols(), "] to [",
               out.rows(), ", ", out.cols(), "]");
  if constexpr (std::same_as<R, dense_rotation>) {
    for (index_t i = 0; i < out.rows(); ++i) std::fill_n(out.row(i).data(), out.cols(), 0.0);
    kernels::add_product(out, kernels::dense_sign::add, x, r.matrix(), ctx);
  } else {
    kernels::parallel_for_blocks(ctx, x.rows(), 16, [&](row_range rows) {
      for (index_t i = rows.begin; i < rows.end; ++i) r.transform_input(x.row(i), out.row(i));
    });
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::rotation
