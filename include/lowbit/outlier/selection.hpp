// outlier/selection.hpp: which weights to store apart, under a budget. Layer L3.
//
// A score per weight says what it is worth to store it apart; the largest scores of the whole
// matrix are taken. Scores: magnitude; saliency, which knows of the inputs; or any other that a
// caller supplies (manifold distortion, say).
//
// Invariants: of equal scores the one with the lower row, then column is taken; a score of 0 never
// is. No result depends on the CPU, the compiler or threads. Scores are finite and >= 0, else
// refused (value).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/layout/sparse_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier {

/// How many weights may be stored apart: a share of them, or as many as take so many bits per
/// weight of the matrix, positions and all tables counted. Exactly one of the two is > 0.
struct budget {
  double share = 0.0;
  double bits_per_weight = 0.0;
};

/// out[n][k] = |w[n][k]|. Refuses another shape (shape).
inline void score_magnitude(matrix_view<const float> w, matrix_view<float> out) {
  LOWBIT_CHECK(w.shape() == out.shape(), shape, "scores of [", out.rows(), ", ", out.cols(),
               "] for weights of [", w.rows(), ", ", w.cols(), "]");
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t k = 0; k < w.cols(); ++k) out(r, k) = std::fabs(w(r, k));
  }
}

/// The diagonal of H^-1 = U^T U, for the U [K, K] of linalg::inverse_upper_factor(): sums of fused
/// multiply-adds down the columns.
[[nodiscard]] inline std::vector<double> inverse_diagonal(matrix_view<const double> u) {
  LOWBIT_CHECK(u.rows() == u.cols(), shape, "the factor is [", u.rows(), ", ", u.cols(), "]");
  std::vector<double> diagonal(u.cols(), 0.0);
  for (index_t i = 0; i < u.rows(); ++i) {
    for (index_t j = i; j < u.cols(); ++j) diagonal[j] = std::fma(u(i, j), u(i, j), diagonal[j]);
  }
  return diagonal;
}

/// out[n][k] = |w[n][k]| / sqrt([H^-1]_kk): the root of what dropping the weight costs, if all
/// other weights of its row may make up for it (Optimal Brain Surgeon, Hassibi and Stork 1993, but
/// for a factor). Refuses another shape (shape).
inline void score_saliency(matrix_view<const float> w, std::span<const double> inverse_diagonal,
                           matrix_view<float> out) {
  LOWBIT_CHECK(w.shape() == out.shape() && inverse_diagonal.size() == w.cols(), shape,
               "scores of [", out.rows(), ", ", out.cols(), "] and a diagonal of ",
               inverse_diagonal.size(), " for weights of [", w.rows(), ", ", w.cols(), "]");
  std::vector<double> root(w.cols());
  for (index_t k = 0; k < w.cols(); ++k) root[k] = std::sqrt(inverse_diagonal[k]);
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t k = 0; k < w.cols(); ++k) {
      out(r, k) = static_cast<float>(static_cast<double>(std::fabs(w(r, k))) / root[k]);
    }
  }
}

/// The places (row * K + column, increasing) of the `count` largest scores, or of all that are not
/// 0. Time: three passes over the scores.
[[nodiscard]] inline std::vector<index_t> largest(matrix_view<const float> scores, index_t count) {
  // Bits of floats >= 0 order as the floats do. First the upper 16 of the smallest score that is
  // taken, then the lower 16, each by counting.
  const auto bits_of = [&](index_t r, index_t k) {
    return std::bit_cast<std::uint32_t>(scores(r, k) + 0.0F);  // -0 becomes 0
  };
  const auto for_all = [&](auto&& f) {
    for (index_t r = 0; r < scores.rows(); ++r) {
      for (index_t k = 0; k < scores.cols(); ++k) f(bits_of(r, k), r, k);
    }
  };
  constexpr std::uint32_t half = 0xffffU;
  std::vector<index_t> upper(half + 1, 0);
  for_all([&](std::uint32_t bits, index_t r, index_t k) {
    LOWBIT_CHECK(bits < 0x7f800000U, value, "the score of row ", r, ", column ", k, " is ",
                 scores(r, k));
    if (bits != 0) ++upper[bits >> 16U];
  });
  // The bucket in which entry number `rest` from the top lies; `rest` becomes its number in there.
  const auto find = [&](const std::vector<index_t>& buckets, index_t& rest) {
    for (std::uint32_t b = half; b > 0; --b) {
      if (buckets[b] >= rest) return b;
      rest -= buckets[b];
    }
    return std::uint32_t{0};
  };
  index_t total = 0;
  for (const index_t n : upper) total += n;
  count = std::min(count, total);
  std::vector<index_t> places;
  if (count == 0) return places;
  index_t rest = count;
  const std::uint32_t high = find(upper, rest);
  std::vector<index_t> lower(half + 1, 0);
  for_all([&](std::uint32_t bits, index_t, index_t) {
    if (bits != 0 && bits >> 16U == high) ++lower[bits & half];
  });
  const std::uint32_t least = high << 16U | find(lower, rest);  // of these the first `rest`
  places.reserve(count);
  for_all([&](std::uint32_t bits, index_t r, index_t k) {
    if (bits < least || bits == 0 || (bits == least && rest == 0)) return;
    if (bits == least) --rest;
    places.push_back(r * scores.cols() + k);
  });
  return places;
}

/// The places of the largest scores that a budget allows: the share rounded down, or all that fits
/// in the bits to the last bit. Refuses (value) a budget that is not one of the two.
[[nodiscard]] inline std::vector<index_t> choose(matrix_view<const float> scores,
                                                 const budget& allowed) {
  LOWBIT_CHECK((allowed.share > 0.0) != (allowed.bits_per_weight > 0.0) && allowed.share <= 1.0 &&
                   allowed.share >= 0.0 && allowed.bits_per_weight >= 0.0 &&
                   std::isfinite(allowed.bits_per_weight),
               value, "a budget for outliers is a share of the weights (", allowed.share,
               ") or bits per weight (", allowed.bits_per_weight, "), one of them > 0");
  const shape2 shape = scores.shape();
  const auto weights = static_cast<double>(shape.size());
  if (allowed.share > 0.0) return largest(scores, static_cast<index_t>(allowed.share * weights));

  using layout::sparse_matrix;
  const double bits = std::min(allowed.bits_per_weight * weights, 0x1p62);
  const std::uint64_t most_bits = static_cast<std::uint64_t>(bits);
  const std::uint64_t tables = sparse_matrix::storage_bits(shape, {});
  if (most_bits <= tables) return {};
  constexpr std::uint64_t least_cost = 24;  // a value, and a byte that says where
  const std::uint64_t most =
      std::min<std::uint64_t>((most_bits - tables) / least_cost, sparse_matrix::most / 2);
  std::vector<index_t> ranked = largest(scores, most);
  const auto score = [&](index_t place) { return scores(place / shape.cols, place % shape.cols); };
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](index_t a, index_t b) { return score(a) > score(b); });
  // One more outlier never takes fewer bits: its value has 16, and it saves one byte at most, a
  // skip over the gap that it divides.
  std::vector<index_t> places;
  const auto take = [&](index_t count) {
    places.assign(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(count));
    std::sort(places.begin(), places.end());
  };
  const auto fits = [&](index_t count) {
    take(count);
    return sparse_matrix::storage_bits(shape, sparse_matrix::extents_of(shape, places)) <=
           most_bits;
  };
  index_t low = 0;  // fits
  index_t high = ranked.size();
  while (low < high) {
    const index_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  take(low);
  return places;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier
