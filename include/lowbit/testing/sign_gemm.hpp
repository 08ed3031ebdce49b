// testing/sign_gemm.hpp: does a variant of the signs x activations kernel keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_sign_gemm_variant({"mine", cpu::avx2_core, my_functions}))
//
// Limits and tables are compared with those of the scalar variant. Sums are compared with an oracle
// that draws the signs first and writes them bit by bit where the contract wants them; it shares no
// code with any variant. Small cases also run the scalar variant, so that both watch each other.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/sign_gemm/contract.hpp"
#include "lowbit/kernels/sign_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class sign_pattern : std::uint8_t { normal, wide, ties, huge, denormal, zeros, special };

inline constexpr std::string_view sign_pattern_names[] = {"normal",   "wide",  "ties",   "huge",
                                                          "denormal", "zeros", "special"};

/// Column `i`; `special` has NaN and Inf, and is for limits only.
[[nodiscard]] inline float sign_column(sign_pattern pattern, std::uint64_t seed,
                                       std::uint64_t i) noexcept {
  const float normal = random_normal(seed, i);
  const std::uint64_t draw = random_bits(~seed, i);
  switch (pattern) {
    case sign_pattern::normal: break;
    case sign_pattern::wide: return std::ldexp(normal, static_cast<int>(draw % 30) - 15);
    case sign_pattern::ties: return static_cast<float>(draw % 63) - 31.0F;
    case sign_pattern::huge: return (draw % 2 == 0 ? -1.0F : 1.0F) * 0x1.fffffep125F;
    case sign_pattern::denormal: return std::ldexp(normal, -126);
    case sign_pattern::zeros: return draw % 2 == 0 ? -0.0F : 0.0F;
    case sign_pattern::special:
      if (draw % 50 == 0) return std::numeric_limits<float>::infinity();
      if (draw % 50 == 1) return -std::numeric_limits<float>::quiet_NaN();
      break;
  }
  return normal;
}

/// Columns at an odd address that end with their allocation.
[[nodiscard]] inline std::vector<float> sign_columns(sign_pattern pattern, index_t count,
                                                     std::uint64_t seed) {
  std::vector<float> x(1 + count);
  for (index_t i = 0; i < count; ++i) x[1 + i] = sign_column(pattern, seed, i);
  return x;
}

inline void check_sign_tables(findings& list, sign_pattern pattern, index_t count, index_t extra,
                              std::uint64_t seed, const kernels::sign_gemm_functions& f) {
  namespace scalar = kernels::scalar;
  const std::vector<float> x = sign_columns(pattern, count, seed);
  const auto name = [&](std::string_view function) {
    return lowbit::detail::message(function, "/",
                                   sign_pattern_names[static_cast<std::size_t>(pattern)], "/count_",
                                   count, "/extra_", extra);
  };
  const std::uint32_t limit = scalar::sign_limit(x.data() + 1, count);
  const std::uint32_t found_limit = f.limit(x.data() + 1, count);
  const bool is_number = limit < 0x7f800000U;
  add(list, name("limit"), is_number ? found_limit == limit : found_limit >= 0x7f800000U,
      "the limit's bits are ", found_limit, " instead of ", limit, "; seed ", seed);
  if (!is_number) return;
  const index_t groups = div_up(count, 40) * 8 + 8 * extra;
  float inverse = 127.0F / std::bit_cast<float>(limit);
  // Whole and half numbers come of integers, whatever their limit (at most 155).
  if (pattern == sign_pattern::ties) inverse = 0.5F;
  if (!(inverse <= std::numeric_limits<float>::max())) inverse = 0.0F;
  constexpr index_t guard = 64;
  aligned_buffer<std::uint8_t> expected(groups * kernels::sign_table_bytes + guard);
  aligned_buffer<std::uint8_t> found(expected.size());
  const auto build = [&](kernels::sign_table_fn run, aligned_buffer<std::uint8_t>& tables) {
    run({.x = x.data() + 1,
         .count = count,
         .inverse_step = inverse,
         .tables = tables.data(),
         .groups = groups});
  };
  build(&scalar::sign_tables, expected);
  build(f.build, found);
  const auto* const wrong = std::mismatch(found.begin(), found.end(), expected.begin()).first;
  const auto at = static_cast<index_t>(wrong - found.begin());
  add(list, name("tables"), wrong == found.end(), "entry ", at % 16, " of group ", at / 16, " is ",
      wrong == found.end() ? 0 : int{*wrong}, wrong == found.end() ? 0 : int{expected[at]},
      " is right; seed ", seed);
}

struct sign_block_case {
  index_t groups;
  index_t tiles;
  index_t tokens;
  index_t gap = 0;          ///< bytes between the tables of tokens, a multiple of 64
  bool is_extreme = false;  ///< entries are the largest or smallest only
};

/// Signs, their packed stream and tables.
class sign_block_trial {
 public:
  sign_block_trial(const sign_block_case& c, std::uint64_t seed)
      : case_(c),
        seed_(seed),
        signs_(c.groups * c.tiles * rows),
        tables_(c.tokens * stride() - c.gap) {
    constexpr int reach = 127;
    for (index_t i = 0; i < signs_.size(); ++i) {
      const std::uint64_t bits = random_bits(seed, i);
      // Rows whose signs are all alike, too.
      const index_t row = i % (c.tiles * rows);
      constexpr std::uint8_t alike[] = {0, 15, 16, 31};
      signs_[i] = row % 16 < 4 ? alike[row % 16] : static_cast<std::uint8_t>(bits & 31U);
    }
    for (index_t i = 0; i < tables_.size(); ++i) {
      const std::uint64_t bits = random_bits(seed + 1, i);
      const int q = c.is_extreme
                        ? (i / 16 % 64 == 5 ? -reach : reach)
                        : static_cast<int>(bits % (2U * static_cast<unsigned>(reach) + 1)) - reach;
      tables_[i] = static_cast<std::uint8_t>(128 + q);
    }
  }

  [[nodiscard]] std::vector<std::int32_t> oracle() const {
    std::vector<std::int32_t> sums;
    for (index_t tile = 0; tile < case_.tiles; ++tile) {
      for (index_t t = 0; t < case_.tokens; ++t) {
        for (index_t r = 0; r < rows; ++r) {
          std::int32_t sum = 0;
          for (index_t g = 0; g < case_.groups; ++g) {
            const std::uint8_t* const table = tables_.data() + t * stride() + g * 16;
            const unsigned signs = signs_[g * case_.tiles * rows + tile * rows + r];
            sum += (signs < 16 ? 1 : -1) * (table[signs % 16] - 128);
          }
          sums.push_back(sum);
        }
      }
    }
    return sums;
  }

  /// Runs a kernel on weights of this interleave; says what is wrong, or nothing.
  [[nodiscard]] std::string run(kernels::sign_gemm_block_fn kernel, index_t interleave,
                                const std::vector<std::int32_t>& expected) const {
    constexpr index_t guard = 64;
    constexpr std::int32_t garbage = 0x5a5a5a5a;
    const aligned_buffer<std::uint8_t> weights = packed(interleave);
    const aligned_buffer<std::uint8_t> tables_before = tables_;
    aligned_buffer<std::int32_t> sums(guard + expected.size() + guard);
    std::fill(sums.begin(), sums.end(), garbage);
    kernel({.weights = weights.data(),
            .tables = tables_.data(),
            .sums = sums.data() + guard,
            .groups = case_.groups,
            .tiles = case_.tiles,
            .tokens = case_.tokens,
            .table_stride = stride(),
            .interleave = interleave,
            .prefetch = seed_ % 2 * 4096});
    for (index_t i = 0; i < sums.size(); ++i) {
      const bool inside = i >= guard && i < guard + expected.size();
      const std::int32_t wanted = inside ? expected[i - guard] : garbage;
      if (sums[i] == wanted) continue;
      if (!inside) return "wrote outside the sums";
      const index_t at = i - guard;
      return lowbit::detail::message("tile ", at / rows / case_.tokens, ", token ",
                                     at / rows % case_.tokens, ", row ", at % rows, ": ", sums[i],
                                     " instead of ", wanted);
    }
    if (!std::equal(tables_.begin(), tables_.end(), tables_before.begin())) {
      return "changed the tables";
    }
    return {};
  }

 private:
  static constexpr index_t rows = kernels::sign_tile_rows;

  [[nodiscard]] index_t stride() const noexcept { return case_.groups * 16 + case_.gap; }

  /// The stream, bit by bit.
  [[nodiscard]] aligned_buffer<std::uint8_t> packed(index_t w) const {
    constexpr index_t head = 4 * rows;
    aligned_buffer<std::uint8_t> weights(case_.tiles * (head + case_.groups * rows * 5 / 8));
    index_t at = case_.tiles * head;  // where the tile of a chunk begins
    for (index_t chunk = 0; chunk < case_.groups; chunk += kernels::sign_chunk_groups) {
      const index_t count = std::min(kernels::sign_chunk_groups, case_.groups - chunk);
      for (index_t tile = 0; tile < case_.tiles; ++tile) {
        for (index_t g = 0; g < count; ++g) {
          std::uint8_t* const step = &weights[at + g / 8 * 5 * rows];
          for (index_t r = 0; r < rows; ++r) {
            const unsigned signs = signs_[(chunk + g) * case_.tiles * rows + tile * rows + r];
            put_pattern(step, w, g % 8, r, signs % 16);
            if (signs < 16) continue;
            put_minus(step + 4 * rows, w, g % 8, r);
            std::uint32_t negatives = 0;
            std::uint8_t* const count_of_row = &weights[tile * head + 4 * r];
            std::memcpy(&negatives, count_of_row, 4);
            ++negatives;
            std::memcpy(count_of_row, &negatives, 4);
          }
        }
        at += count * rows * 5 / 8;
      }
    }
    return weights;
  }

  static void put_pattern(std::uint8_t* step, index_t w, index_t g, index_t r,
                          unsigned pattern) noexcept {
    std::uint8_t& byte = step[(g / (2 * w) * rows + r) * w + g % w];
    byte = static_cast<std::uint8_t>(byte | pattern << (g % (2 * w) < w ? 0U : 4U));
  }
  /// A register has the rows side by side, w groups of each; the next one's bits are below.
  static void put_minus(std::uint8_t* signs, index_t w, index_t g, index_t r) noexcept {
    const index_t patterns = w == 1 ? g : r / 16 * 2 + g / 4;
    std::uint8_t& byte = signs[w == 1 ? r : r % 16 * 4 + g % 4];
    byte = static_cast<std::uint8_t>(byte | 128U >> patterns);
  }

  sign_block_case case_;
  std::uint64_t seed_;
  std::vector<std::uint8_t> signs_;  // [group][tile][row]: pattern, 16 more if minus
  aligned_buffer<std::uint8_t> tables_;
};

inline void check_sign_block(findings& list, const sign_block_case& c, std::uint64_t seed,
                             const kernels::sign_gemm_functions& f) {
  const sign_block_trial trial(c, seed);
  const std::vector<std::int32_t> expected = trial.oracle();
  for (const index_t interleave : {1U, 4U}) {
    if (!f.reads(interleave)) continue;
    const bool is_small = c.groups * c.tiles * c.tokens <= 300;
    const std::string scalar =
        is_small ? trial.run(&kernels::scalar::sign_gemm_block, interleave, expected)
                 : std::string{};
    const std::string wrong = trial.run(f.block, interleave, expected);
    add(list,
        lowbit::detail::message("block/groups_", c.groups, "/tiles_", c.tiles, "/tokens_", c.tokens,
                                "/gap_", c.gap, c.is_extreme ? "/extreme" : "", "/interleave_",
                                interleave),
        wrong.empty() && scalar.empty(), wrong,
        scalar.empty() ? "" : "; scalar and the oracle disagree: ", scalar, "; seed ", seed);
  }
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_sign_gemm_variant(
    const kernels::variant<kernels::sign_gemm_functions>& v, std::uint64_t seed = 1) {
  using detail::sign_pattern;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  for (const sign_pattern pattern :
       {sign_pattern::normal, sign_pattern::wide, sign_pattern::ties, sign_pattern::huge,
        sign_pattern::denormal, sign_pattern::zeros, sign_pattern::special}) {
    for (index_t count = 1; count <= 170; ++count) {
      detail::check_sign_tables(list, pattern, count, count % 5 == 0 ? count % 3 : 0,
                                seed + list.size(), v.run);
    }
    detail::check_sign_tables(list, pattern, 1000, 0, seed + list.size(), v.run);
  }
  for (const index_t groups : {index_t{8}, index_t{16}, index_t{24}, index_t{40}}) {
    for (index_t tokens = 1; tokens <= 9; ++tokens) {
      for (index_t tiles = 1; tiles <= kernels::sign_block_tiles; ++tiles) {
        detail::check_sign_block(list,
                                 {groups, tiles, tokens, tokens % 3 * 64, tiles == 3 && tokens < 6},
                                 seed + list.size(), v.run);
      }
    }
  }
  // Long sums of the largest entries, around lengths that 16 bits take.
  for (const index_t groups : {120U, 128U, 136U, 264U}) {
    for (const bool is_extreme : {false, true}) {
      for (const index_t tokens : {1U, 2U, 4U, 7U}) {
        detail::check_sign_block(list, {groups, 2, tokens, 64, is_extreme}, seed + list.size(),
                                 v.run);
      }
    }
  }
  // More than a chunk.
  constexpr index_t chunk = kernels::sign_chunk_groups;
  detail::check_sign_block(list, {chunk, 1, 1}, seed + list.size(), v.run);
  detail::check_sign_block(list, {chunk + 8, 2, 1, 64, true}, seed + list.size(), v.run);
  detail::check_sign_block(list, {2 * chunk + 144, 2, 3, 64}, seed + list.size(), v.run);
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
