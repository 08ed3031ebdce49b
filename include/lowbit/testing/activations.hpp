// testing/activations.hpp: does a variant of the activation kernels keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_activation_variant({"mine", cpu::avx2_core, my_functions}))
//
// The oracle rounds in integers: a float is mantissa * 2^exponent, the product of two mantissas
// fits 64 bits, and half of its last kept bit decides. It shares no code with any variant.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/kernels/activations/contract.hpp"
#include "lowbit/kernels/activations/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

/// a * b, exact, rounded to the nearest integer with ties to even. Both are finite.
[[nodiscard]] inline std::int64_t round_product(float a, float b) noexcept {
  struct number {
    std::int64_t mantissa;
    int exponent;
    explicit number(float x) noexcept {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
      const auto field = static_cast<int>(bits >> 23U & 0xffU);
      const auto fraction = static_cast<std::int64_t>(bits & 0x7fffffU);
      mantissa = field == 0 ? fraction : fraction + 0x800000;
      exponent = (field == 0 ? 1 : field) - 150;
      if ((bits >> 31U) != 0) mantissa = -mantissa;
    }
  };
  const number x(a);
  const number y(b);
  const std::int64_t product = x.mantissa * y.mantissa;  // below 2^48
  const std::int64_t magnitude = product < 0 ? -product : product;
  const int drop = -(x.exponent + y.exponent);  // bits behind the binary point
  std::int64_t rounded = 0;
  if (drop <= 0) {
    rounded = magnitude << -drop;
  } else if (drop < 62) {
    const std::int64_t one = std::int64_t{1} << drop;
    const std::int64_t rest = magnitude % one;
    rounded = magnitude / one;
    if (2 * rest > one || (2 * rest == one && rounded % 2 != 0)) ++rounded;
  }  // else less than a quarter
  return product < 0 ? -rounded : rounded;
}

/// The sum of the lanes first, first + stride, ... of those that quantize_signs adds up.
[[nodiscard]] inline double sum_of_lanes(const std::vector<double>& lanes, index_t first,
                                         index_t stride) {
  if (stride == lanes.size()) return lanes[first];
  return sum_of_lanes(lanes, first, 2 * stride) + sum_of_lanes(lanes, first + stride, 2 * stride);
}

/// A row of floats, and where in memory to put it and its codes.
struct activation_row {
  std::string name;
  std::vector<float> x;
  float inverse_step = 1.0F;
  index_t offset = 0;  ///< elements that the row starts after an aligned address
};

/// Guards around what a function may write; the row ends with its allocation, so that tools which
/// watch memory see reads past it.
class activation_trial {
 public:
  explicit activation_trial(const activation_row& row)
      : row_(row), x_(row.offset, std::numeric_limits<float>::quiet_NaN()) {
    x_.insert(x_.end(), row.x.begin(), row.x.end());
    x_.shrink_to_fit();
  }

  /// What is wrong with the maximum and the codes of `f`, or nothing.
  [[nodiscard]] std::string run(const kernels::activation_functions& f) const {
    const index_t count = row_.x.size();
    const float* const x = x_.data() + row_.offset;

    std::uint32_t largest = 0;
    for (const float value : row_.x) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
      largest = std::max(largest, bits >= 0x80000000U ? bits - 0x80000000U : bits);
    }
    const std::uint32_t found = f.max_magnitude(x, count);
    if (found != largest) {
      return lowbit::detail::message("max_magnitude is ", found, " instead of ", largest);
    }
    if (largest >= kernels::magnitude_of_infinity) return {};  // not to be quantized

    std::vector<std::int8_t> codes(guard + row_.offset + count + guard, garbage);
    std::int8_t* const out = codes.data() + guard + row_.offset;
    const std::int32_t sum = f.quantize(x, count, row_.inverse_step, out);
    std::int64_t expected_sum = 0;
    for (index_t i = 0; i < count; ++i) {
      const std::int64_t expected = round_product(row_.x[i], row_.inverse_step);
      expected_sum += expected;
      if (out[i] == expected) continue;
      return lowbit::detail::message("code ", i, " of ", row_.x[i], " * ", row_.inverse_step,
                                     " is ", static_cast<int>(out[i]), " instead of ", expected);
    }
    if (sum != expected_sum) {
      return lowbit::detail::message("the sum is ", sum, " instead of ", expected_sum);
    }
    if (wrote_outside(codes)) return "quantize wrote outside the codes";

    std::fill(codes.begin(), codes.end(), garbage);
    const kernels::sign_sums sums = f.quantize_signs(x, count, out);
    kernels::sign_sums expected_sums{};
    std::vector<double> lanes(kernels::sign_sum_lanes);
    for (index_t i = 0; i < count; ++i) {
      lanes[i % lanes.size()] += std::fabs(static_cast<double>(row_.x[i]));
      const int expected = row_.x[i] < 0.0F ? -1 : 0;
      expected_sums.codes += expected;
      if (out[i] == expected) continue;
      return lowbit::detail::message("the sign code ", i, " of ", row_.x[i], " is ",
                                     static_cast<int>(out[i]));
    }
    expected_sums.magnitudes = sum_of_lanes(lanes, 0, 1);
    if (!(sums == expected_sums)) {
      return lowbit::detail::message("the sums of signs are ", sums.magnitudes, " and ", sums.codes,
                                     " instead of ", expected_sums.magnitudes, " and ",
                                     expected_sums.codes);
    }
    if (wrote_outside(codes)) return "quantize_signs wrote outside the codes";
    if (!std::equal(row_.x.begin(), row_.x.end(), x)) return "changed its input";
    return {};
  }

 private:
  static constexpr index_t guard = 64;
  static constexpr std::int8_t garbage = 0x5a;

  [[nodiscard]] bool wrote_outside(const std::vector<std::int8_t>& codes) const noexcept {
    const auto dirty = [](std::int8_t code) { return code != garbage; };
    const auto begin = codes.begin() + static_cast<std::ptrdiff_t>(guard + row_.offset);
    return std::any_of(codes.begin(), begin, dirty) ||
           std::any_of(codes.end() - static_cast<std::ptrdiff_t>(guard), codes.end(), dirty);
  }

  const activation_row& row_;
  std::vector<float> x_;
};

inline void check_activation_row(findings& list, const activation_row& row,
                                 const kernels::activation_functions& f) {
  const activation_trial trial(row);
  const std::string scalar = trial.run(kernels::scalar::activations);
  const std::string variant = trial.run(f);
  add(list,
      lowbit::detail::message("codes/", row.name, "/count_", row.x.size(), "/offset_", row.offset),
      variant.empty() && scalar.empty(), variant,
      scalar.empty() ? "" : "; scalar and the oracle disagree: ", scalar);
}

/// The values of row i, from a generator of floats whose products with the factor stay below 127.5.
inline activation_row make_row(std::string name, index_t count, float inverse_step, index_t offset,
                               const std::function<float(index_t)>& value) {
  activation_row row{std::move(name), std::vector<float>(count), inverse_step, offset};
  for (index_t i = 0; i < count; ++i) row.x[i] = value(i);
  return row;
}

inline void check_activation_planes(findings& list, unsigned bits, index_t count, index_t gap,
                                    index_t offset, std::uint64_t seed,
                                    kernels::activation_planes_fn planes) {
  const index_t words = (count + 63) / 64;
  const index_t stride = words + gap;
  constexpr index_t guard = 9;
  constexpr std::uint64_t garbage = 0x5555aaaa5555aaaaU;
  std::vector<std::int8_t> codes(offset + count, -1);
  const int zero = 1 << (bits - 1U);
  for (index_t k = 0; k < count; ++k) {
    const auto u = static_cast<int>(random_bits(seed, k) % (std::uint64_t{1} << bits));
    codes[offset + k] = static_cast<std::int8_t>(u - zero);
  }
  const auto run = [&](kernels::activation_planes_fn fn) -> std::string {
    std::vector<std::uint64_t> out(guard + (bits - 1) * stride + words + guard, garbage);
    fn({.codes = codes.data() + offset,
        .planes = out.data() + guard,
        .count = count,
        .plane_stride = stride,
        .bits = bits});
    for (index_t i = 0; i < out.size(); ++i) {
      const index_t at = i - guard;
      const bool inside = i >= guard && at < (bits - 1) * stride + words && at % stride < words;
      if (!inside) {
        if (out[i] != garbage) return lowbit::detail::message("wrote outside the planes");
        continue;
      }
      for (index_t b = 0; b < 64; ++b) {
        const index_t k = at % stride * 64 + b;
        const bool bit = (out[i] >> b & 1U) != 0;
        const bool expected =
            k < count && ((codes[offset + k] + zero) / (1 << (at / stride)) % 2) != 0;
        if (bit != expected) {
          return lowbit::detail::message("plane ", at / stride, ", column ", k, " is ", bit ? 1 : 0,
                                         k < count ? "" : " in the padding");
        }
      }
    }
    return {};
  };
  const std::string scalar = run(&kernels::scalar::activation_planes);
  const std::string variant = run(planes);
  add(list,
      lowbit::detail::message("planes/bits_", bits, "/count_", count, "/gap_", gap, "/offset_",
                              offset),
      variant.empty() && scalar.empty(), variant,
      scalar.empty() ? "" : "; scalar and the oracle disagree: ", scalar, "; seed ", seed);
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_activation_variant(
    const kernels::variant<kernels::activation_functions>& v, std::uint64_t seed = 1) {
  using limits = std::numeric_limits<float>;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  const auto check = [&](std::string name, index_t count, float inverse_step, index_t offset,
                         const std::function<float(index_t)>& value) {
    detail::check_activation_row(
        list, detail::make_row(std::move(name), count, inverse_step, offset, value), v.run);
  };
  const auto uniform = [seed](std::uint64_t stream, index_t i) {  // in [-1, 1)
    return 2.0F * random_uniform(seed + stream, i) - 1.0F;
  };

  // Every tail and alignment.
  for (index_t count = 1; count <= 130; ++count) {
    for (const index_t offset : {count % 3, 3 + count % 13}) {
      check("uniform", count, 127.0F, offset, [&](index_t i) { return uniform(count, i); });
    }
  }
  for (const index_t count : {191U, 192U, 193U, 255U, 256U, 257U, 300U, 1000U, 4096U, 5003U}) {
    // Steps of any size, as max|x| makes them.
    for (const float largest : {1e-30F, 0.37F, 3.0F, 1e30F}) {
      check("scaled", count, 127.0F / largest, count % 5,
            [&](index_t i) { return largest * uniform(count, i); });
    }
    for (const float extreme : {127.0F, -127.0F, -0.0F}) {
      check("constant", count, 1.0F, 0, [&](index_t) { return extreme; });
    }
  }
  // Ties, exact and missed by the last bits of x, with factors of every kind: a product that is
  // rounded to float first lands on the tie.
  for (index_t round = 0; round < 24; ++round) {
    const float factor =
        round < 3 ? std::ldexp(1.0F, 20 * (static_cast<int>(round) - 1))
                  : std::ldexp(1.5F + 0.5F * uniform(round, 1), static_cast<int>(round * 7) - 84);
    check("ties", 3 * 254, factor, round % 4, [&](index_t i) {
      const float tie = static_cast<float>(i / 3) - 126.5F;  // -126.5 .. 126.5
      const float x = tie / factor;
      const index_t side = i % 3;
      return side == 0 ? x : std::nextafter(x, side == 1 ? limits::max() : -limits::max());
    });
    // Products of random floats that lie within 2^-20 of a tie.
    check("near_ties", 500, factor, round % 7, [&](index_t i) {
      const float tie = std::floor(126.0F * uniform(100 + round, i)) + 0.5F;
      return tie / factor * (1.0F + 0x1p-21F * uniform(200 + round, i));
    });
  }
  // Sums of magnitudes that depend on the order of the sum.
  for (const index_t count : {17U, 31U, 32U, 33U, 100U, 129U, 1000U}) {
    check("wide_range", count, 0x1p-60F, count % 4, [&](index_t i) {
      return std::ldexp(uniform(300 + count, i), static_cast<int>(random_bits(seed, i) % 64));
    });
  }
  // Zeros of both signs, denormals, the ends of floats.
  check("zeros", 70, 3.0e38F, 1, [](index_t i) { return i % 2 == 0 ? 0.0F : -0.0F; });
  check("denormals", 300, limits::max(), 1, [&](index_t i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(random_bits(seed, i) & 0x807fffffU));
  });
  check("denormal_products", 100, 1.0F, 0,
        [&](index_t i) { return limits::denorm_min() * static_cast<float>(i); });
  check("largest", 100, 127.0F / limits::max(), 2,
        [&](index_t i) { return i % 3 == 0 ? -limits::max() : limits::max() * uniform(7, i); });
  check("smallest_factor", 100, 1.0F / limits::max(), 2,
        [&](index_t i) { return i % 3 == 0 ? -limits::max() : limits::max() * uniform(8, i); });
  check("no_factor", 100, 0.0F, 0, [&](index_t i) { return 1e38F * uniform(9, i); });
  // One large, infinite or NaN element in every place.
  for (const index_t count : {1U, 15U, 40U, 70U, 139U}) {
    for (index_t at = 0; at < count; ++at) {
      check("one_large", count, 0.125F, at % 3,
            [&](index_t i) { return i == at ? -1000.0F : 100.0F * uniform(at, i); });
      const float bad = at % 3 == 0   ? limits::infinity()
                        : at % 3 == 1 ? -limits::infinity()
                                      : -limits::quiet_NaN();
      check("one_not_finite", count, 1.0F, at % 3,
            [&](index_t i) { return i == at ? bad : limits::max() * uniform(at, i); });
    }
  }

  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (index_t count = 1; count <= 130; ++count) {
      detail::check_activation_planes(list, bits, count, count % 3, count % 5, seed + list.size(),
                                      v.run.planes);
    }
    for (const index_t count : {191U, 192U, 193U, 255U, 256U, 257U, 511U, 512U, 1000U}) {
      detail::check_activation_planes(list, bits, count, 7, 1, seed + list.size(), v.run.planes);
    }
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
