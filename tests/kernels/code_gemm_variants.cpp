// Every variant of the codes x int8 kernel against its contract, and the suite against variants
// that are wrong on purpose.
#include "lowbit/kernels/code_gemm/variants.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/code_gemm.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::code_format;
using kernels::code_gemm_tile_args;
using kernels::code_tile_rows;
using tile_variant = kernels::variant<kernels::code_gemm_tile_fn>;

namespace {

/// The tiers that have a variant of their own, spelled out (see check_supported_variants).
constexpr std::string_view tiers_with_a_variant[] = {
#if LOWBIT_X86_64
    "avx512_vnni", "avx512bw", "avx_vnni", "avx2",
#elif LOWBIT_AARCH64
#if LOWBIT_DOTPROD_REGION
    "neon_dotprod",
#endif
    "neon",
#endif
    "portable",    "scalar"};

}  // namespace

TEST_CASE("code_gemm: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<kernels::code_gemm_tile_fn>(
      kernels::code_gemm_variants, tiers_with_a_variant, 1500,
      [](const auto& v) { return testing::check_code_gemm_variant(v, 2024); });
}

TEST_CASE("code_gemm: the variant table is in order") {
  const auto found =
      lowbit_test::check_variant_table<kernels::code_gemm_tile_fn>(kernels::code_gemm_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

TEST_CASE("code_gemm: the suite meets every format, length, number of runs and of tokens",
          "[any_isa]") {
  const auto cases = testing::detail::code_gemm_cases();
  const auto has = [&](auto holds) { return std::any_of(cases.begin(), cases.end(), holds); };
  using testing::detail::code_gemm_case;
  for (const index_t quads : {1U, 2U, 3U, 7U, 8U, 9U, 15U, 16U, 17U, 33U, 64U}) {
    CHECK(has([&](const code_gemm_case& c) { return c.quads == quads; }));
  }
  for (const index_t runs : {1U, 2U, 5U, 70U}) {
    CHECK(has([&](const code_gemm_case& c) { return c.runs == runs; }));
  }
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    for (const index_t tokens :
         {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U, 9U, 10U, 11U, 12U, 13U, 14U, 25U, 48U}) {
      CHECK(has(
          [&](const code_gemm_case& c) { return c.tokens == tokens && c.format.bits == bits; }));
    }
  }
  CHECK(has([](const code_gemm_case& c) { return c.tokens == 24 && c.format.planes > 1; }));
  for (unsigned planes = 1; planes <= 8; ++planes) {
    for (const std::int32_t step : {1, 2}) {
      CHECK(has([&](const code_gemm_case& c) {
        return c.format.planes == planes && c.format.code_step == step;
      }));
    }
  }
  for (unsigned planes = 1; planes <= 8; ++planes) {
    for (const index_t tokens : {1U, 2U, 3U, 7U, 10U, 25U}) {
      CHECK(has([&](const code_gemm_case& c) {
        return c.format.has_ratios && c.format.planes == planes && c.tokens == tokens;
      }));
    }
  }
  CHECK(has([](const code_gemm_case& c) { return c.prefetch == 0; }));
  CHECK(has([](const code_gemm_case& c) { return c.prefetch == 8192; }));
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// The contract in steps that a wrong variant overrides.
struct honest {
  /// What a code stands for.
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    return kernels::scalar::code_gemm_detail::code_at(f, quad, row, col);
  }
  /// The sum over the columns of a run.
  static std::int32_t dot(const std::vector<std::int32_t>& codes, const std::int8_t* x) {
    std::int32_t sum = 0;
    for (index_t k = 0; k < codes.size(); ++k) sum += codes[k] * x[k];
    return sum;
  }
  static std::int32_t value(const code_format& f, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return f.code_step * dot - zero * sum;
  }
  static float real(const code_format& f, const std::uint8_t* reals, index_t row) {
    return kernels::scalar::code_gemm_detail::real_at(f, reals, row);
  }
  static float add(float scale, float step, float v, float y) {
    return std::fma(scale * step, v, y);
  }
  static float add_offset(float offset, float step, float sum, float y) {
    return std::fma(offset * step, sum, y);
  }
  /// Changes the stored scale and the step to the two factors whose product is used.
  static void apply_ratio(const code_format& f, index_t plane, float& scale, float&) {
    if (f.has_ratios) scale *= f.ratios[plane];
  }
  static index_t plane(index_t p, index_t) { return p; }
  static constexpr bool offsets_first = false;
};

template <class Rules>
void tile(const code_gemm_tile_args& a) noexcept {
  const code_format& f = *a.format;
  std::vector<std::int32_t> codes(4 * a.quads);
  for (index_t g = 0; g < a.runs; ++g) {
    const std::uint8_t* const run = a.weights + g * f.run_bytes(a.quads);
    const std::uint8_t* const zeros = run + f.zeros_at(a.quads);
    const std::uint8_t* const offsets = run + f.offsets_at(a.quads);
    for (index_t r = 0; r < code_tile_rows; ++r) {
      const auto add_offsets = [&] {
        if (!f.has_offsets) return;
        for (index_t t = 0; t < a.tokens; ++t) {
          const index_t i = g * a.sum_stride + t;
          float& y = a.y[t * code_tile_rows + r];
          y = Rules::add_offset(Rules::real(f, offsets, r), a.steps == nullptr ? 1.0F : a.steps[i],
                                static_cast<float>(a.sums[i]), y);
        }
      };
      if (Rules::offsets_first) add_offsets();
      for (index_t plane = 0; plane < f.planes; ++plane) {
        const index_t p = Rules::plane(plane, f.planes);
        const std::uint8_t* const quads = run + f.codes_at(p, a.quads);
        for (index_t k = 0; k < codes.size(); ++k) {
          codes[k] = Rules::code(f, quads + k / 4 * 64 * f.bits, r, k % 4);
        }
        for (index_t t = 0; t < a.tokens; ++t) {
          const index_t i = g * a.sum_stride + t;
          const std::int32_t dot =
              Rules::dot(codes, a.activations + g * a.activation_stride + t * codes.size());
          const std::int32_t v = Rules::value(f, dot, f.has_zeros ? zeros[r] : f.zero, a.sums[i]);
          float& y = a.y[t * code_tile_rows + r];
          float scale = Rules::real(f, run + f.scales_at(p, a.quads), r);
          float step = a.steps == nullptr ? 1.0F : a.steps[i];
          Rules::apply_ratio(f, p, scale, step);
          y = Rules::add(scale, step, static_cast<float>(v), y);
        }
      }
      if (!Rules::offsets_first) add_offsets();
    }
  }
}

// Integers.
struct saturates_pairs : honest {  // as vpmaddubsw does
  static std::int32_t dot(const std::vector<std::int32_t>& codes, const std::int8_t* x) {
    std::int32_t sum = 0;
    for (index_t k = 0; k < codes.size(); k += 2) {
      sum += std::clamp(codes[k] * x[k] + codes[k + 1] * x[k + 1], -32768, 32767);
    }
    return sum;
  }
};
/// 16-bit sums of some columns of each quad, for codes of so many bits, that are emptied after
/// `Quads` quads: one too late.
template <unsigned Bits, index_t Columns, index_t Quads>
struct wraps_16_bit_sums : honest {
  static std::int32_t dot(const std::vector<std::int32_t>& codes, const std::int8_t* x) {
    if (*std::max_element(codes.begin(), codes.end()) >= 1 << Bits) return honest::dot(codes, x);
    std::int32_t sum = 0;
    std::int32_t narrow[4] = {};
    for (index_t k = 0; k < codes.size(); ++k) {
      narrow[k % 4 / Columns] += codes[k] * x[k];
      if ((k + 1) % (4 * Quads) != 0 && k + 1 != codes.size()) continue;
      for (std::int32_t& n : narrow) {
        sum += static_cast<std::int16_t>(n);
        n = 0;
      }
    }
    return sum;
  }
};
struct drops_the_lowest : honest {  // x = -128 as 127: |x| in signed bytes
  static std::int32_t dot(const std::vector<std::int32_t>& codes, const std::int8_t* x) {
    std::int32_t sum = 0;
    for (index_t k = 0; k < codes.size(); ++k) {
      sum += codes[k] * std::max<std::int32_t>(x[k], -127);
    }
    return sum;
  }
};
struct drops_the_last_quad : honest {
  static std::int32_t dot(const std::vector<std::int32_t>& codes, const std::int8_t* x) {
    const index_t whole = codes.size() > 32 ? codes.size() / 8 * 8 : codes.size();
    std::int32_t sum = 0;
    for (index_t k = 0; k < whole; ++k) sum += codes[k] * x[k];
    return sum;
  }
};
struct signed_codes : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    return static_cast<std::int8_t>(honest::code(f, quad, row, col));
  }
};
struct ignores_the_book : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    code_format plain = f;
    plain.has_book = false;
    return honest::code(plain, quad, row, col);
  }
};
struct swaps_sets_6_and_7_of_3_bits : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    return honest::code(f, quad, f.bits == 3 && row >= 96 ? row ^ 16U : row, col);
  }
};
struct swaps_high_bits_of_sets_6_and_7 : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    const std::int32_t code = honest::code(f, quad, row, col);
    if (f.bits != 3 || row < 96) return code;
    return (code & 3) | (honest::code(f, quad, row ^ 16U, col) & 4);
  }
};
struct mistakes_rows_past_64 : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    return honest::code(f, quad, row == 100 ? 101 : row, col);
  }
};
struct reverses_columns : honest {
  static std::int32_t code(const code_format& f, const std::uint8_t* quad, index_t row,
                           index_t col) {
    return honest::code(f, quad, row, 3 - col);
  }
};
struct forgets_the_zero : honest {
  static std::int32_t value(const code_format& f, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return honest::value(f, dot, f.has_zeros ? zero : 0, sum);
  }
};
struct forgets_the_zeros : honest {
  static std::int32_t value(const code_format& f, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return honest::value(f, dot, f.has_zeros ? f.zero : zero, sum);
  }
};
struct signed_zeros : honest {
  static std::int32_t value(const code_format& f, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return honest::value(f, dot, static_cast<std::int8_t>(zero), sum);
  }
};
struct ignores_the_code_step : honest {
  static std::int32_t value(const code_format&, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return dot - zero * sum;
  }
};
struct steps_the_zero_too : honest {
  static std::int32_t value(const code_format& f, std::int32_t dot, std::int32_t zero,
                            std::int32_t sum) {
    return f.code_step * (dot - zero * sum);
  }
};

// Floats.
struct rounds_products : honest {
  static float add(float scale, float step, float v, float y) {
    volatile float product = scale * step * v;  // a float, whatever may be fused
    return y + product;
  }
};
struct rounds_offset_products : honest {
  static float add_offset(float offset, float step, float sum, float y) {
    volatile float product = offset * step * sum;
    return y + product;
  }
};
struct steps_the_sum : honest {
  static float add(float scale, float step, float v, float y) {
    return std::fma(scale, step * v, y);
  }
};
struct forgets_the_step : honest {
  static float add(float scale, float, float v, float y) { return std::fma(scale, v, y); }
};
struct forgets_the_step_of_offsets : honest {
  static float add_offset(float offset, float, float sum, float y) {
    return std::fma(offset, sum, y);
  }
};
struct flushes_denormals : honest {
  static float add(float scale, float step, float v, float y) {
    const float product = scale * step;
    return std::fma(std::fabs(product) < std::numeric_limits<float>::min() ? 0.0F : product, v, y);
  }
};
struct flushes_small_halves : honest {
  static float real(const code_format& f, const std::uint8_t* reals, index_t row) {
    const float x = honest::real(f, reals, row);
    return !f.has_wide_scales && std::fabs(x) < 0x1p-14F ? 0.0F : x;
  }
};
struct narrow_scales : honest {
  static float real(const code_format& f, const std::uint8_t* reals, index_t row) {
    return to_float(from_float<float16>(honest::real(f, reals, row)));
  }
};
struct keeps_factors_in_double : honest {  // scale * step is to be rounded
  static float add(float scale, float step, float v, float y) {
    const double factor = static_cast<double>(scale) * static_cast<double>(step);
    return static_cast<float>(factor * static_cast<double>(v) + static_cast<double>(y));
  }
};
struct ignores_ratios : honest {
  static void apply_ratio(const code_format&, index_t, float&, float&) {}
};
struct ignores_a_late_ratio : honest {  // as if all planes had the first one's
  static void apply_ratio(const code_format& f, index_t, float& scale, float& step) {
    honest::apply_ratio(f, 0, scale, step);
  }
};
struct narrow_ratios : honest {
  static void apply_ratio(const code_format& f, index_t plane, float& scale, float& step) {
    code_format narrow = f;
    narrow.ratios[plane] = to_float(from_float<float16>(f.ratios[plane]));
    honest::apply_ratio(narrow, plane, scale, step);
  }
};
struct applies_ratios_to_steps : honest {  // the ratio meets the step first
  static void apply_ratio(const code_format& f, index_t plane, float&, float& step) {
    if (f.has_ratios) step *= f.ratios[plane];
  }
};
struct keeps_ratios_in_double : honest {  // scale * ratio is to be rounded
  static void apply_ratio(const code_format& f, index_t plane, float& scale, float& step) {
    if (!f.has_ratios) return;
    const double exact = static_cast<double>(scale) * static_cast<double>(f.ratios[plane]);
    scale = static_cast<float>(exact * static_cast<double>(step));
    step = 1.0F;
  }
};
struct takes_denormal_ratios_for_zero : honest {
  static void apply_ratio(const code_format& f, index_t plane, float& scale, float& step) {
    code_format flushed = f;
    if (std::fabs(f.ratios[plane]) < std::numeric_limits<float>::min()) flushed.ratios[plane] = 0;
    honest::apply_ratio(flushed, plane, scale, step);
  }
};
struct adds_offsets_first : honest {
  static constexpr bool offsets_first = true;
};
struct adds_planes_backwards : honest {
  static index_t plane(index_t p, index_t planes) { return planes - 1 - p; }
};

// Memory and shapes: the right tile, called wrongly.
void overwrites_y(const code_gemm_tile_args& a) noexcept {
  std::fill_n(a.y, a.tokens * code_tile_rows, 0.0F);
  kernels::scalar::code_gemm_tile(a);
}
void leaves_y_alone(const code_gemm_tile_args&) noexcept {}
void adds_runs_backwards(const code_gemm_tile_args& a) noexcept {
  for (index_t g = a.runs; g-- > 0;) {
    code_gemm_tile_args one = a;
    one.runs = 1;
    one.weights += g * a.format->run_bytes(a.quads);
    one.activations += g * a.activation_stride;
    one.sums += g * a.sum_stride;
    if (a.steps != nullptr) one.steps += g * a.sum_stride;
    kernels::scalar::code_gemm_tile(one);
  }
}
void ignores_the_activation_stride(const code_gemm_tile_args& a) noexcept {
  code_gemm_tile_args dense = a;
  dense.activation_stride = 4 * a.quads * a.tokens;
  kernels::scalar::code_gemm_tile(dense);
}
void ignores_the_sum_stride(const code_gemm_tile_args& a) noexcept {
  code_gemm_tile_args dense = a;
  dense.sum_stride = a.tokens;
  kernels::scalar::code_gemm_tile(dense);
}
void drops_runs_past_a_panel(const code_gemm_tile_args& a) noexcept {
  code_gemm_tile_args some = a;
  some.runs = std::min<index_t>(a.runs, 64);
  kernels::scalar::code_gemm_tile(some);
}
void skips_the_last_of_25_tokens(const code_gemm_tile_args& a) noexcept {
  code_gemm_tile_args some = a;
  some.tokens = std::min<index_t>(a.tokens, 24);
  kernels::scalar::code_gemm_tile(some);
}
void skips_the_seventh_token(const code_gemm_tile_args& a) noexcept {
  code_gemm_tile_args some = a;
  some.tokens = a.tokens == 7 ? 6 : a.tokens;
  kernels::scalar::code_gemm_tile(some);
}
void writes_another_token(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  a.y[a.tokens * code_tile_rows + 5] = 0.0F;
}
void writes_before_y(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  a.y[-1] = 0.0F;
}
template <class T>
void spoil(const T* p) noexcept {
  T value = *p;
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  bytes[0] ^= 1U;
  std::memcpy(const_cast<T*>(p), bytes, sizeof(T));
}
void changes_the_weights(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  spoil(a.weights);
}
void changes_the_activations(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  spoil(a.activations);
}
void changes_the_sums(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  spoil(a.sums);
}
void changes_the_steps(const code_gemm_tile_args& a) noexcept {
  kernels::scalar::code_gemm_tile(a);
  if (a.steps != nullptr) spoil(a.steps);
}

/// The first case of the suite that a function fails, or an empty name.
testing::finding first_failure(kernels::code_gemm_tile_fn run) {
  for (const auto& c : testing::detail::code_gemm_cases()) {
    testing::findings list;
    testing::detail::check_code_gemm_case(list, c, 1, run);
    if (!list.front().passed) return list.front();
  }
  return {"", true, ""};
}

}  // namespace

TEST_CASE("code_gemm: the conformance suite finds wrong variants", "[any_isa][not_sanitized]") {
  const tile_variant wrong[] = {
      {"saturates pairs", cpu::none, &tile<saturates_pairs>},
      {"16-bit sums of two 4-bit codes wrap", cpu::none, &tile<wraps_16_bit_sums<4, 2, 9>>},
      {"16-bit sums of two 3-bit codes wrap", cpu::none, &tile<wraps_16_bit_sums<3, 2, 19>>},
      {"16-bit sums of two 2-bit codes wrap", cpu::none, &tile<wraps_16_bit_sums<2, 2, 43>>},
      {"16-bit sums of one 4-bit code wrap", cpu::none, &tile<wraps_16_bit_sums<4, 1, 18>>},
      {"-128 as -127", cpu::none, &tile<drops_the_lowest>},
      {"drops the last quad", cpu::none, &tile<drops_the_last_quad>},
      {"signed codes", cpu::none, &tile<signed_codes>},
      {"ignores the book", cpu::none, &tile<ignores_the_book>},
      {"swaps sets 6 and 7", cpu::none, &tile<swaps_sets_6_and_7_of_3_bits>},
      {"swaps high bits of sets 6 and 7", cpu::none, &tile<swaps_high_bits_of_sets_6_and_7>},
      {"mistakes a row past 64", cpu::none, &tile<mistakes_rows_past_64>},
      {"reverses columns", cpu::none, &tile<reverses_columns>},
      {"forgets the zero", cpu::none, &tile<forgets_the_zero>},
      {"forgets the zeros", cpu::none, &tile<forgets_the_zeros>},
      {"signed zeros", cpu::none, &tile<signed_zeros>},
      {"ignores the code step", cpu::none, &tile<ignores_the_code_step>},
      {"steps the zero too", cpu::none, &tile<steps_the_zero_too>},
      {"rounds products", cpu::none, &tile<rounds_products>},
      {"rounds products of offsets", cpu::none, &tile<rounds_offset_products>},
      {"steps the sum", cpu::none, &tile<steps_the_sum>},
      {"forgets the step", cpu::none, &tile<forgets_the_step>},
      {"forgets the step of offsets", cpu::none, &tile<forgets_the_step_of_offsets>},
      {"flushes denormals", cpu::none, &tile<flushes_denormals>},
      {"flushes small halves", cpu::none, &tile<flushes_small_halves>},
      {"narrow scales", cpu::none, &tile<narrow_scales>},
      {"keeps factors in double", cpu::none, &tile<keeps_factors_in_double>},
      {"ignores ratios", cpu::none, &tile<ignores_ratios>},
      {"ignores all ratios but one", cpu::none, &tile<ignores_a_late_ratio>},
      {"narrow ratios", cpu::none, &tile<narrow_ratios>},
      {"applies ratios to steps", cpu::none, &tile<applies_ratios_to_steps>},
      {"keeps ratios in double", cpu::none, &tile<keeps_ratios_in_double>},
      {"takes denormal ratios for zero", cpu::none, &tile<takes_denormal_ratios_for_zero>},
      {"adds offsets first", cpu::none, &tile<adds_offsets_first>},
      {"adds planes backwards", cpu::none, &tile<adds_planes_backwards>},
      {"adds runs backwards", cpu::none, &adds_runs_backwards},
      {"overwrites y", cpu::none, &overwrites_y},
      {"leaves y alone", cpu::none, &leaves_y_alone},
      {"ignores the stride of activations", cpu::none, &ignores_the_activation_stride},
      {"ignores the stride of sums", cpu::none, &ignores_the_sum_stride},
      {"drops runs past a panel", cpu::none, &drops_runs_past_a_panel},
      {"skips the last of 25 tokens", cpu::none, &skips_the_last_of_25_tokens},
      {"skips the seventh token", cpu::none, &skips_the_seventh_token},
      {"writes another token", cpu::none, &writes_another_token},
      {"writes before y", cpu::none, &writes_before_y},
      {"changes the weights", cpu::none, &changes_the_weights},
      {"changes the activations", cpu::none, &changes_the_activations},
      {"changes the sums", cpu::none, &changes_the_sums},
      {"changes the steps", cpu::none, &changes_the_steps},
  };
  for (const tile_variant& v : wrong) {
    if (lowbit_test::is_sanitized && (&v - wrong) % 4 != 0) continue;
    INFO(v.name);
    CHECK_FALSE(first_failure(v.run).check.empty());
  }
  // What they are built on is right, and the whole suite says no as its single cases do.
  CHECK(
      testing::all_passed(testing::check_code_gemm_variant({"honest", cpu::none, &tile<honest>})));
  const auto found = testing::check_code_gemm_variant({"wrong", cpu::none, &leaves_y_alone});
  CHECK_FALSE(testing::all_passed(found));
  CHECK(found.size() > 1500);
}

TEST_CASE("code_gemm: the conformance suite says what it saw", "[any_isa]") {
  const auto says = [](kernels::code_gemm_tile_fn run, std::string_view text) {
    return first_failure(run).detail.find(text) != std::string::npos;
  };
  CHECK(says(&leaves_y_alone, "not written"));
  CHECK(says(&skips_the_seventh_token, "token 6, row 0: "));
  CHECK(says(&tile<mistakes_rows_past_64>, "row 100: "));
  CHECK(says(&tile<rounds_products>, "units in the last place away"));
  CHECK(says(&writes_another_token, "wrote outside y, at index "));
  CHECK(says(&writes_before_y, "wrote outside y, at index -1"));
  CHECK(says(&changes_the_weights, "changed the weights"));
  CHECK(says(&changes_the_activations, "changed the activations"));
  CHECK(says(&changes_the_sums, "changed the sums"));
  CHECK(says(&changes_the_steps, "changed the steps"));
}

TEST_CASE("code_gemm: a variant that cannot run here is a failed finding, not a crash") {
  const cpu::cpu_set impossible = cpu::avx2 | cpu::neon;  // no machine has both
  const auto found = testing::check_code_gemm_variant({"chimera", impossible, nullptr});
  REQUIRE(found.size() == 1);
  CHECK(found[0].check == "runs_here");
  CHECK_FALSE(found[0].passed);
  CHECK(testing::failures(found).find("chimera") != std::string::npos);
}

// The scalar variant is a constant expression, and its fused() rounds once ------------------------
namespace {

constexpr std::array<float, 2 * code_tile_rows> constant_sums() {
  // 2-bit codes: row r has r % 4 in all 4 columns; scale 0.5, zero 1, offset -0.25. Two tokens.
  constexpr code_format format{.bits = 2, .zero = 1, .has_offsets = true};
  constexpr index_t codes_at = 2 * code_tile_rows;
  constexpr index_t offsets_at = codes_at + 2 * 64;
  std::array<std::uint8_t, format.run_bytes(1)> weights{};
  for (index_t r = 0; r < code_tile_rows; ++r) {
    weights[2 * r + 1] = 0x38;
    weights[offsets_at + 2 * r + 1] = 0xb4;
    for (index_t k = 0; k < 4; ++k) {
      const kernels::code_place at = kernels::code_place::of(2, r);
      std::uint8_t& byte = weights[codes_at + 64 * at.line + 4 * (r % 16) + k];
      byte = static_cast<std::uint8_t>(byte | r % 4 << at.shift);
    }
  }
  const std::array<std::int8_t, 8> x{1, 2, 3, 4, -128, 127, 0, 0};
  const std::array<std::int32_t, 2> sums{10, -1};
  const std::array<float, 2> steps{1.0F, 4.0F};
  std::array<float, 2 * code_tile_rows> y{};
  y.fill(1.0F);
  kernels::scalar::code_gemm_tile({.weights = weights.data(),
                                   .activations = x.data(),
                                   .sums = sums.data(),
                                   .steps = steps.data(),
                                   .y = y.data(),
                                   .runs = 1,
                                   .quads = 1,
                                   .tokens = 2,
                                   .activation_stride = 8,
                                   .sum_stride = 2,
                                   .prefetch = 0,
                                   .format = &format});
  return y;
}
constexpr bool constant_sums_are_right() {
  const auto y = constant_sums();
  for (index_t r = 0; r < code_tile_rows; ++r) {
    const auto code = static_cast<float>(r % 4);
    if (y[r] != 1.0F + 0.5F * (10.0F * code - 10.0F) - 2.5F) return false;
    if (y[code_tile_rows + r] != 1.0F + 2.0F * (1.0F - code) + 1.0F) return false;
  }
  return true;
}
static_assert(constant_sums_are_right());
static_assert(kernels::select_code_gemm(cpu::none).name == "scalar");
static_assert(kernels::select_code_gemm(cpu::portable_simd).name == "portable");

using kernels::scalar::code_gemm_detail::fused;
static_assert(fused(0x1.000002p0F, 0x1.000002p0F, -0x1.000004p0F) == 0x1p-46F);
static_assert(fused(0x1.000002p0F, 0x1.000002p0F, 0x1p30F) == 0x1p30F);
// 2^-46 of the product, lost in double, is what keeps the sum from a tie.
static_assert(fused(0x1.000002p-12F, 0x1.fffffcp-13F, 0x1.000002p0F) == 0x1.000002p0F);

}  // namespace

TEST_CASE("code_gemm: the scalar variant gives at run time what it gives at compile time") {
  constexpr auto at_compile_time = constant_sums();
  CHECK(constant_sums() == at_compile_time);
}

TEST_CASE("code_gemm: the scalar variant's fused() is a fused multiply-add") {
  std::uint64_t drawn = 0;
  // Of any exponent in [low, high), with 24 random bits.
  const auto draw = [&](int low, int high) {
    const std::uint64_t bits = random_bits(77, drawn++);
    const auto range = static_cast<std::uint64_t>(high - low);
    const auto exponent = low + static_cast<int>((bits >> 32U) % range);
    const float x = std::ldexp(1.0F + random_uniform(78, drawn++) * 0.99999F, exponent);
    return (bits & 1U) != 0 ? -x : x;
  };
  std::size_t wrong = 0;
  const auto check = [&](float a, float b, float c) {
    if (std::bit_cast<std::uint32_t>(fused(a, b, c)) !=
            std::bit_cast<std::uint32_t>(std::fma(a, b, c)) &&
        wrong++ < 10) {
      UNSCOPED_INFO(a << " * " << b << " + " << c << " is " << fused(a, b, c) << " instead of "
                      << std::fma(a, b, c));
    }
  };
  for (int i = 0; i < 200000; ++i) {
    check(draw(-10, 10), draw(-10, 10), draw(-30, 30));
    check(draw(-149, 0), draw(-30, 0), draw(-149, -120));  // denormal sums
    check(draw(-40, 40), draw(-40, 40), draw(-100, 100));  // one far below the other
    const float a = draw(-10, 10);
    const float b = draw(-10, 10);
    check(a, b, -a * b);  // cancellation
    // Half of the last place of c, but for 2^-46 of it: a tie once it is rounded to double.
    const float c = draw(0, 1);
    const float last = static_cast<float>(i % 2048) * 0x1p-23F;
    check((1.0F + last) * 0x1p-12F, (1.0F - last) * 0x1p-12F, c);
    check((1.0F + last) * -0x1p-12F, (1.0F - last) * 0x1p-12F, c);
  }
  for (const float zero : {0.0F, -0.0F}) {
    for (const float other : {0.0F, -0.0F, 1.0F, -1.0F}) {
      for (const float c : {0.0F, -0.0F, 0x1p-149F, 2.0F}) check(zero, other, c);
    }
  }
  check(0x1.fffffep127F, 2.0F, 0.0F);
  check(0x1.fffffep127F, 1.0F, 0x1p103F);
  check(-0x1.fffffep127F, 1.0F, -0x1p102F);
  CHECK(wrong == 0);
}
