// ops/pack.hpp: weights packed once for products with int8 activations. Layer L4.
//
// A tensor of codes becomes one plane of codes with a scale per group, a tensor of scaled bit
// planes becomes several planes of 1-bit codes (kernels/code_gemm), which share a scale and need no
// offsets where the tensor says so (plane_sum_operand); signs alone become what kernels/sign_gemm
// reads. Packed weights live in memory only; keep them for as long as the layer is used.
//
// Of a tensor made of parts (composite_operand) the parts are packed. Where several tensors share a
// transform of their inputs, pack their base()s instead, and give products the result of
// ops::transform_inputs.
#pragma once

#include <algorithm>
#include <iterator>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "lowbit/kernels/code_gemm/driver.hpp"
#include "lowbit/kernels/sign_gemm/driver.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

/// A tensor that pack() takes rows of, if it has at most 8 planes.
template <class T>
concept packable = code_operand<T> || bit_serial_operand<T> || sign_operand<T>;

/// The family that products of T with int8 activations belong to.
template <packable T>
inline constexpr std::string_view int8_family = sign_operand<T>   ? "sign_gemm"
                                                : code_operand<T> ? "code_gemm"
                                                                  : "plane_gemm";

namespace detail {

/// How the kernel sees codes of a grid.
[[nodiscard]] inline kernels::code_format code_format_of(const affine_grid& grid) noexcept {
  kernels::code_format f{.bits = grid.bits <= 4 ? grid.bits : 8};
  if (grid.is_sign()) {
    f.code_step = 2;
    f.zero = 1;
  } else if (grid.kind == symmetry::symmetric) {
    f.zero = grid.symmetric_zero();
  }
  f.has_zeros = grid.kind == symmetry::asymmetric;
  f.has_offsets = grid.kind == symmetry::offset;
  return f;
}

template <code_operand T>
[[nodiscard]] kernels::packed_codes pack_codes(const T& w, row_range rows,
                                               const kernels::context& ctx) {
  const auto codes = [&](index_t row, index_t, std::span<std::uint8_t> out) {
    w.codes(rows.begin + row, out);
  };
  const auto levels = [&](index_t row, index_t group, std::span<float> scales) {
    const affine_levels l = w.levels_of(rows.begin + row, group);
    scales[0] = l.scale;
    return kernels::code_group{.zero = l.zero_point, .offset = l.offset};
  };
  return kernels::packed_codes({.shape = {rows.size(), w.shape().cols},
                                .group_size = w.group_size(),
                                .format = code_format_of(w.grid()),
                                .codes = codes,
                                .levels = levels},
                               ctx);
}

/// How the kernel sees planes.
template <bit_serial_operand T>
[[nodiscard]] kernels::code_format code_format_of_planes(const T& w) noexcept {
  kernels::code_format f{.bits = 1, .planes = static_cast<unsigned>(w.planes().planes())};
  if constexpr (plane_sum_operand<T>) {
    const plane_form form = w.plane_form();
    if (form.is_signed) {
      f.code_step = 2;
      f.zero = 1;
    }
    f.has_offsets = form.has_offsets;
    f.has_ratios = form.has_ratios;
    std::copy(form.ratios.begin(), form.ratios.end(), std::begin(f.ratios));
  } else {
    f.has_offsets = true;
  }
  return f;
}

template <bit_serial_operand T>
[[nodiscard]] kernels::packed_codes pack_planes(const T& w, row_range rows,
                                                const kernels::context& ctx) {
  const layout::bit_matrix& planes = w.planes();
  const auto codes = [&](index_t row, index_t plane, std::span<std::uint8_t> out) {
    layout::unpack_plane_row(planes, plane, rows.begin + row, out);
  };
  const auto levels = [&](index_t row, index_t group, std::span<float> scales) {
    if constexpr (plane_sum_operand<T>) {
      return kernels::code_group{.offset = w.plane_levels(rows.begin + row, group, scales)};
    } else {
      return kernels::code_group{.offset = w.plane_coefficients(rows.begin + row, group, scales)};
    }
  };
  return kernels::packed_codes({.shape = {rows.size(), w.shape().cols},
                                .group_size = w.group_size(),
                                .format = code_format_of_planes(w),
                                .codes = codes,
                                .levels = levels},
                               ctx);
}

}  // namespace detail

/// Packs rows of a tensor; row 0 of the result is rows.begin. Refuses more than 8 planes and rows
/// outside the tensor. Uses ctx's executor.
template <packable T>
[[nodiscard]] auto pack(const T& w, row_range rows, const kernels::context& ctx) {
  check_row_range(rows, w.shape().rows);
  if constexpr (sign_operand<T>) {
    return kernels::packed_signs(w.signs(), rows, ctx);
  } else if constexpr (code_operand<T>) {
    return detail::pack_codes(w, rows, ctx);
  } else {
    return detail::pack_planes(w, rows, ctx);
  }
}

/// Packs a whole tensor: packed_signs of a sign_operand, else packed_codes.
template <packable T>
[[nodiscard]] auto pack(const T& w, const kernels::context& ctx = {}) {
  return pack(w, {0, w.shape().rows}, ctx);
}

/// A tensor made of parts, which are packed. Refers to the tensor, which must outlive it.
template <composite_operand T>
class packed_parts {
  template <class Part>
  struct packed_type
      : std::type_identity<
            std::conditional_t<sign_operand<Part>, kernels::packed_signs, kernels::packed_codes>> {
  };
  template <composite_operand Part>
  struct packed_type<Part> : std::type_identity<packed_parts<Part>> {};

 public:
  using part_type = typename packed_type<typename T::part_type>::type;

  packed_parts(const T& tensor, const kernels::context& ctx) : tensor_(&tensor) {
    parts_.reserve(tensor.parts());
    for (index_t i = 0; i < tensor.parts(); ++i) {
      if constexpr (composite_operand<typename T::part_type>) {
        parts_.emplace_back(tensor.part(i), ctx);
      } else {
        parts_.push_back(pack(tensor.part(i), ctx));
      }
    }
  }
  packed_parts(const T&& tensor, const kernels::context& ctx) = delete;

  [[nodiscard]] const T& tensor() const noexcept { return *tensor_; }
  [[nodiscard]] const part_type& part(index_t i) const noexcept { return parts_[i]; }

 private:
  const T* tensor_;
  std::vector<part_type> parts_;
};

/// Packs the parts of a tensor. Refuses parts that have neither codes nor planes at compile time.
template <composite_operand T>
[[nodiscard]] packed_parts<T> pack(const T& w, const kernels::context& ctx = {}) {
  return {w, ctx};
}
template <composite_operand T>
packed_parts<T> pack(const T&& w, const kernels::context& ctx = {}) = delete;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
