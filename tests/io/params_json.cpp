#include "lowbit/io/params_json.hpp"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "toy_tensor.hpp"

namespace lowbit_test {
namespace {

using lowbit::io::params_from_json;
using lowbit::io::params_to_json;

struct wide_params {
  std::int64_t i64 = 0;
  std::uint8_t u8 = 0;
  float f32 = 0.0F;
  double f64 = 0.0;

  static void describe(wide_params& p, lowbit::params_visitor& visit) {
    using limits = std::numeric_limits<std::int64_t>;
    visit({"i64", ""}, p.i64, limits::min(), limits::max());
    visit({"u8", ""}, p.u8, std::uint8_t{0}, std::uint8_t{255});
    visit({"f32", ""}, p.f32, -3e38F, 3e38F);
    visit({"f64", ""}, p.f64, -std::numeric_limits<double>::infinity(), 1.7e308);
  }
  friend bool operator==(const wide_params&, const wide_params&) = default;
};

TEST_CASE("params are written in the order of describe, choices by name") {
  CHECK(params_to_json<toy_format>(toy_params{}) ==
        R"({"bits":8,"gain":1.0,"rounding":"nearest"})");
  CHECK(params_to_json<toy_format>(
            toy_params{.bits = 3, .gain = 0.1, .rounding = toy_rounding::down}) ==
        R"({"bits":3,"gain":0.1,"rounding":"down"})");
  CHECK(params_to_json<toy_quantizer>(toy_quantizer{}) ==
        R"({"bits":8,"gain":1.0,"rounding":"nearest"})");
}

TEST_CASE("numbers come back exactly") {
  using limits = std::numeric_limits<std::int64_t>;
  for (const std::int64_t i : {limits::min(), std::int64_t{-1}, std::int64_t{0}, limits::max()}) {
    for (const double d : {0.0, 1.0 / 3.0, 5e-324, 1.7e308, -0.1, 123456789.125}) {
      const wide_params p{.i64 = i, .u8 = 255, .f32 = 0.1F, .f64 = d};
      const std::string text = params_to_json<wide_params>(p);
      INFO(text);
      CHECK(params_from_json<wide_params, wide_params>(text, "t") == p);
    }
  }
  const auto negative_zero = params_to_json<wide_params>(wide_params{.f64 = -0.0});
  CHECK(std::signbit(params_from_json<wide_params, wide_params>(negative_zero, "t").f64));
}

TEST_CASE("the order of the fields and blanks do not matter, and reals may be integers") {
  const auto p = params_from_json<toy_format, toy_params>(
      R"( { "rounding" : "down", "gain": 2, "bits": 5 } )", "t");
  CHECK(p == toy_params{.bits = 5, .gain = 2.0, .rounding = toy_rounding::down});
}

TEST_CASE("params out of range are not written") {
  CHECK_THROWS_AS(params_to_json<toy_format>(toy_params{.bits = 9}), lowbit::value_error);
  CHECK_THROWS_AS(params_to_json<toy_format>(toy_params{.gain = 1e9}), lowbit::value_error);
  CHECK_THROWS_AS(params_to_json<toy_format>(toy_params{.rounding = static_cast<toy_rounding>(7)}),
                  lowbit::value_error);
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(message_of([&] { return params_to_json<wide_params>(wide_params{.f64 = -infinity}); }) ==
        "f64 = -inf cannot be written as JSON");
}

TEST_CASE("what is not exactly the described object is refused") {
  const auto message = [](std::string_view text) {
    return message_of<lowbit::format_error>(
        [&] { return params_from_json<toy_format, toy_params>(text, "where"); });
  };
  CHECK(message(R"({"bits":8,"gain":1})") == "where: field 'rounding' is missing");
  CHECK(message(R"({"bits":8,"gain":1,"rounding":"down","x":0})") ==
        "where has the unknown field 'x'");
  CHECK(message(R"({"bits":-1,"gain":1,"rounding":"down"})") == "where: bits = -1 is outside 1..8");
  CHECK(message(R"({"bits":8,"gain":-0.5,"rounding":"down"})") ==
        "where: gain = -0.5 is outside 0..1000");
  CHECK(message(R"({"bits":8,"gain":true,"rounding":"down"})") ==
        "where: gain must be a number, but is 'true'");
  CHECK(message(R"({"bits":8,"bits":8,"gain":1,"rounding":"down"})") ==
        "where has the field 'bits' twice");
  CHECK(message("[1]") == "where must be an object, but is array");
  CHECK(message("").starts_with("where is not JSON"));
}

}  // namespace
}  // namespace lowbit_test
