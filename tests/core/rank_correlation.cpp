#include "lowbit/core/rank_correlation.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"

using namespace lowbit;

namespace {
double of(const std::vector<double>& a, const std::vector<double>& b) {
  return rank_correlation(a, b);
}
}  // namespace

TEST_CASE("only the order counts, and values that are equal share their rank") {
  CHECK(of({1, 2, 3, 4}, {10, 11, 1e9, 2e9}) == 1.0);
  CHECK(of({1, 2, 3, 4}, {8, 4, 2, -1}) == -1.0);
  CHECK(of({5, 5, 7, 9, 9}, {1, 1, 2, 3, 3}) == 1.0);
  // Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5.
  CHECK(std::fabs(of({1, 2, 2, 3}, {1, 3, 2, 4}) - 4.5 / std::sqrt(4.5 * 5.0)) < 1e-15);
  // 1 - 6 sum d^2 / (n (n^2 - 1)) without ties: d = 1, -1, 1, -1, 0.
  CHECK(std::fabs(of({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}) - (1.0 - 6.0 * 4.0 / 120.0)) < 1e-15);
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(of({-inf, 0, inf}, {1, 2, 3}) == 1.0);
}

TEST_CASE("what has no order has no correlation") {
  CHECK(std::isnan(of({}, {})));
  CHECK(std::isnan(of({1}, {2})));
  CHECK(std::isnan(of({1, 1, 1}, {1, 2, 3})));
  CHECK(std::isnan(of({1, 2, 3}, {0.0, -0.0, 0.0})));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(of({1, 2}, {1}), shape_error);
  CHECK(lowbit_test::message_of<value_error>([&] {
          of({1, 2}, {1, nan});
        }) == "value 1 to be ranked is NaN");
}
