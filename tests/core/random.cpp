#include "lowbit/core/random.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "catch.hpp"

using namespace lowbit;

// Pinned: files and experiments depend on these very numbers.
static_assert(random_bits(0, 0) == 0xa706dd2f4d197e6fU);
static_assert(random_bits(0, 1) == 0xb382a305f4414f5eU);
static_assert(random_bits(1, 0) == 0x5e41ab087439611eU);
static_assert(random_bits(42, 1000000) == 0x8505da9e8a915c81U);
static_assert(random_bits(~std::uint64_t{0}, ~std::uint64_t{0}) == 0x445018e305810b78U);

TEST_CASE("random: floats are pinned too") {
  static_assert(random_uniform(1, 0) == 0x1.7906ac0000000p-2F);
  static_assert(random_uniform(7, 123456) == 0x1.1aa7fa0000000p-1F);
  CHECK(random_normal(1, 0) == 0x1.cc1f720000000p-1F);
  CHECK(random_normal(7, 123456) == 0x1.f142b60000000p-3F);
}

TEST_CASE("random: neighbouring seeds and indices share no pattern") {
  // 64 x 4096 words: every bit is set half of the time and flips half of the time, within five
  // standard deviations of a fair coin.
  constexpr int draws = 4096;
  constexpr double limit = 5.0 * 0.5 * 64.0;  // 5 sigma, sigma = sqrt(draws) / 2
  for (int by_seed = 0; by_seed < 2; ++by_seed) {
    const auto draw = [&](int i) {
      const auto n = static_cast<std::uint64_t>(i);
      return by_seed != 0 ? random_bits(n, 17) : random_bits(17, n);
    };
    for (unsigned bit = 0; bit < 64; ++bit) {
      int set = 0;
      int flips = 0;
      for (int i = 0; i < draws; ++i) {
        set += static_cast<int>(draw(i) >> bit & 1U);
        flips += static_cast<int>((draw(i) ^ draw(i + 1)) >> bit & 1U);
      }
      CHECK(std::abs(set - draws / 2) < limit);
      CHECK(std::abs(flips - draws / 2) < limit);
    }
  }
}

TEST_CASE("random_uniform: in [0, 1), evenly") {
  constexpr int draws = 200'000;
  std::array<int, 64> bins{};
  double sum = 0;
  for (int i = 0; i < draws; ++i) {
    const float u = random_uniform(5, static_cast<std::uint64_t>(i));
    REQUIRE((u >= 0.0F && u < 1.0F));
    ++bins[static_cast<std::size_t>(u * 64.0F)];
    sum += double{u};
  }
  CHECK(std::abs(sum / draws - 0.5) < 5.0 * std::sqrt(1.0 / 12.0 / draws));
  double chi_square = 0;
  for (const int n : bins) chi_square += std::pow(n - draws / 64.0, 2) / (draws / 64.0);
  // 63 degrees of freedom: mean 63, standard deviation sqrt(126).
  CHECK(chi_square < 63.0 + 5.0 * std::sqrt(126.0));
}

TEST_CASE("random_normal: the first four moments, and tails that are finite") {
  constexpr int draws = 200'000;
  std::array<double, 5> moments{};
  double largest = 0;
  double products = 0;
  double before = 0;
  for (int i = 0; i < draws; ++i) {
    const auto x = double{random_normal(6, static_cast<std::uint64_t>(i))};
    REQUIRE(std::isfinite(x));
    double power = 1;
    for (double& m : moments) {
      m += power / draws;
      power *= x;
    }
    largest = std::max(largest, std::abs(x));
    products += x * before / draws;
    before = x;
  }
  const double sigma = 1.0 / std::sqrt(double{draws});
  CHECK(std::abs(moments[1]) < 5 * sigma);                        // variance of x: 1
  CHECK(std::abs(moments[2] - 1) < 5 * std::sqrt(2.0) * sigma);   // of x^2: 2
  CHECK(std::abs(moments[3]) < 5 * std::sqrt(15.0) * sigma);      // of x^3: 15
  CHECK(std::abs(moments[4] - 3) < 5 * std::sqrt(96.0) * sigma);  // of x^4: 105 - 9
  CHECK(std::abs(products) < 5 * sigma);                          // neighbours: uncorrelated
  CHECK((largest > 4.0 && largest < 6.5));
}
