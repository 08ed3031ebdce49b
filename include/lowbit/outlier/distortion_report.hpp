// outlier/distortion_report.hpp: manifold distortion beside the error that predicts loss, and how
// far the two agree. Layer L3.
//
// MD never stands alone: e^T H e, of which a layer's output error is made, is printed next to it,
// with the rank correlation of the two over the blocks; and with that of plain |e|, because a
// measure that ranks blocks no better than their squared error adds nothing to it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "lowbit/core/rank_correlation.hpp"
#include "lowbit/core/tensor_ref.hpp"
#include "lowbit/outlier/aggregation.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier {

namespace detail {

inline void check_hessian(matrix_view<const double> h, index_t cols) {
  LOWBIT_CHECK((h.shape() == shape2{cols, cols}), shape, "H is [", h.rows(), ", ", h.cols(),
               "], the weights have ", cols, " columns");
}

}  // namespace detail

/// e^T H_cc e of every block [N, stripes], where H_cc [d, d] is the part of the symmetric H [K, K]
/// that belongs to the block's columns: what its error would cost alone. Refuses other shapes
/// (shape), NaN and Inf in weights (value).
[[nodiscard]] inline std::vector<double> block_hessian_errors(
    const weight_manifold& manifold, matrix_view<const float> weights,
    matrix_view<const float> approximation, matrix_view<const double> h,
    const kernels::context& ctx) {
  detail::check_approximation(manifold, weights, approximation);
  detail::check_hessian(h, weights.cols());
  const index_t n = weights.rows();
  const index_t stripes = manifold.stripes().size();
  std::vector<double> out(checked_mul(n, stripes, "blocks"));
  kernels::parallel_for(ctx, stripes, [&](index_t c, index_t) {
    const stripe_geometry& s = manifold.stripes()[c];
    const kernels::context alone = ctx.serial();
    detail::columns_buffer errors = detail::stripe_errors(s, weights, approximation);
    detail::columns_buffer turned(s.width, n);
    const auto e = errors.view();
    const auto he = turned.view();
    const row_range block{s.begin, s.begin + s.width};
    kernels::add_product(he, kernels::dense_sign::add,
                         h.middle_rows(block).middle_cols(block.begin, block.end), e, alone);
    for (index_t k = 0; k < s.width; ++k) {
      for (index_t i = 0; i < n; ++i) {
        double& sum = out[i * stripes + c];
        sum = std::fma(e(k, i), he(k, i), sum);
      }
    }
  });
  return out;
}

/// tr E H E^T of the whole layer, E = W - approximation: with H = E[x x^T] the mean squared error
/// of its outputs, summed over them. Refuses as block_hessian_errors does.
[[nodiscard]] inline double layer_hessian_error(matrix_view<const float> weights,
                                                matrix_view<const float> approximation,
                                                matrix_view<const double> h,
                                                const kernels::context& ctx) {
  LOWBIT_CHECK(weights.shape() == approximation.shape(), shape, "weights are [", weights.rows(),
               ", ", weights.cols(), "], the approximation [", approximation.rows(), ", ",
               approximation.cols(), "]");
  detail::check_hessian(h, weights.cols());
  constexpr index_t chunk = 256;  // rows: memory stays bounded
  const index_t cols = weights.cols();
  double sum = 0.0;
  for (index_t begin = 0; begin < weights.rows(); begin += chunk) {
    const index_t rows = std::min(chunk, weights.rows() - begin);
    aligned_buffer<double> e(rows * cols);
    aligned_buffer<double> he(rows * cols);
    for (index_t i = 0; i < rows; ++i) {
      const auto w = weights.row(begin + i);
      const auto q = approximation.row(begin + i);
      for (index_t k = 0; k < cols; ++k) {
        e[i * cols + k] = static_cast<double>(w[k]) - static_cast<double>(q[k]);
      }
    }
    kernels::add_product({he.data(), rows, cols}, kernels::dense_sign::add,
                         matrix_view<const double>(e.data(), rows, cols), h, ctx);
    for (index_t i = 0; i < e.size(); ++i) sum = std::fma(e[i], he[i], sum);
  }
  return sum;
}

/// What md_report() says of a layer.
struct distortion_report {
  index_t blocks = 0;
  double md = 0.0;  ///< mean, weighted by |e|^2
  double md_percentile_95 = 0.0;
  double md_largest = 0.0;
  double md_point = 0.0;        ///< median over blocks: its mean is ruled by small denominators
  double md_frac = 0.0;         ///< RMS over blocks
  double isotropic_frac = 0.0;  ///< RMS of sqrt(1 - t / d): md_frac of noise of no direction
  double tangent_share = 0.0;   ///< mean of t / d
  double squared_error = 0.0;   ///< |E|^2
  double hessian_error = 0.0;   ///< tr E H E^T
  double md_rank = 0.0;         ///< rank correlation of md with e^T H_cc e, over blocks
  double error_rank = 0.0;      ///< the same of |e|: what md has to beat
  index_t undefined = 0;        ///< blocks that are left out of md
  index_t no_normal_space = 0;  ///< blocks with t = d
  index_t sparse_stripes = 0;   ///< with fewer than 2 d points
};

/// The report on weights W[N, K] that became `approximation`, under H[K, K] = E[x x^T]. Without H
/// (an empty view) hessian_error and the rank correlations are NaN; the latter also where all
/// blocks are equal. Refuses what the measures refuse.
[[nodiscard]] inline distortion_report md_report(const weight_manifold& manifold,
                                                 matrix_view<const float> weights,
                                                 matrix_view<const float> approximation,
                                                 matrix_view<const double> h,
                                                 const kernels::context& ctx) {
  const layer_distortion layer = measure_distortion(manifold, weights, approximation, ctx);
  distortion_report r;
  r.blocks = layer.blocks.size();
  r.md = aggregate(layer, layer_aggregate::weighted_mean);
  r.md_percentile_95 = aggregate(layer, layer_aggregate::percentile_95);
  r.md_largest = aggregate(layer, layer_aggregate::largest);
  std::vector<double> points;
  for (index_t i = 0; i < layer.rows; ++i) {
    for (index_t c = 0; c < layer.stripes; ++c) {
      const block_distortion& b = layer(i, c);
      const auto width = static_cast<double>(manifold.stripes()[c].width);
      const double tangent = static_cast<double>(manifold.tangent(i, c)) / width;
      r.md_frac = std::fma(b.md_frac, b.md_frac, r.md_frac);
      r.isotropic_frac += 1.0 - tangent;
      r.tangent_share += tangent;
      r.squared_error = std::fma(b.error, b.error, r.squared_error);
      r.undefined += b.flag == block_flag::undefined ? 1U : 0U;
      r.no_normal_space += b.flag == block_flag::no_normal_space ? 1U : 0U;
      if (!std::isnan(b.md_point)) points.push_back(b.md_point);
    }
  }
  for (const stripe_geometry& s : manifold.stripes())
    r.sparse_stripes += s.has_few_points ? 1U : 0U;
  if (r.blocks != 0) {
    const auto count = static_cast<double>(r.blocks);
    r.md_frac = std::sqrt(r.md_frac / count);
    r.isotropic_frac = std::sqrt(r.isotropic_frac / count);
    r.tangent_share /= count;
  }
  if (!points.empty()) {
    const auto middle = points.begin() + static_cast<std::ptrdiff_t>(points.size() / 2);
    std::nth_element(points.begin(), middle, points.end());
    r.md_point = *middle;
  }
  if (h.empty() && !weights.empty()) {
    r.hessian_error = r.md_rank = r.error_rank = std::numeric_limits<double>::quiet_NaN();
    return r;
  }
  r.hessian_error = layer_hessian_error(weights, approximation, h, ctx);
  const std::vector<double> costs = block_hessian_errors(manifold, weights, approximation, h, ctx);
  std::vector<double> md;
  std::vector<double> error;
  std::vector<double> cost;
  for (index_t i = 0; i < costs.size(); ++i) {
    if (std::isnan(layer.blocks[i].md)) continue;
    md.push_back(layer.blocks[i].md);
    error.push_back(layer.blocks[i].error);
    cost.push_back(costs[i]);
  }
  r.md_rank = rank_correlation(md, cost);
  r.error_rank = rank_correlation(error, cost);
  return r;
}

/// The same for a quantized tensor; memory for all of W as floats.
[[nodiscard]] inline distortion_report md_report(const weight_manifold& manifold,
                                                 matrix_view<const float> weights,
                                                 tensor_ref tensor, matrix_view<const double> h,
                                                 const kernels::context& ctx) {
  const shape2 shape = tensor.shape();
  aligned_buffer<float> values(shape.size());
  const matrix_view<float> all(values.data(), shape.rows, shape.cols);
  tensor.dequantize({0, shape.rows}, all);
  return md_report(manifold, weights, matrix_view<const float>(all), h, ctx);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::outlier
