// testing/codec.hpp: does the codec of a groupwise quantizer keep the promises of
// core/group_codec.hpp? check_quantizer() asks it of every quantizer that has one.
//
// Framework-neutral.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lowbit/core/group_codec.hpp"
#include "lowbit/testing/format.hpp"
#include "lowbit/testing/matrices.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// What check_codec does.
struct codec_checks {
  std::uint64_t seed = 1;  ///< of the random matrices; print it where a check fails
  /// The distance of neighbouring numbers that can be stored as a coefficient, as a share of the
  /// number, at most: 2^-7 for bf16.
  double coefficient_step = 0x1p-7;
};

namespace detail {

template <groupwise_quantizer Q>
class codec_checks_run {
 public:
  codec_checks_run(findings& list, std::string prefix, const Q& q, const codec_checks& options)
      : list_(list),
        prefix_(std::move(prefix)),
        q_(q),
        options_(options),
        sample_(normal_matrix({3, 70}, options.seed)) {}

  void run() {
    for (const test_matrix& m : conformance_matrices(options_.seed)) {
      section(m.name, [&, this] { check_matrix(m, {}, 1.0F); });
    }
    std::vector<float> importance;
    for (index_t c = 0; c < sample_.shape.cols; ++c) {
      importance.push_back(c % 9 == 4 ? 0.0F : random_uniform(options_.seed + 3, c));
    }
    section("importance", [&, this] { check_matrix(sample_, importance, 1.0F); });
    section("headroom", [&, this] { check_matrix(sample_, {}, 4.0F); });
    section("refusals", [this] { check_refusals(); });
    section("terms", [this] { check_terms(); });
  }

 private:
  using codec = typename Q::codec;
  using tensor = typename Q::tensor;
  using levels = typename codec::levels;

  template <class F>
  void section(const std::string& name, F&& f) {
    attempt(list_, prefix_ + name, f);
  }
  template <class... Parts>
  void report(const std::string& check, bool passed, const Parts&... detail) {
    add(list_, prefix_ + check, passed, detail...);
  }

  /// The values of the codes.
  [[nodiscard]] static std::vector<float> values_of(const codec& c, const levels& l) {
    // A code that values() forgets holds what no value may be.
    std::vector<float> out(index_t{1} << c.bits(), std::numeric_limits<float>::infinity());
    c.values(l, out);
    return out;
  }
  /// The codes whose value is a number; others must be NaN, and one at least is to be used.
  [[nodiscard]] static std::vector<std::uint8_t> used_codes(std::span<const float> values) {
    std::vector<std::uint8_t> codes;
    for (index_t u = 0; u < values.size(); ++u) {
      if (values[u] == values[u]) codes.push_back(static_cast<std::uint8_t>(u));
    }
    return codes;
  }

  // -- levels, codes and the tensor that stores them ---------------------------------------------

  void check_matrix(const test_matrix& m, std::span<const float> importance, float headroom) {
    const codec c = q_.prepare(m.view(), {.importance = importance}, headroom);
    report(m.name + "/bits", c.bits() >= 1 && c.bits() <= 8, "are ", c.bits());
    const index_t size = c.group_size();
    report(m.name + "/group_size", size >= 1 || m.shape.cols == 0, "is 0");
    tensor t = c.make_tensor();
    report(m.name + "/tensor_shape", t.shape() == m.shape, "is [", t.shape().rows, ", ",
           t.shape().cols, "]");
    report(m.name + "/tensor_params", t.params() == q_.quantize(m.view(), {importance}).params(),
           "are others than those of quantize()");
    if (c.bits() < 1 || c.bits() > 8 || t.shape() != m.shape || m.view().empty() || size == 0) {
      return;
    }

    const index_t groups = div_up(m.shape.cols, size);
    std::vector<levels> all;
    for (index_t r = 0; r < m.shape.rows; ++r) {
      for (index_t g = 0; g < groups; ++g) {
        const index_t begin = g * size;
        const auto x = m.view().row(r).subspan(begin, std::min(size, m.shape.cols - begin));
        all.push_back(
            c.fit(r, g, x, importance.empty() ? importance : importance.subspan(begin, x.size())));
      }
    }
    check_stored(m.name + "/fit", c, t, all);

    // Levels moved by any amount are as good: the tensor says so, and what it decodes to.
    if (c.terms() == 0) {
      report(m.name + "/adjusted_nothing",
             all.empty() || same_values(c, c.adjusted(all[0], 0, {}), all[0]), "changed levels");
      return;
    }
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr double steps[] = {
        0.0,  0.3,    -0.3,  1e-30,    -1e30,     1e30,
        1e39, -1e300, 1e300, infinity, -infinity, std::numeric_limits<double>::quiet_NaN()};
    for (const double step : steps) {
      std::vector<levels> moved;
      for (index_t i = 0; i < all.size(); ++i) {
        std::vector<double> delta(c.terms(), 0.0);
        delta[i % delta.size()] = step;
        moved.push_back(c.adjusted(all[i], i / groups, delta));
        if (step == 0.0) {
          report(m.name + "/adjusted_by_nothing", same_values(c, moved.back(), all[i]),
                 "levels that were fitted change where 0 is added");
        }
      }
      const std::string name = m.name + lowbit::detail::message("/adjusted_by_", step);
      check_stored(name, c, t, moved);
    }
  }

  [[nodiscard]] static bool same_values(const codec& c, const levels& a, const levels& b) {
    const auto x = values_of(c, a);
    const auto y = values_of(c, b);
    return std::equal(x.begin(), x.end(), y.begin(),
                      [](float v, float w) { return v == w || (v != v && w != w); });
  }

  /// Stores levels and every code that they have: dequantize() must give the values of values().
  void check_stored(const std::string& name, const codec& c, tensor& t,
                    const std::vector<levels>& all) {
    const shape2 shape = t.shape();
    const index_t size = c.group_size();
    const index_t groups = div_up(shape.cols, size);
    std::vector<std::vector<float>> values;
    std::vector<std::vector<std::uint8_t>> codes;
    std::string wrong;
    index_t most_codes = 1;
    for (index_t i = 0; i < all.size(); ++i) {
      c.store(t, i / groups, i % groups, all[i]);
      values.push_back(values_of(c, all[i]));
      codes.push_back(used_codes(values.back()));
      if (codes.back().empty()) wrong = "a group has no codes to use";
      for (const std::uint8_t u : codes.back()) {
        if (!std::isfinite(values.back()[u])) {
          wrong = lowbit::detail::message("the value of code ", int{u}, " is ", values.back()[u]);
        }
      }
      most_codes = std::max(most_codes, codes.back().size());
    }
    report(name + "/values_finite", wrong.empty(), wrong);
    if (!wrong.empty()) return;

    // In each pass a group shows as many codes as its columns, until even the shortest has shown
    // all.
    const index_t shortest = shape.cols - (groups - 1) * size;
    std::vector<std::uint8_t> row(shape.cols);
    for (index_t first = 0; first < most_codes; first += shortest) {
      const auto code_of = [&](index_t r, index_t k) {
        const auto& used = codes[r * groups + k / size];
        return used[(first + k % size) % used.size()];
      };
      for (index_t r = 0; r < shape.rows; ++r) {
        for (index_t k = 0; k < shape.cols; ++k) row[k] = code_of(r, k);
        t.set_codes(r, row);
      }
      const std::vector<std::uint32_t> bits = value_bits(t);
      for (index_t r = 0; r < shape.rows; ++r) {
        for (index_t k = 0; k < shape.cols; ++k) {
          const float stated = values[r * groups + k / size][code_of(r, k)];
          const auto decoded = std::bit_cast<float>(bits[r * shape.cols + k]);
          if (std::bit_cast<std::uint32_t>(stated) != bits[r * shape.cols + k]) {
            wrong =
                lowbit::detail::message("row ", r, ", column ", k, ", code ", int{code_of(r, k)},
                                        " decodes to ", decoded, ", values() says ", stated);
          }
        }
      }
    }
    report(name + "/values_are_decoded", wrong.empty(), wrong);
    if (shape.rows <= 3) append_tensor_checks(list_, prefix_ + name + "/", t);
  }

  // -- refusals ----------------------------------------------------------------------------------

  void check_refusals() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    const index_t cols = sample_.shape.cols;
    const auto refuses = [this](const char* check, error_kind kind, matrix_view<const float> w,
                                std::span<const float> importance) {
      add_refusal(list_, prefix_ + check, kind, [&, this] {
        static_cast<void>(q_.prepare(w, {.importance = importance}, 1.0F));
      });
    };
    for (const float bad : {nan, infinity, -infinity}) {
      test_matrix m = sample_;
      m.values.back() = bad;
      refuses("refuses_not_finite", error_kind::value, m.view(), {});
    }
    refuses("refuses_short_importance", error_kind::shape, sample_.view(),
            std::vector<float>(cols - 1, 1.0F));
    refuses("refuses_long_importance", error_kind::shape, sample_.view(),
            std::vector<float>(cols + 1, 1.0F));
    for (const float bad : {-1.0F, nan, infinity}) {
      std::vector<float> importance(cols, 1.0F);
      importance[cols - 1] = bad;
      refuses("refuses_bad_importance", error_kind::value, sample_.view(), importance);
    }
  }

  // -- terms -------------------------------------------------------------------------------------

  /// For each coefficient: a change of half the levels' size moves values along its term, and by
  /// as much as was asked for, up to what storing a coefficient rounds.
  void check_terms() {
    const codec c = q_.prepare(sample_.view(), {}, 2.0F);
    const index_t terms = c.terms();
    report("terms/count", terms <= 16, "are ", terms, ": more than a group of weights determines");
    if (terms == 0 || terms > 16) return;
    const index_t size = std::min(c.group_size(), sample_.shape.cols);
    for (index_t r = 0; r < sample_.shape.rows; ++r) {
      const levels l = c.fit(r, 0, sample_.view().row(r).first(size), {});
      const std::vector<float> values = values_of(c, l);
      const std::vector<std::uint8_t> codes = used_codes(values);
      std::vector<double> term(terms * codes.size());
      std::vector<float> of_code(terms);
      for (index_t u = 0; u < codes.size(); ++u) {
        std::fill(of_code.begin(), of_code.end(), std::numeric_limits<float>::infinity());
        c.term(l, codes[u], of_code);
        for (index_t i = 0; i < terms; ++i) {
          term[i * codes.size() + u] = static_cast<double>(of_code[i]);
        }
      }
      report("terms/finite",
             std::all_of(term.begin(), term.end(), [](double v) { return std::isfinite(v); }),
             "a term is not finite");
      for (index_t i = 0; i < terms; ++i) {
        for (const double share : {0.5, -0.5}) check_change(c, r, l, term, i, share);
      }
    }
  }

  void check_change(const codec& c, index_t row, const levels& l, std::span<const double> term,
                    index_t which, double share) {
    const std::vector<float> before = values_of(c, l);
    const std::vector<std::uint8_t> codes = used_codes(before);
    const auto of_term = term.subspan(which * codes.size(), codes.size());
    double largest_value = 0.0;
    double largest_term = 0.0;
    for (index_t u = 0; u < codes.size(); ++u) {
      largest_value = std::max(largest_value, std::fabs(static_cast<double>(before[codes[u]])));
      largest_term = std::max(largest_term, std::fabs(of_term[u]));
    }
    report("terms/not_zero", largest_term > 0.0, "term ", which, " is 0 for all codes");
    if (!(largest_term > 0.0)) return;
    std::vector<double> delta(c.terms(), 0.0);
    delta[which] = share * largest_value / largest_term;
    const std::vector<float> after = values_of(c, c.adjusted(l, row, delta));

    std::vector<double> change(codes.size());
    double furthest = 0.0;
    for (index_t u = 0; u < codes.size(); ++u) {
      change[u] = static_cast<double>(after[codes[u]]) - static_cast<double>(before[codes[u]]);
      largest_value = std::max(largest_value, std::fabs(static_cast<double>(after[codes[u]])));
      furthest = std::max(furthest, std::fabs(change[u] - delta[which] * of_term[u]));
    }
    const std::string name =
        lowbit::detail::message("terms/", which, "/row_", row, share > 0.0 ? "/up" : "/down");
    // The coefficient after the change is at most |delta| + 2 max |value| / max |term|: a term that
    // is a bit, or a sign, or counts up from one end. Storing rounds it by half a step.
    const double asked = std::fabs(delta[which]) * largest_term;
    const double bound = 0.5 * options_.coefficient_step * (asked + 2.0 * largest_value);
    report(name + "/as_asked", furthest <= bound, "values move by ", furthest,
           " less or more than the terms say; storing explains ", bound);

    // Whatever was stored, it is a coefficient: the change is a multiple of the term, but for the
    // rounding of each of two values to float (and, before that, of a sum in double). The least
    // squares multiple leaves no more than the true one.
    double product = 0.0;
    double norm = 0.0;
    for (index_t u = 0; u < codes.size(); ++u) {
      product += change[u] * of_term[u];
      norm += of_term[u] * of_term[u];
    }
    double left = 0.0;
    for (index_t u = 0; u < codes.size(); ++u) {
      const double rest = change[u] - product / norm * of_term[u];
      left += rest * rest;
    }
    const double rounding =
        2.01 * 0x1p-24 * largest_value * std::sqrt(static_cast<double>(codes.size()));
    report(name + "/linear", std::sqrt(left) <= rounding, "the change of values is off by ",
           std::sqrt(left), " from a multiple of the term; rounding explains ", rounding);
  }

  findings& list_;
  std::string prefix_;
  const Q& q_;
  codec_checks options_;
  test_matrix sample_;
};

template <groupwise_quantizer Q>
void append_codec_checks(findings& list, std::string prefix, const Q& q,
                         const codec_checks& options) {
  codec_checks_run<Q>(list, std::move(prefix), q, options).run();
}

}  // namespace detail

/// Checks what core/group_codec.hpp promises of the codec of a quantizer: prepare() refuses what
/// quantize() refuses; on every kind of matrix (testing/matrices.hpp) levels that fit() and
/// adjusted() return, by whatever delta, are stored, decode to exactly what values() says, with
/// every code, in a tensor that passes check_tensor(); and values are linear in the coefficients,
/// with term() as their derivatives.
template <groupwise_quantizer Q>
[[nodiscard]] findings check_codec(const Q& q, const codec_checks& options = {}) {
  findings list;
  detail::append_codec_checks(list, "", q, options);
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
