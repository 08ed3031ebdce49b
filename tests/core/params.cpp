#include "lowbit/core/params.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {

enum class flavour : std::uint8_t { sweet, sour, salty };
}  // namespace

template <>
inline constexpr std::string_view lowbit::enum_names<flavour>[] = {"sweet", "sour", "salty"};

namespace {

struct recipe {
  unsigned bits = 4;
  std::int32_t bias = 0;
  std::uint64_t group_size = 64;
  float ratio = 0.5F;
  double percentile = 99.9;
  flavour taste = flavour::sour;

  static void describe(recipe& p, params_visitor& v) {
    v({"bits", "bits per weight"}, p.bits, 1U, 8U);
    v({"bias", "added"}, p.bias, -5, 5);
    v({"group_size", "columns per group"}, p.group_size, std::uint64_t{0}, std::uint64_t{1} << 40U);
    v({"ratio", "part"}, p.ratio, 0.0F, 1.0F);
    v({"percentile", "of magnitudes"}, p.percentile, 50.0, 100.0);
    v({"taste", "flavour"}, p.taste);
  }
};

/// The new value of the field of this name.
struct edit {
  std::string name;
  std::int64_t integer = 0;
  double real = 0;
  std::size_t choice = 0;
};

/// Notes what it is shown, and makes one edit.
struct editor final : params_visitor {
  edit change;
  std::vector<std::string> seen;

  explicit editor(edit e = {}) : change(std::move(e)) {}
  void integer(field f, std::int64_t& value, std::int64_t min, std::int64_t max) override {
    seen.push_back(std::string(f.name) + " " + std::to_string(value) + " in " +
                   std::to_string(min) + ".." + std::to_string(max));
    if (f.name == change.name) value = change.integer;
  }
  void real(field f, double& value, double, double) override {
    seen.push_back(std::string(f.name));
    if (f.name == change.name) value = change.real;
  }
  void choice(field f, std::size_t& index, std::span<const std::string_view> names) override {
    seen.push_back(std::string(f.name) + " " + std::string(names[index]) + " of " +
                   std::to_string(names.size()));
    if (f.name == change.name) index = change.choice;
  }
};

}  // namespace

TEST_CASE("params: a visitor sees every field in order, with its range") {
  recipe p{.bits = 3, .bias = -2};
  editor e;
  recipe::describe(p, e);
  CHECK(e.seen == std::vector<std::string>{"bits 3 in 1..8", "bias -2 in -5..5",
                                           "group_size 64 in 0..1099511627776", "ratio",
                                           "percentile", "taste sour of 3"});
}

TEST_CASE("params: a visitor replaces values, within their range only") {
  const auto edited = [](const edit& change) {
    recipe p;
    editor e(change);
    recipe::describe(p, e);
    return p;
  };
  CHECK(edited({.name = "bits", .integer = 8}).bits == 8);
  CHECK(edited({.name = "bias", .integer = -5}).bias == -5);
  CHECK(edited({.name = "ratio", .real = 0.25}).ratio == 0.25F);
  CHECK(edited({.name = "taste", .choice = 2}).taste == flavour::salty);
  const auto refusal = [&](const edit& change) {
    return message_of<value_error>([&] { (void)edited(change); });
  };
  CHECK(refusal({.name = "bits", .integer = 9}) == "bits = 9 is outside 1..8");
  CHECK(refusal({.name = "bits", .integer = -1}) == "bits = -1 is outside 1..8");
  CHECK(refusal({.name = "bias", .integer = std::int64_t{1} << 32U}) ==
        "bias = 4294967296 is outside -5..5");
  CHECK(refusal({.name = "ratio", .real = 1.5}) == "ratio = 1.5 is outside 0..1");
  CHECK(refusal({.name = "percentile", .real = std::numeric_limits<double>::quiet_NaN()}) ==
        "percentile = nan is outside 50..100");
  CHECK(refusal({.name = "taste", .choice = 3}) == "taste has no choice number 3");
}

TEST_CASE("check_params: accepts the ends of each range, names what is outside") {
  CHECK_NOTHROW(check_params<recipe>(recipe{}));
  CHECK_NOTHROW(check_params<recipe>(recipe{.bits = 1, .bias = 5, .ratio = 1.0F}));
  CHECK_NOTHROW(check_params<recipe>(recipe{.bits = 8, .bias = -5, .ratio = -0.0F}));
  const auto refusal = [](const recipe& p) {
    return message_of<value_error>([&] { check_params<recipe>(p); });
  };
  CHECK(refusal({.bits = 0}) == "bits = 0 is outside 1..8");
  CHECK(refusal({.bits = 4000000000U}) == "bits = 4000000000 is outside 1..8");
  CHECK(refusal({.bias = 6}) == "bias = 6 is outside -5..5");
  CHECK(refusal({.group_size = ~std::uint64_t{0}}).find("group_size = ") == 0);
  CHECK(refusal({.ratio = std::numeric_limits<float>::infinity()}) ==
        "ratio = inf is outside 0..1");
  CHECK(refusal({.taste = static_cast<flavour>(9)}) == "taste has no choice number 9");
}
