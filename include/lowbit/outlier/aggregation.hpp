// outlier/aggregation.hpp: from the distortion of blocks to that of layers, transformer blocks and
// mixtures of experts. Layer L3.
//
// Weights and factors here (alpha, the experts' threshold) are conventions that others proposed,
// not results: nothing validates them. All functions are pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include "lowbit/outlier/manifold_distortion.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {
namespace outlier {

/// How the blocks of a layer become one number.
enum class layer_aggregate : std::uint8_t {
  weighted_mean,  ///< weighted by |e|^2; 0 if there is no error
  largest,
  percentile_95  ///< the least value that 95 % of the blocks do not exceed
};

}  // namespace outlier

template <>
inline constexpr std::string_view enum_names<outlier::layer_aggregate>[] = {
    "weighted_mean", "largest", "percentile_95"};

namespace outlier {

/// One measure of the blocks of a layer as one number; blocks where it is NaN are left out, 0 if
/// none is left. `measure` is a member such as &block_distortion::md.
[[nodiscard]] inline double aggregate(const layer_distortion& layer,
                                      layer_aggregate how = layer_aggregate::weighted_mean,
                                      double block_distortion::*measure = &block_distortion::md) {
  double sum = 0.0;
  double weights = 0.0;
  std::vector<double> values;
  for (const block_distortion& b : layer.blocks) {
    const double value = b.*measure;
    if (std::isnan(value)) continue;
    if (how == layer_aggregate::weighted_mean) {
      const double weight = b.error * b.error;
      weights = std::fma(b.error, b.error, weights);
      sum = std::fma(weight, value, sum);
    } else {
      values.push_back(value);
    }
  }
  if (how == layer_aggregate::weighted_mean) return weights > 0.0 ? sum / weights : 0.0;
  if (values.empty()) return 0.0;
  const index_t rank =
      how == layer_aggregate::largest ? values.size() : div_up(values.size() * 19, 20);
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

/// For each row of W[N, K] the RMS over K of the normal components of its blocks: what two layers
/// that write to the same hidden coordinates (o_proj and down_proj of a transformer, whose rows
/// these are) are compared by.
[[nodiscard]] inline std::vector<double> normal_profile(const weight_manifold& manifold) {
  std::vector<double> profile(manifold.shape().rows);
  for (index_t i = 0; i < profile.size(); ++i) {
    double sum = 0.0;
    for (index_t c = 0; c < manifold.stripes().size(); ++c) {
      const double n = manifold.normal_distance(i, c);
      sum = std::fma(n, n, sum);
    }
    if (sum > 0.0) profile[i] = std::sqrt(sum / static_cast<double>(manifold.shape().cols));
  }
  return profile;
}

/// eta = max(0, cos(a, b)) of two normal profiles; 0 if one of them is all zero. Refuses profiles
/// of different sizes (shape): between them no angle exists.
[[nodiscard]] inline double alignment(std::span<const double> a, std::span<const double> b) {
  LOWBIT_CHECK(a.size() == b.size(), shape, "profiles of ", a.size(), " and ", b.size(),
               " hidden coordinates have no angle between them");
  double ab = 0.0;
  for (index_t i = 0; i < a.size(); ++i) ab = std::fma(a[i], b[i], ab);
  const double aa = detail::squared_norm(a);
  const double bb = detail::squared_norm(b);
  if (!(aa > 0.0) || !(bb > 0.0)) return 0.0;
  return std::clamp(ab / std::sqrt(aa) / std::sqrt(bb), 0.0, 1.0);
}

/// alpha MD_att + (1 - alpha) eta MD_out, of a transformer block whose attention output and FFN
/// output have these distortions. Refuses alpha or eta outside 0..1 (value).
[[nodiscard]] inline double transformer_distortion(double attention, double feed_forward,
                                                   double eta, double alpha = 0.65) {
  LOWBIT_CHECK(alpha >= 0.0 && alpha <= 1.0, value, "alpha = ", alpha, " is outside 0..1");
  LOWBIT_CHECK(eta >= 0.0 && eta <= 1.0, value, "eta = ", eta, " is outside 0..1");
  const double weight = (1.0 - alpha) * eta;
  return std::fma(alpha, attention, weight * feed_forward);
}

/// The share of the routed tokens that each expert got: counts / (tokens * experts per token),
/// which sum to 1. Refuses counts that do not add up to that (value).
[[nodiscard]] inline std::vector<double> routed_shares(std::span<const std::uint64_t> counts,
                                                       std::uint64_t tokens,
                                                       std::uint64_t experts_per_token) {
  const std::uint64_t routed = checked_mul(tokens, experts_per_token, "routed tokens");
  std::uint64_t sum = 0;
  for (const std::uint64_t count : counts) sum = checked_add(sum, count, "routed tokens");
  LOWBIT_CHECK(sum == routed && routed != 0, value, "experts got ", sum, " tokens, but ", tokens,
               " tokens went to ", experts_per_token, " experts each");
  std::vector<double> shares(counts.size());
  for (index_t k = 0; k < shares.size(); ++k) {
    shares[k] = static_cast<double>(counts[k]) / static_cast<double>(routed);
  }
  return shares;
}

/// sum_k f_k MD_k over experts. Refuses different sizes (shape), shares that are negative or do not
/// sum to 1 within 1e-6 (value).
[[nodiscard]] inline double mixture_distortion(std::span<const double> shares,
                                               std::span<const double> distortions) {
  LOWBIT_CHECK(shares.size() == distortions.size(), shape, "there are ", shares.size(),
               " shares for ", distortions.size(), " experts");
  double total = 0.0;
  double sum = 0.0;
  for (index_t k = 0; k < shares.size(); ++k) {
    LOWBIT_CHECK(shares[k] >= 0.0, value, "expert ", k, " has the share ", shares[k]);
    total += shares[k];
    sum = std::fma(shares[k], distortions[k], sum);
  }
  LOWBIT_CHECK(std::fabs(total - 1.0) <= 1e-6, value, "the shares of experts sum to ", total);
  return sum;
}

/// tau_priv of an expert: busy ones, that get more than `busy` of the tokens, have `factor` times
/// the threshold.
[[nodiscard]] constexpr double expert_threshold(double tau_priv, double share, double busy = 0.15,
                                                double factor = 0.875) noexcept {
  return share > busy ? tau_priv * factor : tau_priv;
}

}  // namespace outlier
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
