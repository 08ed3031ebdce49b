// Products with activations as bit-vectors, and as int8: what the SBVR kernels compute.
#include <cmath>
#include <type_traits>
#include <vector>

#include "catch.hpp"
#include "common.hpp"
#include "lowbit/ops/matmul.hpp"

using namespace sbvr_test;

/// Against double products with the dequantized weights. With u = 2^-24, per output:
///  * activations: a token's group has the step s = max|x| / (2^(bits-1) - 1), and rounding moves
///    each x by s / 2 at most, u |x| for the arithmetic included:  sum (s / 2 + 2 u |x|) |w|;
///  * floats: every term is rounded a few times, and the sums of a group and of the groups have
///    (planes + 2) G steps at most:  (planes + 2) (G + 2) u  times the sum of all magnitudes, of
///    (|offset| + sum of |c_i|) times |x| + s.
TEST_CASE("sbvr: products with 4, 6 and 8 bit-vectors of activations") {
  const shape2 shape{19, 330};
  const index_t tokens = 5;
  const auto w = testing::normal_matrix(shape, 71);
  const auto x = testing::normal_matrix({tokens, shape.cols}, 72);
  const kernels::context ctx = kernels::context::best();
  std::vector<formats::sbvr::params> list = configurations({1, 2, 3, 4});
  for (const unsigned planes : {1U, 2U, 3U, 4U}) list.push_back({.planes = planes});
  for (const auto& p : list) {
    const auto t = sbvr_quantizer{.params = p}.quantize(w.view());
    const auto w_hat = values_of(t);
    for (const unsigned bits : {4U, 6U, 8U}) {
      for (const auto path : {ops::matmul_path::bit_serial, ops::matmul_path::int8}) {
        std::vector<float> y(tokens * shape.rows);
        ops::matmul(x.view(), t, {y.data(), tokens, shape.rows}, ctx,
                    {.path = path,
                     .activations = ops::activation_quantization{.bits = bits, .per_group = true}});
        INFO(text(p) << ", " << bits << " bits, path " << static_cast<int>(path));
        for (index_t n = 0; n < shape.rows; ++n) {
          for (index_t m = 0; m < tokens; ++m) {
            double exact = 0.0;
            double rounded = 0.0;
            double magnitude = 0.0;
            std::vector<float> c(p.planes);
            for (index_t begin = 0; begin < shape.cols; begin += t.group_size()) {
              const index_t end = std::min(begin + t.group_size(), shape.cols);
              double largest = 0.0;
              for (index_t k = begin; k < end; ++k) {
                largest = std::fmax(largest, std::fabs(static_cast<double>(x.view()(m, k))));
              }
              const double step = largest / ((1 << (bits - 1)) - 1);
              double sum = std::fabs(
                  static_cast<double>(t.plane_coefficients(n, begin / t.group_size(), c)));
              for (const float ci : c) sum += std::fabs(static_cast<double>(ci));
              for (index_t k = begin; k < end; ++k) {
                const auto xk = static_cast<double>(x.view()(m, k));
                const auto wk = static_cast<double>(w_hat[n * shape.cols + k]);
                exact += xk * wk;
                rounded += (0.5 * step + 0x1p-23 * std::fabs(xk)) * std::fabs(wk);
                magnitude += sum * (std::fabs(xk) + step);
              }
            }
            const auto groups = static_cast<double>(t.group_shape().cols);
            const double bound = rounded + (p.planes + 2) * (groups + 2.0) * 0x1p-24 * magnitude;
            CHECK(std::fabs(static_cast<double>(y[m * shape.rows + n]) - exact) <= bound);
          }
        }
      }
    }
  }
}

TEST_CASE("sbvr: packed weights store no more than the form of the tensor needs") {
  const auto w = testing::normal_matrix({128, 256}, 73);
  const auto pack = [&](const formats::sbvr::params& p) {
    return ops::pack(sbvr_quantizer{.params = p}.quantize(w.view()));
  };
  for (const auto& p : configurations({1, 2, 3, 4})) {
    INFO(text(p));
    const auto packed = pack(p);
    const auto& f = packed.format();
    const bool is_shared = p.coefficients == sbvr_coefficients::shared_ratios;
    CHECK(f.bits == 1);
    CHECK(f.planes == p.planes);
    CHECK(f.code_step == (p.basis == sbvr_basis::sign ? 2 : 1));
    CHECK(f.zero == (p.basis == sbvr_basis::sign ? 1 : 0));
    CHECK(f.has_ratios == is_shared);
    CHECK(f.has_offsets == (p.offset == sbvr_offset::per_group));
    CHECK(f.has_wide_scales == p.has_scale_codes());  // all else is stored as fp16
    const index_t runs = packed.runs().count();
    const index_t reals = (is_shared ? 1 : p.planes) + (f.has_offsets ? 1U : 0U);
    CHECK(packed.size_bytes() ==
          runs * 128 *
              (p.planes * packed.runs().quads() / 2 + reals * (f.has_wide_scales ? 4 : 2)));
  }
  // As stored: 2 bits per weight and an fp16 per group of 128.
  CHECK(pack({.planes = 2}).size_bytes() == 128 * 256 / 4 + 128 * 2 * 2);
}

TEST_CASE("sbvr: products have the same bits on every tier, packed or not") {
  const shape2 shape{150, 330};
  const auto w = testing::normal_matrix(shape, 74);
  for (const auto& p : configurations({1, 2, 4})) {
    const auto t = sbvr_quantizer{.params = p}.quantize(w.view());
    const auto packed = ops::pack(t);
    for (const index_t tokens : {1U, 3U, 12U}) {
      const auto x = testing::normal_matrix({tokens, shape.cols}, 75);
      const auto multiply = [&](const auto& weights, cpu::cpu_set allowed) {
        std::vector<float> y(tokens * shape.rows);
        const matrix_view<float> out(y.data(), tokens, shape.rows);
        const ops::activation_quantization how{.per_group = tokens == 3};
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(weights)>, sbvr_tensor>) {
          ops::matmul(x.view(), weights, out, {.allowed = allowed},
                      {.path = ops::matmul_path::int8, .activations = how});
        } else {
          ops::matmul(x.view(), weights, out, {.allowed = allowed}, how);
        }
        return y;
      };
      const auto expected = multiply(packed, cpu::none);
      for (const cpu::tier& tier : cpu::tiers) {
        if (!cpu::detect().contains(tier.features)) continue;
        INFO(text(p) << ", " << tokens << " tokens, " << tier.name);
        CHECK(multiply(packed, tier.features) == expected);
        CHECK(multiply(t, tier.features) == expected);
      }
    }
  }
}
