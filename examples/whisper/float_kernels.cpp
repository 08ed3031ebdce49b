// float_kernels.cpp: one module of float arithmetic; see float_kernels.hpp for how it is built and
// why.
#include "float_kernels.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "lowbit/core/half.hpp"

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using stride = Eigen::OuterStride<>;
using const_map = Eigen::Map<const matrix, 0, stride>;
using map = Eigen::Map<matrix, 0, stride>;
using const_vector = Eigen::Map<const Eigen::VectorXf>;
using vector = Eigen::Map<Eigen::VectorXf>;
using array = Eigen::Map<Eigen::ArrayXf>;

Eigen::Index index(std::size_t i) { return static_cast<Eigen::Index>(i); }

const_map view(whisper_input x) {
  return {x.data, index(x.rows), index(x.cols), stride(index(x.stride))};
}
map view(whisper_output y, std::size_t rows, std::size_t cols) {
  return {y.data, index(rows), index(cols), stride(index(y.stride))};
}

void multiply(whisper_input x, whisper_input w, whisper_output y) {
  if (x.rows == 1) {
    vector(y.data, index(w.rows)).noalias() = view(w) * const_vector(x.data, index(x.cols));
  } else {
    view(y, x.rows, w.rows).noalias() = view(x) * view(w).transpose();
  }
}

// One register of floats, and how halves become one.
#if defined(__AVX512F__)
constexpr std::size_t lanes = 16;
using reals = __m512;
reals load(const float* p) { return _mm512_loadu_ps(p); }
reals load(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
#elif defined(__F16C__)
constexpr std::size_t lanes = 8;
using reals = __m256;
reals load(const float* p) { return _mm256_loadu_ps(p); }
reals load(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#else
constexpr std::size_t lanes = 4;
using reals = float __attribute__((vector_size(16)));
reals load(const float* p) {
  reals v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
reals load(const std::uint16_t* p) {
  reals v;
  for (std::size_t i = 0; i < lanes; ++i) v[i] = lowbit::to_float(lowbit::float16{p[i]});
  return v;
}
#endif

float sum(reals v) {
  float values[lanes];
  std::memcpy(values, &v, sizeof values);
  float total = 0.0F;
  for (const float x : values) total += x;
  return total;
}

void widen(const std::uint16_t* from, float* to, std::size_t count) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const reals v = load(from + i);
    std::memcpy(to + i, &v, sizeof v);
  }
  for (; i < count; ++i) to[i] = lowbit::to_float(lowbit::float16{from[i]});
}

/// Rows x 1 token, four rows at a time: as many sums as hide the latency of an addition.
void multiply_half_vector(const float* x, whisper_half_input w, float* y) {
  constexpr std::size_t block = 4;
  std::size_t n = 0;
  const auto dot = [&]<std::size_t Rows>(std::integral_constant<std::size_t, Rows>) {
    const std::uint16_t* const rows = w.data + n * w.stride;
    reals sums[2][Rows] = {};
    std::size_t k = 0;
    for (; k + 2 * lanes <= w.cols; k += 2 * lanes) {
      for (std::size_t half = 0; half < 2; ++half) {
        const reals in = load(x + k + half * lanes);
        for (std::size_t r = 0; r < Rows; ++r) {
          sums[half][r] += load(rows + r * w.stride + k + half * lanes) * in;
        }
      }
    }
    for (std::size_t r = 0; r < Rows; ++r) {
      float total = sum(sums[0][r] + sums[1][r]);
      for (std::size_t i = k; i < w.cols; ++i) {
        total += lowbit::to_float(lowbit::float16{rows[r * w.stride + i]}) * x[i];
      }
      y[n + r] = total;
    }
  };
  for (; n + block <= w.rows; n += block) dot(std::integral_constant<std::size_t, block>{});
  for (; n < w.rows; ++n) dot(std::integral_constant<std::size_t, 1>{});
}

constexpr std::size_t half_block_tokens = 4;

void multiply_half(whisper_input x, whisper_half_input w, whisper_output y, float* scratch) {
  if (x.rows < half_block_tokens) {
    for (std::size_t m = 0; m < x.rows; ++m) {
      multiply_half_vector(x.data + m * x.stride, w, y.data + m * y.stride);
    }
    return;
  }
  for (std::size_t n = 0; n < w.rows; ++n) {
    widen(w.data + n * w.stride, scratch + n * w.cols, w.cols);
  }
  multiply(x, {scratch, w.rows, w.cols, w.cols}, y);
}

/// Turns scores into weights that sum to 1.
void softmax(float* scores, std::size_t count, float scale) {
  array s(scores, index(count));
  s = ((s - s.maxCoeff()) * scale).exp();
  s *= 1.0F / s.sum();
}

using ints = std::int32_t __attribute__((vector_size(sizeof(reals))));

void store(float* p, reals v) { std::memcpy(p, &v, sizeof v); }
reals broadcast(float x) { return reals{} + x; }
reals larger(reals a, reals b) { return a > b ? a : b; }

/// Added to |x| < 2^22, it leaves x rounded to an integer in the low bits.
constexpr float rounder = 12582912.0F;

/// 2^x for x in -126 .. 127, to 5e-5 of it: the next term of the series.
reals exp2(reals x) {
  const reals shifted = x + rounder;
  const reals f = x - (shifted - rounder);
  reals p = 0.0096181291F * f + 0.055504109F;
  p = p * f + 0.24022651F;
  p = p * f + 0.69314718F;
  p = p * f + 1.0F;
  return (reals)((ints)p + ((ints)shifted << 23));
}

void soften(const whisper_soft_codes& a) {
  constexpr std::size_t all = whisper_softmax_lanes;
  const float factor = a.scale * 1.44269504F;
  for (std::size_t lane = 0; lane < all; lane += lanes) {
    reals largest = load(a.scores + lane);
    for (std::size_t i = 1; i < a.keys; ++i)
      largest = larger(largest, load(a.scores + i * all + lane));
    largest = largest * factor;
    // The largest becomes 255. What is below 1/4 becomes 0 anyway.
    const reals offset = 7.9943534F - largest;
    const auto code = [&](std::size_t key) {
      const reals x = larger(load(a.scores + key * all + lane) * factor + offset, broadcast(-2.0F));
      return (ints)(exp2(x) + rounder) & 255;
    };
    ints total = {};
    std::size_t key = 0;
    const auto write = [&](ints codes) {
      std::memcpy(a.codes + (key / 4 * all + lane) * 4, &codes, sizeof codes);
    };
    for (; key + 4 <= a.keys; key += 4) {
      const ints c0 = code(key);
      const ints c1 = code(key + 1);
      const ints c2 = code(key + 2);
      const ints c3 = code(key + 3);
      total += (c0 + c1) + (c2 + c3);
      write(c0 | (c1 << 8) | (c2 << 16) | (c3 << 24));
    }
    if (key < a.keys) {
      ints codes = {};
      for (std::size_t i = key; i < a.keys; ++i) {
        const ints c = code(i);
        total += c;
        codes |= c << static_cast<int>(8 * (i - key));
      }
      write(codes);
    }
    store(a.largest + lane, largest);
    store(a.totals + lane, __builtin_convertvector(total, reals));
  }
}

void share_out(float* largest, const float* totals, std::size_t runs) {
  constexpr std::size_t all = whisper_softmax_lanes;
  for (std::size_t lane = 0; lane < all; lane += lanes) {
    reals top = load(largest + lane);
    for (std::size_t i = 1; i < runs; ++i) top = larger(top, load(largest + i * all + lane));
    reals sum = {};
    for (std::size_t i = 0; i < runs; ++i) {
      const reals share = exp2(larger(load(largest + i * all + lane) - top, broadcast(-126.0F)));
      store(largest + i * all + lane, share);
      sum += share * load(totals + i * all + lane);
    }
    const reals factor = 1.0F / sum;
    for (std::size_t i = 0; i < runs; ++i) {
      store(largest + i * all + lane, load(largest + i * all + lane) * factor);
    }
  }
}

void attend(const whisper_attention& a) {
  const std::size_t m = a.queries.rows;
  const std::size_t n = a.keys.rows;
  const std::size_t d = a.queries.cols;
  multiply(a.queries, a.keys, {a.scratch, n});
  for (std::size_t i = 0; i < m; ++i) {
    float* const row = a.scratch + i * n;
    const std::size_t seen = a.causal ? n - m + i + 1 : n;
    softmax(row, seen, a.scale);
    std::fill(row + seen, row + n, 0.0F);
  }
  if (m == 1) {
    vector(a.out.data, index(d)).noalias() =
        view(a.values).transpose() * const_vector(a.scratch, index(n));
  } else {
    view(a.out, m, d).noalias() = view({a.scratch, m, n, n}) * view(a.values);
  }
}

void normalize(whisper_input x, const float* weight, const float* bias, whisper_output y) {
  const Eigen::Map<const Eigen::ArrayXf> scale(weight, index(x.cols));
  const Eigen::Map<const Eigen::ArrayXf> shift(bias, index(x.cols));
  for (std::size_t r = 0; r < x.rows; ++r) {
    const Eigen::Map<const Eigen::ArrayXf> in(x.data + r * x.stride, index(x.cols));
    const float mean = in.mean();
    const float variance = (in - mean).square().mean();
    const float factor = 1.0F / std::sqrt(variance + 1e-5F);
    array(y.data + r * y.stride, index(x.cols)) = (in - mean) * factor * scale + shift;
  }
}

/// erf by Abramowitz and Stegun 7.1.26: |error| < 1.5e-7.
void gelu(float* x, std::size_t count) {
  constexpr std::size_t block = 1024;  // stays in the first cache
  for (std::size_t i = 0; i < count; i += block) {
    array v(x + i, index(count - i < block ? count - i : block));
    const Eigen::ArrayXf z = v.abs() * 0.70710678F;
    const Eigen::ArrayXf t = (1.0F + 0.3275911F * z).inverse();
    const Eigen::ArrayXf tail =
        ((((1.061405429F * t - 1.453152027F) * t + 1.421413741F) * t - 0.284496736F) * t +
         0.254829592F) *
        t * (-z.square()).exp();
    // x / 2 (1 + erf(x / sqrt 2)) = max(x, 0) - |x| / 2 * (1 - erf(|x| / sqrt 2))
    v = v.max(0.0F) - 0.5F * v.abs() * tail;
  }
}

#if defined(__AVX512F__)
constexpr const char* name = "Eigen AVX-512";
#elif defined(__AVX2__)
constexpr const char* name = "Eigen AVX2";
#else
constexpr const char* name = "Eigen baseline";
#endif

constexpr whisper_float_kernels all = {name,       &multiply, &multiply_half, half_block_tokens,
                                       &attend,    &softmax,  &soften,        &share_out,
                                       &normalize, &gelu};

}  // namespace

extern "C" __attribute__((visibility("default"))) const whisper_float_kernels*
whisper_get_float_kernels();
const whisper_float_kernels* whisper_get_float_kernels() { return &all; }
