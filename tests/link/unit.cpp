// Compiled twice, with UNIT = baseline and UNIT = avx2 (-mavx2 -mfma): the same work.
#include "unit.hpp"

#include <cmath>
#include <limits>
#include <span>

#include "lowbit/lowbit.hpp"

namespace {

constexpr lowbit::index_t tokens = 33;
constexpr lowbit::index_t rows = 37;
constexpr lowbit::index_t columns = 200;

lowbit::aligned_buffer<float> random_values(std::uint64_t seed, lowbit::index_t size) {
  lowbit::aligned_buffer<float> values(size);
  for (lowbit::index_t i = 0; i < size; ++i) values[i] = lowbit::random_normal(seed, i);
  return values;
}

double norm(std::span<const float> values) {
  double sum = 0.0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

struct collector : lowbit::buffer_visitor {
  std::vector<std::uint8_t> bytes;
  void operator()(const lowbit::buffer_view& buffer) override {
    for (const std::byte b : buffer.bytes) bytes.push_back(static_cast<std::uint8_t>(b));
  }
};

}  // namespace

outcome UNIT() {
  const auto weights = random_values(1, rows * columns);
  const auto inputs = random_values(2, tokens * columns);
  const lowbit::matrix_view<const float> w(weights.data(), rows, columns);
  const lowbit::matrix_view<const float> x(inputs.data(), tokens, columns);

  outcome result;
  collector stored;
  // Every symmetry and every way to fit a range; the last groups of a row are shorter.
  for (const auto kind :
       {lowbit::symmetry::symmetric, lowbit::symmetry::asymmetric, lowbit::symmetry::offset}) {
    for (const auto method :
         {lowbit::formats::range_method::min_max, lowbit::formats::range_method::percentile,
          lowbit::formats::range_method::least_mse}) {
      lowbit::formats::uniform_quantizer quantizer;
      quantizer.params.bits = 3;
      quantizer.params.kind = kind;
      quantizer.params.group_size = 48;
      quantizer.fit.method = method;
      const auto quantized = quantizer.quantize(w);
      quantized.for_each_buffer(stored);

      lowbit::aligned_buffer<float> product(tokens * rows);
      lowbit::ops::matmul(x, quantized, {product.data(), tokens, rows}, lowbit::context::best(),
                          {.path = lowbit::ops::matmul_path::bit_serial,
                           .activations = lowbit::ops::activation_quantization{}});
      result.product.insert(result.product.end(), product.begin(), product.end());
    }
  }

  const auto quantized = lowbit::formats::uniform_quantizer{}.quantize(w);
  lowbit::aligned_buffer<float> values(rows * columns);
  const lowbit::matrix_view<float> w_hat(values.data(), rows, columns);
  quantized.dequantize({0, rows}, w_hat);
  lowbit::aligned_buffer<float> product(tokens * rows);
  lowbit::ops::matmul(x, quantized, {product.data(), tokens, rows}, lowbit::context::best(),
                      {.path = lowbit::ops::matmul_path::dequantize});
  result.float_product.assign(product.begin(), product.end());
  for (lowbit::index_t t = 0; t < tokens; ++t) {
    for (lowbit::index_t r = 0; r < rows; ++r) {
      result.float_bound.push_back(static_cast<double>(columns) *
                                   static_cast<double>(std::numeric_limits<float>::epsilon()) *
                                   norm(x.row(t)) * norm(w_hat.row(r)));
    }
  }
  result.bytes = std::move(stored.bytes);
  return result;
}
