// tests/catch.hpp: Catch2 for the tests, version 2 (Debian 12) or 3 (newer distributions).
//
// Write what both versions spell alike: TEST_CASE, TEMPLATE_TEST_CASE, SECTION, REQUIRE*, CHECK*,
// INFO, CAPTURE and GENERATE. Matchers differ: compare message_of() instead. For floats write the
// bound and where it comes from, not Approx.
#pragma once

#include <stdexcept>
#include <string>

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

namespace lowbit_test {

/// The what() of the Exception that `run` throws; fails the test if it throws nothing.
template <class Exception = std::exception, class Run>
std::string message_of(Run&& run) {
  try {
    run();
  } catch (const Exception& e) {
    return e.what();
  }
  FAIL("nothing was thrown");
  return {};
}

}  // namespace lowbit_test
