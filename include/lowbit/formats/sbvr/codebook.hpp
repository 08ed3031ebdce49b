// formats/sbvr/codebook.hpp: what the groups of an SBVR tensor share, and the arithmetic that turns
// the levels of a group into numbers. Layer L3.
//
// This defines the format's values. With b_i(u) = -1 or +1 (zero_one: 0 or 1) for bit i of a code
// u:
//   per_group, table   level(u) = offset + b_0 c_0 + b_1 c_1 + ..., summed in double in this order
//   shared_ratios      level(u) = scale * r(u) + offset, in double,
//                      r(u) = b_0 r_0 + b_1 r_1 + ..., summed in double, rounded to float
// and rounded once to float.
//
// Invariants: sums have no products, and the product of two floats is exact in double, so no
// compiler can change a value by fusing. A stored zero is +0, hence a group whose coefficients are
// all zero decodes to +0.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "lowbit/formats/sbvr/format.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// The levels of one group, as they are stored. Which members count follows from the params:
///   per_group      coefficients, offset
///   table          index (the line; an offset is part of it)
///   shared_ratios  scale, offset; with scale_bits also index, and scale = index * row scale
struct sbvr_levels {
  std::array<float, sbvr::max_planes> coefficients{};
  float scale = 0.0F;
  float offset = 0.0F;
  std::uint32_t index = 0;

  friend bool operator==(const sbvr_levels&, const sbvr_levels&) = default;
};

/// level(u) for every code of `coefficients`, into out[0 .. 2^planes).
inline void sum_levels(sbvr_basis basis, std::span<const float> coefficients, float offset,
                       std::span<float> out) noexcept {
  std::array<double, 256> sums;
  sums[0] = static_cast<double>(offset);
  index_t count = 1;
  for (const float coefficient : coefficients) {
    const auto c = static_cast<double>(coefficient);
    for (index_t u = 0; u < count; ++u) {
      sums[count + u] = sums[u] + c;
      if (basis == sbvr_basis::sign) sums[u] -= c;
    }
    count *= 2;
  }
  for (index_t u = 0; u < count; ++u) out[u] = static_cast<float>(sums[u]);
}

class sbvr_codebook {
 public:
  sbvr_codebook() = default;
  /// Ratios and table all zero. Refuses params outside their range, and a table with more lines
  /// than its indices can tell apart (value).
  explicit sbvr_codebook(const sbvr::params& params) : params_(params) {
    check_params<sbvr>(params);
    if (params.coefficients == sbvr_coefficients::shared_ratios) {
      ratios_ = layout::scale_matrix(scale_type::fp16, {1, params.planes});
    }
    if (params.coefficients == sbvr_coefficients::table) {
      LOWBIT_CHECK(params.table_lines <= (1U << params.index_bits), value,
                   "table_lines = ", params.table_lines, " is too many for indices of ",
                   params.index_bits, " bits");
      table_ = layout::scale_matrix(params.scale_type, {params.table_lines, line_size(params)});
    }
  }

  [[nodiscard]] const sbvr::params& params() const noexcept { return params_; }
  [[nodiscard]] index_t level_count() const noexcept { return index_t{1} << params_.planes; }
  /// Numbers in a line of the table: the coefficients and, where there is one, the offset.
  [[nodiscard]] static constexpr index_t line_size(const sbvr::params& p) noexcept {
    return p.planes + (p.has_offset() ? 1U : 0U);
  }

  // -- stored numbers
  // ------------------------------------------------------------------------------

  [[nodiscard]] layout::scale_matrix& ratios() noexcept { return ratios_; }
  [[nodiscard]] const layout::scale_matrix& ratios() const noexcept { return ratios_; }
  [[nodiscard]] layout::scale_matrix& table() noexcept { return table_; }
  [[nodiscard]] const layout::scale_matrix& table() const noexcept { return table_; }

  /// To be called when ratios() were written.
  void ratios_changed() noexcept {
    std::array<float, sbvr::max_planes> r;
    for (index_t i = 0; i < params_.planes; ++i) r[i] = ratios_.get(0, i);
    sum_levels(params_.basis, std::span<const float>(r.data(), params_.planes), 0.0F,
               ratio_levels_);
  }
  void set_ratios(std::span<const float> ratios) noexcept {
    for (index_t i = 0; i < ratios.size(); ++i) ratios_.set(0, i, ratios[i]);
    ratios_changed();
  }
  /// `line` has line_size() numbers.
  void set_line(index_t index, std::span<const float> line) noexcept {
    for (index_t i = 0; i < line.size(); ++i) table_.set(index, i, line[i]);
  }
  /// r(u) of every code.
  [[nodiscard]] std::span<const float> ratio_levels() const noexcept {
    return {ratio_levels_.data(), level_count()};
  }

  // -- levels
  // --------------------------------------------------------------------------------------

  /// Coefficients and offset of a group, whatever the params. Coefficients of shared_ratios are
  /// rounded to float.
  [[nodiscard]] sbvr_levels resolved(const sbvr_levels& l) const noexcept {
    sbvr_levels out = l;
    switch (params_.coefficients) {
      case sbvr_coefficients::per_group: break;
      case sbvr_coefficients::table:
        for (index_t i = 0; i < params_.planes; ++i) out.coefficients[i] = table_.get(l.index, i);
        out.offset = params_.has_offset() ? table_.get(l.index, params_.planes) : 0.0F;
        break;
      case sbvr_coefficients::shared_ratios:
        for (index_t i = 0; i < params_.planes; ++i) {
          out.coefficients[i] = l.scale * ratios_.get(0, i);
        }
        break;
    }
    return out;
  }

  /// level(u) for each of the 2^planes codes.
  void values(const sbvr_levels& l, std::span<float> out) const noexcept {
    if (params_.coefficients == sbvr_coefficients::shared_ratios) {
      const auto scale = static_cast<double>(l.scale);
      const auto offset = static_cast<double>(l.offset);
      for (index_t u = 0; u < level_count(); ++u) {
        out[u] = static_cast<float>(scale * static_cast<double>(ratio_levels_[u]) + offset);
      }
      return;
    }
    const sbvr_levels whole = resolved(l);
    sum_levels(params_.basis, std::span<const float>(whole.coefficients.data(), params_.planes),
               whole.offset, out);
  }

  /// level(0).
  [[nodiscard]] float first_value(const sbvr_levels& l) const noexcept {
    if (params_.coefficients == sbvr_coefficients::shared_ratios) {
      return static_cast<float>(static_cast<double>(l.scale) *
                                    static_cast<double>(ratio_levels_[0]) +
                                static_cast<double>(l.offset));
    }
    const sbvr_levels whole = resolved(l);
    auto sum = static_cast<double>(whole.offset);
    for (index_t i = 0; i < params_.planes && params_.basis == sbvr_basis::sign; ++i) {
      sum -= static_cast<double>(whole.coefficients[i]);
    }
    return static_cast<float>(sum);
  }

  /// Whether everything that is computed of a group stays finite: |offset| and the magnitudes of
  /// the coefficients add up to 2^127 at most, half of what a float holds. False for NaN and Inf.
  [[nodiscard]] bool is_bounded(const sbvr_levels& l) const noexcept {
    const sbvr_levels whole = resolved(l);
    double sum = std::fabs(static_cast<double>(whole.offset));
    for (index_t i = 0; i < params_.planes; ++i) {
      sum += std::fabs(static_cast<double>(whole.coefficients[i]));
    }
    return sum <= 0x1p127;
  }

 private:
  sbvr::params params_;
  layout::scale_matrix ratios_;  ///< [1, planes], fp16
  layout::scale_matrix table_;   ///< [table_lines, line_size()]
  std::array<float, 256> ratio_levels_{};
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
