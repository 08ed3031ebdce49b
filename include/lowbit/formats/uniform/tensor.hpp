// formats/uniform/tensor.hpp: a matrix of uniform INT-b codes with its scales. Layer L3.
//
// Stored buffers, in this order (docs/file_format.md):
//   planes       U64 [bits, N, words]     the codes as canonical bit-planes (layout/bit_matrix.hpp)
//   scales       F32, F16 or BF16 [R, G]  one per group; >= 0
//   zero_points  U8 [R, bytes]            asymmetric only: bits-bit integers, see
//                                         layout/code_matrix.hpp
//   offsets      like scales [R, G]       offset only
// with R = N, or 1 for granularity tensor, and G = ceil(K / group_size), or 1.
//
// Invariant: bits per weight = bits (padded to 512 columns) + (scale bits + zero point or offset
// bits) / group_size; storage_bits() counts every byte above.
#pragma once

#include <algorithm>
#include <array>

#include "lowbit/formats/uniform/format.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/layout/code_matrix.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

class uniform_tensor {
 public:
  using format = uniform;

  /// All codes and scales zero. Refuses params outside their range (value).
  uniform_tensor(shape2 shape, const uniform::params& params)
      : shape_(shape), params_(params), group_size_(columns_per_group(shape, params)) {
    check_params<uniform>(params);
    planes_ = layout::bit_matrix(params.bits, shape);
    const shape2 groups = group_shape();
    scales_ = layout::scale_matrix(params.scale_type, groups);
    if (params.kind == symmetry::asymmetric) zero_points_ = {params.bits, groups};
    if (params.kind == symmetry::offset) offsets_ = {params.scale_type, groups};
  }

  // -- quantized_tensor ------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const uniform::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// W[n, k] = level(code) of group k / group_size, computed as core/affine.hpp's decode().
  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape_, rows, out);
    if (out.empty()) return;
    aligned_buffer<std::uint8_t> codes(shape_.cols);
    for (index_t r = 0; r < rows.size(); ++r) {
      layout::unpack_row(planes_, rows.begin + r, codes.span());
      for (index_t begin = 0, g = 0; begin < shape_.cols; begin += group_size_, ++g) {
        const index_t size = std::min(group_size_, shape_.cols - begin);
        decode(grid(), levels_of(rows.begin + r, g), codes.span().subspan(begin, size),
               out.row(r).data() + begin);
      }
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    const auto planes = planes_.extents();
    visitor({"planes", element_type::u64, planes, std::as_bytes(planes_.words())});
    const auto groups = scales_.extents();
    visitor({"scales", scales_.element(), groups, scales_.bytes()});
    if (params_.kind == symmetry::asymmetric) {
      const auto extents = zero_points_.extents();
      visitor({"zero_points", element_type::u8, extents, std::as_bytes(zero_points_.bytes())});
    }
    if (params_.kind == symmetry::offset) {
      visitor({"offsets", offsets_.element(), groups, offsets_.bytes()});
    }
  }

  /// Refuses (format) set padding bits, scales below 0, and levels that are not finite. Allocates
  /// nothing before the source has shown that it holds every buffer in full.
  [[nodiscard]] static uniform_tensor from_buffers(shape2 shape, const uniform::params& params,
                                                   buffer_source& source) {
    check_params<uniform>(params);
    const index_t group_size = columns_per_group(shape, params);
    const shape2 groups = groups_of(shape, params, group_size);
    const element_type real = layout::element_type_of(params.scale_type);
    const auto planes = get_buffer(source, "planes", element_type::u64,
                                   {params.bits, shape.rows, layout::words_per_row(shape.cols)});
    const auto scales = get_buffer(source, "scales", real, {groups.rows, groups.cols});
    std::span<const std::byte> zero_points;
    if (params.kind == symmetry::asymmetric) {
      zero_points =
          get_buffer(source, "zero_points", element_type::u8,
                     {groups.rows, layout::code_matrix::row_bytes(params.bits, groups.cols)});
    }
    std::span<const std::byte> offsets;
    if (params.kind == symmetry::offset)
      offsets = get_buffer(source, "offsets", real, {groups.rows, groups.cols});

    uniform_tensor t(shape, params);
    copy_bytes(planes, std::as_writable_bytes(t.planes_.words()));
    copy_bytes(scales, t.scales_.bytes());
    copy_bytes(zero_points, std::as_writable_bytes(t.zero_points_.bytes()));
    copy_bytes(offsets, t.offsets_.bytes());
    t.check_values();
    return t;
  }

  // -- bit_serial_operand ----------------------------------------------------------------------

  [[nodiscard]] const layout::bit_matrix& planes() const noexcept { return planes_; }
  /// Columns per group; K for granularity tensor and channel.
  [[nodiscard]] index_t group_size() const noexcept { return group_size_; }
  /// Coefficients scale * 2^i (twice that for signs); returns the value of code 0.
  float plane_coefficients(index_t row, index_t group, std::span<float> out) const noexcept {
    const affine_levels levels = levels_of(row, group);
    const float unit = grid().is_sign() ? 2.0F * levels.scale : levels.scale;
    for (index_t i = 0; i < params_.bits; ++i) {
      out[i] = unit * static_cast<float>(1U << i);
    }
    return decode(grid(), levels, 0);
  }

  // -- code_operand (with grid() and levels_of() below) ------------------------------------------

  /// Writes the codes of one row; `out` has K elements.
  void codes(index_t row, std::span<std::uint8_t> out) const noexcept {
    layout::unpack_row(planes_, row, out);
  }

  // -- groups: how a quantizer fills the tensor --------------------------------------------------

  [[nodiscard]] affine_grid grid() const noexcept { return {params_.bits, params_.kind}; }
  /// Columns that share levels in a tensor of this shape.
  [[nodiscard]] static index_t columns_per_group(shape2 shape, const uniform::params& p) noexcept {
    return p.granularity == granularity::group ? std::min<index_t>(p.group_size, shape.cols)
                                               : shape.cols;
  }
  /// {rows, groups per row} of the scales.
  [[nodiscard]] shape2 group_shape() const noexcept {
    return groups_of(shape_, params_, group_size_);
  }
  /// The levels of a group, exactly as stored.
  [[nodiscard]] affine_levels levels_of(index_t row, index_t group) const noexcept {
    const index_t r = params_.granularity == granularity::tensor ? 0 : row;
    affine_levels levels{.scale = scales_.get(r, group)};
    if (params_.kind == symmetry::asymmetric) {
      levels.zero_point = static_cast<int>(zero_points_.get(r, group));
    }
    if (params_.kind == symmetry::offset) levels.offset = offsets_.get(r, group);
    return levels;
  }
  /// Stores the levels of a group; real numbers are rounded to scale_type.
  void set_levels(index_t row, index_t group, const affine_levels& levels) noexcept {
    scales_.set(row, group, levels.scale);
    if (params_.kind == symmetry::asymmetric) {
      zero_points_.set(row, group, static_cast<unsigned>(levels.zero_point));
    }
    if (params_.kind == symmetry::offset) offsets_.set(row, group, levels.offset);
  }
  /// Stores the codes of one row (K of them, each below 2^bits).
  void set_codes(index_t row, std::span<const std::uint8_t> codes) noexcept {
    layout::pack_row(codes, row, planes_);
  }

 private:
  [[nodiscard]] static shape2 groups_of(shape2 shape, const uniform::params& p,
                                        index_t group_size) noexcept {
    return {p.granularity == granularity::tensor ? std::min(shape.rows, index_t{1}) : shape.rows,
            group_size == 0 ? 0 : div_up(shape.cols, group_size)};
  }

  /// Refuses (format) what no quantizer writes.
  void check_values() const {
    LOWBIT_CHECK(planes_.padding_is_zero(), format, "planes have set bits past column ",
                 shape_.cols);
    scales_.check_values("scales", /*allow_negative=*/false);
    offsets_.check_values("offsets", /*allow_negative=*/true);
    const shape2 groups = group_shape();
    for (index_t r = 0; r < groups.rows; ++r) {
      for (index_t g = 0; g < groups.cols; ++g) {
        LOWBIT_CHECK(has_finite_levels(grid(), levels_of(r, g)), format, "scales [", r, ", ", g,
                     "] is ", scales_.get(r, g), ": its levels overflow");
      }
    }
  }

  shape2 shape_;
  uniform::params params_;
  index_t group_size_;
  layout::bit_matrix planes_;
  layout::scale_matrix scales_;
  layout::code_matrix zero_points_;
  layout::scale_matrix offsets_;
};

static_assert(bit_serial_operand<uniform_tensor>);
static_assert(code_operand<uniform_tensor>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
