// Every variant of the activation kernels against its contract, and the suite against variants that
// are wrong on purpose.
#include "lowbit/kernels/activations/variants.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "catch.hpp"
#include "lowbit/testing/activations.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::activation_functions;
using kernels::activation_planes_args;
using activation_variant = kernels::variant<activation_functions>;

TEST_CASE("activations: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<activation_functions>(
      kernels::activation_variants, {}, 1500,
      [](const auto& v) { return testing::check_activation_variant(v, 2024); });
}

TEST_CASE("activations: the variant table is in order") {
  const auto found =
      lowbit_test::check_variant_table<activation_functions>(kernels::activation_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
  for (const activation_variant& v : kernels::activation_variants) {
    CHECK(v.run.max_magnitude != nullptr);
    CHECK(v.run.quantize != nullptr);
    CHECK(v.run.quantize_signs != nullptr);
    CHECK(v.run.planes != nullptr);
  }
}

TEST_CASE("activations: the oracle rounds as stated") {
  using testing::detail::round_product;
  CHECK(round_product(0.5F, 1.0F) == 0);
  CHECK(round_product(1.5F, 1.0F) == 2);
  CHECK(round_product(-2.5F, 1.0F) == -2);
  CHECK(round_product(-3.5F, 1.0F) == -4);
  CHECK(round_product(0x1.fffffep-2F, 1.0F) == 0);
  CHECK(round_product(0x1.000002p-1F, 1.0F) == 1);
  CHECK(round_product(127.0F, 1.0F) == 127);
  CHECK(round_product(0x1p127F, 0x1p-126F) == 2);
  CHECK(round_product(0x1p-149F, 0x1p127F) == 0);
  CHECK(round_product(0x1.8p-130F, -0x1p127F) == 0);  // denormal
  CHECK(round_product(0x1.8p-127F, -0x1p127F) == -2);
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// quantize with another rounding: round(x, inverse_step) is an integer as a float or double.
template <class Round>
std::int32_t quantize(const float* x, index_t count, float inverse_step, std::int8_t* codes,
                      Round round) {
  std::int32_t sum = 0;
  for (index_t i = 0; i < count; ++i) {
    codes[i] = static_cast<std::int8_t>(round(x[i], inverse_step));
    sum += codes[i];
  }
  return sum;
}

std::int32_t rounds_the_product_first(const float* x, index_t count, float inverse_step,
                                      std::int8_t* codes) noexcept {
  return quantize(x, count, inverse_step, codes, [](float a, float b) {
    volatile float product = a * b;  // a float, whatever may be fused
    return std::nearbyint(product);
  });
}
std::int32_t rounds_ties_away(const float* x, index_t count, float inverse_step,
                              std::int8_t* codes) noexcept {
  return quantize(x, count, inverse_step, codes, [](float a, float b) {
    return std::round(static_cast<double>(a) * static_cast<double>(b));
  });
}
std::int32_t truncates(const float* x, index_t count, float inverse_step,
                       std::int8_t* codes) noexcept {
  return quantize(x, count, inverse_step, codes, [](float a, float b) {
    return std::trunc(static_cast<double>(a) * static_cast<double>(b));
  });
}
std::int32_t divides(const float* x, index_t count, float inverse_step,
                     std::int8_t* codes) noexcept {
  return quantize(x, count, inverse_step, codes, [](float a, float b) {
    return b == 0.0F ? 0.0F : std::nearbyint(a / (1.0F / b));
  });
}
std::int32_t flushes_denormals(const float* x, index_t count, float inverse_step,
                               std::int8_t* codes) noexcept {
  return quantize(x, count, inverse_step, codes, [](float a, float b) {
    return std::fabs(a) < 0x1p-126F
               ? 0.0
               : std::nearbyint(static_cast<double>(a) * static_cast<double>(b));
  });
}
std::int32_t drops_the_tail(const float* x, index_t count, float inverse_step,
                            std::int8_t* codes) noexcept {
  return kernels::scalar::quantize_activations(x, count / 16 * 16, inverse_step, codes);
}
std::int32_t writes_whole_registers(const float* x, index_t count, float inverse_step,
                                    std::int8_t* codes) noexcept {
  const auto sum = kernels::scalar::quantize_activations(x, count, inverse_step, codes);
  for (index_t i = count; i % 16 != 0; ++i) codes[i] = 0;
  return sum;
}
std::int32_t sums_in_16_bits(const float* x, index_t count, float inverse_step,
                             std::int8_t* codes) noexcept {
  return static_cast<std::int16_t>(
      kernels::scalar::quantize_activations(x, count, inverse_step, codes));
}
std::int32_t sums_magnitudes(const float* x, index_t count, float inverse_step,
                             std::int8_t* codes) noexcept {
  (void)kernels::scalar::quantize_activations(x, count, inverse_step, codes);
  std::int32_t sum = 0;
  for (index_t i = 0; i < count; ++i) sum += std::abs(codes[i]);
  return sum;
}

std::uint32_t forgets_the_last(const float* x, index_t count) noexcept {
  return kernels::scalar::max_magnitude(x, std::max<index_t>(count - 1, 1));
}
std::uint32_t forgets_the_sign(const float* x, index_t count) noexcept {
  float largest = 0.0F;
  for (index_t i = 0; i < count; ++i) largest = std::max(largest, x[i]);
  return std::bit_cast<std::uint32_t>(largest);
}
std::uint32_t ignores_nan(const float* x, index_t count) noexcept {
  float largest = 0.0F;
  for (index_t i = 0; i < count; ++i) largest = std::fmax(largest, std::fabs(x[i]));
  return std::bit_cast<std::uint32_t>(largest);
}

kernels::sign_sums minus_zero_is_negative(const float* x, index_t count,
                                          std::int8_t* codes) noexcept {
  const auto sums = kernels::scalar::quantize_signs(x, count, codes);
  for (index_t i = 0; i < count; ++i) codes[i] = std::signbit(x[i]) ? -1 : 0;
  return sums;
}
kernels::sign_sums sums_in_order(const float* x, index_t count, std::int8_t* codes) noexcept {
  auto sums = kernels::scalar::quantize_signs(x, count, codes);
  sums.magnitudes = 0.0;
  for (index_t i = 0; i < count; ++i) sums.magnitudes += static_cast<double>(std::fabs(x[i]));
  return sums;
}
kernels::sign_sums counts_positives(const float* x, index_t count, std::int8_t* codes) noexcept {
  auto sums = kernels::scalar::quantize_signs(x, count, codes);
  sums.codes += static_cast<std::int64_t>(count);
  return sums;
}

void leaves_padding_set(const activation_planes_args& a) noexcept {
  kernels::scalar::activation_planes(a);
  if (a.count % 64 != 0) {
    a.planes[(a.bits - 1) * a.plane_stride + a.count / 64] |= ~std::uint64_t{0} << (a.count % 64);
  }
}
void keeps_twos_complement(const activation_planes_args& a) noexcept {
  kernels::scalar::activation_planes(a);
  for (index_t k = 0; k < a.count; ++k) {
    a.planes[(a.bits - 1) * a.plane_stride + k / 64] ^= std::uint64_t{1} << (k % 64);
  }
}
void reverses_planes(const activation_planes_args& a) noexcept {
  kernels::scalar::activation_planes(a);
  for (index_t w = 0; w < (a.count + 63) / 64; ++w) {
    for (unsigned p = 0; p < a.bits / 2; ++p) {
      std::swap(a.planes[p * a.plane_stride + w], a.planes[(a.bits - 1 - p) * a.plane_stride + w]);
    }
  }
}
void ignores_the_stride(const activation_planes_args& a) noexcept {
  activation_planes_args dense = a;
  dense.plane_stride = (a.count + 63) / 64;
  kernels::scalar::activation_planes(dense);
}
void writes_eight_planes(const activation_planes_args& a) noexcept {
  kernels::scalar::activation_planes(a);
  if (a.bits < 8) a.planes[(a.bits - 1) * a.plane_stride + (a.count + 63) / 64] = 0;
}

}  // namespace

TEST_CASE("activations: the conformance suite finds wrong variants", "[any_isa]") {
  const auto fails = [](const activation_functions& f) {
    const auto found = testing::check_activation_variant({"wrong", cpu::none, f});
    return found.size() > 1500 && !testing::all_passed(found);
  };
  const activation_functions right = kernels::scalar::activations;
  CHECK_FALSE(fails(right));
  const auto with = [&](auto member, auto function) {
    activation_functions f = right;
    f.*member = function;
    return f;
  };
  for (const auto quantize :
       {&rounds_the_product_first, &rounds_ties_away, &truncates, &divides, &flushes_denormals,
        &drops_the_tail, &writes_whole_registers, &sums_in_16_bits, &sums_magnitudes}) {
    CHECK(fails(with(&activation_functions::quantize, quantize)));
  }
  for (const auto max : {&forgets_the_last, &forgets_the_sign, &ignores_nan}) {
    CHECK(fails(with(&activation_functions::max_magnitude, max)));
  }
  for (const auto signs : {&minus_zero_is_negative, &sums_in_order, &counts_positives}) {
    CHECK(fails(with(&activation_functions::quantize_signs, signs)));
  }
  for (const auto planes : {&leaves_padding_set, &keeps_twos_complement, &reverses_planes,
                            &ignores_the_stride, &writes_eight_planes}) {
    CHECK(fails(with(&activation_functions::planes, planes)));
  }
}

TEST_CASE("activations: a variant that cannot run here is a failed finding, not a crash") {
  const cpu::cpu_set impossible = cpu::avx2 | cpu::neon;  // no machine has both
  const auto found = testing::check_activation_variant({"chimera", impossible, {}});
  REQUIRE(found.size() == 1);
  CHECK(found[0].check == "runs_here");
  CHECK_FALSE(found[0].passed);
}

// The scalar variant is a constant expression ----------------------------------------------------
namespace {

constexpr std::array<float, 5> constant_x{1.5F, -2.5F, 0.25F, -127.0F, 3.0F};
constexpr auto constant_codes() {
  std::array<std::int8_t, 5> codes{};
  (void)kernels::scalar::quantize_activations(constant_x.data(), 5, 1.0F, codes.data());
  return codes;
}
constexpr kernels::sign_sums constant_signs() {
  std::array<std::int8_t, 5> codes{};
  return kernels::scalar::quantize_signs(constant_x.data(), 5, codes.data());
}
constexpr auto constant_planes() {
  const std::array<std::int8_t, 4> codes{-2, -1, 0, 1};  // u = 0, 1, 2, 3
  std::array<std::uint64_t, 2> planes{};
  kernels::scalar::activation_planes(
      {.codes = codes.data(), .planes = planes.data(), .count = 4, .plane_stride = 1, .bits = 2});
  return planes;
}
static_assert(kernels::scalar::max_magnitude(constant_x.data(), 5) ==
              std::bit_cast<std::uint32_t>(127.0F));
static_assert(constant_codes() == std::array<std::int8_t, 5>{2, -2, 0, -127, 3});
static_assert(constant_signs() == kernels::sign_sums{134.25, -2});
static_assert(constant_planes() == std::array<std::uint64_t, 2>{0b1010, 0b1100});
static_assert(kernels::select_activations(cpu::none).name == "scalar");
static_assert(kernels::select_activations(cpu::portable_simd).name == "portable");

}  // namespace
