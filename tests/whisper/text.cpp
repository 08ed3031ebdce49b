// Tokens and text.
#include "catch.hpp"
#include "lowbit/core/error.hpp"
#include "tokenizer.hpp"
#include "transcriber.hpp"

namespace {

using whisper::token;
using whisper::tokenizer;
using words = std::vector<std::string_view>;

TEST_CASE("text is split into words by GPT-2's pattern") {
  CHECK(tokenizer::split("").empty());
  CHECK(tokenizer::split("Call me Ishmael. It's 1851!") ==
        words{"Call", " me", " Ishmael", ".", " It", "'s", " 1851", "!"});
  CHECK(tokenizer::split("we'll they've 'd") == words{"we", "'ll", " they", "'ve", " '", "d"});
  CHECK(tokenizer::split("a  b") == words{"a", " ", " b"});
  CHECK(tokenizer::split("a\n\n b ") == words{"a", "\n\n", " b", " "});
  CHECK(tokenizer::split("a\tb") == words{"a", "\t", "b"});
  CHECK(tokenizer::split("  ") == words{"  "});
  CHECK(tokenizer::split("x--y...") == words{"x", "--", "y", "..."});
  CHECK(tokenizer::split("3rd") == words{"3", "rd"});
}

TEST_CASE("letters, numbers and white space are more than ASCII") {
  CHECK(tokenizer::split("caf\u00E9 \u0416\u0443\u043A\u03B1") ==
        words{"caf\u00E9", " \u0416\u0443\u043A\u03B1"});
  CHECK(tokenizer::split("x\u00B2\u00BD") == words{"x", "\u00B2\u00BD"});
  CHECK(tokenizer::split("\u201Ca\u201D \u2014") == words{"\u201C", "a", "\u201D", " \u2014"});
  CHECK(tokenizer::split("a\u00A0\u3000b") == words{"a", "\u00A0", "\u3000", "b"});
  CHECK(tokenizer::split("\u65E5\u672C\U0001F600") == words{"\u65E5\u672C", "\U0001F600"});
  // Bytes that are no UTF-8 are symbols, and none is lost.
  CHECK(tokenizer::split("a\xC3 \xFF\xFE!") == words{"a", "\xC3", " \xFF\xFE!"});
}

TEST_CASE("pairs are joined in the order of their tokens") {
  // "ab" (4) comes before "bc" (5); "abc" is never made of a + bc.
  const tokenizer t({"a", "b", "c", " ", "ab", "bc", "abc", "aa", "END"});
  CHECK(t.encode("abc") == std::vector<token>{6});
  CHECK(t.encode("bcab") == std::vector<token>{5, 4});
  CHECK(t.encode("aaa") == std::vector<token>{7, 0});  // of equal pairs the first
  CHECK(t.encode("aaaa abcb") == std::vector<token>{7, 7, 3, 6, 1});
  CHECK(t.encode("").empty());
  CHECK(t.text_of(6) == "abc");
  CHECK(t.text_of(8).empty());
  CHECK(t.text_of(100000).empty());
  CHECK(t.special().end_of_text == 8);
  CHECK(t.special().no_timestamps == 8 + 106);
  CHECK(lowbit_test::message_of<lowbit::value_error>([&] { return t.encode("abx"); }) ==
        "the byte 120 is no token of the vocabulary");
}

TEST_CASE("a long word takes n log n steps") {
  const tokenizer t({"a", "aa", "aaaa", "END"});
  const std::string text(1U << 18U, 'a');
  CHECK(t.encode(text) == std::vector<token>(1U << 16U, 2));
}

TEST_CASE("characters come whole") {
  whisper::utf8_stream s;
  CHECK(s.add("caf\xC3") == "caf");
  CHECK(s.add("\xA9!") == "\u00E9!");
  CHECK(s.add("\xE2\x82") == "");
  CHECK(s.add("x\xFFy") == "\uFFFDx\uFFFDy");
  CHECK(s.add("\xF0\x9F") == "");
  CHECK(s.finish() == "\uFFFD");
  CHECK(s.finish() == "");
}

TEST_CASE("a text that repeats itself is noticed") {
  const auto looping = [](std::vector<token> text) { return whisper::is_looping(text); };
  CHECK_FALSE(looping({}));
  CHECK_FALSE(looping(std::vector<token>(11, 7)));
  CHECK(looping(std::vector<token>(12, 7)));
  CHECK(looping({9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}));
  CHECK_FALSE(looping({9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 5}));
  CHECK_FALSE(looping({1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6}));  // twice may be meant
}

TEST_CASE("special tokens are not sampled") {
  const whisper::special_tokens special(5);
  std::vector<float> logits(5 + 1607, 0.0F);
  logits[special.no_timestamps] = 9.0F;
  logits[3] = 1.0F;
  CHECK(whisper::choose_greedily(logits, special) == 3);
  logits[special.end_of_text] = 2.0F;
  CHECK(whisper::choose_greedily(logits, special) == special.end_of_text);
}

}  // namespace
