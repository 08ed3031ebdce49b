// core/checked.hpp: the index type and size arithmetic that refuses to overflow. Layer L1.
//
// Sizes that come from a file or a caller are multiplied and added only through these functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "lowbit/core/error.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// Rows, columns, strides and counts. Unsigned: sizes are never negative.
using index_t = std::size_t;

/// a * b, or an error that names `what`.
[[nodiscard]] inline std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b,
                                               std::string_view what) {
  std::uint64_t product = 0;
  LOWBIT_CHECK(!__builtin_mul_overflow(a, b, &product), shape, what, ": ", a, " * ", b,
               " overflows 64 bits");
  return product;
}

/// a + b, or an error that names `what`.
[[nodiscard]] inline std::uint64_t checked_add(std::uint64_t a, std::uint64_t b,
                                               std::string_view what) {
  std::uint64_t sum = 0;
  LOWBIT_CHECK(!__builtin_add_overflow(a, b, &sum), shape, what, ": ", a, " + ", b,
               " overflows 64 bits");
  return sum;
}

/// ceil(a / b) for b > 0, without overflow.
[[nodiscard]] constexpr index_t div_up(index_t a, index_t b) noexcept {
  return a / b + (a % b != 0 ? 1U : 0U);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
