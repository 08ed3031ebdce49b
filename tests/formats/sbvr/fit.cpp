// How good the fits are: the optimum where it can be enumerated, and what never rises.
#include <cmath>

#include "catch.hpp"
#include "common.hpp"
#include "lowbit/ops/evaluate.hpp"

using namespace sbvr_test;

namespace {

/// The least sum of h (x - B c)^2 over real c for one assignment of codes: what is left of
/// sqrt(h) x after Gram-Schmidt with the columns of bits (and ones, for an offset).
double least_squares_error(const std::vector<unsigned>& codes, std::span<const float> x,
                           std::span<const float> h, const formats::sbvr::params& p) {
  const index_t n = x.size();
  std::array<std::array<double, 8>, 4> basis{};
  std::array<double, 8> rest{};
  std::array<double, 8> root{};
  for (index_t j = 0; j < n; ++j) {
    root[j] = h.empty() ? 1.0 : std::sqrt(static_cast<double>(h[j]));
    rest[j] = root[j] * static_cast<double>(x[j]);
  }
  index_t count = 0;
  const auto remove = [n](std::array<double, 8>& v, const std::array<double, 8>& unit) {
    double dot = 0.0;
    for (index_t j = 0; j < n; ++j) dot += v[j] * unit[j];
    for (index_t j = 0; j < n; ++j) v[j] -= dot * unit[j];
  };
  for (unsigned i = 0; i < p.planes + (p.has_offset() ? 1U : 0U); ++i) {
    std::array<double, 8> v{};
    double norm = 0.0;
    for (index_t j = 0; j < n; ++j) {
      const bool set = i == p.planes || ((codes[j] >> i) & 1U) != 0;
      v[j] = root[j] * (set ? 1.0 : p.basis == sbvr_basis::sign ? -1.0 : 0.0);
      norm += v[j] * v[j];
    }
    const double before = norm;
    for (int twice = 0; twice < 2; ++twice) {
      for (index_t b = 0; b < count; ++b) remove(v, basis[b]);
    }
    norm = 0.0;
    for (index_t j = 0; j < n; ++j) norm += v[j] * v[j];
    if (!(norm > 1e-12 * before)) continue;
    for (index_t j = 0; j < n; ++j) v[j] /= std::sqrt(norm);
    basis[count++] = v;
    remove(rest, v);
  }
  double error = 0.0;
  for (index_t j = 0; j < n; ++j) error += rest[j] * rest[j];
  return error;
}

/// The least error over all codes. With signs, or an offset, exchanging the two values of a plane
/// changes nothing, so the first code may be 0. Else exchanging planes changes nothing, so the
/// first code may have its ones in the first planes.
double optimum(std::span<const float> x, std::span<const float> h, const formats::sbvr::params& p) {
  const bool free = p.basis == sbvr_basis::sign || p.has_offset();
  const index_t counted = x.size() - (free ? 1 : 0);
  std::vector<unsigned> codes(x.size());
  double best = std::numeric_limits<double>::infinity();
  for (std::uint64_t all = 0; all < (std::uint64_t{1} << (counted * p.planes)); ++all) {
    for (index_t j = 0; j < counted; ++j) {
      codes[j + (free ? 1 : 0)] =
          static_cast<unsigned>(all >> (j * p.planes)) & ((1U << p.planes) - 1U);
    }
    if ((codes[0] & (codes[0] + 1U)) != 0) continue;
    best = std::min(best, least_squares_error(codes, x, h, p));
  }
  return best;
}

}  // namespace

TEST_CASE("sbvr: own coefficients of up to 8 weights are the best of all codes") {
  struct sizes {
    unsigned planes;
    index_t most;
  };
  for (const auto& [planes, most] : {sizes{1, 8}, {2, 8}, {3, lowbit_test::is_sanitized ? 6 : 8}}) {
    for (const auto basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
      for (const auto offset : {sbvr_offset::none, sbvr_offset::per_group}) {
        const sbvr_quantizer q{.params = {.planes = planes,
                                          .basis = basis,
                                          .coefficients = sbvr_coefficients::per_group,
                                          .offset = offset,
                                          .scale_type = scale_type::fp32}};
        for (index_t n = 1; n <= most; ++n) {
          // Up to 8 million assignments are compared for each of the last ones.
          const std::uint64_t seeds = planes == 3 && n > 6 ? 1 : 6;
          for (std::uint64_t seed = 0; seed < seeds; ++seed) {
            const auto m = testing::normal_matrix({1, n}, 100 * n + seed);
            std::vector<float> h;
            for (index_t i = 0; i < n && seed % 2 == 1; ++i) h.push_back(random_uniform(seed, i));
            const double best = optimum(m.values, h, q.params);
            const auto t = q.quantize(m.view(), {.importance = h});
            const double error = squared_error(m.values, values_of(t), h);
            double energy = 0.0;
            for (const float v : m.values)
              energy += static_cast<double>(v) * static_cast<double>(v);
            INFO(text(q.params) << ", " << n << " weights, seed " << seed << ": best " << best);
            // The coefficients and the values are rounded to 24 bits, which moves the vector of
            // errors by 2^-22 of the weights at most.
            CHECK(std::sqrt(error) <= std::sqrt(best) * (1.0 + 5e-7) + 0x1p-22 * std::sqrt(energy));
          }
        }
      }
    }
  }
}

TEST_CASE("sbvr: more candidates, and more rounds, never make it worse") {
  const auto m = testing::normal_matrix({6, 300}, 5);
  std::vector<float> importance;
  for (index_t c = 0; c < 300; ++c) importance.push_back(random_uniform(3, c));
  for (const auto& p : configurations({1, 2, 3, 4})) {
    if (p.coefficients == sbvr_coefficients::table || p.scale_bits != 0) continue;
    for (const std::span<const float> h :
         {std::span<const float>(), std::span<const float>(importance)}) {
      std::vector<double> before(6 * 8, std::numeric_limits<double>::infinity());
      for (unsigned effort = 0; effort < 12; ++effort) {
        sbvr_quantizer q{.params = p};
        q.fit.candidates = 1 + 2 * effort;
        q.fit.rounds = effort;
        const auto t = q.quantize(m.view(), {.importance = h});
        const auto w_hat = values_of(t);
        for (index_t r = 0; r < 6; ++r) {
          for (index_t g = 0; g < t.group_shape().cols; ++g) {
            const index_t begin = g * p.group_size;
            const index_t n = std::min<index_t>(p.group_size, 300 - begin);
            const double error =
                squared_error(m.view().row(r).subspan(begin, n),
                              std::span<const float>(w_hat).subspan(r * 300 + begin, n),
                              h.empty() ? h : h.subspan(begin, n));
            INFO(text(p) << ", effort " << effort << ", row " << r << ", group " << g);
            // The error is a difference of sums that are 1000 times larger: 2^-40 covers them.
            CHECK(error <= before[r * 8 + g] * (1.0 + 0x1p-20) + 1e-9);
            before[r * 8 + g] = error;
          }
        }
      }
    }
  }
}

TEST_CASE("sbvr: learned ratios are not worse than those they start from") {
  // Uniform weights, which normal ratios do not suit.
  const auto m = testing::make_matrix("uniform", {64, 512}, [](index_t r, index_t c) {
    return random_uniform(11, r * 512 + c) - 0.5F;
  });
  for (const unsigned planes : {2U, 3U, 4U}) {
    sbvr_quantizer q{.params = {.planes = planes}};
    const double fixed = ops::weight_error(m.view(), q.quantize(m.view())).relative_mse();
    double before = fixed;
    for (const unsigned rounds : {0U, 1U, 2U, 4U, 8U, 16U}) {
      q.fit.method = sbvr_method::learned_ratios;
      q.fit.rounds = rounds;
      const double learned = ops::weight_error(m.view(), q.quantize(m.view())).relative_mse();
      INFO(planes << " planes, " << rounds << " rounds");
      CHECK(learned <= before * (1.0 + 1e-9));  // all 256 groups are in the sample
      before = learned;
    }
    // Equal steps on a uniform distribution leave 4^-planes; a group of 128 gains a little more.
    CHECK(before < 1.02 * std::pow(0.25, planes));
    CHECK(before < fixed);
  }
}

TEST_CASE("sbvr: normal weights cost what the ratios promise") {
  const auto m = testing::normal_matrix({512, 1024}, 42);
  struct figure {
    unsigned planes;
    double relative_mse;  // of the fit of each group with every start (tests print the value)
  };
  for (const auto& [planes, bound] :
       {figure{1, 0.3625}, figure{2, 0.1150}, figure{3, 0.0321}, figure{4, 0.00825}}) {
    sbvr_quantizer q{.params = {.planes = planes}};
    const auto real = q.quantize(m.view());
    q.params.scale_bits = 8;
    const auto coded = q.quantize(m.view());
    const double a = ops::weight_error(m.view(), real).relative_mse();
    const double b = ops::weight_error(m.view(), coded).relative_mse();
    INFO(planes << " planes: " << a << " with fp16 scales, " << b << " with 8 bits");
    CHECK(a < bound);
    CHECK(b < 1.003 * a);
    CHECK(bits_per_weight(coded) < bits_per_weight(real) - 0.04);
  }
}

TEST_CASE("sbvr: a table serves groups nearly as well as their own coefficients") {
  const auto m = testing::normal_matrix({64, 1024}, 43);
  sbvr_quantizer q{.params = {.planes = 3, .coefficients = sbvr_coefficients::per_group}};
  const double own = ops::weight_error(m.view(), q.quantize(m.view())).relative_mse();
  q.params.coefficients = sbvr_coefficients::table;
  const auto tabled = q.quantize(m.view());
  CHECK(tabled.params().table_lines == 256);
  CHECK(ops::weight_error(m.view(), tabled).relative_mse() < 1.06 * own);
}

TEST_CASE("sbvr: equal importance is none, and importance moves the error") {
  const auto m = testing::normal_matrix({16, 256}, 44);
  std::vector<float> h(256, 1.0F);
  for (index_t c = 0; c < 32; ++c) h[c] = 100.0F;
  for (const auto& p : configurations({2, 3})) {
    const sbvr_quantizer q{.params = p};
    const auto plain = values_of(q.quantize(m.view()));
    const auto weighted = values_of(q.quantize(m.view(), {.importance = h}));
    INFO(text(p));
    CHECK(squared_error(m.values, weighted, h) < squared_error(m.values, plain, h));
  }
}
