// ops/split_activations.hpp: activations as a sum of two, each quantized with scales of its own.
// Layer L4.
//
// A few massive activations make the steps of a token so large that the others round to nothing.
// Two vectors of b bits, x = a + r, have two steps; W (a + r) reads the weights once, as a product
// with twice as many tokens:
//   residual  a = Q(x), r = x - Q(x): about the precision of 2 b bits
//   clipped   a = x between -t and t, r = x - a, with t = clip * (root of the mean square of the
//             token): r holds the massive activations and is 0 elsewhere
// and y = y_a + y_r, one rounding.
#pragma once

#include <algorithm>
#include <cmath>

#include "lowbit/kernels/activations/quantized.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace ops {
enum class activation_split : std::uint8_t { none, residual, clipped };
}  // namespace ops

template <>
inline constexpr std::string_view enum_names<ops::activation_split>[] = {"none", "residual",
                                                                         "clipped"};

namespace ops {

/// How activations are quantized when a path needs it.
struct activation_quantization {
  unsigned bits = 8;                    ///< 1..8
  symmetry kind = symmetry::symmetric;  ///< symmetric or asymmetric
  bool per_group = false;               ///< a scale per weight group instead of one per token
  activation_split split = activation_split::none;  ///< two vectors per token: twice the products
  float clip = 4.0F;  ///< split clipped: the threshold, as a multiple of the root mean square, > 0
};

namespace detail {

/// The root of the mean square of a token: sums of exact products in order, rounded to float once.
[[nodiscard]] inline float root_mean_square(std::span<const float> x) noexcept {
  double sum = 0.0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return static_cast<float>(std::sqrt(sum / static_cast<double>(x.size())));
}

/// parts [2 M, K] = the first vectors of all tokens of x [M, K], then their second ones. NaN and
/// Inf become no number that can be quantized, in the first part.
inline void split_tokens(matrix_view<const float> x, matrix_view<float> parts,
                         const activation_quantization& how, index_t group_size,
                         const kernels::context& ctx) {
  const index_t tokens = x.rows();
  const auto first = parts.middle_rows({0, tokens});
  const auto second = parts.middle_rows({tokens, 2 * tokens});
  if (how.split == activation_split::residual) {
    const kernels::quantized_activations codes(
        x,
        {.bits = how.bits, .kind = how.kind, .group_size = group_size, .per_group = how.per_group},
        ctx);
    codes.dequantize(second);
  }
  for (index_t t = 0; t < tokens; ++t) {
    const float limit = how.split == activation_split::clipped && !x.row(t).empty()
                            ? how.clip * root_mean_square(x.row(t))
                            : 0.0F;
    for (index_t k = 0; k < x.cols(); ++k) {
      const float value = x(t, k);
      if (how.split == activation_split::residual) {
        first(t, k) = value;  // to be quantized again, to the same codes
        second(t, k) = value - second(t, k);
      } else {
        // Not std::clamp: a NaN must stay one. With an infinite limit nothing is clipped.
        const float kept = value > limit ? limit : value < -limit ? -limit : value;
        first(t, k) = kept;
        second(t, k) = value - kept;
      }
    }
  }
}

/// multiply(x, y) for unsplit activations, else multiply() of both parts at once and their sum.
template <class Multiply>
void multiply_split(matrix_view<const float> x, matrix_view<float> y,
                    const activation_quantization& how, index_t group_size,
                    const kernels::context& ctx, const Multiply& multiply) {
  if (how.split == activation_split::none) return multiply(x, y);
  LOWBIT_CHECK(how.split != activation_split::clipped || (how.clip > 0.0F && how.clip < 1e30F),
               value, "clip = ", how.clip, " must be > 0 and finite");
  const index_t tokens = x.rows();
  aligned_buffer<float> part_values(checked_mul(2 * tokens, x.cols(), "split activations"));
  aligned_buffer<float> product_values(checked_mul(2 * tokens, y.cols(), "split products"));
  const matrix_view<float> parts(part_values.data(), 2 * tokens, x.cols());
  const matrix_view<float> products(product_values.data(), 2 * tokens, y.cols());
  split_tokens(x, parts, how, group_size, ctx);
  multiply(matrix_view<const float>(parts), products);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t n = 0; n < y.cols(); ++n) y(t, n) = products(t, n) + products(tokens + t, n);
  }
}

}  // namespace detail
}  // namespace ops
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
