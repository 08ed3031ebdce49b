// io/detail/json.hpp: JSON out of untrusted files. The only file that includes nlohmann-json.
// Layer L4, private.
//
// Invariants: no recursion on what a file nests; a duplicate key, a missing, unknown or mistyped
// field is refused, never guessed at; every message starts with the caller's `where` and is short.
#pragma once

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "lowbit/io/detail/text.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail {

using json = nlohmann::json;

/// Refuses text that no JSON can be: broken UTF-8, and NUL, at which nlohmann-json stops reading,
/// so that whatever follows would go unseen.
inline void check_json_text(std::string_view text, std::string_view where) {
  const index_t broken = find_invalid_utf8(text);
  LOWBIT_CHECK(broken == text.size(), format, where, " is not UTF-8 at byte ", broken);
  const index_t nul = text.find('\0');
  LOWBIT_CHECK(nul == std::string_view::npos, format, where, " holds a NUL at byte ", nul);
}

/// Refuses, quoting nlohmann-json's reason.
[[noreturn]] inline void fail_json(const std::exception& reason, std::string_view where) {
  constexpr index_t limit = 200;  // the reason quotes the last token, however long that is
  std::string_view text = reason.what();
  text.remove_prefix(text.find(' ') + 1);  // "[json.exception.parse_error.101] "
  lowbit::detail::fail(error_kind::format,
                       message(where, " is not JSON: ", in_quotes(text, limit)));
}

/// `text` as a JSON string, in quotes. It must be UTF-8.
[[nodiscard]] inline std::string json_string(const std::string& text) { return json(text).dump(); }

/// Finds duplicate keys and deep nesting while nlohmann-json builds a small document.
class document_guard {
 public:
  document_guard(index_t max_depth, std::string_view where)
      : max_depth_(max_depth), where_(where) {}

  bool operator()(int /*depth*/, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start: open(); break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end: keys_.pop_back(); break;
      case json::parse_event_t::key: add_key(value.get_ref<const std::string&>()); break;
      case json::parse_event_t::value: break;
    }
    return true;
  }

 private:
  void open() {
    LOWBIT_CHECK(keys_.size() < max_depth_, format, where_, " nests deeper than ", max_depth_,
                 " levels");
    keys_.emplace_back();
  }
  void add_key(const std::string& key) {
    LOWBIT_CHECK(keys_.back().insert(key).second, format, where_, " has the field ", in_quotes(key),
                 " twice");
  }

  index_t max_depth_;
  std::string_view where_;
  std::vector<std::set<std::string>> keys_;  // one set per open object or array
};

/// A small document out of a file, such as the record of one tensor.
[[nodiscard]] inline json parse_document(std::string_view text, std::string_view where) {
  // A record has hundreds of bytes; a document takes up to 30 times its text in memory.
  constexpr index_t max_bytes = index_t{1} << 16;
  constexpr index_t max_depth = 8;
  LOWBIT_CHECK(text.size() <= max_bytes, format, where, " has ", text.size(), " bytes, more than ",
               max_bytes);
  check_json_text(text, where);
  try {
    return json::parse(text.begin(), text.end(), document_guard(max_depth, where));
  } catch (const json::exception& reason) {
    fail_json(reason, where);
  }
}

/// A JSON object whose fields are all known: each is asked for by name, and then none may be left.
class strict_object {
 public:
  /// Views `value`, which must outlive this; refuses anything but an object.
  strict_object(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    LOWBIT_CHECK(value.is_object(), format, where_, " must be an object, but is ",
                 value.type_name());
  }

  /// The field `name`, which must exist.
  [[nodiscard]] const json& at(std::string_view name) {
    const auto found = value_.find(name);
    LOWBIT_CHECK(found != value_.end(), format, where_, ": field ", in_quotes(name), " is missing");
    asked_.emplace(name);
    return *found;
  }
  /// The same, which must also be a text, an integer of 63 bits and a sign, a number, an array.
  [[nodiscard]] const std::string& text(std::string_view name) {
    const json& field = at(name);
    check_type(field.is_string(), name, "a text", field);
    return field.get_ref<const std::string&>();
  }
  [[nodiscard]] std::int64_t integer(std::string_view name) {
    const json& field = at(name);
    check_type(field.is_number_integer(), name, "an integer", field);
    constexpr auto max = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    LOWBIT_CHECK(!field.is_number_unsigned() || field.get<std::uint64_t>() <= max, format, where_,
                 ": ", name, " = ", field.get<std::uint64_t>(), " exceeds 63 bits");
    return field.get<std::int64_t>();
  }
  [[nodiscard]] double real(std::string_view name) {
    const json& field = at(name);
    check_type(field.is_number(), name, "a number", field);
    return field.get<double>();
  }
  [[nodiscard]] const json& array(std::string_view name) {
    const json& field = at(name);
    check_type(field.is_array(), name, "an array", field);
    return field;
  }
  /// Refuses the object if it has a field that nobody asked for.
  void check_all_asked() const {
    for (const auto& [name, unused] : value_.items()) {
      LOWBIT_CHECK(asked_.find(name) != asked_.end(), format, where_, " has the unknown field ",
                   in_quotes(name));
    }
  }
  [[nodiscard]] const std::string& where() const noexcept { return where_; }

 private:
  void check_type(bool ok, std::string_view name, std::string_view expected,
                  const json& found) const {
    LOWBIT_CHECK(ok, format, where_, ": ", name, " must be ", expected, ", but is ",
                 in_quotes(found.dump()));
  }

  const json& value_;
  std::string where_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail
