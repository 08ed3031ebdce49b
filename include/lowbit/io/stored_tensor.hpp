// io/stored_tensor.hpp: a plain tensor as it lies in a safetensors file, and how to read its rows
// as floats. Layer L4.
//
// Invariants: `bytes` has exactly the size that type and shape imply, and no product of extents
// overflows (the reader has checked both); it has no alignment, because safetensors promises none,
// so it is only ever copied from.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/io/detail/text.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// One entry of a safetensors file. The bytes belong to the reader that handed it out.
struct stored_tensor {
  std::string name;
  element_type type = element_type::u8;
  std::vector<index_t> shape;  ///< extents, slowest first; empty for a scalar
  std::span<const std::byte> bytes;
};

namespace detail {

struct type_name {
  element_type type;
  std::string_view name;
};

/// What safetensors calls each type. Its other types (BOOL, C64, F8_*, F4, ...) are refused.
inline constexpr std::array<type_name, 12> type_names{{
    {element_type::u8, "U8"},
    {element_type::i8, "I8"},
    {element_type::u16, "U16"},
    {element_type::i16, "I16"},
    {element_type::u32, "U32"},
    {element_type::i32, "I32"},
    {element_type::u64, "U64"},
    {element_type::i64, "I64"},
    {element_type::f16, "F16"},
    {element_type::bf16, "BF16"},
    {element_type::f32, "F32"},
    {element_type::f64, "F64"},
}};

/// "U8, I8, ...": for messages.
[[nodiscard]] inline std::string known_type_names() {
  std::string out;
  for (const type_name& known : type_names) {
    if (!out.empty()) out += ", ";
    out += known.name;
  }
  return out;
}

/// Dimensions that a stored tensor may have.
inline constexpr index_t max_dimensions = 8;

/// "[2, 3]": for messages.
[[nodiscard]] inline std::string shape_text(std::span<const index_t> shape) {
  std::string out = "[";
  for (const index_t extent : shape) {
    if (out.size() > 1) out += ", ";
    lowbit::detail::append(out, extent);
  }
  return out + "]";
}

/// Extents that a tensor without values may have. Without a limit, a file of no size could claim
/// 2^60 rows of nothing, and who walks over its rows would never come back.
inline constexpr index_t max_empty_extent = index_t{1} << 24U;

/// The bytes of a tensor. Refuses (error_kind::shape) what overflows 64 bits with extents of 0
/// counted as 1, so that whoever multiplies some of the extents later cannot overflow either; and
/// extents above max_empty_extent beside one of 0.
[[nodiscard]] inline std::uint64_t byte_size(std::span<const index_t> shape, element_type type,
                                             std::string_view what) {
  std::uint64_t bytes = element_size(type);
  index_t smallest = 1;
  index_t largest = 1;
  for (const index_t extent : shape) {
    smallest = std::min(smallest, extent);
    largest = std::max(largest, extent);
    bytes = checked_mul(bytes, std::max<index_t>(extent, 1), what);
  }
  if (smallest != 0) return bytes;
  LOWBIT_CHECK(largest <= max_empty_extent, shape, what, ": ", shape_text(shape),
               " holds no values, but has an extent above ", max_empty_extent);
  return 0;
}

/// An integer as it is.
template <class Integer>
requires std::is_integral_v<Integer>
[[nodiscard]] constexpr float to_float(Integer value) noexcept { return static_cast<float>(value); }
using lowbit::to_float;

/// Converts the unaligned values at `source`. They are copied in blocks of a fixed size: a loop
/// whose length is a constant is one that g++ vectorises at -O2 too.
template <class Stored>
void widen(const std::byte* source, std::span<float> out) noexcept {
  constexpr index_t block = 64;
  Stored values[block];
  index_t done = 0;
  for (; done + block <= out.size(); done += block) {
    std::memcpy(values, source + done * sizeof(Stored), sizeof values);
    for (index_t i = 0; i < block; ++i) out[done + i] = to_float(values[i]);
  }
  const index_t rest = out.size() - done;
  if (rest == 0) return;
  std::memcpy(values, source + done * sizeof(Stored), rest * sizeof(Stored));
  for (index_t i = 0; i < rest; ++i) out[done + i] = to_float(values[i]);
}

template <class Stored>
void widen_rows(const stored_tensor& tensor, row_range rows, matrix_view<float> out) noexcept {
  if (out.empty()) return;
  const std::byte* source = tensor.bytes.data() + rows.begin * out.cols() * sizeof(Stored);
  for (index_t r = 0; r < out.rows(); ++r, source += out.cols() * sizeof(Stored)) {
    widen<Stored>(source, out.row(r));
  }
}

}  // namespace detail

/// What safetensors calls the type: "F16".
[[nodiscard]] constexpr std::string_view dtype_name(element_type type) noexcept {
  for (const detail::type_name& known : detail::type_names) {
    if (known.type == type) return known.name;
  }
  return "?";
}

/// The tensor as a matrix: [d0, d1 * d2 * ...]; one row for a vector and for a scalar.
[[nodiscard]] inline shape2 matrix_shape(const stored_tensor& tensor) {
  shape2 shape{1, 1};
  for (index_t i = 0; i < tensor.shape.size(); ++i) {
    const bool is_row_count = i == 0 && tensor.shape.size() > 1;
    index_t& extent = is_row_count ? shape.rows : shape.cols;
    extent = checked_mul(extent, tensor.shape[i], "columns of a tensor");
  }
  return shape;
}

/// Writes rows [rows.begin, rows.end) of matrix_shape(tensor) as floats into `out`, which has that
/// many rows and all columns. Exact for every stored value. Reads F32, F16, BF16, I8 and U8;
/// refuses other types (error_kind::value) and a range or an `out` that does not fit
/// (error_kind::shape). Thread-safe.
inline void read_rows(const stored_tensor& tensor, row_range rows, matrix_view<float> out) {
  const shape2 shape = matrix_shape(tensor);
  check_row_range(rows, shape.rows);
  LOWBIT_CHECK(out.rows() == rows.size() && out.cols() == shape.cols, shape, "tensor ",
               detail::in_quotes(tensor.name), ": ", rows.size(), " x ", shape.cols,
               " values do not fit a matrix of ", out.rows(), " x ", out.cols());
  switch (tensor.type) {
    case element_type::f32: return detail::widen_rows<float>(tensor, rows, out);
    case element_type::f16: return detail::widen_rows<float16>(tensor, rows, out);
    case element_type::bf16: return detail::widen_rows<bfloat16>(tensor, rows, out);
    case element_type::i8: return detail::widen_rows<std::int8_t>(tensor, rows, out);
    case element_type::u8: return detail::widen_rows<std::uint8_t>(tensor, rows, out);
    default: break;
  }
  LOWBIT_CHECK(false, value, "tensor ", detail::in_quotes(tensor.name), " is stored as ",
               dtype_name(tensor.type),
               ", which cannot be read as floats (F32, F16, BF16, I8 and U8 can)");
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
