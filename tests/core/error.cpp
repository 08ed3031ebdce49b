#include "lowbit/core/error.hpp"

#include <cstdint>
#include <limits>
#include <string>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

TEST_CASE("error: every kind has its type, and all are lowbit::error") {
  const auto kind_of = [](auto&& run) {
    try {
      run();
    } catch (const error& e) {
      return e.kind();
    }
    throw std::logic_error("nothing was thrown");
  };
  CHECK(kind_of([] { LOWBIT_CHECK(false, shape, ""); }) == error_kind::shape);
  CHECK(kind_of([] { LOWBIT_CHECK(false, value, ""); }) == error_kind::value);
  CHECK(kind_of([] { LOWBIT_CHECK(false, format, ""); }) == error_kind::format);
  CHECK(kind_of([] { LOWBIT_CHECK(false, system, ""); }) == error_kind::system);
  CHECK(kind_of([] { LOWBIT_CHECK(false, cancelled, ""); }) == error_kind::cancelled);

  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, shape, ""); }(), shape_error);
  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, value, ""); }(), value_error);
  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, format, ""); }(), format_error);
  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, system, ""); }(), system_error);
  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, cancelled, ""); }(), cancelled_error);
  CHECK_THROWS_AS([] { LOWBIT_CHECK(false, value, ""); }(), std::runtime_error);
}

TEST_CASE("error: messages join texts and numbers, numbers in their shortest exact form") {
  const auto message = [](const auto&... parts) {
    return message_of<value_error>([&] { LOWBIT_CHECK(false, value, parts...); });
  };
  CHECK(message("row ", 7, ", column ", std::uint64_t{18446744073709551615U}) ==
        "row 7, column 18446744073709551615");
  CHECK(message(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
  CHECK(message(0.1) == "0.1");
  CHECK(message(0.1F) == "0.1");
  CHECK(message(-0.0F) == "-0");
  CHECK(message(1e300) == "1e+300");
  CHECK(message(std::numeric_limits<double>::denorm_min()) == "5e-324");
  CHECK(message(-std::numeric_limits<double>::max()) == "-1.7976931348623157e+308");
  CHECK(message(std::numeric_limits<float>::infinity()) == "inf");
  CHECK(message(std::numeric_limits<float>::quiet_NaN()) == "nan");
  CHECK(message('c', std::string("s"), std::string_view("v")) == "csv");
  CHECK(message(std::uint8_t{65}, std::int8_t{-1}) == "65-1");  // numbers, not characters
}

TEST_CASE("LOWBIT_CHECK: one statement, evaluated once, its message only on failure") {
  int evaluated = 0;
  int joined = 0;
  const auto part = [&] { return ++joined; };
  if (evaluated == 0)
    LOWBIT_CHECK(++evaluated > 0, value, "part ", part());
  else
    FAIL("the macro must be one statement");
  CHECK(evaluated == 1);
  CHECK(joined == 0);
  CHECK_THROWS_AS([&] { LOWBIT_CHECK(++evaluated < 0, value, "part ", part()); }(), value_error);
  CHECK(evaluated == 2);
  CHECK(joined == 1);
}
