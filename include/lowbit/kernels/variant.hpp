// kernels/variant.hpp: one way to run a kernel, and the choice among several. Layer L2.
//
// Each kernel family has one constexpr table of variants, best first. Every entry names the exact
// CPU features that its code needs; all entries of a table give the same bits.
#pragma once

#include <span>
#include <string_view>

#include "lowbit/core/error.hpp"
#include "lowbit/cpu/features.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// A kernel function of type Fn (a pointer), its name and what it needs.
template <class Fn>
struct variant {
  std::string_view name;
  cpu::cpu_set needs;
  Fn run;

  [[nodiscard]] constexpr bool is_supported(cpu::cpu_set available) const noexcept {
    return available.contains(needs);
  }
};

/// The first (best) variant that `allowed` supports. A table ends with "scalar", which needs
/// nothing, so there always is one.
template <class Fn>
[[nodiscard]] constexpr const variant<Fn>& select(std::span<const variant<Fn>> table,
                                                  cpu::cpu_set allowed) noexcept {
  for (const variant<Fn>& v : table) {
    if (v.is_supported(allowed)) return v;
  }
  return table.back();
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
