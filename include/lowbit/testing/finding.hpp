// testing/finding.hpp: what the conformance checks return. Framework-neutral.
//
// A check never asserts: it returns one finding per property it looked at, passed or not, so that
// any test framework can report them and a suite that ran nothing is visible as an empty list.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/core/checked.hpp"
#include "lowbit/core/error.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// One property of the thing under test.
struct finding {
  std::string check;  ///< which property, in a stable snake_case name with its case, "a/b/c"
  bool passed;
  std::string detail;  ///< what was seen, with indices and values, if it failed
};

using findings = std::vector<finding>;

/// Whether there are findings and all passed: a list without a single check does not count.
[[nodiscard]] inline bool all_passed(const findings& list) {
  return !list.empty() &&
         std::all_of(list.begin(), list.end(), [](const finding& f) { return f.passed; });
}

/// The failed findings, a line each; "nothing was checked" for an empty list.
[[nodiscard]] inline std::string failures(const findings& list) {
  if (list.empty()) return "nothing was checked";
  std::string text;
  for (const finding& f : list) {
    if (!f.passed) text.append(f.check).append(": ").append(f.detail).append("\n");
  }
  return text;
}

namespace detail {

/// Adds a finding; `parts` (texts and numbers) are joined only when it failed.
template <class... Parts>
void add(findings& list, std::string check, bool passed, const Parts&... parts) {
  list.push_back(
      {std::move(check), passed, passed ? std::string{} : lowbit::detail::message(parts...)});
}

/// Adds the finding that `f` refuses with an error of this kind. Without exceptions a refusal
/// cannot be observed from inside the process, so nothing is added.
template <class F>
void add_refusal([[maybe_unused]] findings& list, [[maybe_unused]] std::string check,
                 [[maybe_unused]] error_kind kind, [[maybe_unused]] F&& f) {
#if LOWBIT_EXCEPTIONS
  try {
    f();
    add(list, std::move(check), false, "was accepted");
  } catch (const error& e) {
    add(list, std::move(check), e.kind() == kind, "refused with the wrong kind: ", e.what());
  }
#endif
}

/// Where two arrays differ first, bit by bit, or nothing. `found` has as many elements.
[[nodiscard]] inline std::string compare_float_bits(const std::vector<float>& found,
                                                    const std::vector<float>& expected) {
  for (index_t i = 0; i < expected.size(); ++i) {
    const auto a = std::bit_cast<std::uint32_t>(found[i]);
    const auto b = std::bit_cast<std::uint32_t>(expected[i]);
    if (a == b) continue;
    return lowbit::detail::message("at ", i, " of ", expected.size(), ": ", found[i],
                                   " instead of ", expected[i], " (bits ", a, " and ", b, ")");
  }
  return {};
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
