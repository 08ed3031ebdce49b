// formats/sbvr/least_squares.hpp: coefficients for codes that are given. Layer L3.
#pragma once

#include <array>
#include <cmath>

#include "lowbit/formats/sbvr/format.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

/// How to change coefficients c (the last may be the offset) so that the error falls most while the
/// codes stay: (B^T H B) d = B^T H (x - B c), with a row of bits b(u) per value. A trace of ridge
/// keeps directions that no value tells anything about where they are.
class least_squares {
 public:
  using vector = std::array<double, sbvr::max_planes + 1>;

  least_squares(const sbvr::params& p, bool has_offset) noexcept
      : planes_(p.planes), size_(p.planes + (has_offset ? 1U : 0U)), basis_(p.basis) {}

  /// Values of code u: `weight` = sum of h, `residual` = sum of h (x - level).
  void add(unsigned u, double weight, double residual) noexcept {
    vector b;
    for (index_t i = 0; i < size_; ++i) {
      const bool set = i >= planes_ || ((u >> i) & 1U) != 0;
      b[i] = set ? 1.0 : (basis_ == sbvr_basis::sign ? -1.0 : 0.0);
    }
    for (index_t i = 0; i < size_; ++i) {
      rhs_[i] += b[i] * residual;  // exact: b is -1, 0 or 1
      for (index_t j = 0; j <= i; ++j) normal_[i][j] += (b[i] * b[j]) * weight;
    }
  }

  /// The change of each coefficient; all zero where there is nothing to solve.
  [[nodiscard]] vector solve() const noexcept {
    auto a = normal_;
    vector d = rhs_;
    double trace = 0.0;
    for (index_t i = 0; i < size_; ++i) trace += a[i][i];
    if (!(trace > 0.0)) return {};
    const double ridge = trace * 0x1p-36;
    for (index_t i = 0; i < size_; ++i) {  // L D L^T in place
      a[i][i] += ridge;
      for (index_t j = 0; j < i; ++j) {
        for (index_t k = 0; k < j; ++k) a[i][j] = std::fma(-a[i][k], a[j][k] * a[k][k], a[i][j]);
        a[i][j] /= a[j][j];
      }
      for (index_t k = 0; k < i; ++k) a[i][i] = std::fma(-a[i][k], a[i][k] * a[k][k], a[i][i]);
      if (!(a[i][i] > 0.0)) return {};
    }
    for (index_t i = 0; i < size_; ++i) {
      for (index_t k = 0; k < i; ++k) d[i] = std::fma(-a[i][k], d[k], d[i]);
    }
    for (index_t i = size_; i-- > 0;) {
      d[i] /= a[i][i];
      for (index_t k = i + 1; k < size_; ++k) d[i] = std::fma(-a[k][i], d[k], d[i]);
    }
    return d;
  }

 private:
  index_t planes_;
  index_t size_;
  sbvr_basis basis_;
  std::array<vector, sbvr::max_planes + 1> normal_{};  ///< lower triangle
  vector rhs_{};
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
