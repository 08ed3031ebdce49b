// formats/sbvr/ratios.hpp: coefficients that suit a standard normal distribution. Layer L3.
//
// They minimise E (x - nearest level)^2 for x ~ N(0, 1): numerically, by alternating assignment and
// least squares with exact moments from several thousand starts. The error that each set leaves is
// beside it. A group of root mean square s is well served by s times these.
#pragma once

#include <array>
#include <span>

#include "lowbit/formats/sbvr/format.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats::detail {

using coefficient_set = std::array<float, sbvr::max_planes>;

// clang-format off
inline constexpr coefficient_set sign_ratios[sbvr::max_planes] = {
    {0.797885F},                                                                          // .3634
    {0.981599F, 0.528819F},                                                               // .1175
    {0.988252F, 0.748154F, 0.451032F},                                                    // .0353
    {1.128553F, 0.708759F, 0.556691F, 0.295994F},                                         // .00989
    {0.990379F, 0.920542F, 0.598849F, 0.473363F, 0.245475F},                              // .00266
    {0.929441F, 0.891603F, 0.852859F, 0.446721F, 0.334675F, 0.221451F},                   // .000720
    {1.024447F, 0.738447F, 0.664889F, 0.604622F, 0.478877F, 0.304650F, 0.211903F},        // .000213
    {1.186725F, 0.794835F, 0.566605F, 0.481638F, 0.401204F, 0.340402F, 0.283727F, 0.240681F},
};
/// For zero_one without offset, whose levels include 0 and cannot be symmetric.
inline constexpr coefficient_set zero_one_ratios[sbvr::max_planes] = {
    {-1.224006F},                                                                         // .595
    {-1.913908F, 1.163317F},                                                              // .1380
    {2.002435F, -1.496211F, -0.888832F},                                                  // .0367
    {1.905316F, -1.632526F, -1.334296F, 0.838710F},                                       // .0102
    {-2.530582F, 1.425968F, 1.262991F, -0.646253F, 0.324120F},                            // .00278
    {-2.693835F, 2.048113F, 1.147691F, -0.563498F, -0.445743F, -0.265731F},               // .000975
    {2.725201F, -1.794835F, -1.363727F, 0.610774F, -0.492502F, -0.362484F, 0.215776F},    // .000260
    {-3.868130F, 2.024770F, 1.007544F, 0.503781F, 0.251902F, 0.126943F, 0.062897F, 0.031717F},
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
