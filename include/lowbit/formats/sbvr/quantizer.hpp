// formats/sbvr/quantizer.hpp: fits sums of scaled bit-vectors, group by group. Layer L3.
//
// Stated results: a group of zeros decodes to +0 (table: to the line nearest to 0); denormals are
// ordinary numbers; -0 is 0; coefficients that underflow scale_type are 0; coefficients that
// overflow it, or whose levels would add up to more than 2^127, are refused with row and group. NaN
// and Inf are refused with row and column.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "lowbit/core/group_codec.hpp"
#include "lowbit/formats/sbvr/coefficient_fit.hpp"
#include "lowbit/formats/sbvr/fit.hpp"
#include "lowbit/formats/sbvr/grid_search.hpp"
#include "lowbit/formats/sbvr/scale_fit.hpp"
#include "lowbit/formats/sbvr/tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// How the groups of one matrix are coded: models group_codec. Made by sbvr_quantizer::prepare.
class sbvr_codec {
 public:
  using tensor = sbvr_tensor;
  using levels = sbvr_levels;

  /// `row_scales`: one per row with scale codes, else empty.
  sbvr_codec(shape2 shape, sbvr_codebook codebook, std::vector<float> row_scales,
             const sbvr_fit& effort)
      : shape_(shape),
        codebook_(std::move(codebook)),
        row_scales_(std::move(row_scales)),
        effort_(effort),
        coefficient_fit_(params()) {
    if (params().coefficients == sbvr_coefficients::shared_ratios) scale_fit_.emplace(codebook_);
  }

  [[nodiscard]] const sbvr::params& params() const noexcept { return codebook_.params(); }
  [[nodiscard]] unsigned bits() const noexcept { return params().planes; }
  [[nodiscard]] index_t group_size() const noexcept {
    return std::min<index_t>(params().group_size, shape_.cols);
  }

  /// Levels for the values x (finite, at most group_size() of them) of a group. Refuses what
  /// cannot be stored (value, with row and group).
  [[nodiscard]] sbvr_levels fit(index_t row, index_t group, std::span<const float> x,
                                std::span<const float> h) const {
    const detail::group_values values(x, h, coefficient_fit_.symmetric());
    sbvr_levels l;
    switch (params().coefficients) {
      case sbvr_coefficients::per_group:
        l = coefficient_fit_.fit(values, effort_.rounds).levels;
        break;
      case sbvr_coefficients::table: l.index = nearest_line(values); break;
      case sbvr_coefficients::shared_ratios:
        l = scale_fit_->fit(values, grid(row), effort_.candidates).levels;
        break;
    }
    check_range(row, group, values, l);
    return l;
  }
  /// The value of each of the 2^bits() codes.
  void values(const sbvr_levels& l, std::span<float> out) const noexcept {
    codebook_.values(l, out);
  }

  /// shared_ratios: the scale; per_group: the coefficients; then the offset, if there is one.
  /// Nothing of a table.
  [[nodiscard]] index_t terms() const noexcept {
    const index_t offset = params().has_offset() ? 1 : 0;
    switch (params().coefficients) {
      case sbvr_coefficients::per_group: return params().planes + offset;
      case sbvr_coefficients::table: return 0;
      case sbvr_coefficients::shared_ratios: return 1 + offset;
    }
    return 0;
  }
  void term(const sbvr_levels&, std::uint8_t code, std::span<float> out) const noexcept {
    index_t i = 0;
    if (params().coefficients == sbvr_coefficients::shared_ratios) {
      out[i++] = codebook_.ratio_levels()[code];
    } else if (params().coefficients == sbvr_coefficients::per_group) {
      const float clear = params().basis == sbvr_basis::sign ? -1.0F : 0.0F;
      for (; i < params().planes; ++i)
        out[i] = ((static_cast<unsigned>(code) >> i) & 1U) != 0 ? 1.0F : clear;
    }
    if (i < out.size()) out[i] = 1.0F;
  }
  /// `delta` has terms() elements. A scale that would not be above 0 changes nothing.
  [[nodiscard]] sbvr_levels adjusted(const sbvr_levels& l, index_t row,
                                     std::span<const double> delta) const noexcept {
    const auto stored = [this](float value, double change) {
      const auto sum = static_cast<float>(static_cast<double>(value) + change);
      return layout::round_to(params().scale_type, sum) + 0.0F;  // + 0: no -0
    };
    sbvr_levels out = l;
    index_t used = 0;
    switch (params().coefficients) {
      case sbvr_coefficients::table: return l;
      case sbvr_coefficients::per_group:
        for (; used < params().planes; ++used) {
          out.coefficients[used] = stored(l.coefficients[used], delta[used]);
        }
        break;
      case sbvr_coefficients::shared_ratios: {
        const double scale = static_cast<double>(l.scale) + delta[used++];
        if (!(scale > 0.0) || !(l.scale > 0.0F)) return l;
        out = grid(row).nearest(scale, 0.0);
        if (!(out.scale > 0.0F)) return l;
        out.offset = l.offset;
        break;
      }
    }
    if (params().has_offset()) out.offset = stored(l.offset, delta[used]);
    return codebook_.is_bounded(out) ? out : l;
  }

  /// Ratios, table and row scales as they are here; codes and levels zero.
  [[nodiscard]] sbvr_tensor make_tensor() const {
    sbvr_tensor t(shape_, codebook_);
    for (index_t r = 0; r < row_scales_.size(); ++r) t.set_row_scale(r, row_scales_[r]);
    return t;
  }
  void store(sbvr_tensor& t, index_t row, index_t group, const sbvr_levels& l) const noexcept {
    t.set_levels(row, group, l);
  }

  /// The codes of the levels nearest to x, one for each.
  void encode(const sbvr_levels& l, std::span<const float> x, std::uint8_t* codes) const noexcept {
    std::array<float, 256> values;
    codebook_.values(l, values);
    const std::span<const float> used(values.data(), codebook_.level_count());
    if (scale_fit_) {
      detail::nearest_level(used, scale_fit_->order()).encode(x, codes);
    } else {
      std::array<std::uint8_t, 256> order;
      detail::sort_codes(used, order.data());
      detail::nearest_level(used, order.data()).encode(x, codes);
    }
  }

 private:
  [[nodiscard]] detail::scale_grid grid(index_t row) const noexcept {
    if (!params().has_scale_codes()) return {.type = params().scale_type};
    return {params().scale_type, params().scale_bits, row_scales_[row]};
  }

  [[nodiscard]] std::uint32_t nearest_line(const detail::group_values& values) const noexcept {
    std::uint32_t best = 0;
    double best_error = std::numeric_limits<double>::infinity();
    for (std::uint32_t line = 0; line < params().table_lines; ++line) {
      const double error = coefficient_fit_.error(values, codebook_.resolved({.index = line}));
      if (error < best_error) {
        best = line;
        best_error = error;
      }
    }
    return best;
  }

  /// A group that got no levels because none could be stored must not pass as one of zeros.
  void check_range(index_t row, index_t group, const detail::group_values& values,
                   const sbvr_levels& l) const {
    const bool table = params().coefficients == sbvr_coefficients::table;
    const bool fits = std::isfinite(
        layout::round_to(params().scale_type, static_cast<float>(2.0 * values.rms())));
    LOWBIT_CHECK(table || (fits && codebook_.is_bounded(l)), value, "the levels of row ", row,
                 ", group ", group, " overflow ",
                 enum_names<scale_type>[static_cast<std::size_t>(params().scale_type)],
                 "; use a scale_type with a larger range");
  }

  shape2 shape_;
  sbvr_codebook codebook_;
  std::vector<float> row_scales_;
  sbvr_fit effort_;
  detail::coefficient_fit coefficient_fit_;
  std::optional<detail::scale_fit> scale_fit_;  ///< shared_ratios
};

/// quantize() and prepare() are const, deterministic and thread-safe.
struct sbvr_quantizer {
  using tensor = sbvr_tensor;
  using codec = sbvr_codec;
  static constexpr std::string_view size_field = "planes";
  static constexpr std::string_view summary =
      "SBVR (arXiv 2509.18172): x = offset + sum of coefficient * bit over the planes";

  sbvr::params params = {};
  sbvr_fit fit = {};

  static void describe(sbvr_quantizer& q, params_visitor& v) {
    sbvr::describe(q.params, v);
    sbvr_fit::describe(q.fit, v);
  }

  /// Refuses NaN/Inf (value, with row and column), an importance that does not have K finite values
  /// >= 0 (shape, value), params out of range (value), and levels that overflow (value).
  [[nodiscard]] sbvr_tensor quantize(matrix_view<const float> weights,
                                     const calibration& known = {}) const {
    const sbvr_codec coded = prepare(weights, known, 1.0F);
    sbvr_tensor t = coded.make_tensor();
    if (weights.empty()) return t;
    aligned_buffer<std::uint8_t> codes(weights.cols());
    const detail::group_list groups(weights, known, params.group_size);
    const index_t per_row = t.group_shape().cols;
    for (index_t r = 0; r < weights.rows(); ++r) {
      for (index_t g = 0; g < per_row; ++g) {
        const auto [x, h] = groups[r * per_row + g];
        const sbvr_levels l = coded.fit(r, g, x, h);
        coded.store(t, r, g, l);
        coded.encode(l, x, codes.data() + g * params.group_size);
      }
      t.set_codes(r, codes.span());
    }
    return t;
  }

  /// The codec of a matrix: ratios, table and row scales are chosen from `weights`. Row scales
  /// leave room for groups `headroom` (>= 1) times larger.
  [[nodiscard]] sbvr_codec prepare(matrix_view<const float> weights, const calibration& known,
                                   float headroom) const {
    check_params<sbvr_quantizer>(*this);
    check_finite(weights, "the weight matrix");
    check_importance(known.importance, weights.cols());
    LOWBIT_CHECK(headroom >= 1.0F, value, "headroom is ", headroom, ", below 1");
    const detail::group_list groups(weights, known, params.group_size);
    sbvr_codebook codebook = make_codebook(groups);
    std::vector<float> row_scales;
    if (params.has_scale_codes()) row_scales = fit_row_scales(weights, groups, codebook, headroom);
    return {weights.shape(), std::move(codebook), std::move(row_scales), fit};
  }

 private:
  /// What all groups share.
  [[nodiscard]] sbvr_codebook make_codebook(const detail::group_list& groups) const {
    if (params.coefficients == sbvr_coefficients::table) {
      // The authors' search knows no offset.
      return fit.method == sbvr_method::grid_search && !params.has_offset()
                 ? detail::search_table(groups, params, fit)
                 : detail::cluster_table(groups, params, fit.rounds);
    }
    sbvr_codebook codebook(params);
    if (params.coefficients == sbvr_coefficients::shared_ratios) {
      const detail::coefficient_set ratios = detail::normal_ratios(params);
      codebook.set_ratios({ratios.data(), params.planes});
      if (fit.method == sbvr_method::learned_ratios) {
        detail::learn_ratios(groups, fit.candidates, fit.rounds, codebook);
      }
    }
    return codebook;
  }

  /// For each row the number of which the largest code makes its largest scale. The scale of a
  /// group is about its root mean square, so only the groups where that is largest are fitted, and
  /// a tenth is left for those that are not.
  [[nodiscard]] std::vector<float> fit_row_scales(matrix_view<const float> weights,
                                                  const detail::group_list& groups,
                                                  const sbvr_codebook& codebook,
                                                  float headroom) const {
    constexpr index_t fitted = 4;
    const detail::scale_fit fitter(codebook);
    const detail::scale_grid any{.type = scale_type::fp32};
    const auto largest_code = static_cast<double>((1U << params.scale_bits) - 1U);
    const index_t per_row = div_up(weights.cols(), params.group_size);
    std::vector<std::pair<double, index_t>> by_size(per_row);
    std::vector<float> row_scales(weights.rows());
    for (index_t r = 0; r < weights.rows(); ++r) {
      for (index_t g = 0; g < per_row; ++g) {
        by_size[g] = {detail::mean_square(groups[r * per_row + g]), g};
      }
      const auto end = by_size.begin() + static_cast<std::ptrdiff_t>(std::min(fitted, per_row));
      std::partial_sort(by_size.begin(), end, by_size.end(), std::greater<>());
      float largest = 0.0F;
      for (auto at = by_size.begin(); at != end; ++at) {
        const auto [x, h] = groups[r * per_row + at->second];
        const detail::group_values values(x, h, fitter.symmetric());
        largest = std::max(largest, fitter.fit(values, any, fit.candidates).levels.scale);
      }
      const double room = per_row > fitted ? 1.1 : 1.0;
      const double step = static_cast<double>(largest) * room * static_cast<double>(headroom);
      row_scales[r] = layout::round_to(params.scale_type, static_cast<float>(step / largest_code));
      LOWBIT_CHECK(std::isfinite(row_scales[r]), value, "the scale of row ", r, " overflows ",
                   enum_names<scale_type>[static_cast<std::size_t>(params.scale_type)]);
    }
    return row_scales;
  }
};

static_assert(groupwise_quantizer<sbvr_quantizer>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
