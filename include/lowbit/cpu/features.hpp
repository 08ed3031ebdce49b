// cpu/features.hpp: what the CPU and the operating system offer, feature by feature. Layer L0.
//
// Invariants:
//  * A feature counts only if CPUID (or AT_HWCAP) reports it *and* the operating system saves its
//    registers (OSXSAVE, XCR0): anything else ends in SIGILL.
//  * Features are never inferred from a CPU's name, nor one AVX-512 feature from another.
//  * Tiers are named sets of features, ordered from the least to the most demanding of each
//    architecture; a kernel variant names exactly the features that its code uses.
#pragma once

#include <cstdint>
#include <string_view>

#include "lowbit/config.hpp"

#if LOWBIT_X86_64
#include <cpuid.h>
#elif LOWBIT_AARCH64 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::cpu {

/// A set of CPU features. A regular value; all operations are constexpr.
class cpu_set {
 public:
  constexpr cpu_set() noexcept = default;
  constexpr explicit cpu_set(std::uint64_t bits) noexcept : bits_(bits) {}

  /// Whether every feature of `other` is in this set.
  [[nodiscard]] constexpr bool contains(cpu_set other) const noexcept {
    return (bits_ & other.bits_) == other.bits_;
  }
  [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
  friend constexpr cpu_set operator|(cpu_set a, cpu_set b) noexcept {
    return cpu_set{a.bits_ | b.bits_};
  }
  friend constexpr cpu_set operator&(cpu_set a, cpu_set b) noexcept {
    return cpu_set{a.bits_ & b.bits_};
  }
  friend constexpr bool operator==(cpu_set, cpu_set) noexcept = default;

 private:
  std::uint64_t bits_ = 0;
};

namespace detail {
constexpr cpu_set feature_bit(unsigned i) noexcept { return cpu_set{std::uint64_t{1} << i}; }
}  // namespace detail

inline constexpr cpu_set none{};
/// Not a CPU feature: stands for "SIMD code that needs no more than the build's own flags", so that
/// the portable variants can be ruled out like any other.
inline constexpr cpu_set portable_simd = detail::feature_bit(0);

inline constexpr cpu_set popcnt = detail::feature_bit(1);
inline constexpr cpu_set avx2 = detail::feature_bit(2);
inline constexpr cpu_set fma = detail::feature_bit(3);
inline constexpr cpu_set f16c = detail::feature_bit(4);
inline constexpr cpu_set bmi2 = detail::feature_bit(5);
inline constexpr cpu_set avx_vnni = detail::feature_bit(6);
inline constexpr cpu_set avx512f = detail::feature_bit(7);
inline constexpr cpu_set avx512bw = detail::feature_bit(8);
inline constexpr cpu_set avx512dq = detail::feature_bit(9);
inline constexpr cpu_set avx512vl = detail::feature_bit(10);
inline constexpr cpu_set avx512_vnni = detail::feature_bit(11);
inline constexpr cpu_set avx512_vpopcntdq = detail::feature_bit(12);
inline constexpr cpu_set avx512_bitalg = detail::feature_bit(13);
inline constexpr cpu_set avx512_vbmi = detail::feature_bit(14);
inline constexpr cpu_set neon = detail::feature_bit(32);
inline constexpr cpu_set neon_dotprod = detail::feature_bit(33);
inline constexpr cpu_set neon_i8mm = detail::feature_bit(34);

/// What every AVX2 kernel may use.
inline constexpr cpu_set avx2_core = popcnt | avx2 | fma | f16c | bmi2;
/// What every AVX-512 kernel may use.
inline constexpr cpu_set avx512_core = avx2_core | avx512f | avx512bw | avx512dq | avx512vl;
/// Look-ups and dot products of bytes.
inline constexpr cpu_set avx512_bytes = avx512_vbmi | avx512_vnni;

/// A named set of features: all that code of this tier, and of the tiers below it, may use.
struct tier {
  std::string_view name;
  cpu_set features;
};

/// Every tier, the least demanding first.
inline constexpr tier tiers[] = {
    {"scalar", none},
    {"portable", portable_simd},
#if LOWBIT_AARCH64
    {"neon", portable_simd | neon},
    {"neon_dotprod", portable_simd | neon | neon_dotprod},
#else
    {"avx2", portable_simd | avx2_core},
    {"avx_vnni", portable_simd | avx2_core | avx_vnni},
    {"avx512bw", portable_simd | avx512_core},
    {"avx512_vnni", portable_simd | avx512_core | avx512_vnni},
    {"avx512_vbmi_vnni", portable_simd | avx512_core | avx512_bytes},
    {"avx512_vpopcntdq", portable_simd | avx512_core | avx512_bytes | avx512_vpopcntdq},
#endif
};

/// What this machine offers, portable_simd included. Executes no instruction that may be missing.
/// Thread-safe; a pure function, cheap enough to call once per program or context.
[[nodiscard]] inline cpu_set detect() noexcept {
  cpu_set found = portable_simd;
#if LOWBIT_X86_64
  constexpr auto bit = [](unsigned reg, unsigned i) { return ((reg >> i) & 1U) != 0; };
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;
  const bool has_popcnt = bit(c, 23);
  const bool has_fma = bit(c, 12);
  const bool has_f16c = bit(c, 29);
  const bool os_saves_state = bit(c, 27);  // OSXSAVE: XGETBV may be executed
  if (has_popcnt) found = found | popcnt;
  if (!os_saves_state) return found;

  unsigned xcr0_low = 0;
  unsigned xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  const bool os_saves_ymm = (xcr0_low & 0x06U) == 0x06U;  // XMM and the upper halves of YMM
  const bool os_saves_zmm = (xcr0_low & 0xe6U) == 0xe6U;  // and opmask, ZMM_Hi256, Hi16_ZMM
  if (!os_saves_ymm) return found;
  if (has_fma) found = found | fma;
  if (has_f16c) found = found | f16c;

  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  const unsigned max_subleaf = a;
  if (bit(b, 5)) found = found | avx2;
  if (bit(b, 8)) found = found | bmi2;
  if (os_saves_zmm) {
    if (bit(b, 16)) found = found | avx512f;
    if (bit(b, 17)) found = found | avx512dq;
    if (bit(b, 30)) found = found | avx512bw;
    if (bit(b, 31)) found = found | avx512vl;
    if (bit(c, 1)) found = found | avx512_vbmi;
    if (bit(c, 11)) found = found | avx512_vnni;
    if (bit(c, 12)) found = found | avx512_bitalg;
    if (bit(c, 14)) found = found | avx512_vpopcntdq;
  }
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && bit(a, 4)) {
    found = found | avx_vnni;
  }
#elif LOWBIT_AARCH64
  found = found | neon;  // part of the architecture's baseline
#if defined(__linux__)
  // Bit positions of the kernel's ABI (asm/hwcap.h), spelled out because old headers lack some.
  if ((::getauxval(AT_HWCAP) >> 20U & 1U) != 0) found = found | neon_dotprod;
  if ((::getauxval(AT_HWCAP2) >> 13U & 1U) != 0) found = found | neon_i8mm;
#endif
#endif
  return found;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::cpu
