// formats/dbf/fit.hpp: W ~ sum of F_p G_p, each factor a sign matrix with a low-rank envelope.
// Layer L3.
//
//   1. Weights are multiplied by the roots of importances (of rows, and of columns or of H's
//      diagonal), which only scales envelopes.
//   2. ADMM (admm.hpp) for both factors in turn, path after path; the best iterate is kept, judged
//      by the true objective of what could be stored.
//   3. With a Hessian: more iterations under it.
//   4. Signs and envelopes are improved as they are (refit.hpp), under the whole objective.
//
// Invariant: the same bits on every CPU, tier, compiler and number of threads (side.hpp).
#pragma once

#include <limits>

#include "lowbit/core/quantizer.hpp"
#include "lowbit/formats/dbf/admm.hpp"
#include "lowbit/formats/dbf/factors.hpp"
#include "lowbit/formats/dbf/refit.hpp"
#include "lowbit/formats/dbf/start.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {
namespace detail {

/// Roots of importances, so that errors times them are to be small. Importances below 1e-4 of their
/// mean count as that: envelopes are divided by the roots again, and must stay in range.
template <class T>
[[nodiscard]] std::vector<double> importance_roots(std::span<const T> importance, index_t count) {
  std::vector<double> roots(count, 1.0);
  if (importance.empty()) return roots;
  double mean = 0.0;
  for (const T v : importance) mean += static_cast<double>(v);
  mean /= static_cast<double>(count);
  if (!(mean > 0.0)) return roots;
  for (index_t i = 0; i < count; ++i) {
    roots[i] = std::sqrt(std::max(static_cast<double>(importance[i]) / mean, 1e-4));
  }
  return roots;
}

/// One path while it is fitted: F G ~ left.value diag(1 / lengths) right.value^T.
struct dbf_pair {
  dbf_side left;
  dbf_side right;
  std::vector<double> lengths;
};

class dbf_fitter {
 public:
  dbf_fitter(const dbf_problem& problem, const dbf_shape& shape, const dbf_effort& effort,
             const kernels::context& ctx, listener* progress)
      : shape_(shape),
        effort_(effort.resolved(problem.weights.shape(), shape)),
        with_scratch_(ctx),
        ctx_(with_scratch_.get()),
        progress_(progress),
        stepper_(ctx_),
        refitter_(ctx_),
        row_roots_(importance_roots(problem.output_importance, problem.weights.rows())) {
    load_hessian(problem);
    load_weights(problem.weights);
    for (index_t p = 0; p < shape.paths; ++p) {
      pairs_.push_back({dbf_side(target_.rows(), shape.middle, shape.envelopes),
                        dbf_side(target_.cols(), shape.middle, shape.envelopes),
                        std::vector<double>(shape.middle, 1.0)});
    }
  }

  [[nodiscard]] dbf_solution run() {
    dbf_solution solution;
    if (energy_ > 0.0) {
      start();
      iterate("factors", effort_.iterations, 0.03, solution.errors);
      if (given_hessian_.size() != 0) {
        use_hessian();
        iterate("factors with Hessian", effort_.hessian_iterations, 0.1, solution.errors);
      }
      use_up_lengths();
      refit(solution.errors);
      solution.error = solution.errors.back();
    }
    for (dbf_pair& pair : pairs_) solution.paths.push_back(finished(pair));
    return solution;
  }

 private:
  static constexpr double damping = 1e-3;  ///< of a Hessian, times its mean diagonal

  void load_hessian(const dbf_problem& problem) {
    const index_t m = problem.weights.cols();
    std::vector<double> diagonal(problem.hessian.rows());
    double sum = 0.0;
    for (index_t i = 0; i < diagonal.size(); ++i) sum += diagonal[i] = problem.hessian(i, i);
    if (!(sum > 0.0)) {
      column_roots_ = importance_roots(problem.input_importance, m);
      return;
    }
    const double added = damping * (sum / static_cast<double>(m));
    for (double& v : diagonal) v += added;
    column_roots_ = importance_roots(std::span<const double>(diagonal), m);
    // (W H W^T) is ((W s) (H / (s s^T)) (W s)^T)
    given_hessian_ = dense_matrix(m, m);
    for (index_t i = 0; i < m; ++i) {
      for (index_t j = 0; j < m; ++j) {
        given_hessian_(i, j) = i == j ? diagonal[i] : problem.hessian(i, j);
        given_hessian_(i, j) /= column_roots_[i];
        given_hessian_(i, j) /= column_roots_[j];
      }
    }
  }

  void load_weights(matrix_view<const float> w) {
    weights_ = dense_matrix(w.rows(), w.cols());
    double largest = 0.0;
    for (index_t i = 0; i < w.rows(); ++i) {
      for (index_t j = 0; j < w.cols(); ++j) {
        weights_(i, j) = static_cast<double>(w(i, j)) * row_roots_[i] * column_roots_[j];
        largest = std::max(largest, std::fabs(weights_(i, j)));
      }
    }
    // A power of two, which is exact, brings the largest weight near 1.
    static_cast<void>(std::frexp(largest, &exponent_));
    for (double& v : weights_.elements()) v = std::ldexp(v, -exponent_);
    target_.assign(weights_);
    transpose_target();
  }

  /// From I to the Hessian that was given: the target of both sides is W H, the objective
  /// tr(W H W^T) - 2 tr(W H G^T F^T) + tr(F^T F G H G^T).
  void use_hessian() {
    hessian_ = std::move(given_hessian_);
    target_.fill(0.0);
    kernels::add_product(target_.view(), dense_sign::add, std::as_const(weights_).view(),
                         std::as_const(hessian_).view(), ctx_);
    transpose_target();
    // The penalty is to be like the curvature: half the root mean square of the eigenvalues, which
    // is 1 for I. (Measured: with 1, as without a Hessian, iterates get worse.)
    const double squares =
        linalg::dot(std::as_const(hessian_).elements(), std::as_const(hessian_).elements());
    const double mean = squares / static_cast<double>(hessian_.rows());
    penalty_scale_ = std::max(1.0, 0.5 * std::sqrt(mean));
  }

  void transpose_target() {
    transposed_.reset(target_.cols(), target_.rows());
    linalg::detail::copy_transposed(std::as_const(target_).view(), transposed_.view());
    energy_ = linalg::dot(std::as_const(target_).elements(), std::as_const(weights_).elements());
  }

  void start() {
    // What the paths before leave.
    dense_matrix rest;
    dense_matrix rest_transposed;
    for (index_t p = 0; p < pairs_.size(); ++p) {
      dbf_pair& pair = pairs_[p];
      dbf_multipliers of_left = multipliers(pair.left);
      dbf_multipliers of_right = multipliers(pair.right);
      dense_matrix left(target_.rows(), shape_.middle);
      dense_matrix right(target_.cols(), shape_.middle);
      const std::uint64_t seed = random_bits(effort_.seed, p);
      if (effort_.start == dbf_start::random) {
        // A second path must not disturb what the first one is fitted to.
        const double size = p == 0 ? 1.0 : 1e-3;
        fill_random(std::as_const(target_).view(), size, seed, {0, shape_.middle}, left);
        fill_random(std::as_const(transposed_).view(), size, seed + 1, {0, shape_.middle}, right);
      } else {
        const dense_matrix& from = p == 0 ? target_ : rest;
        const dense_matrix& transposed = p == 0 ? transposed_ : rest_transposed;
        start_from_singular_vectors(from.view(), transposed.view(), seed, left, right, ctx_);
      }
      stepper_.project(left, pair.left, of_left, start_power_iterations);
      stepper_.project(right, pair.right, of_right, start_power_iterations);
      find_column_gram(pair.left.value, {}, pair.left.gram, ctx_);
      find_column_gram(pair.right.value, {}, pair.right.gram, ctx_);
      if (p + 1 == pairs_.size()) break;
      if (p == 0) rest.assign(target_);
      kernels::add_product_transposed(rest.view(), dense_sign::subtract,
                                      std::as_const(pair.left.value).view(),
                                      std::as_const(pair.right.value).view(), ctx_);
      rest_transposed.reset(rest.cols(), rest.rows());
      linalg::detail::copy_transposed(std::as_const(rest).view(), rest_transposed.view());
    }
  }

  static constexpr unsigned start_power_iterations = 5;

  [[nodiscard]] dbf_multipliers multipliers(const dbf_side& x) const {
    return {x.rows(), shape_.middle, shape_.envelopes};
  }

  /// R of a side of path p: target times the other side, less what the other path gives. `of` picks
  /// the side that is fitted. Also keeps the latter part.
  void find_right(index_t p, dbf_side dbf_pair::*of, dbf_side dbf_pair::*other) {
    const bool is_left = of == &dbf_pair::left;
    const dense_matrix& y = (pairs_[p].*other).value;
    right_.reset((pairs_[p].*of).rows(), shape_.middle);
    kernels::add_product(right_.view(), dense_sign::add,
                         (is_left ? std::as_const(target_) : std::as_const(transposed_)).view(),
                         y.view(), ctx_);
    for (index_t q = 0; q < pairs_.size(); ++q) {
      if (q == p) continue;
      // x_q (y_q^T y_p)
      const dense_matrix& theirs = (pairs_[q].*other).value;
      dense_matrix transposed(shape_.middle, theirs.rows());
      linalg::detail::copy_transposed(theirs.view(), transposed.view());
      dense_matrix inner(shape_.middle, shape_.middle);
      kernels::add_product(inner.view(), dense_sign::add, std::as_const(transposed).view(),
                           y.view(), ctx_);
      for (index_t i = 0; i < inner.rows(); ++i) {
        for (double& v : inner.row(i)) v /= pairs_[q].lengths[i];
      }
      cross_.reset(right_.rows(), shape_.middle);
      kernels::add_product(cross_.view(), dense_sign::add,
                           std::as_const((pairs_[q].*of).value).view(), std::as_const(inner).view(),
                           ctx_);
      linalg::add_scaled(right_, -1.0, cross_, ctx_);
    }
  }

  /// The objective, after a side of path p was fitted, given what it is less than with that path
  /// zero; `lengths` are those of the other side's columns.
  double objective(index_t p, double change, const dense_matrix& x,
                   const std::vector<double>& lengths) {
    double sum = energy_ + change;
    if (pairs_.size() == 1) return sum;
    sum += own_[1 - p];
    for (index_t i = 0; i < cross_.rows(); ++i) {
      for (index_t j = 0; j < cross_.cols(); ++j) cross_(i, j) /= lengths[j];
    }
    own_[p] = change - 2.0 * linalg::dot(std::as_const(cross_).elements(), x.elements());
    return sum;
  }

  /// What path p alone would change, from scratch.
  void find_own(index_t p) {
    dense_matrix product(target_.rows(), shape_.middle);
    kernels::add_product(product.view(), dense_sign::add, std::as_const(target_).view(),
                         std::as_const(pairs_[p].right.value).view(), ctx_);
    own_[p] = -2.0 * linalg::dot(std::as_const(product).elements(),
                                 std::as_const(pairs_[p].left.value).elements()) +
              dot_symmetric(pairs_[p].left.gram, pairs_[p].right.gram);
  }

  void report(std::string_view stage, index_t done, index_t total) {
    if (progress_ != nullptr) progress_->advanced(stage, done, total);
  }

  /// ADMM with a penalty that grows from `first` to 1; then pairs_ are the best iterate.
  void iterate(std::string_view stage, unsigned count, double first, std::vector<double>& errors) {
    if (count == 0) return;
    use_up_lengths();
    std::vector<dbf_multipliers> of_left;
    std::vector<dbf_multipliers> of_right;
    for (index_t p = 0; p < pairs_.size(); ++p) {
      of_left.push_back(multipliers(pairs_[p].left));
      of_right.push_back(multipliers(pairs_[p].right));
      find_column_gram(pairs_[p].left.value, {}, pairs_[p].left.gram, ctx_);
      find_column_gram(pairs_[p].right.value, hessian(), pairs_[p].right.gram, ctx_);
      if (pairs_.size() > 1) find_own(p);
    }
    std::vector<dbf_pair> best = pairs_;
    double least = std::numeric_limits<double>::infinity();
    for (unsigned i = 0; i < count; ++i) {
      // Cubic, as in the methods followed; the last three iterations have the full penalty.
      const double part =
          count <= 3 ? 1.0 : std::min(1.0, static_cast<double>(i) / static_cast<double>(count - 3));
      const dbf_step step{.penalty = std::fma(1.0 - first, part * part * part, first),
                          .ridge = hessian_.size() == 0 ? effort_.ridge : 0.1 * effort_.ridge,
                          .inner = effort_.inner,
                          .power_iterations = i == 0 ? start_power_iterations : 2};
      double now = 0.0;
      for (index_t p = 0; p < pairs_.size(); ++p) {
        dbf_pair& pair = pairs_[p];
        find_right(p, &dbf_pair::left, &dbf_pair::right);
        static_cast<void>(stepper_.update(pair.left, of_left[p], pair.right, right_, {}, step));
        find_right(p, &dbf_pair::right, &dbf_pair::left);
        dbf_step of_inputs = step;
        of_inputs.penalty *= penalty_scale_;
        of_inputs.last_penalty *= penalty_scale_;
        const double change =
            stepper_.update(pair.right, of_right[p], pair.left, right_, hessian(), of_inputs);
        pair.lengths = stepper_.lengths();
        now = objective(p, change, pair.right.value, pair.lengths);
      }
      errors.push_back(now / energy_);
      if (now < least) {
        least = now;
        for (index_t p = 0; p < pairs_.size(); ++p) best[p] = pairs_[p];
      }
      report(stage, i + 1, count);
    }
    pairs_ = std::move(best);
  }

  /// Divides columns of the left sides by `lengths`, which become 1.
  void use_up_lengths() {
    dense_matrix signs;
    for (dbf_pair& pair : pairs_) {
      find_signs(pair.left, signs, ctx_);
      for (index_t k = 0; k < shape_.envelopes; ++k) {
        for (index_t j = 0; j < shape_.middle; ++j) {
          pair.left.column_envelopes(k, j) /= pair.lengths[j];
        }
      }
      apply_signs(signs, pair.left, ctx_);
      std::fill(pair.lengths.begin(), pair.lengths.end(), 1.0);
    }
  }

  void refit(std::vector<double>& errors) {
    for (index_t p = 0; p < pairs_.size(); ++p) {
      find_column_gram(pairs_[p].left.value, {}, pairs_[p].left.gram, ctx_);
      find_column_gram(pairs_[p].right.value, hessian(), pairs_[p].right.gram, ctx_);
      if (pairs_.size() > 1) find_own(p);
    }
    double before = std::numeric_limits<double>::infinity();
    for (unsigned round = 0; round < effort_.refits; ++round) {
      double now = 0.0;
      for (index_t p = 0; p < pairs_.size(); ++p) {
        dbf_pair& pair = pairs_[p];
        find_right(p, &dbf_pair::left, &dbf_pair::right);
        curvature_.assign(pair.right.gram);
        kernels::mirror_lower(curvature_.view());
        refitter_.improve(pair.left, {curvature_, right_}, sweeps);
        find_column_gram(pair.left.value, {}, pair.left.gram, ctx_);

        find_right(p, &dbf_pair::right, &dbf_pair::left);
        curvature_.assign(pair.left.gram);
        kernels::mirror_lower(curvature_.view());
        refitter_.improve(pair.right, {curvature_, right_, hessian()}, sweeps);
        find_column_gram(pair.right.value, hessian(), pair.right.gram, ctx_);
        const double change = -2.0 * linalg::dot(std::as_const(right_).elements(),
                                                 std::as_const(pair.right.value).elements()) +
                              dot_symmetric(pair.left.gram, pair.right.gram);
        now = objective(p, change, pair.right.value, pair.lengths);
      }
      errors.push_back(std::max(now, 0.0) / energy_);
      report("refit", round + 1, effort_.refits);
      if (round > 0 && !(now < std::fma(-effort_.tolerance, std::fabs(before), before))) break;
      before = now;
    }
  }
  static constexpr unsigned sweeps = 2;

  [[nodiscard]] matrix_view<const double> hessian() const noexcept {
    return hessian_.size() == 0 ? matrix_view<const double>() : hessian_.view();
  }

  /// The factors of the weights as they were given.
  [[nodiscard]] dbf_path finished(dbf_pair& pair) {
    dense_matrix left_signs;
    dense_matrix right_signs;
    find_signs(pair.left, left_signs, ctx_);
    find_signs(pair.right, right_signs, ctx_);
    balance(pair);
    dbf_path path;
    path.left.positive.resize(left_signs.size());
    for (index_t i = 0; i < left_signs.size(); ++i) {
      path.left.positive[i] = left_signs.data()[i] > 0.0 ? 1 : 0;
    }
    path.right.positive.resize(right_signs.size());
    for (index_t i = 0; i < right_signs.rows(); ++i) {
      for (index_t j = 0; j < right_signs.cols(); ++j) {
        path.right.positive[j * right_signs.rows() + i] = right_signs(i, j) > 0.0 ? 1 : 0;
      }
    }
    path.left.row_envelopes = std::move(pair.left.row_envelopes);
    path.left.column_envelopes = std::move(pair.left.column_envelopes);
    path.right.row_envelopes = std::move(pair.right.column_envelopes);
    path.right.column_envelopes = std::move(pair.right.row_envelopes);
    return path;
  }

  /// Envelopes of the weights as they were given, and in a range that small floats can hold: the
  /// terms of an envelope are orthogonal, largest first, so that nothing cancels; a column of F has
  /// envelopes as large as those of its row of G; of a term, both vectors are as large.
  void balance(dbf_pair& pair) {
    const auto divide = [](dense_matrix& envelopes, const std::vector<double>& by) {
      for (index_t k = 0; k < envelopes.rows(); ++k) {
        for (index_t i = 0; i < envelopes.cols(); ++i) envelopes(k, i) /= by[i];
      }
    };
    divide(pair.left.row_envelopes, row_roots_);
    divide(pair.right.row_envelopes, column_roots_);
    for (double& v : pair.left.row_envelopes.elements()) v = std::ldexp(v, exponent_);
    for (dbf_side* const x : {&pair.left, &pair.right}) {
      linalg::orthogonalize_products(x->row_envelopes, x->column_envelopes, ctx_);
    }
    dense_matrix& p = pair.left.column_envelopes;
    dense_matrix& q = pair.right.column_envelopes;
    for (index_t j = 0; j < shape_.middle; ++j) {
      const double of_left = column_length(p, j);
      const double of_right = column_length(q, j);
      const bool used = of_left > 0.0 && of_right > 0.0;
      const double common = std::sqrt(of_left) * std::sqrt(of_right);
      for (index_t k = 0; k < shape_.envelopes; ++k) {
        p(k, j) = used ? p(k, j) / of_left * common : 0.0;
        q(k, j) = used ? q(k, j) / of_right * common : 0.0;
      }
    }
    for (dbf_side* const x : {&pair.left, &pair.right}) {
      for (index_t k = 0; k < shape_.envelopes; ++k) {
        const auto rows = x->row_envelopes.row(k);
        const auto columns = x->column_envelopes.row(k);
        const double of_rows = mean_size(rows);
        const double of_columns = mean_size(columns);
        const bool used = of_rows > 0.0 && of_columns > 0.0;
        const double common = std::sqrt(of_rows) * std::sqrt(of_columns);
        for (double& v : rows) v = used ? v / of_rows * common : 0.0;
        for (double& v : columns) v = used ? v / of_columns * common : 0.0;
      }
    }
  }
  [[nodiscard]] static double column_length(const dense_matrix& m, index_t j) noexcept {
    double sum = 0.0;
    for (index_t k = 0; k < m.rows(); ++k) sum = std::fma(m(k, j), m(k, j), sum);
    return std::sqrt(sum);
  }
  [[nodiscard]] static double mean_size(std::span<const double> v) noexcept {
    return std::sqrt(linalg::dot(v, v) / static_cast<double>(std::max<index_t>(v.size(), 1)));
  }

  dbf_shape shape_;
  dbf_effort effort_;
  linalg::detail::scratch_context with_scratch_;
  const kernels::context& ctx_;
  listener* progress_;
  dbf_stepper stepper_;
  dbf_refitter refitter_;
  std::vector<double> row_roots_;
  std::vector<double> column_roots_;
  int exponent_ = 0;            // weights_ are the weights times roots and 2^-exponent
  dense_matrix weights_;        // [N, K]
  dense_matrix target_;         // weights_ H, H = I at first
  dense_matrix transposed_;     // target_^T
  dense_matrix hessian_;        // with its diagonal taken out, once it is used
  dense_matrix given_hessian_;  // until then
  double energy_ = 0.0;         // tr(weights_ H weights_^T)
  double penalty_scale_ = 1.0;  // for the side of the inputs
  double own_[2] = {0.0, 0.0};  // what each path alone would change
  std::vector<dbf_pair> pairs_;
  dense_matrix right_;
  dense_matrix cross_;
  dense_matrix curvature_;
};

}  // namespace detail

/// Factors of `problem.weights`, as `shape` says. W = 0 gives envelopes that are zeros, and so do
/// rows of zeros; columns of zeros, too, without a Hessian. The errors are those of the factors
/// before anything is rounded. `progress` is told of stages "factors", "factors with Hessian" and
/// "refit", from the calling thread; the last may end early. Time: about (4 N K r + 5 r^2 (N + K))
/// fused multiply-adds per iteration; memory: about 8 bytes times (3 N K + 12 r (N + K) + 5 r^2),
/// with a Hessian 2 K^2 more. Refuses shapes that do not fit (shape), and weights, importances and
/// Hessians that are not finite, or shapes without sense (value). Thread-safe, but for ctx.scratch.
[[nodiscard]] inline dbf_solution fit_dbf(const dbf_problem& problem, const dbf_shape& shape,
                                          const dbf_effort& effort, const kernels::context& ctx,
                                          listener* progress = nullptr) {
  const shape2 size = problem.weights.shape();
  LOWBIT_CHECK(shape.middle >= 1 && shape.envelopes >= 1, value, "factors need at least 1 column ",
               "and 1 envelope, not ", shape.middle, " and ", shape.envelopes);
  LOWBIT_CHECK(shape.paths == 1 || shape.paths == 2, value, "there may be 1 or 2 paths, not ",
               shape.paths);
  check_finite(problem.weights, "the matrix to factor");
  check_importance(problem.input_importance, size.cols);
  check_importance(problem.output_importance, size.rows, "row");
  const matrix_view<const double> h = problem.hessian;
  if (!h.empty()) {
    LOWBIT_CHECK((h.shape() == shape2{size.cols, size.cols}), shape, "the Hessian is [", h.rows(),
                 ", ", h.cols(), "] for ", size.cols, " columns");
    LOWBIT_CHECK(shape.paths == 1, value, "a Hessian can be used with 1 path only");
    for (index_t i = 0; i < h.rows(); ++i) {
      for (const double v : h.row(i)) {
        LOWBIT_CHECK(v - v == 0.0, value, "the Hessian holds ", v, " in row ", i);
      }
    }
  }
  detail::dbf_fitter fitter(problem, shape, effort, ctx, progress);
  return fitter.run();
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
