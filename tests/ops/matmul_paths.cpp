// Which path a product takes for formats with few, many and no planes; and what must hold exactly
// on any path: products of small integers, and results on every tier and in any workspace.
#include <algorithm>
#include <cmath>
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

matmul_options int8(const activation_quantization& how = {}) {
  return {.path = matmul_path::int8, .activations = how};
}

/// A uniform tensor that shows its planes and hides its codes: products go through plane_gemm.
class planes_only {
 public:
  using format = formats::uniform;

  explicit planes_only(formats::uniform_tensor t) : t_(std::move(t)) {}
  [[nodiscard]] shape2 shape() const { return t_.shape(); }
  [[nodiscard]] const format::params& params() const { return t_.params(); }
  [[nodiscard]] std::uint64_t storage_bits() const { return t_.storage_bits(); }
  void dequantize(row_range rows, matrix_view<float> out) const { t_.dequantize(rows, out); }
  void for_each_buffer(buffer_visitor& v) const { t_.for_each_buffer(v); }
  static planes_only from_buffers(shape2 shape, const format::params& p, buffer_source& source) {
    return planes_only(formats::uniform_tensor::from_buffers(shape, p, source));
  }
  [[nodiscard]] const layout::bit_matrix& planes() const { return t_.planes(); }
  [[nodiscard]] index_t group_size() const { return t_.group_size(); }
  float plane_coefficients(index_t row, index_t group, std::span<float> out) const {
    return t_.plane_coefficients(row, group, out);
  }

 private:
  formats::uniform_tensor t_;
};
static_assert(bit_serial_operand<planes_only> && !code_operand<planes_only>);

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
        "dequantize through eigen: every format can, and activations stay float; not int8: format "
        "'archetype' has no codes or planes; not bit_serial: format 'archetype' has no "
        "bit-planes");
  CHECK(multiply(inputs, plain, {}, may) == multiply(inputs, plain, {}, {}));
  CHECK(lowbit_test::message_of<value_error>([&] { multiply(inputs, plain, {}, bit_serial()); }) ==
        "path bit_serial: format 'archetype' has no bit-planes");
}

TEST_CASE("a format with more planes than kernels take goes the dequantize path, and says so") {
  const archetype_tensor plain = archetype_quantizer{}.quantize(weights.view(), {});
  const many_planes nine(9);
  const matmul_options may{.activations = activation_quantization{}};
  CHECK(ops::explain(nine, {}, may).text() ==
        "dequantize through eigen: every format can, and activations stay float; not int8: format "
        "'archetype' has 9 bit-planes, kernels take 8; not bit_serial: format 'archetype' has 9 "
        "bit-planes, kernels take 8");
  CHECK(multiply(inputs, nine, {}, may) == multiply(inputs, plain, {}, {}));
  CHECK(lowbit_test::message_of<value_error>([&] { multiply(inputs, nine, {}, bit_serial()); }) ==
        "path bit_serial: format 'archetype' has 9 bit-planes, kernels take 8");
  const auto eight = ops::explain(many_planes(8), {}, may);
  CHECK(eight.path == matmul_path::int8);  // 8 planes: 16 operations against 38
  CHECK(eight.family == "plane_gemm");
}

TEST_CASE("small integers that fit their grids have exact products on all paths") {
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
  const auto codes = multiply(x, t, {}, int8());
  const auto planes = multiply(x, planes_only(t), {}, int8());
  for (index_t m = 0; m < tokens; ++m) {
    for (index_t n = 0; n < rows; ++n) {
      int sum = 0;
      for (index_t k = 0; k < cols; ++k) {
        sum += static_cast<int>(x.view()(m, k)) * static_cast<int>(w.view()(n, k));
      }
      CHECK(floats[m * rows + n] == static_cast<float>(sum));
      CHECK(bits[m * rows + n] == static_cast<float>(sum));
      CHECK(codes[m * rows + n] == static_cast<float>(sum));
      CHECK(planes[m * rows + n] == static_cast<float>(sum));
    }
  }
}

TEST_CASE("int8 products are equal on every tier and packed once, and near the decoded product") {
  const kernels::context everything{.allowed = cpu::detect()};
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const auto scale : {scale_type::fp16, scale_type::fp32}) {
        const uniform_quantizer q{
            .params = {.bits = bits, .kind = kind, .group_size = 48, .scale_type = scale}};
        const auto w = q.quantize(weights.view());
        const planes_only planes(w);
        std::vector<float> decoded(weights.shape.size());
        w.dequantize({0, weights.shape.rows}, {decoded.data(), weights.shape.rows, 150});
        for (const bool per_group : {false, true}) {
          CAPTURE(bits, static_cast<int>(kind), static_cast<int>(scale), per_group, seed);
          const activation_quantization how{.bits = 8, .per_group = per_group};
          const auto expected = multiply(inputs, w, everything.narrowed_to("scalar"), int8(how));
          for (const cpu::tier& tier : cpu::tiers) {
            if (!everything.allowed.contains(tier.features)) continue;
            CAPTURE(std::string(tier.name));
            const auto ctx = everything.narrowed_to(tier.name);
            CHECK(multiply(inputs, w, ctx, int8(how)) == expected);
            std::vector<float> y(expected.size());
            const matrix_view<float> out(y.data(), inputs.shape.rows, weights.shape.rows);
            ops::matmul(inputs.view(), ops::pack(w, ctx), out, ctx, how);
            CHECK(y == expected);
          }
          const auto by_planes = multiply(inputs, planes, everything, int8(how));
          CHECK(by_planes == multiply(inputs, planes, everything.narrowed_to("scalar"), int8(how)));

          // Against double arithmetic on what both sides decode to. Per output at most 2 roundings
          // a plane or code, group (4 of them) and run, plus 4 for offsets and steps: below 48 in
          // all, each relative to the sum of the magnitudes with weights of |level| + |offset|.
          const kernels::int8_activations x(inputs.view(),
                                            {.group_size = w.group_size(), .per_group = per_group});
          std::vector<float> x_hat(inputs.shape.size());
          x.dequantize({x_hat.data(), inputs.shape.rows, 150});
          for (index_t t = 0; t < inputs.shape.rows; ++t) {
            for (index_t n = 0; n < weights.shape.rows; n += 7) {
              double sum = 0.0;
              double magnitude = 0.0;
              for (index_t k = 0; k < 150; ++k) {
                float c[8] = {};
                double level =
                    std::fabs(static_cast<double>(w.plane_coefficients(n, k / w.group_size(), c)));
                for (const float ci : c) level += std::fabs(static_cast<double>(ci));
                const double xk = static_cast<double>(x_hat[t * 150 + k]);
                sum += static_cast<double>(decoded[n * 150 + k]) * xk;
                magnitude += level * std::fabs(xk);
              }
              const index_t i = t * weights.shape.rows + n;
              CHECK(std::fabs(static_cast<double>(expected[i]) - sum) <= 48 * 0x1p-24 * magnitude);
              CHECK(std::fabs(static_cast<double>(by_planes[i]) - sum) <= 48 * 0x1p-24 * magnitude);
            }
          }
        }
      }
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
  CHECK(slot.size() >= ops::dequantize_block_rows(w) * weights.shape.cols * sizeof(float));
  std::fill(slot.begin(), slot.end(), std::byte{0xff});
  CHECK(multiply(inputs, w, with, options) == expected);
  CHECK(scratch.slot(0).data() == slot.data());
}

TEST_CASE("products without tokens, rows or columns; without columns they are zero") {
  for (const auto& options :
       {matmul_options{.path = matmul_path::dequantize}, bit_serial(), int8()}) {
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
