// ptq/replicate.hpp: one matrix stored as several (decorators/replicated.hpp), what that costs, and
// which forms of replication are none. Layer L3.
//
// With "same bits" meaning bits in total:
//   residual   the best of the family: 2 + 2 bits are worth about 4. It is BCQ's nesting of planes.
//   dither     error / replicas at best, for replicas times the bits: 6 to 9 dB behind residual
//   shifted    the same, a little better
// and for replicas that share their codes, of which at most one should be stored:
//   same codes, other scales or offsets   provably one matrix with the mean ones: mean_of_levels()
//   same weights, split activations       an option of products (ops/matmul.hpp), no replicas
//   a branch applied in several steps     apply_serially(): another function, no smaller error
//
// Nothing here knows a format.
#pragma once

#include <utility>

#include "lowbit/decorators/replicated.hpp"
#include "lowbit/ptq/replica_quantizer.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

// -- fitting -------------------------------------------------------------------------------------

namespace detail {

/// What the replicas so far have left of a matrix: W minus their sum, which is rounded as
/// replicated::dequantize() rounds it.
class remainder {
 public:
  explicit remainder(matrix_view<const float> weights) : weights_(weights) {}

  /// The weights themselves before the first replica.
  [[nodiscard]] matrix_view<const float> left() const noexcept {
    return is_first_ ? weights_ : view(left_.data());
  }
  template <quantized_tensor T>
  void subtract(const T& replica) {
    if (weights_.empty()) return;
    if (is_first_) {
      sum_ = aligned_buffer<float>(weights_.shape().size());
      left_ = aligned_buffer<float>(sum_.size());
    }
    const matrix_view<float> values = view(left_.data());
    const matrix_view<float> sums = view(sum_.data());
    replica.dequantize({0, weights_.rows()}, values);
    for (index_t r = 0; r < weights_.rows(); ++r) {
      for (index_t c = 0; c < weights_.cols(); ++c) {
        sums(r, c) = is_first_ ? values(r, c) : sums(r, c) + values(r, c);
        values(r, c) = weights_(r, c) - sums(r, c);
      }
    }
    is_first_ = false;
  }

 private:
  template <class T>
  [[nodiscard]] matrix_view<T> view(T* data) const noexcept {
    return {data, weights_.rows(), weights_.cols()};
  }

  matrix_view<const float> weights_;
  aligned_buffer<float> sum_;
  aligned_buffer<float> left_;
  bool is_first_ = true;
};

}  // namespace detail

/// W as the sum of `replicas` tensors of a quantizer, any one: C_1 = Q(W), C_2 = Q(W - C_1), and so
/// on, each for itself. Deterministic. Refuses what q.quantize() refuses, and replicas outside
/// 1..16 (value).
template <quantizer Q>
[[nodiscard]] decorators::replicated<typename Q::tensor> quantize_residuals(
    const Q& q, matrix_view<const float> weights, const calibration& known, unsigned replicas) {
  check_params<replicate_options>(replicate_options{.replicas = replicas});
  std::vector<typename Q::tensor> parts;
  parts.reserve(replicas);
  detail::remainder rest(weights);
  while (true) {
    parts.push_back(q.quantize(rest.left(), known));
    if (parts.size() == replicas) return {decorators::replica_total::sum, std::move(parts)};
    rest.subtract(parts.back());
  }
}

/// W as replicas of a groupwise quantizer (replica_quantizer.hpp). Models quantizer, and
/// replicating_quantizer of ptq/recipe.hpp: a recipe transforms weights and inputs once and fits
/// every replica with all that it knows of the inputs.
template <groupwise_quantizer Q>
struct replicating {
  using tensor = decorators::replicated<typename Q::tensor>;
  using replica = replica_quantizer<Q>;
  static constexpr std::string_view summary = Q::summary;

  Q base = {};
  replicate_options how = {};

  static void describe(replicating& q, params_visitor& v) {
    Q::describe(q.base, v);
    replicate_options::describe(q.how, v);
  }

  /// Deterministic. Refuses what the base refuses, options out of range, and dither and shifts of
  /// levels without an offset (value).
  [[nodiscard]] tensor quantize(matrix_view<const float> weights,
                                const calibration& known = {}) const {
    return collect(weights, known, [&](const replica& q, matrix_view<const float> left) {
      return q.quantize(left, known);
    });
  }

  /// The replicas that encode(q, w) makes, where q is the groupwise quantizer of a replica and w
  /// what is left for it; but a residual replica that others follow is quantized as it is, because
  /// error feedback (ptq/error_feedback.hpp) would leave more for those to code. Refuses options
  /// out of range (value).
  template <class Encode>
  [[nodiscard]] tensor collect(matrix_view<const float> weights, const calibration& known,
                               Encode&& encode) const {
    check_params<replicate_options>(how);
    std::vector<typename Q::tensor> parts;
    parts.reserve(how.replicas);
    detail::remainder rest(weights);
    for (unsigned k = 0; k < how.replicas; ++k) {
      const replica q{base, how, k};
      if (how.mode == replication::residual && k + 1 < how.replicas) {
        parts.push_back(q.quantize(rest.left(), known));
        rest.subtract(parts.back());
      } else {
        parts.push_back(encode(q, rest.left()));
      }
    }
    return {how.mode == replication::residual ? decorators::replica_total::sum
                                              : decorators::replica_total::mean,
            std::move(parts)};
  }
};

// -- what is no replication ----------------------------------------------------------------------

/// A tensor of codes whose levels can be replaced.
template <class T>
concept relevelled_operand = code_operand<T> && std::copyable<T> &&
    requires(const T& t, T& mutable_t, index_t i, const affine_levels& l) {
  { t.group_shape() } -> std::same_as<shape2>;
  mutable_t.set_levels(i, i, l);
};

/// Replicas with the same codes are one matrix: levels are linear in scale and offset, so
///   sum_k w_k (s_k u + o_k) = (sum_k w_k s_k) u + sum_k w_k o_k.
/// Returns that matrix, which equals `t` up to the rounding of its levels: whatever scales the
/// replicas have, one with the mean (total sum: the sum) of them is as good and takes fewer bits.
/// Refuses (value) replicas whose codes or zero points differ.
template <relevelled_operand T>
[[nodiscard]] T mean_of_levels(const decorators::replicated<T>& t) {
  T one = t.part(0);
  std::vector<std::uint8_t> codes(t.shape().cols);
  std::vector<std::uint8_t> others(t.shape().cols);
  for (index_t r = 0; r < t.shape().rows; ++r) {
    t.part(0).codes(r, codes);
    for (index_t k = 1; k < t.parts(); ++k) {
      t.part(k).codes(r, others);
      LOWBIT_CHECK(codes == others, value, "replicas 0 and ", k, " have other codes in row ", r);
    }
  }
  const double count =
      t.total() == decorators::replica_total::mean ? static_cast<double>(t.parts()) : 1.0;
  const shape2 groups = one.group_shape();
  for (index_t r = 0; r < groups.rows; ++r) {
    for (index_t g = 0; g < groups.cols; ++g) {
      affine_levels l = t.part(0).levels_of(r, g);
      double scale = 0.0;
      double offset = 0.0;
      for (index_t k = 0; k < t.parts(); ++k) {
        const affine_levels other = t.part(k).levels_of(r, g);
        LOWBIT_CHECK(other.zero_point == l.zero_point, value, "replicas 0 and ", k,
                     " have other zero points in row ", r, ", group ", g);
        scale += static_cast<double>(other.scale);
        offset += static_cast<double>(other.offset);
      }
      l.scale = static_cast<float>(scale / count);
      l.offset = static_cast<float>(offset / count);
      one.set_levels(r, g, l);
    }
  }
  return one;
}

/// A residual branch applied in steps: h becomes h + gamma_k F_k(h) for k = 0, 1, ...; branch(k, h,
/// f) writes F_k(h) to f, which has h's shape. Sums are fused; a step with gamma 0 is left out, so
/// (1, 0, ...) is exactly h + F_0(h). Refuses gammas that are not finite or do not add up to 1 but
/// for their rounding (value).
///
/// Finer steps of the same branch follow another function than the one that the network was trained
/// for; no mechanism cancels the errors of its codes.
template <class Branch>
void apply_serially(std::span<const float> gammas, matrix_view<float> h, Branch&& branch) {
  double sum = 0.0;
  for (const float gamma : gammas) sum += static_cast<double>(gamma);
  const double slack = 0x1p-24 * static_cast<double>(gammas.size());
  LOWBIT_CHECK(std::fabs(sum - 1.0) <= slack, value, "the weights of ", gammas.size(),
               " serial steps add up to ", sum, ", not to 1");
  aligned_buffer<float> values(checked_mul(h.rows(), h.cols(), "a branch's outputs"));
  const matrix_view<float> f(values.data(), h.rows(), h.cols());
  for (index_t k = 0; k < gammas.size(); ++k) {
    if (gammas[k] == 0.0F) continue;
    branch(k, matrix_view<const float>(h), f);
    for (index_t r = 0; r < h.rows(); ++r) {
      for (index_t c = 0; c < h.cols(); ++c) h(r, c) = std::fma(gammas[k], f(r, c), h(r, c));
    }
  }
}

// -- costs ---------------------------------------------------------------------------------------

/// What a form of replication costs, counted on a real tensor.
struct replica_cost {
  std::uint64_t stored_bits = 0;
  double bits_per_weight = 0.0;
  std::uint64_t bytes_read = 0;       ///< of weights, per token, one token at a time
  std::uint64_t multiplications = 0;  ///< of a weight and an activation, per token
};

namespace detail {
[[nodiscard]] inline replica_cost cost(shape2 shape, std::uint64_t stored_bits, index_t reads,
                                       index_t products) {
  const index_t weights = shape.size();
  return {.stored_bits = stored_bits,
          .bits_per_weight =
              weights == 0 ? 0.0 : static_cast<double>(stored_bits) / static_cast<double>(weights),
          .bytes_read = checked_mul(div_up(stored_bits, 8), reads, "bytes"),
          .multiplications = checked_mul(weights, products, "multiplications")};
}
}  // namespace detail

/// Of one matrix.
template <quantized_tensor T>
[[nodiscard]] replica_cost cost_of(const T& t) {
  return detail::cost(t.shape(), t.storage_bits(), 1, 1);
}
/// Of replicas with codes of their own: residual, dither, shifted. Everything is stored, read and
/// multiplied once per replica.
template <quantized_tensor T>
[[nodiscard]] replica_cost cost_of(const decorators::replicated<T>& t) {
  return detail::cost(t.shape(), t.storage_bits(), 1, t.parts());
}
/// Of replicas that share their codes, if these were stored once and read once for all: what
/// mean_of_levels() saves is this less cost_of() its result.
template <bit_serial_operand T>
[[nodiscard]] replica_cost cost_of_shared_codes(const decorators::replicated<T>& t) {
  const std::uint64_t codes = 64U * t.part(0).planes().words().size();
  return detail::cost(t.shape(), t.storage_bits() - (t.parts() - 1) * codes, 1, t.parts());
}
/// Of products of one matrix with activations split in so many terms: read once for all of them.
template <quantized_tensor T>
[[nodiscard]] replica_cost cost_of_split_activations(const T& t, index_t terms) {
  return detail::cost(t.shape(), t.storage_bits(), 1, terms);
}
/// Of one matrix in a branch that is applied so often: read again each time.
template <quantized_tensor T>
[[nodiscard]] replica_cost cost_of_serial_steps(const T& t, index_t steps) {
  return detail::cost(t.shape(), t.storage_bits(), steps, steps);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
