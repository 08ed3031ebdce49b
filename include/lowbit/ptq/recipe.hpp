// ptq/recipe.hpp: every step between weights and a quantized tensor, chosen by options. Layer L3.
//
//   correct for distorted inputs -> shrink H -> take outliers out -> scale columns -> rotate ->
//   damp H -> order columns
//   -> {levels and codes: nearest, or error feedback} -> refine -> decorate
//
// Works with every quantizer; feedback, refinement and column scales need levels by groups
// (groupwise_quantizer). What the inputs must undergo is stored with the tensor, as decorators of
// decorators/, and counted in its bits.
#pragma once

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/core/any_tensor.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/outlier/budget.hpp"
#include "lowbit/outlier/fit.hpp"
#include "lowbit/outlier/selection.hpp"
#include "lowbit/ptq/any_quantizer.hpp"
#include "lowbit/ptq/input_correction.hpp"
#include "lowbit/ptq/scale_search.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace ptq {
enum class feedback_method : std::uint8_t { none, gptq };
enum class column_order : std::uint8_t {
  natural,        ///< as the columns stand
  energy,         ///< by descending diag(H), groups along that order; stores the order (not for
                  ///< groups of one column, which it would not change: there as energy_static)
  energy_static,  ///< rounded in that order, groups and columns stay where they are
};
enum class rotation : std::uint8_t { none, input, output, both };
enum class column_scales : std::uint8_t { none, awq };
enum class shrinkage : std::uint8_t { automatic, none };
enum class outlier_criterion : std::uint8_t {
  magnitude,
  hessian,  ///< what losing the weight means to the outputs
  md,       ///< manifold distortion of a trial without outliers
};
}  // namespace ptq

template <>
inline constexpr std::string_view enum_names<ptq::feedback_method>[] = {"none", "gptq"};
template <>
inline constexpr std::string_view enum_names<ptq::column_order>[] = {"natural", "energy",
                                                                     "energy_static"};
template <>
inline constexpr std::string_view enum_names<ptq::rotation>[] = {"none", "input", "output", "both"};
template <>
inline constexpr std::string_view enum_names<ptq::column_scales>[] = {"none", "awq"};
template <>
inline constexpr std::string_view enum_names<ptq::shrinkage>[] = {"automatic", "none"};
template <>
inline constexpr std::string_view enum_names<ptq::outlier_criterion>[] = {"magnitude", "hessian",
                                                                          "md"};

namespace ptq {

/// How to quantize with knowledge of the inputs. The defaults do nothing beyond the quantizer.
struct recipe {
  feedback_method feedback = feedback_method::none;
  unsigned refine = 0;                        ///< rounds of {refit, coordinate descent}
  column_order order = column_order::energy;  ///< read for feedback gptq only
  rotation rotate = rotation::none;
  std::uint32_t rotation_seed = 0;
  column_scales scale = column_scales::none;
  shrinkage shrink = shrinkage::automatic;
  double damping = 0.01;
  double qep = 0.5;              ///< read where moments of distorted inputs are given only
  double outliers = 0.0;         ///< share of the weights that are stored apart
  double outliers_budget = 0.0;  ///< the same in bits per weight; at most one of the two is > 0
  outlier_criterion criterion = outlier_criterion::magnitude;

  friend bool operator==(const recipe&, const recipe&) = default;

  static void describe(recipe& r, params_visitor& v) {
    v({"feedback",
       "round column by column and let later columns correct the error; needs "
       "calibration"},
      r.feedback);
    v({"refine", "rounds of refitted levels and coordinate descent; needs calibration"}, r.refine,
      0U, 1000U);
    v({"order",
       "of the columns under feedback: as they stand, by energy with groups along that "
       "order (stored), or by energy with groups in place"},
      r.order);
    v({"rotate",
       "turn the input side, the output side or both by random-sign Hadamard matrices, which "
       "spreads outliers"},
      r.rotate);
    v({"rotate_seed", "of the random signs"}, r.rotation_seed, std::uint32_t{0},
      std::numeric_limits<std::uint32_t>::max());
    v({"scale", "scale columns by the size of their inputs (AWQ); needs calibration"}, r.scale);
    v({"shrink", "shrink correlations of inputs that few calibration rows do not prove"}, r.shrink);
    v({"damping", "added to the diagonal of the Hessian, as a share of its mean"}, r.damping, 0.0,
      1000.0);
    v({"qep", "share of the correction for inputs that quantized layers have distorted"}, r.qep,
      0.0, 1.0);
    v({"outliers", "share of the weights that are stored apart as fp16, such as 0.5%"}, r.outliers,
      0.0, 0.25);
    v({"outliers_budget", "the same in bits per weight, positions counted: outliers=budget=0.1"},
      r.outliers_budget, 0.0, 8.0);
    v({"criterion",
       "of outliers: magnitude, what they mean to the outputs (needs calibration), or the "
       "manifold distortion that they take away"},
      r.criterion);
  }

  [[nodiscard]] bool takes_outliers() const noexcept {
    return outliers > 0.0 || outliers_budget > 0.0;
  }
  /// Whether moments of the inputs are indispensable.
  [[nodiscard]] bool needs_calibration() const noexcept {
    return feedback != feedback_method::none || refine > 0 || scale != column_scales::none ||
           (takes_outliers() && criterion == outlier_criterion::hessian);
  }
};

/// What is known of a layer's inputs. Everything is optional.
struct knowledge {
  /// Of the inputs that the quantized layer will meet.
  const observers::second_moments* moments = nullptr;
  /// E[x x̂^T] [K, K] with the inputs x of the original network, where `moments` are of distorted
  /// ones x̂.
  matrix_view<const double> cross = {};
  /// As in calibration::importance; used where there are no moments, and not under a rotation.
  std::span<const float> importance = {};
  /// A score per weight [N, K], finite and >= 0: outliers are those of the largest, whatever the
  /// recipe's criterion.
  matrix_view<const float> outlier_scores = {};
};

/// What happened on the way.
struct outcome {
  double shrinkage = 0.0;  ///< of the correlations
  /// tr E H E^T before refinement and after each round, if there was one.
  std::vector<double> objectives = {};
};

/// What a recipe makes of a matrix.
struct recipe_result {
  any_tensor tensor;
  ptq::outcome outcome;
};

namespace detail {

/// A matrix of floats, owned.
class float_matrix {
 public:
  explicit float_matrix(shape2 shape) : shape_(shape), values_(shape.size()) {}
  [[nodiscard]] matrix_view<float> view() noexcept {
    return {values_.data(), shape_.rows, shape_.cols};
  }
  [[nodiscard]] matrix_view<const float> view() const noexcept {
    return {values_.data(), shape_.rows, shape_.cols};
  }

 private:
  shape2 shape_;
  aligned_buffer<float> values_;
};

/// Columns by descending diagonal; of equal ones the first comes first.
[[nodiscard]] inline std::vector<index_t> by_energy(matrix_view<const double> h) {
  std::vector<index_t> order(h.rows());
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t a, index_t b) { return h(a, a) > h(b, b); });
  return order;
}

/// Applies a recipe to one matrix; `Sink` receives the tensor and the outcome. `Coder` is a coder,
/// or any_quantizer; then every tensor on the way is an any_tensor.
template <class Coder, class Sink>
class recipe_run {
 public:
  recipe_run(const recipe& how, const Coder& coder, const knowledge& known,
             const kernels::context& ctx, listener* progress, Sink& sink)
      : how_(how), coder_(coder), known_(known), ctx_(ctx), progress_(progress), sink_(sink) {}

  void run(matrix_view<const float> weights) {
    check_params<recipe>(how_);
    LOWBIT_CHECK(coder_.has_groups() || (how_.feedback == feedback_method::none &&
                                         how_.refine == 0 && how_.scale == column_scales::none),
                 value, "format '", coder_.format(),
                 "' is fitted as a whole: feedback, refine and scale do not apply to it");
    check_finite(weights, "the weight matrix");
    if (known_.moments == nullptr) {
      LOWBIT_CHECK(
          !how_.needs_calibration(), value,
          "feedback, refine, scale and criterion hessian need calibration inputs of the layer");
      importance_.assign(known_.importance.begin(), known_.importance.end());
      return take_outliers(weights);
    }
    LOWBIT_CHECK(known_.moments->channels() == weights.cols(), shape, "moments of ",
                 known_.moments->channels(), " channels do not fit ", weights.cols(), " columns");
    moments_ = *known_.moments;
    float_matrix corrected({0, 0});
    if (!known_.cross.empty()) {
      corrected = float_matrix(weights.shape());
      correct_for_inputs(weights, known_.cross, moments_->matrix(),
                         {.alpha = how_.qep, .damping = std::max(how_.damping, 1e-6)},
                         corrected.view(), ctx_);
      weights = corrected.view();
    }
    if (how_.shrink == shrinkage::automatic) {
      outcome_.shrinkage = moments_->shrinkage;
      moments_->shrink(outcome_.shrinkage);
    }
    take_outliers(weights);
  }

 private:
  /// Outliers are the outermost decorator and are added here, at the end: so the steps between
  /// exist once, not once with and once without.
  template <class T>
  void emit(T&& tensor) {
    if (places_.empty()) return sink_(std::forward<T>(tensor), outcome_);
    const std::vector<float> values =
        outlier::fit_outliers(original_, tensor, places_, std::as_const(*this).damped(), ctx_);
    sink_(made(decorators::with_outliers<std::remove_cvref_t<T>>(
              layout::sparse_matrix(original_.shape(), places_, values), std::forward<T>(tensor))),
          outcome_);
  }

  void take_outliers(matrix_view<const float> w) {
    const auto finish = [this](auto&& t) { this->emit(std::forward<decltype(t)>(t)); };
    if (!how_.takes_outliers()) return scale(w, finish);
    if (moments_) {
      damped_ = aligned_buffer<double>(w.cols() * w.cols());
      const matrix_view<double> h(damped_.data(), w.cols(), w.cols());
      for (index_t k = 0; k < w.cols(); ++k) {
        std::copy_n(moments_->matrix().row(k).data(), w.cols(), h.row(k).data());
      }
      damp(h, how_.damping);
    }
    original_ = w;
    places_ = choose_outliers(w);
    float_matrix rest(w.shape());
    outlier::remove_outliers(w, places_, rest.view());
    scale(matrix_view<const float>(rest.view()), finish);
  }

  /// H as outliers see it: of the original inputs, damped. Empty without moments.
  [[nodiscard]] matrix_view<const double> damped() const noexcept {
    const index_t n = damped_.empty() ? 0 : original_.cols();
    return {damped_.data(), n, n};
  }

  [[nodiscard]] std::vector<index_t> choose_outliers(matrix_view<const float> w) const {
    const outlier::budget budget{.share = how_.outliers, .bits_per_weight = how_.outliers_budget};
    if (!known_.outlier_scores.empty()) {
      LOWBIT_CHECK(known_.outlier_scores.shape() == w.shape(), shape, "scores of [",
                   known_.outlier_scores.rows(), ", ", known_.outlier_scores.cols(),
                   "] for weights of [", w.rows(), ", ", w.cols(), "]");
      return outlier::choose(known_.outlier_scores, budget);
    }
    if (how_.criterion == outlier_criterion::md) return choose_by_distortion(w, budget);
    float_matrix scores(w.shape());
    if (how_.criterion == outlier_criterion::hessian) {
      const aligned_buffer<double> factor = inverse_factor(damped(), ctx_);
      const auto diagonal = outlier::inverse_diagonal({factor.data(), w.cols(), w.cols()});
      outlier::score_saliency(w, diagonal, scores.view());
    } else {
      outlier::score_magnitude(w, scores.view());
    }
    return outlier::choose(matrix_view<const float>(scores.view()), budget);
  }

  [[nodiscard]] std::vector<index_t> choose_by_distortion(matrix_view<const float> w,
                                                          const outlier::budget& budget) const {
    const outlier::weight_manifold manifold(w, outlier::manifold_params_for(w.rows()), ctx_);
    float_matrix trial(w.shape());
    const auto tensor = coder_.quantize(w, {.importance = known_.importance});
    tensor.dequantize({0, w.rows()}, trial.view());
    const auto scores = outlier::distortion_scores(manifold, w, trial.view(), {}, ctx_);
    return outlier::choose({scores.data(), w.rows(), w.cols()}, budget);
  }

  template <class Then>
  void scale(matrix_view<const float> w, Then&& then) {
    if constexpr (Coder::may_have_groups) {
      if (moments_ && how_.scale != column_scales::none) {
        LOWBIT_CHECK(coder_.group_size(w.cols()) != 1, value, "format '", coder_.format(),
                     "' has numbers for each column: scale does not apply to it");
        decorators::column_scaling scales = search_scales(coder_, w, *moments_, ctx_);
        float_matrix b = transformed(scales, w);
        return rotate_outputs(matrix_view<const float>(b.view()), [&](auto&& t) {
          then(decorate(std::move(scales), std::forward<decltype(t)>(t)));
        });
      }
    }
    rotate_outputs(w, then);
  }

  /// tr E H E^T is the same for E and for T^T E: H stays as it is.
  template <class Then>
  void rotate_outputs(matrix_view<const float> w, Then&& then) {
    if (how_.rotate != rotation::output && how_.rotate != rotation::both) {
      return rotate_inputs(w, then);
    }
    decorators::output_rotation turn(w.rows(), {.seed = how_.rotation_seed});
    float_matrix b(w.shape());
    decorators::transform_columns(turn, w, b.view());
    rotate_inputs(matrix_view<const float>(b.view()), [&]<class T>(T&& t) {
      then(made(
          decorators::output_rotated<std::remove_cvref_t<T>>(std::move(turn), std::forward<T>(t))));
    });
  }

  template <class Then>
  void rotate_inputs(matrix_view<const float> w, Then&& then) {
    if (how_.rotate != rotation::input && how_.rotate != rotation::both) return order(w, then);
    decorators::hadamard_rotation turn(w.cols(), {.seed = how_.rotation_seed});
    importance_.clear();
    float_matrix b = transformed(turn, w);
    order(matrix_view<const float>(b.view()),
          [&](auto&& t) { then(decorate(std::move(turn), std::forward<decltype(t)>(t))); });
  }

  template <class Then>
  void order(matrix_view<const float> w, Then&& then) {
    if (moments_) damp(moments_->matrix(), how_.damping);
    if constexpr (Coder::may_have_groups) {
      if (how_.feedback != feedback_method::none && how_.order != column_order::natural) {
        const std::vector<index_t> columns = by_energy(moments_->matrix());
        if (how_.order == column_order::energy_static || coder_.group_size(w.cols()) <= 1) {
          return then(coded(w, columns));
        }
        decorators::column_permutation permutation(columns);
        const float_matrix b = transformed(permutation, w);
        return then(decorate(std::move(permutation), coded(b.view(), {})));
      }
    }
    then(coded(w, {}));
  }

  [[nodiscard]] typename Coder::tensor coded(matrix_view<const float> w,
                                             std::span<const index_t> columns) {
    if (moments_) importance_ = moments_->importance();
    return coder_.code({.weights = w,
                        .importance = importance_,
                        .moments = moments_ ? &*moments_ : nullptr,
                        .feedback = how_.feedback == feedback_method::gptq,
                        .columns = columns,
                        .refine = how_.refine,
                        .ctx = ctx_,
                        .progress = progress_},
                       outcome_.objectives);
  }

  /// The weights as the transform leaves them; the moments follow.
  template <decorators::input_transform Transform>
  [[nodiscard]] float_matrix transformed(const Transform& transform, matrix_view<const float> w) {
    float_matrix b(w.shape());
    decorators::transform_weights(transform, w, b.view());
    if (moments_) decorators::transform_hessian(transform, moments_->matrix());
    return b;
  }
  template <decorators::input_transform Transform, quantized_tensor T>
  [[nodiscard]] static auto decorate(Transform transform, T tensor) {
    return made(
        decorators::input_transformed<T, Transform>(std::move(transform), std::move(tensor)));
  }
  /// A tensor as the next step takes it.
  template <quantized_tensor T>
  [[nodiscard]] static auto made(T tensor) {
    if constexpr (std::same_as<typename Coder::tensor, any_tensor>) {
      return any_tensor(std::move(tensor));
    } else {
      return tensor;
    }
  }

  const recipe& how_;
  const Coder& coder_;
  const knowledge& known_;
  const kernels::context& ctx_;
  listener* progress_;
  Sink& sink_;
  std::optional<observers::second_moments> moments_;
  std::vector<float> importance_;
  matrix_view<const float> original_ = {};  // with its outliers, if they are taken out
  std::vector<index_t> places_;
  aligned_buffer<double> damped_;
  outcome outcome_;
};

}  // namespace detail

/// Quantizes W [N, K] by a recipe. Deterministic: the same bytes on any CPU and at any number of
/// workers. Memory: about 3 K^2 doubles beside the weights. Refuses recipes that need moments where
/// there are none, and what the quantizer refuses.
[[nodiscard]] inline recipe_result quantize_by_recipe(const recipe& how, const any_quantizer& q,
                                                      matrix_view<const float> weights,
                                                      const knowledge& known,
                                                      const kernels::context& ctx,
                                                      listener* progress = nullptr) {
  std::optional<recipe_result> result;
  const auto keep = [&](any_tensor tensor, outcome of) {
    result.emplace(recipe_result{std::move(tensor), std::move(of)});
  };
  detail::recipe_run<any_quantizer, decltype(keep)>(how, q, known, ctx, progress, keep)
      .run(weights);
  return *std::move(result);
}
template <quantizer Q>
[[nodiscard]] recipe_result quantize_by_recipe(const recipe& how, const Q& q,
                                               matrix_view<const float> weights,
                                               const knowledge& known, const kernels::context& ctx,
                                               listener* progress = nullptr) {
  return quantize_by_recipe(how, erased<Q>(q), weights, known, ctx, progress);
}

/// The same for who multiplies by the tensor: calls sink(tensor, outcome) once, with a tensor whose
/// type depends on the recipe: Q::tensor, decorated by permuted, rotated, scaled and others as it
/// asks. Slow to compile: the sink is for every nest that a recipe could ask for.
template <quantizer Q, class Sink>
requires(!std::convertible_to<Sink, listener*>) void quantize_by_recipe(
    const recipe& how, const Q& q, matrix_view<const float> weights, const knowledge& known,
    const kernels::context& ctx, Sink&& sink, listener* progress = nullptr) {
  const coder<Q> typed(q);
  detail::recipe_run<coder<Q>, Sink>(how, typed, known, ctx, progress, sink).run(weights);
}

}  // namespace ptq
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
