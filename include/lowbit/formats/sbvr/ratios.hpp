// formats/sbvr/ratios.hpp: coefficients that suit a standard normal distribution. Layer L3.
//
// They minimise E (x - nearest level)^2 for x ~ N(0, 1): numerically, by alternating assignment and
// least squares with exact moments from several thousand starts. The error that each set leaves is
// beside it. A group of root mean square s is well served by s times these.
#pragma once

#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "lowbit/formats/sbvr/format.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

using coefficient_set = std::array<float, sbvr::max_planes>;

/// Sorts by magnitude, the largest first; equal ones keep their order.
template <class T>
void sort_by_magnitude(std::span<T> values) noexcept {
  for (index_t i = 1; i < values.size(); ++i) {
    for (index_t at = i; at > 0 && std::fabs(values[at]) > std::fabs(values[at - 1]); --at) {
      std::swap(values[at], values[at - 1]);
    }
  }
}

// clang-format off
inline constexpr coefficient_set sign_ratios[sbvr::max_planes] = {
    {0.797885F},                                                                          // .3634
    {0.981599F, 0.528819F},                                                               // .1175
    {0.988252F, 0.748154F, 0.451032F},                                                    // .0353
    {1.128553F, 0.708759F, 0.556691F, 0.295994F},                                         // .00989
    {0.990379F, 0.920542F, 0.598849F, 0.473363F, 0.245475F},                              // .00266
    {0.929417F, 0.891579F, 0.852837F, 0.446709F, 0.334666F, 0.221446F},                   // .000720
    {1.422871F, 1.000520F, 0.711312F, 0.355831F, 0.177679F, 0.088820F, 0.044725F},        // .000212
    {1.478561F, 1.097388F, 0.739244F, 0.369663F, 0.184662F, 0.092306F, 0.046147F, 0.023072F},
};
/// For zero_one without offset, whose levels include 0 and cannot be symmetric.
inline constexpr coefficient_set zero_one_ratios[sbvr::max_planes] = {
    {-1.224006F},                                                                         // .595
    {-1.913908F, 1.163317F},                                                              // .1380
    {2.002435F, -1.496211F, -0.888832F},                                                  // .0367
    {2.273923F, -1.431529F, -1.125204F, 0.592131F},                                       // .0101
    {-1.982624F, 1.842374F, -1.199126F, 0.946895F, 0.490536F},                            // .00267
    {2.488355F, -1.551233F, -1.248940F, -0.780052F, 0.614145F, 0.388483F},                // .000733
    {-2.711864F, 1.398603F, 1.354278F, -0.765517F, 0.678944F, 0.512032F, -0.340419F},     // .000196
    {2.972970F, -2.229946F, -1.485959F, 0.720122F, 0.371294F, -0.185667F, -0.139247F, 0.092779F},
};
// clang-format on

/// The coefficients for x ~ N(0, 1), sorted by magnitude.
[[nodiscard]] constexpr coefficient_set normal_ratios(const sbvr::params& p) noexcept {
  if (p.basis == sbvr_basis::zero_one && !p.has_offset()) return zero_one_ratios[p.planes - 1];
  coefficient_set ratios = sign_ratios[p.planes - 1];
  if (p.basis == sbvr_basis::zero_one) {
    for (float& r : ratios) r *= 2.0F;  // with the offset they make the same levels
  }
  return ratios;
}

/// The coefficients of equal steps whose levels have mean square 1 where all are used alike: a
/// range clipped at the root of 3. zero_one without offset: as two's complement.
[[nodiscard]] inline coefficient_set equal_step_ratios(const sbvr::params& p) noexcept {
  coefficient_set ratios{};
  const bool one_sided = p.basis == sbvr_basis::zero_one;
  const double top =
      one_sided ? 0x1.bb67ae8584caap+0 : 0x1.bb67ae8584caap-1;  // sqrt(3), half of it
  for (unsigned i = 0; i < p.planes; ++i) {
    ratios[i] = static_cast<float>(std::ldexp(top, -static_cast<int>(i)));
  }
  if (one_sided && !p.has_offset()) ratios[0] = -ratios[0];
  return ratios;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail
