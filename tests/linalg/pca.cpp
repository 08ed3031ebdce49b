// Eigenvectors and principal axes: against mathematics within derived bounds, and bit by bit
// between tiers.
#include "lowbit/linalg/pca.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/dense/variants.hpp"

using namespace lowbit;
using kernels::context;

namespace {

struct eigen {
  std::vector<double> values;
  std::vector<double> vectors;
  eigen(const std::vector<double>& a, index_t n, const context& ctx = context::best())
      : values(n), vectors(n * n) {
    linalg::symmetric_eigen({a.data(), n, n}, values, {vectors.data(), n, n}, ctx);
  }
};

enum class kind { random, singular, diagonal, constant };

std::vector<double> symmetric(index_t n, kind what) {
  std::vector<double> a(n * n);
  const auto x = [&](index_t i) { return static_cast<double>(random_normal(7 + n, i)); };
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      double v = 2.5;
      if (what == kind::random) v = x(i * n + j);
      if (what == kind::singular) v = x(i) * x(j);
      if (what == kind::diagonal) v = i == j ? x(i) : 0.0;
      a[i * n + j] = a[j * n + i] = v;
    }
  }
  return a;
}

}  // namespace

TEST_CASE("A v = lambda v, and the vectors are orthonormal") {
  for (const kind what : {kind::random, kind::singular, kind::diagonal, kind::constant}) {
    for (const index_t n : {1U, 2U, 3U, 7U, 8U, 9U, 31U, 32U, 33U, 64U}) {
      const auto a = symmetric(n, what);
      const eigen found(a, n);
      double norm = 0.0;
      for (const double v : a) norm += v * v;
      norm = std::sqrt(norm);
      // A sweep turns each row 2 (n - 1) times by 4 roundings; 12 sweeps at most.
      const double bound = 12.0 * 8.0 * static_cast<double>(n) * 0x1p-53;
      for (index_t i = 0; i < n; ++i) {
        CAPTURE(static_cast<int>(what), n, i);
        const double* const v = found.vectors.data() + i * n;
        if (i > 0) REQUIRE(found.values[i] <= found.values[i - 1]);
        for (index_t r = 0; r < n; ++r) {
          double av = 0.0;
          for (index_t k = 0; k < n; ++k) av += a[r * n + k] * v[k];
          REQUIRE(std::fabs(av - found.values[i] * v[r]) <= bound * norm);
        }
        for (index_t j = 0; j <= i; ++j) {
          double dot = 0.0;
          for (index_t k = 0; k < n; ++k) dot += v[k] * found.vectors[j * n + k];
          REQUIRE(std::fabs(dot - (i == j ? 1.0 : 0.0)) <= bound);
        }
      }
    }
  }
}

TEST_CASE("eigenvalues come in decreasing order, equal ones in that of the coordinates") {
  const eigen pair({2, 1, 1, 2}, 2);
  CHECK(std::fabs(pair.values[0] - 3.0) < 1e-15);
  CHECK(std::fabs(pair.values[1] - 1.0) < 1e-15);
  CHECK(eigen({2, 0, 0, 0, 5, 0, 0, 0, 2}, 3).values == std::vector<double>{5, 2, 2});
  CHECK(eigen({2, 0, 0, 0, 5, 0, 0, 0, 2}, 3).vectors ==
        std::vector<double>{0, 1, 0, 1, 0, 0, 0, 0, 1});
  CHECK(eigen(std::vector<double>(9), 3).values == std::vector<double>{0, 0, 0});
  CHECK(eigen({}, 0).values.empty());
  const double trap = std::numeric_limits<double>::quiet_NaN();
  CHECK(eigen({1, trap, 0, 1}, 2).values == std::vector<double>{1, 1});  // the upper triangle
}

TEST_CASE("every tier gives the same bits, and powers of two pass through") {
  for (const index_t n : {5U, 32U}) {
    const auto a = symmetric(n, kind::random);
    const eigen best(a, n);
    auto scaled_a = a;
    for (double& v : scaled_a) v = std::ldexp(v, -300);
    const eigen scaled(scaled_a, n);
    for (index_t i = 0; i < n; ++i) CHECK(scaled.values[i] == std::ldexp(best.values[i], -300));
    CHECK(scaled.vectors == best.vectors);
    for (const auto& v : kernels::dense_variants) {
      if (!v.is_supported(context::best().allowed)) continue;
      CAPTURE(v.name, n);
      const eigen found(a, n, {.allowed = v.needs});
      CHECK(found.values == best.values);
      CHECK(found.vectors == best.vectors);
    }
  }
}

TEST_CASE("eigenvectors refuse what is no finite symmetric matrix") {
  CHECK_THROWS_AS(eigen(std::vector<double>(4, std::numeric_limits<double>::infinity()), 2),
                  value_error);
  std::vector<double> a(6);
  CHECK_THROWS_AS(linalg::symmetric_eigen({a.data(), 2, 3}, {a.data(), 2}, {a.data(), 2, 3}, {}),
                  shape_error);
  CHECK_THROWS_AS(linalg::symmetric_eigen({a.data(), 2, 2}, {a.data(), 1}, {a.data(), 2, 2}, {}),
                  shape_error);
}

TEST_CASE("principal axes of points with known ones") {
  // Along (3, 4, 0) / 5, and, uncorrelated, along (0, 0, 1).
  const float z[] = {0.5F, -0.5F, -0.5F, 0.5F, 0.0F, 0.0F, 0.5F, -0.5F, -0.5F, 0.5F};
  std::vector<float> points;
  for (index_t i = 0; i < 10; ++i) {
    const float x = static_cast<float>(i) - 3.0F;
    points.insert(points.end(), {3 * x, 4 * x, z[i]});
  }
  const matrix_view<const float> view(points.data(), 10, 3);
  std::vector<double> mean(3);
  linalg::mean_point(view, mean);
  CHECK(mean == std::vector<double>{4.5, 6.0, 0.0});
  std::vector<double> centred(30);
  linalg::centre_points(view, mean, {centred.data(), 3, 10});
  std::vector<double> variances(3);
  std::vector<double> axes(9);
  linalg::principal_axes(matrix_view<const double>(centred.data(), 3, 10), variances,
                         {axes.data(), 3, 3}, context::best());
  // Sums of squares of 5 (i - 4.5): 25 * 82.5; along z 8 / 4; along the third axis none.
  const double tiny = 1e-12 * variances[0];
  CHECK(std::fabs(variances[0] - 25.0 * 82.5 / 9.0) <= tiny);
  CHECK(std::fabs(variances[1] - 2.0 / 9.0) <= tiny);
  CHECK((variances[2] >= 0.0 && variances[2] <= tiny));
  CHECK(std::fabs(std::fabs(axes[0]) - 0.6) < 1e-12);
  CHECK(std::fabs(std::fabs(axes[1]) - 0.8) < 1e-12);
  CHECK(std::fabs(std::fabs(axes[5]) - 1.0) < 1e-12);
}

TEST_CASE("points that are all the same are their mean, exactly") {
  std::vector<float> points(7 * 3);
  for (index_t i = 0; i < points.size(); ++i) points[i] = 0.1F * static_cast<float>(i % 3 + 1);
  std::vector<double> mean(3);
  linalg::mean_point({points.data(), 7, 3}, mean);
  for (index_t k = 0; k < 3; ++k) CHECK(mean[k] == static_cast<double>(points[k]));
}

TEST_CASE("how many axes hold a share: at least, with slack for rounding") {
  const std::vector<double> equal(20, 0.1);  // 19 of them: 1.9000000000000001 or less of 2
  CHECK(linalg::leading_axes(equal, 0.95) == 19);
  CHECK(linalg::leading_axes(equal, 1.0) == 20);
  CHECK(linalg::leading_axes(equal, 0.951) == 20);
  CHECK(linalg::leading_axes(equal, 0.0) == 0);
  CHECK(linalg::leading_axes(std::vector<double>{95.0 * (1.0 - 1e-13), 5.0, 0.0}, 0.95) == 1);
  CHECK(linalg::leading_axes(std::vector<double>{95.0 * (1.0 - 1e-10), 5.0, 0.0}, 0.95) == 2);
  CHECK(linalg::leading_axes(std::vector<double>{3.0, 0.0}, 1.0) == 1);
  CHECK(linalg::leading_axes(std::vector<double>(4), 0.95) == 0);
  CHECK(linalg::leading_axes(std::vector<double>{}, 0.95) == 0);
}
