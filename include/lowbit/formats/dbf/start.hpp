// formats/dbf/start.hpp: where the fit of two factors begins. Layer L3.
#pragma once

#include "lowbit/core/random.hpp"
#include "lowbit/formats/dbf/side.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// Numbers in [-size, size), but zeros in the rows of x that are zeros in m.
inline void fill_random(matrix_view<const double> m, double size, std::uint64_t seed,
                        row_range columns, dense_matrix& x) {
  for (index_t i = 0; i < x.rows(); ++i) {
    const auto row = m.row(i);
    if (std::all_of(row.begin(), row.end(), [](double v) { return v == 0.0; })) continue;
    for (index_t j = columns.begin; j < columns.end; ++j) {
      const double unit = static_cast<double>(random_uniform(seed, i * x.cols() + j)) - 0.5;
      x(i, j) = 2.0 * size * unit;
    }
  }
}

/// x y^T ~ m by singular vectors, each with the root of its value. Beyond the rank of m the columns
/// are small and random. `transposed` is m^T.
inline void start_from_singular_vectors(matrix_view<const double> m,
                                        matrix_view<const double> transposed, std::uint64_t seed,
                                        dense_matrix& x, dense_matrix& y,
                                        const kernels::context& ctx) {
  const index_t r = x.cols();
  const auto svd = linalg::find_truncated_svd(m, r, {.iterations = 2, .seed = seed}, ctx);
  index_t rank = 0;
  while (rank < svd.values.size() && svd.values[rank] > 1e-9 * svd.values[0]) ++rank;
  for (index_t j = 0; j < rank; ++j) {
    const double root = std::sqrt(svd.values[j]);
    for (index_t i = 0; i < x.rows(); ++i) x(i, j) = svd.left(i, j) * root;
    for (index_t i = 0; i < y.rows(); ++i) y(i, j) = svd.right(i, j) * root;
  }
  if (rank == r) return;
  const double small = rank == 0 ? 1.0 : 1e-6 * std::sqrt(svd.values[0]);
  fill_random(m, small, seed + 1, {rank, r}, x);
  fill_random(transposed, small, seed + 2, {rank, r}, y);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
