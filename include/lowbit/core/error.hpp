// core/error.hpp: how lowbit refuses bad input. Layer L1.
//
// Invariants:
//  * Every check of the library goes through LOWBIT_CHECK, at the public boundary; kernels are
//    noexcept and check nothing.
//  * A message names the thing and the offending value.
//  * Built without exceptions, a failed check calls a handler that the program sets; if the handler
//    returns, or none is set, the program aborts.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>

#include "lowbit/config.hpp"

#if LOWBIT_EXCEPTIONS
#include <stdexcept>
#else
#include <atomic>
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// What kind of thing went wrong.
enum class error_kind {
  shape,      ///< sizes of views, tensors or groups that do not fit together
  value,      ///< a number or an option outside its range, or NaN/Inf where none may be
  format,     ///< the content of a file or buffer is not what its format promises
  system,     ///< the operating system refused (open, read, write, rename)
  cancelled,  ///< the caller's progress callback asked to stop
};

#if LOWBIT_EXCEPTIONS
/// The base of everything that lowbit throws.
class error : public std::runtime_error {
 public:
  error(error_kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] error_kind kind() const noexcept { return kind_; }

 private:
  error_kind kind_;
};

/// error with its kind in the type, so that it can be caught alone.
template <error_kind Kind>
class error_of : public error {
 public:
  explicit error_of(const std::string& message) : error(Kind, message) {}
};

using shape_error = error_of<error_kind::shape>;
using value_error = error_of<error_kind::value>;
using format_error = error_of<error_kind::format>;
using system_error = error_of<error_kind::system>;
using cancelled_error = error_of<error_kind::cancelled>;
#else
/// Receives a failed check in builds without exceptions. It must not return.
using error_handler = void (*)(error_kind kind, const char* message);

namespace detail {
inline std::atomic<error_handler> current_error_handler{nullptr};
}  // namespace detail

/// Sets the handler and returns the one before. Thread-safe.
inline error_handler set_error_handler(error_handler handler) noexcept {
  return detail::current_error_handler.exchange(handler);
}
#endif

namespace detail {

inline void append(std::string& out, std::string_view text) { out.append(text); }
inline void append(std::string& out, char c) { out.push_back(c); }

template <class T>
concept number = std::integral<T> || std::floating_point<T>;

template <number Number>
void append(std::string& out, Number value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  out.append(text, end);
}

/// Joins texts and numbers into one message.
template <class... Parts>
[[nodiscard]] std::string message(const Parts&... parts) {
  std::string out;
  (append(out, parts), ...);
  return out;
}

[[noreturn]] inline void fail(error_kind kind, const std::string& text) {
#if LOWBIT_EXCEPTIONS
  switch (kind) {
    case error_kind::shape: throw shape_error(text);
    case error_kind::value: throw value_error(text);
    case error_kind::format: throw format_error(text);
    case error_kind::system: throw system_error(text);
    case error_kind::cancelled: throw cancelled_error(text);
  }
#else
  if (const auto handler = current_error_handler.load()) handler(kind, text.c_str());
#endif
  std::abort();
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE

/// Refuses with an error of `kind` (a name of error_kind) unless `condition` holds. The further
/// arguments are texts and numbers that are joined into the message, only on failure.
#define LOWBIT_CHECK(condition, kind, ...)                                                        \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      ::lowbit::detail::fail(::lowbit::error_kind::kind, ::lowbit::detail::message(__VA_ARGS__)); \
  } while (false)
