// blocks.hpp: weights whose local spectrum is known, for the tests of this folder.
#pragma once

#include <cmath>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/outlier/manifold_distortion.hpp"

namespace test {

using lowbit::index_t;
using lowbit::matrix_view;

/// A matrix that owns its floats.
struct floats {
  index_t rows = 0;
  index_t cols = 0;
  std::vector<float> values;

  floats(index_t n, index_t k) : rows(n), cols(k), values(n * k) {}
  [[nodiscard]] matrix_view<const float> view() const noexcept {
    return {values.data(), rows, cols};
  }
  [[nodiscard]] matrix_view<float> view() noexcept { return {values.data(), rows, cols}; }
  float& operator()(index_t i, index_t k) noexcept { return values[i * cols + k]; }
  float operator()(index_t i, index_t k) const noexcept { return values[i * cols + k]; }
};

/// Rows of AR(1) processes of variance 1 and correlation rho, started anew every `block` columns.
inline floats correlated(index_t n, index_t k, float rho, std::uint64_t seed, index_t block = 32) {
  floats w(n, k);
  const float fresh = std::sqrt(1.0F - rho * rho);
  for (index_t i = 0; i < n; ++i) {
    for (index_t c = 0; c < k; ++c) {
      const float g = lowbit::random_normal(seed, i * k + c);
      w(i, c) = c % block == 0 ? g : std::fma(rho, w(i, c - 1), fresh * g);
    }
  }
  return w;
}

/// Column c is normal with the deviation sigma[c % sigma.size()]: the axes are the coordinates.
inline floats axis_aligned(index_t n, index_t k, const std::vector<float>& sigma,
                           std::uint64_t seed) {
  floats w(n, k);
  for (index_t i = 0; i < w.values.size(); ++i) {
    w.values[i] = sigma[i % k % sigma.size()] * lowbit::random_normal(seed, i);
  }
  return w;
}

/// w plus normal noise.
inline floats noisy(const floats& w, float sigma, std::uint64_t seed) {
  floats q = w;
  for (index_t i = 0; i < q.values.size(); ++i) {
    q.values[i] = std::fma(sigma, lowbit::random_normal(seed, i), q.values[i]);
  }
  return q;
}

}  // namespace test
