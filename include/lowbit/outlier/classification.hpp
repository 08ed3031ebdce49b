// outlier/classification.hpp: classes of outliers from measurements that the caller makes, and the
// losses that candidates are compared by. Layer L3.
//
// Nothing here looks at weights. What a block is worth to a model (functional) or gives away about
// its training data (sensitive) cannot be read off its weights: the caller measures what happens
// when the block is quantized. For "functional" the saliency of selection.hpp is a sound proxy; for
// "sensitive" there is no cheap honest one. All functions are pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier {

namespace detail {

inline void check_share(double value, const char* what) {
  LOWBIT_CHECK(value >= 0.0 && value <= 1.0, value, what, " = ", value, " is outside 0..1");
}
/// min(1, value / full), 0 below 0. Refuses NaN, Inf and a scale that is not above 0.
[[nodiscard]] inline double saturated(double value, double full, const char* what) {
  LOWBIT_CHECK(std::isfinite(value), value, what, " is not finite");
  LOWBIT_CHECK(full > 0.0, value, what, " is divided by ", full);
  return std::clamp(value / full, 0.0, 1.0);
}

}  // namespace detail

/// What each measurement is divided by; a score is full from there on.
struct score_scales {
  double perplexity = 0.3;
  double accuracy = 0.04;
  double entropy = 8.0;  ///< bits
  double attack = 0.1;
};

/// S_func, 0..1, of a block whose quantization raised perplexity and lowered accuracy by so much.
/// An improvement counts as no loss. Refuses what is not finite (value).
[[nodiscard]] inline double functional_score(double perplexity_rise, double accuracy_loss,
                                             const score_scales& scales = {}) {
  return detail::saturated(perplexity_rise, scales.perplexity, "the rise of perplexity") *
         detail::saturated(accuracy_loss, scales.accuracy, "the loss of accuracy");
}

/// S_priv, 0..1, of a block with an entropy of so many bits (as the caller defines it) whose
/// removal changed the AUC of a membership-inference attack by so much. Refuses what is not finite
/// (value).
[[nodiscard]] inline double sensitive_score(double entropy_bits, double attack_change,
                                            const score_scales& scales = {}) {
  return detail::saturated(entropy_bits, scales.entropy, "the entropy") *
         detail::saturated(attack_change, scales.attack, "the change of the attack's AUC");
}

enum class outlier_class : std::uint8_t { normal, functional, sensitive, overlapping };

/// From which scores on a block is functional, sensitive, or both, and how the two are weighed.
struct class_rules {
  double functional = 0.7;
  double sensitive = 0.7;
  double lambda = 0.5;  ///< weight of S_priv against S_func
};

/// The class of a block. omega weighs the sensitive side against the functional one: 0 for a
/// functional block, 1 for a sensitive one, between for an overlapping one; 0 for a normal one.
struct block_class {
  outlier_class kind = outlier_class::normal;
  double omega = 0.0;

  friend bool operator==(const block_class&, const block_class&) = default;
};

/// Refuses scores and lambda outside 0..1 (value).
[[nodiscard]] inline block_class classify(double s_func, double s_priv,
                                          const class_rules& rules = {}) {
  detail::check_share(s_func, "S_func");
  detail::check_share(s_priv, "S_priv");
  detail::check_share(rules.lambda, "lambda");
  const bool functional = s_func >= rules.functional;
  const bool sensitive = s_priv >= rules.sensitive;
  if (functional && sensitive) {
    const double priv = rules.lambda * s_priv;
    const double func = (1.0 - rules.lambda) * s_func;
    const double both = std::fma(rules.lambda, s_priv, func);
    return {outlier_class::overlapping, both < 1e-12 ? 0.5 : std::min(priv / both, 1.0)};
  }
  if (functional) return {outlier_class::functional, 0.0};
  if (sensitive) return {outlier_class::sensitive, 1.0};
  return {};
}

/// What the distortion of classified blocks should be: MD <= functional, MD >= sensitive. Plausible
/// at 2 to 4 bits: 0.3..0.7 and 0.4..0.8.
struct distortion_targets {
  double functional = 0.5;  ///< tau_f
  double sensitive = 0.6;   ///< tau_p
};

/// mean max(0, MD - tau)^2; 0 without blocks.
[[nodiscard]] inline double functional_loss(std::span<const double> md, double tau) noexcept {
  double sum = 0.0;
  for (const double v : md) {
    const double over = std::max(0.0, v - tau);
    sum = std::fma(over, over, sum);
  }
  return md.empty() ? 0.0 : sum / static_cast<double>(md.size());
}

/// mean max(0, tau - MD)^2; 0 without blocks.
[[nodiscard]] inline double sensitive_loss(std::span<const double> md, double tau) noexcept {
  double sum = 0.0;
  for (const double v : md) {
    const double under = std::max(0.0, tau - v);
    sum = std::fma(under, under, sum);
  }
  return md.empty() ? 0.0 : sum / static_cast<double>(md.size());
}

/// L_geo: the sum over classes of the mean over their blocks of (1 - omega) max(0, MD - tau_f)^2 +
/// omega max(0, tau_p - MD)^2; normal blocks cost nothing. Refuses different sizes (shape) and a
/// distortion that is NaN (value, with its index).
[[nodiscard]] inline double geometric_loss(std::span<const double> md,
                                           std::span<const block_class> classes,
                                           const distortion_targets& targets = {}) {
  LOWBIT_CHECK(md.size() == classes.size(), shape, "there are ", md.size(), " distortions for ",
               classes.size(), " classes");
  double sums[4] = {};
  double counts[4] = {};
  for (index_t i = 0; i < md.size(); ++i) {
    LOWBIT_CHECK(!std::isnan(md[i]), value, "the distortion of block ", i, " is NaN");
    const auto kind = static_cast<index_t>(classes[i].kind);
    const double func = functional_loss(md.subspan(i, 1), targets.functional);
    const double priv = sensitive_loss(md.subspan(i, 1), targets.sensitive);
    sums[kind] = std::fma(1.0 - classes[i].omega, func, sums[kind]);
    sums[kind] = std::fma(classes[i].omega, priv, sums[kind]);
    counts[kind] += 1.0;
  }
  double loss = 0.0;
  for (const auto kind :
       {outlier_class::functional, outlier_class::sensitive, outlier_class::overlapping}) {
    const auto i = static_cast<index_t>(kind);
    if (counts[i] > 0.0) loss += sums[i] / counts[i];
  }
  return loss;
}

/// L_priv = 2 |AUC - 1/2|: 0 where a membership-inference attack does no better than guessing. (1 -
/// AUC, which is found elsewhere, is smallest where the attack always succeeds.) Refuses an AUC
/// outside 0..1 (value).
[[nodiscard]] inline double attack_loss(double auc) {
  detail::check_share(auc, "the attack's AUC");
  return 2.0 * std::fabs(auc - 0.5);
}

/// lambda_A L_acc + lambda_P L_priv + lambda_G L_geo. L_acc is the caller's; KL(p_fp || p_q) on
/// calibration tokens is better than cross entropy with labels. For choosing among candidates;
/// there is no gradient.
struct objective_weights {
  double accuracy = 1.0;
  double attack = 1.0;
  double geometry = 1.0;
};
[[nodiscard]] inline double joint_objective(double accuracy, double attack, double geometric,
                                            const objective_weights& weights = {}) noexcept {
  const double geometry = weights.geometry * geometric;
  return std::fma(weights.accuracy, accuracy, std::fma(weights.attack, attack, geometry));
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier
