// UTF-8, names and how untrusted text is shown.
#include "lowbit/io/detail/text.hpp"

#include "catch.hpp"
#include "files.hpp"

namespace lowbit_test {
namespace {

using lowbit::io::detail::check_name;
using lowbit::io::detail::code_point_length;
using lowbit::io::detail::find_invalid_utf8;
using lowbit::io::detail::in_quotes;

/// The code point as UTF-8, without any check: surrogates and more than U+10FFFF encode too.
std::string encoded(std::uint32_t code) {
  const auto tail = [code](unsigned shift) {
    return static_cast<char>(0x80U | ((code >> shift) & 0x3fU));
  };
  if (code < 0x80U) return {static_cast<char>(code)};
  if (code < 0x800U) return {static_cast<char>(0xc0U | (code >> 6U)), tail(0)};
  if (code < 0x10000U) return {static_cast<char>(0xe0U | (code >> 12U)), tail(6), tail(0)};
  return {static_cast<char>(0xf0U | (code >> 18U)), tail(12), tail(6), tail(0)};
}

TEST_CASE("every code point is UTF-8, and no surrogate and nothing beyond U+10FFFF") {
  std::size_t wrong = 0;
  for (std::uint32_t code = 0; code < 0x120000U; ++code) {
    const std::string text = encoded(code);
    const bool legal = code < 0xd800U || (code > 0xdfffU && code <= 0x10ffffU);
    wrong += (code_point_length(text) == text.size()) != legal ? 1U : 0U;
  }
  CHECK(wrong == 0);
}

TEST_CASE("what is not UTF-8 is found at its first byte") {
  CHECK(find_invalid_utf8("") == 0);
  CHECK(find_invalid_utf8("h\xc3\xa9llo \xf0\x9f\x98\x80") == 11);
  for (const std::string bad : {"\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xe0\x9f\xbf",
                                "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                                "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3("}) {
    INFO(in_quotes(bad));
    CHECK(find_invalid_utf8("ab" + bad) == 2);
  }
}

TEST_CASE("quoted text is short and printable") {
  CHECK(in_quotes("decoder.0") == "'decoder.0'");
  CHECK(in_quotes("h\xc3\xa9") == "'h\xc3\xa9'");
  CHECK(in_quotes(std::string_view("\0\x1b\x7f", 3)) == R"('\x00\x1b\x7f')");
  CHECK(in_quotes("\xc2\x9b") == R"('\xc2\x9b')");
  CHECK(in_quotes("a\xff") == R"('a\xff')");
  CHECK(in_quotes(std::string(96, 'x')) == "'" + std::string(96, 'x') + "'");
  CHECK(in_quotes(std::string(97, 'x')) == "'" + std::string(96, 'x') + "...' (97 bytes)");
}

TEST_CASE("names") {
  CHECK_NOTHROW(check_name("model.layers.0/weight:0 \xe2\x82\xac", "f"));
  CHECK_NOTHROW(check_name(std::string(4096, 'n'), "f"));
  CHECK_THROWS_AS(check_name("", "f"), lowbit::format_error);
  CHECK_THROWS_AS(check_name(std::string(4097, 'n'), "f"), lowbit::format_error);
  CHECK_THROWS_AS(check_name("a\tb", "f"), lowbit::format_error);
  CHECK_THROWS_AS(check_name("\xc2\x80", "f"), lowbit::format_error);
  CHECK_THROWS_AS(check_name("\xe2\x82", "f"), lowbit::format_error);
  CHECK(message_of([] { check_name("ab\x7f", "some.file"); }) ==
        R"(some.file: tensor 'ab\x7f': the name holds a control character at byte 2)");
}

}  // namespace
}  // namespace lowbit_test
