// The features that are found must be those of this machine, no more and no less.
#include "lowbit/cpu/features.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

#include "catch.hpp"

using namespace lowbit;

TEST_CASE("cpu_set: a set") {
  using cpu::cpu_set;
  static_assert(cpu::none == cpu_set{});
  static_assert(cpu::avx2_core.contains(cpu::avx2));
  static_assert(!cpu::avx2.contains(cpu::avx2_core));
  static_assert((cpu::avx2 | cpu::fma).contains(cpu::none));
  static_assert((cpu::avx2_core & cpu::avx2) == cpu::avx2);
  static_assert((cpu::avx2 & cpu::fma) == cpu::none);
  static_assert((cpu::avx2 | cpu::avx2) == cpu::avx2);
  CHECK(cpu_set{cpu::avx512_core.bits()} == cpu::avx512_core);
}

TEST_CASE("cpu: every feature is one bit of its own") {
  const cpu::cpu_set all[] = {cpu::portable_simd, cpu::popcnt,        cpu::avx2,
                              cpu::fma,           cpu::f16c,          cpu::bmi2,
                              cpu::avx_vnni,      cpu::avx512f,       cpu::avx512bw,
                              cpu::avx512dq,      cpu::avx512vl,      cpu::avx512_vnni,
                              cpu::avx512_vbmi,   cpu::avx512_bitalg, cpu::avx512_vpopcntdq,
                              cpu::neon,          cpu::neon_dotprod,  cpu::neon_i8mm};
  cpu::cpu_set seen;
  for (const cpu::cpu_set f : all) {
    CHECK((f.bits() != 0 && (f.bits() & (f.bits() - 1)) == 0));
    CHECK((seen & f) == cpu::none);
    seen = seen | f;
  }
}

TEST_CASE("cpu: tiers are named once, from the least demanding on") {
  std::set<std::string_view> names;
  for (const cpu::tier& t : cpu::tiers) {
    CHECK(names.insert(t.name).second);
    for (const cpu::tier* u = &t + 1; u != std::end(cpu::tiers); ++u) {
      INFO(t.name << " stands before " << u->name);
      CHECK_FALSE(t.features.contains(u->features));
    }
  }
  CHECK(cpu::tiers[0].name == "scalar");
  CHECK(cpu::tiers[0].features == cpu::none);
  CHECK(cpu::tiers[1].name == "portable");
  CHECK(cpu::tiers[1].features == cpu::portable_simd);
}

TEST_CASE("cpu: a tier implies those that it builds on") {
  const auto features = [](std::string_view name) {
    const auto* const t = std::find_if(std::begin(cpu::tiers), std::end(cpu::tiers),
                                       [&](const cpu::tier& u) { return u.name == name; });
    REQUIRE(t != std::end(cpu::tiers));
    return t->features;
  };
  for (const cpu::tier& t : cpu::tiers) {
    CHECK((t.name == "scalar" || t.features.contains(cpu::portable_simd)));
  }
#if LOWBIT_AARCH64
  CHECK(features("neon_dotprod").contains(features("neon")));
#else
  for (const char* wider :
       {"avx_vnni", "avx512bw", "avx512_vnni", "avx512_vbmi_vnni", "avx512_vpopcntdq"}) {
    CHECK(features(wider).contains(features("avx2")));
  }
  CHECK(features("avx512_vnni").contains(features("avx512bw")));
  CHECK(features("avx512_vbmi_vnni").contains(features("avx512_vnni")));
  CHECK(features("avx512_vpopcntdq").contains(features("avx512_vbmi_vnni")));
  CHECK(features("avx2") == (cpu::portable_simd | cpu::avx2_core));
#endif
}

TEST_CASE("cpu: detection is stable, and offers the portable tier everywhere") {
  const cpu::cpu_set found = cpu::detect();
  CHECK(found == cpu::detect());
  CHECK(found.contains(cpu::portable_simd));
  static_assert(noexcept(cpu::detect()));
#if LOWBIT_AARCH64
  CHECK(found.contains(cpu::neon));
  CHECK((found & cpu::avx512_core) == cpu::none);
#else
  CHECK((found & (cpu::neon | cpu::neon_dotprod | cpu::neon_i8mm)) == cpu::none);
  // Whoever has a later extension has the earlier ones (true of every CPU made so far).
  if (found.contains(cpu::avx512f)) CHECK(found.contains(cpu::avx2_core));
  if (found.contains(cpu::avx2)) CHECK(found.contains(cpu::popcnt));
  if (found.contains(cpu::avx512_vpopcntdq)) CHECK(found.contains(cpu::avx512f));
#endif
}

// The code of this very executable was built for some features: it runs, so they must be found.
TEST_CASE("cpu: what the build requires is found") {
  const cpu::cpu_set found = cpu::detect();
  CHECK(found.contains(cpu::none));
#if defined(__POPCNT__)
  CHECK(found.contains(cpu::popcnt));
#endif
#if defined(__AVX2__)
  CHECK(found.contains(cpu::avx2));
#endif
#if defined(__FMA__)
  CHECK(found.contains(cpu::fma));
#endif
#if defined(__AVX512F__)
  CHECK(found.contains(cpu::avx512f));
#endif
#if defined(__AVX512VPOPCNTDQ__)
  CHECK(found.contains(cpu::avx512_vpopcntdq));
#endif
}

#if LOWBIT_X86_64 && defined(__linux__)
namespace {

/// The first line of /proc/cpuinfo with this key, its value.
std::string cpuinfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const auto colon = line.find(':');
    if (colon != std::string::npos) return line.substr(std::min(colon + 2, line.size()));
  }
  return {};
}

/// The name that the CPU gives itself, as the kernel prints it.
std::string brand() {
  unsigned words[13] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned* const w = words + 4 * leaf;
    if (__get_cpuid(0x80000002U + leaf, w, w + 1, w + 2, w + 3) == 0) return {};
  }
  std::string name(reinterpret_cast<const char*>(words));
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
  return name;
}

}  // namespace

TEST_CASE("cpu: found is exactly what the kernel reports") {
  const struct {
    const char* flag;
    cpu::cpu_set feature;
  } table[] = {{"popcnt", cpu::popcnt},
               {"avx2", cpu::avx2},
               {"fma", cpu::fma},
               {"f16c", cpu::f16c},
               {"bmi2", cpu::bmi2},
               {"avx_vnni", cpu::avx_vnni},
               {"avx512f", cpu::avx512f},
               {"avx512bw", cpu::avx512bw},
               {"avx512dq", cpu::avx512dq},
               {"avx512vl", cpu::avx512vl},
               {"avx512_vnni", cpu::avx512_vnni},
               {"avx512_vpopcntdq", cpu::avx512_vpopcntdq},
               {"avx512_bitalg", cpu::avx512_bitalg},
               {"avx512vbmi", cpu::avx512_vbmi}};
  std::istringstream words(cpuinfo("flags"));
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  if (flags.empty()) {
    WARN("/proc/cpuinfo lists no flags: not compared");
    return;
  }
  if (cpuinfo("model name") != brand()) {
    WARN("/proc/cpuinfo is about '" << cpuinfo("model name") << "' but CPUID says '" << brand()
                                    << "' (an emulator): not compared");
    return;
  }
  REQUIRE(flags.count("sse2") == 1);
  const cpu::cpu_set found = cpu::detect();
  for (const auto& row : table) {
    INFO(row.flag);
    // A kernel older than the extension has no name for it: absence there proves nothing.
    if (flags.count(row.flag) == 1) {
      CHECK(found.contains(row.feature));
    } else if (row.feature == cpu::avx_vnni && found.contains(row.feature)) {
      WARN("CPUID reports AVX-VNNI, this kernel does not list it");
    } else {
      CHECK_FALSE(found.contains(row.feature));
    }
  }
}
#endif

// CI says which tiers its machine has: LOWBIT_TEST_CPU_ASSUME=avx2,avx512_vnni. Without it a
// machine that lacks a tier would skip that tier's tests in silence.
TEST_CASE("cpu: the tiers of LOWBIT_TEST_CPU_ASSUME are supported") {
  const char* const assumed = std::getenv("LOWBIT_TEST_CPU_ASSUME");
  std::istringstream names(assumed != nullptr ? assumed : "scalar,portable");
  int checked = 0;
  for (std::string name; std::getline(names, name, ','); ++checked) {
    INFO("tier '" << name << "'");
    const auto* const t = std::find_if(std::begin(cpu::tiers), std::end(cpu::tiers),
                                       [&](const cpu::tier& u) { return u.name == name; });
    REQUIRE(t != std::end(cpu::tiers));
    CHECK(cpu::detect().contains(t->features));
  }
  CHECK(checked > 0);
}
