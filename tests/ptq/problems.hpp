// problems.hpp: layers to quantize, and slow answers to compare with: everything in double, in the
// plainest order.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/ptq/coding.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/matrices.hpp"

namespace test {

using lowbit::index_t;
using lowbit::matrix_view;
using lowbit::row_range;
using lowbit::shape2;
using lowbit::testing::test_matrix;

/// A matrix of doubles that owns its values.
struct double_matrix {
  shape2 shape;
  std::vector<double> values;

  explicit double_matrix(shape2 s) : shape(s), values(s.size(), 0.0) {}
  matrix_view<double> view() { return {values.data(), shape.rows, shape.cols}; }
  matrix_view<const double> view() const { return {values.data(), shape.rows, shape.cols}; }
  double& operator()(index_t r, index_t c) { return values[r * shape.cols + c]; }
  double operator()(index_t r, index_t c) const { return values[r * shape.cols + c]; }
};

inline double_matrix identity(index_t n) {
  double_matrix m({n, n});
  for (index_t i = 0; i < n; ++i) m(i, i) = 1.0;
  return m;
}

/// Inputs whose channels share a part of rank `rank` and have sizes that differ by an order of
/// magnitude.
inline test_matrix correlated_inputs(shape2 shape, index_t rank, std::uint64_t seed) {
  return lowbit::testing::make_matrix("inputs", shape, [&](index_t t, index_t k) {
    double x = 0.4 * static_cast<double>(lowbit::random_normal(seed, t * shape.cols + k));
    for (index_t i = 0; i < rank; ++i) {
      x += static_cast<double>(lowbit::random_normal(seed + 1, t * rank + i)) *
           static_cast<double>(lowbit::random_normal(seed + 2, k * rank + i)) /
           std::sqrt(static_cast<double>(rank));
    }
    return static_cast<float>(
        x * std::exp(0.7 * static_cast<double>(lowbit::random_normal(seed + 3, k))));
  });
}

inline lowbit::observers::second_moments moments_of(matrix_view<const float> inputs) {
  lowbit::observers::moment_accumulator sums(inputs.cols());
  sums.add(inputs, lowbit::kernels::context::best());
  return sums.finish();
}

/// X^T X / T, plainly.
inline double_matrix gram_of(const test_matrix& x) {
  const index_t k = x.shape.cols;
  double_matrix h({k, k});
  for (index_t t = 0; t < x.shape.rows; ++t) {
    for (index_t i = 0; i < k; ++i) {
      for (index_t j = 0; j < k; ++j) {
        h(i, j) += static_cast<double>(x.view()(t, i)) * static_cast<double>(x.view()(t, j));
      }
    }
  }
  for (double& v : h.values) v /= static_cast<double>(x.shape.rows);
  return h;
}

inline double_matrix copy_of(matrix_view<const double> m) {
  double_matrix out(m.shape());
  for (index_t r = 0; r < m.rows(); ++r) {
    for (index_t c = 0; c < m.cols(); ++c) out(r, c) = m(r, c);
  }
  return out;
}

template <class T>
test_matrix dequantized(const T& t) {
  test_matrix out{"dequantized", t.shape(), std::vector<float>(t.shape().size())};
  t.dequantize({0, t.shape().rows}, {out.values.data(), t.shape().rows, t.shape().cols});
  return out;
}

struct objective {
  double value;
  /// What rounding can make of it at most, per unit roundoff of double: the sum of the magnitudes
  /// of all that is added, times the longest chain of additions.
  double magnitude;
};

/// tr E H E^T for E = W - Ŵ.
inline objective objective_of(matrix_view<const float> w, matrix_view<const float> w_hat,
                              matrix_view<const double> h) {
  objective sum{0.0, 0.0};
  std::vector<double> e(w.cols());
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t k = 0; k < w.cols(); ++k) {
      e[k] = static_cast<double>(w(r, k)) - static_cast<double>(w_hat(r, k));
    }
    for (index_t i = 0; i < w.cols(); ++i) {
      double product = 0.0;
      double magnitude = 0.0;
      for (index_t j = 0; j < w.cols(); ++j) {
        product += h(i, j) * e[j];
        magnitude += std::fabs(h(i, j) * e[j]);
      }
      sum.value += e[i] * product;
      sum.magnitude += std::fabs(e[i]) * magnitude;
    }
  }
  return sum;
}

/// Whether two tensors have the same buffers; the first difference if not.
template <class T>
std::string difference(const T& a, const T& b) {
  return lowbit::testing::first_difference(lowbit::testing::copy_buffers(a),
                                           lowbit::testing::copy_buffers(b));
}

/// The code of the level nearest to x, of two the lower level. NaN is no level.
inline std::uint8_t nearest_code(std::span<const float> by_code, double x) {
  std::uint8_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (index_t code = 0; code < by_code.size(); ++code) {
    const auto value = static_cast<double>(by_code[code]);
    if (value != value) continue;
    const double distance = std::fabs(value - x);
    if (distance < best_distance ||
        (distance == best_distance && value < static_cast<double>(by_code[best]))) {
      best = static_cast<std::uint8_t>(code);
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace test
