// request.hpp: which configuration each tensor gets: the one for all, changed by --set for some.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "configuration.hpp"

namespace quantize_model {

/// "a=1,b=2" -> {a: 1, b: 2}. Refuses (value) other text; the message begins with `what`.
[[nodiscard]] inline field_texts parse_fields(const std::string& list, const std::string& what) {
  field_texts fields;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    const std::string part = list.substr(at, end - at);
    const std::size_t equals = part.find('=');
    LOWBIT_CHECK(equals != std::string::npos && equals > 0, value, what, ": '", part,
                 "' is not name=value");
    fields[part.substr(0, equals)] = part.substr(equals + 1);
    at = end + 1;
  }
  return fields;
}

[[nodiscard]] inline std::regex parse_regex(const std::string& text, const std::string& what) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& e) {
    lowbit::detail::fail(lowbit::error_kind::value,
                         what + ": '" + text + "' is no regular expression: " + e.what());
  }
}

/// --set REGEX:name=value,...
struct override_rule {
  std::string text;  ///< as given
  std::regex names;
  field_texts fields;
};
/// The regex ends at the first colon that "name=" follows. Refuses (value) what is none.
[[nodiscard]] inline override_rule parse_override(const std::string& text) {
  const std::string what = "--set '" + text + "'";
  static const std::regex form("(.*?):([a-z_]+=.*)");
  std::smatch parts;
  LOWBIT_CHECK(std::regex_match(text, parts, form), value, what,
               " is not REGEX:name=value,name=value...");
  return {text, parse_regex(parts[1], what), parse_fields(parts[2], what)};
}

/// How to quantize a model.
struct request {
  std::string format;
  field_texts fields = {};
  std::vector<override_rule> overrides = {};  ///< later ones win
  /// Bits per weight of all tensors that no override names: each is quantized by one of the
  /// candidates, which change `fields`.
  std::optional<double> budget = {};
  std::vector<std::string> candidates = {};
};

/// A configuration, and how it came to differ from that of the request.
struct choice {
  std::shared_ptr<const configuration> how;
  field_texts changes = {};

  /// "bits=4,feedback=none"; empty for the configuration of the request.
  [[nodiscard]] std::string text() const {
    std::string out;
    for (const auto& [name, value] : changes) {
      out.append(out.empty() ? "" : ",").append(name).append("=").append(value);
    }
    return out;
  }
};

/// Makes the configurations of a request, each once.
class configurations {
 public:
  configurations(const format_entries& formats, const request& of) : formats_(formats), of_(of) {}

  /// The request's own, changed. `format` among the changes is the format's name; fields of the
  /// request's format then do not count. Refuses what configuration refuses; the message begins
  /// with `what`.
  [[nodiscard]] choice changed(const field_texts& changes, const std::string& what) {
    auto& how = made_[changes];
    if (how == nullptr) how = make(changes, what);
    return {how, changes};
  }

 private:
  [[nodiscard]] std::shared_ptr<const configuration> make(const field_texts& changes,
                                                          const std::string& what) const {
    std::string format = of_.format;
    field_texts fields = of_.fields;
    if (const auto other = changes.find("format"); other != changes.end()) {
      if (other->second != format) {
        const auto treated = list_fields(treatment{});
        std::erase_if(fields, [&](const auto& field) {
          return std::none_of(treated.begin(), treated.end(),
                              [&](const field_text& f) { return f.name == field.first; });
        });
      }
      format = other->second;
    }
    for (const auto& [name, value] : changes) {
      if (name != "format") fields[name] = value;
    }
    try {
      return std::make_shared<const configuration>(formats_, format, fields);
    } catch (const lowbit::error& e) {
      if (what.empty()) throw;
      lowbit::detail::fail(e.kind(), what + ": " + e.what());
    }
  }

  const format_entries& formats_;
  const request& of_;
  std::map<field_texts, std::shared_ptr<const configuration>> made_;
};

}  // namespace quantize_model
