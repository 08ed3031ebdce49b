// ptq/replica_quantizer.hpp: how the levels of one of several replicas are fitted, for every
// groupwise quantizer. Layer L3.
//
//   residual  each replica codes what the ones before it left. The best levels of a replica for
//             itself are not the best for the sum: least-squares levels clip, and what they clip is
//             more than the next replica can hold. So all but the last look ahead: of a list of
//             widths, a group takes the one that leaves least when one more replica follows.
//   dither    the same levels, shifted by a random part of a step per group; the mean is taken
//             (subtractive dither, Schuchman, 1964)
//   shifted   the same levels, shifted by (k + 1/2) / replicas - 1/2 of a step; the mean is taken
//
// Levels of another width are those that the codec fits to weights scaled by it.
//
// Invariant: as for any codec, the same bytes everywhere: products are exact or explicitly fused.
#pragma once

#include <array>
#include <optional>

#include "lowbit/core/random.hpp"
#include "lowbit/ptq/coding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace ptq {
/// How replicas differ.
enum class replication : std::uint8_t { residual, dither, shifted };
}  // namespace ptq

template <>
inline constexpr std::string_view enum_names<ptq::replication>[] = {"residual", "dither",
                                                                    "shifted"};

namespace ptq {

/// How a matrix is replicated.
struct replicate_options {
  replication mode = replication::residual;
  unsigned replicas = 2;   ///< 1..16, the first one counted
  std::uint32_t seed = 0;  ///< of dither
  /// How wide levels are, in terms of those that the quantizer fits; 0: the best of a list for each
  /// group (residual: of all replicas but the last). 1 and residual: each replica for itself.
  float width = 0.0F;

  static void describe(replicate_options& o, params_visitor& v) {
    v({"replicate", "store each matrix several times: what is left of it, or on shifted grids"},
      o.mode);
    v({"replicas", "matrices that make one, the first counted"}, o.replicas, 1U, 16U);
    v({"replicate_seed", "of dither"}, o.seed, std::uint32_t{0},
      std::numeric_limits<std::uint32_t>::max());
    v({"replica_width", "width of the levels against those of a single matrix; 0: searched"},
      o.width, 0.0F, 16.0F);
  }
};

/// A codec whose levels are those of replica `replica`. Models group_codec.
template <group_codec C>
class replica_codec : public C {
 public:
  using levels = typename C::levels;

  replica_codec(C codec, const replicate_options& how, unsigned replica)
      : C(std::move(codec)), how_(how), replica_(replica) {}

  /// Refuses (value) what the codec refuses, and dither and shifts of levels without an offset.
  [[nodiscard]] levels fit(index_t row, index_t group, std::span<const float> x,
                           std::span<const float> h) const {
    const bool searched = how_.width == 0.0F && can_be_wider(x);
    const float width = how_.width == 0.0F ? 1.0F : how_.width;
    if (how_.mode == replication::residual) {
      if (searched && replica_ + 1 < how_.replicas) {
        return best_of_widths(row, group, x, h, [&](const levels& l) {
          return error_after_next(row, group, l, x, h);
        });
      }
      return wide(row, group, x, h, width);
    }
    const levels l = searched ? best_of_widths(row, group, x, h,
                                               [&](const levels& candidate) {
                                                 return error_of_mean(row, group, candidate, x, h);
                                               })
                              : wide(row, group, x, h, width);
    return shifted(l, row, group, replica_);
  }

 private:
  /// In eighths. On normal weights of 1 to 4 bits no best one lies outside.
  static constexpr int least_width = 5;
  static constexpr int largest_width = 14;

  /// Whether levels of any width above can be stored, if those of width 1 can, in fp16 as well.
  [[nodiscard]] static bool can_be_wider(std::span<const float> x) noexcept {
    return std::all_of(x.begin(), x.end(), [](float v) { return std::fabs(v) <= 0x1p14F; });
  }

  [[nodiscard]] levels wide(index_t row, index_t group, std::span<const float> x,
                            std::span<const float> h, float width) const {
    if (width == 1.0F) return C::fit(row, group, x, h);
    std::vector<float> scaled(x.size());
    // Fused with 0, so that nobody fuses the product with anything else.
    for (index_t i = 0; i < x.size(); ++i) scaled[i] = std::fma(x[i], width, 0.0F);
    return C::fit(row, group, scaled, h);
  }

  /// The levels with the least error(levels); of equal ones those nearest to width 1 on the lower
  /// side first.
  template <class Error>
  [[nodiscard]] levels best_of_widths(index_t row, index_t group, std::span<const float> x,
                                      std::span<const float> h, const Error& error) const {
    levels best = C::fit(row, group, x, h);
    double least = error(best);
    for (int width = least_width; width <= largest_width; ++width) {
      if (width == 8) continue;
      const levels l = wide(row, group, x, h, static_cast<float>(width) / 8.0F);
      const double e = error(l);
      if (!(e < least)) continue;
      best = l;
      least = e;
    }
    return best;
  }

  [[nodiscard]] level_table table_of(const levels& l) const {
    std::array<float, 256> by_code;
    const auto used = std::span(by_code).first(index_t{1} << C::bits());
    C::values(l, used);
    level_table t;
    t.assign(used);
    return t;
  }

  /// sum of h e^2. The square of a float is exact in double, and the rest is fused.
  static void add_error(double& sum, float e, std::span<const float> h, index_t i) noexcept {
    const double square = static_cast<double>(e) * static_cast<double>(e);
    sum = std::fma(h.empty() ? 1.0 : static_cast<double>(h[i]), square, sum);
  }

  /// What is left of x by these levels and one more replica.
  [[nodiscard]] double error_after_next(index_t row, index_t group, const levels& l,
                                        std::span<const float> x, std::span<const float> h) const {
    const level_table first = table_of(l);
    std::vector<float> left(x.size());
    for (index_t i = 0; i < x.size(); ++i) {
      left[i] = x[i] - first.nearest(static_cast<double>(x[i])).value;
    }
    const level_table next = table_of(C::fit(row, group, left, h));
    double sum = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      add_error(sum, left[i] - next.nearest(static_cast<double>(left[i])).value, h, i);
    }
    return sum;
  }

  /// What is left of x by the mean of all replicas of these levels.
  [[nodiscard]] double error_of_mean(index_t row, index_t group, const levels& l,
                                     std::span<const float> x, std::span<const float> h) const {
    std::vector<float> mean(x.size());
    for (unsigned k = 0; k < how_.replicas; ++k) {
      const level_table t = table_of(shifted(l, row, group, k));
      for (index_t i = 0; i < x.size(); ++i) mean[i] += t.nearest(static_cast<double>(x[i])).value;
    }
    double sum = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      add_error(sum, x[i] - mean[i] / static_cast<float>(how_.replicas), h, i);
    }
    return sum;
  }

  /// The part of a step by which replica k is shifted.
  [[nodiscard]] double shift(index_t row, index_t group, unsigned k) const noexcept {
    if (how_.mode == replication::dither) {
      const std::uint64_t stream = random_bits(random_bits(how_.seed, k), row);
      return static_cast<double>(random_uniform(stream, group)) - 0.5;
    }
    return (static_cast<double>(k) + 0.5) / static_cast<double>(how_.replicas) - 0.5;
  }

  [[nodiscard]] levels shifted(const levels& l, index_t row, index_t group, unsigned k) const {
    std::array<float, 256> by_code;
    const index_t count = index_t{1} << C::bits();
    C::values(l, std::span(by_code).first(count));
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    index_t used = 0;
    for (index_t code = 0; code < count; ++code) {
      const auto value = static_cast<double>(by_code[code]);
      if (value != value) continue;
      low = std::min(low, value);
      high = std::max(high, value);
      ++used;
    }
    if (used < 2) return l;
    const double step = (high - low) / static_cast<double>(used - 1);
    std::vector<double> delta(C::terms());
    delta[offset_term(l, count)] = std::fma(shift(row, group, k), step, 0.0);
    return C::adjusted(l, row, delta);
  }

  /// The coefficient that is added to every level.
  [[nodiscard]] index_t offset_term(const levels& l, index_t count) const {
    std::vector<float> terms(C::terms());
    std::vector<bool> is_one(C::terms(), true);
    for (index_t code = 0; code < count; ++code) {
      C::term(l, static_cast<std::uint8_t>(code), terms);
      for (index_t i = 0; i < terms.size(); ++i) is_one[i] = is_one[i] && terms[i] == 1.0F;
    }
    const auto at = std::find(is_one.begin(), is_one.end(), true);
    LOWBIT_CHECK(at != is_one.end(), value,
                 "levels can be shifted only where groups store an offset (uniform: "
                 "symmetry=offset; sbvr: offset=per_group)");
    return static_cast<index_t>(at - is_one.begin());
  }

  replicate_options how_;
  unsigned replica_;
};

/// Quantizes replica `replica` of `how.replicas`: the weights that it is given are those, or what
/// the replicas before it left of them. Models groupwise_quantizer.
template <groupwise_quantizer Q>
struct replica_quantizer {
  using tensor = typename Q::tensor;
  using codec = replica_codec<typename Q::codec>;
  static constexpr std::string_view summary = Q::summary;

  Q base = {};
  replicate_options how = {};
  unsigned replica = 0;

  static void describe(replica_quantizer& q, params_visitor& v) {
    Q::describe(q.base, v);
    replicate_options::describe(q.how, v);
  }

  [[nodiscard]] tensor quantize(matrix_view<const float> weights,
                                const calibration& known = {}) const {
    if (is_plain()) return base.quantize(weights, known);
    const codec groups = prepare(weights, known);
    coding<codec> state(groups, weights);
    state.round_to_nearest(known.importance, kernels::context{});
    return state.make_tensor();
  }
  [[nodiscard]] codec prepare(matrix_view<const float> weights, const calibration& known = {},
                              float headroom = 1.0F) const {
    check_params<replicate_options>(how);
    return {base.prepare(weights, known, is_plain() ? headroom : headroom * widest()), how,
            replica};
  }

 private:
  /// Whether the levels are the quantizer's own.
  [[nodiscard]] bool is_plain() const noexcept {
    if (how.mode != replication::residual) return false;
    return how.width == 1.0F || (how.width == 0.0F && replica + 1 >= how.replicas);
  }
  /// How much larger than the quantizer's own the levels may be, as far as it needs to know.
  [[nodiscard]] float widest() const noexcept {
    return how.width == 0.0F ? 1.25F : std::max(how.width, 1.0F);
  }
};

}  // namespace ptq
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
