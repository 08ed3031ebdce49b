// core/rank_correlation.hpp: whether two measures put things in the same order. Layer L1.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace detail {

/// Ranks from 0 on, equal values sharing the mean of theirs, less the mean of all ranks.
[[nodiscard]] inline std::vector<double> centred_ranks(std::span<const double> values) {
  const index_t n = values.size();
  std::vector<index_t> order(n);
  for (index_t i = 0; i < n; ++i) {
    LOWBIT_CHECK(values[i] == values[i], value, "value ", i, " to be ranked is NaN");
    order[i] = i;
  }
  std::sort(order.begin(), order.end(), [&](index_t i, index_t j) {
    return values[i] != values[j] ? values[i] < values[j] : i < j;
  });
  std::vector<double> ranks(n);
  for (index_t begin = 0, end = 0; begin < n; begin = end) {
    while (end < n && values[order[end]] == values[order[begin]]) ++end;
    // The mean rank of [begin, end) is (begin + end - 1) / 2, that of all (n - 1) / 2.
    const double rank = (static_cast<double>(begin + end) - static_cast<double>(n)) / 2.0;
    for (index_t i = begin; i < end; ++i) ranks[order[i]] = rank;
  }
  return ranks;
}

}  // namespace detail

/// Spearman's rank correlation, -1..1: Pearson's of the ranks, equal values sharing the mean of
/// theirs. NaN if either side has fewer than two different values. Refuses spans of different sizes
/// (shape) and NaN (value, with its index). O(n log n).
[[nodiscard]] inline double rank_correlation(std::span<const double> a, std::span<const double> b) {
  LOWBIT_CHECK(a.size() == b.size(), shape, "ranking ", a.size(), " values beside ", b.size());
  const std::vector<double> x = detail::centred_ranks(a);
  const std::vector<double> y = detail::centred_ranks(b);
  double xx = 0.0;
  double yy = 0.0;
  double xy = 0.0;
  for (index_t i = 0; i < x.size(); ++i) {
    xx = std::fma(x[i], x[i], xx);
    yy = std::fma(y[i], y[i], yy);
    xy = std::fma(x[i], y[i], xy);
  }
  if (xx == 0.0 || yy == 0.0) return std::numeric_limits<double>::quiet_NaN();
  return std::clamp(xy / std::sqrt(xx * yy), -1.0, 1.0);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
