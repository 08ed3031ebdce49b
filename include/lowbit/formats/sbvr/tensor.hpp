// formats/sbvr/tensor.hpp: a matrix of sums of scaled bit-vectors. Layer L3.
//
// Stored buffers, in this order (docs/file_format.md); K planes, G = ceil(columns / group_size):
//   planes        U64 [K, N, words]        layout/bit_matrix.hpp
//   coefficients  real [N, G * K]          per_group: those of group g are columns g*K ..
//   indices       U8 or U16 [N, G]         table: the line of each group
//   table         real [table_lines, L]    table: K coefficients and, with an offset, the offset
//   ratios        F16 [1, K]               shared_ratios
//   scales        real [N, G]              shared_ratios without scale_bits: one per group, >= 0
//   scale_codes   U8 [N, bytes]            shared_ratios with scale_bits: layout/code_matrix.hpp
//   row_scales    real [N, 1]              shared_ratios with scale_bits: >= 0
//   offsets       real [N, G]              offset per_group, unless in the table
// where real is scale_type: F32, F16 or BF16.
//
// Invariant: storage_bits() counts every byte above.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "lowbit/formats/sbvr/codebook.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/layout/code_matrix.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

class sbvr_tensor {
 public:
  using format = sbvr;

  /// Everything zero. Refuses params outside their range (value).
  sbvr_tensor(shape2 shape, const sbvr::params& params)
      : sbvr_tensor(shape, sbvr_codebook(params)) {}
  /// Codes and levels zero, with the ratios or the table of `codebook`.
  sbvr_tensor(shape2 shape, sbvr_codebook codebook)
      : shape_(shape), codebook_(std::move(codebook)), planes_(params().planes, shape) {
    const shape2 groups = group_shape();
    const scale_type real = params().scale_type;
    switch (params().coefficients) {
      case sbvr_coefficients::per_group:
        scales_ = {real, {groups.rows, checked_mul(groups.cols, params().planes, "coefficients")}};
        break;
      case sbvr_coefficients::table:
        indices_ = aligned_buffer<std::byte>(
            checked_mul(groups.size(), params().index_bits / 8U, "indices"));
        break;
      case sbvr_coefficients::shared_ratios:
        if (params().has_scale_codes()) {
          scale_codes_ = {params().scale_bits, groups};
          scales_ = {real, {shape.rows, 1}};
        } else {
          scales_ = {real, groups};
        }
        break;
    }
    if (has_offsets(params())) offsets_ = {real, groups};
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const sbvr::params& params() const noexcept { return codebook_.params(); }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// W[n, k] = level(code(n, k)) of group k / group_size, as codebook.hpp defines it.
  void dequantize(row_range rows, matrix_view<float> out) const {
    check_dequantize(shape_, rows, out);
    if (out.empty()) return;
    aligned_buffer<std::uint8_t> row_codes(shape_.cols);
    std::array<float, 256> values;
    for (index_t r = 0; r < rows.size(); ++r) {
      codes(rows.begin + r, row_codes.span());
      for (index_t begin = 0, g = 0; begin < shape_.cols; begin += group_size(), ++g) {
        codebook_.values(levels_of(rows.begin + r, g), values);
        const index_t end = std::min(begin + group_size(), shape_.cols);
        for (index_t c = begin; c < end; ++c) out(r, c) = values[row_codes[c]];
      }
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    const auto visit_reals = [&visitor](std::string_view name, const layout::scale_matrix& m) {
      const auto extents = m.extents();
      visitor({name, m.element(), extents, m.bytes()});
    };
    const auto planes = planes_.extents();
    visitor({"planes", element_type::u64, planes, std::as_bytes(planes_.words())});
    switch (params().coefficients) {
      case sbvr_coefficients::per_group: visit_reals("coefficients", scales_); break;
      case sbvr_coefficients::table: {
        const std::array<index_t, 2> groups{group_shape().rows, group_shape().cols};
        visitor({"indices", index_type(params()), groups, indices_.span()});
        visit_reals("table", codebook_.table());
        break;
      }
      case sbvr_coefficients::shared_ratios:
        visit_reals("ratios", codebook_.ratios());
        if (params().has_scale_codes()) {
          const auto extents = scale_codes_.extents();
          visitor({"scale_codes", element_type::u8, extents, std::as_bytes(scale_codes_.bytes())});
          visit_reals("row_scales", scales_);
        } else {
          visit_reals("scales", scales_);
        }
        break;
    }
    if (has_offsets(params())) visit_reals("offsets", offsets_);
  }

  /// Refuses (format) set padding bits, numbers that are not finite, scales below 0, indices past
  /// the table, and levels that overflow. Allocates nothing before the source has shown that it
  /// holds every buffer in full.
  [[nodiscard]] static sbvr_tensor from_buffers(shape2 shape, const sbvr::params& params,
                                                buffer_source& source) {
    check_params<sbvr>(params);
    LOWBIT_CHECK(params.coefficients != sbvr_coefficients::table ||
                     params.table_lines <= (1U << params.index_bits),
                 format, "a table of ", params.table_lines, " lines has indices of ",
                 params.index_bits, " bits");
    const shape2 groups = groups_of(shape, params);
    const element_type real = layout::element_type_of(params.scale_type);
    const auto planes = get_buffer(source, "planes", element_type::u64,
                                   {params.planes, shape.rows, layout::words_per_row(shape.cols)});
    std::span<const std::byte> scales;
    std::span<const std::byte> codes;
    std::span<const std::byte> shared;
    std::span<const std::byte> offsets;
    switch (params.coefficients) {
      case sbvr_coefficients::per_group:
        scales = get_buffer(source, "coefficients", real,
                            {groups.rows, checked_mul(groups.cols, params.planes, "coefficients")});
        break;
      case sbvr_coefficients::table:
        codes = get_buffer(source, "indices", index_type(params), {groups.rows, groups.cols});
        shared = get_buffer(source, "table", real,
                            {params.table_lines, sbvr_codebook::line_size(params)});
        break;
      case sbvr_coefficients::shared_ratios:
        shared = get_buffer(source, "ratios", element_type::f16, {1, params.planes});
        if (params.has_scale_codes()) {
          codes = get_buffer(
              source, "scale_codes", element_type::u8,
              {groups.rows, layout::code_matrix::row_bytes(params.scale_bits, groups.cols)});
          scales = get_buffer(source, "row_scales", real, {shape.rows, 1});
        } else {
          scales = get_buffer(source, "scales", real, {groups.rows, groups.cols});
        }
        break;
    }
    if (has_offsets(params))
      offsets = get_buffer(source, "offsets", real, {groups.rows, groups.cols});

    sbvr_tensor t(shape, params);
    copy_bytes(planes, std::as_writable_bytes(t.planes_.words()));
    copy_bytes(scales, t.scales_.bytes());
    copy_bytes(offsets, t.offsets_.bytes());
    copy_bytes(codes, params.coefficients == sbvr_coefficients::table
                          ? t.indices_.span()
                          : std::as_writable_bytes(t.scale_codes_.bytes()));
    copy_bytes(shared, params.coefficients == sbvr_coefficients::table
                           ? t.codebook_.table().bytes()
                           : t.codebook_.ratios().bytes());
    t.check_values();
    if (params.coefficients == sbvr_coefficients::shared_ratios) t.codebook_.ratios_changed();
    return t;
  }

  // -- bit_serial_operand ------------------------------------------------------------------------

  [[nodiscard]] const layout::bit_matrix& planes() const noexcept { return planes_; }
  /// Columns per group, the row's at most.
  [[nodiscard]] index_t group_size() const noexcept {
    return std::min<index_t>(params().group_size, shape_.cols);
  }
  /// zero_one: the coefficients c_i; sign: 2 c_i. Returns the value of code 0.
  float plane_coefficients(index_t row, index_t group, std::span<float> out) const noexcept {
    const sbvr_levels l = levels_of(row, group);
    const sbvr_levels whole = codebook_.resolved(l);
    const float distance = params().basis == sbvr_basis::sign ? 2.0F : 1.0F;
    for (index_t i = 0; i < params().planes; ++i) out[i] = distance * whole.coefficients[i];
    return codebook_.first_value(l);
  }

  // -- plane_sum_operand -------------------------------------------------------------------------

  [[nodiscard]] lowbit::plane_form plane_form() const noexcept {
    lowbit::plane_form form{
        .is_signed = params().basis == sbvr_basis::sign,
        .has_offsets = params().has_offset(),
        .has_ratios = params().coefficients == sbvr_coefficients::shared_ratios};
    for (index_t i = 0; form.has_ratios && i < params().planes; ++i) {
      form.ratios[i] = codebook_.ratios().get(0, i);
    }
    return form;
  }
  /// The scale, or the coefficients c_i. Returns the offset.
  float plane_levels(index_t row, index_t group, std::span<float> out) const noexcept {
    const sbvr_levels l = levels_of(row, group);
    if (params().coefficients == sbvr_coefficients::shared_ratios) {
      out[0] = l.scale;
      return l.offset;
    }
    const sbvr_levels whole = codebook_.resolved(l);
    std::copy_n(whole.coefficients.begin(), params().planes, out.begin());
    return whole.offset;
  }

  // -- rows and groups: how a quantizer fills the tensor -----------------------------------------

  [[nodiscard]] const sbvr_codebook& codebook() const noexcept { return codebook_; }
  /// {rows, groups per row}.
  [[nodiscard]] shape2 group_shape() const noexcept { return groups_of(shape_, params()); }
  /// Writes the codes of one row; `out` has as many elements as the row has columns.
  void codes(index_t row, std::span<std::uint8_t> out) const noexcept {
    layout::unpack_row(planes_, row, out);
  }
  /// Stores the codes of one row, each below 2^planes.
  void set_codes(index_t row, std::span<const std::uint8_t> codes) noexcept {
    layout::pack_row(codes, row, planes_);
  }
  /// The levels of a group, exactly as stored.
  [[nodiscard]] sbvr_levels levels_of(index_t row, index_t group) const noexcept {
    sbvr_levels l;
    switch (params().coefficients) {
      case sbvr_coefficients::per_group:
        for (index_t i = 0; i < params().planes; ++i) {
          l.coefficients[i] = scales_.get(row, group * params().planes + i);
        }
        break;
      case sbvr_coefficients::table: l.index = index(row, group); break;
      case sbvr_coefficients::shared_ratios:
        if (params().has_scale_codes()) {
          l.index = scale_codes_.get(row, group);
          l.scale = static_cast<float>(l.index) * scales_.get(row, 0);
        } else {
          l.scale = scales_.get(row, group);
        }
        break;
    }
    if (has_offsets(params())) l.offset = offsets_.get(row, group);
    return l;
  }
  /// Stores the levels of a group: real numbers rounded to scale_type, an index as it is (a scale
  /// is then index times the row's scale).
  void set_levels(index_t row, index_t group, const sbvr_levels& l) noexcept {
    switch (params().coefficients) {
      case sbvr_coefficients::per_group:
        for (index_t i = 0; i < params().planes; ++i) {
          scales_.set(row, group * params().planes + i, l.coefficients[i]);
        }
        break;
      case sbvr_coefficients::table: set_index(row, group, l.index); break;
      case sbvr_coefficients::shared_ratios:
        if (params().has_scale_codes()) {
          scale_codes_.set(row, group, l.index);
        } else {
          scales_.set(row, group, l.scale);
        }
        break;
    }
    if (has_offsets(params())) offsets_.set(row, group, l.offset);
  }
  /// Stores the number that the scale codes of a row are multiples of.
  void set_row_scale(index_t row, float scale) noexcept { scales_.set(row, 0, scale); }

  /// The tensor that reads only the first `count` planes (1 .. planes): coarser, in `count` bits
  /// per weight. Planes are sorted by the magnitude of their coefficients, so that what is dropped
  /// is the smallest part of each sum. With signs its mean is 0; with zero_one and an offset, half
  /// of each dropped coefficient moves into the offset. Refuses any other count (value).
  [[nodiscard]] sbvr_tensor first_planes(unsigned count) const {
    LOWBIT_CHECK(count >= 1 && count <= params().planes, value, "first_planes(", count, ") of ",
                 params().planes);
    sbvr::params fewer = params();
    fewer.planes = count;
    const bool moves_half = fewer.basis == sbvr_basis::zero_one && fewer.has_offset();
    const auto half_dropped = [&, this](const sbvr_levels& whole) {
      double sum = 0.0;
      for (index_t i = count; i < params().planes; ++i) {
        sum += 0.5 * static_cast<double>(whole.coefficients[i]);
      }
      return static_cast<float>(static_cast<double>(whole.offset) + sum);
    };

    sbvr_codebook codebook(fewer);
    if (fewer.coefficients == sbvr_coefficients::shared_ratios) {
      std::array<float, sbvr::max_planes> ratios;
      for (index_t i = 0; i < count; ++i) ratios[i] = codebook_.ratios().get(0, i);
      codebook.set_ratios({ratios.data(), count});
    }
    if (fewer.coefficients == sbvr_coefficients::table) {
      for (std::uint32_t line = 0; line < fewer.table_lines; ++line) {
        const sbvr_levels whole = codebook_.resolved({.index = line});
        std::array<float, sbvr::max_planes + 1> numbers{};
        std::copy_n(whole.coefficients.begin(), count, numbers.begin());
        if (fewer.has_offset()) numbers[count] = moves_half ? half_dropped(whole) : whole.offset;
        codebook.set_line(line, {numbers.data(), sbvr_codebook::line_size(fewer)});
      }
    }
    sbvr_tensor t(shape_, std::move(codebook));
    copy_bytes(std::as_bytes(planes_.words().first(t.planes_.words().size())),
               std::as_writable_bytes(t.planes_.words()));
    if (params().has_scale_codes()) t.scales_ = scales_;
    const shape2 groups = group_shape();
    for (index_t r = 0; r < groups.rows; ++r) {
      for (index_t g = 0; g < groups.cols; ++g) {
        sbvr_levels l = levels_of(r, g);
        if (moves_half) l.offset = half_dropped(codebook_.resolved(l));
        t.set_levels(r, g, l);
      }
    }
    return t;
  }

 private:
  [[nodiscard]] static shape2 groups_of(shape2 shape, const sbvr::params& p) noexcept {
    return {shape.rows, div_up(shape.cols, p.group_size)};
  }
  [[nodiscard]] static bool has_offsets(const sbvr::params& p) noexcept {
    return p.has_offset() && p.coefficients != sbvr_coefficients::table;
  }
  [[nodiscard]] static element_type index_type(const sbvr::params& p) noexcept {
    return p.index_bits == 8 ? element_type::u8 : element_type::u16;
  }

  [[nodiscard]] std::uint32_t index(index_t row, index_t group) const noexcept {
    const index_t i = row * group_shape().cols + group;
    if (params().index_bits == 8) return std::to_integer<std::uint32_t>(indices_[i]);
    std::uint16_t wide = 0;
    std::memcpy(&wide, indices_.data() + 2 * i, 2);
    return wide;
  }
  void set_index(index_t row, index_t group, std::uint32_t index) noexcept {
    const index_t i = row * group_shape().cols + group;
    if (params().index_bits == 8) {
      indices_[i] = static_cast<std::byte>(index);
    } else {
      const auto wide = static_cast<std::uint16_t>(index);
      std::memcpy(indices_.data() + 2 * i, &wide, 2);
    }
  }

  /// Refuses (format) what no quantizer writes.
  void check_values() const {
    LOWBIT_CHECK(planes_.padding_is_zero(), format, "planes have set bits past column ",
                 shape_.cols);
    scales_.check_values("scales", params().coefficients != sbvr_coefficients::shared_ratios);
    offsets_.check_values("offsets", /*allow_negative=*/true);
    codebook_.ratios().check_values("ratios", /*allow_negative=*/true);
    codebook_.table().check_values("table", /*allow_negative=*/true);
    const shape2 groups = group_shape();
    const std::uint32_t lines =
        params().coefficients == sbvr_coefficients::table ? params().table_lines : (1U << 16U);
    for (std::uint32_t line = 0; line < codebook_.table().shape().rows; ++line) {
      LOWBIT_CHECK(codebook_.is_bounded({.index = line}), format, "line ", line,
                   " of the table: its levels overflow");
    }
    for (index_t r = 0; r < groups.rows; ++r) {
      for (index_t g = 0; g < groups.cols; ++g) {
        const sbvr_levels l = levels_of(r, g);
        LOWBIT_CHECK(l.index < lines, format, "indices [", r, ", ", g, "] is ", l.index,
                     ", the table has ", lines, " lines");
        LOWBIT_CHECK(codebook_.is_bounded(l), format, "row ", r, ", group ", g,
                     ": its levels overflow");
      }
    }
  }

  shape2 shape_;
  sbvr_codebook codebook_;
  layout::bit_matrix planes_;
  layout::scale_matrix scales_;  ///< coefficients, scales or row_scales
  layout::code_matrix scale_codes_;
  aligned_buffer<std::byte> indices_;
  layout::scale_matrix offsets_;
};

static_assert(plane_sum_operand<sbvr_tensor>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
