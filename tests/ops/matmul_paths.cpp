// Which path a product takes for formats with few, many and no planes; and what must hold exactly
// on any path: products of small integers, and results on every tier and in any workspace.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ops/matmul.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/matrices.hpp"

namespace {

using namespace lowbit;
using formats::uniform_quantizer;
using ops::activation_quantization;
using ops::matmul_options;
using ops::matmul_path;
using testing::archetype_quantizer;
using testing::archetype_tensor;
using testing::normal_matrix;
using testing::test_matrix;

constexpr std::uint64_t seed = 41;
const test_matrix weights = normal_matrix({203, 150}, seed);
const test_matrix inputs = normal_matrix({19, 150}, seed + 1);

template <class T>
std::vector<float> multiply(const test_matrix& x, const T& w, const kernels::context& ctx,
                            const matmul_options& options) {
  const shape2 shape{x.shape.rows, w.shape().rows};
  std::vector<float> y(shape.size());
  ops::matmul(x.view(), w, {y.data(), shape.rows, shape.cols}, ctx, options);
  return y;
}

matmul_options bit_serial(const activation_quantization& how = {}) {
  return {.path = matmul_path::bit_serial, .activations = how};
}

/// The archetype with planes, which may be more than bit_gemm multiplies.
class many_planes : public archetype_tensor {
 public:
  explicit many_planes(index_t planes)
      : archetype_tensor(archetype_quantizer{}.quantize(weights.view(), {})),
        planes_(planes, weights.shape) {}
  static many_planes from_buffers(shape2, const testing::archetype_format::params&,
                                  buffer_source&) {
    return many_planes(1);
  }
  [[nodiscard]] const layout::bit_matrix& planes() const { return planes_; }
  [[nodiscard]] index_t group_size() const { return 150; }
  float plane_coefficients(index_t, index_t, std::span<float>) const { return 0.0F; }

 private:
  layout::bit_matrix planes_;
};
static_assert(bit_serial_operand<many_planes>);

}  // namespace

TEST_CASE("a format without planes takes the dequantize path, and says so") {
  const archetype_tensor plain = archetype_quantizer{}.quantize(weights.view(), {});
  const matmul_options may{.activations = activation_quantization{}};
  CHECK(ops::explain(plain, {}, may).text() ==
        "dequantize through eigen: format 'archetype' has no bit-planes");
  CHECK(multiply(inputs, plain, {}, may) == multiply(inputs, plain, {}, {}));
  CHECK(lowbit_test::message_of<value_error>([&] { multiply(inputs, plain, {}, bit_serial()); }) ==
        "path bit_serial: format 'archetype' has no bit-planes");
}

TEST_CASE("a format with more planes than bit_gemm takes goes the dequantize path, and says so") {
  const archetype_tensor plain = archetype_quantizer{}.quantize(weights.view(), {});
  const many_planes nine(9);
  const matmul_options may{.activations = activation_quantization{}};
  CHECK(ops::explain(nine, {}, may).text() ==
        "dequantize through eigen: format 'archetype' has 9 bit-planes, bit_gemm takes 8");
  CHECK(multiply(inputs, nine, {}, may) == multiply(inputs, plain, {}, {}));
  CHECK(lowbit_test::message_of<value_error>([&] { multiply(inputs, nine, {}, bit_serial()); }) ==
        "path bit_serial: format 'archetype' has 9 bit-planes, bit_gemm takes 8");
  CHECK(ops::explain(many_planes(8), {}, may).path == matmul_path::bit_serial);
}

TEST_CASE("small integers that fit their grids have exact products on both paths") {
  // Weights -3 .. 3, a 3 in each group: 3 bits, scale 1. Activations -127 .. 127: 8 bits, step 1.
  constexpr index_t rows = 11, cols = 70, tokens = 3;
  const test_matrix w = testing::make_matrix("w", {rows, cols}, [](index_t r, index_t c) {
    return c % 30 == 0 ? 3.0F : static_cast<float>((r * 5 + c * 3) % 7) - 3.0F;
  });
  const test_matrix x = testing::make_matrix("x", {tokens, cols}, [](index_t r, index_t c) {
    return c == 1 ? 127.0F : static_cast<float>((r * 31 + c * 17) % 255) - 127.0F;
  });
  const uniform_quantizer q{.params = {.bits = 3, .group_size = 30}};
  const auto t = q.quantize(w.view());
  const auto floats = multiply(x, t, {}, {.path = matmul_path::dequantize});
  const auto bits = multiply(x, t, {}, bit_serial());
  for (index_t m = 0; m < tokens; ++m) {
    for (index_t n = 0; n < rows; ++n) {
      int sum = 0;
      for (index_t k = 0; k < cols; ++k) {
        sum += static_cast<int>(x.view()(m, k)) * static_cast<int>(w.view()(n, k));
      }
      CHECK(floats[m * rows + n] == static_cast<float>(sum));
      CHECK(bits[m * rows + n] == static_cast<float>(sum));
    }
  }
}

TEST_CASE("bit-serial products are equal on every tier, for all bits and symmetries") {
  const kernels::context everything{.allowed = cpu::detect()};
  index_t compared = 0;
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      const uniform_quantizer q{.params = {.bits = bits, .kind = kind, .group_size = 48}};
      const auto w = q.quantize(weights.view());
      for (const bool per_group : {false, true}) {
        const auto options = bit_serial({.bits = 9 - bits, .per_group = per_group});
        const auto expected = multiply(inputs, w, everything.narrowed_to("scalar"), options);
        for (const cpu::tier& tier : cpu::tiers) {
          if (!everything.allowed.contains(tier.features)) continue;
          ++compared;
          CAPTURE(bits, static_cast<int>(kind), per_group, std::string(tier.name), seed);
          CHECK(multiply(inputs, w, everything.narrowed_to(tier.name), options) == expected);
        }
      }
    }
  }
  CHECK(compared >= 8U * 3 * 2 * 2);  // scalar and portable are on every machine
}

TEST_CASE("a workspace is grown once and used again, whatever was left in it") {
  const auto w = uniform_quantizer{}.quantize(weights.view());
  const matmul_options options{.path = matmul_path::dequantize};
  const auto expected = multiply(inputs, w, {}, options);
  kernels::workspace scratch;
  const kernels::context with{.scratch = &scratch};
  CHECK(multiply(inputs, w, with, options) == expected);
  const auto slot = scratch.slot(0);
  CHECK(slot.size() >= ops::dequantize_block_rows * weights.shape.cols * sizeof(float));
  std::fill(slot.begin(), slot.end(), std::byte{0xff});
  CHECK(multiply(inputs, w, with, options) == expected);
  CHECK(scratch.slot(0).data() == slot.data());
}

TEST_CASE("products without tokens, rows or columns; without columns they are zero") {
  for (const auto& options : {matmul_options{.path = matmul_path::dequantize}, bit_serial()}) {
    for (const shape2 shape : {shape2{0, 7}, {5, 0}, {0, 0}, {5, 7}}) {
      for (const index_t tokens : {index_t{0}, index_t{3}}) {
        const auto w = uniform_quantizer{}.quantize(normal_matrix(shape, seed).view());
        const test_matrix x = normal_matrix({tokens, shape.cols}, seed);
        const auto y = multiply(x, w, {}, options);
        CAPTURE(shape.rows, shape.cols, tokens, static_cast<int>(options.path));
        CHECK(y.size() == tokens * shape.rows);
        if (shape.cols == 0) CHECK(y == std::vector<float>(tokens * shape.rows, 0.0F));
      }
    }
  }
}
