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
  /// candidates, which change `fields`; none: candidates_near().
  std::optional<double> budget = {};
  std::vector<std::string> candidates = {};
};

/// Candidates for a budget, where none are given: sizes of the format from it on. Empty for a
/// format that does not say what sets its size.
[[nodiscard]] inline std::vector<std::string> candidates_near(const format_entry& format,
                                                              double bits_per_weight) {
  std::vector<std::string> list;
  for (const field_text& f : default_fields(format)) {
    if (f.name != format.size_field) continue;
    const auto add = [&](auto size) {
      if (size > 0) list.push_back(lowbit::detail::message(f.name, "=", size));
    };
    if (f.is_integer) {
      // From the largest that fits on, with a tenth of a bit for its scales. Smaller ones look
      // cheap on paper only: what several layers lose adds up to more than the sum
      // (docs/quality.md).
      const auto fits = static_cast<int>(std::max(bits_per_weight - 0.1, 0.0));
      for (int size = fits; size <= fits + 3; ++size) add(size);
    } else {
      for (const double step : {-0.5, -0.25, 0.0, 0.25, 0.5}) add(bits_per_weight + step);
    }
  }
  return list;
}

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

/// `fields`, changed by `changes`. Where these name another format, fields of a quantizer that were
/// there mean nothing any more.
inline void change(field_texts& fields, const field_texts& changes) {
  if (changes.contains("format")) {
    const auto treated = list_fields(treatment{});
    std::erase_if(fields, [&](const auto& field) {
      return std::none_of(treated.begin(), treated.end(),
                          [&](const field_text& f) { return f.name == field.first; });
    });
  }
  for (const auto& [name, value] : changes) fields[name] = value;
}

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
    field_texts fields = of_.fields;
    change(fields, changes);
    std::string format = of_.format;
    if (const auto other = fields.find("format"); other != fields.end()) {
      format = other->second;
      fields.erase(other);
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
