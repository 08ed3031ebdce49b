// testing/code_gemm.hpp: does a variant of the codes x int8 kernel keep its contract?
// Framework-neutral: a downstream kernel is checked with
//   all_passed(check_code_gemm_variant({"mine", cpu::avx2_core, &my_tile}))
//
// The oracle draws the integers first and packs them bit by bit into the places that the contract
// names; it multiplies them in 64 bits, and std::fma adds up. It shares no code with any variant.
// Small cases also run the scalar variant, so that the two references watch each other. Floats are
// compared by their bits.
#pragma once

#include <algorithm>
#include <array>
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
#include "lowbit/kernels/code_gemm/contract.hpp"
#include "lowbit/kernels/code_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class code_pattern : std::uint8_t { random, ones, zeros };
enum class int8_pattern : std::uint8_t { random, lowest, highest, alternating, zeros };

struct code_gemm_case {
  kernels::code_format format;
  bool has_steps = false;
  index_t quads = 1;
  index_t runs = 1;
  index_t tokens = 1;
  index_t gap = 0;  ///< elements between the activations (or sums) of one run and those of the next
  index_t prefetch = 0;
  code_pattern codes = code_pattern::random;
  int8_pattern activations = int8_pattern::random;

  [[nodiscard]] std::string name() const {
    constexpr std::string_view code_names[] = {"random", "ones", "zeros"};
    constexpr std::string_view int8_names[] = {"random", "lowest", "highest", "alternating",
                                               "zeros"};
    const kernels::code_format& f = format;
    return lowbit::detail::message(
        "bits_", f.bits, "/planes_", f.planes, "/code_step_", f.code_step, "/zero_", f.zero,
        f.has_zeros ? "/zeros" : "", f.has_offsets ? "/offsets" : "",
        f.has_wide_scales ? "/wide" : "", f.has_book ? "/book" : "", f.has_ratios ? "/ratios" : "",
        has_steps ? "/steps" : "", "/quads_", quads, "/runs_", runs, "/tokens_", tokens, "/gap_",
        gap, "/prefetch_", prefetch, "/", code_names[static_cast<std::size_t>(codes)], "/",
        int8_names[static_cast<std::size_t>(activations)]);
  }
};

/// The operands of one call, with traps: activations and sums are aligned to no more than their
/// type and end with their allocation, gaps between runs are garbage, y holds numbers at entry and
/// is surrounded by guards.
class code_gemm_trial {
 public:
  code_gemm_trial(const code_gemm_case& c, std::uint64_t seed)
      : case_(c),
        seed_(seed),
        weights_(c.runs * c.format.run_bytes(c.quads)),
        codes_(c.runs * c.format.planes * rows * cols()),
        scales_(c.runs * c.format.planes * rows),
        zeros_(c.runs * rows, c.format.zero),
        offsets_(c.format.has_offsets ? c.runs * rows : 0),
        activations_(1 + (c.runs - 1) * activation_stride() + c.tokens * cols(), 85),
        sums_(1 + (c.runs - 1) * sum_stride() + c.tokens, 0x01234567),
        steps_(c.has_steps ? sums_.size() : 0, std::numeric_limits<float>::quiet_NaN()),
        y_(c.tokens * rows) {
    draw_weights();
    draw_activations();
    for (float& y : y_) y = next() % 16 == 0 ? -0.0F : 100.0F * (random_unit() - 0.5F);
  }

  /// y after the call, from the integers that were drawn.
  [[nodiscard]] std::vector<float> oracle() const {
    const kernels::code_format& f = case_.format;
    std::vector<float> y = y_;
    for (index_t g = 0; g < case_.runs; ++g) {
      for (index_t t = 0; t < case_.tokens; ++t) {
        const std::int8_t* const x = activations(g, t);
        std::int64_t sum = 0;
        for (index_t k = 0; k < cols(); ++k) sum += x[k];
        const float step = case_.has_steps ? steps_[1 + g * sum_stride() + t] : 1.0F;
        for (index_t r = 0; r < rows; ++r) {
          float& out = y[t * rows + r];
          for (index_t p = 0; p < f.planes; ++p) {
            const index_t row = (g * f.planes + p) * rows + r;
            const std::uint8_t* const code = codes_.data() + row * cols();
            std::int64_t dot = 0;
            for (index_t k = 0; k < cols(); ++k) {
              dot += static_cast<std::int32_t>(code[k]) * static_cast<std::int32_t>(x[k]);
            }
            const std::int64_t v = f.code_step * dot - zeros_[g * rows + r] * sum;
            const float scale = scales_[row] * step;
            out = std::fma(scale, static_cast<float>(v), out);
          }
          if (f.has_offsets) {
            const float offset = offsets_[g * rows + r] * step;
            out = std::fma(offset, static_cast<float>(sum), out);
          }
        }
      }
    }
    return y;
  }

  /// Runs a kernel; says what is wrong with what it did, or nothing.
  [[nodiscard]] std::string run(kernels::code_gemm_tile_fn kernel,
                                const std::vector<float>& expected) {
    constexpr index_t guard = 128;  // y stays aligned to 64 bytes
    constexpr std::uint32_t garbage = 0x7fa5a5a5U;
    const index_t size = y_.size();
    const aligned_buffer<std::uint8_t> weights_before = weights_;
    const std::vector<std::int8_t> activations_before = activations_;
    const std::vector<std::int32_t> sums_before = sums_;
    const std::vector<float> steps_before = steps_;
    aligned_buffer<float> y(size + 2 * guard);
    std::fill(y.begin(), y.end(), std::bit_cast<float>(garbage));
    std::copy(y_.begin(), y_.end(), y.begin() + guard);

    kernel({.weights = weights_.data(),
            .activations = activations_.data() + 1,
            .sums = sums_.data() + 1,
            .steps = case_.has_steps ? steps_.data() + 1 : nullptr,
            .y = y.data() + guard,
            .runs = case_.runs,
            .quads = case_.quads,
            .tokens = case_.tokens,
            .activation_stride = activation_stride(),
            .sum_stride = sum_stride(),
            .prefetch = case_.prefetch,
            .format = &case_.format});

    for (index_t i = 0; i < size; ++i) {
      const float found = y[guard + i];
      const auto bits = std::bit_cast<std::int32_t>(found);
      const auto wanted = std::bit_cast<std::int32_t>(expected[i]);
      if (bits == wanted) continue;
      return lowbit::detail::message(
          "token ", i / rows, ", row ", i % rows, ": ", found, " instead of ", expected[i], ", ",
          std::int64_t{bits} - std::int64_t{wanted}, " units in the last place away",
          bits == std::bit_cast<std::int32_t>(y_[i]) ? "; not written" : "");
    }
    for (index_t i = 0; i < y.size(); ++i) {
      if ((i < guard || i >= guard + size) && std::bit_cast<std::uint32_t>(y[i]) != garbage) {
        return lowbit::detail::message("wrote outside y, at index ",
                                       static_cast<std::int64_t>(i) - std::int64_t{guard});
      }
    }
    if (!same_bytes(weights_, weights_before)) return "changed the weights";
    if (!same_bytes(activations_, activations_before)) return "changed the activations";
    if (!same_bytes(sums_, sums_before)) return "changed the sums";
    if (!same_bytes(steps_, steps_before)) return "changed the steps";
    return {};
  }

 private:
  static constexpr index_t rows = kernels::code_tile_rows;

  template <class Array>
  [[nodiscard]] static bool same_bytes(const Array& a, const Array& b) noexcept {
    return a.size() == 0 || std::memcmp(a.data(), b.data(), a.size() * sizeof(*a.data())) == 0;
  }

  [[nodiscard]] index_t cols() const noexcept { return 4 * case_.quads; }
  [[nodiscard]] index_t activation_stride() const noexcept {
    return case_.tokens * cols() + case_.gap;
  }
  [[nodiscard]] index_t sum_stride() const noexcept { return case_.tokens + case_.gap; }
  [[nodiscard]] const std::int8_t* activations(index_t run, index_t token) const noexcept {
    return activations_.data() + 1 + run * activation_stride() + token * cols();
  }

  [[nodiscard]] std::uint64_t next() noexcept { return random_bits(seed_, drawn_++); }
  [[nodiscard]] float random_unit() noexcept { return random_uniform(seed_, drawn_++); }

  void draw_weights() {
    const kernels::code_format& f = case_.format;
    const index_t scale_bytes = rows * (f.has_wide_scales ? 4U : 2U);
    std::array<float, rows> stored{};
    std::uint8_t* at = weights_.data();
    for (index_t g = 0; g < case_.runs; ++g) {
      for (index_t p = 0; p < f.planes; ++p) {
        if (p == 0 || !f.has_ratios) {
          for (index_t r = 0; r < rows; ++r) stored[r] = draw_real(at, r);
          at += scale_bytes;
        }
        for (index_t r = 0; r < rows; ++r) {
          scales_[(g * f.planes + p) * rows + r] =
              f.has_ratios ? stored[r] * f.ratios[p] : stored[r];
        }
        for (index_t r = 0; r < rows; ++r) draw_row((g * f.planes + p) * rows + r, at);
        at += case_.quads * 64 * f.bits;
      }
      if (f.has_zeros) {
        for (index_t r = 0; r < rows; ++r) {
          const std::uint64_t bits = next();
          at[r] =
              bits % 8 == 0 ? (bits % 16 == 0 ? 0 : 255) : static_cast<std::uint8_t>(bits >> 8U);
          zeros_[g * rows + r] = at[r];
        }
        at += rows;
      }
      if (f.has_offsets) {
        for (index_t r = 0; r < rows; ++r) offsets_[g * rows + r] = draw_real(at, r);
        at += scale_bytes;
      }
    }
  }

  /// Draws a scale or offset, writes it as element `row` and returns its value. All are finite, of
  /// both signs and all magnitudes, denormal ones among them; most are close together.
  [[nodiscard]] float draw_real(std::uint8_t* reals, index_t row) noexcept {
    const std::uint64_t bits = next();
    const bool rare = bits % 16 == 0;
    const int sign = (bits & 16U) == 0 ? 1 : -1;
    const auto choice = static_cast<unsigned>(bits >> 8U & 0xffU);
    if (case_.format.has_wide_scales) {
      const auto fraction = static_cast<std::uint32_t>(bits >> 32U & 0x7fffffU);
      const std::uint32_t field = rare ? choice % 3 * 90U : 120 + choice % 8;  // 0: denormal
      const std::uint32_t stored = field << 23U | fraction | (sign < 0 ? 0x80000000U : 0U);
      std::memcpy(reals + 4 * row, &stored, 4);
      return std::bit_cast<float>(stored);
    }
    const auto fraction = static_cast<std::uint32_t>(bits >> 32U & 0x3ffU);
    const std::uint32_t field = rare ? choice % 2 * 30U : 8 + choice % 8;  // 0: denormal
    const std::uint32_t stored = field << 10U | fraction | (sign < 0 ? 0x8000U : 0U);
    reals[2 * row] = static_cast<std::uint8_t>(stored);
    reals[2 * row + 1] = static_cast<std::uint8_t>(stored >> 8U);
    const std::uint32_t mantissa = field == 0 ? fraction : 1024 + fraction;
    const float value =
        std::ldexp(static_cast<float>(mantissa), static_cast<int>(field == 0 ? 1 : field) - 25);
    return sign < 0 ? -value : value;
  }

  /// Draws the codes of a row; `quads` is where the codes of its run and plane begin.
  void draw_row(index_t row, std::uint8_t* quads) noexcept {
    const kernels::code_format& f = case_.format;
    const index_t set = row % rows / 16;
    // But for 3 bits, the sets of a line follow each other like digits, and so do the lines.
    const index_t digit = set * f.bits;
    std::uint8_t* const quad = quads + digit / 8 * 64 + row % 16 * 4;
    std::uint64_t bits = 0;
    for (index_t k = 0; k < cols(); ++k, bits >>= 8U) {
      if (k % 8 == 0) {
        bits = case_.codes == code_pattern::random ? next()
               : case_.codes == code_pattern::ones ? ~std::uint64_t{0}
                                                   : 0;
      }
      const auto code = static_cast<unsigned>(bits & ((1U << f.bits) - 1U));
      codes_[row * cols() + k] = f.has_book ? f.book[code] : static_cast<std::uint8_t>(code);
      const index_t at = k / 4 * 64 * f.bits + k % 4;
      if (f.bits == 3) {
        put_3_bits(quads + row % 16 * 4 + at, set, code);
      } else {
        quad[at] = static_cast<std::uint8_t>(quad[at] | code << digit % 8);
      }
    }
  }

  /// Writes a code bit by bit into the three lines that begin at `line`.
  static void put_3_bits(std::uint8_t* line, index_t set, unsigned code) noexcept {
    struct place {
      index_t line;
      unsigned bit;
    };
    constexpr place places[8][3] = {{{0, 5}, {0, 6}, {0, 7}}, {{0, 2}, {0, 3}, {0, 4}},
                                    {{1, 5}, {1, 6}, {1, 7}}, {{1, 2}, {1, 3}, {1, 4}},
                                    {{2, 5}, {2, 6}, {2, 7}}, {{2, 2}, {2, 3}, {2, 4}},
                                    {{0, 0}, {0, 1}, {2, 0}}, {{1, 0}, {1, 1}, {2, 1}}};
    for (unsigned b = 0; b < 3; ++b) {
      std::uint8_t& byte = line[64 * places[set][b].line];
      byte = static_cast<std::uint8_t>(byte | (code >> b & 1U) << places[set][b].bit);
    }
  }

  void draw_activations() noexcept {
    const auto draw = [&](index_t k) -> std::int8_t {
      switch (case_.activations) {
        case int8_pattern::random: return static_cast<std::int8_t>(next() >> 56U);
        case int8_pattern::lowest: return -128;
        case int8_pattern::highest: return 127;
        case int8_pattern::alternating: return k % 2 == 0 ? -128 : 127;
        case int8_pattern::zeros: break;
      }
      return 0;
    };
    for (index_t g = 0; g < case_.runs; ++g) {
      for (index_t t = 0; t < case_.tokens; ++t) {
        std::int32_t sum = 0;
        for (index_t k = 0; k < cols(); ++k) {
          const std::int8_t x = draw(k);
          activations_[1 + g * activation_stride() + t * cols() + k] = x;
          sum += x;
        }
        const index_t i = 1 + g * sum_stride() + t;
        sums_[i] = sum;
        if (case_.has_steps) {
          steps_[i] = next() % 16 == 0 ? 0x1p-140F : 0.01F + 0.1F * random_unit();
        }
      }
    }
  }

  code_gemm_case case_;
  std::uint64_t seed_;
  std::uint64_t drawn_ = 0;
  aligned_buffer<std::uint8_t> weights_;
  std::vector<std::uint8_t> codes_;  // [run][plane][row][column]: what a code stands for
  std::vector<float> scales_;        // [run][plane][row]
  std::vector<std::int64_t> zeros_;  // [run][row]
  std::vector<float> offsets_;       // [run][row]
  std::vector<std::int8_t> activations_;
  std::vector<std::int32_t> sums_;
  std::vector<float> steps_;
  std::vector<float> y_;  // at entry
};

inline void check_code_gemm_case(findings& list, const code_gemm_case& c, std::uint64_t seed,
                                 kernels::code_gemm_tile_fn kernel) {
  code_gemm_trial trial(c, seed);
  const std::vector<float> expected = trial.oracle();
  // Scalar is slow, and whoever checks it as a variant checks it in every case.
  const bool is_small = c.format.planes * c.runs * c.tokens * c.quads <= kernels::code_max_quads;
  const std::string scalar =
      is_small ? trial.run(&kernels::scalar::code_gemm_tile, expected) : std::string{};
  const std::string variant = trial.run(kernel, expected);
  add(list, "same_bits/" + c.name(), variant.empty() && scalar.empty(), variant,
      scalar.empty() ? "" : "; scalar and the oracle disagree: ", scalar, "; seed ", seed);
}

/// Every kind of format, with and without steps: no dimensions yet.
[[nodiscard]] inline std::vector<code_gemm_case> code_gemm_kinds() {
  std::vector<code_gemm_case> kinds;
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    const std::int32_t middle = 1 << (bits - 1);
    kinds.push_back({.format = {.bits = bits, .zero = middle}});
    kinds.push_back({.format = {.bits = bits, .zero = middle}, .has_steps = true});
    kinds.push_back({.format = {.bits = bits, .has_offsets = true}});
    kinds.push_back({.format = {.bits = bits, .zero = 7, .has_zeros = true}});  // 7: not used
    kinds.push_back({.format = {.bits = bits, .zero = 255, .has_wide_scales = true}});
    kinds.push_back(
        {.format = {.bits = bits, .zero = 255, .has_offsets = true}, .has_steps = true});
    kinds.push_back(
        {.format = {.bits = bits, .has_zeros = true, .has_offsets = true, .has_wide_scales = true},
         .has_steps = true});
  }
  for (unsigned planes = 1; planes <= 8; ++planes) {  // sums of bit vectors
    kinds.push_back({.format = {.bits = 1, .planes = planes, .has_offsets = true}});
    kinds.push_back({.format = {.bits = 1, .planes = planes, .code_step = 2, .zero = 1}});
    kinds.push_back({.format = {.bits = 1,
                                .planes = planes,
                                .code_step = 2,
                                .zero = 1,
                                .has_offsets = true,
                                .has_wide_scales = planes % 2 == 0},
                     .has_steps = planes % 4 != 0});
  }
  for (unsigned planes = 1; planes <= 8; ++planes) {  // that share a scale
    // No fp16, of both signs, one denormal: a product with a scale is rounded, and may vanish.
    kernels::code_format shared{
        .bits = 1, .planes = planes, .code_step = 2, .zero = 1, .has_ratios = true};
    for (unsigned p = 0; p < planes; ++p) {
      shared.ratios[p] = (p % 3 == 2 ? -1.0F : 1.0F) / static_cast<float>(3 * p + 1 + planes);
    }
    kinds.push_back({.format = shared});
    if (planes > 2) shared.ratios[1] = 0x1.8p-130F;
    shared.has_wide_scales = planes % 2 == 0;
    shared.has_offsets = planes % 3 != 0;
    kinds.push_back({.format = shared, .has_steps = true});
    shared.code_step = 1;
    shared.zero = 0;
    shared.has_offsets = !shared.has_offsets;
    kinds.push_back({.format = shared, .has_steps = planes % 2 != 0});
  }
  kernels::code_format book{.bits = 4, .zero = 128, .has_book = true};
  for (index_t i = 0; i < 16; ++i) book.book[i] = static_cast<std::uint8_t>(i * i + 30);
  book.book[3] = 255;
  book.book[11] = 0;
  kinds.push_back({.format = book});
  book.has_offsets = true;
  kinds.push_back({.format = book, .has_steps = true});
  book.has_zeros = book.has_wide_scales = true;
  kinds.push_back({.format = book});
  return kinds;
}

/// All cases of the suite.
[[nodiscard]] inline std::vector<code_gemm_case> code_gemm_cases() {
  std::vector<code_gemm_case> cases;
  const std::vector<code_gemm_case> kinds = code_gemm_kinds();
  std::uint64_t drawn = 0;
  const auto any_of = [&](auto... choices) {
    const index_t list[] = {static_cast<index_t>(choices)...};
    return list[random_bits(12, drawn++) % std::size(list)];
  };
  const auto add_case = [&](code_gemm_case c, index_t quads, index_t runs, index_t tokens) {
    c.quads = quads;
    c.runs = runs;
    c.tokens = tokens;
    c.gap = any_of(0, 1, 6, 64);
    c.prefetch = any_of(0, 1024, 8192);
    cases.push_back(c);
  };
  for (code_gemm_case kind : kinds) {
    const kernels::code_format& f = kind.format;
    const bool is_basic = !kind.has_steps && !f.has_wide_scales && !f.has_zeros && f.planes == 1 &&
                          (f.has_book || !f.has_offsets);
    if (!is_basic) continue;
    for (const index_t quads : {1U, 2U, 3U, 7U, 8U, 9U, 15U, 16U, 17U, 18U, 33U, 34U, 64U}) {
      add_case(kind, quads, 2, 1);
    }
    for (const index_t tokens : {3U, 25U}) add_case(kind, 33, 2, tokens);
    for (const index_t tokens : {1U, 10U}) add_case(kind, 1, 70, tokens);
    // Extremes: what sums may reach, at the lengths at which narrow sums are emptied.
    for (const code_pattern codes : {code_pattern::ones, code_pattern::zeros}) {
      kind.codes = codes;
      for (const int8_pattern x : {int8_pattern::lowest, int8_pattern::highest,
                                   int8_pattern::alternating, int8_pattern::zeros}) {
        kind.activations = x;
        for (const index_t quads : {1U, 7U, 8U, 9U, 15U, 16U, 17U, 18U, 33U, 64U}) {
          add_case(kind, quads, 1, 1);
        }
        if (codes == code_pattern::ones) add_case(kind, 64, 1, f.bits == 8 ? 19 : 10);
      }
      kind.activations = int8_pattern::random;
      add_case(kind, 33, 2, 3);
    }
    kind.codes = code_pattern::random;
    for (const int8_pattern x : {int8_pattern::lowest, int8_pattern::highest,
                                 int8_pattern::alternating, int8_pattern::zeros}) {
      kind.activations = x;
      add_case(kind, 64, 1, 2);
      add_case(kind, 18, 1, 11);
    }
  }
  for (const code_gemm_case& kind : kinds) {
    const bool is_small = kind.format.planes < 4;
    // Every number of tokens that blocks end at, with runs of any length.
    for (index_t tokens = 1; tokens <= 14; ++tokens) {
      const index_t quads = is_small ? any_of(1, 2, 3, 7, 8, 9, 15, 16, 17) : any_of(1, 2, 3);
      add_case(kind, quads, quads < 4 ? any_of(1, 2, 5) : any_of(1, 2), tokens);
    }
    for (const index_t tokens : {index_t{25}, index_t{is_small ? 48U : 24U}}) {
      add_case(kind, any_of(1, 2), 2, tokens);
    }
    // Long runs, and more segments (planes of runs) than a panel holds.
    add_case(kind, 33, 1, 1);
    add_case(kind, 64, 1, any_of(1, 2));
    add_case(kind, is_small ? 22 : 17, 5, 1);
    add_case(kind, is_small ? 2 : 1, is_small ? 35 : 11, any_of(10, 13));
  }
  return cases;
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_code_gemm_variant(
    const kernels::variant<kernels::code_gemm_tile_fn>& v, std::uint64_t seed = 1) {
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  for (const detail::code_gemm_case& c : detail::code_gemm_cases()) {
    detail::check_code_gemm_case(list, c, seed + list.size(), v.run);
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
