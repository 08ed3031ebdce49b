// Hadamard matrices: which sizes have one and how it is made, that each is one, and that the fast
// transform is its product.
#include "lowbit/linalg/hadamard.hpp"

#include <bit>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using linalg::hadamard_construction;
using linalg::hadamard_direction;
using linalg::hadamard_factors;
using linalg::hadamard_matrix;
using linalg::hadamard_order;

namespace {

/// Rows of H as bits, in words.
class bit_rows {
 public:
  explicit bit_rows(const hadamard_matrix& h)
      : words_(div_up(h.size(), 64)), bits_(h.size() * words_) {
    for (index_t i = 0; i < h.size(); ++i) {
      for (index_t j = 0; j < h.size(); ++j) {
        if (h.is_negative(i, j)) bits_[i * words_ + j / 64] |= std::uint64_t{1} << (j % 64);
      }
    }
  }
  /// In how many columns two rows differ.
  [[nodiscard]] index_t distance(index_t a, index_t b) const {
    index_t count = 0;
    for (index_t w = 0; w < words_; ++w) {
      count += static_cast<index_t>(std::popcount(bits_[a * words_ + w] ^ bits_[b * words_ + w]));
    }
    return count;
  }

 private:
  index_t words_;
  std::vector<std::uint64_t> bits_;
};

/// H H^T = n I: different rows agree in half of all columns.
bool is_orthogonal(const hadamard_matrix& h) {
  const bit_rows rows(h);
  for (index_t i = 0; i < h.size(); ++i) {
    for (index_t j = 0; j < i; ++j) {
      if (2 * rows.distance(i, j) != h.size()) return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("every dense factor is a Hadamard matrix") {
  index_t found = 0;
  for (index_t m = 4; m <= linalg::max_dense_hadamard_order; m += 4) {
    if (hadamard_order(m).dense != m) continue;
    const hadamard_matrix h(m);
    CAPTURE(m, describe(h.factors()));
    CHECK(is_orthogonal(h));
    ++found;
  }
  CHECK(found == 88);
}

TEST_CASE("every order up to 4096 that is offered is a Hadamard matrix") {
  // The factors are Hadamard matrices (above, and Sylvester's), so their Kronecker product is one.
  // That what is applied is this product: all entries up to 256 in the next test but one; above,
  // H^T (H x) = n x and H (H^T x) = n x, exactly, for one x of random integers below 2^8. A wrong
  // matrix passes with a probability of less than 2^-7.
  index_t offered = 0;
  for (index_t n = 1; n <= 4096; ++n) {
    const hadamard_factors f = hadamard_order(n);
    if (!f.exist()) continue;
    ++offered;
    if (lowbit_test::is_sanitized && offered % 8 != 0) continue;
    CAPTURE(n, describe(f));
    REQUIRE(f.dense * f.power == n);
    REQUIRE(std::has_single_bit(f.power));
    REQUIRE((f.dense == 1 || hadamard_order(f.dense).dense == f.dense));
    const hadamard_matrix h(n);
    if (n <= 256) REQUIRE(is_orthogonal(h));
    std::vector<double> x(n);
    std::vector<double> expected(n);
    for (index_t i = 0; i < n; ++i) {
      x[i] = static_cast<double>(random_bits(n, i) % 255) - 127.0;  // sums below 2^7 n^2 = 2^31
      expected[i] = static_cast<double>(n) * x[i];
    }
    for (const auto first : {hadamard_direction::forward, hadamard_direction::transposed}) {
      std::vector<double> y = x;
      h.apply(first, std::span(y));
      h.apply(first == hadamard_direction::forward ? hadamard_direction::transposed
                                                   : hadamard_direction::forward,
              std::span(y));
      CHECK(y == expected);
    }
  }
  CHECK(offered == 369);
}

TEST_CASE("the widths of models have the constructions that methods name") {
  struct expected {
    index_t size;
    index_t dense;
    hadamard_construction construction;
    index_t prime;
  };
  using enum hadamard_construction;
  for (const expected& e :
       {expected{576, 36, paley_2, 17}, {2304, 36, paley_2, 17},    {9216, 36, paley_2, 17},
        {18432, 36, paley_2, 17},       {896, 28, paley_2, 13},     {3584, 28, paley_2, 13},
        {7168, 28, paley_2, 13},        {14336, 28, paley_2, 13},   {28672, 28, paley_2, 13},
        {960, 60, paley_1, 59},         {1536, 12, paley_1, 11},    {3072, 12, paley_1, 11},
        {6144, 12, paley_1, 11},        {12288, 12, paley_1, 11},   {24576, 12, paley_1, 11},
        {2560, 20, paley_1, 19},        {5120, 20, paley_1, 19},    {10240, 20, paley_1, 19},
        {2880, 180, paley_1, 179},      {2816, 44, paley_1, 43},    {5632, 44, paley_1, 43},
        {4864, 76, paley_2, 37},        {9728, 76, paley_2, 37},    {6912, 108, paley_1, 107},
        {13824, 108, paley_1, 107},     {27648, 108, paley_1, 107}, {8960, 140, paley_1, 139},
        {17408, 68, paley_1, 67},       {18944, 148, paley_2, 73},  {21504, 84, paley_1, 83},
        {25600, 200, paley_1, 199},     {29568, 924, paley_2, 461}, {53248, 104, paley_1, 103},
        {512, 1, sylvester, 0},         {2048, 1, sylvester, 0},    {1, 1, sylvester, 0}}) {
    CAPTURE(e.size);
    CHECK(hadamard_order(e.size) ==
          hadamard_factors{e.construction, e.dense, e.size / e.dense, e.prime});
  }
  for (const index_t none : {0U, 3U, 6U, 92U, 11008U, 22016U, 13696U, 51864U}) {
    CAPTURE(none);
    CHECK_FALSE(hadamard_order(none).exist());
  }
  CHECK(describe(hadamard_order(6912)) == "108 * 64 (Paley I, q = 107)");
  CHECK(describe(hadamard_order(896)) == "28 * 32 (Paley II, q = 13)");
  CHECK(describe(hadamard_order(4096)) == "4096 (Sylvester)");
  CHECK(describe(hadamard_order(13696)) == "none");
  CHECK_THROWS_AS(hadamard_matrix(13696), value_error);
}

TEST_CASE("the fast transform is the product with H or H^T, exactly on small integers") {
  for (const index_t n : {1U, 2U, 4U, 12U, 24U, 36U, 40U, 64U, 96U, 480U, 560U}) {
    const hadamard_matrix h(n);
    for (const auto direction : {hadamard_direction::forward, hadamard_direction::transposed}) {
      std::vector<float> x(n);
      for (index_t i = 0; i < n; ++i) x[i] = static_cast<float>(i * 37 % 255) - 127.0F;
      const std::vector<float> before = x;
      std::vector<double> wide(x.begin(), x.end());
      h.apply(direction, std::span(x));
      h.apply(direction, std::span(wide));
      for (index_t i = 0; i < n; ++i) {
        float sum = 0.0F;  // below 2^17: exact
        for (index_t k = 0; k < n; ++k) {
          const bool minus =
              direction == hadamard_direction::forward ? h.is_negative(i, k) : h.is_negative(k, i);
          sum += minus ? -before[k] : before[k];
        }
        CAPTURE(n, i, static_cast<int>(direction));
        CHECK(x[i] == sum);
        CHECK(wide[i] == static_cast<double>(sum));
      }
    }
  }
}

TEST_CASE("Paley's first matrix is not symmetric, the second is") {
  const hadamard_matrix first(12);
  const hadamard_matrix second(36);
  const auto is_symmetric = [](const hadamard_matrix& h) {
    for (index_t i = 0; i < h.size(); ++i) {
      for (index_t j = 0; j < i; ++j) {
        if (h.is_negative(i, j) != h.is_negative(j, i)) return false;
      }
    }
    return true;
  };
  CHECK_FALSE(is_symmetric(first));
  CHECK(is_symmetric(second));
}

TEST_CASE("the scale is 1 / sqrt(n)") {
  for (index_t n = 1; n <= 5000; ++n) {
    const double exact = 1.0 / std::sqrt(static_cast<double>(n));
    CAPTURE(n);
    CHECK(linalg::hadamard_scale<float>(n) == static_cast<float>(exact));
    // The division and the root round once each.
    CHECK(std::fabs(linalg::hadamard_scale<double>(n) - exact) <= 0x1p-51 * exact);
  }
}
