// fields.hpp: the fields that something describes (core/params.hpp), as texts and from texts.
//
// Nothing here names a format or a field: a new format brings its own options along.
#pragma once

#include <algorithm>
#include <charconv>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/params.hpp"

namespace quantize_model {

/// Field name -> value as text, as given on the command line.
using field_texts = std::map<std::string, std::string>;

[[nodiscard]] inline std::string join(std::span<const std::string_view> parts,
                                      std::string_view separator) {
  std::string out;
  for (const std::string_view part : parts) {
    out.append(out.empty() ? "" : separator).append(part);
  }
  return out;
}

/// A field as a person reads it.
struct field_text {
  std::string name;
  std::string values;  ///< "1..8" or "symmetric|asymmetric"
  std::string value;   ///< the present value
  std::string help;
};

/// Lists the fields of a quantizer with their present values.
class field_lister final : public lowbit::params_visitor {
 public:
  [[nodiscard]] const std::vector<field_text>& fields() const { return fields_; }

  void integer(lowbit::field f, std::int64_t& value, std::int64_t min, std::int64_t max) override {
    add(f, lowbit::detail::message(min, "..", max), lowbit::detail::message(value));
  }
  void real(lowbit::field f, double& value, double min, double max) override {
    add(f, lowbit::detail::message(min, "..", max), lowbit::detail::message(value));
  }
  void choice(lowbit::field f, std::size_t& index,
              std::span<const std::string_view> names) override {
    add(f, join(names, "|"), std::string(names[index]));
  }

 private:
  void add(lowbit::field f, std::string values, std::string value) {
    fields_.push_back(
        {std::string(f.name), std::move(values), std::move(value), std::string(f.help)});
  }

  std::vector<field_text> fields_;
};

/// Sets the fields that `texts` names; the others keep their values. A number may end in %, and
/// "a = b=1" is another way to write "a_b = 1", "a = b:1" one to write "a = b, a_extra = 1".
class field_setter final : public lowbit::params_visitor {
 public:
  explicit field_setter(const field_texts& texts) {
    for (const auto& [name, text] : texts) {
      const auto equals = text.find('=');
      const auto colon = text.find(':');
      if (equals != std::string::npos) {
        texts_[name + "_" + text.substr(0, equals)] = text.substr(equals + 1);
      } else if (colon != std::string::npos) {
        texts_[name] = text.substr(0, colon);
        texts_[name + "_extra"] = text.substr(colon + 1);
      } else {
        texts_[name] = text;
      }
    }
  }

  void integer(lowbit::field f, std::int64_t& value, std::int64_t, std::int64_t) override {
    parse_number(f, value);
  }
  void real(lowbit::field f, double& value, double, double) override { parse_number(f, value); }
  void choice(lowbit::field f, std::size_t& index,
              std::span<const std::string_view> names) override {
    const std::string* const text = find(f);
    if (text == nullptr) return;
    const auto found = std::find(names.begin(), names.end(), *text);
    LOWBIT_CHECK(found != names.end(), value, f.name, " = '", *text, "' is none of ",
                 join(names, ", "));
    index = static_cast<std::size_t>(found - names.begin());
  }

  /// Refuses a text whose field the quantizer does not have.
  void check_all_used(std::string_view format) const {
    for (const auto& [name, text] : texts_) {
      const bool known = std::find(seen_.begin(), seen_.end(), name) != seen_.end();
      std::vector<std::string_view> names(seen_.begin(), seen_.end());
      LOWBIT_CHECK(known, value, "format '", format, "' has no parameter '", name,
                   "'; it has: ", join(names, ", "));
    }
  }

 private:
  const std::string* find(lowbit::field f) {
    seen_.emplace_back(f.name);
    const auto at = texts_.find(seen_.back());
    return at == texts_.end() ? nullptr : &at->second;
  }
  template <class Number>
  void parse_number(lowbit::field f, Number& value) {
    const std::string* const text = find(f);
    if (text == nullptr) return;
    const bool percent = std::is_same_v<Number, double> && !text->empty() && text->back() == '%';
    const char* const end = text->data() + text->size() - (percent ? 1 : 0);
    const auto [stop, failure] = std::from_chars(text->data(), end, value);
    LOWBIT_CHECK(failure == std::errc{} && stop == end, value, f.name, " = '", *text,
                 "' is not a number");
    if (percent) value /= static_cast<Number>(100);
  }

  field_texts texts_;
  std::vector<std::string> seen_;
};

/// The fields of anything that describes itself, with their values.
template <class Described>
[[nodiscard]] std::vector<field_text> list_fields(Described d) {
  field_lister lister;
  Described::describe(d, lister);
  return lister.fields();
}

}  // namespace quantize_model
