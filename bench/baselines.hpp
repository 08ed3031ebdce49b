// baselines.hpp: float products that quantized ones are compared with, and where they are built.
//
// baselines.cpp is compiled once per set of flags (plain, AVX2 + FMA, AVX-512), so that the
// comparison is fair to the baselines whatever the machine. Each of these builds is a loadable
// module of its own that exports one C function and nothing else (hidden visibility and a linker
// script): two builds of one inline function of Eigen or std:: never meet, neither when linking
// nor when loading. A module is loaded only where the CPU has what its flags name, and sees no
// header of lowbit.
//
// This header is plain data, since both sides of that border include it.
#pragma once

#include <cstddef>
#include <cstdint>

struct lowbit_bench_shape {
  std::size_t tokens, rows, cols;
};

/// Codes of 1, 2, 4 or 8 bits with a float scale per group, in a layout that is kind to plain
/// loops: of each row, group after group, group_size * bits / 8 bytes; field i of byte j holds
/// column i * (bytes of the group) + j. value = scale * (code - 2^(bits-1)).
struct lowbit_bench_codes {
  const std::uint8_t* bytes;
  const float* scales;     ///< [row][group]
  std::size_t group_size;  ///< divides the columns
  unsigned bits;
};

/// All compute y[tokens, rows] = x[tokens, cols] * w[rows, cols]^T, row-major.
struct lowbit_bench_baselines {
  /// Eigen's product, or its matrix x vector product for one token.
  void (*eigen)(lowbit_bench_shape, const float* w, const float* x, float* y);
  /// Dot products in a plain loop, with as many sums as hide the latency of an addition.
  void (*dot)(lowbit_bench_shape, const float* w, const float* x, float* y);
  /// Turns blocks of rows to floats and multiplies those with Eigen. `block` has room for
  /// block_rows rows.
  void (*dequantize)(lowbit_bench_shape, const lowbit_bench_codes* w, const float* x, float* y,
                     float* block);
  std::size_t block_rows;
};

/// What a module exports.
using lowbit_bench_baselines_fn = const lowbit_bench_baselines* (*)();
inline constexpr const char* lowbit_bench_baselines_symbol = "lowbit_bench_get_baselines";
