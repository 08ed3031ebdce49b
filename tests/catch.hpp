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

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOWBIT_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define LOWBIT_TEST_SANITIZED 1
#endif

namespace lowbit_test {

/// Whether the program runs tens of times slower, under a sanitizer. Then a test may leave out what
/// repeats the same code on more or larger inputs; without one it never may.
#if defined(LOWBIT_TEST_SANITIZED)
inline constexpr bool is_sanitized = true;
#else
inline constexpr bool is_sanitized = false;
#endif

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
