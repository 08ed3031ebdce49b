// linalg/hadamard.hpp: the fast Walsh-Hadamard transform. Layer L2.
//
// The only place that computes one. H of size b = 2^m has H[i, j] = (-1)^popcount(i & j) ("natural"
// or Sylvester order), is symmetric, and H H = b I.
//
// Invariant: additions and subtractions only, in an order that depends on the size alone, so that
// no compiler can contract them: the same bits everywhere, exact while sums of integers are.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <numbers>
#include <span>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// x = H x in place, without scaling (Fino and Algazi, 1976): stage by stage, the distance of the
/// two terms of a sum doubling from 1 on. The size of x is a power of two.
template <std::floating_point Real>
void walsh_hadamard(std::span<Real> x) noexcept {
  for (index_t half = 1; half < x.size(); half *= 2) {
    for (index_t begin = 0; begin < x.size(); begin += 2 * half) {
      Real* const low = x.data() + begin;
      Real* const high = low + half;
      for (index_t i = 0; i < half; ++i) {
        const Real a = low[i];
        const Real b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

/// The Real next to 1 / sqrt(size), which makes H orthonormal; size is a power of two.
template <std::floating_point Real>
[[nodiscard]] Real hadamard_scale(index_t size) noexcept {
  const int log2 = std::countr_zero(size);
  return std::ldexp(log2 % 2 == 0 ? Real{1} : std::numbers::sqrt2_v<Real>, -((log2 + 1) / 2));
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
