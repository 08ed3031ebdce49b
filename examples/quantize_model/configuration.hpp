// configuration.hpp: a quantizer of any format, with what is done around it. The only file that
// needs the type of a quantizer: all else is compiled once, not once per format.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "format_options.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/ops/evaluate.hpp"

namespace quantize_model {

/// How to quantize a matrix. Immutable; its functions are thread-safe; copies share.
class configuration {
 public:
  template <lowbit::quantizer Q>
  configuration(Q quantizer, treatment around)
      : of_(std::make_shared<of_type<Q>>(std::move(quantizer), std::move(around))) {}

  /// "uniform: bits=4, group_size=64, ...": for titles, reports and provenance. All fields of the
  /// quantizer, and those of the treatment that are not as they are by default.
  [[nodiscard]] std::string describe() const { return of_->describe(); }
  [[nodiscard]] bool needs_calibration() const { return of_->needs_calibration(); }
  [[nodiscard]] lowbit::ptq::recipe_result quantize(lowbit::matrix_view<const float> weights,
                                                    const lowbit::ptq::knowledge& known,
                                                    const lowbit::kernels::context& ctx,
                                                    lowbit::ptq::listener* progress) const {
    return of_->quantize(weights, known, ctx, progress);
  }
  /// How many dB the error of the plain quantizer on a standard normal matrix lies above the least
  /// that any code of as many bits per weight can have, 2^(-2 bits). The matrix has the width of
  /// `shape` and at most a million weights. NaN where that takes too long.
  [[nodiscard]] double db_above_bound(lowbit::shape2 shape) const;

  /// Whether both are the same object.
  friend bool operator==(const configuration&, const configuration&) = default;

 private:
  class interface {
   public:
    explicit interface(treatment t) : around(std::move(t)) {}
    virtual ~interface() = default;
    [[nodiscard]] virtual std::string describe() const = 0;
    [[nodiscard]] virtual bool needs_calibration() const = 0;
    [[nodiscard]] virtual lowbit::ptq::recipe_result quantize(
        lowbit::matrix_view<const float> weights, const lowbit::ptq::knowledge& known,
        const lowbit::kernels::context& ctx, lowbit::ptq::listener* progress) const = 0;
    /// By the quantizer alone; null for one that takes long.
    [[nodiscard]] virtual std::optional<lowbit::any_tensor> trial(
        lowbit::matrix_view<const float> weights) const = 0;

   protected:
    [[nodiscard]] std::string text_of(std::string_view format,
                                      const std::vector<field_text>& fields) const;
    const treatment around;
  };
  template <lowbit::quantizer Q>
  class of_type;

  std::shared_ptr<const interface> of_;
};

template <lowbit::quantizer Q>
class configuration::of_type final : public interface {
 public:
  of_type(Q quantizer, treatment t) : interface(std::move(t)), quantizer_(std::move(quantizer)) {}

  [[nodiscard]] std::string describe() const override {
    return text_of(lowbit::format_of<Q>::name, list_fields(quantizer_));
  }
  [[nodiscard]] bool needs_calibration() const override {
    if constexpr (lowbit::ptq::matrix_quantizer<Q>) {
      if (quantizer_.wants_calibration()) return true;
    }
    return around.recipe.needs_calibration();
  }
  [[nodiscard]] lowbit::ptq::recipe_result quantize(
      lowbit::matrix_view<const float> weights, const lowbit::ptq::knowledge& known,
      const lowbit::kernels::context& ctx, lowbit::ptq::listener* progress) const override {
    using lowbit::ptq::quantize_by_recipe;
    if constexpr (lowbit::groupwise_quantizer<Q>) {
      if (around.replicate != replicate_mode::none) {
        const lowbit::ptq::replicating<Q> several{quantizer_, around.replicas()};
        return quantize_by_recipe(around.recipe, several, weights, known, ctx, progress);
      }
    }
    LOWBIT_CHECK(around.replicate == replicate_mode::none, value, "format '",
                 lowbit::format_of<Q>::name,
                 "' is fitted as a whole: replicate does not apply to it");
    return quantize_by_recipe(around.recipe, quantizer_, weights, known, ctx, progress);
  }
  [[nodiscard]] std::optional<lowbit::any_tensor> trial(
      lowbit::matrix_view<const float> weights) const override {
    // Fitted as a whole, in minutes, to inputs that a Gaussian does not have.
    if constexpr (lowbit::ptq::matrix_quantizer<Q>)
      return std::nullopt;
    else
      return quantizer_.quantize(weights, {});
  }

 private:
  const Q quantizer_;
};

inline std::string configuration::interface::text_of(std::string_view format,
                                                     const std::vector<field_text>& fields) const {
  std::string text(format);
  std::string_view separator = ": ";
  const auto append = [&](const field_text& f) {
    text.append(separator).append(f.name).append("=").append(f.value);
    separator = ", ";
  };
  for (const field_text& f : fields) append(f);
  const auto defaults = list_fields(treatment{});
  const auto treated = list_fields(around);
  for (std::size_t i = 0; i < treated.size(); ++i) {
    if (treated[i].value != defaults[i].value) append(treated[i]);
  }
  return text;
}

inline double configuration::db_above_bound(lowbit::shape2 shape) const {
  constexpr lowbit::index_t most_weights = lowbit::index_t{1} << 20U;
  if (shape.rows == 0 || shape.cols == 0) return 0.0;
  const lowbit::index_t rows =
      std::clamp<lowbit::index_t>(most_weights / shape.cols, 1, shape.rows);
  std::vector<float> values(rows * shape.cols);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = lowbit::random_normal(42, i);
  const lowbit::matrix_view<const float> normal(values.data(), rows, shape.cols);
  const auto tensor = of_->trial(normal);
  if (!tensor) return std::numeric_limits<double>::quiet_NaN();
  return lowbit::ops::weight_error(normal, *tensor)
      .db_above_bound(lowbit::bits_per_weight(*tensor));
}

/// A configuration of the format with this name, with the given fields set. Refuses an unknown
/// format, unknown fields and values (value).
template <class FormatList>
[[nodiscard]] configuration make_configuration(std::string_view format, const field_texts& texts) {
  std::optional<configuration> made;
  std::vector<std::string_view> names;
  FormatList::for_each([&]<class Q>(std::type_identity<Q>) {
    names.push_back(lowbit::format_of<Q>::name);
    if (names.back() != format) return;
    Q quantizer{};
    treatment around;
    field_setter setter(texts);
    Q::describe(quantizer, setter);
    treatment::describe(around, setter);
    setter.check_all_used(format);
    made.emplace(std::move(quantizer), std::move(around));
  });
  LOWBIT_CHECK(made.has_value(), value, "unknown format '", format, "'; known are ",
               join(names, ", "));
  return *std::move(made);
}

}  // namespace quantize_model
