// linalg/eigen.hpp: the fence around Eigen: the only file that includes it. Layer L2.
//
// No Eigen type leaves this file in a signature: its alignment depends on the consumer's flags.
//
// Eigen's sums have an order that depends on the instruction set of the build, so floats from here
// agree across builds within rounding only; within one build they are deterministic. Never let what
// they feed reach a stored byte.
#pragma once

#include <Eigen/Core>

#include "lowbit/core/matrix_view.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

namespace detail {

template <class T>
using row_major =
    Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
using map_of = Eigen::Map<std::conditional_t<std::is_const_v<T>, const row_major<T>, row_major<T>>,
                          Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
[[nodiscard]] map_of<T> map(matrix_view<T> m) noexcept {
  return {m.data(), static_cast<Eigen::Index>(m.rows()), static_cast<Eigen::Index>(m.cols()),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(m.row_stride()))};
}

}  // namespace detail

/// out = a * b^T, with a [M, K], b [N, K], out [M, N]; out overlaps neither. Single-threaded.
inline void multiply_transposed(matrix_view<const float> a, matrix_view<const float> b,
                                matrix_view<float> out) {
  LOWBIT_CHECK(a.cols() == b.cols() && out.rows() == a.rows() && out.cols() == b.rows(), shape,
               "cannot multiply [", a.rows(), ", ", a.cols(), "] by [", b.rows(), ", ", b.cols(),
               "] transposed into [", out.rows(), ", ", out.cols(), "]");
  detail::map(out).noalias() = detail::map(a) * detail::map(b).transpose();
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
