// baselines.cpp: one module of baselines; see baselines.hpp for how it is built and why.
#include "baselines.hpp"

#include <Eigen/Core>
#include <cstring>

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using const_map = Eigen::Map<const matrix>;

constexpr std::size_t block_rows = 32;

/// y has `stride` columns in memory, of which the first shape.rows are written.
void multiply(lowbit_bench_shape shape, const float* w, const float* x, float* y,
              std::size_t stride) {
  const auto tokens = static_cast<Eigen::Index>(shape.tokens);
  const auto rows = static_cast<Eigen::Index>(shape.rows);
  const auto cols = static_cast<Eigen::Index>(shape.cols);
  const const_map weights(w, rows, cols);
  if (tokens == 1) {
    const Eigen::Map<const Eigen::VectorXf> in(x, cols);
    Eigen::Map<Eigen::VectorXf>(y, rows).noalias() = weights * in;
    return;
  }
  const const_map in(x, tokens, cols);
  Eigen::Map<matrix, 0, Eigen::OuterStride<>>(
      y, tokens, rows, Eigen::OuterStride<>(static_cast<Eigen::Index>(stride)))
      .noalias() = in * weights.transpose();
}

void eigen(lowbit_bench_shape shape, const float* w, const float* x, float* y) {
  multiply(shape, w, x, y, shape.rows);
}

// One register of floats.
#if defined(__AVX512F__)
constexpr std::size_t lane_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t lane_bytes = 32;
#else
constexpr std::size_t lane_bytes = 16;
#endif
using lanes = float __attribute__((vector_size(lane_bytes)));
constexpr std::size_t lane_count = lane_bytes / sizeof(float);

lanes load(const float* p) {
  lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void dot(lowbit_bench_shape shape, const float* w, const float* x, float* y) {
  constexpr std::size_t sums = 8;
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    const float* const in = x + t * shape.cols;
    for (std::size_t n = 0; n < shape.rows; ++n) {
      const float* const row = w + n * shape.cols;
      lanes sum[sums] = {};
      std::size_t k = 0;
      for (; k + sums * lane_count <= shape.cols; k += sums * lane_count) {
        for (std::size_t i = 0; i < sums; ++i) {
          sum[i] += load(row + k + i * lane_count) * load(in + k + i * lane_count);
        }
      }
      const lanes all =
          ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
      float total = 0;
      for (std::size_t i = 0; i < lane_count; ++i) total += all[i];
      for (; k < shape.cols; ++k) total += row[k] * in[k];
      y[t * shape.rows + n] = total;
    }
  }
}

template <unsigned Bits>
void dequantize_row(const std::uint8_t* bytes, const float* scales, std::size_t group_size,
                    std::size_t cols, float* out) {
  constexpr unsigned fields = 8 / Bits;
  constexpr int mask = (1 << Bits) - 1;
  constexpr int middle = 1 << (Bits - 1);
  const std::size_t group_bytes = group_size / fields;
  for (std::size_t k = 0; k < cols; k += group_size, bytes += group_bytes, ++scales) {
    for (unsigned f = 0; f < fields; ++f, out += group_bytes) {
      for (std::size_t j = 0; j < group_bytes; ++j) {
        out[j] = *scales * static_cast<float>(((bytes[j] >> (f * Bits)) & mask) - middle);
      }
    }
  }
}

void dequantize(lowbit_bench_shape shape, const lowbit_bench_codes* w, const float* x, float* y,
                float* block) {
  const auto row = w->bits == 1   ? &dequantize_row<1>
                   : w->bits == 2 ? &dequantize_row<2>
                   : w->bits == 4 ? &dequantize_row<4>
                                  : &dequantize_row<8>;
  const std::size_t row_bytes = shape.cols * w->bits / 8;
  const std::size_t groups = shape.cols / w->group_size;
  for (std::size_t n = 0; n < shape.rows; n += block_rows) {
    const std::size_t rows = shape.rows - n < block_rows ? shape.rows - n : block_rows;
    for (std::size_t r = 0; r < rows; ++r) {
      row(w->bytes + (n + r) * row_bytes, w->scales + (n + r) * groups, w->group_size, shape.cols,
          block + r * shape.cols);
    }
    multiply({shape.tokens, rows, shape.cols}, block, x, y + n, shape.rows);
  }
}

constexpr lowbit_bench_baselines all = {&eigen, &dot, &dequantize, block_rows};

}  // namespace

extern "C" __attribute__((visibility("default"))) const lowbit_bench_baselines*
lowbit_bench_get_baselines();
const lowbit_bench_baselines* lowbit_bench_get_baselines() { return &all; }
