// formats/envelope/fit.hpp: fits the envelopes of all planes to a matrix. Layer L3.
//
// Minimises sum of g_n h_k (W[n, k] - sum over p of E_p[n, k] B_p[n, k])^2 for importances g of
// rows and h of columns, in half-steps: one side of the envelopes stays, the other moves.
//  * The signs of all planes are chosen for each element together: the nearest of the 2^planes
//  sums.
//  * Then each lane (a row, or a column) of the moving side is a least-squares problem of
//    planes * rank unknowns of its own.
// Neither raises the objective. Signs follow from the envelopes and are never stored, so a
// half-step reads W alone.
//
// The first plane begins at rank 1 and grows to its rank; then planes join one by one, each as half
// the one before: greedy, with all that came before refitted.
//
// Invariants: sums run over k or n in increasing order, as fused multiply-adds (kernels/dense): the
// same bytes with every compiler, flag and instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/core/params.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/cpu/features.hpp"
#include "lowbit/formats/envelope/format.hpp"
#include "lowbit/kernels/dense/driver.hpp"
#include "lowbit/linalg/cholesky.hpp"
#include "lowbit/linalg/elementwise.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// How hard to try.
struct envelope_fit {
  unsigned rounds = 20;  ///< of both sides, at most; for each plane that joins, and for the rank
  double tolerance =
      1e-4;  ///< a round that gains less than this share of the objective is the last

  static void describe(envelope_fit& f, params_visitor& v) {
    v({"rounds", "of signs and envelopes in turn, at most, for each plane and for the rank"},
      f.rounds, 0U, 1000U);
    v({"tolerance", "the share of the error that a round must gain for another one"}, f.tolerance,
      0.0, 1.0);
  }
};

namespace detail {

/// The vectors of all envelopes: those of plane p are units p * rank .. of both sides.
struct envelope_vectors {
  envelope_vectors(shape2 of, unsigned plane_count, unsigned envelope_rank)
      : shape(of),
        planes(plane_count),
        rank(envelope_rank),
        rows(units() * of.rows),
        columns(units() * of.cols) {}

  [[nodiscard]] index_t units() const noexcept { return planes * rank; }
  [[nodiscard]] std::span<double> row_unit(index_t u) noexcept {
    return rows.span().subspan(u * shape.rows, shape.rows);
  }
  [[nodiscard]] std::span<double> column_unit(index_t u) noexcept {
    return columns.span().subspan(u * shape.cols, shape.cols);
  }

  shape2 shape;
  index_t planes;
  index_t rank;
  aligned_buffer<double> rows;     ///< [units, N]
  aligned_buffer<double> columns;  ///< [units, K]
};

/// An importance as the fit takes it: all zero, or all the same, is none, which is ones.
[[nodiscard]] inline std::vector<double> fit_weights(std::span<const float> importance,
                                                     index_t count) {
  std::vector<double> weights(count, 1.0);
  const bool same = std::all_of(importance.begin(), importance.end(),
                                [&](float w) { return w == importance[0]; });
  if (!same) std::copy(importance.begin(), importance.end(), weights.begin());
  return weights;
}

/// The side that moves in a half-step: `lanes` of it, each with a sum over `terms`.
struct envelope_side {
  matrix_view<const float> w;            ///< [terms, lanes]
  std::span<const double> weights;       ///< of terms
  std::span<const double> lane_weights;  ///< of lanes: for the objective only
  std::span<const double> fixed;         ///< [units, terms]
  std::span<double> moved;               ///< [units, lanes]
};

/// A half-step for 64 lanes at a time.
class envelope_step {
 public:
  static constexpr index_t lanes = 64;

  /// `planes` and `rank`: how many of the planes, and of each plane's units, take part.
  envelope_step(const envelope_side& side, kernels::dense_axpy_fn axpy, index_t units_of_a_plane,
                index_t planes, index_t rank)
      : side_(side),
        planes_(planes),
        axpy_(axpy),
        e_(planes * lanes),
        signs_(planes * lanes),
        objective_(lanes) {
    for (index_t p = 0; p < planes; ++p) {
      for (index_t j = 0; j < rank; ++j) units_.push_back({p, p * units_of_a_plane + j});
    }
    const index_t n = units_.size();
    x_ = aligned_buffer<double>(n * lanes);
    rhs_ = aligned_buffer<double>(n * lanes);
    cross_ = aligned_buffer<double>(n * n * lanes);
    system_.resize(n * n);
    delta_.resize(n);
  }

  /// Moves the lanes. Returns the objective before that, with the best signs.
  double run() {
    sum_within_planes();
    double sum = 0.0;
    for (index_t begin = 0; begin < side_.w.cols(); begin += lanes) {
      const row_range block{begin, std::min(begin + lanes, side_.w.cols())};
      accumulate(block);
      for (index_t i = 0; i < block.size(); ++i) {
        sum = std::fma(side_.lane_weights[begin + i], objective_[i], sum);
        move(begin, i);
      }
    }
    return sum;
  }

 private:
  struct unit {
    index_t plane;
    index_t at;  ///< which of all units
  };

  [[nodiscard]] double fixed(const unit& u, index_t term) const noexcept {
    return side_.fixed[u.at * side_.w.rows() + term];
  }

  /// Within a plane signs cancel: the same for all lanes.
  void sum_within_planes() {
    const index_t n = units_.size();
    within_.assign(n * n, 0.0);
    for (index_t a = 0; a < n; ++a) {
      for (index_t b = 0; b <= a; ++b) {
        if (units_[a].plane != units_[b].plane) continue;
        double sum = 0.0;
        for (index_t t = 0; t < side_.w.rows(); ++t) {
          sum = std::fma(side_.weights[t] * fixed(units_[a], t), fixed(units_[b], t), sum);
        }
        within_[a * n + b] = sum;
      }
    }
  }

  void accumulate(row_range block) {
    const index_t n = units_.size();
    std::fill_n(objective_.data(), lanes, 0.0);
    std::fill_n(rhs_.data(), rhs_.size(), 0.0);
    std::fill_n(cross_.data(), cross_.size(), 0.0);
    std::fill_n(x_.data(), x_.size(), 0.0);
    for (index_t a = 0; a < n; ++a) {
      std::copy_n(side_.moved.data() + units_[a].at * side_.w.cols() + block.begin, block.size(),
                  x_.data() + a * lanes);
    }
    std::array<double, lanes> w{};
    std::array<double, lanes> product;
    for (index_t t = 0; t < side_.w.rows(); ++t) {
      const float* const in = side_.w.row(t).data() + block.begin;
      for (index_t i = 0; i < block.size(); ++i) w[i] = static_cast<double>(in[i]);
      choose_signs(t, w);
      const double weight = side_.weights[t];
      for (index_t i = 0; i < lanes; ++i) product[i] = error_[i] * error_[i];
      axpy_(weight, product.data(), objective_.data(), lanes);
      index_t a = 0;
      for (index_t p = 0; p < planes_; ++p) {
        const double* const sign = signs_.data() + p * lanes;
        for (index_t i = 0; i < lanes; ++i) product[i] = error_[i] * sign[i];
        const index_t first = a;
        for (; a < n && units_[a].plane == p; ++a) {
          axpy_(weight * fixed(units_[a], t), product.data(), rhs_.data() + a * lanes, lanes);
        }
        index_t b = 0;
        for (index_t q = 0; q < p; ++q) {
          const double* const other = signs_.data() + q * lanes;
          for (index_t i = 0; i < lanes; ++i) product[i] = other[i] * sign[i];
          for (; b < n && units_[b].plane == q; ++b) {
            const double factor = weight * fixed(units_[b], t);
            for (index_t c = first; c < a; ++c) {
              axpy_(factor * fixed(units_[c], t), product.data(),
                    cross_.data() + (c * n + b) * lanes, lanes);
            }
          }
        }
      }
    }
  }

  /// The envelopes of term t in all lanes, and the signs that give the sum nearest to w. Sums come
  /// in pairs +-v: half of them, with |v| for |w|, will do. All of it on bits and local arrays,
  /// which compilers turn into vectors.
  void choose_signs(index_t t, const std::array<double, lanes>& w) noexcept {
    std::fill_n(e_.data(), e_.size(), 0.0);
    for (index_t a = 0; a < units_.size(); ++a) {
      axpy_(fixed(units_[a], t), x_.data() + a * lanes, e_.data() + units_[a].plane * lanes, lanes);
    }
    std::array<double, lanes> v;  // the sum of the signs of `code`
    std::copy_n(e_.data(), lanes, v.data());
    for (index_t p = 1; p < planes_; ++p) {
      const double* const e = e_.data() + p * lanes;
      for (index_t i = 0; i < lanes; ++i) v[i] += e[i];
    }
    std::array<double, lanes> nearest = v;
    std::array<double, lanes> least;
    std::array<std::uint64_t, lanes> negative{};  // the planes with sign -1 of the nearest sum
    for (index_t i = 0; i < lanes; ++i) least[i] = std::fabs(std::fabs(w[i]) - std::fabs(v[i]));
    std::uint64_t minus = 0;
    for (unsigned step = 1; step < 1U << (planes_ - 1); ++step) {  // a Gray code: one sign each
      const auto p = 1U + static_cast<unsigned>(std::countr_zero(step));
      minus ^= std::uint64_t{1} << p;
      const double twice = ((minus >> p) & 1U) != 0 ? -2.0 : 2.0;
      std::array<double, lanes> e;
      std::copy_n(e_.data() + p * lanes, lanes, e.data());
      for (index_t i = 0; i < lanes; ++i) {
        v[i] = v[i] + twice * e[i];  // a power of two: exact, fused or not
        const double distance = std::fabs(std::fabs(w[i]) - std::fabs(v[i]));
        const bool better = distance < least[i];
        least[i] = better ? distance : least[i];
        nearest[i] = better ? v[i] : nearest[i];
        negative[i] = better ? minus : negative[i];
      }
    }
    constexpr std::uint64_t sign_bit = std::uint64_t{1} << 63U;
    constexpr auto one = std::bit_cast<std::uint64_t>(1.0);
    std::array<std::uint64_t, lanes> flip;
    for (index_t i = 0; i < lanes; ++i) {
      const auto v_bits = std::bit_cast<std::uint64_t>(nearest[i]);
      flip[i] = (std::bit_cast<std::uint64_t>(w[i]) ^ v_bits) & sign_bit;
      error_[i] = w[i] - std::bit_cast<double>(v_bits ^ flip[i]);
    }
    for (index_t p = 0; p < planes_; ++p) {
      double* const signs = signs_.data() + p * lanes;
      for (index_t i = 0; i < lanes; ++i) {
        signs[i] = std::bit_cast<double>(one ^ flip[i] ^ ((negative[i] >> p) << 63U));
      }
    }
  }

  /// One lane: (G + ridge) delta = right-hand side, a step that lowers the objective whatever G's
  /// rank is.
  void move(index_t begin, index_t lane) {
    const index_t n = units_.size();
    double trace = 0.0;
    for (index_t a = 0; a < n; ++a) trace += within_[a * n + a];
    const double ridge = trace * 0x1p-40;
    for (index_t a = 0; a < n; ++a) {
      for (index_t b = 0; b <= a; ++b) {
        const bool same = units_[a].plane == units_[b].plane;
        system_[a * n + b] = same ? within_[a * n + b] : cross_[(a * n + b) * lanes + lane];
      }
      system_[a * n + a] += ridge;
      delta_[a] = rhs_[a * lanes + lane];
    }
    if (!linalg::solve_spd_small(system_, delta_)) return;
    for (index_t a = 0; a < n; ++a) {
      side_.moved[units_[a].at * side_.w.cols() + begin + lane] += delta_[a];
    }
  }

  envelope_side side_;
  index_t planes_;
  kernels::dense_axpy_fn axpy_;
  std::vector<unit> units_;     // by plane
  std::vector<double> within_;  // [units, units]
  std::vector<double> system_;
  std::vector<double> delta_;
  // Of the lanes of a block:
  std::array<double, lanes> error_;
  aligned_buffer<double> e_;      // [planes, lanes]
  aligned_buffer<double> signs_;  // [planes, lanes], -1 or +1
  aligned_buffer<double> objective_;
  aligned_buffer<double> x_;      // [units, lanes]
  aligned_buffer<double> rhs_;    // [units, lanes]
  aligned_buffer<double> cross_;  // [units, units, lanes]: the lower triangle, between planes
};

/// A half-step that was taken.
struct envelope_progress {
  index_t planes;
  index_t rank;      ///< of the planes that took part
  double objective;  ///< before it, with the best signs
};

/// The envelopes of a matrix, fitted and then rounded to what is stored.
class envelope_fitter {
 public:
  /// W is not empty. The weights must outlive this.
  envelope_fitter(matrix_view<const float> w, std::span<const double> row_weights,
                  std::span<const double> column_weights, const envelope::params& params,
                  const envelope_fit& effort)
      : w_(w),
        row_weights_(row_weights),
        column_weights_(column_weights),
        params_(params),
        effort_(effort),
        axpy_(kernels::select_dense(cpu::detect()).run.axpy),
        transposed_(w.shape().size()),
        vectors_(w.shape(), params.planes, params.envelope_rank) {
    linalg::detail::copy_transposed(w, matrix_view<float>(transposed_.data(), w.cols(), w.rows()));
  }

  /// `moves`: whether error feedback will move weights before they are coded. It adds errors of
  /// others to them, so their levels lie wider by a quarter of the relative error.
  void run(bool moves) {
    std::fill(vectors_.row_unit(0).begin(), vectors_.row_unit(0).end(), 1.0);
    std::fill(vectors_.column_unit(0).begin(), vectors_.column_unit(0).end(), 0.0);
    alternate(1, 1);
    if (vectors_.rank > 1) {
      for (index_t j = 1; j < vectors_.rank; ++j) vary(j);
      alternate(1, vectors_.rank);
    }
    for (index_t p = 1; p < vectors_.planes; ++p) {
      join(p);
      alternate(p + 1, vectors_.rank);
    }
    sort_planes();
    round_columns();
    const double error = move_rows(vectors_.planes, vectors_.rank);
    if (moves && error > 0.0) {
      const double wider = 1.0 + 0.25 * (error / history_.front().objective);
      for (double& v : vectors_.rows.span()) v *= wider;
    }
    round(vectors_.rows.span());
  }

  [[nodiscard]] envelope_vectors& vectors() noexcept { return vectors_; }
  /// Every half-step in order. The objective does not rise while planes and rank stay, until
  /// columns are rounded, before the last one.
  [[nodiscard]] const std::vector<envelope_progress>& history() const noexcept { return history_; }

 private:
  void alternate(index_t planes, index_t rank) {
    double before = std::numeric_limits<double>::infinity();
    for (unsigned round = 0; round < std::max(effort_.rounds, 1U); ++round) {
      const double objective = move_columns(planes, rank);
      move_rows(planes, rank);
      if (!(before - objective > effort_.tolerance * objective) && round > 1) break;
      before = objective;
    }
  }

  double move_columns(index_t planes, index_t rank) {
    const envelope_side side{w_, row_weights_, column_weights_, vectors_.rows.span(),
                             vectors_.columns.span()};
    const double objective = envelope_step(side, axpy_, vectors_.rank, planes, rank).run();
    history_.push_back({planes, rank, objective});
    return objective;
  }
  double move_rows(index_t planes, index_t rank) {
    const matrix_view<const float> w(transposed_.data(), w_.cols(), w_.rows());
    const envelope_side side{w, column_weights_, row_weights_, vectors_.columns.span(),
                             vectors_.rows.span()};
    const double objective = envelope_step(side, axpy_, vectors_.rank, planes, rank).run();
    history_.push_back({planes, rank, objective});
    return objective;
  }

  /// Unit j of the first plane begins as its first one with random signs in the rows and zeros in
  /// the columns, which move first.
  void vary(index_t j) {
    const auto from = vectors_.row_unit(0);
    const auto to = vectors_.row_unit(j);
    for (index_t n = 0; n < to.size(); ++n) {
      to[n] = (random_bits(j, n) & 1U) != 0 ? from[n] : -from[n];
    }
  }

  /// Plane p begins as half of the plane before.
  void join(index_t p) {
    for (index_t u = p * vectors_.rank; u < (p + 1) * vectors_.rank; ++u) {
      const auto from = vectors_.row_unit(u - vectors_.rank);
      const auto to = vectors_.row_unit(u);
      for (index_t n = 0; n < to.size(); ++n) to[n] = 0.5 * from[n];
      const auto columns = vectors_.column_unit(u - vectors_.rank);
      std::copy(columns.begin(), columns.end(), vectors_.column_unit(u).begin());
    }
  }

  /// The square of the norm of a plane's envelope.
  [[nodiscard]] double energy(index_t p) {
    double sum = 0.0;
    for (index_t a = p * vectors_.rank; a < (p + 1) * vectors_.rank; ++a) {
      for (index_t b = p * vectors_.rank; b < (p + 1) * vectors_.rank; ++b) {
        sum = std::fma(dot(vectors_.row_unit(a), vectors_.row_unit(b)),
                       dot(vectors_.column_unit(a), vectors_.column_unit(b)), sum);
      }
    }
    return sum;
  }
  [[nodiscard]] static double dot(std::span<const double> a, std::span<const double> b) noexcept {
    double sum = 0.0;
    for (index_t i = 0; i < a.size(); ++i) sum = std::fma(a[i], b[i], sum);
    return sum;
  }

  /// By decreasing norms.
  void sort_planes() {
    std::vector<double> energies(vectors_.planes);
    for (index_t p = 0; p < vectors_.planes; ++p) energies[p] = energy(p);
    std::vector<index_t> order(vectors_.planes);
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](index_t a, index_t b) { return energies[a] > energies[b]; });
    envelope_vectors sorted = vectors_;
    for (index_t p = 0; p < vectors_.planes; ++p) {
      for (index_t j = 0; j < vectors_.rank; ++j) {
        const index_t from = order[p] * vectors_.rank + j;
        const index_t to = p * vectors_.rank + j;
        std::copy_n(vectors_.row_unit(from).data(), w_.rows(), sorted.row_unit(to).data());
        std::copy_n(vectors_.column_unit(from).data(), w_.cols(), sorted.column_unit(to).data());
      }
    }
    vectors_ = std::move(sorted);
  }

  /// Both vectors of a unit get the same largest magnitude, so that neither overflows before the
  /// other; those of rank 1 become >= 0, which signs make up for. Then the columns are rounded.
  void round_columns() {
    const auto largest = [](std::span<const double> x) {
      double most = 0.0;
      for (const double v : x) most = std::max(most, std::fabs(v));
      return most;
    };
    for (index_t u = 0; u < vectors_.units(); ++u) {
      const auto rows = vectors_.row_unit(u);
      const auto columns = vectors_.column_unit(u);
      const double root_of_rows = std::sqrt(largest(rows));
      const double root_of_columns = std::sqrt(largest(columns));
      const bool any = root_of_rows > 0.0 && root_of_columns > 0.0;
      for (double& v : rows) v = any ? v / root_of_rows * root_of_columns : 0.0;
      for (double& v : columns) v = any ? v / root_of_columns * root_of_rows : 0.0;
      if (vectors_.rank > 1) continue;
      for (double& v : rows) v = std::fabs(v);
      for (double& v : columns) v = std::fabs(v);
    }
    round(vectors_.columns.span());
  }

  void round(std::span<double> values) const noexcept {
    for (double& v : values) {
      const float stored = layout::round_to(params_.scale_type, static_cast<float>(v)) + 0.0F;
      v = static_cast<double>(vectors_.rank == 1 ? std::fabs(stored) : stored);
    }
  }

  matrix_view<const float> w_;
  std::span<const double> row_weights_;
  std::span<const double> column_weights_;
  envelope::params params_;
  envelope_fit effort_;
  kernels::dense_axpy_fn axpy_;
  aligned_buffer<float> transposed_;
  envelope_vectors vectors_;
  std::vector<envelope_progress> history_;
};

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
