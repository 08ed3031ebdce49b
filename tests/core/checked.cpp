#include "lowbit/core/checked.hpp"

#include <cstdint>
#include <limits>
#include <string>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {
constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
}

TEST_CASE("checked_mul and checked_add: exact up to the last bit, refused past it") {
  CHECK(checked_mul(0, largest, "x") == 0);
  CHECK(checked_mul(1, largest, "x") == largest);
  CHECK(checked_mul(std::uint64_t{1} << 32U, (std::uint64_t{1} << 32U) - 1, "x") ==
        largest - ((std::uint64_t{1} << 32U) - 1));
  CHECK(checked_mul(3, largest / 3, "x") == largest);
  CHECK(message_of<shape_error>([] { (void)checked_mul(3, largest / 3 + 1, "tensor 'w'"); }) ==
        "tensor 'w': 3 * 6148914691236517206 overflows 64 bits");
  CHECK_THROWS_AS(checked_mul(largest, largest, "x"), shape_error);

  CHECK(checked_add(largest - 1, 1, "x") == largest);
  CHECK(message_of<shape_error>([] { (void)checked_add(largest, 1, "offset"); }) ==
        "offset: 18446744073709551615 + 1 overflows 64 bits");
}

TEST_CASE("div_up: rounds up and never overflows") {
  static_assert(div_up(0, 5) == 0);
  static_assert(div_up(1, 5) == 1);
  static_assert(div_up(5, 5) == 1);
  static_assert(div_up(6, 5) == 2);
  static_assert(div_up(largest, 1) == largest);
  static_assert(div_up(largest, largest) == 1);
  static_assert(div_up(largest, 2) == (largest >> 1U) + 1);
  for (index_t a = 0; a < 200; ++a) {
    for (index_t b = 1; b < 20; ++b) {
      const index_t q = div_up(a, b);
      CHECK((q * b >= a && (q == 0 || (q - 1) * b < a)));
    }
  }
}
