// testing/archetype.hpp: the least that is a quantized_tensor and a quantizer.
//
// These types model their concepts and offer nothing more: no copies, no constructors, no types
// where the concept says "convertible". Generic code that compiles with them needs only what the
// concepts promise; a downstream project instantiates its own generic code with them for the same
// proof. They also work: the "quantized" matrix is the matrix itself, in floats.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "lowbit/core/quantizer.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// What a concept that asks for "convertible to Target" promises: a conversion.
template <class Target>
class only_converts_to {
 public:
  constexpr explicit only_converts_to(Target value) noexcept : value_(value) {}
  constexpr operator Target() const noexcept { return value_; }  // NOLINT: implicit on purpose

 private:
  Target value_;
};

struct archetype_format {
  static constexpr only_converts_to<std::string_view> name{"archetype"};
  static constexpr only_converts_to<std::uint32_t> version{1};

  class params {
   public:
    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params&, params_visitor&) {}
};

static_assert(format_tag<archetype_format>);

class archetype_quantizer;

class archetype_tensor {
 public:
  using format = archetype_format;

  archetype_tensor(const archetype_tensor&) = delete;
  archetype_tensor(archetype_tensor&&) noexcept = default;
  archetype_tensor& operator=(const archetype_tensor&) = delete;
  archetype_tensor& operator=(archetype_tensor&&) noexcept = default;
  ~archetype_tensor() = default;

  [[nodiscard]] shape2 shape() const { return shape_; }
  [[nodiscard]] const archetype_format::params& params() const { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return 32U * values_.size(); }
  void dequantize(row_range rows, matrix_view<float> out) const {
    check_row_range(rows, shape_.rows);
    LOWBIT_CHECK((out.shape() == shape2{rows.size(), shape_.cols}), shape,
                 "the output has another shape");
    if (out.empty()) return;
    for (index_t r = 0; r < rows.size(); ++r) {
      std::memcpy(out.row(r).data(), values_.data() + (rows.begin + r) * shape_.cols,
                  shape_.cols * sizeof(float));
    }
  }
  void for_each_buffer(buffer_visitor& visitor) const {
    const index_t extents[] = {shape_.rows, shape_.cols};
    visitor({"values", element_type::f32, extents, std::as_bytes(std::span(values_))});
  }
  [[nodiscard]] static archetype_tensor from_buffers(shape2 shape, const archetype_format::params&,
                                                     buffer_source& source) {
    const index_t extents[] = {shape.rows, shape.cols};
    const auto bytes = source.get("values", element_type::f32, extents);
    archetype_tensor t(shape);
    if (!bytes.empty()) std::memcpy(t.values_.data(), bytes.data(), bytes.size());
    return t;
  }

 private:
  friend class archetype_quantizer;

  explicit archetype_tensor(shape2 shape) : shape_(shape), values_(shape.size()) {}

  shape2 shape_;
  archetype_format::params params_;
  std::vector<float> values_;
};

static_assert(quantized_tensor<archetype_tensor>);

class archetype_quantizer {
 public:
  using tensor = archetype_tensor;
  static constexpr only_converts_to<std::string_view> summary{"the matrix itself"};

  static void describe(archetype_quantizer&, params_visitor&) {}

  [[nodiscard]] archetype_tensor quantize(matrix_view<const float> weights,
                                          const calibration& known) const {
    check_finite(weights, "the weight matrix");
    check_importance(known.importance, weights.cols());
    archetype_tensor t(weights.shape());
    for (index_t r = 0; r < weights.rows(); ++r) {
      for (index_t c = 0; c < weights.cols(); ++c) {
        t.values_[r * weights.cols() + c] = weights(r, c);
      }
    }
    return t;
  }
};

static_assert(quantizer<archetype_quantizer>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
