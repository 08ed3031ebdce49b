// core/quantized_tensor.hpp: THE concept. What a format must offer, and what it may. Layer L1.
//
// A format works, slowly, on the day its type models `quantized_tensor`: dequantize() defines its
// meaning, for_each_buffer() and from_buffers() its storage. Each refinement below unlocks one
// faster path and none is required.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "lowbit/core/half.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/core/params.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// The element type of a stored buffer.
enum class element_type : std::uint8_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  u64,
  i64,
  f16,
  bf16,
  f32,
  f64
};

/// Bytes of one element.
[[nodiscard]] constexpr index_t element_size(element_type type) noexcept {
  switch (type) {
    case element_type::u8:
    case element_type::i8: return 1;
    case element_type::u16:
    case element_type::i16:
    case element_type::f16:
    case element_type::bf16: return 2;
    case element_type::u32:
    case element_type::i32:
    case element_type::f32: return 4;
    case element_type::u64:
    case element_type::i64:
    case element_type::f64: return 8;
  }
  return 0;
}

namespace detail {
template <class T>
struct element_type_of;
template <>
struct element_type_of<std::uint8_t> : std::integral_constant<element_type, element_type::u8> {};
template <>
struct element_type_of<std::int8_t> : std::integral_constant<element_type, element_type::i8> {};
template <>
struct element_type_of<std::uint16_t> : std::integral_constant<element_type, element_type::u16> {};
template <>
struct element_type_of<std::int16_t> : std::integral_constant<element_type, element_type::i16> {};
template <>
struct element_type_of<std::uint32_t> : std::integral_constant<element_type, element_type::u32> {};
template <>
struct element_type_of<std::int32_t> : std::integral_constant<element_type, element_type::i32> {};
template <>
struct element_type_of<std::uint64_t> : std::integral_constant<element_type, element_type::u64> {};
template <>
struct element_type_of<std::int64_t> : std::integral_constant<element_type, element_type::i64> {};
template <>
struct element_type_of<float16> : std::integral_constant<element_type, element_type::f16> {};
template <>
struct element_type_of<bfloat16> : std::integral_constant<element_type, element_type::bf16> {};
template <>
struct element_type_of<float> : std::integral_constant<element_type, element_type::f32> {};
template <>
struct element_type_of<double> : std::integral_constant<element_type, element_type::f64> {};
}  // namespace detail

/// The element_type that stores a T.
template <class T>
inline constexpr element_type element_type_v = detail::element_type_of<T>::value;

/// One stored buffer: what it is called inside its tensor, what it holds, and its bytes in
/// canonical (little-endian, ISA-neutral) order.
struct buffer_view {
  std::string_view name;
  element_type type = element_type::u8;
  std::span<const index_t> shape;  ///< extents, slowest first
  std::span<const std::byte> bytes;
};

/// Receives the buffers of a tensor. The views are valid during the call only.
class buffer_visitor {
 public:
  virtual ~buffer_visitor() = default;
  virtual void operator()(const buffer_view& buffer) = 0;
};

/// Hands out buffers by name, to rebuild a tensor.
class buffer_source {
 public:
  virtual ~buffer_source() = default;
  /// The bytes of buffer `name`. Refuses with error_kind::format unless the buffer exists with
  /// exactly this type and shape; so what comes back has the size that they imply. It has no
  /// alignment: copy from it.
  virtual std::span<const std::byte> get(std::string_view name, element_type type,
                                         std::span<const index_t> shape) = 0;
};

/// What names a format: a stable name and the version of its canonical layout (both are written to
/// files), its params aggregate, and the description of the fields (core/params.hpp).
template <class F>
concept format_tag = requires(typename F::params& params, params_visitor& visitor) {
  { F::name } -> std::convertible_to<std::string_view>;
  { F::version } -> std::convertible_to<std::uint32_t>;
  requires std::copyable<typename F::params>;
  requires std::default_initializable<typename F::params>;
  requires std::equality_comparable<typename F::params>;
  { F::describe(params, visitor) } -> std::same_as<void>;
};

/// A format whose name and version depend on its params, because it stands for any
/// (any_tensor.hpp), or decorates one that does: name_of(params) and version_of(params) are what
/// files store, and `name` and `version` are a placeholder.
template <class F>
concept open_format = format_tag<F> && requires(const typename F::params& params) {
  { F::name_of(params) } -> std::same_as<std::string>;
  { F::version_of(params) } -> std::same_as<std::uint32_t>;
};

/// The name and the version of a format with these params, as files store them.
template <format_tag F>
[[nodiscard]] std::string format_name([[maybe_unused]] const typename F::params& params) {
  if constexpr (open_format<F>)
    return F::name_of(params);
  else
    return std::string(std::string_view(F::name));
}
template <format_tag F>
[[nodiscard]] std::uint32_t format_version([[maybe_unused]] const typename F::params& params) {
  if constexpr (open_format<F>)
    return F::version_of(params);
  else
    return F::version;
}

/// What a tensor of this shape refuses to dequantize: a row range outside it, or an `out` that is
/// not [rows.size(), K] (shape).
inline void check_dequantize(shape2 shape, row_range rows, const matrix_view<float>& out) {
  check_row_range(rows, shape.rows);
  LOWBIT_CHECK((out.shape() == shape2{rows.size(), shape.cols}), shape, "rows [", rows.begin, ", ",
               rows.end, ") of ", shape.cols, " columns do not fit an output of [", out.rows(),
               ", ", out.cols(), "]");
}

/// source.get() with the extents in place.
[[nodiscard]] inline std::span<const std::byte> get_buffer(buffer_source& source,
                                                           std::string_view name, element_type type,
                                                           std::initializer_list<index_t> extents) {
  return source.get(name, type, {extents.begin(), extents.size()});
}

/// Copies the bytes of a buffer to where a tensor keeps them; both have the same size.
inline void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) noexcept {
  if (!to.empty()) std::memcpy(to.data(), from.data(), to.size());
}

/// A matrix W[N, K] in a quantized representation.
///  * shape(): {N out_features, K in_features}.
///  * params(): how it was stored; with shape() it determines every buffer's type and extent.
///  * storage_bits(): everything that is stored, scales, tables and padding included.
///  * dequantize(rows, out): writes rows [begin, end) as floats into out[rows.size(), K]. This
///    DEFINES the value of the tensor; every product must agree with it. Thread-safe, allocates
///    nothing that outlives the call. Refuses a range or an `out` that does not fit (shape).
///  * for_each_buffer(visitor): every stored buffer, in a fixed order.
///  * from_buffers(shape, params, source): rebuilds the tensor; refuses with error_kind::format
///    what no quantizer could have written and could make dequantize() read out of bounds.
template <class T>
concept quantized_tensor = std::movable<T> && format_tag<typename T::format> &&
    requires(const T& t, row_range rows, matrix_view<float> out, buffer_visitor& visitor,
             shape2 shape, const typename T::format::params& params, buffer_source& source) {
  { t.shape() } -> std::same_as<shape2>;
  { t.params() } -> std::same_as<const typename T::format::params&>;
  { t.storage_bits() } -> std::same_as<std::uint64_t>;
  { t.dequantize(rows, out) } -> std::same_as<void>;
  { t.for_each_buffer(visitor) } -> std::same_as<void>;
  { T::from_buffers(shape, params, source) } -> std::same_as<T>;
};

/// A tensor whose rows cannot be had one by one: dequantizing any of a block of coupled_rows() rows
/// costs as much as dequantizing all of it.
template <class T>
concept row_coupled_tensor = quantized_tensor<T> && requires(const T& t) {
  { t.coupled_rows() } -> std::same_as<index_t>;
};

/// Stored bits per weight of a tensor, everything counted; 0 for an empty tensor.
template <quantized_tensor T>
[[nodiscard]] double bits_per_weight(const T& t) {
  const index_t weights = t.shape().size();
  return weights == 0 ? 0.0 : static_cast<double>(t.storage_bits()) / static_cast<double>(weights);
}

/// Sums the bits of every buffer: what storage_bits() must return.
template <class T>
[[nodiscard]] std::uint64_t count_buffer_bits(const T& t) {
  struct : buffer_visitor {
    std::uint64_t bits = 0;
    void operator()(const buffer_view& buffer) override { bits += 8U * buffer.bytes.size(); }
  } counter;
  t.for_each_buffer(counter);
  return counter.bits;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
