// formats/sbvr/format.hpp: the name, the version and the parameters of the SBVR format. Layer L3.
#pragma once

#include <cstdint>
#include <string_view>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
/// What the bits of a plane stand for.
enum class sbvr_basis : std::uint8_t {
  sign,      ///< -1 and +1
  zero_one,  ///< 0 and 1
};
/// Where the coefficients of a group come from.
enum class sbvr_coefficients : std::uint8_t {
  per_group,      ///< the group stores all of them
  table,          ///< the group stores an index into a table of lines
  shared_ratios,  ///< the group stores a scale; the ratios belong to the tensor
};
enum class sbvr_offset : std::uint8_t { none, per_group };
}  // namespace formats

template <>
inline constexpr std::string_view enum_names<formats::sbvr_basis>[] = {"sign", "zero_one"};
template <>
inline constexpr std::string_view enum_names<formats::sbvr_coefficients>[] = {"per_group", "table",
                                                                              "shared_ratios"};
template <>
inline constexpr std::string_view enum_names<formats::sbvr_offset>[] = {"none", "per_group"};

namespace formats {

/// Summation of bit-vectors (SBVR, arXiv 2509.18172): per group of columns of a row,
///   W = offset + sum over planes i of c_i B_i.
struct sbvr {
  static constexpr std::string_view name = "sbvr";
  static constexpr std::uint32_t version = 1;
  static constexpr unsigned max_planes = 8;
  static constexpr index_t max_group_size = 256;

  struct params {
    unsigned planes = 4;  ///< 1..8: K of the paper
    sbvr_basis basis = sbvr_basis::sign;
    sbvr_coefficients coefficients = sbvr_coefficients::shared_ratios;
    std::uint32_t group_size = 128;  ///< 32..256 columns
    sbvr_offset offset = sbvr_offset::none;
    lowbit::scale_type scale_type = lowbit::scale_type::fp16;
    unsigned scale_bits = 0;          ///< shared_ratios: 0 or 3..8
    unsigned index_bits = 8;          ///< table: 8 or 16
    std::uint32_t table_lines = 256;  ///< table: 1..65536, at most 2^index_bits

    [[nodiscard]] constexpr bool has_offset() const noexcept {
      return offset == sbvr_offset::per_group;
    }
    /// Whether scales are integer codes times a real number per row.
    [[nodiscard]] constexpr bool has_scale_codes() const noexcept {
      return coefficients == sbvr_coefficients::shared_ratios && scale_bits != 0;
    }
    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params& p, params_visitor& v) {
    v({"planes", "bit planes, that is bits per code"}, p.planes, 1U, max_planes);
    v({"basis", "what a bit stands for: -1 or +1, or 0 or 1"}, p.basis);
    v({"coefficients",
       "each group's own, a line of a table, or a scale per group times ratios of the tensor"},
      p.coefficients);
    v({"group_size", "columns that share coefficients; need not divide the row"}, p.group_size,
      std::uint32_t{32}, std::uint32_t{max_group_size});
    v({"offset", "whether a real number per group is added"}, p.offset);
    v({"scale_type", "how coefficients, scales and offsets are stored"}, p.scale_type);
    v({"scale_bits",
       "for shared_ratios: bits of a scale, which is then a multiple of its row's; 0: a real "
       "scale"},
      p.scale_bits, 0U, 8U);
    LOWBIT_CHECK(p.scale_bits == 0 || p.scale_bits >= 3, value, "scale_bits = ", p.scale_bits,
                 " is neither 0 nor in 3..8");
    v({"index_bits", "for table: bits of an index, 8 or 16"}, p.index_bits, 8U, 16U);
    LOWBIT_CHECK(p.index_bits == 8 || p.index_bits == 16, value, "index_bits = ", p.index_bits,
                 " is neither 8 nor 16");
    v({"table_lines", "for table: its lines (to a quantizer: at most so many)"}, p.table_lines,
      std::uint32_t{1}, std::uint32_t{65536});
  }
};

static_assert(format_tag<sbvr>);

}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
