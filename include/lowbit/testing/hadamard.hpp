// testing/hadamard.hpp: does a variant of the Hadamard kernels keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_hadamard_variant({"mine", cpu::avx2_core, my_functions}))
//
// The oracle is the scalar variant. Outputs are compared bit by bit, so that -0 is not +0, with
// guards around them and between their blocks.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/kernels/hadamard/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class hadamard_pattern : std::uint8_t { normal, wide, zeros };

inline constexpr std::string_view hadamard_pattern_names[] = {"normal", "wide", "zeros"};

/// Element `index` of stream `seed`. No pattern makes a NaN or an infinity of sums.
[[nodiscard]] inline float hadamard_value(hadamard_pattern pattern, std::uint64_t seed,
                                          std::uint64_t index) noexcept {
  const std::uint64_t bits = random_bits(seed, index);
  const float unit = 1.0F + static_cast<float>(bits >> 41U) * 0x1p-23F;  // all 23 bits, in [1, 2)
  const float magnitude = [&] {
    switch (pattern) {
      case hadamard_pattern::normal: return unit - 0.5F;
      // From denormal numbers to large ones, mostly near each other: most sums round.
      case hadamard_pattern::wide:
        return std::ldexp(unit, static_cast<int>(random_bits(~seed, index / 32) % 200) - 140 +
                                    static_cast<int>(bits >> 1U & 15U));
      case hadamard_pattern::zeros: break;
    }
    return (bits >> 1U & 3U) != 0 ? 0.0F : std::numeric_limits<float>::denorm_min();
  }();
  return (bits & 1U) != 0 ? -magnitude : magnitude;
}

inline constexpr index_t hadamard_guard = 19;  // odd: nothing is aligned to more than a float

[[nodiscard]] inline std::vector<float> hadamard_values(hadamard_pattern pattern,
                                                        std::uint64_t seed, index_t count) {
  std::vector<float> values(hadamard_guard + count + hadamard_guard);
  for (index_t i = 0; i < values.size(); ++i) values[i] = hadamard_value(pattern, seed, i);
  return values;
}

/// Which of the optional signs there are.
enum class hadamard_signs : std::uint8_t { none, before, after, both };

/// Words of signs that end with their allocation, or none.
[[nodiscard]] inline std::vector<std::uint64_t> hadamard_sign_words(bool wanted, index_t count,
                                                                    std::uint64_t seed) {
  std::vector<std::uint64_t> words(wanted ? div_up(count, 64) : 0);
  for (index_t w = 0; w < words.size(); ++w) words[w] = random_bits(seed, w);
  return words;
}

struct hadamard_blocks_case {
  hadamard_pattern pattern = hadamard_pattern::normal;
  unsigned log2_size = 0;
  index_t count = 1;
  index_t gap = 0;  ///< between blocks of y
  hadamard_signs signs = hadamard_signs::none;
  bool in_place = false;
  float scale = 0.7F;
};

inline void check_hadamard_blocks(findings& list, const hadamard_blocks_case& c, std::uint64_t seed,
                                  kernels::hadamard_blocks_fn blocks) {
  const index_t size = index_t{1} << c.log2_size;
  const index_t stride = size + c.gap;
  const auto before = hadamard_sign_words(
      c.signs == hadamard_signs::before || c.signs == hadamard_signs::both, size * c.count, seed);
  const auto after =
      hadamard_sign_words(c.signs == hadamard_signs::after || c.signs == hadamard_signs::both,
                          size * c.count, seed + 1);
  const auto x = hadamard_values(c.pattern, seed + 2, size * c.count);
  auto expected = c.in_place ? x : hadamard_values(c.pattern, seed + 3, stride * c.count);
  auto found = expected;
  auto x_found = x;
  const auto run = [&](kernels::hadamard_blocks_fn fn, const std::vector<float>& in,
                       std::vector<float>& out) {
    fn({.x = (c.in_place ? out : in).data() + hadamard_guard,
        .y = out.data() + hadamard_guard,
        .y_stride = stride,
        .count = c.count,
        .log2_size = c.log2_size,
        .signs_before = before.empty() ? nullptr : before.data(),
        .signs_after = after.empty() ? nullptr : after.data(),
        .scale = c.scale});
  };
  run(&kernels::scalar::hadamard_blocks, x, expected);
  run(blocks, x_found, found);
  std::string wrong = compare_float_bits(found, expected);
  if (!compare_float_bits(x_found, x).empty()) wrong += " changed x";
  add(list,
      lowbit::detail::message("blocks/",
                              hadamard_pattern_names[static_cast<std::size_t>(c.pattern)], "/size_",
                              size, "/count_", c.count, "/gap_", c.gap, "/signs_",
                              static_cast<unsigned>(c.signs), c.in_place ? "/in_place" : ""),
      wrong.empty(), wrong, "; seed ", seed);
}

struct hadamard_mix_case {
  hadamard_pattern pattern = hadamard_pattern::normal;
  index_t order = 4;
  index_t width = 1;
  index_t gap = 0;  ///< between rows of x
  bool signs_after = false;
};

inline void check_hadamard_mix(findings& list, const hadamard_mix_case& c, std::uint64_t seed,
                               kernels::hadamard_mix_fn mix) {
  const index_t stride = c.width + c.gap;
  const index_t words = div_up(c.order, 64);
  std::vector<std::uint64_t> matrix(c.order * words);
  for (index_t i = 0; i < matrix.size(); ++i) matrix[i] = random_bits(seed, i);
  for (index_t j = 0; j < c.order && c.order % 64 != 0; ++j) {
    matrix[j * words + words - 1] &= (std::uint64_t{1} << (c.order % 64)) - 1U;
  }
  const auto signs = hadamard_sign_words(c.signs_after, c.order * c.width, seed + 1);
  // x ends with its allocation.
  auto x = hadamard_values(c.pattern, seed + 2, (c.order - 1) * stride + c.width);
  x.resize(x.size() - hadamard_guard);
  auto x_found = x;
  auto expected = hadamard_values(c.pattern, seed + 3, c.order * c.width);
  auto found = expected;
  const auto run = [&](kernels::hadamard_mix_fn fn, const std::vector<float>& in,
                       std::vector<float>& out) {
    fn({.x = in.data() + hadamard_guard,
        .y = out.data() + hadamard_guard,
        .x_stride = stride,
        .order = c.order,
        .width = c.width,
        .matrix = matrix.data(),
        .words = words,
        .signs_after = signs.empty() ? nullptr : signs.data(),
        .scale = 0.3F});
  };
  run(&kernels::scalar::hadamard_mix, x, expected);
  run(mix, x_found, found);
  std::string wrong = compare_float_bits(found, expected);
  if (!compare_float_bits(x_found, x).empty()) wrong += " changed x";
  add(list,
      lowbit::detail::message("mix/", hadamard_pattern_names[static_cast<std::size_t>(c.pattern)],
                              "/order_", c.order, "/width_", c.width, "/gap_", c.gap,
                              c.signs_after ? "/signs" : ""),
      wrong.empty(), wrong, "; seed ", seed);
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_hadamard_variant(
    const kernels::variant<kernels::hadamard_functions>& v, std::uint64_t seed = 1) {
  using detail::hadamard_pattern;
  using detail::hadamard_signs;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  constexpr hadamard_signs all_signs[] = {hadamard_signs::none, hadamard_signs::before,
                                          hadamard_signs::after, hadamard_signs::both};
  for (const auto pattern :
       {hadamard_pattern::normal, hadamard_pattern::wide, hadamard_pattern::zeros}) {
    // Every size that a pass over memory more or less may change, and two above.
    for (unsigned log2_size = 0; log2_size <= 15; ++log2_size) {
      for (const hadamard_signs signs : all_signs) {
        if (log2_size > 12 && (pattern != hadamard_pattern::normal || signs == all_signs[0])) {
          continue;
        }
        const index_t count = log2_size > 12 ? 1 : 1 + list.size() % 3;
        detail::check_hadamard_blocks(
            list, {pattern, log2_size, count, log2_size < 4 ? 0 : list.size() % 5 * 4, signs},
            seed + list.size(), v.run.blocks);
        detail::check_hadamard_blocks(list, {pattern, log2_size, count, 0, signs, true},
                                      seed + list.size(), v.run.blocks);
      }
    }
    // Blocks that are narrower than a register, in any number.
    for (unsigned log2_size = 0; log2_size <= 4; ++log2_size) {
      for (index_t count = 1; count <= 40; ++count) {
        detail::check_hadamard_blocks(
            list, {pattern, log2_size, count, 0, all_signs[count % 4], count % 3 == 0},
            seed + list.size(), v.run.blocks);
      }
    }
    for (index_t order = 4; order <= 136; order += order < 40 ? 4 : 12) {
      for (index_t width = 1; width <= 128; width *= 2) {
        detail::check_hadamard_mix(
            list, {pattern, order, width, list.size() % 3 * 8, list.size() % 2 == 0},
            seed + list.size(), v.run.mix);
      }
    }
  }
  detail::check_hadamard_mix(list, {hadamard_pattern::normal, 260, 32, 0, true}, seed, v.run.mix);
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
