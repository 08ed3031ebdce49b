// Linked into the executables that ctest runs once more with LOWBIT_ISA forced to each tier. Where
// the machine lacks that tier the run ends before the first test, as "skipped" (exit status 77), so
// that nothing passes without having run. It fails instead if the tier does not exist, or if
// LOWBIT_TEST_CPU_ASSUME (a list such as avx2,avx512_vnni: what CI knows of its machine) names it.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lowbit/cpu/features.hpp"

namespace {

bool contains(const std::string& list, std::string_view name) {
  return ("," + list + ",").find("," + std::string(name) + ",") != std::string::npos;
}

[[noreturn]] void end(int status, std::string_view isa, const char* why) {
  std::printf("LOWBIT_ISA=%.*s: %s; this machine has:", static_cast<int>(isa.size()), isa.data(),
              why);
  for (const auto& tier : lowbit::cpu::tiers) {
    if (!lowbit::cpu::detect().contains(tier.features)) continue;
    std::printf(" %.*s", static_cast<int>(tier.name.size()), tier.name.data());
  }
  std::printf("\n");
  std::exit(status);
}

const bool checked = [] {
  const char* const value = std::getenv("LOWBIT_ISA");
  const char* const assumed = std::getenv("LOWBIT_TEST_CPU_ASSUME");
  const std::string_view isa = value != nullptr ? value : "";
  if (isa.empty()) return true;
  for (const auto& tier : lowbit::cpu::tiers) {
    if (tier.name != isa) continue;
    if (lowbit::cpu::detect().contains(tier.features)) return true;
    if (assumed != nullptr && contains(assumed, isa)) end(1, isa, "FAILED, it should be here");
    end(77, isa, "NOT RUN, this machine lacks it");
  }
  end(1, isa, "FAILED, there is no such tier");
}();

}  // namespace
