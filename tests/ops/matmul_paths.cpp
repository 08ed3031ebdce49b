// Which path a product takes for formats with few, many and no planes; and what must hold exactly
// on any path: products of small integers, and results on every tier and in any workspace.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
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
  CHECK(slot.size() >= dequantize_block_rows(w) * weights.shape.cols * sizeof(float));
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

TEST_CASE("split activations: both parts with steps of their own, the products added",
          "[any_isa]") {
  const auto w = uniform_quantizer{.params = {.bits = 2}}.quantize(weights.view());
  const auto ctx = kernels::context::best();
  const shape2 shape = inputs.shape;
  test_matrix spiky = inputs;  // one massive activation per token
  for (index_t t = 0; t < shape.rows; ++t) spiky.values[t * shape.cols + 3 * t] = 60.0F;
  const auto part = [&](auto&& f) {
    test_matrix m = spiky;
    for (index_t t = 0; t < shape.rows; ++t) {
      f(std::span(m.values).subspan(t * shape.cols, shape.cols), t);
    }
    return m;
  };
  for (const matmul_options& plain :
       {int8({.bits = 4}), bit_serial({.bits = 4}), bit_serial({.bits = 3, .per_group = true}),
        bit_serial({.bits = 2, .kind = symmetry::asymmetric})}) {
    const activation_quantization& how = *plain.activations;
    kernels::quantized_activations codes(spiky.view(), {.bits = how.bits,
                                                        .kind = how.kind,
                                                        .group_size = w.group_size(),
                                                        .per_group = how.per_group});
    test_matrix decoded = spiky;
    codes.dequantize({decoded.values.data(), shape.rows, shape.cols});
    const auto residual = part([&](std::span<float> x, index_t t) {
      for (index_t k = 0; k < shape.cols; ++k) x[k] -= decoded.view()(t, k);
    });
    const auto clipped = part([&](std::span<float> x, index_t) {
      double squares = 0.0;
      for (const float v : x) squares += static_cast<double>(v) * static_cast<double>(v);
      const auto rms = static_cast<float>(std::sqrt(squares / static_cast<double>(x.size())));
      for (float& v : x) v = std::clamp(v, -(2.0F * rms), 2.0F * rms);
    });
    const auto rest = part([&](std::span<float> x, index_t t) {
      for (index_t k = 0; k < shape.cols; ++k) x[k] -= clipped.view()(t, k);
    });
    const auto sum = [&](const test_matrix& a, const test_matrix& b) {
      auto y = multiply(a, w, ctx, plain);
      const auto more = multiply(b, w, ctx, plain);
      for (index_t i = 0; i < y.size(); ++i) y[i] += more[i];
      return y;
    };
    matmul_options split = plain;
    split.activations->split = ops::activation_split::residual;
    CAPTURE(how.bits, static_cast<int>(plain.path));
    CHECK(multiply(spiky, w, ctx, split) == sum(spiky, residual));
    CHECK(multiply(spiky, w, {}, split) == sum(spiky, residual));
    split.activations->split = ops::activation_split::clipped;
    split.activations->clip = 2.0F;
    CHECK(multiply(spiky, w, ctx, split) == sum(clipped, rest));
    if (plain.path == matmul_path::int8) {
      std::vector<float> packed(shape.rows * w.shape().rows);
      ops::matmul(spiky.view(), ops::pack(w), {packed.data(), shape.rows, w.shape().rows}, ctx,
                  *split.activations);
      CHECK(packed == multiply(spiky, w, ctx, split));
    }
  }
}

TEST_CASE("two vectors of 4 bits have the precision of one of 8 (replication's T7)") {
  // With a the largest |x| of a token, the first step is a / 7, so |x - Q(x)| <= a / 14, and the
  // second one (a / 14) / 7 = a / 98 at most. The step of 8 bits is a / 127. Errors spread over a
  // step have mean squares as the squares of steps: 1.68 times that of 8 bits at most, and
  // (a / 7)^2 against (a / 98)^2, 196 times less than that of 4 bits, at least. Sampling: 10 %.
  const auto w = uniform_quantizer{}.quantize(weights.view());
  const auto ctx = kernels::context::best();
  const auto exact = multiply(inputs, w, ctx, {.path = matmul_path::dequantize});
  const auto error = [&](const activation_quantization& how) {
    const auto y = multiply(inputs, w, ctx, int8(how));
    double sum = 0.0;
    for (index_t i = 0; i < y.size(); ++i) {
      const double d = static_cast<double>(y[i]) - static_cast<double>(exact[i]);
      sum += d * d;
    }
    return sum;
  };
  const double of_8 = error({.bits = 8});
  const double of_4 = error({.bits = 4});
  const double split = error({.bits = 4, .split = ops::activation_split::residual});
  CAPTURE(of_8, of_4, split);
  CHECK(split <= 1.1 * 1.68 * of_8);
  CHECK(196.0 / 1.1 * split <= of_4);
}

TEST_CASE("clipping spares a token from its massive activation") {
  const auto w = uniform_quantizer{}.quantize(weights.view());
  const auto ctx = kernels::context::best();
  test_matrix x = inputs;
  for (index_t t = 0; t < x.shape.rows; ++t) x.values[t * x.shape.cols + 7] = 500.0F;
  const auto exact = multiply(x, w, ctx, {.path = matmul_path::dequantize});
  const auto largest_error = [&](const activation_quantization& how) {
    const auto y = multiply(x, w, ctx, int8(how));
    double largest = 0.0;
    for (index_t i = 0; i < y.size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(y[i] - exact[i])));
    }
    return largest;
  };
  // Unsplit, a step is 500 / 7: every other activation becomes 0. Clipped at rms / 16, about 2.5,
  // steps are about 0.4.
  CHECK(largest_error({.bits = 4, .split = ops::activation_split::clipped, .clip = 0.0625F}) <
        0.25 * largest_error({.bits = 4}));
}

TEST_CASE("splitting refuses thresholds and inputs that are none", "[any_isa]") {
  const auto w = uniform_quantizer{}.quantize(weights.view());
  for (const float clip : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity()}) {
    CHECK_THROWS_AS(
        multiply(inputs, w, {}, int8({.split = ops::activation_split::clipped, .clip = clip})),
        value_error);
  }
  test_matrix x = inputs;
  x.values[2 * x.shape.cols + 5] = std::numeric_limits<float>::quiet_NaN();
  for (const auto split : {ops::activation_split::residual, ops::activation_split::clipped}) {
    CHECK_THROWS_AS(multiply(x, w, {}, int8({.split = split})), value_error);
  }
  CHECK(multiply(testing::normal_matrix({0, 150}, seed), w, {},
                 int8({.split = ops::activation_split::clipped}))
            .empty());
}
