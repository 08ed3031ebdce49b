// formats/dbf/quantizer.hpp: fits double binary factors to a matrix. Layer L3.
//
// Stated results: a row of zeros decodes to zeros; what is denormal or underflows scale_type is 0
// or near it; envelopes that overflow scale_type are refused. NaN and Inf are refused with row and
// column. Importance that is equal everywhere is none; whether to run without any is the caller's
// choice, which `weighting` states.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/core/quantizer.hpp"
#include "lowbit/formats/dbf/fit.hpp"
#include "lowbit/formats/dbf/tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
/// What a fit knows of the inputs.
enum class dbf_weighting : std::uint8_t {
  automatic,   ///< whatever is given: the Hessian (one path), else importance, else nothing
  none,        ///< nothing, whatever is given
  importance,  ///< importance of inputs, which must be given
  hessian,     ///< the Hessian, which must be given; one path
};
}  // namespace formats

template <>
inline constexpr std::string_view enum_names<formats::dbf_weighting>[] = {"automatic", "none",
                                                                          "importance", "hessian"};

namespace formats {

/// What a fit is given beside the params of the format.
struct dbf_fit {
  double target_bits = 1.0;  ///< per weight, everything counted; read where params.middle is 0
  dbf_weighting weighting = dbf_weighting::automatic;
  dbf_effort effort = {};

  static void describe(dbf_fit& f, params_visitor& v) {
    v({"target_bits", "bits per weight, everything counted, where middle is 0"}, f.target_bits,
      0.01, 64.0);
    v({"weighting",
       "what is known of the inputs: whatever is given, nothing, their importance, or their "
       "Hessian (one path)"},
      f.weighting);
    v({"iterations", "of ADMM over both factors; 0: 100, fewer for very large matrices"},
      f.effort.iterations, 0U, 10000U);
    v({"hessian_iterations", "more of them with the Hessian; 0: 60, fewer for very large matrices"},
      f.effort.hessian_iterations, 0U, 10000U);
    v({"refits", "rounds of turning signs and refitting envelopes, at most"}, f.effort.refits, 0U,
      10000U);
    v({"start", "of the factors"}, f.effort.start);
    v({"seed", "of random starts"}, f.effort.seed, std::uint64_t{0},
      std::uint64_t{std::numeric_limits<std::int64_t>::max()});
  }
};

/// What a fit comes to.
struct dbf_outcome {
  dbf_tensor tensor;
  /// tr(D E H E^T D) of what is stored, as a share of that of no factors at all; D and H are what
  /// the weighting knows. 0 for a matrix of zeros.
  double error = 0.0;
  std::vector<double> errors = {};  ///< of the factors on the way, before they are rounded
};

/// quantize() is const, deterministic and thread-safe.
struct dbf_quantizer {
  using tensor = dbf_tensor;
  static constexpr std::string_view summary =
      "double binary factorization (arXiv 2505.11076, 2512.24545): sums of products of two sign "
      "matrices with envelopes; fitted to a matrix as a whole";

  dbf::params params = {};
  dbf_fit fit = {};

  static void describe(dbf_quantizer& q, params_visitor& v) {
    dbf::describe(q.params, v);
    dbf_fit::describe(q.fit, v);
  }

  /// Whether it is not meant to run without knowledge of the inputs: without, factors of real
  /// layers are useless (methods.md 2.1).
  [[nodiscard]] bool wants_calibration() const noexcept {
    return fit.weighting != dbf_weighting::none;
  }

  /// As outcome_of(), with everything that the machine has.
  [[nodiscard]] dbf_tensor quantize(matrix_view<const float> weights,
                                    const calibration& known = {}) const {
    return quantize(weights, known, kernels::context::best(), nullptr);
  }
  [[nodiscard]] dbf_tensor quantize(matrix_view<const float> weights, const calibration& known,
                                    const kernels::context& ctx, listener* progress) const {
    return outcome_of(weights, known, ctx, progress).tensor;
  }

  /// Factors of `weights`. `progress`, which may be null, hears of the stages of fit_dbf(). Refuses
  /// what fit_dbf() refuses, params out of range, a weighting that lacks what it needs, and
  /// envelopes that overflow (value).
  [[nodiscard]] dbf_outcome outcome_of(matrix_view<const float> weights, const calibration& known,
                                       const kernels::context& ctx, listener* progress) const {
    check_params<dbf_quantizer>(*this);
    check_importance(known.importance, weights.cols());
    check_importance(known.output_importance, weights.rows(), "row");
    dbf::params chosen = params;
    if (chosen.middle == 0) {
      chosen.middle = dbf::middle_for(weights.shape(), fit.target_bits, params);
    }
    chosen.middle = dbf::clamped(chosen.middle, weights.shape());
    dbf_outcome out{.tensor = dbf_tensor(weights.shape(), chosen)};
    if (weights.empty()) return out;
    const dbf_problem problem = weighted(weights, known);
    const dbf_solution solution =
        fit_dbf(problem,
                {.middle = chosen.middle, .envelopes = chosen.envelope_rank, .paths = chosen.paths},
                fit.effort, ctx, progress);
    for (unsigned p = 0; p < chosen.paths; ++p) {
      store(solution.paths[p].left, out.tensor.output_factor(p));
      store(solution.paths[p].right, out.tensor.input_factor(p));
    }
    out.errors = solution.errors;
    out.error = stored_error(problem, out.tensor, ctx);
    return out;
  }

 private:
  [[nodiscard]] dbf_problem weighted(matrix_view<const float> weights,
                                     const calibration& known) const {
    dbf_problem problem{.weights = weights, .output_importance = known.output_importance};
    switch (fit.weighting) {
      case dbf_weighting::none: return {.weights = weights};
      case dbf_weighting::automatic:
        if (params.paths == 1) problem.hessian = known.hessian;
        break;
      case dbf_weighting::importance:
        LOWBIT_CHECK(!known.importance.empty(), value,
                     "weighting is importance, but none of the inputs is known");
        break;
      case dbf_weighting::hessian:
        LOWBIT_CHECK(params.paths == 1, value, "weighting is hessian, which takes 1 path, not ",
                     params.paths);
        LOWBIT_CHECK(!known.hessian.empty(), value,
                     "weighting is hessian, but that of the inputs is not known");
        problem.hessian = known.hessian;
        break;
    }
    if (problem.hessian.empty()) problem.input_importance = known.importance;
    return problem;
  }

  void store(const dbf_factor& from, layout::enveloped_signs& to) const {
    for (index_t r = 0; r < from.rows(); ++r) {
      to.signs().set_row(r, std::span(from.positive).subspan(r * from.cols(), from.cols()));
    }
    store(from.row_envelopes, to.row_envelopes());
    store(from.column_envelopes, to.column_envelopes());
  }
  void store(const linalg::dense_matrix& from, layout::scale_matrix& to) const {
    for (index_t j = 0; j < from.rows(); ++j) {
      for (index_t i = 0; i < from.cols(); ++i) {
        to.set(j, i, static_cast<float>(from(j, i)) + 0.0F);  // + 0: no -0
        LOWBIT_CHECK(std::isfinite(to.get(j, i)), value, "an envelope of ", from(j, i),
                     " overflows ",
                     enum_names<scale_type>[static_cast<std::size_t>(params.scale_type)],
                     "; use a scale_type with a larger range");
      }
    }
  }

  [[nodiscard]] static double stored_error(const dbf_problem& problem, const dbf_tensor& t,
                                           const kernels::context& ctx) {
    const shape2 shape = t.shape();
    aligned_buffer<float> values(shape.size());
    const matrix_view<float> w(values.data(), shape.rows, shape.cols);
    t.dequantize({0, shape.rows}, w);
    linalg::dense_matrix all(shape.rows, shape.cols);
    linalg::dense_matrix missed(shape.rows, shape.cols);
    for (index_t r = 0; r < shape.rows; ++r) {
      for (index_t k = 0; k < shape.cols; ++k) {
        all(r, k) = static_cast<double>(problem.weights(r, k));
        missed(r, k) = static_cast<double>(problem.weights(r, k) - w(r, k));
      }
    }
    const double whole = energy(problem, all, ctx);
    return whole > 0.0 ? energy(problem, missed, ctx) / whole : 0.0;
  }

  /// tr(D E H E^T D).
  [[nodiscard]] static double energy(const dbf_problem& problem, const linalg::dense_matrix& e,
                                     const kernels::context& ctx) {
    linalg::dense_matrix weighted(e.rows(), e.cols());
    if (!problem.hessian.empty()) {
      kernels::add_product(weighted.view(), kernels::dense_sign::add, e.view(), problem.hessian,
                           ctx);
    } else {
      const auto& h = problem.input_importance;
      for (index_t r = 0; r < e.rows(); ++r) {
        for (index_t k = 0; k < e.cols(); ++k) {
          weighted(r, k) = h.empty() ? e(r, k) : e(r, k) * static_cast<double>(h[k]);
        }
      }
    }
    double sum = 0.0;
    for (index_t r = 0; r < e.rows(); ++r) {
      const double row = linalg::dot(std::as_const(weighted).row(r), e.row(r));
      const auto& d = problem.output_importance;
      sum = std::fma(row, d.empty() ? 1.0 : static_cast<double>(d[r]), sum);
    }
    return sum;
  }
};

}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
