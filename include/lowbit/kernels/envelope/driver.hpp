// TEMPORARY stand-in (the lead): replaced by the family of branch signk.
#pragma once
#include <cmath>
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/layout/scale_matrix.hpp"
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
enum class envelope_total : bool { overwrite, add };
inline void expand(matrix_view<const float> x, const layout::scale_matrix& env,
                   matrix_view<float> out, const context&) {
  const index_t l = env.shape().rows;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t j = 0; j < l; ++j)
      for (index_t i = 0; i < x.cols(); ++i) out(t * l + j, i) = env.get(j, i) * x(t, i);
}
inline void combine(matrix_view<const float> z, const layout::scale_matrix& env,
                    matrix_view<float> y, envelope_total total, const context&) {
  const index_t l = env.shape().rows;
  for (index_t t = 0; t < y.rows(); ++t)
    for (index_t i = 0; i < y.cols(); ++i) {
      float s = env.get(0, i) * z(t * l, i);
      for (index_t j = 1; j < l; ++j) s = std::fma(env.get(j, i), z(t * l + j, i), s);
      y(t, i) = total == envelope_total::add ? y(t, i) + s : s;
    }
}
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
