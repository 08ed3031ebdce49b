// tests/kernels/variant_table.hpp: what every table of variants must satisfy.
#pragma once

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit_test {

/// Best first, scalar last, each entry of use: it is what is chosen on a machine that offers
/// exactly what it needs. Names are those of tiers, and no entry needs more than the tier of its
/// name.
template <class Fn>
[[nodiscard]] lowbit::testing::findings check_variant_table(
    std::span<const lowbit::kernels::variant<Fn>> table) {
  using lowbit::testing::detail::add;
  lowbit::testing::findings list;
  add(list, "has_entries", !table.empty(), "the table is empty");
  if (table.empty()) return list;
  add(list, "scalar_is_last",
      table.back().name == "scalar" && table.back().needs == lowbit::cpu::none,
      "the last entry is '", table.back().name, "'");
  for (const auto& v : table) {
    const std::string name{v.name};
    add(list, name + "/has_a_function", v.run != Fn{}, "there is no function");
    add(list, name + "/unique",
        std::count_if(table.begin(), table.end(),
                      [&](const auto& u) { return u.name == v.name; }) == 1,
        "the name occurs more than once");
    add(list, name + "/chosen_for_what_it_needs",
        lowbit::kernels::select(table, v.needs).name == v.name, "hidden by '",
        lowbit::kernels::select(table, v.needs).name, "', which stands before it");
    const auto* const tier =
        std::find_if(std::begin(lowbit::cpu::tiers), std::end(lowbit::cpu::tiers),
                     [&](const auto& t) { return t.name == v.name; });
    const bool is_a_tier = tier != std::end(lowbit::cpu::tiers);
    add(list, name + "/is_a_tier", is_a_tier,
        "no tier has this name, so LOWBIT_ISA cannot ask for it");
    add(list, name + "/chosen_for_its_tier",
        is_a_tier && lowbit::kernels::select(table, tier->features).name == v.name,
        "LOWBIT_ISA=", v.name, " does not choose it");
  }
  return list;
}

/// Checks every variant of a table that this machine supports: check(variant) must report more than
/// `least` findings, all passed. Of those in `tiers`, a tier that the machine offers must have had
/// its variant checked: one that leaves the table, or asks for more than its tier, is missed.
template <class Fn, class Check>
void check_supported_variants(std::span<const lowbit::kernels::variant<Fn>> table,
                              std::span<const std::string_view> tiers, lowbit::index_t least,
                              Check&& check) {
  namespace cpu = lowbit::cpu;
  std::vector<std::string_view> checked;
  for (const auto& v : table) {
    if (!v.is_supported(cpu::detect())) {
      WARN("variant '" << v.name << "' is not supported here: not checked");
      continue;
    }
    const lowbit::testing::findings found = check(v);
    INFO(v.name << ":\n" << lowbit::testing::failures(found));
    CHECK(lowbit::testing::all_passed(found));
    CHECK(found.size() > least);
    checked.push_back(v.name);
  }
  for (const cpu::tier& tier : cpu::tiers) {
    if (!cpu::detect().contains(tier.features)) continue;
    if (std::count(tiers.begin(), tiers.end(), tier.name) == 0) continue;
    INFO("this machine offers tier " << tier.name << ", whose variant did not run");
    CHECK(std::count(checked.begin(), checked.end(), tier.name) == 1);
  }
}

}  // namespace lowbit_test
