// formats/dbf/factors.hpp: what a fit of W ~ sum of F_p G_p is given and gives. Layer L3.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "lowbit/core/listener.hpp"
#include "lowbit/core/params.hpp"
#include "lowbit/linalg/elementwise.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
/// Where the fit of factors starts: random numbers, or the dominant singular vectors.
enum class dbf_start : std::uint8_t { random, singular_vectors };
}  // namespace formats
template <>
inline constexpr std::string_view enum_names<formats::dbf_start>[] = {"random", "singular_vectors"};
namespace formats {

/// sign o envelope: element (i, j) is +-(the sum over k < l of row_envelopes(k, i) *
/// column_envelopes(k, j)), + where positive[i * cols + j] is 1. The envelope may be negative.
struct dbf_factor {
  std::vector<std::uint8_t> positive;     ///< [rows, cols]: 0 or 1
  linalg::dense_matrix row_envelopes;     ///< [l, rows]
  linalg::dense_matrix column_envelopes;  ///< [l, cols]

  [[nodiscard]] index_t rows() const noexcept { return row_envelopes.cols(); }
  [[nodiscard]] index_t cols() const noexcept { return column_envelopes.cols(); }
  [[nodiscard]] index_t envelopes() const noexcept { return row_envelopes.rows(); }

  /// Element (i, j): products in increasing order of k, fused.
  [[nodiscard]] double value(index_t i, index_t j) const noexcept {
    double sum = 0.0;
    for (index_t k = 0; k < envelopes(); ++k) {
      sum = std::fma(row_envelopes(k, i), column_envelopes(k, j), sum);
    }
    return positive[i * cols() + j] != 0 ? sum : -sum;
  }
};

/// F [N, r] and G [r, K].
struct dbf_path {
  dbf_factor left;
  dbf_factor right;
};

/// What is to be factored. W[N, K] is finite; the objective is tr(D E H E^T D) for E = W - sum of
/// F_p G_p, with D^2 = diag(output importance) and H as given, or else diag(input importance).
struct dbf_problem {
  matrix_view<const float> weights;
  std::span<const float> input_importance = {};   ///< K weights >= 0, or none
  std::span<const float> output_importance = {};  ///< N weights >= 0, or none
  matrix_view<const double> hessian = {};         ///< [K, K], symmetric; one path only; or empty
};

/// What the factors are like.
struct dbf_shape {
  index_t middle = 0;     ///< r, at least 1
  index_t envelopes = 1;  ///< l, at least 1
  index_t paths = 1;      ///< 1 or 2
};

/// How hard the fit tries.
struct dbf_effort {
  unsigned iterations = 0;          ///< of ADMM over both factors; 0: see resolved()
  unsigned hessian_iterations = 0;  ///< more of them, if there is a Hessian; 0: see resolved()
  unsigned inner = 2;               ///< least-squares solutions per factor and iteration
  double ridge = 0.05;              ///< of these, times the mean of the diagonal
  unsigned refits = 10;             ///< rounds of turning signs and refitting envelopes, at most
  double tolerance = 1e-4;          ///< a round that gains less than this share is the last one
  dbf_start start = dbf_start::singular_vectors;
  std::uint64_t seed = 0;

  /// With numbers of iterations for 0: 100, and 60 with the Hessian, but fewer for matrices so
  /// large that they would take more than 15 minutes on a core of 50 GFLOP/s: at 4096 x 4096 and a
  /// bit per weight 49 and 15. At least 20 and 10.
  [[nodiscard]] dbf_effort resolved(shape2 matrix, const dbf_shape& shape) const noexcept {
    const auto n = static_cast<double>(matrix.rows);
    const auto k = static_cast<double>(matrix.cols);
    const auto r = static_cast<double>(shape.middle);
    // Multiply-adds of an iteration; one with the Hessian takes 2.4 times the time.
    const double work =
        static_cast<double>(shape.paths) * (4.0 * n * k * r + 5.0 * r * r * (n + k));
    const auto affordable = [work](double budget, double least, double most) {
      return static_cast<unsigned>(std::clamp(budget / std::max(work, 1.0), least, most));
    };
    dbf_effort e = *this;
    if (e.iterations == 0) e.iterations = affordable(1.5e13, 20.0, 100.0);
    if (e.hessian_iterations == 0) e.hessian_iterations = affordable(4.6e12, 10.0, 60.0);
    return e;
  }
};

struct dbf_solution {
  std::vector<dbf_path> paths;
  /// The objective as a share of that of no factors at all: after each iteration, then after each
  /// refit. The least of the iterations is what the refits start from; they never rise. Empty if W
  /// is zero.
  std::vector<double> errors;
  double error = 0.0;  ///< of `paths`
};

}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
