// attention.hpp: keys and values, as floats or as codes of a few bits, and attention over them.
//
// Codes are lowbit's kernels at work on what are activations on both sides. A key is a row of int8
// (or 4-bit) codes with a step for each head; values are cut into runs of 64 tokens with a step for
// each run and channel, and so are the weights that softmax gives. Products are kernels/code_gemm's
// in both cases, read from memory once per query where queries are few:
//
//   code_cache        keys and values packed as weights; queries are activations. For a decoder
//   that
//                     looks at one window again and again.
//   attend_in_codes   queries packed as weights, 128 at a time, keys are activations. Softmax then
//                     has a query in each lane, and writes its weights (codes of 0 .. 255) as they
//                     are packed for the product with the values. For an encoder, which looks once.
#pragma once

#include <cstdint>

#include "lowbit/kernels/code_gemm/driver.hpp"
#include "runtime.hpp"

namespace whisper {

/// Keys or values of the tokens seen so far, head by head, so that attention reads them as they
/// lie.
class head_cache {
 public:
  head_cache() = default;
  head_cache(index_t heads, index_t capacity, index_t width)
      : heads_(heads), capacity_(capacity), width_(width), values_(heads * capacity * width) {}

  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  /// Forgets all tokens.
  void clear() noexcept { tokens_ = 0; }
  /// Rows [tokens, heads * width], after those that are there; they must fit.
  void append(matrix_view<const float> rows);
  /// [tokens(), width].
  [[nodiscard]] whisper_input head(index_t h) const noexcept {
    return {values_.data() + h * capacity_ * width_, tokens_, width_, width_};
  }
  /// Bytes of what is there.
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return heads_ * tokens_ * width_ * sizeof(float);
  }

 private:
  index_t heads_ = 0, capacity_ = 0, width_ = 0, tokens_ = 0;
  lowbit::aligned_buffer<float> values_;
};

/// Attention of all heads: queries [M, state] over keys and values of tokens. Causal: the last M
/// tokens are the queries', and each sees those up to its own.
[[nodiscard]] matrix attend(const matrix& queries, const head_cache& keys, const head_cache& values,
                            index_t heads, bool causal, const runtime& rt);

/// Keys and values [tokens, heads * width] as codes.
class code_cache {
 public:
  code_cache() = default;
  /// `bits` is 4 or 8. Refuses NaN and Inf (value).
  code_cache(matrix_view<const float> keys, matrix_view<const float> values, index_t heads,
             unsigned bits, const runtime& rt);

  /// Attention of all heads over all tokens. A query's result does not depend on the others.
  [[nodiscard]] matrix attend(const matrix& queries, const runtime& rt) const;
  /// What a query reads.
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return keys_.size_bytes() + values_.size_bytes();
  }

 private:
  index_t heads_ = 0;
  lowbit::kernels::packed_codes keys_;    ///< [tokens, heads * width], a run for each head
  lowbit::kernels::packed_codes values_;  ///< [heads * width, tokens]
};

/// Attention of all heads with int8 codes: queries [M, heads * width] over keys and values
/// [N, heads * width], N >= 1. Refuses NaN and Inf (value).
[[nodiscard]] matrix attend_in_codes(const matrix& queries, const matrix& keys,
                                     const matrix& values, index_t heads, const runtime& rt);

}  // namespace whisper
