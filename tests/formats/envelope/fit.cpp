// formats/envelope: fits that find what is there, never get worse, and choose the nearest levels.
#include "lowbit/formats/envelope/fit.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "catch.hpp"
#include "lowbit/formats/envelope/quantizer.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;
using formats::envelope;
using formats::envelope_quantizer;
using formats::envelope_tensor;
using testing::test_matrix;

namespace {

constexpr std::uint64_t seed = 20261128;

[[nodiscard]] std::vector<float> values_of(const envelope_tensor& t) {
  std::vector<float> values(t.shape().size());
  t.dequantize({0, t.shape().rows}, {values.data(), t.shape().rows, t.shape().cols});
  return values;
}

/// sum of g h (w - v)^2; no importance is ones.
[[nodiscard]] double distance_of(const test_matrix& w, std::span<const float> v,
                                 std::span<const float> g = {}, std::span<const float> h = {}) {
  double sum = 0.0;
  for (index_t n = 0; n < w.shape.rows; ++n) {
    for (index_t k = 0; k < w.shape.cols; ++k) {
      const index_t i = n * w.shape.cols + k;
      const double d = static_cast<double>(w.values[i]) - static_cast<double>(v[i]);
      sum += (g.empty() ? 1.0 : static_cast<double>(g[n])) *
             (h.empty() ? 1.0 : static_cast<double>(h[k])) * d * d;
    }
  }
  return sum;
}
[[nodiscard]] double energy_of(const test_matrix& w) {
  return distance_of(w, std::vector<float>(w.values.size()));
}

/// A matrix of the format's form with random signs. The envelope of plane p is 8^-p times a number
/// in [.34, 1.88] (rank 1: in [.56, 1.57]), so that no plane reaches the one before.
[[nodiscard]] test_matrix planted(shape2 shape, index_t planes, index_t rank) {
  return testing::make_matrix("planted", shape, [&](index_t n, index_t k) {
    double sum = 0.0;
    for (index_t p = 0; p < planes; ++p) {
      double e = 0.0;
      for (index_t j = 0; j < rank; ++j) {
        const std::uint64_t stream = seed + 10 * (p * rank + j);
        const auto vary = [&](std::uint64_t of, index_t i) {
          return 0.75 + 0.5 * static_cast<double>(random_uniform(stream + of, i));
        };
        const auto is_odd = [&](std::uint64_t of, index_t i) {
          return (random_bits(stream + of, i) & 1U) != 0;
        };
        const double share = j == 0 ? 1.0 : is_odd(3, n) == is_odd(4, k) ? 0.2 : -0.2;
        e += share * vary(1, n) * vary(2, k);
      }
      const bool positive = (random_bits(seed + 5 + p, n * shape.cols + k) & 1U) != 0;
      sum += std::ldexp(positive ? e : -e, -3 * static_cast<int>(p));
    }
    return static_cast<float>(sum);
  });
}

[[nodiscard]] std::vector<float> importances(index_t count, std::uint64_t stream) {
  std::vector<float> out(count);
  for (index_t i = 0; i < count; ++i) {
    out[i] = i % 7 == 3 ? 0.0F : 0.01F + random_uniform(stream, i) * random_uniform(stream + 1, i);
  }
  return out;
}

}  // namespace

TEST_CASE("envelope: a matrix of the form is found again") {
  // fp16 rounds each of two vectors by 2^-12 at most in norm: 2^-11 for a plane.
  for (const unsigned planes : {1U, 2U, 3U}) {
    const auto w = planted({48, 80}, planes, 1);
    const envelope_quantizer q{.params = {.planes = planes}, .fit = {.tolerance = 0.0}};
    INFO(planes << " planes");
    CHECK(std::sqrt(distance_of(w, values_of(q.quantize(w.view()))) / energy_of(w)) < 1e-3);
  }
  for (const unsigned planes : {1U, 2U, 3U}) {
    const auto w = planted({96, 128}, planes, 2);
    const envelope_quantizer q{.params = {.planes = planes, .envelope_rank = 2},
                               .fit = {.rounds = 100, .tolerance = 0.0}};
    INFO(planes << " planes of rank 2");
    CHECK(std::sqrt(distance_of(w, values_of(q.quantize(w.view()))) / energy_of(w)) < 1e-3);
  }
}

TEST_CASE("envelope: the objective never rises, and rounding costs what it must") {
  for (const unsigned planes : {1U, 2U, 3U}) {
    for (const unsigned rank : {1U, 2U, 3U}) {
      for (const shape2 shape : {shape2{20, 70}, {70, 20}, {3, 200}}) {
        const auto w = testing::normal_matrix(shape, seed + planes);
        for (const bool weighted : {false, true}) {
          const auto g = weighted ? importances(shape.rows, seed) : std::vector<float>{};
          const auto h = weighted ? importances(shape.cols, seed + 2) : std::vector<float>{};
          const auto row_weights = formats::detail::fit_weights(g, shape.rows);
          const auto column_weights = formats::detail::fit_weights(h, shape.cols);
          const envelope_quantizer q{.params = {.planes = planes, .envelope_rank = rank}};
          formats::detail::envelope_fitter fitter(w.view(), row_weights, column_weights, q.params,
                                                  q.fit);
          fitter.run(/*moves=*/false);
          INFO(planes << " planes of rank " << rank << ", [" << shape.rows << ", " << shape.cols
                      << "]" << (weighted ? ", weighted" : ""));
          const auto& steps = fitter.history();
          REQUIRE(steps.size() >= 5);
          index_t rises = 0;
          for (index_t i = 1; i + 1 < steps.size(); ++i) {
            const bool same =
                steps[i].planes == steps[i - 1].planes && steps[i].rank == steps[i - 1].rank;
            // A sum of N K terms, each rounded a few times; and, in norms, errors that are known to
            // some roundings of W, which shows where nothing is left.
            const double sum = 1.0 + 0x1p-52 * static_cast<double>(shape.size() + 8);
            const double before = std::sqrt(sum * steps[i - 1].objective) +
                                  0x1p-44 * std::sqrt(steps.front().objective);
            if (same && std::sqrt(steps[i].objective) > before) ++rises;
          }
          CHECK(rises == 0);
          CHECK(steps[steps.size() - 2].objective < 0.4 * steps[0].objective);

          // In norms: storing columns and then rows moves each plane by 2^-11 of it, twice, for
          // fp16 numbers that are not subnormal; the planes of all terms are at most `size`
          // together.
          const auto t = q.quantize(w.view(), {.importance = h, .output_importance = g});
          const double stored = distance_of(w, values_of(t), g, h);
          double size = 0.0;
          for (index_t p = 0; p < planes; ++p) {
            for (index_t j = 0; j < rank; ++j) {
              double rows = 0.0;
              double columns = 0.0;
              for (index_t n = 0; n < shape.rows; ++n) {
                const double x = static_cast<double>(t.plane(p).row_envelopes().get(j, n));
                rows += row_weights[n] * x * x;
              }
              for (index_t k = 0; k < shape.cols; ++k) {
                const double x = static_cast<double>(t.plane(p).column_envelopes().get(j, k));
                columns += column_weights[k] * x * x;
              }
              size += std::sqrt(rows * columns);
            }
          }
          CHECK(std::sqrt(stored) <= std::sqrt(steps[steps.size() - 2].objective) + 0x1p-9 * size);
        }
      }
    }
  }
}

TEST_CASE("envelope: a half-step is the best signs, then least squares") {
  const shape2 shape{9, 5};  // terms, lanes
  const auto w = testing::normal_matrix(shape, seed + 20);
  std::vector<double> weights(shape.rows);
  std::vector<double> fixed(2 * shape.rows);
  std::vector<double> moved(2 * shape.cols);
  for (index_t t = 0; t < shape.rows; ++t) {
    weights[t] = 0.5 + static_cast<double>(random_uniform(seed, t));
    fixed[t] = 1.0 + static_cast<double>(random_uniform(seed + 1, t));
    fixed[shape.rows + t] = 0.2 + static_cast<double>(random_uniform(seed + 2, t));
  }
  for (index_t k = 0; k < shape.cols; ++k) {
    moved[k] = 0.8;
    moved[shape.cols + k] = 0.5;
  }
  // The slow way: all four sums of each element; normal equations of two unknowns by Cramer's rule.
  std::vector<double> expected(2 * shape.cols);
  double objective = 0.0;
  for (index_t k = 0; k < shape.cols; ++k) {
    double g00 = 0.0, g01 = 0.0, g11 = 0.0, r0 = 0.0, r1 = 0.0;
    for (index_t t = 0; t < shape.rows; ++t) {
      const double x = static_cast<double>(w.view()(t, k));
      double least = std::numeric_limits<double>::infinity();
      double z0 = 0.0, z1 = 0.0;
      for (const double s0 : {-1.0, 1.0}) {
        for (const double s1 : {-1.0, 1.0}) {
          const double d =
              x - s0 * fixed[t] * moved[k] - s1 * fixed[shape.rows + t] * moved[shape.cols + k];
          if (d * d >= least) continue;
          least = d * d;
          z0 = s0 * fixed[t];
          z1 = s1 * fixed[shape.rows + t];
        }
      }
      objective += 2.0 * weights[t] * least;
      g00 += weights[t] * z0 * z0;
      g01 += weights[t] * z0 * z1;
      g11 += weights[t] * z1 * z1;
      r0 += weights[t] * z0 * x;
      r1 += weights[t] * z1 * x;
    }
    const double determinant = g00 * g11 - g01 * g01;
    expected[k] = (r0 * g11 - r1 * g01) / determinant;
    expected[shape.cols + k] = (r1 * g00 - r0 * g01) / determinant;
  }
  const std::vector<double> lane_weights(shape.cols, 2.0);
  const auto axpy = kernels::select_dense(cpu::detect()).run.axpy;
  formats::detail::envelope_step step({w.view(), weights, lane_weights, fixed, moved}, axpy, 1, 2,
                                      1);
  // The ridge is 2^-40 of a matrix whose condition is a few tens here.
  CHECK(std::fabs(step.run() - objective) <= 1e-12 * objective);
  for (index_t i = 0; i < moved.size(); ++i) CHECK(std::fabs(moved[i] - expected[i]) <= 1e-9);
}

TEST_CASE("envelope: one plane of rank 1 is as good as any signs allow") {
  // For signs B the best envelope leaves |W|^2 - s^2 with s the largest singular value of B o W.
  // All 2^12 of them are tried, each by power iteration.
  const shape2 shape{3, 4};
  for (std::uint64_t i = 0; i < 5; ++i) {
    const auto w = testing::normal_matrix(shape, seed + 30 + i);
    double most = 0.0;
    for (unsigned signs = 0; signs < 1U << 12U; ++signs) {
      std::vector<double> m(shape.size());
      for (index_t e = 0; e < m.size(); ++e) {
        m[e] = (((signs >> e) & 1U) != 0 ? 1.0 : -1.0) * static_cast<double>(w.values[e]);
      }
      std::vector<double> v{1.0, 0.9, 1.1, 0.8};
      double norm = 0.0;
      for (int round = 0; round < 60; ++round) {
        std::vector<double> u(shape.rows);
        for (index_t e = 0; e < m.size(); ++e) u[e / shape.cols] += m[e] * v[e % shape.cols];
        std::vector<double> next(shape.cols);
        for (index_t e = 0; e < m.size(); ++e) next[e % shape.cols] += m[e] * u[e / shape.cols];
        norm = std::sqrt(std::inner_product(next.begin(), next.end(), next.begin(), 0.0));
        for (index_t k = 0; k < shape.cols; ++k) v[k] = next[k] / norm;
      }
      most = std::max(most, norm);  // of M^T M: the square of the singular value
    }
    const envelope_quantizer q{.params = {.planes = 1, .scale_type = scale_type::fp32},
                               .fit = {.rounds = 100, .tolerance = 0.0}};
    const double error = distance_of(w, values_of(q.quantize(w.view())));
    INFO("matrix " << i);
    CHECK(std::fabs(error - (energy_of(w) - most)) <= 1e-5 * energy_of(w));
  }
}

TEST_CASE("envelope: the signs of each element are the best of all, as stored") {
  for (const auto& params : {envelope::params{}, envelope::params{.planes = 3, .envelope_rank = 2},
                             envelope::params{.planes = 8, .scale_type = scale_type::bf16}}) {
    const auto w = testing::normal_matrix({6, 40}, seed + 40);
    const envelope_quantizer q{.params = params};
    const auto t = q.quantize(w.view());
    const auto values = values_of(t);
    const index_t count = index_t{1} << params.planes;
    std::vector<double> nearest(values.size(), std::numeric_limits<double>::infinity());
    auto other = t;
    for (index_t code = 0; code < count; ++code) {
      const std::vector<std::uint8_t> codes(w.shape.cols, static_cast<std::uint8_t>(code));
      for (index_t n = 0; n < w.shape.rows; ++n) other.set_codes(n, codes);
      const auto tried = values_of(other);
      for (index_t i = 0; i < tried.size(); ++i) {
        nearest[i] = std::min(nearest[i], std::fabs(static_cast<double>(w.values[i]) -
                                                    static_cast<double>(tried[i])));
      }
    }
    index_t wrong = 0;
    for (index_t i = 0; i < values.size(); ++i) {
      const double d = std::fabs(static_cast<double>(w.values[i]) - static_cast<double>(values[i]));
      wrong += d == nearest[i] ? 0U : 1U;
    }
    INFO(params.planes << " planes of rank " << params.envelope_rank);
    CHECK(wrong == 0);
  }
}

TEST_CASE("envelope: importance moves error to where it matters less") {
  const shape2 shape{40, 60};
  const auto w = testing::normal_matrix(shape, seed + 50);
  const auto g = importances(shape.rows, seed + 51);
  const auto h = importances(shape.cols, seed + 52);
  const envelope_quantizer q{};
  const auto plain = values_of(q.quantize(w.view()));
  CHECK(distance_of(w, values_of(q.quantize(w.view(), {.output_importance = g})), g) <
        distance_of(w, plain, g));
  CHECK(distance_of(w, values_of(q.quantize(w.view(), {.importance = h})), {}, h) <
        distance_of(w, plain, {}, h));
  CHECK(distance_of(w, values_of(q.quantize(w.view(), {.importance = h, .output_importance = g})),
                    g, h) < distance_of(w, plain, g, h));
  // All the same, or none at all, is no importance.
  for (const float same : {0.0F, 0.3F}) {
    const std::vector<float> rows(shape.rows, same);
    CHECK(values_of(q.quantize(w.view(), {.output_importance = rows})) == plain);
  }
  CHECK_THROWS_AS(q.quantize(w.view(), {.output_importance = h}), shape_error);
  const std::vector<float> negative(shape.rows, -1.0F);
  CHECK_THROWS_AS(q.quantize(w.view(), {.output_importance = negative}), value_error);
}

TEST_CASE("envelope: stated results") {
  const envelope_quantizer q{};
  // A row, a column or a constant is of rank 1: one plane holds it up to the rounding of two
  // vectors.
  for (const auto& w :
       {testing::normal_matrix({1, 90}, seed), testing::normal_matrix({90, 1}, seed),
        testing::make_matrix("constant", {5, 9}, [](index_t, index_t) { return -0.3F; })}) {
    const auto values = values_of(q.quantize(w.view()));
    INFO(w.name);
    CHECK(distance_of(w, values) <= 0x1p-20 * energy_of(w));
  }
  // Subnormal numbers underflow fp16; fp32 holds them.
  const auto tiny = testing::make_matrix("tiny", {4, 40}, [](index_t n, index_t k) {
    return std::ldexp(random_normal(seed, n * 40 + k), -140);
  });
  envelope_quantizer wide{.params = {.scale_type = scale_type::fp32}};
  CHECK(distance_of(tiny, values_of(wide.quantize(tiny.view()))) < 0.13 * energy_of(tiny));
  // What overflows is refused by name.
  const auto huge = testing::make_matrix("huge", {4, 40}, [](index_t n, index_t k) {
    return 1e20F * random_normal(seed, n * 40 + k);
  });
  const auto message =
      lowbit_test::message_of<value_error>([&] { static_cast<void>(q.quantize(huge.view())); });
  INFO(message);
  CHECK(message.find("plane 0, column ") != std::string::npos);
  CHECK(message.find("fp16") != std::string::npos);
  CHECK(distance_of(huge, values_of(wide.quantize(huge.view()))) < 0.13 * energy_of(huge));
  const auto largest = testing::make_matrix(
      "largest", {2, 3}, [](index_t n, index_t k) { return (n + k) % 2 == 0 ? 3e38F : -1e38F; });
  CHECK_THROWS_AS(wide.quantize(largest.view()), value_error);
}

TEST_CASE("envelope: planes come by size, and those of rank 1 have no negative numbers") {
  const auto w = testing::normal_matrix({30, 50}, seed + 60);
  const auto t = envelope_quantizer{.params = {.planes = 4}}.quantize(w.view());
  double before = std::numeric_limits<double>::infinity();
  for (index_t p = 0; p < 4; ++p) {
    double rows = 0.0;
    double columns = 0.0;
    index_t negative = 0;
    for (index_t n = 0; n < 30; ++n) {
      const float x = t.plane(p).row_envelopes().get(0, n);
      rows += static_cast<double>(x) * static_cast<double>(x);
      negative += std::signbit(x) ? 1U : 0U;
    }
    for (index_t k = 0; k < 50; ++k) {
      const float x = t.plane(p).column_envelopes().get(0, k);
      columns += static_cast<double>(x) * static_cast<double>(x);
      negative += std::signbit(x) ? 1U : 0U;
    }
    CHECK(rows * columns < before);
    CHECK(negative == 0);
    before = rows * columns;
  }
}

TEST_CASE("envelope: feedback gets wider levels, by a quarter of the relative error") {
  const auto w = testing::normal_matrix({64, 100}, seed + 70);
  for (const unsigned planes : {1U, 2U}) {
    const envelope_quantizer q{.params = {.planes = planes, .scale_type = scale_type::fp32}};
    const auto fitted = q.prepare(w.view(), {}, 1.0F).make_tensor();
    const auto wider = q.prepare(w.view(), {}, 1.1F).make_tensor();
    const double share = distance_of(w, values_of(q.quantize(w.view()))) / energy_of(w);
    for (index_t n = 0; n < 64; ++n) {
      const double ratio = static_cast<double>(wider.plane(0).row_envelopes().get(0, n)) /
                           static_cast<double>(fitted.plane(0).row_envelopes().get(0, n));
      CHECK(std::fabs(ratio - (1.0 + 0.25 * share)) <
            1e-3);  // the last half-step gains that little
    }
  }
}

TEST_CASE("envelope codec: values follow the numbers of their row") {
  const shape2 shape{4, 30};
  const auto w = testing::normal_matrix(shape, seed + 80);
  for (const unsigned rank : {1U, 2U}) {
    const envelope_quantizer q{.params = {.planes = 2, .envelope_rank = rank}};
    auto codec = q.prepare(w.view(), {}, 1.0F);
    const index_t terms = codec.row_terms();
    REQUIRE(terms == 2 * rank);
    std::vector<float> numbers(terms);
    codec.row_numbers(1, numbers);
    const auto fitted = numbers;
    for (float& x : numbers) x *= 1.25F;
    codec.set_row_numbers(1, numbers);
    std::vector<float> stored(terms);
    codec.row_numbers(1, stored);
    auto t = codec.make_tensor();
    for (index_t u = 0; u < terms; ++u) {
      CHECK(stored[u] == layout::round_to(scale_type::fp16, numbers[u]));
      CHECK(stored[u] == t.plane(u / rank).row_envelopes().get(u % rank, 1));
    }
    for (std::uint8_t code = 0; code < 4; ++code) {
      t.set_codes(1, std::vector<std::uint8_t>(shape.cols, code));
      const auto decoded = values_of(t);
      for (index_t k = 0; k < shape.cols; ++k) {
        std::vector<float> values(4);
        codec.values(codec.fit(1, k, {}, {}), values);
        CHECK(decoded[shape.cols + k] == values[code]);
        std::vector<float> of_code(terms);
        codec.row_term(codec.fit(1, k, {}, {}), code, of_code);
        double sum = 0.0;
        double size = 0.0;
        for (index_t u = 0; u < terms; ++u) {
          const double term = static_cast<double>(stored[u]) * static_cast<double>(of_code[u]);
          sum += term;
          size += std::fabs(term);
        }
        // Each plane and their sum are rounded to float.
        CHECK(std::fabs(static_cast<double>(values[code]) - sum) <= 3.0 * 0x1p-24 * size);
      }
    }
    // What could not be stored changes nothing, and neither do other rows.
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e6F}) {
      auto some = stored;
      some.back() = bad;
      codec.set_row_numbers(1, some);
      some = stored;
      codec.row_numbers(1, some);
      CHECK(some == stored);
    }
    std::vector<float> negative(stored.size(), -0.5F);
    codec.set_row_numbers(1, negative);
    codec.row_numbers(1, numbers);
    CHECK(numbers == (rank == 1 ? stored : negative));
    codec.set_row_numbers(1, fitted);
    const auto whole = q.prepare(w.view(), {}, 1.0F).make_tensor();
    CHECK(values_of(codec.make_tensor()) == values_of(whole));
  }
}
