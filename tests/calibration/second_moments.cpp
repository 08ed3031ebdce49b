// calibration/second_moments: sums that are what double arithmetic says, whoever computes them and
// however rows arrive, and an estimate of the shrinkage that means what it should.
#include "lowbit/calibration/second_moments.hpp"

#include <bit>
#include <map>

#include "catch.hpp"
#include "lowbit/testing/matrices.hpp"
#include "ops/executors.hpp"

using namespace lowbit;
using observers::moment_accumulator;
using observers::second_moments;
using testing::test_matrix;

namespace {

const kernels::context best = kernels::context::best();

second_moments moments_of(matrix_view<const float> x, std::span<const float> weights = {},
                          const kernels::context& ctx = best) {
  moment_accumulator sums(x.cols());
  sums.add(x, ctx, weights);
  return sums.finish();
}

/// Whether two moments are the same, bit for bit.
bool same(const second_moments& a, const second_moments& b) {
  const auto x = a.matrix();
  const auto y = b.matrix();
  return a.channels() == b.channels() && a.rows == b.rows && a.shrinkage == b.shrinkage &&
         a.mean_magnitude == b.mean_magnitude && a.mean == b.mean &&
         std::equal(x.data(), x.data() + x.shape().size(), y.data());
}

/// Rows whose channels have a common part (share of the variance: `common`).
test_matrix inputs(shape2 shape, std::uint64_t seed, double common = 0.3) {
  return testing::make_matrix("inputs", shape, [&](index_t t, index_t k) {
    const auto own = static_cast<double>(random_normal(seed, t * shape.cols + k));
    const auto shared = static_cast<double>(random_normal(seed + 1, t));
    return static_cast<float>(std::sqrt(1.0 - common) * own + std::sqrt(common) * shared);
  });
}

std::vector<float> random_weights(index_t rows, std::uint64_t seed) {
  std::vector<float> weights(rows);
  for (index_t t = 0; t < rows; ++t) weights[t] = random_uniform(seed, t);
  return weights;
}

}  // namespace

TEST_CASE("second moments are E[x x^T], in double") {
  for (const shape2 shape :
       {shape2{1, 1}, {1, 5}, {7, 3}, {16, 33}, {31, 64}, {100, 129}, {257, 20}}) {
    const auto x = inputs(shape, 3);
    for (const bool weighted : {false, true}) {
      const auto weights = weighted ? random_weights(shape.rows, 4) : std::vector<float>{};
      const second_moments m = moments_of(x.view(), weights);
      INFO("[" << shape.rows << ", " << shape.cols << "]" << (weighted ? ", weighted" : ""));
      REQUIRE(m.channels() == shape.cols);
      REQUIRE(m.mean_magnitude.size() == shape.cols);
      REQUIRE(m.mean.size() == shape.cols);
      CHECK(m.rows == shape.rows);
      double total = 0.0;
      for (index_t t = 0; t < shape.rows; ++t) {
        total += weighted ? static_cast<double>(weights[t]) : 1.0;
      }
      std::string wrong;
      for (index_t i = 0; i < shape.cols; ++i) {
        double magnitude = 0.0;
        double signed_sum = 0.0;
        for (index_t j = 0; j < shape.cols; ++j) {
          double sum = 0.0;
          double bound = 0.0;
          magnitude = 0.0;
          signed_sum = 0.0;
          for (index_t t = 0; t < shape.rows; ++t) {
            const double weight = weighted ? static_cast<double>(weights[t]) : 1.0;
            const auto a = static_cast<double>(x.view()(t, i));
            sum += weight * a * static_cast<double>(x.view()(t, j));
            bound += std::fabs(weight * a * static_cast<double>(x.view()(t, j)));
            magnitude += weight * std::fabs(a);
            signed_sum += weight * a;
          }
          // T additions and, in each sum, a product or two, a total and a division: each rounded.
          bound *= 0x1p-52 * static_cast<double>(shape.rows + 4) / total;
          if (std::fabs(m.matrix()(i, j) - sum / total) > bound ||
              m.matrix()(i, j) != m.matrix()(j, i)) {
            wrong = lowbit::detail::message("(", i, ", ", j, ") is ", m.matrix()(i, j), ", not ",
                                            sum / total);
          }
        }
        const double mean = magnitude / total;
        if (std::fabs(m.mean_magnitude[i] - mean) >
            0x1p-52 * static_cast<double>(shape.rows + 4) * mean) {
          wrong = lowbit::detail::message("mean magnitude ", i);
        }
        if (std::fabs(m.mean[i] - signed_sum / total) >
            0x1p-52 * static_cast<double>(shape.rows + 4) * mean) {
          wrong = lowbit::detail::message("mean ", i);
        }
        if (m.importance()[i] != static_cast<float>(m.matrix()(i, i))) {
          wrong = lowbit::detail::message("importance ", i);
        }
      }
      CHECK(wrong.empty());
    }
  }
}

TEST_CASE("second moments do not depend on how rows are cut into calls") {
  const auto x = inputs({203, 150}, 5);
  const auto weights = random_weights(203, 6);
  for (const bool weighted : {false, true}) {
    const auto of_rows = [&](row_range rows) {
      return weighted ? std::span(weights).subspan(rows.begin, rows.size())
                      : std::span<const float>{};
    };
    const second_moments expected = moments_of(x.view(), of_rows({0, 203}));
    for (const index_t chunk : {1U, 2U, 15U, 16U, 17U, 100U, 202U}) {
      moment_accumulator sums(150);
      for (index_t begin = 0; begin < 203; begin += chunk) {
        const row_range rows{begin, std::min<index_t>(begin + chunk, 203)};
        sums.add(x.view().middle_rows(rows), best, of_rows(rows));
        sums.add(x.view().middle_rows({0, 0}), best);  // nothing
      }
      INFO("chunks of " << chunk);
      CHECK(sums.rows() == 203);
      CHECK(same(sums.finish(), expected));
      CHECK(same(sums.finish(), expected));  // finish() changes nothing
    }
  }
}

/// Copies of an accumulator's state by name, and back.
template <class Accumulator>
Accumulator through_saved_state(const Accumulator& from) {
  std::map<std::string, std::vector<std::byte>> saved;
  from.save_state([&](std::string_view name, auto values) {
    const auto bytes = std::as_bytes(values);
    CHECK(saved.emplace(name, std::vector(bytes.begin(), bytes.end())).second);
  });
  Accumulator to(from.channels());
  to.restore_state([&](std::string_view name, auto values) {
    const auto& bytes = saved.at(std::string(name));
    REQUIRE(bytes.size() == values.size_bytes());
    std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(values).begin());
  });
  return to;
}

TEST_CASE("second moments go on from a saved state as if nothing had happened") {
  const auto x = inputs({90, 150}, 70);
  const auto y = inputs({90, 150}, 71);
  const auto weights = random_weights(90, 72);
  const second_moments expected = moments_of(x.view(), weights);
  observers::cross_accumulator whole(150);
  whole.add(x.view(), y.view(), best, weights);
  for (const index_t cut : {0U, 5U, 16U, 47U, 90U}) {  // within a block of 16 rows, and between two
    INFO("cut after " << cut << " rows");
    moment_accumulator sums(150);
    observers::cross_accumulator cross(150);
    for (const row_range rows : {row_range{0, cut}, row_range{cut, 90}}) {
      const auto of_rows = std::span(weights).subspan(rows.begin, rows.size());
      sums = through_saved_state(sums);
      sums.add(x.view().middle_rows(rows), best, of_rows);
      cross = through_saved_state(cross);
      cross.add(x.view().middle_rows(rows), y.view().middle_rows(rows), best, of_rows);
    }
    CHECK(same(sums.finish(), expected));
    CHECK(std::ranges::equal(cross.finish(), whole.finish()));
  }
  // What would write past the block of rows is refused.
  moment_accumulator broken(3);
  CHECK_THROWS_AS(broken.restore_state([](std::string_view name, auto values) {
    if (name == "filled") values[0] = {16};
  }),
                  value_error);
}

TEST_CASE("second moments are the same on every tier and at any number of workers") {
  const auto x = inputs({90, 203}, 7);
  const auto weights = random_weights(90, 8);
  const second_moments expected = moments_of(x.view(), weights);
  for (const cpu::tier& tier : cpu::tiers) {
    INFO("tier " << tier.name);
    if (!best.allowed.contains(tier.features)) continue;
    CHECK(same(moments_of(x.view(), weights, best.narrowed_to(tier.name)), expected));
  }
  test::on_each_executor(best, {1U, 2U, 3U}, [&](const kernels::context& ctx) {
    INFO(ctx.threads->workers() << " workers");
    CHECK(same(moments_of(x.view(), weights, ctx), expected));
  });
}

TEST_CASE("equal weights are none, and a power of two for all is exactly none") {
  const auto x = inputs({100, 40}, 9);
  const second_moments expected = moments_of(x.view());
  for (const float weight : {1.0F, 0x1p-30F, 0x1p20F}) {
    CHECK(same(moments_of(x.view(), std::vector<float>(100, weight)), expected));
  }
  const second_moments tripled = moments_of(x.view(), std::vector<float>(100, 3.0F));
  for (index_t i = 0; i < 40; ++i) {
    // 100 products with 3 and as many sums, rounded.
    CHECK(std::fabs(tripled.matrix()(i, i) - expected.matrix()(i, i)) <=
          0x1p-52 * 210.0 * expected.matrix()(i, i));
  }
}

TEST_CASE("rows of weight 0 count for nothing, not even for the shrinkage") {
  const auto x = inputs({120, 40}, 10);
  // Padding between the rows, as in batches of texts of different lengths.
  constexpr index_t padded_rows = 360;
  const auto padded = testing::make_matrix("padded", {padded_rows, 40}, [&](index_t t, index_t k) {
    return t % 3 == 1 ? x.view()(t / 3, k) : 1e3F;
  });
  std::vector<float> weights(padded_rows);
  for (index_t t = 0; t < padded_rows; ++t) weights[t] = t % 3 == 1 ? 1.0F : 0.0F;
  second_moments with = moments_of(padded.view(), weights);
  const second_moments without = moments_of(x.view());
  CHECK(with.rows == without.rows);
  CHECK(with.shrinkage == without.shrinkage);
  CHECK(same(with, without));
}

TEST_CASE("bad inputs are refused, and leave the sums as they were") {
  const auto x = inputs({50, 12}, 11);
  moment_accumulator sums(12);
  sums.add(x.view(), best);
  const second_moments before = sums.finish();
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, infinity, -infinity}) {
    for (const auto& [t, k] : {std::pair<index_t, index_t>{0, 0}, {49, 11}, {17, 5}}) {
      auto broken = x;
      broken.values[t * 12 + k] = bad;
      const auto text =
          lowbit_test::message_of<value_error>([&] { sums.add(broken.view(), best); });
      INFO(text);
      CHECK(text.find("row " + std::to_string(t)) != std::string::npos);
      CHECK(text.find("column " + std::to_string(k)) != std::string::npos);
    }
    std::vector<float> weights(50, 1.0F);
    weights[33] = bad;
    CHECK_THROWS_AS(sums.add(x.view(), best, weights), value_error);
    weights[33] = -1.0F;
    CHECK(lowbit_test::message_of<value_error>([&] {
            sums.add(x.view(), best, weights);
          }).find("33") != std::string::npos);
  }
  CHECK_THROWS_AS(sums.add(x.view().middle_cols(0, 11), best), shape_error);
  CHECK_THROWS_AS(sums.add(x.view(), best, std::vector<float>(49, 1.0F)), shape_error);
  CHECK_THROWS_AS(sums.add(x.view(), best, std::vector<float>(51, 1.0F)), shape_error);
  CHECK(same(sums.finish(), before));
}

TEST_CASE("no rows, or none with a weight, have no moments") {
  moment_accumulator sums(4);
  CHECK_THROWS_AS(sums.finish(), value_error);
  sums.add({nullptr, 0, 4}, best);
  CHECK_THROWS_AS(sums.finish(), value_error);
  const auto x = inputs({3, 4}, 1);
  sums.add(x.view(), best, std::vector<float>(3, 0.0F));
  CHECK_THROWS_AS(sums.finish(), value_error);
  sums.add(x.view(), best);
  CHECK(sums.finish().channels() == 4);

  moment_accumulator nothing(0);
  nothing.add({nullptr, 3, 0}, best);
  CHECK(nothing.finish().channels() == 0);
}

// -- shrinkage ------------------------------------------------------------------------------------

TEST_CASE("shrinkage is small for many rows whose channels correlate, large for few that do not") {
  for (std::uint64_t seed = 20; seed < 30; ++seed) {
    INFO("seed " << seed);
    // Correlations of 0.5 over 4096 rows: Var(r) is about 1 / 4096, r^2 is 1 / 4.
    const double proven = moments_of(inputs({4096, 40}, seed, 0.5).view()).shrinkage;
    CHECK(proven >= 0.0);
    CHECK(proven < 0.01);
    // Independent channels: all that is measured is noise, as large as its estimate.
    const double noise = moments_of(inputs({128, 60}, seed, 0.0).view()).shrinkage;
    CHECK(noise <= 1.0);
    CHECK(noise > 0.8);
    // Between them, more rows are trusted more.
    const double few = moments_of(inputs({64, 60}, seed, 0.3).view()).shrinkage;
    const double many = moments_of(inputs({1024, 60}, seed, 0.3).view()).shrinkage;
    CHECK(many < few);
  }
}

TEST_CASE("rows that repeat prove no more than one of them") {
  // Every row 16 times: as alike as neighbouring tokens can be. Counted as independent rows, 16
  // times as many would make independent channels look correlated.
  const auto x = inputs({64, 50}, 31, 0.0);
  const auto repeated = testing::make_matrix(
      "repeated", {1024, 50}, [&](index_t t, index_t k) { return x.view()(t / 16, k); });
  CHECK(moments_of(repeated.view()).shrinkage > 0.7);
}

TEST_CASE("shrinkage: too few rows to tell, channels of zeros, constants") {
  for (const index_t rows : {1U, 15U, 16U, 31U}) {
    CHECK(moments_of(inputs({rows, 20}, 3).view()).shrinkage == 1.0);
  }
  const auto zeros = testing::make_matrix("zeros", {64, 9}, [](index_t, index_t) { return 0.0F; });
  CHECK(moments_of(zeros.view()).shrinkage == 1.0);
  const auto constant =
      testing::make_matrix("constant", {64, 9}, [](index_t, index_t) { return 3.0F; });
  CHECK(moments_of(constant.view()).shrinkage == 0.0);
  CHECK(moments_of(inputs({64, 1}, 3).view()).shrinkage == 1.0);  // there are no correlations

  auto dead = inputs({640, 20}, 3, 0.5);
  for (index_t t = 0; t < 640; ++t) dead.values[t * 20 + 7] = 0.0F;
  const double shrinkage = moments_of(dead.view()).shrinkage;
  CHECK(shrinkage >= 0.0);
  CHECK(shrinkage < 0.1);
}

TEST_CASE("shrinkage does not see the size of a channel") {
  const auto x = inputs({200, 30}, 40);
  const double expected = moments_of(x.view()).shrinkage;
  CHECK(expected > 0.0);
  CHECK(expected < 1.0);
  auto scaled = x;
  for (index_t t = 0; t < 200; ++t) {
    for (index_t k = 0; k < 30; ++k) {
      scaled.values[t * 30 + k] =
          std::ldexp(scaled.values[t * 30 + k], static_cast<int>(random_bits(1, k) % 40) - 20);
    }
  }
  CHECK(moments_of(scaled.view()).shrinkage == expected);  // powers of two are exact
}

TEST_CASE("shrinkage of many channels is estimated from a sample of them") {
  const auto x = inputs({160, 300}, 50);
  const auto probed = testing::make_matrix(
      "probed", {160, 128}, [&](index_t t, index_t i) { return x.view()(t, i * 300 / 128); });
  CHECK(moments_of(x.view()).shrinkage == moments_of(probed.view()).shrinkage);
}

TEST_CASE("shrink() moves correlations towards zero, and nothing else") {
  const second_moments original = moments_of(inputs({60, 10}, 2).view());
  for (const double amount : {0.0, 0.25, 1.0}) {
    second_moments m = original;
    m.shrink(amount);
    for (index_t i = 0; i < 10; ++i) {
      for (index_t j = 0; j < 10; ++j) {
        CHECK(m.matrix()(i, j) ==
              (i == j ? original.matrix()(i, j) : original.matrix()(i, j) * (1.0 - amount)));
      }
    }
    CHECK(m.importance() == original.importance());
  }
  second_moments m = original;
  for (const double bad : {-0.01, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_AS(m.shrink(bad), value_error);
  }
  CHECK(same(m, original));
}

// -- what stands beside it ------------------------------------------------------------------------

TEST_CASE("cross moments are E[x y^T], however rows arrive") {
  const auto x = inputs({75, 21}, 60);
  const auto y = inputs({75, 21}, 61);
  const auto of_chunks = [&](index_t chunk, const kernels::context& ctx) {
    observers::cross_accumulator sums(21);
    for (index_t begin = 0; begin < 75; begin += chunk) {
      const row_range rows{begin, std::min<index_t>(begin + chunk, 75)};
      sums.add(x.view().middle_rows(rows), y.view().middle_rows(rows), ctx);
    }
    const auto mean = sums.finish();
    return std::vector<double>(mean.begin(), mean.end());
  };
  const auto expected = of_chunks(75, best);
  for (index_t i = 0; i < 21; ++i) {
    for (index_t j = 0; j < 21; ++j) {
      double sum = 0.0;
      double bound = 0.0;
      for (index_t t = 0; t < 75; ++t) {
        const double product =
            static_cast<double>(x.view()(t, i)) * static_cast<double>(y.view()(t, j));
        sum += product;
        bound += std::fabs(product);
      }
      CHECK(std::fabs(expected[i * 21 + j] - sum / 75.0) <= 0x1p-52 * 77.0 * bound / 75.0);
    }
  }
  for (const index_t chunk : {1U, 8U, 74U}) CHECK(of_chunks(chunk, best) == expected);
  for (const cpu::tier& tier : cpu::tiers) {
    if (!best.allowed.contains(tier.features)) continue;
    CHECK(of_chunks(75, best.narrowed_to(tier.name)) == expected);
  }
  test::thread_executor threads(3);
  kernels::context ctx = best;
  ctx.threads = &threads;
  CHECK(of_chunks(30, ctx) == expected);
}

TEST_CASE("cross moments take weights") {
  const auto x = inputs({3, 2}, 62);
  const auto y = inputs({3, 2}, 63);
  observers::cross_accumulator weighted(2);
  weighted.add(x.view(), y.view(), best, std::vector<float>{1.0F, 0.0F, 2.0F});
  observers::cross_accumulator repeated(2);
  for (const index_t t : {0U, 2U, 2U}) {
    repeated.add(x.view().middle_rows({t, t + 1}), y.view().middle_rows({t, t + 1}), best);
  }
  const auto a = weighted.finish();
  const auto b = repeated.finish();
  for (index_t i = 0; i < 4; ++i) CHECK(std::fabs(a[i] - b[i]) < 1e-14);  // values of about 1
}

TEST_CASE("cross moments refuse what does not fit") {
  observers::cross_accumulator sums(4);
  CHECK_THROWS_AS(sums.finish(), value_error);
  const auto x = inputs({6, 4}, 1);
  CHECK_THROWS_AS(sums.add(x.view().middle_cols(0, 3), x.view().middle_cols(0, 3), best),
                  shape_error);
  CHECK_THROWS_AS(sums.add(x.view(), x.view().middle_rows({0, 5}), best), shape_error);
  auto bad = x;
  bad.values[2 * 4 + 3] = std::numeric_limits<float>::quiet_NaN();
  for (const bool first : {true, false}) {
    const auto text = lowbit_test::message_of<value_error>(
        [&] { sums.add(first ? bad.view() : x.view(), first ? x.view() : bad.view(), best); });
    CHECK(text.find("row 2, column 3") != std::string::npos);
    CHECK((text.find("distorted") == std::string::npos) == first);
  }
  CHECK_THROWS_AS(sums.finish(), value_error);
}

TEST_CASE("split_rows holds the last rows out, and leaves both parts a row") {
  for (index_t rows = 0; rows <= 40; ++rows) {
    for (const double share : {0.0, 0.2, 0.5, 0.99, 1.0}) {
      const auto split = observers::split_rows(rows, share);
      INFO(rows << " rows, share " << share);
      CHECK(split.calibration.begin == 0);
      CHECK(split.calibration.end == split.heldout.begin);
      CHECK(split.heldout.end == rows);
      if (rows >= 2) {
        CHECK(split.calibration.size() >= 1);
        CHECK(split.heldout.size() >= 1);
      }
    }
  }
  CHECK(observers::split_rows(100, 0.2).heldout.size() == 20);
  CHECK(observers::split_rows(100, 0.25).calibration.size() == 75);
  for (const double bad : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK_THROWS_AS(observers::split_rows(10, bad), value_error);
  }
}
