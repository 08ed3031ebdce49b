// token_classes.hpp: classes of tokens from a plain rule file, for reports.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace whisper {

using lowbit::index_t;

/// A rule file has one class on a line, `name: pattern`: an ECMAScript regular expression that must
/// match all bytes of a token's text; blanks around the name and right after the colon do not count
/// (write \x20 for one). Of several rules the first that matches counts. Special tokens have no
/// text. Empty lines and lines that begin with # say nothing.
class token_classes {
 public:
  /// Refuses (format) lines that are no rule, bad patterns, a name that comes twice and a file
  /// without rules; the message starts with `label` and the line's number.
  token_classes(std::string_view rules, const std::string& label);
  ~token_classes();
  token_classes(const token_classes&) = delete;
  token_classes& operator=(const token_classes&) = delete;

  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }
  /// Index of the class; names().size() for none.
  [[nodiscard]] index_t class_of(std::string_view text) const;

 private:
  struct patterns;

  std::vector<std::string> names_;
  std::unique_ptr<patterns> patterns_;
};

/// The rules that come with the program (token_classes.txt).
extern const std::string_view default_token_rules;

}  // namespace whisper
