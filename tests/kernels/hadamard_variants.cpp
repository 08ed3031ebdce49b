// Every variant of the Hadamard kernels against its contract, and the suite against variants that
// are wrong on purpose.
#include "lowbit/kernels/hadamard/variants.hpp"

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "lowbit/testing/hadamard.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::hadamard_blocks_args;
using kernels::hadamard_functions;
using kernels::hadamard_mix_args;

namespace {

/// The tiers that have a variant of their own, spelled out (see check_supported_variants).
constexpr std::string_view tiers_with_a_variant[] = {
#if LOWBIT_X86_64
    "avx512bw", "avx2",
#elif LOWBIT_AARCH64
    "neon",
#endif
    "portable", "scalar"};

}  // namespace

TEST_CASE("hadamard: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<hadamard_functions>(
      kernels::hadamard_variants, tiers_with_a_variant, 1300,
      [](const auto& v) { return testing::check_hadamard_variant(v, 2024); });
}

TEST_CASE("hadamard: the variant table is in order") {
  const auto found =
      lowbit_test::check_variant_table<hadamard_functions>(kernels::hadamard_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// The contract with another transform of a block: turn(y, size).
template <class Turn>
void blocks(const hadamard_blocks_args& a, Turn turn) noexcept {
  using kernels::scalar::hadamard_detail::with_sign;
  const index_t size = index_t{1} << a.log2_size;
  for (index_t b = 0; b < a.count; ++b) {
    float* const y = a.y + b * a.y_stride;
    for (index_t i = 0; i < size; ++i) {
      y[i] = with_sign(a.x[b * size + i], a.signs_before, b * size + i);
    }
    turn(y, size);
    for (index_t i = 0; i < size; ++i) {
      y[i] = with_sign(y[i] * a.scale, a.signs_after, b * size + i);
    }
  }
}

void starts_with_the_largest_distance(const hadamard_blocks_args& a) noexcept {
  blocks(a, [](float* y, index_t size) {
    for (index_t half = size / 2; half != 0; half /= 2) {
      for (index_t i = 0; i < size; ++i) {
        if ((i & half) != 0) continue;
        const float low = y[i];
        y[i] = low + y[i + half];
        y[i + half] = low - y[i + half];
      }
    }
  });
}
void reverses_differences(const hadamard_blocks_args& a) noexcept {
  blocks(a, [](float* y, index_t size) {
    for (index_t half = 1; half < size; half *= 2) {
      for (index_t i = 0; i < size; ++i) {
        if ((i & half) != 0) continue;
        const float low = y[i];
        y[i] = low + y[i + half];
        y[i + half] = y[i + half] - low;
      }
    }
  });
}
void scales_first(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args unscaled = a;
  unscaled.scale = 1.0F;
  blocks(unscaled, [&](float* y, index_t size) {
    for (index_t i = 0; i < size; ++i) y[i] *= a.scale;
    linalg::walsh_hadamard(std::span(y, size));
  });
}
void forgets_to_scale(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args unscaled = a;
  unscaled.scale = 1.0F;
  kernels::scalar::hadamard_blocks(unscaled);
}
void forgets_signs_after(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args without = a;
  without.signs_after = nullptr;
  kernels::scalar::hadamard_blocks(without);
}
void exchanges_signs(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args exchanged = a;
  std::swap(exchanged.signs_before, exchanged.signs_after);
  kernels::scalar::hadamard_blocks(exchanged);
}
void repeats_signs_in_every_block(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args one = a;
  one.count = 1;
  for (index_t b = 0; b < a.count; ++b) {
    one.x = a.x + (b << a.log2_size);
    one.y = a.y + b * a.y_stride;
    kernels::scalar::hadamard_blocks(one);
  }
}
void subtracts_from_zero(const hadamard_blocks_args& a) noexcept {  // 0 - 0 is not -0
  blocks(a, [&](float* y, index_t size) {
    for (index_t i = 0; i < size; ++i) y[i] += 0.0F;
    linalg::walsh_hadamard(std::span(y, size));
  });
}
void ignores_the_stride(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args dense = a;
  dense.y_stride = index_t{1} << a.log2_size;
  kernels::scalar::hadamard_blocks(dense);
}
void writes_whole_registers(const hadamard_blocks_args& a) noexcept {
  kernels::scalar::hadamard_blocks(a);
  const index_t size = a.count << a.log2_size;
  if (a.log2_size < 4 && size % 16 != 0) a.y[size] = 0.0F;
}
void drops_the_last_part(const hadamard_blocks_args& a) noexcept {
  hadamard_blocks_args shorter = a;
  if (a.log2_size < 4) shorter.count = (a.count << a.log2_size) / 16 * 16 >> a.log2_size;
  kernels::scalar::hadamard_blocks(shorter);
}

/// The contract with other sums: sum(i, column, sign, x) with sign(j) and x(j).
template <class Sum>
void mix(const hadamard_mix_args& a, Sum sum) noexcept {
  const linalg::dense_signs signs{a.matrix, a.order, a.words};
  for (index_t i = 0; i < a.order; ++i) {
    for (index_t c = 0; c < a.width; ++c) {
      const auto term = [&](index_t j) {
        const float x = a.x[j * a.x_stride + c];
        return signs.is_negative(i, j) ? -x : x;
      };
      const index_t at = i * a.width + c;
      a.y[at] = kernels::scalar::hadamard_detail::with_sign(sum(term) * a.scale, a.signs_after, at);
    }
  }
}

void sums_backwards(const hadamard_mix_args& a) noexcept {
  mix(a, [&](auto term) {
    float sum = term(a.order - 1);
    for (index_t j = a.order - 1; j-- > 0;) sum += term(j);
    return sum;
  });
}
void sums_even_and_odd_apart(const hadamard_mix_args& a) noexcept {
  mix(a, [&](auto term) {
    float sums[2] = {term(0), term(1)};
    for (index_t j = 2; j < a.order; ++j) sums[j % 2] += term(j);
    return sums[0] + sums[1];
  });
}
void starts_from_zero(const hadamard_mix_args& a) noexcept {
  mix(a, [&](auto term) {
    float sum = 0.0F;
    for (index_t j = 0; j < a.order; ++j) sum += term(j);
    return sum;
  });
}
void sums_in_double(const hadamard_mix_args& a) noexcept {
  mix(a, [&](auto term) {
    double sum = static_cast<double>(term(0));
    for (index_t j = 1; j < a.order; ++j) sum += static_cast<double>(term(j));
    return static_cast<float>(sum);
  });
}
void reads_one_word_of_signs(const hadamard_mix_args& a) noexcept {
  mix(a, [&, c = index_t{0}](auto) mutable {
    const index_t i = c / a.width;
    const index_t column = c++ % a.width;
    float sum = 0.0F;
    for (index_t j = 0; j < a.order; ++j) {
      const float x = a.x[j * a.x_stride + column];
      const float term = (a.matrix[j * a.words] >> (i % 64) & 1U) != 0 ? -x : x;
      sum = j == 0 ? term : sum + term;
    }
    return sum;
  });
}
void transposes(const hadamard_mix_args& a) noexcept {
  const linalg::dense_signs signs{a.matrix, a.order, a.words};
  std::vector<std::uint64_t> transposed(a.order * a.words);
  for (index_t i = 0; i < a.order; ++i) {
    for (index_t j = 0; j < a.order; ++j) {
      if (signs.is_negative(i, j)) {
        transposed[i * a.words + j / 64] |= std::uint64_t{1} << (j % 64);
      }
    }
  }
  hadamard_mix_args other = a;
  other.matrix = transposed.data();
  kernels::scalar::hadamard_mix(other);
}
void mix_ignores_the_stride(const hadamard_mix_args& a) noexcept {
  hadamard_mix_args dense = a;
  dense.x_stride = a.width;
  kernels::scalar::hadamard_mix(dense);
}
void mix_forgets_signs(const hadamard_mix_args& a) noexcept {
  hadamard_mix_args without = a;
  without.signs_after = nullptr;
  kernels::scalar::hadamard_mix(without);
}
void mix_writes_eight_rows(const hadamard_mix_args& a) noexcept {
  kernels::scalar::hadamard_mix(a);
  if (a.order % 8 != 0) a.y[a.order * a.width] = 0.0F;
}

}  // namespace

TEST_CASE("hadamard: the conformance suite finds wrong variants", "[any_isa][not_sanitized]") {
  const auto passes = [](kernels::hadamard_blocks_fn blocks_fn, kernels::hadamard_mix_fn mix_fn) {
    return testing::all_passed(
        testing::check_hadamard_variant({"mutant", cpu::none, {blocks_fn, mix_fn}}, 7));
  };
  const auto right = kernels::scalar::hadamard;
  REQUIRE(passes(right.blocks, right.mix));
  for (const auto wrong :
       {&starts_with_the_largest_distance, &reverses_differences, &scales_first, &forgets_to_scale,
        &forgets_signs_after, &exchanges_signs, &repeats_signs_in_every_block, &subtracts_from_zero,
        &ignores_the_stride, &writes_whole_registers, &drops_the_last_part}) {
    CHECK_FALSE(passes(wrong, right.mix));
  }
  for (const auto wrong : {&sums_backwards, &sums_even_and_odd_apart, &starts_from_zero,
                           &sums_in_double, &reads_one_word_of_signs, &transposes,
                           &mix_ignores_the_stride, &mix_forgets_signs, &mix_writes_eight_rows}) {
    CHECK_FALSE(passes(right.blocks, wrong));
  }
}

TEST_CASE("hadamard: a variant that cannot run here is a failed finding, not a crash") {
  const cpu::cpu_set impossible = cpu::avx2 | cpu::neon;  // no machine has both
  const auto found = testing::check_hadamard_variant({"chimera", impossible, {}});
  REQUIRE(found.size() == 1);
  CHECK(found[0].check == "runs_here");
  CHECK_FALSE(found[0].passed);
}

// The scalar variant is a constant expression ----------------------------------------------------
namespace {

constexpr auto constant_block() {
  const std::array<float, 4> x{1.0F, 2.0F, 3.0F, 5.0F};
  std::array<float, 4> y{};
  const std::uint64_t signs = 0b1000;
  kernels::scalar::hadamard_blocks({.x = x.data(),
                                    .y = y.data(),
                                    .y_stride = 4,
                                    .count = 1,
                                    .log2_size = 2,
                                    .signs_before = &signs,
                                    .signs_after = nullptr,
                                    .scale = 0.5F});
  return y;
}
static_assert(constant_block() == std::array<float, 4>{0.5F, 3.5F, 2.5F, -4.5F});
static_assert(kernels::select_hadamard(cpu::none).name == "scalar");
static_assert(kernels::select_hadamard(cpu::portable_simd).name == "portable");

}  // namespace
