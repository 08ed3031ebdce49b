// io/checksum.hpp: the checksum of stored bytes and its text. The only file that includes xxHash.
// Layer L4.
//
// XXH3 finds damage (a flipped bit, a cut or mixed-up file), at memory speed. It is no signature:
// whoever can write the file can write a fitting checksum.
#pragma once

#include <xxhash.h>

#include <charconv>
#include <span>
#include <string>
#include <string_view>

#include "lowbit/io/detail/text.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

namespace detail {
inline constexpr std::string_view checksum_algorithm = "xxh3-64";
inline constexpr index_t checksum_digits = 16;
}  // namespace detail

/// XXH3, 64 bits, seed 0.
[[nodiscard]] inline std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

/// "xxh3-64:" and 16 lower-case hexadecimal digits, the most significant first.
[[nodiscard]] inline std::string checksum_text(std::uint64_t value) {
  char digits[detail::checksum_digits];
  const char* const end = std::to_chars(digits, digits + sizeof digits, value, 16).ptr;
  const std::string_view significant(digits, static_cast<index_t>(end - digits));
  std::string out = std::string(detail::checksum_algorithm) + ":";
  out.append(sizeof digits - significant.size(), '0');
  return out.append(significant);
}

/// The value of such a text. Refuses (error_kind::format) anything else; `where` starts the
/// message.
[[nodiscard]] inline std::uint64_t parse_checksum(std::string_view text, std::string_view where) {
  const index_t colon = text.find(':');
  LOWBIT_CHECK(colon != std::string_view::npos, format, where, ": the checksum ",
               detail::in_quotes(text), " is not of the form ALGORITHM:DIGITS");
  LOWBIT_CHECK(text.substr(0, colon) == detail::checksum_algorithm, format, where,
               ": the checksum ", detail::in_quotes(text), " is of an unknown algorithm; known is ",
               detail::checksum_algorithm);
  const std::string_view digits = text.substr(colon + 1);
  std::uint64_t value = 0;
  const auto [end, failure] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  LOWBIT_CHECK(failure == std::errc() && checksum_text(value) == text, format, where,
               ": the checksum ", detail::in_quotes(text), " does not end in ",
               detail::checksum_digits, " lower-case hexadecimal digits");
  return value;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
