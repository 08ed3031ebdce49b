// layout/enveloped_signs.hpp: a sign matrix times a matrix of low rank, element by element: the
// factor of double binary factorization and the plane of additive envelopes. Layer L2.
//
//   F[n, k] = sign(n, k) * E[n, k],   E[n, k] = sum over j < l of row_j(n) * column_j(k)
//
// Products: kernels/envelope/product.hpp.
//
// Invariants:
//  * E is summed over j in increasing order in double, where the product of two floats is exact,
//  and
//    rounded to float once: the same bits everywhere.
//  * Envelopes are finite, of any sign.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/layout/scale_matrix.hpp"
#include "lowbit/layout/sign_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout {

class enveloped_signs {
 public:
  /// Signs -1 and envelopes of zeros; rank is at least 1.
  enveloped_signs(shape2 shape, index_t rank, scale_type type)
      : signs_(shape),
        row_envelopes_(type, {rank, shape.rows}),
        column_envelopes_(type, {rank, shape.cols}) {}

  [[nodiscard]] shape2 shape() const noexcept { return signs_.shape(); }
  [[nodiscard]] index_t rank() const noexcept { return row_envelopes_.shape().rows; }
  [[nodiscard]] const sign_matrix& signs() const noexcept { return signs_; }
  [[nodiscard]] sign_matrix& signs() noexcept { return signs_; }
  /// [l, N] and [l, K].
  [[nodiscard]] const scale_matrix& row_envelopes() const noexcept { return row_envelopes_; }
  [[nodiscard]] scale_matrix& row_envelopes() noexcept { return row_envelopes_; }
  [[nodiscard]] const scale_matrix& column_envelopes() const noexcept { return column_envelopes_; }
  [[nodiscard]] scale_matrix& column_envelopes() noexcept { return column_envelopes_; }

  [[nodiscard]] std::uint64_t storage_bits() const {
    return signs_.storage_bits() +
           8 * (row_envelopes_.bytes().size() + column_envelopes_.bytes().size());
  }
  void for_each_buffer(buffer_visitor& visitor) const {
    signs_.for_each_buffer(visitor);
    const auto rows = row_envelopes_.extents();
    visitor({"row_envelopes", row_envelopes_.element(), rows, row_envelopes_.bytes()});
    const auto columns = column_envelopes_.extents();
    visitor({"column_envelopes", column_envelopes_.element(), columns, column_envelopes_.bytes()});
  }
  /// Refuses values that are not finite (format).
  [[nodiscard]] static enveloped_signs from_buffers(shape2 shape, index_t rank, scale_type type,
                                                    buffer_source& source) {
    enveloped_signs f(sign_matrix::from_buffers(shape, {}, source));
    const auto read = [&](std::string_view name, index_t size, scale_matrix& to) {
      const auto stored = get_buffer(source, name, element_type_of(type), {rank, size});
      to = scale_matrix(type, {rank, size});
      copy_bytes(stored, to.bytes());
      to.check_values(name, /*allow_negative=*/true);
    };
    read("row_envelopes", shape.rows, f.row_envelopes_);
    read("column_envelopes", shape.cols, f.column_envelopes_);
    return f;
  }

  /// Writes rows of F, as doubles that are floats, to out [rows.size(), K].
  template <class T>
  void decode(row_range rows, matrix_view<T> out) const {
    aligned_buffer<double> columns(rank() * shape().cols);
    for (index_t j = 0; j < rank(); ++j) {
      for (index_t k = 0; k < shape().cols; ++k) {
        columns[j * shape().cols + k] = static_cast<double>(column_envelopes_.get(j, k));
      }
    }
    aligned_buffer<double> sums(shape().cols);
    for (index_t r = 0; r < rows.size(); ++r) {
      const index_t n = rows.begin + r;
      std::fill_n(sums.data(), shape().cols, 0.0);
      for (index_t j = 0; j < rank(); ++j) {
        const auto factor = static_cast<double>(row_envelopes_.get(j, n));
        const double* const column = columns.data() + j * shape().cols;
        for (index_t k = 0; k < shape().cols; ++k) sums[k] += factor * column[k];
      }
      const auto words = signs_.signs().row(0, n);
      for (index_t k = 0; k < shape().cols; ++k) {
        const auto e = static_cast<float>(sums[k]);
        const bool positive = ((words[k / word_bits] >> (k % word_bits)) & 1U) != 0;
        out(r, k) = static_cast<T>(positive ? e : -e);
      }
    }
  }

  /// A bound of every |F[n, k]| and of the partial sums of the envelopes.
  [[nodiscard]] double largest_magnitude() const noexcept {
    const auto largest = [](const scale_matrix& m, index_t j) {
      float most = 0.0F;
      for (index_t i = 0; i < m.shape().cols; ++i) most = std::max(most, std::abs(m.get(j, i)));
      return static_cast<double>(most);
    };
    double sum = 0.0;
    for (index_t j = 0; j < rank(); ++j) {
      sum += largest(row_envelopes_, j) * largest(column_envelopes_, j);
    }
    return sum;
  }

 private:
  explicit enveloped_signs(sign_matrix signs) : signs_(std::move(signs)) {}

  sign_matrix signs_;
  scale_matrix row_envelopes_;
  scale_matrix column_envelopes_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::layout
