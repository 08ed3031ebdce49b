// Truncated singular value decompositions and sums of few outer products: against mathematics
// within derived bounds; and the same bits on every tier and for any number of workers.
#include "lowbit/linalg/low_rank.hpp"

#include <cmath>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::context;
using kernels::dense_sign;
using linalg::dense_matrix;

namespace {

dense_matrix random(index_t rows, index_t cols, std::uint64_t seed) {
  dense_matrix m(rows, cols);
  for (index_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<double>(random_normal(seed, i));
  return m;
}

/// left^T right.
dense_matrix product(const dense_matrix& left, const dense_matrix& right) {
  dense_matrix out(left.cols(), right.cols());
  for (index_t k = 0; k < left.rows(); ++k) {
    for (index_t i = 0; i < left.cols(); ++i) {
      for (index_t j = 0; j < right.cols(); ++j) out(i, j) += left(k, i) * right(k, j);
    }
  }
  return out;
}

double norm(const dense_matrix& m) { return std::sqrt(linalg::dot(m.elements(), m.elements())); }

double distance(const dense_matrix& a, const dense_matrix& b) {
  REQUIRE(a.shape() == b.shape());
  double sum = 0.0;
  for (index_t i = 0; i < a.size(); ++i) {
    sum += (a.data()[i] - b.data()[i]) * (a.data()[i] - b.data()[i]);
  }
  return std::sqrt(sum);
}

bool is_finite(const dense_matrix& m) {
  for (const double v : m.elements()) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

/// left diag(values) right^T.
dense_matrix restored(const linalg::truncated_svd& svd) {
  dense_matrix out(svd.left.rows(), svd.right.rows());
  for (index_t k = 0; k < svd.values.size(); ++k) {
    for (index_t i = 0; i < out.rows(); ++i) {
      for (index_t j = 0; j < out.cols(); ++j) {
        out(i, j) += svd.left(i, k) * svd.values[k] * svd.right(j, k);
      }
    }
  }
  return out;
}

/// |m^T m - I|, the largest element.
double defect(const dense_matrix& m) {
  const dense_matrix gram = product(m, m);
  double most = 0.0;
  for (index_t i = 0; i < gram.rows(); ++i) {
    for (index_t j = 0; j < gram.cols(); ++j) {
      most = std::max(most, std::fabs(gram(i, j) - (i == j ? 1.0 : 0.0)));
    }
  }
  return most;
}

}  // namespace

TEST_CASE("a truncated SVD of a matrix of low rank is all of it") {
  for (const shape2 shape : {shape2{40, 60}, shape2{60, 40}, shape2{1, 9}, shape2{9, 1}}) {
    for (const index_t rank : {1U, 3U, 10U}) {
      const dense_matrix m = product(random(rank, shape.rows, 1), random(rank, shape.cols, 2));
      const index_t most = std::min(shape.rows, shape.cols);
      const auto svd = linalg::find_truncated_svd(m.view(), rank, {}, context::best());
      CAPTURE(shape.rows, shape.cols, rank);
      REQUIRE(svd.values.size() == std::min(rank, most));
      // Cholesky QR loses 2^-52 times n k in each round; the rest is exact in exact arithmetic.
      CHECK(distance(restored(svd), m) <= 1e-11 * norm(m));
      CHECK(defect(svd.left) <= 1e-11);
      CHECK(defect(svd.right) <= 1e-9);  // divided by values down to a hundredth of the largest
      for (index_t k = 1; k < svd.values.size(); ++k) CHECK(svd.values[k] <= svd.values[k - 1]);
    }
  }
}

TEST_CASE("a truncated SVD leaves little more than the values that are left out") {
  // Known values: orthonormal vectors of a first SVD, with 2^-k between them.
  constexpr index_t n = 48;
  const auto vectors = linalg::find_truncated_svd(random(n, n, 3).view(), n, {}, context::best());
  linalg::truncated_svd known = vectors;
  for (index_t k = 0; k < n; ++k) known.values[k] = std::ldexp(1.0, -static_cast<int>(k));
  const dense_matrix m = restored(known);
  const auto svd = linalg::find_truncated_svd(m.view(), 6, {}, context::best());
  for (index_t k = 0; k < 6; ++k) {
    // 4 iterations with 8 more vectors: (2^-8)^8 of an error is below rounding.
    CHECK(std::fabs(svd.values[k] - known.values[k]) <= 1e-11);
  }
  const double tail = std::ldexp(std::sqrt(4.0 / 3.0), -6);
  CHECK(distance(restored(svd), m) <= tail * (1.0 + 1e-6));
}

TEST_CASE("with many vectors, and no Ritz step, a truncated SVD spans as much") {
  constexpr index_t n = 230;
  constexpr index_t rank = 170;
  const dense_matrix m = product(random(rank, n, 4), random(rank, n + 5, 5));
  const auto svd = linalg::find_truncated_svd(m.view(), rank, {}, context::best());
  CHECK(defect(svd.left) <= 1e-10);
  CHECK(distance(restored(svd), m) <= 1e-9 * norm(m));
}

TEST_CASE("a truncated SVD of zeros, or beyond the rank, is finite") {
  const dense_matrix zeros(12, 20);
  const auto of_zeros = linalg::find_truncated_svd(zeros.view(), 5, {}, context::best());
  CHECK(of_zeros.values == std::vector<double>(5));
  CHECK(is_finite(of_zeros.left));
  CHECK(is_finite(of_zeros.right));
  dense_matrix constant(12, 20);
  constant.fill(3.0);
  const auto of_constant = linalg::find_truncated_svd(constant.view(), 5, {}, context::best());
  CHECK(is_finite(of_constant.left));
  CHECK(is_finite(of_constant.right));
  CHECK(std::fabs(of_constant.values[0] - 3.0 * std::sqrt(240.0)) <= 1e-10);
  CHECK(distance(restored(of_constant), constant) <= 1e-10);
  CHECK(linalg::find_truncated_svd({}, 5, {}, context::best()).values.empty());
}

TEST_CASE("a tracker finds the best sums of outer products, and follows a matrix") {
  for (const index_t rank : {1U, 2U, 4U}) {
    dense_matrix m = product(random(rank, 30, 6), random(rank, 50, 7));
    if (rank == 1) {
      for (double& v : m.elements()) v = std::fabs(v);
    }
    linalg::low_rank_tracker tracker(30, 50, rank);
    tracker.fit(m, 5, context::best());
    CAPTURE(rank);
    CHECK(distance(product(tracker.row_factors(), tracker.column_factors()), m) <= 1e-12 * norm(m));
    for (index_t k = 0; k < rank; ++k) {
      CHECK(std::fabs(linalg::dot(tracker.row_factors().row(k), tracker.row_factors().row(k)) -
                      1.0) <= 1e-14);
    }
    // Lost in between, found again.
    const dense_matrix zeros(30, 50);
    tracker.fit(zeros, 1, context::best());
    CHECK(norm(tracker.column_factors()) == 0.0);
    tracker.fit(m, 5, context::best());
    CHECK(distance(product(tracker.row_factors(), tracker.column_factors()), m) <= 1e-12 * norm(m));
  }
}

TEST_CASE("factors beyond the rank are zeros") {
  dense_matrix m(2, 7);
  m.fill(1.0);
  linalg::low_rank_tracker tracker(2, 7, 4);
  tracker.fit(m, 3, context::best());
  CHECK(distance(product(tracker.row_factors(), tracker.column_factors()), m) <= 1e-13);
  for (index_t k = 1; k < 4; ++k) {
    // Where the row factor is not zero, the column factor is what rounding leaves.
    CHECK(linalg::dot(tracker.column_factors().row(k), tracker.column_factors().row(k)) <= 1e-26);
  }
}

TEST_CASE("orthogonalize_products keeps the sum, and orders it") {
  dense_matrix left = random(3, 40, 8);
  dense_matrix right = random(3, 25, 9);
  for (index_t i = 0; i < 40; ++i) left(2, i) = 1e3 * left(0, i) + 1e-2 * left(2, i);
  for (index_t j = 0; j < 25; ++j) right(2, j) = -right(0, j);
  const dense_matrix before = product(left, right);
  linalg::orthogonalize_products(left, right, context::best());
  CHECK(distance(product(left, right), before) <= 1e-12 * norm(before));
  double last = linalg::dot(right.row(0), right.row(0));
  for (index_t k = 1; k < 3; ++k) {
    CHECK(std::fabs(linalg::dot(left.row(k), left.row(0))) <= 1e-13);
    CHECK(std::fabs(linalg::dot(right.row(k), right.row(0))) <= 1e-13 * norm(right) * norm(right));
    const double next = linalg::dot(right.row(k), right.row(k));
    CHECK(next <= last);
    last = next;
  }
}

TEST_CASE("truncated SVDs and trackers: the same bits on every tier, for any number of workers") {
  const dense_matrix m = random(70, 90, 10);
  const auto expected = linalg::find_truncated_svd(m.view(), 12, {}, context::best());
  linalg::low_rank_tracker tracker(70, 90, 3);
  tracker.fit(m, 3, context::best());
  const auto check = [&](const context& ctx) {
    const auto svd = linalg::find_truncated_svd(m.view(), 12, {}, ctx);
    CHECK(svd.values == expected.values);
    CHECK(distance(svd.left, expected.left) == 0.0);
    CHECK(distance(svd.right, expected.right) == 0.0);
    linalg::low_rank_tracker other(70, 90, 3);
    other.fit(m, 3, ctx);
    CHECK(distance(other.row_factors(), tracker.row_factors()) == 0.0);
    CHECK(distance(other.column_factors(), tracker.column_factors()) == 0.0);
  };
  test::on_each_executor(context::best(), {1, 3}, check);
  for (const cpu::tier& tier : cpu::tiers) {
    if (context::best().allowed.contains(tier.features)) {
      check(context::best().narrowed_to(tier.name));
    }
  }
}
