// testing/sparse.hpp: does a variant of the sparse kernel keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_sparse_variant({"mine", cpu::avx2_core, my_functions}))
//
// The oracle is the scalar variant, which is the contract spelled with std::fma; sums are compared
// bit by bit, so that -0 is not +0.
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
#include "lowbit/kernels/sparse/contract.hpp"
#include "lowbit/kernels/sparse/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class sparse_pattern : std::uint8_t { normal, wide, cancelling, denormal, special, padding };

inline constexpr std::string_view sparse_pattern_names[] = {"normal",   "wide",    "cancelling",
                                                            "denormal", "special", "padding"};

struct sparse_case {
  sparse_pattern pattern;
  index_t depth;
  index_t columns;
};

/// Input number `index`. Under `special` there are infinities and -0, but no NaN comes of them that
/// could have two payloads: values of these cases are positive.
[[nodiscard]] inline float sparse_input(sparse_pattern pattern, std::uint64_t seed,
                                        std::uint64_t index) noexcept {
  const float normal = random_normal(seed, index);
  const auto draw = static_cast<int>(random_bits(~seed, index) % 40);
  switch (pattern) {
    case sparse_pattern::wide: return std::ldexp(normal, 3 * (draw - 20));
    case sparse_pattern::cancelling: return draw % 2 == 0 ? 1.0F + 0x1p-20F * normal : -1.0F;
    case sparse_pattern::denormal: return std::ldexp(normal, -120 - draw);
    case sparse_pattern::special:
      if (draw == 0) return std::numeric_limits<float>::infinity();
      return draw == 1 ? -0.0F : normal;
    default: return normal;
  }
}

/// Bits of value number `index`: any finite fp16, subnormals and both zeros included.
[[nodiscard]] inline float16 sparse_value(sparse_pattern pattern, std::uint64_t seed,
                                          std::uint64_t index) noexcept {
  auto bits = static_cast<std::uint16_t>(random_bits(seed, index));
  switch (pattern) {
    case sparse_pattern::padding: return from_float<float16>(-0.0F);
    case sparse_pattern::cancelling: return from_float<float16>(1.0F);
    case sparse_pattern::special: bits &= 0x7fffU; break;
    case sparse_pattern::normal: return from_float<float16>(random_normal(seed, index));
    default: break;
  }
  if ((bits & 0x7c00U) == 0x7c00U) bits &= 0xbfffU;  // no Inf, no NaN
  return {bits};
}

/// Operands of one slice, inside larger arrays whose other elements must not matter.
class sparse_operands {
 public:
  sparse_operands(const sparse_case& c, std::uint64_t seed)
      : steps_(c.depth + 1),
        one_(c.columns + kernels::sparse_slack),
        many_(c.columns * kernels::sparse_tokens) {
    for (index_t t = 0; t < c.depth; ++t) {
      for (index_t lane = 0; lane < kernels::sparse_lanes; ++lane) {
        const index_t i = t * kernels::sparse_lanes + lane;
        // Columns of a lane increase in products, but nothing in a step depends on it.
        steps_[t].columns[lane] = static_cast<std::uint16_t>(random_bits(seed, i) % c.columns);
        steps_[t].values[lane] = sparse_value(c.pattern, seed + 1, i);
      }
    }
    // The step behind the last one: used, it shows.
    for (index_t lane = 0; lane < kernels::sparse_lanes; ++lane) {
      steps_[c.depth].values[lane] = from_float<float16>(1000.0F);
    }
    // What no step names is NaN.
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    std::fill(one_.begin(), one_.end(), nan);
    std::fill(many_.begin(), many_.end(), nan);
    const bool ones = c.pattern == sparse_pattern::padding;
    for (index_t t = 0; t < c.depth; ++t) {
      for (const std::uint16_t k : steps_[t].columns) {
        one_[k] = ones ? 1.0F : sparse_input(c.pattern, seed + 2, k);
        for (index_t i = 0; i < kernels::sparse_tokens; ++i) {
          const index_t at = k * kernels::sparse_tokens + i;
          many_[at] = ones ? 1.0F : i == 0 ? one_[k] : sparse_input(c.pattern, seed + 3, at);
        }
      }
    }
  }

  [[nodiscard]] const kernels::sparse_step* steps() const noexcept { return steps_.data(); }
  [[nodiscard]] const float* one() const noexcept { return one_.data(); }
  [[nodiscard]] const float* many() const noexcept { return many_.data(); }

 private:
  aligned_buffer<kernels::sparse_step> steps_;
  aligned_buffer<float> one_;  // ends with the slack: a sanitizer sees what reads on
  aligned_buffer<float> many_;
};

/// Where two arrays differ first, or nothing.
[[nodiscard]] inline std::string compare_sums(const aligned_buffer<float>& found,
                                              const aligned_buffer<float>& expected) {
  for (index_t i = 0; i < expected.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(found[i]) == std::bit_cast<std::uint32_t>(expected[i])) {
      continue;
    }
    return lowbit::detail::message("sum ", i, " is ", found[i], " instead of ", expected[i],
                                   " (bits ", std::bit_cast<std::uint32_t>(found[i]), " and ",
                                   std::bit_cast<std::uint32_t>(expected[i]), ")");
  }
  return {};
}

/// Sums start from all kinds of numbers, with guards behind them. What they start from under
/// `special` is finite, so that no Inf - Inf arises.
[[nodiscard]] inline aligned_buffer<float> first_sums(index_t count, sparse_pattern pattern,
                                                      std::uint64_t seed) {
  constexpr index_t guard = 16;
  aligned_buffer<float> sums(count + guard);
  for (index_t i = 0; i < sums.size(); ++i) {
    sums[i] = i % 5 == 1 ? -0.0F : i % 5 == 2 ? 0.0F : random_normal(seed, i);
    if (pattern == sparse_pattern::padding && i % 5 == 3) {
      sums[i] = std::numeric_limits<float>::infinity();
    }
  }
  return sums;
}

inline void check_sparse_case(findings& list, const sparse_case& c, std::uint64_t seed,
                              const kernels::sparse_functions& f) {
  constexpr index_t lanes = kernels::sparse_lanes;
  constexpr index_t tokens = kernels::sparse_tokens;
  const sparse_operands operands(c, seed);
  const auto name = [&](std::string_view function) {
    return lowbit::detail::message(function, "/",
                                   sparse_pattern_names[static_cast<std::size_t>(c.pattern)],
                                   "/depth_", c.depth, "/columns_", c.columns);
  };
  const aligned_buffer<float> first = first_sums(lanes, c.pattern, seed + 4);
  const auto run_vector = [&](kernels::sparse_vector_fn run, index_t prefetch) {
    aligned_buffer<float> sums = first;
    run({.steps = operands.steps(),
         .depth = c.depth,
         .x = operands.one(),
         .sums = sums.data(),
         .prefetch_bytes = prefetch});
    return sums;
  };
  const auto expected = run_vector(&kernels::scalar::sparse_vector, 0);
  std::string wrong = compare_sums(run_vector(f.vector, 2048), expected);
  add(list, name("vector"), wrong.empty(), wrong, "; seed ", seed);

  aligned_buffer<float> block = first_sums(lanes * tokens, c.pattern, seed + 5);
  for (index_t lane = 0; lane < lanes; ++lane) block[lane * tokens] = first[lane];
  aligned_buffer<float> expected_block = block;
  const auto run_block = [&](kernels::sparse_block_fn run, aligned_buffer<float>& sums) {
    run({.steps = operands.steps(), .depth = c.depth, .x = operands.many(), .sums = sums.data()});
  };
  run_block(&kernels::scalar::sparse_block, expected_block);
  run_block(f.block, block);
  wrong = compare_sums(block, expected_block);
  add(list, name("block"), wrong.empty(), wrong, "; seed ", seed);
  // Token 0 of the block is the one of the vector.
  bool same = true;
  for (index_t lane = 0; lane < lanes; ++lane) {
    same &= std::bit_cast<std::uint32_t>(block[lane * tokens]) ==
            std::bit_cast<std::uint32_t>(expected[lane]);
  }
  add(list, name("block_is_vector"), same, "the first token of a block has other sums");
  if (c.pattern == sparse_pattern::padding) {
    wrong = compare_sums(run_vector(f.vector, 0), first);
    add(list, name("padding_changes_nothing"), wrong.empty(), wrong);
  }
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_sparse_variant(
    const kernels::variant<kernels::sparse_functions>& v, std::uint64_t seed = 1) {
  using detail::sparse_pattern;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  for (const sparse_pattern pattern :
       {sparse_pattern::normal, sparse_pattern::wide, sparse_pattern::cancelling,
        sparse_pattern::denormal, sparse_pattern::special, sparse_pattern::padding}) {
    for (const index_t depth : {0U, 1U, 2U, 3U, 4U, 7U, 8U, 9U, 33U}) {
      for (const index_t columns : {1U, 37U, 65536U}) {
        if (columns == 65536U && (depth != 9U || pattern != sparse_pattern::wide)) continue;
        detail::check_sparse_case(list, {pattern, depth, columns}, seed + list.size(), v.run);
      }
    }
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
