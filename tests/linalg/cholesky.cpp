// Cholesky factors: every element against its definition, bit by bit, on every tier and for several
// workers; and against mathematics, within bounds that are derived where they stand.
#include "lowbit/linalg/cholesky.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/dense.hpp"

using namespace lowbit;
using kernels::context;
using testing::detail::compare_bits;

namespace {

constexpr double eps = 0x1p-53;  // unit roundoff
const double trap = std::numeric_limits<double>::quiet_NaN();

/// A square or rectangular matrix that owns its elements.
struct matrix {
  index_t rows;
  index_t cols;
  std::vector<double> values;

  matrix(index_t r, index_t c, double fill = 0.0) : rows(r), cols(c), values(r * c, fill) {}
  [[nodiscard]] matrix_view<double> view() noexcept { return {values.data(), rows, cols}; }
  double& operator()(index_t i, index_t j) noexcept { return values[i * cols + j]; }
};

/// X^T X + I for random X[n + 3, n]: positive definite.
matrix spd(index_t n, std::uint64_t seed) {
  matrix a(n, n);
  std::vector<float> x((n + 3) * n);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(seed, i);
  for (index_t i = 0; i < n; ++i) a(i, i) = 1.0;
  kernels::add_gram(a.view(), {x.data(), n + 3, n}, {}, context::best());
  kernels::mirror_lower(a.view());
  return a;
}

/// Well-conditioned: off-diagonal elements below 1, a diagonal around 4.
matrix lower(index_t n, std::uint64_t seed) {
  matrix l(n, n);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      l(i, j) =
          static_cast<double>(random_normal(seed, i * n + j)) / std::sqrt(static_cast<double>(n));
    }
    l(i, i) = 4.0 + static_cast<double>(random_uniform(seed + 1, i));
  }
  return l;
}

/// The definitions -------------------------------------------------------------------------------
matrix plain_cholesky(matrix a) {
  for (index_t i = 0; i < a.rows; ++i) {
    for (index_t j = 0; j < a.rows; ++j) {
      double c = a(i, j);
      for (index_t k = 0; k < std::min(i, j); ++k) c = std::fma(-a(i, k), a(j, k), c);
      a(i, j) = i == j ? std::sqrt(c) : i < j ? 0.0 : c / a(j, j);
    }
  }
  return a;
}
matrix plain_inverse(matrix l) {
  matrix x(l.rows, l.rows);
  for (index_t i = 0; i < l.rows; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      double c = i == j ? 1.0 : 0.0;
      for (index_t k = j; k < i; ++k) c = std::fma(-l(i, k), x(k, j), c);
      x(i, j) = c / l(i, i);
    }
  }
  return x;
}
matrix reversed(matrix a) {
  std::reverse(a.values.begin(), a.values.end());
  return a;
}

/// Every tier that may run here.
std::vector<context> contexts() {
  std::vector<context> all;
  const context best = context::best();
  for (const cpu::tier& tier : cpu::tiers) {
    if (best.allowed.contains(tier.features)) all.push_back(best.narrowed_to(tier.name));
  }
  return all;
}

// Around vectors of 8, tasks of 64 right-hand sides, blocks of 128 columns.
constexpr index_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129, 200, 257, 300};

}  // namespace

TEST_CASE("cholesky: every element is its definition, on every tier") {
  for (const index_t n : sizes) {
    matrix a = spd(n, n);
    const matrix expected = plain_cholesky(a);
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = i + 1; j < n; ++j) a(i, j) = trap;  // never read
    }
    for (const context& ctx : contexts()) {
      INFO("n " << n << " variant " << kernels::select_dense(ctx.allowed).name);
      matrix l = a;
      REQUIRE(linalg::cholesky(l.view(), ctx));
      CHECK(compare_bits(l.values, expected.values) == "");
    }
  }
}

TEST_CASE("invert_lower: every element is its definition, on every tier") {
  for (const index_t n : sizes) {
    matrix l = lower(n, n);
    const matrix expected = plain_inverse(l);
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = i + 1; j < n; ++j) l(i, j) = trap;  // never read
    }
    for (const context& ctx : contexts()) {
      INFO("n " << n << " variant " << kernels::select_dense(ctx.allowed).name);
      matrix x = l;
      linalg::invert_lower(x.view(), ctx);
      CHECK(compare_bits(x.values, expected.values) == "");
    }
  }
  // Several blocks of columns of X.
  matrix l = lower(700, 3);
  const matrix expected = plain_inverse(l);
  linalg::invert_lower(l.view(), context::best());
  CHECK(compare_bits(l.values, expected.values) == "");
}

TEST_CASE("inverse_upper_factor: U = J L^-1 J, on every tier, from the lower triangle") {
  for (const index_t n : sizes) {
    matrix h = spd(n, n + 1);
    const matrix expected = reversed(plain_inverse(plain_cholesky(reversed(h))));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = i + 1; j < n; ++j) h(i, j) = trap;
    }
    for (const context& ctx : contexts()) {
      INFO("n " << n << " variant " << kernels::select_dense(ctx.allowed).name);
      matrix u(n, n, trap);
      REQUIRE(linalg::inverse_upper_factor(h.view(), u.view(), ctx));
      CHECK(compare_bits(u.values, expected.values) == "");
    }
  }
}

TEST_CASE("cholesky: L L^T is A within rounding") {
  for (const index_t n : {5U, 64U, 300U}) {
    matrix a = spd(n, 17 + n);
    matrix l = a;
    REQUIRE(linalg::cholesky(l.view(), context::best()));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        double sum = 0;
        double magnitude = 0;
        for (index_t k = 0; k <= j; ++k) {
          sum = std::fma(l(i, k), l(j, k), sum);
          magnitude = std::fma(std::fabs(l(i, k)), std::fabs(l(j, k)), magnitude);
        }
        // Each of the j + 1 steps of the factor (Higham, Accuracy and Stability, theorem 10.3: n +
        // 1 roundings), and each of those of `sum`, errs by at most eps of the magnitudes.
        const double bound = 2.01 * static_cast<double>(j + 2) * eps * magnitude;
        REQUIRE(std::fabs(sum - a(i, j)) <= bound);
      }
    }
  }
}

TEST_CASE("inverse_upper_factor: H = R R^T for R = U^-1, that is U H U^T = I") {
  for (const index_t n : {1U, 6U, 65U, 200U}) {
    matrix h = spd(n, 23 + n);
    matrix u(n, n);
    REQUIRE(linalg::inverse_upper_factor(h.view(), u.view(), context::best()));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < i; ++j) REQUIRE(testing::detail::same_bits(u(i, j), 0.0));
      REQUIRE(u(i, i) > 0.0);
    }
    // Rows of U are exact rows of (R + E)^-1 with |E| <= n eps |R| for each row (Higham, theorem
    // 8.5, n roundings of substitution), and R R^T = H + F with |F| <= (n + 1) eps |R||R^T|. So
    // |U H U^T - I| <= (3 n + 2) eps |U||R||R^T||U^T| to first order, and the products here add 2 n
    // eps |U||H||U^T| at most. |H| <= |R||R^T|; norms by Frobenius, which only enlarges.
    matrix r = reversed(h);
    REQUIRE(linalg::cholesky(r.view(), context::best()));
    const auto norm = [](const matrix& m) {
      double sum = 0;
      for (const double x : m.values) sum = std::fma(x, x, sum);
      return std::sqrt(sum);
    };
    const double product_norm = norm(u) * norm(r);
    const double bound = 1.01 * static_cast<double>(5 * n + 2) * eps * product_norm * product_norm;
    matrix uh(n, n);
    matrix uhu(n, n);
    kernels::add_product(uh.view(), kernels::dense_sign::add, u.view(), h.view(), context::best());
    kernels::add_product_transposed(uhu.view(), kernels::dense_sign::add, uh.view(), u.view(),
                                    context::best());
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        REQUIRE(std::fabs(uhu(i, j) - (i == j ? 1.0 : 0.0)) <= bound);
      }
    }
    CHECK(bound < 1e-3);  // or the test would say nothing
  }
}

TEST_CASE("solve_cholesky: X L L^T = B within rounding, the same bits on every tier") {
  for (const index_t n : {0U, 1U, 5U, 8U, 127U, 128U, 130U, 290U}) {
    for (const index_t m : {0U, 1U, 7U, 64U, 70U}) {
      matrix l = lower(n, n + 5);
      matrix b(m, n);
      for (index_t i = 0; i < b.values.size(); ++i) b.values[i] = random_normal(n, i);
      std::vector<double> first;
      for (const context& ctx : contexts()) {
        matrix x = b;
        linalg::solve_cholesky(l.view(), x.view(), ctx);
        if (first.empty()) first = x.values;
        CHECK(compare_bits(x.values, first) == "");
      }
      // Backward error of two substitutions and of two products that check them: 4 n eps
      // |X||L||L^T| to first order (Higham, theorem 8.5).
      for (index_t r = 0; r < m; ++r) {
        std::vector<double> xl(n);
        std::vector<double> xl_magnitude(n);
        for (index_t j = 0; j < n; ++j) {
          for (index_t k = j; k < n; ++k) {
            xl[j] = std::fma(first[r * n + k], l(k, j), xl[j]);
            xl_magnitude[j] =
                std::fma(std::fabs(first[r * n + k]), std::fabs(l(k, j)), xl_magnitude[j]);
          }
        }
        for (index_t j = 0; j < n; ++j) {
          double sum = 0;
          double magnitude = 0;
          for (index_t k = 0; k <= j; ++k) {
            sum = std::fma(xl[k], l(j, k), sum);
            magnitude = std::fma(xl_magnitude[k], std::fabs(l(j, k)), magnitude);
          }
          REQUIRE(std::fabs(sum - b(r, j)) <=
                  1.01 * 4.0 * static_cast<double>(n + 1) * eps * magnitude);
        }
      }
    }
  }
}

TEST_CASE("cholesky: strides, and what lies around a matrix") {
  constexpr index_t n = 150;
  constexpr index_t stride = n + 7;
  matrix a = spd(n, 9);
  std::vector<double> all(n * stride, 4.5);
  const matrix_view<double> view(all.data(), n, n, stride);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) view(i, j) = a(i, j);
  }
  const context ctx = context::best();
  const matrix l = plain_cholesky(a);
  const matrix x = plain_inverse(l);
  const auto check = [&](const matrix& expected) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < stride; ++j) {
        REQUIRE(all[i * stride + j] == (j < n ? expected.values[i * n + j] : 4.5));
      }
    }
  };
  REQUIRE(linalg::cholesky(view, ctx));
  check(l);
  linalg::invert_lower(view, ctx);
  check(x);
}

TEST_CASE("cholesky: who runs a task does not matter") {
  constexpr index_t n = 520;
  matrix h = spd(n, 31);
  matrix b(90, n);
  for (index_t i = 0; i < b.values.size(); ++i) b.values[i] = random_normal(8, i);
  const auto all_of = [&](const context& ctx) {
    matrix u(n, n);
    REQUIRE(linalg::inverse_upper_factor(h.view(), u.view(), ctx));
    matrix l = h;
    REQUIRE(linalg::cholesky(l.view(), ctx));
    matrix x = b;
    linalg::solve_cholesky(l.view(), x.view(), ctx);
    std::vector<double> all = u.values;
    all.insert(all.end(), x.values.begin(), x.values.end());
    return all;
  };
  const auto expected = all_of(context::best());
  kernels::workspace scratch;
  test::on_each_executor(context::best(), {1U, 3U}, [&](context ctx) {
    for (kernels::workspace* const w : {static_cast<kernels::workspace*>(nullptr), &scratch}) {
      ctx.scratch = w;
      CHECK(compare_bits(all_of(ctx), expected) == "");
    }
  });
}

TEST_CASE("cholesky: what is not positive definite is refused") {
  const context ctx = context::best();
  for (const index_t n : {1U, 8U, 130U, 260U}) {
    for (const index_t at : {index_t{0}, n / 2, n - 1}) {
      for (const double bad : {0.0, -1.0, trap, std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity()}) {
        INFO("n " << n << " at " << at << " diagonal " << bad);
        matrix a = spd(n, 40 + n);
        a(at, at) = bad;
        matrix u(n, n);
        CHECK_FALSE(linalg::inverse_upper_factor(a.view(), u.view(), ctx));
        if (n <= 16) {
          matrix small = a;
          std::vector<double> b(n, 1.0);
          CHECK_FALSE(linalg::solve_spd_small(small.values, b));
        }
        CHECK_FALSE(linalg::cholesky(a.view(), ctx));
      }
    }
    matrix ones(n, n, 1.0);  // of rank one
    CHECK(linalg::cholesky(ones.view(), ctx) == (n == 1));
  }
  matrix indefinite(2, 2, 2.0);
  indefinite(0, 0) = indefinite(1, 1) = 1.0;
  CHECK_FALSE(linalg::cholesky(indefinite.view(), ctx));
  matrix bad_below = spd(20, 1);
  bad_below(15, 3) = trap;
  CHECK_FALSE(linalg::cholesky(bad_below.view(), ctx));
}

TEST_CASE("solve_spd_small: A x = b within rounding, for every size") {
  for (index_t n = 0; n <= 16; ++n) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      matrix a = spd(n, seed);
      matrix l = a;
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = i + 1; j < n; ++j) l(i, j) = trap;  // never read
      }
      std::vector<double> b(n);
      for (index_t i = 0; i < n; ++i) b[i] = random_normal(seed, 1000 + i);
      std::vector<double> x = b;
      REQUIRE(linalg::solve_spd_small(l.values, x));
      for (index_t i = 0; i < n; ++i) {
        double sum = 0;
        double magnitude = 0;
        for (index_t j = 0; j < n; ++j) {
          sum = std::fma(a(i, j), x[j], sum);
          // |L||L^T||x| with |L||L^T|(i, j) <= sqrt(a_ii a_jj), by Cauchy and Schwarz.
          magnitude += std::sqrt(a(i, i) * a(j, j)) * std::fabs(x[j]);
        }
        // Higham, theorem 10.4: (3 n + 1) eps |L||L^T||x|; n eps more for the sum here.
        REQUIRE(std::fabs(sum - b[i]) <= 1.01 * static_cast<double>(4 * n + 2) * eps * magnitude);
      }
    }
  }
}

TEST_CASE("cholesky: shapes that do not fit are refused") {
  const context ctx = context::best();
  matrix a(6, 6, 1.0);
  const matrix_view<double> wide(a.values.data(), 3, 4);
  const matrix_view<double> small(a.values.data(), 3, 3);
  CHECK_THROWS_AS(linalg::cholesky(wide, ctx), shape_error);
  CHECK_THROWS_AS(linalg::invert_lower(wide, ctx), shape_error);
  CHECK_THROWS_AS(linalg::inverse_upper_factor(wide, wide, ctx), shape_error);
  CHECK_THROWS_AS(linalg::inverse_upper_factor(a.view(), small, ctx), shape_error);
  CHECK_THROWS_AS(linalg::solve_cholesky(small, wide, ctx), shape_error);
  CHECK_THROWS_AS(linalg::solve_cholesky(wide, wide, ctx), shape_error);
  std::vector<double> b(2);
  CHECK_THROWS_AS(linalg::solve_spd_small(a.values, b), shape_error);
}
