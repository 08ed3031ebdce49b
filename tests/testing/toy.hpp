// A correct small format that can be told to break one promise: what the conformance suite must
// see.
#pragma once

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "lowbit/core/affine.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/layout/operands.hpp"

namespace toy {

/// One promise of a tensor broken.
enum class tensor_fault {
  none,
  forgets_storage,
  starts_at_row_zero,
  ignores_stride,
  accepts_any_range,
  accepts_any_output,
  refuses_with_another_kind,
  refuses_empty_ranges,
  decodes_to_infinity,
  names_buffers_alike,
  names_in_capitals,
  states_other_extents,
  changes_between_visits,
  forgets_a_buffer,
  swallows_refusals,
  asks_for_other_extents,
  loses_params,
  loses_content_when_moved,
  keeps_content_when_assigned,
  copies_badly,
  repairs_damage_silently,
  damage_with_another_kind,
  other_coefficients,
  other_form,
  other_levels,
  unannounced_offset,
  no_group_size,
  set_padding,
};

/// One promise of a quantizer broken.
enum class quantizer_fault {
  none,
  differs_each_time,
  ignores_stride,
  accepts_not_finite,
  hides_the_place,
  accepts_short_importance,
  accepts_negative_importance,
  zero_importance_counts,
  equal_importance_counts,
  zeros_become_minus_zero,
  grows_each_time,
  refuses_empty,
  breaks_at_maximum,
  same_field_name,
  field_name_in_capitals,
  no_help,
  two_fields_one_member,
  ignores_settings,
  unchecked_field,
  forgets_when_copied,
};

/// The sign of each weight times the mean magnitude of its row.
struct signs {
  static constexpr std::string_view name = "toy_signs";
  static constexpr std::uint32_t version = 1;

  struct params {
    int gain = 0;  ///< the scale is multiplied by 2^gain
    int unused = 0;
    tensor_fault fault = tensor_fault::none;  ///< not described: a secret of the tests

    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params& p, lowbit::params_visitor& v) {
    v({"gain", "the scale is multiplied by two to this power"}, p.gain, -2, 2);
    v({"unused", "nothing"}, p.unused, 0, 1);
  }
};

class signs_tensor {
 public:
  using format = signs;
  using index_t = lowbit::index_t;

  signs_tensor(lowbit::shape2 shape, const signs::params& params)
      : shape_(shape), params_(params), planes_(1, shape), scales_(shape.rows) {}

  signs_tensor(const signs_tensor& other) : signs_tensor(other.shape_, other.params_) {
    planes_ = other.planes_;
    if (!has(tensor_fault::copies_badly)) scales_ = other.scales_;
  }
  signs_tensor(signs_tensor&& other) noexcept
      : shape_(other.shape_),
        params_(other.params_),
        planes_(std::move(other.planes_)),
        scales_(std::move(other.scales_)) {
    if (has(tensor_fault::loses_content_when_moved)) scales_.assign(shape_.rows, 0.0F);
  }
  signs_tensor& operator=(signs_tensor other) noexcept {
    if (has(tensor_fault::keeps_content_when_assigned)) return *this;
    shape_ = other.shape_;
    params_ = other.params_;
    std::swap(planes_, other.planes_);
    std::swap(scales_, other.scales_);
    return *this;
  }
  ~signs_tensor() = default;

  [[nodiscard]] lowbit::shape2 shape() const { return shape_; }
  [[nodiscard]] const signs::params& params() const { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const {
    return has(tensor_fault::forgets_storage) ? 64U * planes_.words().size()
                                              : lowbit::count_buffer_bits(*this);
  }

  void dequantize(lowbit::row_range rows, lowbit::matrix_view<float> out) const {
    if (has(tensor_fault::refuses_with_another_kind)) {
      LOWBIT_CHECK(rows.begin <= rows.end && rows.end <= shape_.rows, value, "bad range");
    } else if (!has(tensor_fault::accepts_any_range)) {
      lowbit::check_row_range(rows, shape_.rows);
    }
    if (!has(tensor_fault::accepts_any_output)) {
      LOWBIT_CHECK((out.shape() == lowbit::shape2{rows.size(), shape_.cols}) ||
                       (has(tensor_fault::accepts_any_range) && rows.begin > rows.end),
                   shape, "bad output");
    }
    LOWBIT_CHECK(rows.size() != 0 || !has(tensor_fault::refuses_empty_ranges), shape, "empty");
    const index_t begin = has(tensor_fault::starts_at_row_zero) ? 0 : rows.begin;
    for (index_t r = 0; r < out.rows() && begin + r < shape_.rows; ++r) {
      for (index_t c = 0; c < out.cols() && c < shape_.cols; ++c) {
        const float scale = scales_[begin + r];
        const float value = planes_.bit(0, begin + r, c) ? scale : -scale;
        if (has(tensor_fault::ignores_stride)) {
          out.data()[r * shape_.cols + c] = value;
        } else {
          out(r, c) = has(tensor_fault::decodes_to_infinity) ? HUGE_VALF : value;
        }
      }
    }
  }

  void for_each_buffer(lowbit::buffer_visitor& visitor) const {
    const auto extents = planes_.extents();
    const auto scale_extents = this->scale_extents();
    const char* name = has(tensor_fault::names_buffers_alike) ? "planes"
                       : has(tensor_fault::names_in_capitals) ? "Scales"
                                                              : "scales";
    if (has(tensor_fault::changes_between_visits) && !scales_.empty()) scales_[0] += 1.0F;
    visitor({"planes", lowbit::element_type::u64, extents, std::as_bytes(planes_.words())});
    visitor({name, lowbit::element_type::f32, scale_extents, std::as_bytes(std::span(scales_))});
  }

  static signs_tensor from_buffers(lowbit::shape2 shape, const signs::params& params,
                                   lowbit::buffer_source& source) {
    signs_tensor t(shape, params);
    const auto extents = t.planes_.extents();
    if (t.has(tensor_fault::loses_params)) t.params_.gain = 2;
    try {
      copy(source.get("planes", lowbit::element_type::u64, extents),
           std::as_writable_bytes(t.planes_.words()));
      if (!t.has(tensor_fault::forgets_a_buffer)) {
        index_t asked[] = {shape.rows};
        if (t.has(tensor_fault::asks_for_other_extents)) ++asked[0];
        copy(source.get(t.has(tensor_fault::names_in_capitals) ? "Scales" : "scales",
                        lowbit::element_type::f32, asked),
             std::as_writable_bytes(std::span(t.scales_)));
      }
    } catch (const lowbit::format_error&) {
      if (!t.has(tensor_fault::swallows_refusals)) throw;
    }
    for (float& s : t.scales_) {
      const bool bad = !(s >= 0.0F && s <= 1e30F);
      if (bad && t.has(tensor_fault::repairs_damage_silently)) s = 0.0F;
      LOWBIT_CHECK(!bad || !t.has(tensor_fault::damage_with_another_kind), value, "bad scale");
      LOWBIT_CHECK(s >= 0.0F && s <= 1e30F, format, "bad scale");
    }
    return t;
  }

  // bit_serial_operand: value = scale * (2 bit - 1)
  [[nodiscard]] const lowbit::layout::bit_matrix& planes() const { return planes_; }
  [[nodiscard]] index_t group_size() const {
    return has(tensor_fault::no_group_size) ? 0 : shape_.cols;
  }
  float plane_coefficients(index_t row, index_t, std::span<float> out) const {
    out[0] = has(tensor_fault::other_coefficients) ? scales_[row] : 2.0F * scales_[row];
    return -scales_[row];
  }

  // plane_sum_operand
  [[nodiscard]] lowbit::plane_form plane_form() const {
    lowbit::plane_form form{.is_signed = !has(tensor_fault::other_form), .has_ratios = true};
    form.ratios[0] = -0.25F;
    return form;
  }
  float plane_levels(index_t row, index_t, std::span<float> out) const {
    out[0] = (has(tensor_fault::other_levels) ? 4.0F : -4.0F) * scales_[row];
    return has(tensor_fault::unannounced_offset) ? 0x1p-20F * scales_[row] : 0.0F;
  }

  void set_row(index_t r, float scale, std::span<const std::uint8_t> codes) {
    scales_[r] = scale;
    lowbit::layout::pack_row(codes, r, planes_);
    if (has(tensor_fault::set_padding)) planes_.row(0, r).back() |= std::uint64_t{1} << 63U;
  }

 private:
  [[nodiscard]] bool has(tensor_fault fault) const { return params_.fault == fault; }
  [[nodiscard]] std::vector<index_t> scale_extents() const {
    return {has(tensor_fault::states_other_extents) ? shape_.rows + 1 : shape_.rows};
  }
  static void copy(std::span<const std::byte> from, std::span<std::byte> to) {
    if (!to.empty()) std::memcpy(to.data(), from.data(), to.size());
  }

  lowbit::shape2 shape_;
  signs::params params_;
  lowbit::layout::bit_matrix planes_;
  mutable std::vector<float> scales_;  // mutable for changes_between_visits
};

static_assert(lowbit::plane_sum_operand<signs_tensor>);

struct signs_quantizer {
  using tensor = signs_tensor;
  static constexpr std::string_view summary = "signs, for the tests of the tests";

  signs::params params = {};
  quantizer_fault fault = quantizer_fault::none;
  mutable int calls = 0;

  signs_quantizer() = default;
  explicit signs_quantizer(tensor_fault of_tensor) { params.fault = of_tensor; }
  explicit signs_quantizer(quantizer_fault of_quantizer) : fault(of_quantizer) {}
  signs_quantizer(const signs_quantizer& other) : params(other.params), fault(other.fault) {
    if (has(quantizer_fault::forgets_when_copied)) params.gain += 1;
  }
  signs_quantizer& operator=(const signs_quantizer&) = default;

  static void describe(signs_quantizer& q, lowbit::params_visitor& v) {
    const char* name = q.has(quantizer_fault::same_field_name)          ? "gain"
                       : q.has(quantizer_fault::field_name_in_capitals) ? "unUsed"
                                                                        : "unused";
    signs::params scratch = q.params;
    signs::params& p = q.has(quantizer_fault::ignores_settings) ? scratch : q.params;
    v({"gain", q.has(quantizer_fault::no_help) ? "" : "power of two"}, p.gain, -2, 2);
    if (q.has(quantizer_fault::unchecked_field)) {
      auto value = static_cast<std::int64_t>(p.unused);
      v.integer({name, "unchecked"}, value, 0, 1);
      p.unused = static_cast<int>(value);
    } else if (q.has(quantizer_fault::two_fields_one_member)) {
      v({name, "the wrong member"}, p.gain, -2, 2);
    } else {
      v({name, "nothing"}, p.unused, 0, 1);
    }
  }

  [[nodiscard]] signs_tensor quantize(lowbit::matrix_view<const float> weights,
                                      const lowbit::calibration& known) const {
    if (!has(quantizer_fault::accepts_not_finite)) check(weights);
    check(known.importance, weights.cols());
    LOWBIT_CHECK(!weights.empty() || !has(quantizer_fault::refuses_empty), shape, "empty");
    LOWBIT_CHECK(params.gain < 2 || !has(quantizer_fault::breaks_at_maximum), value, "too much");
    signs_tensor t(weights.shape(), params);
    std::vector<std::uint8_t> codes(weights.cols());
    for (lowbit::index_t r = 0; r < weights.rows(); ++r) {
      const auto row = has(quantizer_fault::ignores_stride)
                           ? std::span(weights.data() + r * weights.cols(), weights.cols())
                           : weights.row(r);
      for (lowbit::index_t c = 0; c < row.size(); ++c) {
        codes[c] = has(quantizer_fault::zeros_become_minus_zero) ? row[c] > 0.0F : row[c] >= 0.0F;
      }
      t.set_row(r, scale(row, known.importance), codes);
    }
    return t;
  }

 private:
  [[nodiscard]] bool has(quantizer_fault f) const { return fault == f; }

  void check(lowbit::matrix_view<const float> weights) const {
    if (!has(quantizer_fault::hides_the_place)) return lowbit::check_finite(weights, "the matrix");
    for (lowbit::index_t r = 0; r < weights.rows(); ++r) {
      for (const float x : weights.row(r)) LOWBIT_CHECK(std::isfinite(x), value, "bad weight");
    }
  }
  void check(std::span<const float> importance, lowbit::index_t cols) const {
    if (has(quantizer_fault::accepts_negative_importance) && importance.size() == cols) return;
    if (has(quantizer_fault::accepts_short_importance) && importance.size() < cols) return;
    lowbit::check_importance(importance, cols);
  }

  [[nodiscard]] float scale(std::span<const float> row, std::span<const float> importance) const {
    float total = 0.0F;
    for (const float h : importance) total += h;
    const bool counts = importance.size() == row.size() &&
                        (total > 0.0F || has(quantizer_fault::zero_importance_counts));
    float s = std::ldexp(
        lowbit::mean_magnitude(row, counts ? importance : std::span<const float>()), params.gain);
    if (has(quantizer_fault::equal_importance_counts) && counts) s *= importance[0];
    if (has(quantizer_fault::grows_each_time)) s *= 3.0F;
    if (has(quantizer_fault::differs_each_time)) s += static_cast<float>(++calls);
    return s;
  }
};

static_assert(lowbit::quantizer<signs_quantizer>);

}  // namespace toy
