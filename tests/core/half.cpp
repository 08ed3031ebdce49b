// fp16 and bf16: every value up, and rounding down against an oracle in double.
#include "lowbit/core/half.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// What distinguishes the two formats.
template <class Half>
struct traits;
template <>
struct traits<float16> {
  static constexpr int fraction_bits = 10;
  static constexpr int min_exponent = -14;
  static constexpr int max_exponent = 15;
};
template <>
struct traits<bfloat16> {
  static constexpr int fraction_bits = 7;
  static constexpr int min_exponent = -126;
  static constexpr int max_exponent = 127;
};

/// The value of a pattern, from the definition of the format.
template <class Half>
double decode(std::uint16_t bits) {
  using t = traits<Half>;
  const int fraction = bits & ((1 << t::fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> t::fraction_bits;
  const int exponent_limit = t::max_exponent - t::min_exponent + 2;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == exponent_limit) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * double{infinity};
  }
  const double significand =
      exponent == 0 ? fraction : fraction + std::ldexp(1.0, t::fraction_bits);
  return sign *
         std::ldexp(significand, std::max(exponent, 1) - 1 + t::min_exponent - t::fraction_bits);
}

/// x rounded to nearest even to the format's values, in double arithmetic.
template <class Half>
double rounded(float x) {
  using t = traits<Half>;
  if (x == 0.0F || std::isinf(x)) return x;
  int exponent = 0;
  static_cast<void>(std::frexp(double{x}, &exponent));  // |x| in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 1, t::min_exponent) - t::fraction_bits;
  const double y = std::ldexp(std::nearbyint(std::ldexp(double{x}, -unit)), unit);
  return std::fabs(y) >= std::ldexp(1.0, t::max_exponent + 1) ? std::copysign(infinity, x) : y;
}

/// 1 if from_float<Half>(x) is wrong, else 0.
template <class Half>
std::size_t mistake(float x) {
  const Half half = from_float<Half>(x);
  const double back = decode<Half>(half.bits);
  const bool sign_kept = ((half.bits & 0x8000U) != 0) == std::signbit(x);
  const bool right = std::isnan(x) ? std::isnan(back) : back == rounded<Half>(x);
  return right && sign_kept ? 0U : 1U;
}

}  // namespace

TEMPLATE_TEST_CASE("half: every pattern converts up exactly and back to itself", "", float16,
                   bfloat16) {
  std::size_t wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const TestType half{static_cast<std::uint16_t>(bits)};
    const double expected = decode<TestType>(half.bits);
    const float up = to_float(half);
    if (std::isnan(expected)) {
      wrong += std::isnan(up) && std::signbit(up) == (bits >= 0x8000) ? 0U : 1U;
      const TestType down = from_float<TestType>(up);
      wrong += std::isnan(decode<TestType>(down.bits)) ? 0U : 1U;
    } else {
      wrong += double{up} == expected && std::signbit(up) == std::signbit(expected) ? 0U : 1U;
      wrong += from_float<TestType>(up) == half ? 0U : 1U;
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("half: rounds to nearest even at and around every midpoint", "", float16,
                   bfloat16) {
  std::size_t wrong = 0;
  std::size_t midpoints = 0;
  for (unsigned bits = 0; bits < 0x7fff; ++bits) {
    const double a = decode<TestType>(static_cast<std::uint16_t>(bits));
    double b = decode<TestType>(static_cast<std::uint16_t>(bits + 1));
    if (std::isnan(b)) break;
    // Rounding to infinity starts halfway to the value that would come next.
    if (std::isinf(b)) b = std::ldexp(1.0, traits<TestType>::max_exponent + 1);
    const auto middle = static_cast<float>((a + b) / 2);
    REQUIRE(double{middle} == (a + b) / 2);  // exact in float
    ++midpoints;
    for (const float x : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, infinity)}) {
      wrong += mistake<TestType>(x) + mistake<TestType>(-x);
    }
    // Ties go to the even pattern.
    wrong += from_float<TestType>(middle).bits == bits + (bits & 1U) ? 0U : 1U;
  }
  CHECK(wrong == 0);
  CHECK(midpoints == (traits<TestType>::fraction_bits == 10 ? 0x7c00U : 0x7f80U));
}

TEMPLATE_TEST_CASE("half: random floats of every exponent round as in double", "", float16,
                   bfloat16) {
  std::size_t wrong = 0;
  for (std::uint64_t i = 0; i < 1'000'000; ++i) {
    wrong += mistake<TestType>(std::bit_cast<float>(static_cast<std::uint32_t>(random_bits(9, i))));
  }
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (const std::uint32_t fraction : {0U, 1U, 0x0fffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U,
                                         0x8001U, 0x3fffffU, 0x400000U, 0x7fffffU}) {
      const float x = std::bit_cast<float>(exponent << 23U | fraction);
      wrong += mistake<TestType>(x) + mistake<TestType>(-x);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: landmarks, in constant expressions") {
  static_assert(to_float(float16{0x3c00}) == 1.0F);
  static_assert(to_float(float16{0xc000}) == -2.0F);
  static_assert(to_float(float16{0x7bff}) == float16::max);
  static_assert(to_float(float16{0x0400}) == 0x1p-14F);
  static_assert(to_float(float16{0x0001}) == 0x1p-24F);
  static_assert(to_float(float16{0x7c00}) == infinity);
  static_assert(std::bit_cast<std::uint32_t>(to_float(float16{0x8000})) == 0x80000000U);
  static_assert(to_float(float16{0x7e01}) != to_float(float16{0x7e01}));

  static_assert(from_float<float16>(1.0F).bits == 0x3c00);
  static_assert(from_float<float16>(65504.0F).bits == 0x7bff);
  static_assert(from_float<float16>(65519.996F).bits == 0x7bff);
  static_assert(from_float<float16>(65520.0F).bits == 0x7c00);  // a tie, to even: infinity
  static_assert(from_float<float16>(1e30F).bits == 0x7c00);
  static_assert(from_float<float16>(-infinity).bits == 0xfc00);
  static_assert(from_float<float16>(0x1p-25F).bits == 0);  // a tie, to even: zero
  static_assert(from_float<float16>(0x1.000002p-25F).bits == 1);
  static_assert(from_float<float16>(-0x1p-26F).bits == 0x8000);
  static_assert(from_float<float16>(0x1.ff8p-15F).bits == 0x03ff);  // the largest subnormal
  static_assert(from_float<float16>(0x1.ffcp-15F).bits == 0x0400);  // a tie, to the first normal

  static_assert(to_float(bfloat16{0x3f80}) == 1.0F);
  static_assert(from_float<bfloat16>(1.0F).bits == 0x3f80);
  static_assert(from_float<bfloat16>(0x1.01p0F).bits == 0x3f80);  // a tie, to even
  static_assert(from_float<bfloat16>(0x1.03p0F).bits == 0x3f82);
  static_assert(from_float<bfloat16>(std::numeric_limits<float>::max()).bits == 0x7f80);

  static_assert(to_float(0.1F) == 0.1F);
  static_assert(from_float<float>(0.1F) == 0.1F);
  CHECK(sizeof(float16) == 2);
  CHECK(sizeof(bfloat16) == 2);
}

TEST_CASE("half: a NaN stays a NaN whatever its payload") {
  for (std::uint32_t i = 0; i < 23; ++i) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      const float nan = std::bit_cast<float>(sign | 0x7f800000U | 1U << i);
      CHECK(mistake<float16>(nan) == 0);
      CHECK(mistake<bfloat16>(nan) == 0);
    }
  }
}
