// kernels/activations/driver.hpp: activations as int8 codes, the operand of products with codes.
// Layer L2.
//
// Baseline code: the variant is chosen once per call; columns are cut into runs here, and runs
// padded.
#pragma once

#include <cstring>
#include <span>

#include "lowbit/kernels/activations/levels.hpp"
#include "lowbit/kernels/activations/variants.hpp"
#include "lowbit/kernels/runs.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Symmetric int8 codes of activations [tokens, K], for each run of columns side by side:
/// [run][token][4 * quads], each run padded with zeros. Value = step * code (levels.hpp).
///
/// Reading is thread-safe. An object that is assigned again keeps its memory, and allocates none if
/// that is large enough: keep one for each thread that calls products.
class int8_activations {
 public:
  int8_activations() noexcept = default;
  /// See assign().
  explicit int8_activations(matrix_view<const float> x, const activation_params& params = {},
                            const context& ctx = {}) {
    assign(x, params, ctx);
  }

  /// Quantizes x. Refuses NaN/Inf, with token and channel, activations so large that a level is no
  /// float, bits outside 2..8 and levels that are not symmetric (value); then the content is
  /// unspecified until the next assign(). Uses ctx's executor when there are many tokens; the
  /// result never depends on it.
  void assign(matrix_view<const float> x, const activation_params& params, const context& ctx) {
    detail::check_activation_params(params, 2);
    LOWBIT_CHECK(params.kind == symmetry::symmetric, value, "int8 activations are symmetric");
    tokens_ = 0;  // nothing to read if anything below refuses
    bits_ = params.bits;
    per_group_ = params.per_group;
    runs_ = code_runs(x.cols(), params.group_size);
    detail::grow(codes_, checked_mul(checked_mul(runs_.count(), x.rows(), "activations"),
                                     run_bytes(), "activations"));
    detail::grow(sums_, runs_.count() * x.rows());
    detail::grow(steps_, per_group_ ? runs_.count() * x.rows() : x.rows());
    tokens_ = x.rows();
    if (runs_.count() == 0) {  // no columns: nothing but steps
      std::fill_n(steps_.data(), per_group_ ? 0 : tokens_, 0.0F);
      return;
    }
    const activation_functions& functions = select_activations(ctx.allowed).run;
    const index_t bad = detail::for_each_token(
        ctx, x.shape(), [&](index_t t) { return quantize_token(x.row(t), t, functions); });
    if (bad == tokens_) return;
    tokens_ = 0;
    detail::refuse_token(x.row(bad), bad);
  }

  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] unsigned bits() const noexcept { return bits_; }
  [[nodiscard]] bool per_group() const noexcept { return per_group_; }
  [[nodiscard]] const code_runs& runs() const noexcept { return runs_; }
  /// Bytes that a run takes for each token: 4 * quads.
  [[nodiscard]] index_t run_bytes() const noexcept { return 4 * runs_.quads(); }
  /// Bytes from one run to the next.
  [[nodiscard]] index_t run_stride() const noexcept { return tokens_ * run_bytes(); }
  /// [token][4 * quads] of one run; the next run follows. Aligned to 4 bytes, the first to 64.
  [[nodiscard]] std::span<const std::int8_t> codes(index_t run) const noexcept {
    return codes_.span().subspan(run * run_stride(), run_stride());
  }
  /// [token]: the sum of the codes of one run; the next run follows.
  [[nodiscard]] std::span<const std::int32_t> sums(index_t run) const noexcept {
    return sums_.span().subspan(run * tokens_, tokens_);
  }
  /// [token]: the steps of one run, the same for all runs unless per_group(), where the next run
  /// follows.
  [[nodiscard]] std::span<const float> steps(index_t run) const noexcept {
    return steps_.span().subspan(per_group_ ? run * tokens_ : 0, tokens_);
  }
  /// The values that the codes stand for; `out` is [tokens, K].
  void dequantize(matrix_view<float> out) const {
    LOWBIT_CHECK((out.shape() == shape2{tokens_, runs_.cols()}), shape, "activations [", tokens_,
                 ", ", runs_.cols(), "] do not fit [", out.rows(), ", ", out.cols(), "]");
    for (index_t run = 0; run < runs_.count(); ++run) {
      for (index_t t = 0; t < tokens_; ++t) {
        const std::int8_t* const from = codes(run).data() + t * run_bytes();
        for (index_t k = 0; k < runs_.size(run); ++k) {
          out(t, runs_.begin(run) + k) = steps(run)[t] * static_cast<float>(from[k]);
        }
      }
    }
  }

 private:
  /// Whether the token could be quantized.
  [[nodiscard]] bool quantize_token(std::span<const float> x, index_t token,
                                    const activation_functions& functions) noexcept {
    symmetric_steps steps;
    const auto find_steps = [&](index_t begin, index_t count) {
      const std::uint32_t largest = functions.max_magnitude(x.data() + begin, count);
      if (largest >= magnitude_of_infinity) return false;
      steps = symmetric_steps::of(largest, bits_);
      return steps.fits(bits_);
    };
    if (!per_group_) {
      if (!find_steps(0, x.size())) return false;
      steps_[token] = steps.step;
    }
    index_t group = runs_.count();  // none yet
    for (index_t run = 0; run < runs_.count(); ++run) {
      const index_t begin = runs_.begin(run);
      const index_t size = runs_.size(run);
      const index_t at = run * tokens_ + token;
      if (per_group_) {
        if (runs_.group(run) != group) {
          group = runs_.group(run);
          if (!find_steps(begin, std::min(runs_.group_size(), x.size() - begin))) return false;
        }
        steps_[at] = steps.step;
      }
      std::int8_t* const codes = codes_.data() + at * run_bytes();
      sums_[at] = functions.quantize(x.data() + begin, size, steps.inverse_step, codes);
      if (size != run_bytes()) std::memset(codes + size, 0, run_bytes() - size);
    }
    return true;
  }

  index_t tokens_ = 0;
  unsigned bits_ = 8;
  bool per_group_ = false;
  code_runs runs_;
  aligned_buffer<std::int8_t> codes_;
  aligned_buffer<std::int32_t> sums_;
  aligned_buffer<float> steps_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
