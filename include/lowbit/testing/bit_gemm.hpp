// testing/bit_gemm.hpp: does a variant of the planes x planes kernel keep its contract?
// Framework-neutral: a downstream kernel is checked with
//   all_passed(check_bit_gemm_variant({"mine", cpu::avx2_core, &my_tile}))
//
// The oracle decodes every code bit by bit and multiplies integers; it shares no code with any
// variant. Each case also runs the scalar variant, so that the two references watch each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/kernels/bit_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class bit_pattern : std::uint8_t { random, ones, zeros };

struct bit_gemm_case {
  unsigned weight_planes;
  unsigned activation_planes;
  index_t words;
  index_t tokens = 1;
  index_t gap = 0;  ///< words between the planes of one token and those of the next
  bit_pattern pattern = bit_pattern::random;
  index_t plane_gap =
      0;  ///< words between one plane of the run and the next: a cut of a longer run

  [[nodiscard]] std::string name() const {
    constexpr std::string_view patterns[] = {"random", "ones", "zeros"};
    return lowbit::detail::message("w", weight_planes, "a", activation_planes, "/words_", words,
                                   "/tokens_", tokens, "/gap_", gap, "/plane_gap_", plane_gap, "/",
                                   patterns[static_cast<std::size_t>(pattern)]);
  }
};

/// The operands of one call, with traps: activations start at an odd word and end with their
/// allocation, gaps between tokens and planes are all ones, the output is surrounded by guards,
/// filled with garbage, and not aligned to more than its type.
class bit_gemm_trial {
 public:
  bit_gemm_trial(const bit_gemm_case& c, std::uint64_t seed)
      : case_(c),
        weights_(span(c.weight_planes) * rows),
        activations_(1 + (c.tokens - 1) * stride() + span(c.activation_planes), all_ones) {
    std::uint64_t drawn = 0;
    const auto next = [&]() noexcept -> std::uint64_t {
      switch (c.pattern) {
        case bit_pattern::random: return random_bits(seed, drawn++);
        case bit_pattern::ones: return all_ones;
        case bit_pattern::zeros: break;
      }
      return 0;
    };
    std::fill(weights_.begin(), weights_.end(), all_ones);
    for (unsigned i = 0; i < c.weight_planes; ++i) {
      for (index_t w = 0; w < c.words; ++w) {
        for (index_t r = 0; r < rows; ++r) weight(i, w, r) = next();
      }
    }
    for (index_t t = 0; t < c.tokens; ++t) {
      for (index_t w = 0; w < c.activation_planes * c.words; ++w) activation(t, w) = next();
    }
  }

  [[nodiscard]] std::uint64_t& weight(unsigned plane, index_t word, index_t row) noexcept {
    return weights_[(plane * plane_words() + word) * rows + row];
  }
  /// Word `word` of the planes of one token, plane after plane.
  [[nodiscard]] std::uint64_t& activation(index_t token, index_t word) noexcept {
    return activations_[1 + token * stride() + word / case_.words * plane_words() +
                        word % case_.words];
  }

  /// The product of the integers that the planes spell, bit by bit.
  [[nodiscard]] std::vector<std::int64_t> oracle() {
    const index_t cols = case_.words * 64;
    std::vector<std::int64_t> u(rows * cols);
    std::vector<std::int64_t> v(case_.tokens * cols);
    for (index_t k = 0; k < cols; ++k) {
      for (index_t r = 0; r < rows; ++r) {
        for (unsigned i = 0; i < case_.weight_planes; ++i) {
          if ((weight(i, k / 64, r) >> (k % 64) & 1U) != 0) u[r * cols + k] += 1 << i;
        }
      }
      for (index_t t = 0; t < case_.tokens; ++t) {
        for (unsigned j = 0; j < case_.activation_planes; ++j) {
          const std::uint64_t word = activation(t, j * case_.words + k / 64);
          if ((word >> (k % 64) & 1U) != 0) v[t * cols + k] += 1 << j;
        }
      }
    }
    std::vector<std::int64_t> sums(case_.tokens * rows);
    for (index_t t = 0; t < case_.tokens; ++t) {
      for (index_t r = 0; r < rows; ++r) {
        for (index_t k = 0; k < cols; ++k) sums[t * rows + r] += u[r * cols + k] * v[t * cols + k];
      }
    }
    return sums;
  }

  /// Runs a kernel; says what is wrong with what it did, or nothing.
  [[nodiscard]] std::string run(kernels::bit_gemm_tile_fn kernel,
                                const std::vector<std::int64_t>& expected) {
    constexpr index_t guard = 33;  // odd: the output is aligned to 8 bytes only
    constexpr std::int64_t garbage = 0x0123456789abcdef;
    const index_t size = case_.tokens * rows;
    const aligned_buffer<std::uint64_t> weights_before = weights_;
    const std::vector<std::uint64_t> activations_before = activations_;
    aligned_buffer<std::int64_t> out(size + 2 * guard);
    std::fill(out.begin(), out.end(), garbage);

    kernel({.weights = weights_.data(),
            .activations = activations_.data() + 1,
            .sums = out.data() + guard,
            .words = case_.words,
            .tokens = case_.tokens,
            .activation_stride = stride(),
            .weight_planes = case_.weight_planes,
            .activation_planes = case_.activation_planes,
            .plane_words = case_.plane_gap == 0 ? 0 : plane_words()});

    for (index_t i = 0; i < size; ++i) {
      const std::int64_t sum = out[guard + i];
      if (sum == expected[i]) continue;
      const std::string_view why = sum == expected[i] + garbage ? ", added to what was there"
                                   : sum == garbage             ? ", not written"
                                                                : "";
      return lowbit::detail::message("token ", i / rows, ", row ", i % rows, ": ", sum,
                                     " instead of ", expected[i], why);
    }
    for (index_t i = 0; i < out.size(); ++i) {
      if ((i < guard || i >= guard + size) && out[i] != garbage) {
        return lowbit::detail::message("wrote outside sums, at index ",
                                       static_cast<std::int64_t>(i) - std::int64_t{guard});
      }
    }
    if (!std::equal(weights_.begin(), weights_.end(), weights_before.begin())) {
      return "changed the weights";
    }
    if (activations_ != activations_before) return "changed the activations";
    return {};
  }

 private:
  static constexpr index_t rows = kernels::bit_gemm_tile_rows;
  static constexpr std::uint64_t all_ones = ~std::uint64_t{0};

  [[nodiscard]] index_t plane_words() const noexcept { return case_.words + case_.plane_gap; }
  /// Words from the first to the last of some planes.
  [[nodiscard]] index_t span(unsigned planes) const noexcept {
    return planes * plane_words() - case_.plane_gap;
  }
  [[nodiscard]] index_t stride() const noexcept {
    return case_.activation_planes * plane_words() + case_.gap;
  }

  bit_gemm_case case_;
  aligned_buffer<std::uint64_t> weights_;
  std::vector<std::uint64_t> activations_;
};

inline void check_bit_gemm_case(findings& list, const bit_gemm_case& c, std::uint64_t seed,
                                kernels::bit_gemm_tile_fn kernel) {
  bit_gemm_trial trial(c, seed);
  const std::vector<std::int64_t> expected = trial.oracle();
  const std::string scalar = trial.run(&kernels::scalar::bit_gemm_tile, expected);
  const std::string variant = trial.run(kernel, expected);
  add(list, "exact/" + c.name(), variant.empty() && scalar.empty(), variant,
      scalar.empty() ? "" : "; scalar and the oracle disagree: ", scalar, "; seed ", seed);
}

/// One weight bit at a time meets all ones (token 0), all but its column (1), its column only (2).
inline void check_bit_gemm_single_bits(findings& list, index_t words,
                                       kernels::bit_gemm_tile_fn kernel) {
  constexpr index_t rows = kernels::bit_gemm_tile_rows;
  constexpr unsigned planes = 2;
  bit_gemm_trial trial({planes, planes, words, 3, 1, bit_pattern::zeros}, 0);
  for (index_t w = 0; w < planes * words; ++w) {
    trial.activation(0, w) = trial.activation(1, w) = ~std::uint64_t{0};
  }
  std::string wrong;
  for (index_t k = 0; k < 64 * words && wrong.empty(); ++k) {
    const std::uint64_t bit = std::uint64_t{1} << (k % 64);
    const index_t word = k / 64;
    const index_t row = (k + k / rows) % rows;  // every bit of a byte meets every row
    const unsigned plane = k / 3 % planes;
    trial.weight(plane, word, row) = bit;
    trial.activation(1, word) = trial.activation(1, words + word) = ~bit;
    trial.activation(2, word) = bit;
    std::vector<std::int64_t> expected(3 * rows);
    expected[row] = std::int64_t{3} << plane;
    expected[2 * rows + row] = std::int64_t{1} << plane;
    wrong = trial.run(kernel, expected);
    if (!wrong.empty()) wrong = lowbit::detail::message("bit of column ", k, ": ", wrong);
    trial.weight(plane, word, row) = 0;
    trial.activation(1, word) = trial.activation(1, words + word) = ~std::uint64_t{0};
    trial.activation(2, word) = 0;
  }
  add(list, lowbit::detail::message("single_bits/words_", words), wrong.empty(), wrong);
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_bit_gemm_variant(
    const kernels::variant<kernels::bit_gemm_tile_fn>& v, std::uint64_t seed = 1) {
  using detail::bit_pattern;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  const auto check = [&](const detail::bit_gemm_case& c) {
    detail::check_bit_gemm_case(list, c, seed + list.size(), v.run);
  };

  // Every pair of plane counts, with runs of one to three words (the groups of 64 to 192 columns)
  // and one that is longer than any counter of bytes.
  for (unsigned w = 1; w <= 8; ++w) {
    for (unsigned a = 1; a <= 8; ++a) {
      for (const index_t words : {1U, 2U, 3U, 33U}) {
        check({w, a, words, 1 + (w + a + words) % 5, (w + words) % 3});
        check({w, a, words, 1, 0, bit_pattern::ones});
      }
    }
  }
  // Around the lengths at which unrolled loops end and counters are emptied.
  for (const index_t words :
       {4U,  5U,  7U,  8U,  9U,   15U,  16U,  17U,  30U,  31U,  32U,  34U,  47U,  48U,
        49U, 62U, 63U, 64U, 127U, 128U, 129U, 255U, 256U, 495U, 496U, 497U, 512U, 1000U}) {
    check({1, 1, words, 2, 1});
    check({1, 1, words, 1, 0, bit_pattern::ones});
    check({2, 3, words, 1, 0});
    check({8, 8, words, 1, 0, bit_pattern::ones});
  }
  // Past the end of 16-bit counters (1023 words) and of 32-bit sums.
  for (const index_t words : {1023U, 1024U, 1040U, 8193U}) {
    check({1, 1, words, 1, 0, bit_pattern::ones});
  }
  check({8, 8, 600, 1, 0, bit_pattern::ones});
  check({8, 8, 1040, 1, 0, bit_pattern::ones});
  // Tokens and strides.
  for (const index_t tokens : {1U, 2U, 3U, 4U, 5U, 7U, 8U, 9U, 16U, 17U}) {
    for (const index_t gap : {0U, 1U, 13U}) {
      check({2, 3, 5, tokens, gap});
      check({1, 8, 18, tokens, gap});
      for (const index_t words : {1U, 2U, 3U}) check({1, 3, words, tokens, gap});
    }
  }
  check({3, 5, 64, 16, 8});
  for (unsigned a = 1; a <= 8; ++a) {
    for (const index_t words : {1U, 2U, 4U}) check({1, a, words, 11, 1});
  }
  for (const index_t words : {1U, 31U, 64U}) check({8, 8, words, 2, 3, bit_pattern::zeros});
  // Cuts of longer runs: planes further apart than the words of the cut.
  for (const index_t words : {1U, 2U, 5U, 8U, 33U}) {
    for (const index_t tokens : {1U, 3U, 8U, 17U}) {
      check({1, 4, words, tokens, 1, bit_pattern::random, 3});
      check({3, 2, words, tokens, 0, bit_pattern::random, 8});
    }
  }
  for (const index_t words : {1U, 2U, 17U, 33U}) {
    detail::check_bit_gemm_single_bits(list, words, v.run);
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
