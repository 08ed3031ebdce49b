// outlier/budget.hpp: what to do with a budget, by manifold distortion: which weights to keep
// apart, how many bits a block gets, how much noise a sensitive block needs. Layer L3.
//
// All of it chooses among candidates that the caller quantized for trial; nothing here quantizes.
// That noise or distortion protects anything is not claimed (README.md): targets are the caller's.
//
// Invariant: results, which decide stored bytes, are the same on every CPU, tier, compiler and
// number of threads; ties go to the first block and the first candidate.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <queue>
#include <span>
#include <tuple>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/outlier/classification.hpp"
#include "lowbit/outlier/manifold_distortion.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier {

/// What the blocks [N, stripes] of a layer are wanted to be like. No classes: all are normal.
struct outlier_policy {
  std::span<const block_class> classes = {};
  distortion_targets targets = {};
};

namespace detail {

/// P[d, d] = N^T N of normal axes N[d - t, d].
inline void fill_projector(matrix_view<const double> axes, matrix_view<double> p) noexcept {
  for (index_t i = 0; i < p.rows(); ++i) {
    for (index_t j = 0; j < p.cols(); ++j) {
      double sum = 0.0;
      for (index_t r = 0; r < axes.rows(); ++r) sum = std::fma(axes(r, i), axes(r, j), sum);
      p(i, j) = sum;
    }
  }
}

/// |P e|^2 - |P e'|^2 where e' is e with e[k] = 0, given pe = P e.
[[nodiscard]] inline double gain_of(std::span<const double> e, std::span<const double> pe,
                                    matrix_view<const double> p, index_t k) noexcept {
  return std::fma(-e[k], p(k, k), 2.0 * pe[k]) * e[k];
}

/// Zeroes one element of e after the other, that of the largest gain first, until |P e| <= limit;
/// lists them in `picked`. e and pe = P e are followed.
inline void pick_until(double limit, matrix_view<const double> p, std::span<double> e,
                       std::span<double> pe, std::vector<index_t>& picked) {
  picked.clear();
  while (picked.size() < e.size()) {
    double left = 0.0;
    for (index_t k = 0; k < e.size(); ++k) left = std::fma(e[k], pe[k], left);
    if (std::sqrt(std::max(left, 0.0)) <= limit) return;
    index_t best = e.size();
    double best_gain = 0.0;
    for (index_t k = 0; k < e.size(); ++k) {
      if (e[k] == 0.0) continue;
      const double gain = gain_of(e, pe, p, k);
      if (best == e.size() || gain > best_gain) {
        best = k;
        best_gain = gain;
      }
    }
    if (best == e.size()) return;
    for (index_t k = 0; k < e.size(); ++k) pe[k] = std::fma(-e[best], p(k, best), pe[k]);
    e[best] = 0.0;
    picked.push_back(best);
  }
}

}  // namespace detail

/// Scores [N, K] for keeping weights apart (selection.hpp): the highest first is the order in which
/// a budget should be spent. `trial` [N, K] is what quantization makes of W without outliers.
///  * 2 > score > 1: blocks that are to have MD <= tau_f (functional, overlapping) and do not. The
///    fewest weights, as far as a greedy search finds them, that bring a block there have 1 + 1 /
///    (their number + 1), so that a budget satisfies as many blocks as it can.
///  * 1 > score >= 0: the others, by g = (1 - omega) (MD^2 of the block - MD^2 without the error of
///    this weight), exactly, as g / (1 + g). 0 for sensitive blocks, whose MD is not to fall.
/// The scores are those of the trial's errors: what the base gains when large weights no longer
/// stretch its range is not seen. Refuses other shapes (shape), NaN and Inf (value).
[[nodiscard]] inline aligned_buffer<float> distortion_scores(const weight_manifold& manifold,
                                                             matrix_view<const float> weights,
                                                             matrix_view<const float> trial,
                                                             const outlier_policy& policy,
                                                             const kernels::context& ctx) {
  detail::check_approximation(manifold, weights, trial);
  const index_t n = weights.rows();
  const index_t stripes = manifold.stripes().size();
  LOWBIT_CHECK(policy.classes.empty() || policy.classes.size() == n * stripes, shape, "there are ",
               policy.classes.size(), " classes for ", n * stripes, " blocks");
  aligned_buffer<float> scores(weights.shape().size());
  kernels::parallel_for(ctx, stripes, [&](index_t c, index_t) {
    const kernels::context alone = ctx.serial();
    const stripe_geometry& s = manifold.stripes()[c];
    const index_t d = s.width;
    if (!(s.unit() > 0.0)) return;
    const double scale = 1.0 / s.unit();
    detail::columns_buffer errors = detail::stripe_errors(s, weights, trial);
    detail::columns_buffer projected(d, n);
    aligned_buffer<double> projector(d * d);
    const matrix_view<double> p(projector.data(), d, d);
    if (manifold.is_per_stripe()) {
      detail::fill_projector(manifold.normal_axes(0, c), p);
      kernels::add_product(projected.view(), kernels::dense_sign::add, matrix_view<const double>(p),
                           matrix_view<const double>(errors.view()), alone);
    }
    aligned_buffer<double> e(d);
    aligned_buffer<double> pe(d);
    std::vector<index_t> picked;
    for (index_t i = 0; i < n; ++i) {
      const block_class kind =
          policy.classes.empty() ? block_class{} : policy.classes[i * stripes + c];
      if (kind.kind == outlier_class::sensitive) continue;
      for (index_t k = 0; k < d; ++k) e[k] = errors.view()(k, i);
      if (manifold.is_per_stripe()) {
        for (index_t k = 0; k < d; ++k) pe[k] = projected.view()(k, i);
      } else {
        detail::fill_projector(manifold.normal_axes(i, c), p);
        for (index_t k = 0; k < d; ++k) {
          pe[k] = 0.0;
          for (index_t j = 0; j < d; ++j) pe[k] = std::fma(p(k, j), e[j], pe[k]);
        }
      }
      float* const out = scores.data() + i * weights.cols() + s.begin;
      for (index_t k = 0; k < d; ++k) {
        const double gain = detail::gain_of(e.span(), pe.span(), p, k) * scale * scale;
        const double g = std::max(gain, 0.0) * (1.0 - kind.omega);
        // Below 1 after rounding, too.
        out[k] = std::min(static_cast<float>(g / (1.0 + g)), 1.0F - 0x1p-24F);
      }
      if (kind.kind == outlier_class::normal) continue;
      detail::pick_until(policy.targets.functional * s.unit(), p, e.span(), pe.span(), picked);
      for (const index_t k : picked) {
        out[k] = 1.0F + 1.0F / static_cast<float>(picked.size() + 1);
      }
    }
  });
  return scores;
}

/// What a block would be like with one choice of bits.
struct bit_candidate {
  std::uint64_t bits = 0;  ///< that are stored for the block
  double md = 0.0;
  double error = 0.0;          ///< e^T H e, or |e|^2 without calibration
  bool accepts_noise = false;  ///< whether noise may be added, and can raise md (add_noise)
};

/// The candidates [blocks, options] of a layer: distortions and errors (block_hessian_errors) of
/// each option, and the bits that it stores for a block of d weights; of the narrower last stripe
/// in proportion. Refuses different shapes (shape).
struct bit_option {
  const layer_distortion* distortion = nullptr;
  std::span<const double> errors = {};
  std::uint64_t bits = 0;
};
[[nodiscard]] inline std::vector<bit_candidate> bit_candidates(const weight_manifold& manifold,
                                                               std::span<const bit_option> options,
                                                               bool allow_noise) {
  const index_t stripes = manifold.stripes().size();
  const index_t blocks = manifold.shape().rows * stripes;
  std::vector<bit_candidate> out;
  out.reserve(checked_mul(blocks, options.size(), "candidates"));
  for (const bit_option& o : options) {
    LOWBIT_CHECK(o.distortion->blocks.size() == blocks && o.errors.size() == blocks, shape,
                 "an option has ", o.distortion->blocks.size(), " distortions and ",
                 o.errors.size(), " errors for ", blocks, " blocks");
  }
  for (index_t b = 0; b < blocks; ++b) {
    const index_t width = manifold.stripes()[b % stripes].width;
    const index_t full = manifold.stripes().front().width;
    for (const bit_option& o : options) {
      const block_distortion& found = o.distortion->blocks[b];
      out.push_back({.bits = div_up(checked_mul(o.bits, width, "bits"), full),
                     .md = found.md,
                     .error = o.errors[b],
                     .accepts_noise = allow_noise && found.flag == block_flag::none &&
                                      manifold.stripes()[b % stripes].unit() > 0.0});
    }
  }
  return out;
}

/// What allocate_bits chose.
struct bit_allocation {
  std::vector<index_t> choice;  ///< for each block the number of its candidate
  std::uint64_t bits = 0;
  double error = 0.0;                   ///< sum over blocks, before noise
  std::vector<index_t> not_functional;  ///< blocks that should have MD <= tau_f and have not
  std::vector<index_t> not_sensitive;   ///< blocks that should have MD >= tau_p and have not
  std::vector<index_t> need_noise;      ///< blocks that are to be raised to tau_p by add_noise
};

namespace detail {

/// The candidates of a layer, judged by the policy.
struct candidate_table {
  std::span<const bit_candidate> candidates;
  index_t options;
  const outlier_policy& policy;

  [[nodiscard]] const bit_candidate& at(index_t block, index_t option) const noexcept {
    return candidates[block * options + option];
  }
  [[nodiscard]] block_class kind(index_t block) const noexcept {
    return policy.classes.empty() ? block_class{} : policy.classes[block];
  }
  [[nodiscard]] bool is_noisy(index_t block, index_t option) const noexcept {
    const outlier_class k = kind(block).kind;
    const distortion_targets& t = policy.targets;
    const bool wanted = k == outlier_class::sensitive ||
                        (k == outlier_class::overlapping && t.sensitive <= t.functional);
    const bit_candidate& c = at(block, option);
    return wanted && c.accepts_noise && c.md < t.sensitive;
  }
  [[nodiscard]] bool misses_functional(index_t block, index_t option) const noexcept {
    const outlier_class k = kind(block).kind;
    return (k == outlier_class::functional || k == outlier_class::overlapping) &&
           !(at(block, option).md <= policy.targets.functional);
  }
  [[nodiscard]] bool misses_sensitive(index_t block, index_t option) const noexcept {
    const outlier_class k = kind(block).kind;
    return (k == outlier_class::sensitive || k == outlier_class::overlapping) &&
           !is_noisy(block, option) && !(at(block, option).md >= policy.targets.sensitive);
  }
  /// 0 where all is met; a NaN is as bad as can be.
  [[nodiscard]] double violation(index_t block, index_t option) const noexcept {
    const block_class k = kind(block);
    const double md = at(block, option).md;
    double sum = 0.0;
    if (misses_functional(block, option)) {
      const double over = md - policy.targets.functional;
      sum = (1.0 - k.omega) * (over * over);
    }
    if (misses_sensitive(block, option)) {
      const double under = policy.targets.sensitive - md;
      sum = std::fma(k.omega, under * under, sum);
    }
    return std::isnan(sum) ? std::numeric_limits<double>::infinity() : sum;
  }
  /// The option with the least violation; of those the cheapest, of those the most exact.
  [[nodiscard]] index_t cheapest_allowed(index_t block) const noexcept {
    return first_by([&](index_t o) {
      return std::tuple(violation(block, o), at(block, o).bits, at(block, o).error);
    });
  }
  /// The cheapest option; of those the one with the least violation.
  [[nodiscard]] index_t cheapest(index_t block) const noexcept {
    return first_by([&](index_t o) {
      return std::tuple(at(block, o).bits, violation(block, o), at(block, o).error);
    });
  }
  template <class Key>
  [[nodiscard]] index_t first_by(const Key& key) const noexcept {
    index_t best = 0;
    for (index_t o = 1; o < options; ++o) {
      if (key(o) < key(best)) best = o;
    }
    return best;
  }
};

/// A step from a block's choice to another option.
struct upgrade {
  double gain;  ///< error less, per bit more
  index_t block;
  index_t option;

  /// std::priority_queue's top: the largest gain, then the first block.
  friend bool operator<(const upgrade& a, const upgrade& b) noexcept {
    return a.gain != b.gain ? a.gain < b.gain : a.block > b.block;
  }
};

/// The step of a block with the largest gain per bit of those that `left` bits pay for.
[[nodiscard]] inline std::optional<upgrade> best_upgrade(const candidate_table& t, index_t block,
                                                         index_t from, std::uint64_t left) {
  std::optional<upgrade> best;
  const bit_candidate& now = t.at(block, from);
  for (index_t o = 0; o < t.options; ++o) {
    const bit_candidate& next = t.at(block, o);
    if (next.bits <= now.bits || next.bits - now.bits > left || !(next.error < now.error)) continue;
    if (t.violation(block, o) > t.violation(block, from)) continue;
    const double gain = (now.error - next.error) / static_cast<double>(next.bits - now.bits);
    if (!best || gain > best->gain) best = upgrade{gain, block, o};
  }
  return best;
}

}  // namespace detail

/// Chooses a candidate for each block so that all bits together are at most `available`:
///  1. every block gets the cheapest candidate that meets its class's target (functional: MD <=
///     tau_f; sensitive: MD >= tau_p, or noise; overlapping: both, or what misses them least,
///     weighed by omega);
///  2. where that is too much, blocks go down to their cheapest candidate: those that miss their
///     target anyway, then those that save most, so that as few as possible miss it;
///  3. what is left is spent where the error falls most per bit, never at a target's cost. Where
///     candidates form convex curves and no step had to be left out as too large for the rest, no
///     other choice that meets as many targets has less error with as few bits.
/// Candidates are [blocks, options]. Refuses shapes that do not fit (shape), an error that is NaN
/// (value, with its block), and fewer bits than the cheapest candidates take (value).
/// O(blocks options^2 log blocks).
[[nodiscard]] inline bit_allocation allocate_bits(std::span<const bit_candidate> candidates,
                                                  index_t options, std::uint64_t available,
                                                  const outlier_policy& policy = {}) {
  LOWBIT_CHECK(options != 0 && candidates.size() % options == 0, shape, candidates.size(),
               " candidates are not ", options, " for each block");
  const index_t blocks = candidates.size() / options;
  LOWBIT_CHECK(policy.classes.empty() || policy.classes.size() == blocks, shape, "there are ",
               policy.classes.size(), " classes for ", blocks, " blocks");
  const detail::candidate_table t{candidates, options, policy};
  bit_allocation out;
  out.choice.resize(blocks);
  std::uint64_t least = 0;
  for (index_t b = 0; b < blocks; ++b) {
    for (index_t o = 0; o < options; ++o) {
      LOWBIT_CHECK(!std::isnan(t.at(b, o).error), value, "candidate ", o, " of block ", b,
                   " has an error that is NaN");
    }
    out.choice[b] = t.cheapest_allowed(b);
    out.bits = checked_add(out.bits, t.at(b, out.choice[b]).bits, "bits of all blocks");
    least += t.at(b, t.cheapest(b)).bits;
  }
  LOWBIT_CHECK(least <= available, value, "the cheapest candidates take ", least,
               " bits, available are ", available);

  if (out.bits > available) {
    // (meets its target, bits that going down saves, largest first, block)
    std::vector<std::tuple<bool, std::uint64_t, index_t>> keys(blocks);
    for (index_t b = 0; b < blocks; ++b) {
      const std::uint64_t saved = t.at(b, out.choice[b]).bits - t.at(b, t.cheapest(b)).bits;
      keys[b] = {t.violation(b, out.choice[b]) == 0.0, ~saved, b};
    }
    std::sort(keys.begin(), keys.end());
    for (index_t i = 0; out.bits > available; ++i) {
      const index_t b = std::get<2>(keys[i]);
      out.bits -= ~std::get<1>(keys[i]);
      out.choice[b] = t.cheapest(b);
    }
  }

  std::priority_queue<detail::upgrade> steps;
  const auto offer = [&](index_t b) {
    if (const auto next = detail::best_upgrade(t, b, out.choice[b], available - out.bits)) {
      steps.push(*next);
    }
  };
  for (index_t b = 0; b < blocks; ++b) offer(b);
  while (!steps.empty()) {
    const detail::upgrade step = steps.top();
    steps.pop();
    const std::uint64_t more =
        t.at(step.block, step.option).bits - t.at(step.block, out.choice[step.block]).bits;
    if (more <= available - out.bits) {
      out.bits += more;
      out.choice[step.block] = step.option;
    }
    offer(step.block);  // of what the rest pays for
  }

  for (index_t b = 0; b < blocks; ++b) {
    const index_t o = out.choice[b];
    out.error += t.at(b, o).error;
    if (t.misses_functional(b, o)) out.not_functional.push_back(b);
    if (t.misses_sensitive(b, o)) out.not_sensitive.push_back(b);
    if (t.is_noisy(b, o)) out.need_noise.push_back(b);
  }
  return out;
}

/// The least amplitude, up to one part in a million, with md_at(amplitude) >= tau, for an md_at
/// that grows from some point on; 0 if md_at(0) is enough, none if md_at(start 2^64) is not. What
/// comes back has been tried. md_at may quantize anew.
[[nodiscard]] inline std::optional<double> find_amplitude(double tau, double start,
                                                          function_ref<double(double)> md_at) {
  if (md_at(0.0) >= tau) return 0.0;
  double high = start;
  for (int i = 0; !(md_at(high) >= tau); ++i) {
    if (i == 64) return std::nullopt;
    high *= 2.0;
  }
  double low = 0.0;
  while (high - low > 1e-6 * high) {
    const double middle = 0.5 * (low + high);
    (md_at(middle) >= tau ? high : low) = middle;
  }
  return high;
}

/// Adds amplitude * normal noise (random_normal(seed, row * K + column)) to one block of the
/// approximation in place, with the least amplitude that raises its MD to tau, and returns that.
/// Returns none, and changes nothing, if noise cannot do that: without a normal space, or in a
/// constant stripe. The block's error grows; measure it again. Shapes must fit (shape).
inline std::optional<double> add_noise(const weight_manifold& manifold,
                                       matrix_view<const float> weights,
                                       matrix_view<float> approximation, index_t row,
                                       index_t stripe, double tau, std::uint64_t seed) {
  LOWBIT_CHECK(weights.shape() == manifold.shape() && approximation.shape() == manifold.shape() &&
                   row < manifold.shape().rows && stripe < manifold.stripes().size(),
               shape, "block (", row, ", ", stripe, ") is not one of a matrix of [",
               approximation.rows(), ", ", approximation.cols(), "]");
  const stripe_geometry& s = manifold.stripes()[stripe];
  if (!(s.unit() > 0.0) || manifold.tangent(row, stripe) == s.width) return std::nullopt;
  const auto v = weights.row(row).subspan(s.begin, s.width);
  const auto block = approximation.row(row).subspan(s.begin, s.width);
  const auto noisy = [&](double amplitude, index_t k) {
    const auto g = static_cast<double>(random_normal(seed, row * weights.cols() + s.begin + k));
    return static_cast<float>(std::fma(amplitude, g, static_cast<double>(block[k])));
  };
  aligned_buffer<double> e(s.width);
  const auto found = find_amplitude(tau, s.unit() * 0x1p-20, [&](double amplitude) {
    for (index_t k = 0; k < s.width; ++k) {
      e[k] = static_cast<double>(v[k]) - static_cast<double>(noisy(amplitude, k));
    }
    return manifold.measure_block(row, stripe, e.span(), 0.0).md;
  });
  if (found) {
    for (index_t k = 0; k < s.width; ++k) block[k] = noisy(*found, k);
  }
  return found;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier
