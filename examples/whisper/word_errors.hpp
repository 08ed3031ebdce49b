// word_errors.hpp: words of a transcript as they are compared, and how many are wrong.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace whisper {

using lowbit::index_t;

/// The words of a text, so that two spellings of the same speech agree:
/// * ASCII letters become lower case; other letters stay as they are;
/// * apostrophes go ("I'm" is "im"); # * & @ % become "pound", "star", "and", "at", "percent";
///   every other sign, blanks and typographical signs (U+2000 to U+203F) end a word;
/// * digits and letters are words of their own ("3rd" is "three", "rd"); a number of at most 9
///   digits is spelled out as it is read ("1,204" is "one thousand two hundred four"), a longer one
///   or one that begins with 0 digit by digit;
/// * letters one by one are one word ("N B S" is "nbs").
[[nodiscard]] std::vector<std::string> normalized_words(std::string_view text);

struct word_errors {
  index_t words = 0;   ///< of the reference
  index_t errors = 0;  ///< words replaced, left out and put in: the least number that explains it
};

[[nodiscard]] word_errors count_word_errors(std::span<const std::string> reference,
                                            std::span<const std::string> heard);

}  // namespace whisper
