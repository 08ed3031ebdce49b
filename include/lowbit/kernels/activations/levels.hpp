// kernels/activations/levels.hpp: how activations are quantized, and the steps of symmetric levels.
// Layer L2.
//
// The one definition of symmetric codes of activations, with bits in 2..8:
//   qmax = 2^(bits-1) - 1;  step = max|x| / qmax;  inverse_step = qmax / max|x|  (floats)
//   code = x * inverse_step, exact, rounded to the nearest integer, ties to even: in -qmax .. qmax
//   value = step * code
// Where inverse_step is not finite (max|x| below about 4e-37, or 0) step and all codes are 0.
//
// Invariants: |x * inverse_step| < qmax + 1/2, as the kernels ask: inverse_step is rounded once,
// and even where it is denormal (qmax = 1, max|x| near the end of floats) that is less than 2^-20
// of it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "lowbit/core/affine.hpp"
#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// How activations are quantized.
struct activation_params {
  unsigned bits = 8;                    ///< 1..8; int8_activations: 2..8
  symmetry kind = symmetry::symmetric;  ///< symmetric or asymmetric; int8_activations: symmetric
  index_t group_size = 0;  ///< columns that are cut off and summed together; 0: all of them
  bool per_group = false;  ///< a step for each token and group instead of one for each token
};

/// Steps of symmetric levels. Both are 0 where nothing but zero can be told apart.
struct symmetric_steps {
  float step = 0.0F;
  float inverse_step = 0.0F;

  /// `max_magnitude` is the bit pattern of max|x|, which must be finite; bits is 2..8.
  [[nodiscard]] static symmetric_steps of(std::uint32_t max_magnitude, unsigned bits) noexcept {
    const float largest = std::bit_cast<float>(max_magnitude);
    const auto qmax = static_cast<float>((1 << (bits - 1U)) - 1);
    const float inverse = qmax / largest;  // Inf for 0
    if (!(inverse <= max_inverse)) return {};
    return {largest / qmax, inverse};
  }

  /// Whether the outermost level is a finite float.
  [[nodiscard]] bool fits(unsigned bits) const noexcept {
    return step * static_cast<float>((1 << (bits - 1U)) - 1) <= max_inverse;
  }

 private:
  static constexpr float max_inverse = 0x1.fffffep127F;
};

namespace detail {

/// Elements below which quantizing is not worth waking another thread (some 10 us).
inline constexpr index_t activation_block = index_t{1} << 16U;

/// Makes room for `size` elements; what is large enough stays.
template <class T>
void grow(aligned_buffer<T>& buffer, index_t size) {
  if (buffer.size() < size) buffer = aligned_buffer<T>(size);
}

/// Calls quantize(token), which returns whether it could, for every token: in blocks on the
/// context's executor when there are many, else here. Returns the first token that could not be
/// quantized, or `tokens`: the same at any number of workers.
template <class Quantize>
[[nodiscard]] index_t for_each_token(const context& ctx, shape2 shape, const Quantize& quantize) {
  const auto run = [&](row_range range) {
    for (index_t t = range.begin; t < range.end; ++t) {
      if (!quantize(t)) return t;
    }
    return shape.rows;
  };
  const index_t block = std::max<index_t>(1, activation_block / std::max<index_t>(1, shape.cols));
  if (ctx.threads == nullptr || shape.rows < 2 * block) return run({0, shape.rows});
  index_t bad[64];  // one for each of so many parts, each some blocks
  const index_t parts = std::min<index_t>(std::size(bad), shape.rows / block);
  const index_t part = div_up(shape.rows, parts);
  parallel_for(ctx, parts, [&](index_t i, index_t) {
    const index_t begin = std::min(i * part, shape.rows);
    bad[i] = run({begin, std::min(begin + part, shape.rows)});
  });
  return *std::min_element(bad, bad + parts);
}

inline void check_activation_params(const activation_params& params, unsigned min_bits) {
  LOWBIT_CHECK(params.bits >= min_bits && params.bits <= 8, value,
               "activation bits = ", params.bits, " is outside ", min_bits, "..8");
  LOWBIT_CHECK(params.kind != symmetry::offset, value,
               "activations are symmetric or asymmetric; symmetry 'offset' is for weights");
}

/// Says why a token could not be quantized: it holds NaN or Inf, or else is too large.
[[noreturn]] inline void refuse_token(std::span<const float> x, index_t token) {
  for (index_t k = 0; k < x.size(); ++k) {
    LOWBIT_CHECK(x[k] - x[k] == 0.0F, value, "the activations hold ",
                 x[k] != x[k] ? "NaN" : (x[k] > 0.0F ? "+Inf" : "-Inf"), " at token ", token,
                 ", channel ", k);
  }
  lowbit::detail::fail(error_kind::value,
                       lowbit::detail::message("the levels of token ", token,
                                               " overflow: the activations are too large"));
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
