// ptq::level_table finds what a search over all levels finds.
#include <algorithm>

#include "catch.hpp"
#include "problems.hpp"

using namespace lowbit;
using ptq::level_table;

namespace {

constexpr float unused = std::numeric_limits<float>::quiet_NaN();

/// Asks a table of these levels for values on, between and beyond them. The levels are multiples of
/// 2^-4 and the questions of 2^-6, so that distances are exact and ties are ties.
void check_table(const std::vector<float>& by_code) {
  level_table table;
  table.assign(by_code);
  std::vector<double> questions{-1e300,
                                1e300,
                                0.0,
                                -0.0,
                                std::numeric_limits<double>::infinity(),
                                -std::numeric_limits<double>::infinity()};
  for (const float v : by_code) {
    if (v != v) continue;
    for (const double step : {-0.5, -0x1p-5, -0x1p-6, 0.0, 0x1p-6, 0x1p-5, 0.5}) {
      questions.push_back(static_cast<double>(v) + step);
    }
  }
  std::string wrong;
  for (const double x : questions) {
    const auto found = table.nearest(x);
    float expected = found.value;
    if (std::fabs(x) > 1e6) {  // too far for distances: the lowest or the highest level
      for (const float v : by_code) {
        if (x < 0.0 ? v < expected : v > expected) expected = v;
      }
    } else {
      expected = by_code[test::nearest_code(by_code, x)];
    }
    const bool is_its_code = found.code < by_code.size() && by_code[found.code] == found.value;
    if (!is_its_code || found.value != expected) {
      wrong = lowbit::detail::message("of ", x, " the nearest is ", expected, ", not ", found.value,
                                      " with code ", int{found.code});
    }
  }
  CHECK(wrong.empty());
}

}  // namespace

TEST_CASE("level_table: one level is nearest to everything") {
  check_table({0.25F});
  check_table({unused, -3.0F, unused});
}

TEST_CASE("level_table: of two levels at one distance the lower") {
  const std::vector<float> levels{1.0F, -1.0F, 3.0F};
  level_table table;
  table.assign(levels);
  CHECK(table.nearest(0.0).value == -1.0F);
  CHECK(table.nearest(0.0).code == 1);
  CHECK(table.nearest(2.0).value == 1.0F);
  CHECK(table.nearest(std::nextafter(2.0, 3.0)).value == 3.0F);
  CHECK(table.nearest(0x1p-50).value == 1.0F);
}

TEST_CASE("level_table: every number of levels, in any order, with gaps and equal levels") {
  const std::uint64_t seed = 7;
  INFO("seed " << seed);
  for (index_t count = 1; count <= 256; ++count) {
    for (const unsigned spread : {4U, 1024U}) {  // with 4 most levels are equal
      std::vector<float> levels(count);
      for (index_t i = 0; i < count; ++i) {
        const std::uint64_t bits = random_bits(seed + count + spread, i);
        levels[i] = bits % 5 == 0 && i != count / 2
                        ? unused
                        : 0x1p-4F * static_cast<float>(static_cast<int>((bits >> 8U) % spread) -
                                                       static_cast<int>(spread / 2));
      }
      INFO(count << " levels of " << spread);
      check_table(levels);
    }
  }
}

TEST_CASE("level_table: a table can be assigned again, to fewer levels") {
  level_table table;
  table.assign(std::vector<float>{-2.0F, -1.0F, 0.0F, 1.0F});
  table.assign(std::vector<float>{5.0F, unused});
  CHECK(table.nearest(-2.0).value == 5.0F);
  CHECK(table.nearest(-2.0).code == 0);
}

TEST_CASE("level_table: values far apart and denormal ones") {
  const float tiny = std::numeric_limits<float>::denorm_min();
  level_table table;
  table.assign(std::vector<float>{-3e38F, -tiny, 0.0F, tiny, 3e38F});
  CHECK(table.nearest(0.4 * static_cast<double>(tiny)).value == 0.0F);
  CHECK(table.nearest(0.5 * static_cast<double>(tiny)).value == 0.0F);
  CHECK(table.nearest(0.6 * static_cast<double>(tiny)).value == tiny);
  CHECK(table.nearest(1e30).value == tiny);
  CHECK(table.nearest(2e38).value == 3e38F);
}
