// float_kernels.hpp: the engine's float arithmetic, and where it is built.
//
// float_kernels.cpp is compiled once per set of flags (plain, AVX2 + FMA, AVX-512), because Eigen
// chooses its instructions at compile time and the float path is what lowbit's products are
// compared with: it gets the machine's best. As in bench/baselines.hpp each build is a loadable
// module of its own that exports one C function and nothing else, so that two builds of one inline
// function never meet.
//
// This header is plain data, since both sides of that border include it. All matrices are
// row-major, rows `stride` elements apart; functions are thread-safe for distinct outputs and never
// throw.
#pragma once

#include <cstddef>
#include <cstdint>

struct whisper_input {
  const float* data;
  std::size_t rows, cols, stride;
};

struct whisper_output {
  float* data;
  std::size_t stride;
};

/// Rows of weights as IEEE half floats; `data` is aligned to 2 bytes.
struct whisper_half_input {
  const std::uint16_t* data;
  std::size_t rows, cols, stride;
};

/// One head: out[m, :] = sum_n softmax_n(scale * q[m, :] . k[n, :]) v[n, :].
struct whisper_attention {
  whisper_input queries;  ///< [M, d]
  whisper_input keys;     ///< [N, d]
  whisper_input values;   ///< [N, d]
  whisper_output out;     ///< [M, d]
  float scale;
  bool causal;     ///< query m sees the first N - M + m + 1 keys only
  float* scratch;  ///< M * N floats
};

/// Queries that softmax takes side by side: the rows of a tile of lowbit's kernels/code_gemm.
inline constexpr std::size_t whisper_softmax_lanes = 128;

/// Some keys' scores of so many queries become codes, each query's largest one 255:
/// code = 255 * 2^(score * scale * log2(e) - largest), rounded.
struct whisper_soft_codes {
  const float* scores;  ///< [keys][lanes]
  std::size_t keys;     ///< at least 1
  float scale;
  std::uint8_t* codes;  ///< [keys / 4, rounded up][lanes][4], what is past the last key is written
  float* largest;       ///< [lanes]
  float* totals;        ///< [lanes]: the sum of codes
};

struct whisper_float_kernels {
  const char* name;
  /// y[M, N] = x[M, K] w[N, K]^T by Eigen's matrix product, its matrix x vector product for M = 1.
  void (*multiply)(whisper_input x, whisper_input w, whisper_output y);
  /// The same with half weights. For M >= half_block_tokens rows become floats in `scratch`
  /// (w.rows * w.cols floats) and meet Eigen; for fewer they are converted in registers.
  void (*multiply_half)(whisper_input x, whisper_half_input w, whisper_output y, float* scratch);
  std::size_t half_block_tokens;
  void (*attend)(const whisper_attention& head);
  /// x[i] = exp(scale * x[i]) / sum of all; `scale` is not negative.
  void (*softmax)(float* x, std::size_t count, float scale);
  void (*soften)(const whisper_soft_codes& run);
  /// What each run's codes must be multiplied by, so that the weights of a query have the sum 1:
  /// overwrites `largest` [runs][lanes]; totals [runs][lanes].
  void (*share_out)(float* largest, const float* totals, std::size_t runs);
  /// y = (x - mean) / sqrt(variance + 1e-5) * weight + bias, row by row.
  void (*normalize)(whisper_input x, const float* weight, const float* bias, whisper_output y);
  /// x = x / 2 * (1 + erf(x / sqrt(2))), to 2e-7 of max(1, |x|).
  void (*gelu)(float* x, std::size_t count);
};

/// What a module exports.
using whisper_float_kernels_fn = const whisper_float_kernels* (*)();
inline constexpr const char* whisper_float_kernels_symbol = "whisper_get_float_kernels";
