// configuration.hpp: a quantizer of some format, and what is done around it.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "format_list.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/ops/evaluate.hpp"
#include "lowbit/ptq/recipe.hpp"

namespace quantize_model {
/// Whether matrices are stored several times, and how.
enum class replicate_mode : std::uint8_t { none, residual, dither, shifted };
}  // namespace quantize_model

template <>
inline constexpr std::string_view lowbit::enum_names<quantize_model::replicate_mode>[] = {
    "none", "residual", "dither", "shifted"};

namespace quantize_model {

/// What is done around a quantizer: one flat list of fields.
struct treatment {
  lowbit::ptq::recipe recipe = {};
  replicate_mode replicate = replicate_mode::none;
  unsigned replicate_extra = 1;      ///< beside the first
  std::uint32_t replicate_seed = 0;  ///< of dither

  static void describe(treatment& t, lowbit::params_visitor& v) {
    lowbit::ptq::recipe::describe(t.recipe, v);
    v({"replicate",
       "store each matrix several times: what the ones before have left (residual:1 is one more), "
       "or the mean of shifted grids"},
      t.replicate);
    v({"replicate_extra", "matrices beside the first"}, t.replicate_extra, 1U, 15U);
    v({"replicate_seed", "of dither"}, t.replicate_seed, std::uint32_t{0},
      std::numeric_limits<std::uint32_t>::max());
  }

  /// Read where there are replicas.
  [[nodiscard]] lowbit::ptq::replicate_options replicas() const {
    using lowbit::ptq::replication;
    return {.mode = replicate == replicate_mode::dither    ? replication::dither
                    : replicate == replicate_mode::shifted ? replication::shifted
                                                           : replication::residual,
            .replicas = replicate_extra + 1,
            .seed = replicate_seed};
  }
};

/// How to quantize a matrix. Immutable; its functions are thread-safe; copies share.
class configuration {
 public:
  /// The format with this name, with the given fields of it and of the treatment set. Refuses an
  /// unknown format, unknown fields and values (value).
  configuration(const format_entries& formats, std::string_view format, const field_texts& texts) {
    field_setter setter(texts);
    const auto entry = std::find_if(formats.begin(), formats.end(),
                                    [&](const format_entry& e) { return e.name == format; });
    if (entry == formats.end()) {
      std::vector<std::string_view> names;
      for (const format_entry& e : formats) names.push_back(e.name);
      LOWBIT_CHECK(false, value, "unknown format '", format, "'; known are ", join(names, ", "));
    }
    base_ = entry->tune(setter);
    treatment::describe(around_, setter);
    setter.check_all_used(format);
    if (around_.replicate != replicate_mode::none) {
      replicating_ = base_->replicating(around_.replicas());
    }
  }

  /// "uniform: bits=4, group_size=64, ...": for titles, reports and provenance. All fields of the
  /// quantizer, and those of the treatment that are not as they are by default.
  [[nodiscard]] std::string describe() const {
    std::string text(base_->plain().format());
    std::string_view separator = ": ";
    const auto append = [&](const field_text& f) {
      text.append(separator).append(f.name).append("=").append(f.value);
      separator = ", ";
    };
    for (const field_text& f : base_->fields()) append(f);
    const auto defaults = list_fields(treatment{});
    const auto fields = list_fields(around_);
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (fields[i].value != defaults[i].value) append(fields[i]);
    }
    return text;
  }
  [[nodiscard]] bool needs_calibration() const {
    return base_->plain().wants_calibration() || around_.recipe.needs_calibration();
  }
  [[nodiscard]] lowbit::ptq::recipe_result quantize(lowbit::matrix_view<const float> weights,
                                                    const lowbit::ptq::knowledge& known,
                                                    const lowbit::kernels::context& ctx,
                                                    lowbit::ptq::listener* progress) const {
    const auto& quantizer = replicating_ ? *replicating_ : base_->plain();
    return lowbit::ptq::quantize_by_recipe(around_.recipe, quantizer, weights, known, ctx,
                                           progress);
  }
  /// How many dB the error of the plain quantizer on a standard normal matrix lies above the least
  /// that any code of as many bits per weight can have, 2^(-2 bits). The matrix has the width of
  /// `shape` and at most a million weights. NaN where that takes too long.
  [[nodiscard]] double db_above_bound(lowbit::shape2 shape) const {
    constexpr lowbit::index_t most_weights = lowbit::index_t{1} << 20U;
    if (shape.rows == 0 || shape.cols == 0) return 0.0;
    // Fitted as a whole, in minutes, to inputs that a Gaussian does not have.
    if (base_->plain().takes_long()) return std::numeric_limits<double>::quiet_NaN();
    const lowbit::index_t rows =
        std::clamp<lowbit::index_t>(most_weights / shape.cols, 1, shape.rows);
    std::vector<float> values(rows * shape.cols);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = lowbit::random_normal(42, i);
    const lowbit::matrix_view<const float> normal(values.data(), rows, shape.cols);
    const auto tensor = base_->plain().quantize(normal, {});
    return lowbit::ops::weight_error(normal, tensor)
        .db_above_bound(lowbit::bits_per_weight(tensor));
  }

 private:
  std::shared_ptr<const tuned_quantizer> base_;
  treatment around_;
  std::shared_ptr<const lowbit::ptq::any_quantizer> replicating_;  // or null
};

}  // namespace quantize_model
