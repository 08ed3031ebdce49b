// core/random.hpp: counter-based random numbers: a value is a pure function of (seed, index).
// Layer L1.
//
// Because no state is carried from one number to the next, results are the same at any thread count
// and in any order. splitmix64's output function (Steele, Lea, Flood, 2014) mixes the counter.
#pragma once

#include <cmath>
#include <cstdint>

#include "lowbit/config.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// 64 random bits for position `index` of stream `seed`.
[[nodiscard]] constexpr std::uint64_t random_bits(std::uint64_t seed,
                                                  std::uint64_t index) noexcept {
  constexpr auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31U);
  };
  return mix(mix(seed + 0x9e3779b97f4a7c15ULL) + (index + 1U) * 0x9e3779b97f4a7c15ULL);
}

/// Uniform in [0, 1), with 24 random bits.
[[nodiscard]] constexpr float random_uniform(std::uint64_t seed, std::uint64_t index) noexcept {
  return static_cast<float>(random_bits(seed, index) >> 40U) * 0x1p-24F;
}

/// Standard normal (Box and Muller, 1958), computed in double and rounded to float, so that a C
/// library whose log or cos differs in its last bit gives the same float all but always.
[[nodiscard]] inline float random_normal(std::uint64_t seed, std::uint64_t index) noexcept {
  constexpr double two_pi = 6.283185307179586;
  constexpr auto unit = [](std::uint64_t bits) {
    return static_cast<double>(bits >> 11U) * 0x1p-53;
  };
  const double radius = std::sqrt(-2.0 * std::log(1.0 - unit(random_bits(seed, 2U * index))));
  return static_cast<float>(radius * std::cos(two_pi * unit(random_bits(seed, 2U * index + 1U))));
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
