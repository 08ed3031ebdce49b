// outlier/selection.hpp against sorting, and budgets to the bit.
#include "lowbit/outlier/selection.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "catch.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;
using layout::sparse_matrix;

namespace {

/// The `count` largest scores above 0 by sorting.
std::vector<index_t> by_sorting(matrix_view<const float> scores, index_t count) {
  std::vector<index_t> all;
  const auto score = [&](index_t i) { return scores(i / scores.cols(), i % scores.cols()); };
  for (index_t i = 0; i < scores.shape().size(); ++i) {
    if (score(i) > 0.0F) all.push_back(i);
  }
  std::stable_sort(all.begin(), all.end(),
                   [&](index_t a, index_t b) { return score(a) > score(b); });
  all.resize(std::min(count, all.size()));
  std::sort(all.begin(), all.end());
  return all;
}

std::uint64_t bits_of(shape2 shape, const std::vector<index_t>& places) {
  return sparse_matrix::storage_bits(shape, sparse_matrix::extents_of(shape, places));
}

}  // namespace

TEST_CASE("largest() is what sorting takes, ties and zeros included") {
  const shape2 shape{37, 53};
  for (const int levels : {2, 5, 1000, 0}) {  // few levels: many ties; 0: all kinds of floats
    const auto m = testing::make_matrix("scores", shape, [&](index_t r, index_t k) {
      const index_t i = r * shape.cols + k;
      if (levels == 0) {
        return std::bit_cast<float>(static_cast<std::uint32_t>(random_bits(3, i) % 0x7f800000U));
      }
      const auto level = static_cast<int>(random_bits(2, i) % static_cast<unsigned>(levels));
      return level == 0 ? -0.0F : static_cast<float>(level) * 0.1F;
    });
    for (const index_t count : {0U, 1U, 2U, 19U, 500U, 1000U, 1960U, 1961U, 5000U}) {
      CAPTURE(levels, count);
      CHECK(outlier::largest(m.view(), count) == by_sorting(m.view(), count));
    }
  }
}

TEST_CASE("largest() reads through a stride and refuses what is no score") {
  std::vector<float> apart(3 * 8, std::numeric_limits<float>::quiet_NaN());
  for (index_t r = 0; r < 3; ++r) {
    for (index_t k = 0; k < 4; ++k) apart[r * 8 + k] = static_cast<float>(r + k);
  }
  const matrix_view<const float> scores(apart.data(), 3, 4, 8);
  CHECK(outlier::largest(scores, 3) == std::vector<index_t>{7, 10, 11});
  for (const float bad :
       {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    apart[9] = bad;
    CHECK_THROWS_AS(outlier::largest(scores, 3), value_error);
  }
}

TEST_CASE("a share is rounded down, and bits are kept to the bit") {
  const shape2 shape{90, 201};
  const auto m = testing::normal_matrix(shape, 4);
  std::vector<float> scores(shape.size());
  const matrix_view<float> view(scores.data(), shape.rows, shape.cols);
  outlier::score_magnitude(m.view(), view);
  const matrix_view<const float> read(view);
  CHECK(outlier::choose(read, {.share = 0.005}).size() == 90);  // of 90.45
  CHECK(outlier::choose(read, {.share = 1.0}).size() == shape.size());
  const double weights = static_cast<double>(shape.size());
  for (const double bits_per_weight : {0.021, 0.0222, 0.05, 0.1, 0.101, 1.0, 10.0, 100.0}) {
    CAPTURE(bits_per_weight);
    const auto places = outlier::choose(read, {.bits_per_weight = bits_per_weight});
    const double most = bits_per_weight * weights;
    // Not more than allowed, and one more would be: it is the next of the ranking.
    if (!places.empty()) CHECK(static_cast<double>(bits_of(shape, places)) <= most);
    CHECK(places == by_sorting(read, places.size()));
    if (places.size() < shape.size()) {
      CHECK(static_cast<double>(bits_of(shape, by_sorting(read, places.size() + 1))) > most);
    }
  }
  using outlier::budget;
  for (const budget& wrong :
       {budget{}, budget{.share = 0.1, .bits_per_weight = 0.1}, budget{.share = -0.1},
        budget{.share = 1.5}, budget{.share = 0.1, .bits_per_weight = -1.0},
        budget{.bits_per_weight = std::numeric_limits<double>::infinity()}}) {
    CHECK_THROWS_AS(outlier::choose(read, wrong), value_error);
  }
}

TEST_CASE("saliency is |w| over the root of the diagonal of the inverse Hessian") {
  // U = [2 1; 0 3]: H^-1 = U^T U = [4 2; 2 10].
  const std::vector<double> u{2, 1, 0, 3};
  const auto diagonal = outlier::inverse_diagonal({u.data(), 2, 2});
  CHECK(diagonal == std::vector<double>{4.0, 10.0});
  const std::vector<float> w{-3.0F, 1.0F, 0.0F, -5.0F};
  std::vector<float> out(4);
  outlier::score_saliency({w.data(), 2, 2}, diagonal, {out.data(), 2, 2});
  const auto root = std::sqrt(10.0);
  CHECK(out == std::vector<float>{1.5F, static_cast<float>(1.0 / root), 0.0F,
                                  static_cast<float>(5.0 / root)});
  CHECK_THROWS_AS(outlier::score_saliency({w.data(), 1, 4}, diagonal, {out.data(), 1, 4}),
                  shape_error);
  CHECK_THROWS_AS(outlier::score_magnitude({w.data(), 1, 4}, {out.data(), 2, 2}), shape_error);
}
