// outlier/manifold_distortion.hpp: how much of a quantization error leaves the subspace in which
// the weights around it lie. Layer L3.
//
// A row of W[N, K] is cut into blocks v of `dimension` coordinates; the blocks of the same columns
// are a stripe, and points of one space. Local PCA of a stripe (or of each block's nearest
// neighbours in it) gives a centre and the tangent, the leading axes that hold 95 % of the
// variance; P projects to the others, the normal space. For the error e = v - v^ of a block
//
//   md        |P e| / max(N, 1e-3 V)              N, V: RMS over the stripe of |n| and |v - centre|
//   md_point  |P e| / max(|n|, 1e-3 |v - centre|)       n = P (v - centre), of the block itself
//   md_frac   |P e| / |e|                               0..1
//   md_excess md_frac / sqrt(1 - t / d)                 1: like noise of no direction
//
// What this does NOT show is in this folder's README.md: md is a diagnostic.
//
// The last stripe has the columns that are left, which is zero padding with the padding masked.
//
// Invariants: same bits on every CPU, tier, compiler and number of threads (kernels/dense, explicit
// fused multiply-adds), so that bytes may depend on them. Scaling all weights by a power of two
// changes no bit of any measure.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/core/params.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/linalg/pca.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {
namespace outlier {

/// Which points a tangent is fitted to.
enum class neighbourhood : std::uint8_t {
  stripe,  ///< rows of the stripe: one tangent for all its blocks
  knn      ///< the blocks of the stripe that are nearest to the block, itself included: O(N^2)
};

}  // namespace outlier

template <>
inline constexpr std::string_view enum_names<outlier::neighbourhood>[] = {"stripe", "knn"};

namespace outlier {

struct manifold_params {
  std::uint32_t dimension = 32;  ///< d, coordinates of a block
  neighbourhood points = neighbourhood::stripe;
  /// k, points of a tangent. 0: all rows (stripe), max(2 d, 64) or all if there are fewer (knn).
  /// Of a stripe they are spaced evenly.
  std::uint32_t neighbours = 0;
  double variance = 0.95;  ///< share that the tangent holds

  friend bool operator==(const manifold_params&, const manifold_params&) = default;
  static void describe(manifold_params& p, params_visitor& v) {
    v({"md_dimension", "coordinates of a block of weights"}, p.dimension, std::uint32_t{2},
      std::uint32_t{1024});
    v({"md_points", "which points a tangent is fitted to"}, p.points);
    v({"md_neighbours", "points of a tangent; 0: all rows, or twice the coordinates of knn"},
      p.neighbours, std::uint32_t{0}, std::numeric_limits<std::uint32_t>::max());
    v({"md_variance", "share of the variance that the tangent holds"}, p.variance, 0.0, 1.0);
  }
};

/// The default params, with blocks narrow enough for a matrix of so few rows: twice as many points
/// as coordinates tell a tangent, so far as there are any.
[[nodiscard]] constexpr manifold_params manifold_params_for(index_t rows) noexcept {
  manifold_params params;
  while (params.dimension > 2 && rows < 2 * index_t{params.dimension}) params.dimension /= 2;
  return params;
}

/// What is special about a block.
enum class block_flag : std::uint8_t {
  none,
  no_normal_space,  ///< t = d: nothing can leave the tangent; all measures 0, md_excess 1
  undefined         ///< md is NaN: the stripe is constant, but the block has an error
};

/// The measures of one block; see the head of this file.
struct block_distortion {
  double error = 0.0;         ///< |e|
  double normal_error = 0.0;  ///< |P e|
  double md = 0.0;
  double md_point = 0.0;  ///< NaN where the block has no distance from the centre, but an error
  double md_frac = 0.0;
  double md_excess = 0.0;
  block_flag flag = block_flag::none;
};

/// A stripe of columns and what its tangents are like.
struct stripe_geometry {
  index_t begin = 0;            ///< first column
  index_t width = 0;            ///< d; less only in the last stripe
  double tangent = 0.0;         ///< t; its mean over the blocks if each has its own
  double normal_rms = 0.0;      ///< N
  double spread_rms = 0.0;      ///< V
  bool has_few_points = false;  ///< k < 2 d: the normal space holds directions not looked at enough

  /// What md divides by; 0 in a constant stripe.
  [[nodiscard]] double unit() const noexcept { return std::max(normal_rms, 1e-3 * spread_rms); }
};

namespace detail {

/// |x|^2, terms in order.
[[nodiscard]] inline double squared_norm(std::span<const double> x) noexcept {
  double sum = 0.0;
  for (const double v : x) sum = std::fma(v, v, sum);
  return sum;
}

/// sums[j] += x[i][j]^2 over rows i, in order.
inline void add_squares(matrix_view<const double> x, std::span<double> sums) noexcept {
  for (index_t i = 0; i < x.rows(); ++i) {
    const auto row = x.row(i);
    for (index_t j = 0; j < sums.size(); ++j) sums[j] = std::fma(row[j], row[j], sums[j]);
  }
}

/// A matrix of doubles whose rows do not all fall into one set of the cache.
class columns_buffer {
 public:
  columns_buffer(index_t rows, index_t cols)
      : rows_(rows),
        cols_(cols),
        stride_(div_up(cols, 8) * 8 + 8),
        values_(checked_mul(rows, stride_, "points")) {}
  [[nodiscard]] matrix_view<double> view() noexcept {
    return {values_.data(), rows_, cols_, stride_};
  }

 private:
  index_t rows_;
  index_t cols_;
  index_t stride_;
  aligned_buffer<double> values_;
};

/// out[d, n] = (a - b)[n, d] transposed, in double.
inline void transposed_difference(matrix_view<const float> a, matrix_view<const float> b,
                                  matrix_view<double> out) noexcept {
  for (index_t i = 0; i < a.rows(); ++i) {
    const auto x = a.row(i);
    const auto y = b.row(i);
    for (index_t k = 0; k < x.size(); ++k) {
      out(k, i) = static_cast<double>(x[k]) - static_cast<double>(y[k]);
    }
  }
}

}  // namespace detail

/// The local PCA of a weight matrix: what errors are measured against. Built once, it judges any
/// number of candidates. A value; const functions are thread-safe. Memory: 24 bytes per block and 8
/// d^2 per tangent (per stripe; with knn per block, 8 d bytes per weight).
class weight_manifold {
 public:
  /// Refuses params out of range, fewer than d + 1 points for a tangent (value: they span no normal
  /// space that could be told from the unexplored), NaN and Inf (value, with row and column).
  /// Stripes run in parallel on ctx.
  weight_manifold(matrix_view<const float> weights, const manifold_params& params,
                  const kernels::context& ctx)
      : params_(params), shape_(weights.shape()) {
    check_params<manifold_params>(params);
    check_finite(weights, "the weight matrix");
    const index_t d = params.dimension;
    const index_t n = shape_.rows;
    for (index_t begin = 0; begin < shape_.cols && n != 0; begin += d) {
      stripes_.push_back({.begin = begin, .width = std::min(d, shape_.cols - begin)});
    }
    if (stripes_.empty()) return;
    const index_t k = neighbours();
    LOWBIT_CHECK(k > stripes_.front().width && k <= n, value, k, " of ", n,
                 " rows are no neighbourhood in blocks of ", stripes_.front().width,
                 " columns: more points than columns are needed");
    const bool is_local = params.points == neighbourhood::knn;
    patches_.resize(checked_mul(stripes_.size(), is_local ? n : 1, "tangents"));
    blocks_.resize(checked_mul(stripes_.size(), n, "blocks"));
    kernels::parallel_for(ctx, stripes_.size(), [&](index_t c, index_t) {
      stripe_geometry& s = stripes_[c];
      s.has_few_points = k < 2 * s.width;
      const auto points = weights.middle_cols(s.begin, s.begin + s.width);
      // A task on its own: another context would share the scratch of this one.
      const kernels::context alone = ctx.serial();
      is_local ? fit_blocks(c, points, k, alone) : fit_stripe(c, points, k, alone);
      finish(c);
    });
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const manifold_params& params() const noexcept { return params_; }
  /// In increasing order of columns; none for an empty matrix.
  [[nodiscard]] std::span<const stripe_geometry> stripes() const noexcept { return stripes_; }
  /// t, the dimensions of the tangent at a block.
  [[nodiscard]] index_t tangent(index_t row, index_t stripe) const noexcept {
    return patch_of(row, stripe).tangent;
  }
  /// |n| of a block, its distance from the tangent through the centre.
  [[nodiscard]] double normal_distance(index_t row, index_t stripe) const noexcept {
    return block_of(row, stripe).normal;
  }
  /// Orthonormal rows that span the normal space at a block: [d - t, d].
  [[nodiscard]] matrix_view<const double> normal_axes(index_t row, index_t stripe) const noexcept {
    const patch& p = patch_of(row, stripe);
    const index_t d = stripes_[stripe].width;
    return matrix_view<const double>(p.axes.data(), d, d).middle_rows({p.tangent, d});
  }
  /// Whether all blocks of a stripe have one tangent.
  [[nodiscard]] bool is_per_stripe() const noexcept {
    return params_.points == neighbourhood::stripe;
  }

  /// The measures of a block whose error is e[d] and whose values have length |v|. Same bits as
  /// measure_distortion gives.
  [[nodiscard]] block_distortion measure_block(index_t row, index_t stripe,
                                               std::span<const double> e,
                                               double length) const noexcept {
    const auto axes = normal_axes(row, stripe);
    double normal = 0.0;
    for (index_t i = 0; i < axes.rows(); ++i) {
      double y = 0.0;
      for (index_t k = 0; k < e.size(); ++k) y = std::fma(axes(i, k), e[k], y);
      normal = std::fma(y, y, normal);
    }
    return rate(row, stripe, detail::squared_norm(e), normal, length);
  }

  /// The measures from |e|^2, |P e|^2 and |v|.
  [[nodiscard]] block_distortion rate(index_t row, index_t stripe, double squared_error,
                                      double squared_normal, double length) const noexcept {
    const stripe_geometry& s = stripes_[stripe];
    const block& b = block_of(row, stripe);
    const index_t t = tangent(row, stripe);
    block_distortion out;
    out.error = std::sqrt(squared_error);
    out.normal_error = std::min(std::sqrt(squared_normal), out.error);
    if (t == s.width) {
      out.md_excess = 1.0;
      out.flag = block_flag::no_normal_space;
      return out;
    }
    out.md = ratio(out.normal_error, s.unit());
    out.md_point = ratio(out.normal_error, std::max(b.normal, 1e-3 * b.spread));
    if (out.error > 0.0 && out.error >= 1e-12 * length) out.md_frac = out.normal_error / out.error;
    const double isotropic =
        std::sqrt(static_cast<double>(s.width - t) / static_cast<double>(s.width));
    out.md_excess = out.md_frac / isotropic;
    if (std::isnan(out.md)) out.flag = block_flag::undefined;
    return out;
  }

 private:
  /// A tangent and its normal space: all axes, the leading t first.
  struct patch {
    index_t tangent = 0;
    std::vector<double> axes;
  };
  struct block {
    double normal = 0.0;
    double spread = 0.0;
  };

  [[nodiscard]] index_t neighbours() const noexcept {
    if (params_.neighbours != 0) return params_.neighbours;
    if (is_per_stripe()) return shape_.rows;
    return std::min<index_t>(shape_.rows, std::max<index_t>(index_t{2} * params_.dimension, 64));
  }
  [[nodiscard]] const patch& patch_of(index_t row, index_t stripe) const noexcept {
    return patches_[is_per_stripe() ? stripe : stripe * shape_.rows + row];
  }
  [[nodiscard]] block& block_of(index_t row, index_t stripe) noexcept {
    return blocks_[stripe * shape_.rows + row];
  }
  [[nodiscard]] const block& block_of(index_t row, index_t stripe) const noexcept {
    return blocks_[stripe * shape_.rows + row];
  }
  /// 0 / 0 is 0: no error is no distortion.
  [[nodiscard]] static double ratio(double a, double b) noexcept {
    if (b > 0.0) return a / b;
    return a > 0.0 ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  }

  /// Axes of the points, which it centres; their mean.
  void fit(patch& p, matrix_view<const float> points, std::span<double> mean,
           const kernels::context& ctx) const {
    const index_t d = points.cols();
    linalg::mean_point(points, mean);
    detail::columns_buffer centred(d, points.rows());
    linalg::centre_points(points, mean, centred.view());
    aligned_buffer<double> variances(d);
    p.axes.resize(d * d);
    linalg::principal_axes(matrix_view<const double>(centred.view()), variances.span(),
                           {p.axes.data(), d, d}, ctx);
    p.tangent = linalg::leading_axes(variances.span(), params_.variance);
  }

  void fit_stripe(index_t c, matrix_view<const float> points, index_t k,
                  const kernels::context& ctx) {
    const index_t n = points.rows();
    const index_t d = points.cols();
    aligned_buffer<float> sampled(k == n ? 0 : k * d);
    auto sample = points;
    if (k != n) {
      for (index_t i = 0; i < k; ++i) {
        std::copy_n(points.row(i * n / k).data(), d, sampled.data() + i * d);
      }
      sample = {sampled.data(), k, d};
    }
    aligned_buffer<double> mean(d);
    fit(patches_[c], sample, mean.span(), ctx);
    detail::columns_buffer centred(d, n);
    linalg::centre_points(points, mean.span(), centred.view());
    aligned_buffer<double> spread(n);
    aligned_buffer<double> normal(n);
    detail::add_squares(centred.view(), spread.span());
    const auto axes = normal_axes(0, c);
    detail::columns_buffer projected(axes.rows(), n);
    kernels::add_product(projected.view(), kernels::dense_sign::add, axes, centred.view(), ctx);
    detail::add_squares(projected.view(), normal.span());
    for (index_t i = 0; i < n; ++i) {
      block_of(i, c) = {std::sqrt(normal[i]), std::sqrt(spread[i])};
    }
  }

  void fit_blocks(index_t c, matrix_view<const float> points, index_t k,
                  const kernels::context& ctx) {
    const index_t n = points.rows();
    const index_t d = points.cols();
    std::vector<std::pair<double, index_t>> nearest(n);
    aligned_buffer<float> sample(k * d);
    aligned_buffer<double> mean(d);
    aligned_buffer<double> v(d);
    for (index_t j = 0; j < n; ++j) {
      for (index_t i = 0; i < n; ++i) {
        double distance = 0.0;
        for (index_t x = 0; x < d; ++x) {
          const double step = static_cast<double>(points(i, x)) - static_cast<double>(points(j, x));
          distance = std::fma(step, step, distance);
        }
        nearest[i] = {distance, i};  // ties: the first rows
      }
      const auto end = nearest.begin() + static_cast<std::ptrdiff_t>(k);
      std::nth_element(nearest.begin(), end - 1, nearest.end());
      std::sort(nearest.begin(), end, [](auto& a, auto& b) { return a.second < b.second; });
      for (index_t i = 0; i < k; ++i) {
        std::copy_n(points.row(nearest[i].second).data(), d, sample.data() + i * d);
      }
      fit(patches_[c * n + j], {sample.data(), k, d}, mean.span(), ctx);
      for (index_t x = 0; x < d; ++x) v[x] = static_cast<double>(points(j, x)) - mean[x];
      block_of(j, c) = {measure_block(j, c, v.span(), 0.0).normal_error,
                        std::sqrt(detail::squared_norm(v.span()))};
    }
  }

  void finish(index_t c) {
    stripe_geometry& s = stripes_[c];
    const auto n = static_cast<double>(shape_.rows);
    double normal = 0.0;
    double spread = 0.0;
    double tangents = 0.0;
    for (index_t i = 0; i < shape_.rows; ++i) {
      const block& b = block_of(i, c);
      normal = std::fma(b.normal, b.normal, normal);
      spread = std::fma(b.spread, b.spread, spread);
      tangents += static_cast<double>(tangent(i, c));
    }
    s.normal_rms = std::sqrt(normal / n);
    s.spread_rms = std::sqrt(spread / n);
    s.tangent = tangents / n;
  }

  manifold_params params_;
  shape2 shape_;
  std::vector<stripe_geometry> stripes_;
  std::vector<patch> patches_;
  std::vector<block> blocks_;  // [stripes, rows]
};

/// The measures of all blocks of a matrix.
struct layer_distortion {
  index_t rows = 0;
  index_t stripes = 0;
  std::vector<block_distortion> blocks;  ///< [rows, stripes]

  [[nodiscard]] const block_distortion& operator()(index_t row, index_t stripe) const noexcept {
    return blocks[row * stripes + stripe];
  }
};

namespace detail {

inline void check_approximation(const weight_manifold& m, matrix_view<const float> weights,
                                matrix_view<const float> approximation) {
  LOWBIT_CHECK(weights.shape() == m.shape() && approximation.shape() == m.shape(), shape,
               "a manifold of [", m.shape().rows, ", ", m.shape().cols,
               "] does not judge weights of [", weights.rows(), ", ", weights.cols(), "] and [",
               approximation.rows(), ", ", approximation.cols(), "]");
  check_finite(weights, "the weight matrix");
  check_finite(approximation, "the approximation");
}

/// e[d, N], the errors of a stripe.
[[nodiscard]] inline columns_buffer stripe_errors(const stripe_geometry& s,
                                                  matrix_view<const float> weights,
                                                  matrix_view<const float> approximation) {
  columns_buffer e(s.width, weights.rows());
  transposed_difference(weights.middle_cols(s.begin, s.begin + s.width),
                        approximation.middle_cols(s.begin, s.begin + s.width), e.view());
  return e;
}

}  // namespace detail

/// The distortion of every block where W[N, K], of which the manifold was made, became
/// `approximation`. Refuses other shapes (shape), NaN and Inf (value, with row and column). Stripes
/// run in parallel on ctx.
[[nodiscard]] inline layer_distortion measure_distortion(const weight_manifold& manifold,
                                                         matrix_view<const float> weights,
                                                         matrix_view<const float> approximation,
                                                         const kernels::context& ctx) {
  detail::check_approximation(manifold, weights, approximation);
  const index_t n = weights.rows();
  layer_distortion out{n, manifold.stripes().size(), {}};
  out.blocks.resize(checked_mul(n, out.stripes, "blocks"));
  kernels::parallel_for(ctx, out.stripes, [&](index_t c, index_t) {
    const kernels::context alone = ctx.serial();
    const stripe_geometry& s = manifold.stripes()[c];
    detail::columns_buffer errors = detail::stripe_errors(s, weights, approximation);
    const auto e = errors.view();
    aligned_buffer<double> squared(n);
    aligned_buffer<double> normal(n);
    if (manifold.is_per_stripe()) {
      const auto axes = manifold.normal_axes(0, c);
      detail::columns_buffer projected(axes.rows(), n);
      kernels::add_product(projected.view(), kernels::dense_sign::add, axes, e, alone);
      detail::add_squares(projected.view(), normal.span());
      detail::add_squares(e, squared.span());
    }
    aligned_buffer<double> own(s.width);
    for (index_t i = 0; i < n; ++i) {
      double length = 0.0;
      for (const float v : weights.row(i).subspan(s.begin, s.width)) {
        length += static_cast<double>(v) * static_cast<double>(v);  // an exact product
      }
      length = std::sqrt(length);
      block_distortion& b = out.blocks[i * out.stripes + c];
      if (manifold.is_per_stripe()) {
        b = manifold.rate(i, c, squared[i], normal[i], length);
      } else {
        for (index_t k = 0; k < s.width; ++k) own[k] = e(k, i);
        b = manifold.measure_block(i, c, own.span(), length);
      }
    }
  });
  return out;
}

}  // namespace outlier
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
