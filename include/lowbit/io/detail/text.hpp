// io/detail/text.hpp: text that came from a file: is it UTF-8, may it be a name, and how to show it
// in a message. Layer L4, private.
//
// Invariants: nothing here trusts its input; what in_quotes() returns is short, valid UTF-8 and
// free of control characters, so that a message never carries a terminal escape out of a malformed
// file.
#pragma once

#include <string>
#include <string_view>

#include "lowbit/core/checked.hpp"

#if !LOWBIT_EXCEPTIONS
#error "lowbit/io needs exceptions: refusals cross nlohmann-json, which reports through callbacks"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail {

static_assert(sizeof(index_t) == 8, "io maps files of any size: it needs 64-bit addresses");

using lowbit::detail::message;

/// The length in bytes of the code point that `text` starts with; 0 where `text` is empty or does
/// not start with well-formed UTF-8 (RFC 3629: no overlong form, no surrogate, at most U+10FFFF).
[[nodiscard]] constexpr index_t code_point_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const auto byte = [text](index_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;  // 0 continues nothing
  };
  const unsigned lead = byte(0);
  if (lead < 0x80U) return 1;
  if (lead < 0xc2U || lead > 0xf4U) return 0;
  const index_t length = lead < 0xe0U ? 2 : lead < 0xf0U ? 3 : 4;
  // Only the second byte has a narrower range than 80..bf, and only after these leads.
  const unsigned low = lead == 0xe0U ? 0xa0U : lead == 0xf0U ? 0x90U : 0x80U;
  const unsigned high = lead == 0xedU ? 0x9fU : lead == 0xf4U ? 0x8fU : 0xbfU;
  if (byte(1) < low || byte(1) > high) return 0;
  for (index_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80U) return 0;
  }
  return length;
}

/// The offset of the first byte that is not UTF-8; text.size() if there is none.
[[nodiscard]] constexpr index_t find_invalid_utf8(std::string_view text) noexcept {
  index_t at = 0;
  while (at < text.size()) {
    const index_t length = code_point_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

/// Whether the code point is one of C0, DEL or C1 (U+0080 to U+009F).
[[nodiscard]] constexpr bool is_control(std::string_view code_point) noexcept {
  const auto lead = static_cast<unsigned char>(code_point[0]);
  if (lead < 0x20U || lead == 0x7fU) return true;
  return lead == 0xc2U && static_cast<unsigned char>(code_point[1]) < 0xa0U;
}

/// Appends one byte as \xNN.
inline void append_escaped(std::string& out, char byte) {
  constexpr std::string_view digits = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(byte);
  out += "\\x";
  out += digits[value >> 4U];
  out += digits[value & 15U];
}

/// `text` in quotes, for a message (not `quoted`: std has one, which overload resolution would take
/// for std::string): control characters and broken UTF-8 are escaped, and what is
/// longer than `limit` bytes is cut.
[[nodiscard]] inline std::string in_quotes(std::string_view text, index_t limit = 96) {
  std::string out = "'";
  for (index_t at = 0; at < text.size();) {
    if (at >= limit) {
      lowbit::detail::append(out, "...' (");
      lowbit::detail::append(out, text.size());
      return out + " bytes)";
    }
    const index_t length = code_point_length(text.substr(at));
    if (length == 0 || is_control(text.substr(at, length))) {
      append_escaped(out, text[at]);
      ++at;
      continue;
    }
    out += text.substr(at, length);
    at += length;
  }
  return out + "'";
}

/// Bytes that the name of a stored tensor may have.
inline constexpr index_t max_name_bytes = 4096;

/// Refuses with error_kind::format a name that no stored tensor may have: empty, too long, not
/// UTF-8, or with control characters. `where` starts the message.
inline void check_name(std::string_view name, std::string_view where) {
  LOWBIT_CHECK(!name.empty(), format, where, ": a tensor has an empty name");
  LOWBIT_CHECK(name.size() <= max_name_bytes, format, where, ": tensor ", in_quotes(name),
               ": the name has ", name.size(), " bytes, more than ", max_name_bytes);
  for (index_t at = 0; at < name.size();) {
    const index_t length = code_point_length(name.substr(at));
    LOWBIT_CHECK(length != 0, format, where, ": tensor ", in_quotes(name),
                 ": the name is not UTF-8 at byte ", at);
    LOWBIT_CHECK(!is_control(name.substr(at, length)), format, where, ": tensor ", in_quotes(name),
                 ": the name holds a control character at byte ", at);
    at += length;
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail
