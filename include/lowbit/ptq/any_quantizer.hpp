// ptq/any_quantizer.hpp: what a recipe (ptq/recipe.hpp) asks of a quantizer: levels and codes for
// weights whose inputs and outputs are transformed already. Layer L3.
//
// `coder` is that, for a type of quantizer; `any_quantizer` the same for any: what is written over
// it is compiled once, not once per format.
#pragma once

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/core/any_tensor.hpp"
#include "lowbit/ptq/error_feedback.hpp"
#include "lowbit/ptq/refine.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq {

/// A quantizer whose tensor is made of several (ptq/replicate.hpp): collect(w, known, encode) makes
/// it of the tensors that encode(q, w') returns, with a groupwise quantizer q of their own each,
/// and of such as q.quantize(w', known) returns. `base` is a groupwise quantizer with the same
/// groups.
template <class Q>
concept replicating_quantizer = quantizer<Q> &&
    requires(const Q& q, matrix_view<const float> w, const calibration& known,
             typename Q::tensor::part_type (*encode)(const typename Q::replica&,
                                                     matrix_view<const float>)) {
  requires groupwise_quantizer<typename Q::replica>;
  requires groupwise_quantizer<std::remove_cvref_t<decltype(q.base)>>;
  { q.collect(w, known, encode) } -> std::same_as<typename Q::tensor>;
};

/// A quantizer whose levels belong to groups, which feedback, refinement and column scales need.
template <class Q>
concept quantizer_of_groups = groupwise_quantizer<Q> || replicating_quantizer<Q>;

/// A quantizer that fits a matrix as a whole and takes long.
///  * quantize(w, known, ctx, progress): as quantize(w, known), with ctx's threads; `progress` may
///  be null.
///  * wants_calibration(): whether it is not meant to run without knowledge of the inputs.
template <class Q>
concept matrix_quantizer = quantizer<Q> &&
    requires(const Q& q, matrix_view<const float> w, const calibration& known,
             const kernels::context& ctx, listener* progress) {
  { q.quantize(w, known, ctx, progress) } -> std::same_as<typename Q::tensor>;
  { q.wants_calibration() } -> std::same_as<bool>;
};

/// What is to be coded. The references must outlive the call.
struct coding_task {
  matrix_view<const float> weights;
  std::span<const float> importance = {};              ///< of columns; may be empty
  const observers::second_moments* moments = nullptr;  ///< of the inputs, damped; may be null
  bool feedback = false;                               ///< needs moments
  std::span<const index_t> columns = {};               ///< as feedback_options::order
  unsigned refine = 0;                                 ///< rounds; they need moments
  const kernels::context& ctx;
  listener* progress = nullptr;
};

/// The part of a recipe that depends on the type of the quantizer.
template <quantizer Q>
class coder {
 public:
  using tensor = typename Q::tensor;
  /// has_groups(), as far as it is known when compiling.
  static constexpr bool may_have_groups = quantizer_of_groups<Q>;

  explicit coder(Q q) : q_(std::move(q)) {}

  [[nodiscard]] static std::string_view format() noexcept { return tensor::format::name; }
  /// Whether feedback, refinement and column scales apply.
  [[nodiscard]] static bool has_groups() noexcept { return may_have_groups; }
  /// How many columns of a matrix that wide share levels. Needs groups. Refuses what prepare()
  /// refuses.
  [[nodiscard]] index_t group_size(index_t columns) const {
    const matrix_view<const float> no_rows(nullptr, 0, columns);
    if constexpr (replicating_quantizer<Q>) {
      return q_.base.prepare(no_rows, {}, 1.0F).group_size();
    } else if constexpr (may_have_groups) {
      return q_.prepare(no_rows, {}, 1.0F).group_size();
    }
    return 0;
  }
  /// Whether it fits a matrix as a whole and takes long (matrix_quantizer).
  [[nodiscard]] static bool takes_long() noexcept { return matrix_quantizer<Q>; }
  [[nodiscard]] bool wants_calibration() const noexcept {
    if constexpr (matrix_quantizer<Q>) return q_.wants_calibration();
    return false;
  }

  [[nodiscard]] tensor quantize(matrix_view<const float> w, const calibration& known) const {
    return q_.quantize(w, known);
  }
  /// `objectives` is set by refinement. Feedback and refinement need groups.
  [[nodiscard]] tensor code(const coding_task& task, std::vector<double>& objectives) const {
    calibration known{.importance = task.importance};
    if constexpr (!may_have_groups) {
      if (task.moments != nullptr) known.hessian = task.moments->matrix();
    }
    if constexpr (matrix_quantizer<Q>) {
      return q_.quantize(task.weights, known, task.ctx, task.progress);
    } else if constexpr (!may_have_groups) {
      return q_.quantize(task.weights, known);
    } else if constexpr (replicating_quantizer<Q>) {
      if (task.moments == nullptr) return q_.quantize(task.weights, known);
      return q_.collect(task.weights, known,
                        [&](const typename Q::replica& q, matrix_view<const float> left) {
                          return encoded(q, left, task, objectives);
                        });
    } else {
      return encoded(q_, task.weights, task, objectives);
    }
  }

 private:
  template <groupwise_quantizer One>
  [[nodiscard]] static typename One::tensor encoded(const One& q, matrix_view<const float> w,
                                                    const coding_task& task,
                                                    std::vector<double>& objectives) {
    const calibration known{.importance = task.importance};
    if (!task.feedback && task.refine == 0) return q.quantize(w, known);
    // Feedback moves weights away from where they were. How much room scales of 4 bits get for that
    // matters little: with 1, 1.1 and 1.25 the extract's objectives differ by 1 %.
    auto codec = q.prepare(w, known, task.feedback ? 1.1F : 1.0F);
    coding<typename One::codec> state(codec, w);
    const matrix_view<const double> h = task.moments->matrix();
    if (task.feedback) {
      apply_feedback(state, h, task.importance, {.order = task.columns, .progress = task.progress},
                     task.ctx);
    } else {
      state.round_to_nearest(task.importance, task.ctx);
    }
    if (task.refine > 0) {
      objectives =
          ptq::refine(state, h, {.rounds = task.refine, .progress = task.progress}, task.ctx);
    }
    return state.make_tensor();
  }

  Q q_;
};

/// A quantizer of any type: the functions of `coder`. Immutable, and thread-safe.
class any_quantizer {
 public:
  using tensor = any_tensor;
  static constexpr bool may_have_groups = true;

  virtual ~any_quantizer() = default;
  [[nodiscard]] virtual std::string_view format() const = 0;
  [[nodiscard]] virtual bool has_groups() const = 0;
  [[nodiscard]] virtual index_t group_size(index_t columns) const = 0;
  [[nodiscard]] virtual bool takes_long() const = 0;
  [[nodiscard]] virtual bool wants_calibration() const = 0;
  [[nodiscard]] virtual any_tensor quantize(matrix_view<const float> w,
                                            const calibration& known) const = 0;
  [[nodiscard]] virtual any_tensor code(const coding_task& task,
                                        std::vector<double>& objectives) const = 0;
};

/// One of type Q.
template <quantizer Q>
class erased final : public any_quantizer {
 public:
  explicit erased(Q q) : typed_(std::move(q)) {}

  [[nodiscard]] std::string_view format() const override { return typed_.format(); }
  [[nodiscard]] bool has_groups() const override { return typed_.has_groups(); }
  [[nodiscard]] index_t group_size(index_t columns) const override {
    return typed_.group_size(columns);
  }
  [[nodiscard]] bool takes_long() const override { return typed_.takes_long(); }
  [[nodiscard]] bool wants_calibration() const override { return typed_.wants_calibration(); }
  [[nodiscard]] any_tensor quantize(matrix_view<const float> w,
                                    const calibration& known) const override {
    return typed_.quantize(w, known);
  }
  [[nodiscard]] any_tensor code(const coding_task& task,
                                std::vector<double>& objectives) const override {
    return typed_.code(task, objectives);
  }

 private:
  coder<Q> typed_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ptq
