// Polar factors: orthogonal, and with a symmetric positive semidefinite H, for every condition; and
// the same bits on every tier and for any number of workers.
#include "lowbit/linalg/polar.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::context;

namespace {

using square = std::vector<double>;

square normal(index_t n, std::uint64_t seed) {
  square m(n * n);
  for (index_t i = 0; i < m.size(); ++i) m[i] = static_cast<double>(random_normal(seed, i));
  return m;
}

/// a^T b.
square product(const square& a, const square& b, index_t n) {
  square c(n * n);
  for (index_t k = 0; k < n; ++k) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) c[i * n + j] += a[k * n + i] * b[k * n + j];
    }
  }
  return c;
}

/// A matrix with singular values from 1 down to 1 / condition: two random orthogonal ones with a
/// diagonal in between.
square with_condition(index_t n, double condition, std::uint64_t seed) {
  square left = normal(n, seed);
  square right = normal(n, seed + 1);
  REQUIRE(linalg::polar_factor({left.data(), n, n}, context::best()));
  REQUIRE(linalg::polar_factor({right.data(), n, n}, context::best()));
  for (index_t i = 0; i < n; ++i) {
    const double value =
        n == 1 ? 1.0 : std::pow(condition, -static_cast<double>(i) / static_cast<double>(n - 1));
    for (index_t j = 0; j < n; ++j) left[i * n + j] *= value;
  }
  return product(left, right, n);
}

double largest(const square& m) {
  double size = 0.0;
  for (const double x : m) size = std::max(size, std::fabs(x));
  return size;
}

}  // namespace

TEST_CASE("polar_factor: U is orthogonal and U^T M symmetric positive semidefinite") {
  for (const index_t n : {1U, 2U, 3U, 17U, 60U, 130U}) {
    for (const double condition : {1.0, 10.0, 1e4, 1e8, 1e12, 1e15}) {
      if (lowbit_test::is_sanitized && n > 60) continue;
      const square m = with_condition(n, condition, n);
      square u = m;
      REQUIRE(linalg::polar_factor({u.data(), n, n}, context::best()));
      square defect = product(u, u, n);
      for (index_t i = 0; i < n; ++i) defect[i * n + i] -= 1.0;
      // Sums of n products here and of as many there; elements of rows whose norm is 1.
      const double eps = static_cast<double>(n) * 0x1p-52;
      INFO("n " << n << " condition " << condition << " defect " << largest(defect));
      CHECK(largest(defect) <= 2.0 * eps + 4.0 * 0x1p-52);
      const square h = product(u, m, n);
      double skew = 0.0;
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < i; ++j)
          skew = std::max(skew, std::fabs(h[i * n + j] - h[j * n + i]));
      }
      // Backward stable (Nakatsukasa and Higham, 2012) in the six steps it takes at most, |M| = 1.
      INFO("skew part " << skew);
      CHECK(skew <= 8.0 * eps);
      if (condition > 1e12) continue;
      // Positive definite: with what rounding may have taken added, it has a Cholesky factor.
      square shifted = h;
      for (index_t i = 0; i < n; ++i) shifted[i * n + i] += 8.0 * eps * static_cast<double>(n);
      CHECK(linalg::cholesky({shifted.data(), n, n}, context::best()));
    }
  }
}

TEST_CASE("polar_factor keeps orthogonal matrices, of whatever scale, and their signs") {
  for (const double scale : {1.0, -1.0, 0x1p-300, 0x1p200}) {
    constexpr index_t n = 20;
    const square q = with_condition(n, 1.0, 5);
    square m = q;
    for (double& x : m) x *= scale;
    REQUIRE(linalg::polar_factor({m.data(), n, n}, context::best()));
    for (index_t i = 0; i < m.size(); ++i) {
      CHECK(std::fabs(m[i] - (scale < 0.0 ? -q[i] : q[i])) <= 1e-14);
    }
  }
}

TEST_CASE("polar_factor refuses singular matrices, and those with NaN") {
  constexpr index_t n = 12;
  square zeros(n * n);
  CHECK_FALSE(linalg::polar_factor({zeros.data(), n, n}, context::best()));
  square row_of_zeros = normal(n, 6);
  std::fill_n(row_of_zeros.begin(), n, 0.0);
  CHECK_FALSE(linalg::polar_factor({row_of_zeros.data(), n, n}, context::best()));
  square nan = normal(n, 7);
  nan[30] = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(linalg::polar_factor({nan.data(), n, n}, context::best()));
  square infinite = normal(n, 7);
  infinite[30] = std::numeric_limits<double>::infinity();
  CHECK_FALSE(linalg::polar_factor({infinite.data(), n, n}, context::best()));
  CHECK(linalg::polar_factor({}, context::best()));
  CHECK(lowbit_test::message_of<shape_error>([&] {
          static_cast<void>(linalg::polar_factor({zeros.data(), 3, 4}, context::best()));
        }) == "the matrix to factor is [3, 4], not square");
}

TEST_CASE("reorthonormalize is the nearest orthogonal matrix, or nothing") {
  constexpr index_t n = 33;
  square m = with_condition(n, 1.0, 8);
  for (index_t i = 0; i < m.size(); ++i) m[i] += 1e-3 * static_cast<double>(random_normal(9, i));
  square expected = m;
  REQUIRE(linalg::polar_factor({expected.data(), n, n}, context::best()));
  REQUIRE(linalg::reorthonormalize({m.data(), n, n}, context::best()));
  for (index_t i = 0; i < m.size(); ++i) CHECK(std::fabs(m[i] - expected[i]) <= 1e-14);
  square far = with_condition(n, 10.0, 10);
  const square before = far;
  CHECK_FALSE(linalg::reorthonormalize({far.data(), n, n}, context::best()));
  CHECK(far == before);
}

TEST_CASE("polar_factor gives the same bits on every tier and for any number of workers") {
  constexpr index_t n = 139;  // more than a block of a Cholesky factor
  const square m = with_condition(n, 1e10, 11);
  square expected = m;
  REQUIRE(linalg::polar_factor({expected.data(), n, n}, context::best()));
  const auto check = [&](const context& ctx) {
    square u = m;
    REQUIRE(linalg::polar_factor({u.data(), n, n}, ctx));
    CHECK(u == expected);
  };
  test::on_each_executor(context::best(), {1, 3}, check);
  for (const cpu::tier& tier : cpu::tiers) {
    if (context::best().allowed.contains(tier.features)) {
      check(context::best().narrowed_to(tier.name));
    }
  }
}
