// Every variant of the planes x planes kernel against its contract, and the suite against variants
// that are wrong on purpose.
#include "lowbit/kernels/bit_gemm/variants.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/testing/bit_gemm.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::bit_gemm_tile_args;
using kernels::bit_gemm_tile_rows;
using tile_variant = kernels::variant<kernels::bit_gemm_tile_fn>;

namespace {

/// The tiers that have a variant of their own, spelled out (see check_supported_variants).
constexpr std::string_view tiers_with_a_variant[] = {
#if LOWBIT_X86_64
    "avx512_vpopcntdq", "avx512bw", "avx2",
#elif LOWBIT_AARCH64
    "neon",
#endif
    "portable", "scalar"};

}  // namespace

TEST_CASE("bit_gemm: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<kernels::bit_gemm_tile_fn>(
      kernels::bit_gemm_variants, tiers_with_a_variant, 700,
      [](const auto& v) { return testing::check_bit_gemm_variant(v, 2024); });
}

TEST_CASE("bit_gemm: the variant table is in order") {
  const auto found =
      lowbit_test::check_variant_table<kernels::bit_gemm_tile_fn>(kernels::bit_gemm_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

TEST_CASE("bit_gemm: the checks of a variant table find what is wrong with one") {
  using table = std::vector<kernels::variant<int>>;
  const auto passes = [](const table& t) {
    return testing::all_passed(lowbit_test::check_variant_table<int>(t));
  };
  const kernels::variant<int> scalar{"scalar", cpu::none, 1};
  const kernels::variant<int> portable{"portable", cpu::portable_simd, 1};
  const cpu::tier& best = *(std::end(cpu::tiers) - 1);
  const kernels::variant<int> wide{best.name, best.features, 1};
  CHECK(passes({wide, portable, scalar}));
  CHECK_FALSE(passes({}));
  CHECK_FALSE(passes({wide, portable}));                      // no scalar
  CHECK_FALSE(passes({scalar, portable}));                    // scalar hides portable
  CHECK_FALSE(passes({portable, wide, scalar}));              // portable hides the best
  CHECK_FALSE(passes({wide, wide, scalar}));                  // twice
  CHECK_FALSE(passes({wide, {"scalar", cpu::none, 0}}));      // no function
  CHECK_FALSE(passes({{"scalar", cpu::portable_simd, 1}}));   // a scalar that needs something
  CHECK_FALSE(passes({{"zen5", best.features, 1}, scalar}));  // named after no tier
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// The contract with one step replaced: count(a, i, j, token, row) is what planes i and j add.
template <class Count>
void tile(const bit_gemm_tile_args& a, Count count) {
  for (index_t t = 0; t < a.tokens; ++t) {
    for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
      std::int64_t sum = 0;
      for (unsigned i = 0; i < a.weight_planes; ++i) {
        for (unsigned j = 0; j < a.activation_planes; ++j) sum += count(i, j, t, r);
      }
      a.sums[t * bit_gemm_tile_rows + r] = sum;
    }
  }
}

std::uint64_t both(const bit_gemm_tile_args& a, unsigned i, unsigned j, index_t t, index_t r,
                   index_t k) {
  return a.weight_plane(i)[k * bit_gemm_tile_rows + r] & a.activation_plane(t, j)[k];
}

std::int64_t ones(const bit_gemm_tile_args& a, unsigned i, unsigned j, index_t t, index_t r,
                  index_t words) {
  std::int64_t n = 0;
  for (index_t k = 0; k < words; ++k) n += std::popcount(both(a, i, j, t, r, k));
  return n;
}

void drops_last_word(const bit_gemm_tile_args& a) noexcept {
  tile(a, [&](unsigned i, unsigned j, index_t t, index_t r) {
    return ones(a, i, j, t, r, a.words - 1) << (i + j);
  });
}
void drops_words_after_the_last_block(const bit_gemm_tile_args& a) noexcept {
  tile(a, [&](unsigned i, unsigned j, index_t t, index_t r) {
    return ones(a, i, j, t, r, a.words < 16 ? a.words : a.words / 16 * 16) << (i + j);
  });
}
void accumulates(const bit_gemm_tile_args& a) noexcept {
  std::vector<std::int64_t> before(a.sums, a.sums + a.tokens * bit_gemm_tile_rows);
  kernels::scalar::bit_gemm_tile(a);
  for (index_t i = 0; i < before.size(); ++i) a.sums[i] += before[i];
}
/// Counters of `Bits` neighbouring bits each, which forget multiples of Modulus.
template <index_t Bits, std::int64_t Modulus>
void wraps(const bit_gemm_tile_args& a) noexcept {
  tile(a, [&](unsigned i, unsigned j, index_t t, index_t r) {
    std::int64_t sum = 0;
    for (index_t bit = 0; bit < 64; bit += Bits) {
      std::int64_t counter = 0;
      for (index_t k = 0; k < a.words; ++k) {
        counter += std::popcount((both(a, i, j, t, r, k) >> bit) & layout::low_bits(Bits));
      }
      sum += counter % Modulus;
    }
    return sum << (i + j);
  });
}
void sums_in_32_bits(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  for (index_t i = 0; i < a.tokens * bit_gemm_tile_rows; ++i) {
    a.sums[i] = static_cast<std::int64_t>(static_cast<std::uint32_t>(a.sums[i]));
  }
}
void sums_in_float(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  for (index_t i = 0; i < a.tokens * bit_gemm_tile_rows; ++i) {
    a.sums[i] = static_cast<std::int64_t>(static_cast<float>(a.sums[i]));
  }
}
void ignores_the_stride(const bit_gemm_tile_args& a) noexcept {
  bit_gemm_tile_args dense = a;
  dense.activation_stride = a.activation_planes * a.plane_stride();
  kernels::scalar::bit_gemm_tile(dense);
}
void ignores_plane_words(const bit_gemm_tile_args& a) noexcept {
  bit_gemm_tile_args dense = a;
  dense.plane_words = a.words;
  kernels::scalar::bit_gemm_tile(dense);
}
void confuses_plane_counts(const bit_gemm_tile_args& a) noexcept {
  tile(a, [&](unsigned i, unsigned j, index_t t, index_t r) {
    return ones(a, i, j, t, r, a.words) << (i + std::min(j, 6U));
  });
}
void swaps_rows(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  std::swap(a.sums[2], a.sums[3]);
}
void skips_the_fifth_token(const bit_gemm_tile_args& a) noexcept {
  bit_gemm_tile_args four = a;
  four.tokens = std::min<index_t>(a.tokens, 4);
  kernels::scalar::bit_gemm_tile(four);
}
void merges_tokens_of_short_runs(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  if (a.words > 1 || a.weight_planes > 1 || a.tokens < 8) return;
  std::copy_n(a.sums, bit_gemm_tile_rows, a.sums + 7 * bit_gemm_tile_rows);
}
void writes_a_ninth_row(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  a.sums[a.tokens * bit_gemm_tile_rows] = 0;
}
void writes_before_the_sums(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  a.sums[-1] = 0;
}
void clears_its_input(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  const_cast<std::uint64_t*>(a.activations)[0] = 0;
}
void misreads_one_bit(const bit_gemm_tile_args& a) noexcept {
  kernels::scalar::bit_gemm_tile(a);
  const std::uint64_t sign = std::uint64_t{1} << 63U;
  // The top bit of the last word counts only together with the bit below it.
  for (unsigned i = 0; i < a.weight_planes; ++i) {
    for (unsigned j = 0; j < a.activation_planes; ++j) {
      const std::uint64_t word = both(a, i, j, 0, 7, a.words - 1);
      if ((word & sign) != 0 && (word & (sign >> 1U)) == 0) a.sums[7] -= std::int64_t{1} << (i + j);
    }
  }
}

}  // namespace

TEST_CASE("bit_gemm: the conformance suite finds wrong variants", "[any_isa][not_sanitized]") {
  const tile_variant wrong[] = {
      {"drops the last word", cpu::none, &drops_last_word},
      {"drops what follows the last block", cpu::none, &drops_words_after_the_last_block},
      {"accumulates", cpu::none, &accumulates},
      {"byte counters wrap", cpu::none, &wraps<8, 256>},
      {"byte counters of 16-word blocks wrap", cpu::none, &wraps<8, 16 * 256>},
      {"16-bit counters wrap", cpu::none, &wraps<64, 65536>},
      {"sums in 32 bits", cpu::none, &sums_in_32_bits},
      {"sums in float", cpu::none, &sums_in_float},
      {"ignores the stride", cpu::none, &ignores_the_stride},
      {"ignores the words between planes", cpu::none, &ignores_plane_words},
      {"plane 7 counts as plane 6", cpu::none, &confuses_plane_counts},
      {"swaps two rows", cpu::none, &swaps_rows},
      {"skips the fifth token", cpu::none, &skips_the_fifth_token},
      {"merges tokens of short runs", cpu::none, &merges_tokens_of_short_runs},
      {"writes a ninth row", cpu::none, &writes_a_ninth_row},
      {"writes before the sums", cpu::none, &writes_before_the_sums},
      {"clears its input", cpu::none, &clears_its_input},
      {"misreads one bit", cpu::none, &misreads_one_bit},
  };
  for (const tile_variant& v : wrong) {
    if (lowbit_test::is_sanitized && (&v - wrong) % 4 != 0) continue;
    INFO(v.name);
    const auto found = testing::check_bit_gemm_variant(v);
    CHECK_FALSE(testing::all_passed(found));
    CHECK(found.size() > 700);
  }
}

TEST_CASE("bit_gemm: the conformance suite says what it saw", "[any_isa]") {
  const auto first_failure = [](kernels::bit_gemm_tile_fn run) {
    const auto found = testing::check_bit_gemm_variant({"wrong", cpu::none, run});
    return testing::failures(found).substr(0, testing::failures(found).find('\n'));
  };
  CHECK(first_failure(&accumulates).find("added to what was there") != std::string::npos);
  CHECK(first_failure(&skips_the_fifth_token).find("token 4, row 0") != std::string::npos);
  CHECK(first_failure(&writes_a_ninth_row).find("wrote outside sums, at index ") !=
        std::string::npos);
  CHECK(first_failure(&clears_its_input).find("changed the activations") != std::string::npos);
}

TEST_CASE("bit_gemm: a variant that cannot run here is a failed finding, not a crash") {
  const cpu::cpu_set impossible = cpu::avx2 | cpu::neon;  // no machine has both
  const auto found = testing::check_bit_gemm_variant({"chimera", impossible, nullptr});
  REQUIRE(found.size() == 1);
  CHECK(found[0].check == "runs_here");
  CHECK_FALSE(found[0].passed);
  CHECK(testing::failures(found).find("chimera") != std::string::npos);
}

// The scalar variant is a constant expression ----------------------------------------------------
namespace {

constexpr std::array<std::int64_t, 2 * bit_gemm_tile_rows> constant_sums() {
  // 2 weight planes of 1 word, 2 tokens with 1 plane, 3 words apart.
  std::array<std::uint64_t, 2 * bit_gemm_tile_rows> weights{};
  for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
    weights[r] = layout::low_bits(8 * r);                        // plane 0: 8 r ones
    weights[bit_gemm_tile_rows + r] = ~layout::low_bits(8 * r);  // plane 1: 64 - 8 r ones
  }
  const std::array<std::uint64_t, 4> activations{~std::uint64_t{0}, 0, 0, 0xff00U};
  std::array<std::int64_t, 2 * bit_gemm_tile_rows> sums{};
  sums.fill(-1);
  kernels::scalar::bit_gemm_tile({.weights = weights.data(),
                                  .activations = activations.data(),
                                  .sums = sums.data(),
                                  .words = 1,
                                  .tokens = 2,
                                  .activation_stride = 3,
                                  .weight_planes = 2,
                                  .activation_planes = 1});
  return sums;
}
// Token 0: 8 r + 2 (64 - 8 r). Token 1: its 8 bits lie in plane 0 of rows 2.. and plane 1 of rows
// 0, 1.
static_assert(constant_sums() == std::array<std::int64_t, 16>{128, 120, 112, 104, 96, 88, 80,
                                                              72,  //
                                                              16, 16, 8, 8, 8, 8, 8, 8});
static_assert(kernels::select_bit_gemm(cpu::none).name == "scalar");
static_assert(kernels::select_bit_gemm(cpu::portable_simd).name == "portable");

}  // namespace

TEST_CASE("bit_gemm: the scalar variant gives at run time what it gives at compile time") {
  constexpr auto at_compile_time = constant_sums();
  CHECK(constant_sums() == at_compile_time);
}
