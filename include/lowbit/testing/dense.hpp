// testing/dense.hpp: does a variant of the dense fp64 kernel keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_dense_variant({"mine", cpu::avx2_core, my_functions}))
//
// The oracle is the scalar variant, which is the contract spelled with std::fma; that std::fma
// rounds once is checked beside it, on terms whose exact sum is known. Elements are compared bit by
// bit, so that -0 is not +0.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/dense/contract.hpp"
#include "lowbit/kernels/dense/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class dense_pattern : std::uint8_t { normal, wide, cancelling, denormal, huge, zeros };

inline constexpr std::string_view dense_pattern_names[] = {"normal",   "wide", "cancelling",
                                                           "denormal", "huge", "zeros"};

/// Element `index` of stream `seed`. No pattern makes a NaN of sums of products.
[[nodiscard]] inline double dense_value(dense_pattern pattern, std::uint64_t seed,
                                        std::uint64_t index) noexcept {
  const std::uint64_t bits = random_bits(seed, index);
  const bool negative = (bits & 1U) != 0;
  const double unit = 1.0 + static_cast<double>(bits >> 12U) * 0x1p-52;  // all 52 bits, in [1, 2)
  const auto with_sign = [&](double x) { return negative ? -x : x; };
  switch (pattern) {
    case dense_pattern::normal: return with_sign(unit - 0.5);
    case dense_pattern::wide:
      return with_sign(std::ldexp(unit, static_cast<int>(random_bits(~seed, index) % 120) - 60));
    case dense_pattern::cancelling: return with_sign(1.0 + (unit - 1.0) * 0x1p-20);
    case dense_pattern::denormal:  // products around the smallest normal number and below
      return with_sign(std::ldexp(unit, -500 - static_cast<int>(random_bits(~seed, index) % 45)));
    case dense_pattern::huge: return std::ldexp(unit, 509);  // sums reach infinity
    case dense_pattern::zeros: break;
  }
  return with_sign(bits >> 1U & 1U ? 0.0 : std::numeric_limits<double>::denorm_min());
}

[[nodiscard]] inline bool same_bits(double a, double b) noexcept {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

/// Where two arrays differ first, or nothing.
[[nodiscard]] inline std::string compare_bits(const std::vector<double>& found,
                                              const std::vector<double>& expected) {
  for (index_t i = 0; i < expected.size(); ++i) {
    if (same_bits(found[i], expected[i])) continue;
    return lowbit::detail::message("at ", i, ": ", found[i], " instead of ", expected[i], " (bits ",
                                   std::bit_cast<std::uint64_t>(found[i]), " and ",
                                   std::bit_cast<std::uint64_t>(expected[i]), ")");
  }
  return {};
}

struct dense_tile_case {
  dense_pattern pattern;
  index_t depth;
  index_t stride = kernels::dense_tile_cols;  ///< of C
  bool minus_zero = false;                    ///< C starts from -0
};

/// C lies between guards and at an odd element; what lies between its rows is a guard, too.
inline void check_dense_tile(findings& list, const dense_tile_case& c, std::uint64_t seed,
                             kernels::dense_tile_fn tile) {
  constexpr index_t rows = kernels::dense_tile_rows;
  constexpr index_t cols = kernels::dense_tile_cols;
  constexpr index_t guard = 17;
  // Panels of no terms exist, too: nothing may be added to a null pointer.
  aligned_buffer<double> a(rows * std::max<index_t>(c.depth, 1));
  aligned_buffer<double> b(cols * std::max<index_t>(c.depth, 1));
  for (index_t i = 0; i < a.size(); ++i) a[i] = dense_value(c.pattern, seed, i);
  for (index_t i = 0; i < b.size(); ++i) b[i] = dense_value(c.pattern, seed + 1, i);
  std::vector<double> expected(guard + (rows - 1) * c.stride + cols + guard);
  for (index_t i = 0; i < expected.size(); ++i) {
    expected[i] = c.minus_zero ? -0.0 : dense_value(c.pattern, seed + 2, i);
  }
  std::vector<double> found = expected;
  const aligned_buffer<double> a_before = a;
  const aligned_buffer<double> b_before = b;
  const auto run = [&](kernels::dense_tile_fn fn, std::vector<double>& out) {
    fn({.a = a.data(),
        .b = b.data(),
        .c = out.data() + guard,
        .c_stride = c.stride,
        .depth = c.depth});
  };
  run(&kernels::scalar::dense_tile, expected);
  run(tile, found);
  std::string wrong = compare_bits(found, expected);
  if (!std::equal(a.begin(), a.end(), a_before.begin(), same_bits) ||
      !std::equal(b.begin(), b.end(), b_before.begin(), same_bits)) {
    wrong += " changed its operands";
  }
  add(list,
      lowbit::detail::message("tile/", dense_pattern_names[static_cast<std::size_t>(c.pattern)],
                              "/depth_", c.depth, "/stride_", c.stride,
                              c.minus_zero ? "/from_minus_zero" : ""),
      wrong.empty(), wrong, "; seed ", seed);
}

inline void check_dense_axpy(findings& list, dense_pattern pattern, index_t count, index_t offset,
                             std::uint64_t seed, kernels::dense_axpy_fn axpy) {
  constexpr index_t guard = 9;
  std::vector<double> x(offset + count);  // ends with its allocation
  for (index_t i = 0; i < x.size(); ++i) x[i] = dense_value(pattern, seed, i);
  std::vector<double> expected(guard + offset + count + guard);
  for (index_t i = 0; i < expected.size(); ++i) expected[i] = dense_value(pattern, seed + 1, i);
  std::vector<double> found = expected;
  const std::vector<double> x_before = x;
  const double a = dense_value(pattern, seed + 2, 0);
  const auto run = [&](kernels::dense_axpy_fn fn, std::vector<double>& y) {
    fn(a, x.data() + offset, y.data() + guard + offset, count);
    fn(a, y.data() + guard + offset, y.data() + guard + offset, count);  // x and y the same
  };
  run(&kernels::scalar::dense_axpy, expected);
  run(axpy, found);
  std::string wrong = compare_bits(found, expected);
  if (!compare_bits(x, x_before).empty()) wrong += " changed x";
  add(list,
      lowbit::detail::message("axpy/", dense_pattern_names[static_cast<std::size_t>(pattern)],
                              "/count_", count, "/offset_", offset),
      wrong.empty(), wrong, "; seed ", seed);
}

/// (1 + 2^-30) * (1 - 2^-30) - 1 = -2^-60, which is 0 when the product is rounded first.
inline void check_dense_rounds_once(findings& list, const kernels::dense_functions& f) {
  constexpr index_t rows = kernels::dense_tile_rows;
  constexpr index_t cols = kernels::dense_tile_cols;
  aligned_buffer<double> a(rows);
  aligned_buffer<double> b(cols);
  constexpr index_t guard = 16;  // for variants that write too much: others of these checks see it
  std::vector<double> c(rows * cols + guard, -1.0);
  std::fill(a.begin(), a.end(), 1.0 + 0x1p-30);
  std::fill(b.begin(), b.end(), 1.0 - 0x1p-30);
  f.tile({.a = a.data(), .b = b.data(), .c = c.data(), .c_stride = cols, .depth = 1});
  std::vector<double> y(kernels::dense_axpy_step + guard, -1.0);
  f.axpy(a[0], b.data(), y.data(), kernels::dense_axpy_step);
  const auto right = [](double x) { return x == -0x1p-60; };
  add(list, "rounds_once",
      std::all_of(c.begin(), c.end() - guard, right) &&
          std::all_of(y.begin(), y.end() - guard, right),
      "the tile gives ", c[0], ", axpy ", y[0], " instead of -2^-60");
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_dense_variant(
    const kernels::variant<kernels::dense_functions>& v, std::uint64_t seed = 1) {
  using detail::dense_pattern;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  detail::check_dense_rounds_once(list, kernels::scalar::dense);
  detail::check_dense_rounds_once(list, v.run);
  constexpr index_t cols = kernels::dense_tile_cols;
  for (const dense_pattern pattern :
       {dense_pattern::normal, dense_pattern::wide, dense_pattern::cancelling,
        dense_pattern::denormal, dense_pattern::huge, dense_pattern::zeros}) {
    // Every depth of a short loop, and some around what blocking uses.
    for (index_t depth = 0; depth <= 36; ++depth) {
      detail::check_dense_tile(list, {pattern, depth, cols + depth % 3}, seed + list.size(),
                               v.run.tile);
    }
    for (const index_t depth : {63U, 64U, 65U, 191U, 192U, 193U, 1000U}) {
      for (const index_t gap : {0U, 1U, 8U, 1008U}) {
        detail::check_dense_tile(list, {pattern, depth, cols + gap}, seed + list.size(),
                                 v.run.tile);
      }
    }
    for (const index_t depth : {0U, 1U, 2U, 3U, 8U, 9U}) {
      detail::check_dense_tile(list, {pattern, depth, cols, true}, seed + list.size(), v.run.tile);
    }
    for (index_t count = 0; count <= 136; count += kernels::dense_axpy_step) {
      for (const index_t offset : {0U, 1U, 3U}) {
        detail::check_dense_axpy(list, pattern, count, offset, seed + list.size(), v.run.axpy);
      }
    }
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
