// format_options.hpp: turns the fields that a quantizer describes into command-line options and
// back.
//
// Nothing here names a format or a field: a new format brings its own options along.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/quantizer.hpp"

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

/// Sets the fields that `texts` names; the others keep their values.
class field_setter final : public lowbit::params_visitor {
 public:
  explicit field_setter(const field_texts& texts) : texts_(texts) {}

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
    const char* const end = text->data() + text->size();
    const auto [stop, failure] = std::from_chars(text->data(), end, value);
    LOWBIT_CHECK(failure == std::errc{} && stop == end, value, f.name, " = '", *text,
                 "' is not a number");
  }

  const field_texts& texts_;
  std::vector<std::string> seen_;
};

/// A quantizer with the given fields set. Refuses unknown fields and values (value).
template <lowbit::quantizer Q>
[[nodiscard]] Q make_quantizer(const field_texts& texts) {
  Q q;
  field_setter setter(texts);
  Q::describe(q, setter);
  setter.check_all_used(lowbit::format_of<Q>::name);
  return q;
}

/// The fields of a quantizer with their values.
template <lowbit::quantizer Q>
[[nodiscard]] std::vector<field_text> list_fields(Q q) {
  field_lister lister;
  Q::describe(q, lister);
  return lister.fields();
}

/// "uniform: bits=4, group_size=64, ...": for titles, reports and provenance.
template <lowbit::quantizer Q>
[[nodiscard]] std::string describe_quantizer(const Q& q) {
  std::string text(lowbit::format_of<Q>::name);
  std::string_view separator = ": ";
  for (const field_text& f : list_fields(q)) {
    text.append(separator).append(f.name).append("=").append(f.value);
    separator = ", ";
  }
  return text;
}

/// Adds one option per field ("--group-size" for group_size) that writes its text to `texts`.
template <lowbit::quantizer Q>
void add_field_options(CLI::App& app, field_texts& texts) {
  const std::string group =
      lowbit::detail::message("Parameters of format ", lowbit::format_of<Q>::name);
  for (const field_text& f : list_fields(Q{})) {
    std::string option = "--" + f.name;
    std::replace(option.begin(), option.end(), '_', '-');
    app.add_option_function<std::string>(
           option, [&texts, name = f.name](const std::string& text) { texts[name] = text; },
           f.help + " (" + f.values + ", default " + f.value + ")")
        ->group(group);
  }
}

}  // namespace quantize_model
