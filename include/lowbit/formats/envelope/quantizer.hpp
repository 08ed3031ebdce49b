// formats/envelope/quantizer.hpp: fits envelopes and chooses signs. Layer L3.
//
// Stated results: zeros decode to +0; a zero among other values gets the level nearest to it (there
// is none at 0); denormals are ordinary numbers; an envelope that underflows scale_type is 0; one
// that overflows it, or levels that would add up to more than 2^127, are refused. NaN and Inf are
// refused with row and column.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "lowbit/core/group_codec.hpp"
#include "lowbit/formats/envelope/fit.hpp"
#include "lowbit/formats/envelope/tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// Where a weight is: its levels follow from the envelopes.
struct envelope_place {
  std::uint32_t row = 0;
  std::uint32_t column = 0;
};

/// How the elements of one matrix are coded, each a group of its own: models group_codec. Made by
/// envelope_quantizer::prepare.
class envelope_codec {
 public:
  using tensor = envelope_tensor;
  using levels = envelope_place;

  /// `empty`: the tensor with its envelopes; its signs do not matter.
  explicit envelope_codec(envelope_tensor empty)
      : empty_(std::move(empty)), units_(index_t{params().planes} * params().envelope_rank) {
    const auto gather = [&, this](bool of_rows, index_t count) {
      std::vector<double> values(checked_mul(count, units_, "envelopes"));
      for (index_t u = 0; u < units_; ++u) {
        const auto& plane = empty_.plane(u / params().envelope_rank);
        const auto& from = of_rows ? plane.row_envelopes() : plane.column_envelopes();
        for (index_t i = 0; i < count; ++i) {
          values[i * units_ + u] = static_cast<double>(from.get(u % params().envelope_rank, i));
        }
      }
      return values;
    };
    rows_ = gather(true, empty_.shape().rows);
    columns_ = gather(false, empty_.shape().cols);
    // A share of the largest bound for each unit, or what it has already.
    largest_.resize(units_);
    const auto most = [this](const std::vector<double>& values, index_t u) {
      double largest = 0.0;
      for (index_t i = u; i < values.size(); i += units_) {
        largest = std::max(largest, std::fabs(values[i]));
      }
      return largest;
    };
    for (index_t u = 0; u < units_; ++u) {
      const double column = most(columns_, u);
      const double room =
          (envelope_tensor::largest_bound - empty_.bound()) / static_cast<double>(units_);
      largest_[u] = most(rows_, u) + (column > 0.0 ? room / column : 0.0);
      largest_[u] = std::min(largest_[u], 0x1p126);
    }
  }

  [[nodiscard]] const envelope::params& params() const noexcept { return empty_.params(); }
  [[nodiscard]] unsigned bits() const noexcept { return params().planes; }
  [[nodiscard]] index_t group_size() const noexcept {
    return std::min<index_t>(1, empty_.shape().cols);
  }

  /// The levels of an element do not depend on its value.
  [[nodiscard]] envelope_place fit(index_t row, index_t column, std::span<const float>,
                                   std::span<const float>) const noexcept {
    return {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column)};
  }
  /// The sum of the planes for each of the 2^planes codes, as dequantize() adds them up.
  void values(const envelope_place& at, std::span<float> out) const noexcept {
    const double* const row = rows_.data() + index_t{at.row} * units_;
    const double* const column = columns_.data() + index_t{at.column} * units_;
    const index_t rank = params().envelope_rank;
    for (index_t p = 0; p < params().planes; ++p) {
      double sum = 0.0;
      for (index_t j = p * rank; j < (p + 1) * rank; ++j) {
        sum += row[j] * column[j];  // the product of two floats is exact
      }
      const auto e = static_cast<float>(sum);
      if (p == 0) {
        out[0] = -e;
        out[1] = e;
        continue;
      }
      const index_t half = index_t{1} << p;
      for (index_t code = 0; code < half; ++code) {
        out[code + half] = out[code] + e;
        out[code] = out[code] + -e;
      }
    }
  }

  [[nodiscard]] index_t terms() const noexcept { return 0; }
  void term(const envelope_place&, std::uint8_t, std::span<float>) const noexcept {}
  [[nodiscard]] envelope_place adjusted(const envelope_place& at, index_t,
                                        std::span<const double>) const noexcept {
    return at;
  }

  [[nodiscard]] index_t row_terms() const noexcept { return units_; }
  void row_term(const envelope_place& at, std::uint8_t code, std::span<float> out) const noexcept {
    const double* const column = columns_.data() + index_t{at.column} * units_;
    for (index_t u = 0; u < units_; ++u) {
      const bool positive =
          ((static_cast<unsigned>(code) >> (u / params().envelope_rank)) & 1U) != 0;
      out[u] = static_cast<float>(positive ? column[u] : -column[u]);
    }
  }
  void row_numbers(index_t row, std::span<float> out) const noexcept {
    for (index_t u = 0; u < units_; ++u) out[u] = static_cast<float>(rows_[row * units_ + u]);
  }
  /// Numbers that are not finite, that could overflow or, for rank 1, that are negative change
  /// nothing.
  void set_row_numbers(index_t row, std::span<const float> numbers) noexcept {
    for (index_t u = 0; u < units_; ++u) {
      const float stored = layout::round_to(params().scale_type, numbers[u]);
      const bool legal = std::fabs(static_cast<double>(stored)) <= largest_[u] &&
                         (params().envelope_rank > 1 || stored >= 0.0F);
      if (!legal) return;
    }
    for (index_t u = 0; u < units_; ++u) {
      auto& plane = empty_.plane(u / params().envelope_rank);
      plane.row_envelopes().set(u % params().envelope_rank, row, numbers[u]);
      rows_[row * units_ + u] =
          static_cast<double>(plane.row_envelopes().get(u % params().envelope_rank, row));
    }
  }

  [[nodiscard]] envelope_tensor make_tensor() const { return empty_; }
  /// Envelopes are in the tensor already.
  void store(envelope_tensor&, index_t, index_t, const envelope_place&) const noexcept {}

  /// The codes of the levels nearest to the values of a row; of equally near ones the largest, so
  /// that zeros under envelopes of zero become +0.
  void encode(index_t row, std::span<const float> x, std::span<std::uint8_t> codes) const noexcept {
    std::array<float, 256> sums;
    const index_t count = index_t{1} << bits();
    for (index_t k = 0; k < x.size(); ++k) {
      values(fit(row, k, {}, {}), sums);
      double least = std::numeric_limits<double>::infinity();
      for (index_t code = count; code-- > 0;) {
        const double distance =
            std::fabs(static_cast<double>(x[k]) - static_cast<double>(sums[code]));
        if (distance < least) {
          least = distance;
          codes[k] = static_cast<std::uint8_t>(code);
        }
      }
    }
  }

 private:
  envelope_tensor empty_;
  index_t units_;
  std::vector<double> largest_;  // that a number of a unit may become
  std::vector<double> rows_;     // [N, units]
  std::vector<double> columns_;  // [K, units]
};

/// quantize() and prepare() are const, deterministic and thread-safe.
struct envelope_quantizer {
  using tensor = envelope_tensor;
  using codec = envelope_codec;
  static constexpr std::string_view size_field = "planes";
  static constexpr std::string_view summary =
      "additive envelopes: x = sum of sign * row number * column number over the planes";

  envelope::params params = {};
  envelope_fit fit = {};

  static void describe(envelope_quantizer& q, params_visitor& v) {
    envelope::describe(q.params, v);
    envelope_fit::describe(q.fit, v);
  }

  /// Refuses NaN/Inf (value, with row and column), importances that do not have one finite value
  /// >= 0 for each (shape, value), params out of range (value), and envelopes that overflow
  /// (value).
  [[nodiscard]] envelope_tensor quantize(matrix_view<const float> weights,
                                         const calibration& known = {}) const {
    const envelope_codec coded = prepare(weights, known, 1.0F);
    envelope_tensor t = coded.make_tensor();
    if (weights.empty()) return t;
    std::vector<std::uint8_t> codes(weights.cols());
    for (index_t r = 0; r < weights.rows(); ++r) {
      coded.encode(r, weights.row(r), codes);
      t.set_codes(r, codes);
    }
    return t;
  }

  /// The codec of a matrix: all envelopes are chosen here. A headroom above 1, whatever it is,
  /// makes levels somewhat wider.
  [[nodiscard]] envelope_codec prepare(matrix_view<const float> weights, const calibration& known,
                                       float headroom) const {
    check_params<envelope_quantizer>(*this);
    check_finite(weights, "the weight matrix");
    check_importance(known.importance, weights.cols());
    check_importance(known.output_importance, weights.rows(), "row");
    LOWBIT_CHECK(headroom >= 1.0F, value, "headroom is ", headroom, ", below 1");
    constexpr index_t most = std::numeric_limits<std::uint32_t>::max();
    LOWBIT_CHECK(weights.rows() <= most && weights.cols() <= most, shape, "[", weights.rows(), ", ",
                 weights.cols(), "] has more than ", most, " rows or columns");
    envelope_tensor t(weights.shape(), params);
    if (weights.empty()) return envelope_codec(std::move(t));

    const auto row_weights = detail::fit_weights(known.output_importance, weights.rows());
    const auto column_weights = detail::fit_weights(known.importance, weights.cols());
    detail::envelope_fitter fitter(weights, row_weights, column_weights, params, fit);
    fitter.run(headroom > 1.0F);
    store_envelopes(fitter.vectors(), t);
    return envelope_codec(std::move(t));
  }

 private:
  static void store_envelopes(detail::envelope_vectors& from, envelope_tensor& t) {
    for (index_t u = 0; u < from.units(); ++u) {
      const index_t p = u / from.rank;
      const auto set = [&](std::string_view what, std::span<const double> values,
                           layout::scale_matrix& to) {
        for (index_t i = 0; i < values.size(); ++i) {
          LOWBIT_CHECK(std::isfinite(values[i]), value, "the envelope of plane ", p, ", ", what,
                       " ", i, " overflows ",
                       enum_names<scale_type>[static_cast<std::size_t>(to.type())],
                       "; use a scale_type with a larger range");
          to.set(u % from.rank, i, static_cast<float>(values[i]));
        }
      };
      set("column", from.column_unit(u), t.plane(p).column_envelopes());
      set("row", from.row_unit(u), t.plane(p).row_envelopes());
    }
    LOWBIT_CHECK(t.bound() <= envelope_tensor::largest_bound, value, "the levels of ", from.planes,
                 " planes may add up to ", t.bound(), ", more than 2^127");
  }
};

static_assert(groupwise_quantizer<envelope_quantizer> && row_codec<envelope_codec>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
