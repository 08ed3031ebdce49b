// layout/scale_matrix.hpp: a matrix of real parameters stored as fp32, fp16 or bf16. Layer L2.
//
// Invariants: row-major [rows, cols], no padding; what get() returns is exactly what is stored.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/core/quantized_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// How scales and offsets are stored.
enum class scale_type : std::uint8_t { fp32, fp16, bf16 };
template <>
inline constexpr std::string_view enum_names<scale_type>[] = {"fp32", "fp16", "bf16"};

namespace layout {

/// The element type that a scale_type is stored as.
[[nodiscard]] constexpr element_type element_type_of(scale_type type) noexcept {
  switch (type) {
    case scale_type::fp32: return element_type::f32;
    case scale_type::fp16: return element_type::f16;
    case scale_type::bf16: return element_type::bf16;
  }
  return element_type::f32;
}

/// A value as it will be read back after it is stored.
[[nodiscard]] constexpr float round_to(scale_type type, float value) noexcept {
  switch (type) {
    case scale_type::fp32: break;
    case scale_type::fp16: return to_float(from_float<float16>(value));
    case scale_type::bf16: return to_float(from_float<bfloat16>(value));
  }
  return value;
}

class scale_matrix {
 public:
  scale_matrix() noexcept = default;
  /// All zero.
  scale_matrix(scale_type type, shape2 shape)
      : type_(type),
        shape_(shape),
        bytes_(checked_mul(shape.size(), element_size(element_type_of(type)), "scales")) {}

  [[nodiscard]] scale_type type() const noexcept { return type_; }
  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] element_type element() const noexcept { return element_type_of(type_); }
  [[nodiscard]] std::array<index_t, 2> extents() const noexcept {
    return {shape_.rows, shape_.cols};
  }
  [[nodiscard]] std::span<std::byte> bytes() noexcept { return bytes_.span(); }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_.span(); }

  [[nodiscard]] float get(index_t r, index_t c) const noexcept {
    const index_t i = r * shape_.cols + c;
    switch (type_) {
      case scale_type::fp32: break;
      case scale_type::fp16: return to_float(load<float16>(i));
      case scale_type::bf16: return to_float(load<bfloat16>(i));
    }
    return load<float>(i);
  }
  /// Stores `value` rounded to the type.
  void set(index_t r, index_t c, float value) noexcept {
    const index_t i = r * shape_.cols + c;
    switch (type_) {
      case scale_type::fp32: return store(i, value);
      case scale_type::fp16: return store(i, from_float<float16>(value));
      case scale_type::bf16: return store(i, from_float<bfloat16>(value));
    }
  }

  /// Refuses NaN, Inf and, if asked, negative values (format): what no quantizer writes.
  void check_values(std::string_view what, bool allow_negative) const {
    for (index_t r = 0; r < shape_.rows; ++r) {
      for (index_t c = 0; c < shape_.cols; ++c) {
        const float v = get(r, c);
        LOWBIT_CHECK(std::isfinite(v) && (allow_negative || v >= 0.0F), format, what, " [", r, ", ",
                     c, "] is ", v);
      }
    }
  }

 private:
  template <class T>
  [[nodiscard]] T load(index_t i) const noexcept {
    T value;
    std::memcpy(&value, bytes_.data() + i * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void store(index_t i, T value) noexcept {
    std::memcpy(bytes_.data() + i * sizeof(T), &value, sizeof(T));
  }

  scale_type type_ = scale_type::fp32;
  shape2 shape_;
  aligned_buffer<std::byte> bytes_;
};

}  // namespace layout
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
