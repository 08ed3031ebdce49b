#include "token_classes.hpp"

#include <algorithm>
#include <regex>

#include "lowbit/core/error.hpp"

namespace whisper {

struct token_classes::patterns {
  std::vector<std::regex> all;
};

namespace {

std::string_view trim(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const std::size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

}  // namespace

token_classes::token_classes(std::string_view rules, const std::string& label)
    : patterns_(std::make_unique<patterns>()) {
  index_t number = 0;
  while (!rules.empty()) {
    const std::size_t end = std::min(rules.find('\n'), rules.size());
    const std::string_view line = trim(rules.substr(0, end));
    rules.remove_prefix(std::min(end + 1, rules.size()));
    number += 1;
    if (line.empty() || line.front() == '#') continue;
    const std::size_t colon = line.find(':');
    LOWBIT_CHECK(colon != std::string_view::npos && colon > 0, format, label, ", line ", number,
                 ": no rule of the form name: pattern");
    const std::string name(trim(line.substr(0, colon)));
    LOWBIT_CHECK(!name.empty() && std::find(names_.begin(), names_.end(), name) == names_.end(),
                 format, label, ", line ", number, ": the class '", name,
                 name.empty() ? "' has no name" : "' has a rule already");
    const std::string pattern(trim(line.substr(colon + 1)));
    try {
      patterns_->all.emplace_back(pattern, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& e) {
      LOWBIT_CHECK(false, format, label, ", line ", number, ": the pattern '", pattern,
                   "' is no regular expression: ", e.what());
    }
    names_.push_back(name);
  }
  LOWBIT_CHECK(!names_.empty(), format, label, ": there is no rule");
}

token_classes::~token_classes() = default;

index_t token_classes::class_of(std::string_view text) const {
  index_t i = 0;
  while (i < names_.size() && !std::regex_match(text.begin(), text.end(), patterns_->all[i])) ++i;
  return i;
}

}  // namespace whisper
