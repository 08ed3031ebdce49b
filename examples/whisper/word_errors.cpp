#include "word_errors.hpp"

#include <algorithm>
#include <cstdint>

namespace whisper {

namespace {

constexpr std::string_view small_numbers[] = {
    "zero",     "one",     "two",     "three",     "four",     "five",    "six",
    "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
constexpr std::string_view tens[] = {"",      "",      "twenty",  "thirty", "forty",
                                     "fifty", "sixty", "seventy", "eighty", "ninety"};

using words = std::vector<std::string>;

/// 1 to 999.
void spell_hundreds(std::uint32_t value, words& out) {
  if (value >= 100) {
    out.emplace_back(small_numbers[value / 100]);
    out.emplace_back("hundred");
    value %= 100;
  }
  if (value >= 20) {
    out.emplace_back(tens[value / 10]);
    value %= 10;
  }
  if (value > 0) out.emplace_back(small_numbers[value]);
}

void spell(std::string_view digits, words& out) {
  constexpr std::size_t longest = 9;
  const bool is_code = digits.size() > longest || (digits.size() > 1 && digits[0] == '0');
  if (is_code || digits == "0") {
    for (const char d : digits) out.emplace_back(small_numbers[d - '0']);
    return;
  }
  std::uint32_t value = 0;
  for (const char d : digits) value = 10 * value + static_cast<std::uint32_t>(d - '0');
  constexpr std::uint32_t thousand = 1000;
  constexpr std::uint32_t million = 1'000'000;
  if (value >= million) {
    spell_hundreds(value / million, out);
    out.emplace_back("million");
  }
  if (value % million >= thousand) {
    spell_hundreds(value % million / thousand, out);
    out.emplace_back("thousand");
  }
  spell_hundreds(value % thousand, out);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_letter(char c) {
  return is_upper(c) || (c >= 'a' && c <= 'z') || static_cast<unsigned char>(c) >= 0x80;
}

std::string_view name_of_sign(char c) {
  switch (c) {
    case '#': return "pound";
    case '*': return "star";
    case '&': return "and";
    case '@': return "at";
    case '%': return "percent";
    default: return {};
  }
}

/// Bytes of U+2000 to U+203F at the start of a text: dashes, quotes, dots and special blanks.
bool is_typographical(std::string_view text) {
  return text.size() >= 3 && text.starts_with("\xE2\x80");
}

/// Makes one word of letters that follow each other.
words join_letters(words all) {
  words out;
  bool is_after_letter = false;
  for (std::string& word : all) {
    const bool is_one_letter = word.size() == 1;
    if (is_one_letter && is_after_letter) {
      out.back() += word;
    } else {
      out.push_back(std::move(word));
    }
    is_after_letter = is_one_letter;
  }
  return out;
}

}  // namespace

std::vector<std::string> normalized_words(std::string_view text) {
  constexpr std::string_view right_quote = "\xE2\x80\x99";  // U+2019, an apostrophe
  words out;
  std::string letters, digits;
  const auto end_word = [&] {
    if (!digits.empty()) spell(digits, out);
    if (!letters.empty()) out.push_back(letters);
    digits.clear();
    letters.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view rest = text.substr(i);
    if (c == '\'') continue;
    if (is_typographical(rest)) {
      if (!rest.starts_with(right_quote)) end_word();
      i += right_quote.size() - 1;
    } else if (is_digit(c)) {
      if (!letters.empty()) end_word();
      digits += c;
    } else if (is_letter(c)) {
      if (!digits.empty()) end_word();
      letters += is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (c == ',' && !digits.empty() && rest.size() > 1 && is_digit(rest[1])) {
      continue;  // between thousands
    } else {
      end_word();
      if (const auto name = name_of_sign(c); !name.empty()) out.emplace_back(name);
    }
  }
  end_word();
  return join_letters(std::move(out));
}

word_errors count_word_errors(std::span<const std::string> reference,
                              std::span<const std::string> heard) {
  // Levenshtein's distance, a row at a time: least[j] is that of the references so far to the first
  // j words heard.
  std::vector<index_t> least(heard.size() + 1);
  for (index_t j = 0; j < least.size(); ++j) least[j] = j;
  for (index_t i = 0; i < reference.size(); ++i) {
    index_t diagonal = least[0];
    least[0] = i + 1;
    for (index_t j = 0; j < heard.size(); ++j) {
      const index_t replaced = diagonal + (reference[i] == heard[j] ? 0 : 1);
      diagonal = least[j + 1];
      least[j + 1] = std::min({replaced, least[j + 1] + 1, least[j] + 1});
    }
  }
  return {.words = reference.size(), .errors = least.back()};
}

}  // namespace whisper
