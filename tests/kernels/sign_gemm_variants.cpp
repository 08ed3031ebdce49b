// Every variant of the signs x activations kernel against its contract, and the suite against
// variants that are wrong on purpose.
#include "lowbit/kernels/sign_gemm/variants.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "catch.hpp"
#include "lowbit/testing/sign_gemm.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::sign_gemm_block_args;
using kernels::sign_gemm_functions;
using kernels::sign_table_args;
namespace scalar = kernels::scalar;

namespace {

/// The tiers that have a variant of their own, spelled out (see check_supported_variants).
constexpr std::string_view tiers_with_a_variant[] = {
#if LOWBIT_X86_64
    "avx512_vbmi_vnni", "avx2",
#elif LOWBIT_AARCH64
    "neon",
#endif
    "scalar"};

}  // namespace

TEST_CASE("sign_gemm: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<sign_gemm_functions>(
      kernels::sign_gemm_variants, tiers_with_a_variant, 1500,
      [](const auto& v) { return testing::check_sign_gemm_variant(v, 2024); });
}

TEST_CASE("sign_gemm: the variant table is in order, and any weights have a reader") {
  const auto found =
      lowbit_test::check_variant_table<sign_gemm_functions>(kernels::sign_gemm_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
  for (const auto& v : kernels::sign_gemm_variants) {
    for (const index_t interleave : {1U, 4U}) {
      CHECK(kernels::select_sign_gemm(v.needs, interleave).run.reads(interleave));
      if (!v.run.reads(interleave)) continue;
      CHECK(kernels::select_sign_gemm(v.needs, interleave).name == v.name);
    }
  }
}

TEST_CASE("sign_gemm: sums of the longest rows fit, whatever a variant scales them by",
          "[any_isa]") {
  constexpr index_t groups = kernels::sign_max_groups;
  constexpr index_t bytes =
      kernels::sign_head_bytes + groups / kernels::sign_step_groups * kernels::sign_step_bytes;
  for (const bool is_minus : {false, true}) {
    aligned_buffer<std::uint8_t> weights(
        bytes);  // the last pattern and minus, or the first and plus
    if (is_minus) std::fill(weights.begin(), weights.end(), std::uint8_t{255});
    aligned_buffer<std::uint32_t> negatives(kernels::sign_tile_rows);
    std::fill(negatives.begin(), negatives.end(), is_minus ? std::uint32_t{groups} : 0U);
    std::memcpy(weights.data(), negatives.data(), kernels::sign_head_bytes);
    aligned_buffer<std::uint8_t> tables(groups * kernels::sign_table_bytes);
    std::fill(tables.begin(), tables.end(), std::uint8_t{255});
    for (const auto& v : kernels::sign_gemm_variants) {
      if (!v.is_supported(cpu::detect()) || v.run == scalar::sign_gemm) continue;
      aligned_buffer<std::int32_t> sums(kernels::sign_tile_rows);
      v.run.block({.weights = weights.data(),
                   .tables = tables.data(),
                   .sums = sums.data(),
                   .groups = groups,
                   .tiles = 1,
                   .tokens = 1,
                   .table_stride = tables.size(),
                   .interleave = v.run.interleave,
                   .prefetch = 0});
      const std::int32_t expected = (is_minus ? -127 : 127) * static_cast<std::int32_t>(groups);
      INFO(v.name);
      CHECK(std::count(sums.begin(), sums.end(), expected) ==
            static_cast<std::ptrdiff_t>(kernels::sign_tile_rows));
    }
  }
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

void right_block(const sign_gemm_block_args& a) noexcept { scalar::sign_gemm_block(a); }
/// What to take off for 128, whatever the signs; `Per` for each negative one.
template <int Per>
void forgets_the_middle(const sign_gemm_block_args& a) noexcept {
  scalar::sign_gemm_block(a);
  for (index_t tile = 0; tile < a.tiles; ++tile) {
    for (index_t i = 0; i < a.tokens * kernels::sign_tile_rows; ++i) {
      std::int32_t negatives = 0;
      const index_t r = i % kernels::sign_tile_rows;
      std::memcpy(&negatives, a.weights + tile * kernels::sign_head_bytes + 4 * r, 4);
      const std::int32_t middle = 128 * static_cast<std::int32_t>(a.groups) - Per * negatives;
      a.sums[tile * a.tokens * kernels::sign_tile_rows + i] += middle;
    }
  }
}
/// Some or all signs of fifth columns as if they were plus.
template <unsigned Mask>
void mistakes_signs(const sign_gemm_block_args& a) noexcept {
  const index_t bytes = a.tiles * (kernels::sign_head_bytes +
                                   a.groups / kernels::sign_step_groups * kernels::sign_step_bytes);
  aligned_buffer<std::uint8_t> weights(bytes);
  std::copy_n(a.weights, bytes, weights.data());
  for (index_t at = a.tiles * kernels::sign_head_bytes; at != bytes;
       at += kernels::sign_step_bytes) {
    for (index_t i = kernels::sign_pattern_bytes; i < kernels::sign_step_bytes; ++i) {
      weights[at + i] = static_cast<std::uint8_t>(weights[at + i] & Mask);
    }
  }
  sign_gemm_block_args b = a;
  b.weights = weights.data();
  scalar::sign_gemm_block(b);
}
void wraps_at_16_bits(const sign_gemm_block_args& a) noexcept {
  scalar::sign_gemm_block(a);
  for (index_t i = 0; i < a.tiles * a.tokens * kernels::sign_tile_rows; ++i) {
    a.sums[i] = static_cast<std::int16_t>(a.sums[i]);
  }
}
void drops_the_last_groups(const sign_gemm_block_args& a) noexcept {
  sign_gemm_block_args b = a;
  b.groups = a.groups / 16 * 16;
  scalar::sign_gemm_block(b);
}
void drops_the_last_tile(const sign_gemm_block_args& a) noexcept {
  sign_gemm_block_args b = a;
  b.tiles = a.tiles == 4 ? 3 : a.tiles;
  scalar::sign_gemm_block(b);
}
void drops_the_seventh_token(const sign_gemm_block_args& a) noexcept {
  sign_gemm_block_args b = a;
  b.tokens = a.tokens == 7 ? 6 : a.tokens;
  scalar::sign_gemm_block(b);
}
void ignores_the_stride(const sign_gemm_block_args& a) noexcept {
  sign_gemm_block_args b = a;
  b.table_stride = a.groups * kernels::sign_table_bytes;
  scalar::sign_gemm_block(b);
}
void takes_another_interleave(const sign_gemm_block_args& a) noexcept {
  sign_gemm_block_args b = a;
  b.interleave = 5 - a.interleave;
  scalar::sign_gemm_block(b);
}
void writes_behind_the_sums(const sign_gemm_block_args& a) noexcept {
  scalar::sign_gemm_block(a);
  a.sums[a.tiles * a.tokens * kernels::sign_tile_rows] = 0;
}
void ignores_chunks(const sign_gemm_block_args& a) noexcept {  // all groups of a tile in a row
  for (index_t tile = 0; tile < a.tiles; ++tile) {
    sign_gemm_block_args b = a;
    b.tiles = 1;
    b.weights = a.weights + (a.tiles - 1) * kernels::sign_head_bytes +
                tile * (a.groups / kernels::sign_step_groups * kernels::sign_step_bytes);
    b.sums = a.sums + tile * a.tokens * kernels::sign_tile_rows;
    scalar::sign_gemm_block(b);
  }
}

/// Column j of group g with the sign that pattern e gives it: the fifth is added.
float signed_column(const sign_table_args& a, index_t g, unsigned e, unsigned j) {
  const index_t k = kernels::sign_group_columns * g + j;
  const float z = k < a.count ? a.x[k] : 0.0F;
  return j == 4 || (e >> j & 1U) != 0 ? z : -z;
}
/// The tables with another rounding.
template <int (*Round)(float, float)>
void build_by(const sign_table_args& a) noexcept {
  for (index_t g = 0; g < a.groups; ++g) {
    for (unsigned e = 0; e < 16; ++e) {
      float v = signed_column(a, g, e, 0);
      for (unsigned j = 1; j < 5; ++j) v += signed_column(a, g, e, j);
      a.tables[g * 16 + e] = static_cast<std::uint8_t>(128 + Round(v, a.inverse_step));
    }
  }
}
int right_rounding(float v, float inverse) {
  return static_cast<int>(std::nearbyint(static_cast<double>(v) * static_cast<double>(inverse)));
}
int away_from_zero(float v, float inverse) {
  return static_cast<int>(std::round(static_cast<double>(v) * static_cast<double>(inverse)));
}
int truncated(float v, float inverse) { return static_cast<int>(v * inverse); }
int clamped(float v, float inverse) { return std::min(126, right_rounding(v, inverse)); }
void sums_in_another_order(const sign_table_args& a) noexcept {
  for (index_t g = 0; g < a.groups; ++g) {
    for (unsigned e = 0; e < 16; ++e) {
      float z[5];
      for (unsigned j = 0; j < 5; ++j) z[j] = signed_column(a, g, e, j);
      a.tables[g * 16 + e] = static_cast<std::uint8_t>(
          128 + right_rounding(((z[0] + z[1]) + (z[2] + z[3])) + z[4], a.inverse_step));
    }
  }
}
void leaves_padding_alone(const sign_table_args& a) noexcept {
  sign_table_args b = a;
  b.groups = div_up(a.count, 5);
  scalar::sign_tables(b);
}
std::uint32_t limit_of_whole_groups(const float* x, index_t count) noexcept {
  return scalar::sign_limit(x, std::max<index_t>(1, count / 5 * 5));
}
std::uint32_t limit_of_pairs(const float* x, index_t count) noexcept {
  std::uint32_t limit = 0;
  for (index_t k = 0; k < count; k += 5) {
    float pairs[3] = {};
    for (index_t j = 0; j < 5 && k + j < count; ++j) pairs[j / 2] += std::fabs(x[k + j]);
    limit = std::max(limit, std::bit_cast<std::uint32_t>((pairs[0] + pairs[1]) + pairs[2]));
  }
  return limit;
}
std::uint32_t limit_without_nan(const float* x, index_t count) noexcept {
  float limit = 0.0F;
  for (index_t k = 0; k < count; k += 5) {
    const float sum =
        std::bit_cast<float>(scalar::sign_limit(x + k, std::min<index_t>(5, count - k)));
    if (sum > limit) limit = sum;
  }
  return std::bit_cast<std::uint32_t>(limit);
}

}  // namespace

TEST_CASE("sign_gemm: the conformance suite finds wrong variants", "[any_isa]") {
  const auto passes = [](kernels::sign_limit_fn limit, kernels::sign_table_fn build,
                         kernels::sign_gemm_block_fn block) {
    return testing::all_passed(
        testing::check_sign_gemm_variant({"mutant", cpu::none, {limit, build, block, 0}}, 7));
  };
  const auto right = scalar::sign_gemm;
  REQUIRE(passes(right.limit, &build_by<right_rounding>, &right_block));
  for (const auto wrong :
       {&forgets_the_middle<0>, &forgets_the_middle<256>, &mistakes_signs<0>, &mistakes_signs<254>,
        &mistakes_signs<127>, &wraps_at_16_bits, &drops_the_last_groups, &drops_the_last_tile,
        &drops_the_seventh_token, &ignores_the_stride, &takes_another_interleave,
        &writes_behind_the_sums, &ignores_chunks}) {
    CHECK_FALSE(passes(right.limit, right.build, wrong));
  }
  for (const auto wrong : {&build_by<away_from_zero>, &build_by<truncated>, &build_by<clamped>,
                           &sums_in_another_order, &leaves_padding_alone}) {
    CHECK_FALSE(passes(right.limit, wrong, right.block));
  }
  for (const auto wrong : {&limit_of_whole_groups, &limit_of_pairs, &limit_without_nan}) {
    CHECK_FALSE(passes(wrong, right.build, right.block));
  }
  const auto missing = testing::check_sign_gemm_variant({"none", cpu::cpu_set{~0ULL}, {}});
  CHECK(missing.size() == 1);
  CHECK_FALSE(testing::all_passed(missing));
}

// The scalar variant is a constant expression ----------------------------------------------------
namespace {

constexpr std::array<std::uint8_t, 128> constant_tables() {
  const std::array<float, 3> x{1.0F, 2.0F, -4.0F};  // and two columns of zero
  std::array<std::uint8_t, 128> tables{};
  scalar::sign_tables(
      {.x = x.data(), .count = 3, .inverse_step = 0.5F, .tables = tables.data(), .groups = 8});
  return tables;
}
static_assert(constant_tables()[0b0011] == 128 + 4);  // (1 + 2 + 4) / 2 = 3.5, to even
static_assert(constant_tables()[0b1110] == 128 - 2);  // (-1 + 2 - 4) / 2 = -1.5
static_assert(constant_tables()[0b0100] == 128 - 4);  // (-1 - 2 - 4) / 2
static_assert(constant_tables()[127] == 128);         // padding
static_assert(kernels::select_sign_gemm(cpu::none).name == "scalar");

}  // namespace
