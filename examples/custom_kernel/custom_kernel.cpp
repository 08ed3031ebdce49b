// custom_kernel: a kernel of your own, timed and checked beside lowbit's by one registration.
//
// This file is all there is to it. Compiled together with lowbit's bench_gemv.cpp (see the end of
// bench/CMakeLists.txt; elsewhere: lowbit_add_benchmark(my_bench ${LOWBIT_BENCH_DIR}/bench_gemv.cpp
// my_kernel.cpp)) its benchmarks appear under the variant's name, in every shape and format that it
// takes, with the same counters, and its outputs are compared with the exact arithmetic of the
// contract before anything is timed:
//
//   bench_custom_kernel --benchmark_filter=w4a8/.*M1_N512
//
// The kernel: 4-bit codes x int8 in plain loops that compilers turn to vectors, three steps from
// the contract (lowbit/kernels/code_gemm/contract.hpp) and no more.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "code_products.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/kernels/code_gemm/contract.hpp"

namespace {

using lowbit::index_t;
using namespace lowbit::kernels;

constexpr index_t rows_of_set = 16;

/// The scale of one row, fp16 or fp32.
float scale_of(const code_format& format, const std::uint8_t* scales, index_t row) {
  if (format.has_wide_scales) {
    float wide;
    std::memcpy(&wide, scales + 4 * row, 4);
    return wide;
  }
  lowbit::float16 half{};
  std::memcpy(&half.bits, scales + 2 * row, 2);
  return lowbit::to_float(half);
}

/// sums[row] = sum over the run of code(row, k) * x(k).
void multiply_run(const std::uint8_t* codes, const std::int8_t* x, index_t quads,
                  std::int32_t* sums) {
  std::memset(sums, 0, code_tile_rows * sizeof *sums);
  for (index_t q = 0; q < quads; ++q, x += 4) {
    for (index_t line = 0; line < 4; ++line, codes += code_quad_bytes) {
      std::int32_t* const low = sums + 2 * line * rows_of_set;  // even sets: bits 0 to 3
      std::int32_t* const high = low + rows_of_set;             // odd sets: bits 4 to 7
      for (index_t r = 0; r < rows_of_set; ++r) {
        for (index_t k = 0; k < 4; ++k) {
          const int byte = codes[4 * r + k];
          low[r] += (byte & 15) * x[k];
          high[r] += (byte >> 4) * x[k];
        }
      }
    }
  }
}

void multiply_tile(const code_gemm_tile_args& a) noexcept {
  const code_format& format = *a.format;
  const std::uint8_t* run = a.weights;
  for (index_t g = 0; g < a.runs; ++g, run += format.run_bytes(a.quads)) {
    for (index_t t = 0; t < a.tokens; ++t) {
      alignas(64) std::int32_t sums[code_tile_rows];
      const std::int8_t* const x = a.activations + g * a.activation_stride + t * 4 * a.quads;
      multiply_run(run + format.scale_bytes(), x, a.quads, sums);
      const std::int32_t zero = format.zero * a.sums[g * a.sum_stride + t];
      float* const y = a.y + t * code_tile_rows;
      for (index_t r = 0; r < code_tile_rows; ++r) {
        float scale = scale_of(format, run, r);
        if (a.steps != nullptr) scale *= a.steps[g * a.sum_stride + t];
        y[r] = std::fma(scale, static_cast<float>(sums[r] - zero), y[r]);
      }
    }
  }
}

bool takes(const code_format& format) {
  return format.bits == 4 && !format.has_zeros && !format.has_offsets && !format.has_book;
}

const bench::code_gemm_registration mine(
    {.name = "custom_kernel", .needs = lowbit::cpu::none, .run = &multiply_tile, .takes = &takes});

}  // namespace
