// How ranges are fitted: percentiles against sorting, least_mse against what it promises.
#include <algorithm>

#include "catch.hpp"
#include "lowbit/testing/format.hpp"
#include "oracle.hpp"

namespace {

using namespace uniform_oracle;
using lowbit::calibration;
using lowbit::testing::copy_buffers;
using lowbit::testing::first_difference;
using lowbit::testing::make_matrix;
using lowbit::testing::normal_matrix;
using lowbit::testing::test_matrix;

constexpr std::uint64_t seed = 12;
const test_matrix normal = normal_matrix({3, 130}, seed);

/// The value below which a share p of the values lies, with neighbours interpolated.
double quantile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  const double position = p * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const double next = values[std::min(below + 1, values.size() - 1)];
  return values[below] + (position - static_cast<double>(below)) * (next - values[below]);
}

std::vector<float> random_importance(index_t cols) {
  std::vector<float> h;
  for (index_t c = 0; c < cols; ++c) {
    h.push_back(c % 10 == 3 ? 0.0F : lowbit::random_uniform(seed + 1, c));
  }
  return h;
}

}  // namespace

// Two float operations make the scale of a percentile range (its ends are rounded to float, too)
// and one rounding stores it: the relative error of ends and scale is at most 4u, plus storage.
TEST_CASE("percentile ranges are those of the sorted values") {
  index_t compared = 0;
  for (const double percentile : {50.0, 80.0, 97.5, 99.9, 100.0}) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const auto type : {scale_type::fp32, scale_type::fp16}) {
        for (const std::uint32_t size : {1U, 2U, 7U, 64U, 130U}) {
          uniform_quantizer q;
          q.params = {.bits = 4, .kind = kind, .group_size = size, .scale_type = type};
          q.fit = {.method = range_method::percentile, .percentile = percentile};
          const stored_uniform stored(q.quantize(normal.view(), {}));
          for (index_t g = 0; g < stored.groups(); ++g) {
            std::vector<double> values;
            for (index_t k = g * size; k < std::min<index_t>((g + 1) * size, 130); ++k) {
              const double x = static_cast<double>(normal.view()(1, k));
              values.push_back(kind == symmetry::symmetric ? std::fabs(x) : x);
            }
            const double share = percentile / 100.0;
            double low = quantile(values, (1.0 - share) / 2.0);
            double high = quantile(values, (1.0 + share) / 2.0);
            double scale = (high - low) / 15.0;
            if (kind == symmetry::symmetric) scale = quantile(values, share) / 7.0;
            if (kind == symmetry::asymmetric) {
              low = std::min(low, 0.0);
              high = std::max(high, 0.0);
              scale = (high - low) / 15.0;
            }
            const double spread = std::max(std::fabs(low), std::fabs(high));
            CAPTURE(text(q), percentile, g, seed);
            REQUIRE(std::fabs(stored.scale(1, g) - scale) <=
                    4.0 * u * (scale + spread) + rounding_error(type, scale));
            if (kind == symmetry::offset) {
              REQUIRE(std::fabs(stored.offset(1, g) - low) <=
                      u * std::fabs(low) + rounding_error(type, low));
            }
            ++compared;
          }
        }
      }
    }
  }
  CHECK(compared == 5 * 3 * 2 * (130 + 65 + 19 + 3 + 1));
}

TEST_CASE("the 100th percentile is min_max, byte for byte") {
  index_t settings = 0;
  for_each_setting([&](uniform_quantizer q) {
    if (q.fit.method != range_method::percentile) return;
    ++settings;
    q.fit.percentile = 100.0;
    const auto all = copy_buffers(q.quantize(normal.view(), {}));
    q.fit.method = range_method::min_max;
    const auto spanned = copy_buffers(q.quantize(normal.view(), {}));
    INFO(text(q) << ", seed " << seed);
    if (all != spanned) CHECK(first_difference(all, spanned) == "");
  });
  CHECK(settings == settings_count / 3);
}

// The search compares sums of h e² with e rounded to float as here, each square cut to 29 bits at
// most (2^-28), the sum of n terms rounded n times in double: so what it accepts as better is
// better up to a factor of 1 + 2^-27 + n 2^-52.
TEST_CASE("least_mse is never worse than min_max, in the error that it is asked to minimise") {
  const double factor = 1.0 + 0x1p-27 + static_cast<double>(normal.values.size()) * 0x1p-52;
  const std::vector<std::vector<float>> importances = {{}, random_importance(130)};
  std::vector<test_matrix> matrices = {normal};
  for (const int exponent : {-140, -126, -60, 60, 100}) {  // squares leave the range of floats
    test_matrix scaled = normal;
    for (float& x : scaled.values) x = std::ldexp(x, exponent);
    matrices.push_back(scaled);
  }
  index_t settings = 0;
  index_t better = 0;
  for_each_setting([&](uniform_quantizer q) {
    if (q.fit.method != range_method::least_mse) return;
    ++settings;
    for (const test_matrix& m : matrices) {
      const bool ordinary = &m == matrices.data();
      if (!ordinary && q.params.scale_type == scale_type::fp16) continue;  // scales would overflow
      if (!ordinary && q.params.granularity == granularity::group) continue;  // to save time
      for (const auto& h : importances) {
        const calibration known{.importance = h};
        q.fit.method = range_method::least_mse;
        const double searched = weighted_error(m, dequantize(q.quantize(m.view(), known)), h);
        q.fit.method = range_method::min_max;
        const double spanned = weighted_error(m, dequantize(q.quantize(m.view(), known)), h);
        better += ordinary && searched < spanned;
        INFO(text(q) << (h.empty() ? "" : ", with importance") << ", seed " << seed);
        if (!(searched <= factor * spanned)) CHECK(searched <= factor * spanned);
      }
    }
  });
  CHECK(settings == settings_count / 3);
  // It does search: most settings with more than a value or two per group gain.
  CHECK(better > settings);
}

TEST_CASE("the weighted search works in any unit: denormals and huge values scale with it") {
  const std::vector<float> h = random_importance(130);
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    uniform_quantizer q;
    q.params = {.bits = 3, .kind = kind, .scale_type = scale_type::fp32};
    q.fit.method = range_method::least_mse;
    const stored_uniform reference(q.quantize(normal.view(), {.importance = h}));
    for (const int exponent : {-100, -60, 60, 100}) {
      test_matrix scaled = normal;
      for (float& x : scaled.values) x = std::ldexp(x, exponent);
      const stored_uniform stored(q.quantize(scaled.view(), {.importance = h}));
      CAPTURE(text(q), exponent, seed);
      for (index_t g = 0; g < stored.groups(); ++g) {
        CHECK(stored.scale(0, g) == std::ldexp(reference.scale(0, g), exponent));
      }
    }
  }
}

// With 64 sixteenths of a unit step between float neighbours, adding 8 is exact; what the search
// then finds may differ by the roundings of its pivot and of its offsets only: 2^-20 of the range.
TEST_CASE("least_mse of offset grids does not depend on where zero is") {
  const test_matrix grid = make_matrix("grid", {4, 256}, [](index_t r, index_t c) {
    return std::nearbyint(lowbit::random_normal(seed, r * 256 + c) * 0x1p12F) * 0x1p-12F;
  });
  test_matrix moved = grid;
  for (float& x : moved.values) x += 8.0F;
  for (const unsigned bits : {2U, 3U, 4U}) {
    uniform_quantizer q;
    q.params = {.bits = bits,
                .kind = symmetry::offset,
                .granularity = granularity::channel,
                .scale_type = scale_type::fp32};
    q.fit.method = range_method::least_mse;
    const double here =
        std::sqrt(weighted_error(grid, dequantize(q.quantize(grid.view(), {})), {}));
    const double there =
        std::sqrt(weighted_error(moved, dequantize(q.quantize(moved.view(), {})), {}));
    const double range = 8.0;  // of a normal sample of this size, at most
    CAPTURE(bits, seed);
    CHECK(std::fabs(here - there) <= 0x1p-20 * range * std::sqrt(static_cast<double>(4 * 256)));
  }
}

TEST_CASE("importance moves the fit to the columns that matter") {
  // One huge value in a column that does not matter.
  test_matrix m = normal;
  for (index_t n = 0; n < 3; ++n) m.values[n * 130 + 40] = 500.0F;
  std::vector<float> h(130, 1.0F);
  h[40] = 0.0F;
  for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    uniform_quantizer q;
    q.params = {.bits = 4, .kind = kind, .group_size = 130};
    q.fit.method = range_method::least_mse;
    const double blind = weighted_error(m, dequantize(q.quantize(m.view(), {})), h);
    const double told = weighted_error(m, dequantize(q.quantize(m.view(), {.importance = h})), h);
    CAPTURE(text(q), seed);
    CHECK(told < blind);
  }
}

TEST_CASE("the sign grid's scale is the least-squares one, importance included") {
  const std::vector<float> h = random_importance(130);
  uniform_quantizer q;
  q.params = {.bits = 1, .granularity = granularity::channel, .scale_type = scale_type::fp32};
  const stored_uniform stored(q.quantize(normal.view(), {.importance = h}));
  for (index_t n = 0; n < 3; ++n) {
    double sum = 0.0;
    double weight = 0.0;
    for (index_t k = 0; k < 130; ++k) {
      sum += static_cast<double>(h[k]) * std::fabs(static_cast<double>(normal.view()(n, k)));
      weight += static_cast<double>(h[k]);
    }
    CAPTURE(n, seed);
    CHECK(stored.scale(n, 0) == static_cast<double>(static_cast<float>(sum / weight)));
  }
}

TEST_CASE("importance changes nothing where the method has no use for it") {
  const std::vector<float> h = random_importance(130);
  for (const auto method : {range_method::min_max, range_method::percentile}) {
    uniform_quantizer q;
    q.fit.method = method;
    const auto with = copy_buffers(q.quantize(normal.view(), {.importance = h}));
    CHECK(first_difference(with, copy_buffers(q.quantize(normal.view(), {}))) == "");
  }
}

TEST_CASE("a group without importance is fitted as if there were none") {
  std::vector<float> h(128, 1.0F);
  std::fill(h.begin(), h.begin() + 64, 0.0F);
  const auto m = normal.view().middle_cols(0, 128);
  uniform_quantizer q;
  q.params = {.bits = 3};
  q.fit.method = range_method::least_mse;
  CHECK(first_difference(copy_buffers(q.quantize(m, {.importance = h})),
                         copy_buffers(q.quantize(m, {}))) == "");
}

TEST_CASE("half_quadratic never has a larger mean deviation than min_max") {
  const auto mean_deviation = [](const test_matrix& m, const uniform_quantizer& q) {
    const auto t = q.quantize(m.view(), {});
    std::vector<float> values(m.shape.size());
    t.dequantize({0, m.shape.rows}, {values.data(), m.shape.rows, m.shape.cols});
    double sum = 0.0;
    for (index_t i = 0; i < values.size(); ++i) {
      sum += std::fabs(static_cast<double>(m.values[i]) - static_cast<double>(values[i]));
    }
    return sum;
  };
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      test_matrix m = normal_matrix({4, 130}, seed + bits);
      m.values[20] = 9.0F;  // an outlier, which should not decide where the others' levels lie
      uniform_quantizer q;
      q.params = {.bits = bits, .kind = kind, .group_size = 130};
      const double before = mean_deviation(m, q);
      q.fit.method = range_method::half_quadratic;
      const double after = mean_deviation(m, q);
      CAPTURE(bits, kind, before, after);
      // A row's sum is rounded once for each of its values.
      CHECK(after <= before * (1.0 + 130 * 0x1p-52));
      if (kind == symmetry::symmetric) CHECK(after == before);
      if (kind == symmetry::offset && bits >= 2 && bits <= 4) CHECK(after < before);
    }
  }
}

TEST_CASE("half_quadratic does not depend on the unit of the weights") {
  for (const auto kind : {symmetry::asymmetric, symmetry::offset}) {
    uniform_quantizer q;
    q.params = {.bits = 3, .kind = kind, .group_size = 64, .scale_type = scale_type::fp32};
    q.fit.method = range_method::half_quadratic;
    const test_matrix small = make_matrix("small", normal.shape, [](index_t r, index_t c) {
      return std::ldexp(normal.view()(r, c), -9);
    });
    const auto a = q.quantize(normal.view(), {});
    const auto b = q.quantize(small.view(), {});
    std::vector<std::uint8_t> codes_a(normal.shape.cols);
    std::vector<std::uint8_t> codes_b(normal.shape.cols);
    for (index_t r = 0; r < normal.shape.rows; ++r) {
      a.codes(r, codes_a);
      b.codes(r, codes_b);
      CHECK(codes_a == codes_b);
    }
  }
}
