// kernels/activations/quantized.hpp: activations of 1 to 8 bits, symmetric or asymmetric, and their
// bit-planes, the operand of planes x planes products. Layer L2.
//
// A code is an unsigned number u of `bits` bits. It is kept as a signed byte, code = u - 2^(bits-1)
// (offset binary), and its bits are the planes. value = step * (u - twice_zero / 2):
//   symmetric, bits >= 2   as in levels.hpp: twice_zero = 2^bits, so that value = step * code
//   symmetric, 1 bit       u = x >= 0, -0 included; value = +-(step / 2), the mean of |x|:
//                          twice_zero = 1. The mean adds up the groups in order, also where
//                          they share a step
//   asymmetric             min-max with an integer zero point (core/affine.hpp), steps in fp32
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "lowbit/kernels/activations/levels.hpp"
#include "lowbit/kernels/activations/variants.hpp"
#include "lowbit/layout/bit_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// How the codes of one group map to values: value = step * (u - twice_zero / 2).
struct activation_scaling {
  float step = 0.0F;
  int twice_zero = 0;  ///< an integer even for sign codes, whose zero is one half
};

/// Quantized activations [tokens, K], in rows of bytes. Reading is thread-safe. An object that is
/// assigned again keeps its memory, and allocates none if that is large enough.
class quantized_activations {
 public:
  quantized_activations() noexcept = default;
  /// See assign().
  explicit quantized_activations(matrix_view<const float> x, const activation_params& params = {},
                                 const context& ctx = {}) {
    assign(x, params, ctx);
  }

  /// Quantizes x. Refuses NaN/Inf, with token and channel, activations so large that a level is no
  /// float, bits outside 1..8 and symmetry offset (value); then the content is unspecified until
  /// the next assign(). Uses ctx's executor when there are many tokens; the result never depends on
  /// it.
  void assign(matrix_view<const float> x, const activation_params& params, const context& ctx) {
    detail::check_activation_params(params, 1);
    params_ = params;
    shape_ = {};  // nothing to read if anything below refuses
    groups_ = 0;
    if (params_.group_size == 0 || params_.group_size > x.cols()) params_.group_size = x.cols();
    const index_t groups = params_.group_size == 0 ? 0 : div_up(x.cols(), params_.group_size);
    detail::grow(codes_, x.shape().size());
    detail::grow(sums_, x.rows() * groups);
    detail::grow(scalings_, params_.per_group ? x.rows() * groups : x.rows());
    shape_ = x.shape();
    groups_ = groups;
    const activation_functions& functions = select_activations(ctx.allowed).run;
    const index_t bad = detail::for_each_token(
        ctx, shape_, [&](index_t t) { return quantize_token(x.row(t), t, functions); });
    if (bad == shape_.rows) return;
    shape_ = {};
    groups_ = 0;
    detail::refuse_token(x.row(bad), bad);
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] unsigned bits() const noexcept { return params_.bits; }
  [[nodiscard]] bool per_group() const noexcept { return params_.per_group; }
  [[nodiscard]] index_t group_size() const noexcept { return params_.group_size; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  /// The codes of a token, u - 2^(bits-1).
  [[nodiscard]] std::span<const std::int8_t> codes(index_t token) const noexcept {
    return codes_.span().subspan(token * shape_.cols, shape_.cols);
  }
  /// The sum of the unsigned numbers u of one token and group.
  [[nodiscard]] std::int64_t sum_codes(index_t token, index_t group) const noexcept {
    const index_t size = std::min(params_.group_size, shape_.cols - group * params_.group_size);
    return sums_[token * groups_ + group] +
           (static_cast<std::int64_t>(size) << (params_.bits - 1U));
  }
  [[nodiscard]] activation_scaling scaling(index_t token, index_t group) const noexcept {
    return scalings_[params_.per_group ? token * groups_ + group : token];
  }
  /// Writes the planes of columns [begin, begin + count) of a token, as the kernels do
  /// (contract.hpp): plane p from planes[p * plane_stride] on. The columns must lie inside, and
  /// count be at least 1.
  void write_planes(index_t token, index_t begin, index_t count, std::uint64_t* planes,
                    index_t plane_stride, const activation_functions& functions) const noexcept {
    functions.planes({.codes = codes(token).data() + begin,
                      .planes = planes,
                      .count = count,
                      .plane_stride = plane_stride,
                      .bits = params_.bits});
  }
  /// The codes u as canonical bit-planes [bits, tokens, K].
  [[nodiscard]] layout::bit_matrix planes(const context& ctx = {}) const {
    layout::bit_matrix out(params_.bits, shape_);
    if (shape_.cols == 0) return out;
    const activation_functions& functions = select_activations(ctx.allowed).run;
    for (index_t t = 0; t < shape_.rows; ++t) {
      write_planes(t, 0, shape_.cols, out.row(0, t).data(), shape_.rows * out.row_words(),
                   functions);
    }
    return out;
  }
  /// The values that the codes stand for; `out` is [tokens, K].
  void dequantize(matrix_view<float> out) const {
    LOWBIT_CHECK(out.shape() == shape_, shape, "activations [", shape_.rows, ", ", shape_.cols,
                 "] do not fit [", out.rows(), ", ", out.cols(), "]");
    const int twice_middle = 1 << params_.bits;
    for (index_t t = 0; t < shape_.rows; ++t) {
      for (index_t k = 0; k < shape_.cols; ++k) {
        const activation_scaling s = scaling(t, k / params_.group_size);
        const int twice = 2 * codes(t)[k] + twice_middle - s.twice_zero;
        out(t, k) = s.step * (0.5F * static_cast<float>(twice));  // one rounding
      }
    }
  }

 private:
  [[nodiscard]] affine_grid grid() const noexcept { return {params_.bits, params_.kind}; }

  /// Whether the token could be quantized.
  [[nodiscard]] bool quantize_token(std::span<const float> x, index_t token,
                                    const activation_functions& functions) noexcept {
    const index_t stretch = params_.per_group ? params_.group_size : x.size();
    index_t scaling = params_.per_group ? token * groups_ : token;
    if (x.empty() && !params_.per_group) scalings_[scaling] = {};
    for (index_t begin = 0; begin < x.size(); begin += stretch) {
      const auto part = x.subspan(begin, std::min(stretch, x.size() - begin));
      const std::uint32_t largest = functions.max_magnitude(part.data(), part.size());
      if (largest >= magnitude_of_infinity) return false;
      const auto quantize = grid().is_sign() ? &quantized_activations::signs
                            : params_.kind == symmetry::symmetric
                                ? &quantized_activations::symmetric
                                : &quantized_activations::asymmetric;
      if (!(this->*quantize)({part, token, begin / params_.group_size}, largest, functions,
                             scalings_[scaling++])) {
        return false;
      }
    }
    return true;
  }

  /// Columns that share a scaling: one group or all of them.
  struct stretch_of_token {
    std::span<const float> x;
    index_t token;
    index_t group;  ///< the first one
  };

  /// Calls f(x, codes, sum) for every group of the stretch.
  template <class F>
  void for_each_group(const stretch_of_token& s, const F& f) noexcept {
    std::int8_t* const codes = codes_.data() + s.token * shape_.cols + s.group * params_.group_size;
    std::int64_t* sum = sums_.data() + s.token * groups_ + s.group;
    for (index_t begin = 0; begin < s.x.size(); begin += params_.group_size, ++sum) {
      f(s.x.subspan(begin, std::min(params_.group_size, s.x.size() - begin)), codes + begin, *sum);
    }
  }

  [[nodiscard]] bool symmetric(const stretch_of_token& s, std::uint32_t largest,
                               const activation_functions& functions,
                               activation_scaling& scaling) noexcept {
    const auto steps = symmetric_steps::of(largest, params_.bits);
    scaling = {steps.step, 1 << params_.bits};
    for_each_group(s, [&](std::span<const float> x, std::int8_t* codes, std::int64_t& sum) {
      // A sum of codes fits 32 bits up to 2^24 of them.
      constexpr index_t part = index_t{1} << 20U;
      sum = 0;
      for (index_t i = 0; i < x.size(); i += part) {
        sum += functions.quantize(x.data() + i, std::min(part, x.size() - i), steps.inverse_step,
                                  codes + i);
      }
    });
    return steps.fits(params_.bits);
  }

  [[nodiscard]] bool signs(const stretch_of_token& s, std::uint32_t,
                           const activation_functions& functions,
                           activation_scaling& scaling) noexcept {
    double magnitudes = 0.0;
    for_each_group(s, [&](std::span<const float> x, std::int8_t* codes, std::int64_t& sum) {
      const sign_sums sums = functions.quantize_signs(x.data(), x.size(), codes);
      magnitudes += sums.magnitudes;
      sum = sums.codes;
    });
    const auto mean = static_cast<float>(magnitudes / static_cast<double>(s.x.size()));
    scaling = {2.0F * mean, 1};
    return scaling.step < std::bit_cast<float>(magnitude_of_infinity);
  }

  /// Sums in a narrow type, part by part, so that compilers make vectors of it.
  [[nodiscard]] static std::int64_t sum_of(const std::int8_t* codes, index_t count) noexcept {
    std::int64_t sum = 0;
    for (index_t begin = 0; begin < count; begin += 4096) {
      const index_t end = std::min<index_t>(begin + 4096, count);
      std::int32_t part = 0;
      for (index_t k = begin; k < end; ++k) part += codes[k];
      sum += part;
    }
    return sum;
  }

  [[nodiscard]] bool asymmetric(const stretch_of_token& s, std::uint32_t,
                                const activation_functions&, activation_scaling& scaling) noexcept {
    const value_range range = find_range(s.x);
    affine_levels levels = levels_for_range(grid(), range);
    levels.zero_point = zero_point_for(grid(), range, levels.scale);
    scaling = {levels.scale, 2 * levels.zero_point};
    if (!has_finite_levels(grid(), levels)) return false;
    const int middle = grid().symmetric_zero();
    for_each_group(s, [&](std::span<const float> x, std::int8_t* codes, std::int64_t& sum) {
      auto* const unsigned_codes = reinterpret_cast<std::uint8_t*>(codes);
      encode(grid(), levels, x, unsigned_codes);
      for (index_t k = 0; k < x.size(); ++k) {
        codes[k] = static_cast<std::int8_t>(unsigned_codes[k] - middle);
      }
      sum = sum_of(codes, x.size());
    });
    return true;
  }

  activation_params params_;
  shape2 shape_;
  index_t groups_ = 0;
  aligned_buffer<std::int8_t> codes_;            // [token][K]
  aligned_buffer<std::int64_t> sums_;            // [token][group] of codes
  aligned_buffer<activation_scaling> scalings_;  // [token], or [token][group] if per_group
};

/// Planes of quantized activations as bit_gemm takes them: [token][group][plane][word], where the
/// groups are those of the codes, each padded with zeros to whole words. Keeps its memory like
/// quantized_activations.
class plane_activations {
 public:
  plane_activations() noexcept = default;
  explicit plane_activations(const quantized_activations& x, const context& ctx = {}) {
    assign(x, ctx);
  }

  void assign(const quantized_activations& x, const context& ctx) {
    tokens_ = 0;
    planes_ = x.bits();
    groups_ = x.groups();
    words_ = div_up(x.group_size(), layout::word_bits);
    detail::grow(bits_, checked_mul(x.shape().rows, stride(), "activation planes"));
    detail::grow(sums_, x.shape().rows * groups_);
    tokens_ = x.shape().rows;
    const activation_functions& functions = select_activations(ctx.allowed).run;
    static_cast<void>(detail::for_each_token(ctx, x.shape(), [&](index_t t) {
      for (index_t g = 0; g < groups_; ++g) {
        const index_t begin = g * x.group_size();
        const index_t size = std::min(x.group_size(), x.shape().cols - begin);
        std::uint64_t* const out = bits_.data() + t * stride() + g * planes_ * words_;
        x.write_planes(t, begin, size, out, words_, functions);
        for (index_t w = div_up(size, layout::word_bits); w < words_;
             ++w) {  // a shorter last group
          for (index_t p = 0; p < planes_; ++p) out[p * words_ + w] = 0;
        }
        sums_[t * groups_ + g] = x.sum_codes(t, g);
      }
      return true;
    }));
  }

  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] index_t planes() const noexcept { return planes_; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  /// Words that one plane of a group takes (of the last one too).
  [[nodiscard]] index_t words() const noexcept { return words_; }
  /// Words from one token to the next.
  [[nodiscard]] index_t stride() const noexcept { return groups_ * planes_ * words_; }
  /// [plane][word] of one token and group; the next group follows.
  [[nodiscard]] std::span<const std::uint64_t> group(index_t token, index_t g) const noexcept {
    return bits_.span().subspan(token * stride() + g * planes_ * words_, planes_ * words_);
  }
  /// The sum of the unsigned numbers that the planes of one token and group spell.
  [[nodiscard]] std::int64_t sum_codes(index_t token, index_t g) const noexcept {
    return sums_[token * groups_ + g];
  }

 private:
  index_t tokens_ = 0;
  index_t planes_ = 0;
  index_t groups_ = 0;
  index_t words_ = 0;
  aligned_buffer<std::uint64_t> bits_;
  aligned_buffer<std::int64_t> sums_;  // [token][group]
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
