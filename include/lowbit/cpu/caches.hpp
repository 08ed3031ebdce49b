// cpu/caches.hpp: how large this machine's caches are, for choosing block sizes. Layer L0.
//
// Invariants:
//  * Sizes are hints for speed and never decide a result.
//  * Whatever the machine says, the answer is usable: 0 < l1_data <= l2 <= l3, and line is a power
//  of
//    two. What is unknown or absurd is replaced by a documented default.
//  * Nothing is allocated and nothing is thrown.
#pragma once

#include <cstddef>

#include "lowbit/config.hpp"

#if LOWBIT_X86_64
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::cpu {

/// Sizes in bytes of the caches that one core sees, whole ones: a cache that cores share is not
/// divided among them. The defaults are what a machine that says nothing is taken for: less than
/// most have, since blocks that are too small cost less than blocks that do not fit.
struct cache_sizes {
  std::size_t l1_data = std::size_t{32} << 10U;
  std::size_t l2 = std::size_t{512} << 10U;
  std::size_t l3 = std::size_t{8} << 20U;  ///< l2 where there is no third level
  std::size_t line = 64;

  friend constexpr bool operator==(const cache_sizes&, const cache_sizes&) noexcept = default;
};

namespace detail {

/// What a source says of one machine's caches; 0 is "nothing".
struct found_caches {
  std::size_t bytes[4] = {};  ///< by level, [0] unused: data or unified caches
  std::size_t line = 0;       ///< of level 1

  constexpr void add(std::size_t level, std::size_t size, std::size_t line_size) noexcept {
    if (level < 1 || level > 3) return;
    bytes[level] = size;
    if (level == 1) line = line_size;
  }
};

/// The sizes to use: those found, as far as they make sense. A level 1 or 2 that is missing or
/// absurd brings the defaults for all three, since one strange answer makes the others doubtful.
[[nodiscard]] constexpr cache_sizes usable(const found_caches& found) noexcept {
  constexpr auto within = [](std::size_t value, std::size_t low, std::size_t high) {
    return low <= value && value <= high;
  };
  constexpr std::size_t kib = std::size_t{1} << 10U;
  constexpr std::size_t gib = std::size_t{1} << 30U;
  cache_sizes sizes;
  const std::size_t line = found.line;
  if (within(line, 16, 1024) && (line & (line - 1)) == 0) sizes.line = line;
  const std::size_t* const bytes = found.bytes;
  if (!within(bytes[1], 4 * kib, 4096 * kib) || !within(bytes[2], bytes[1], gib)) return sizes;
  sizes.l1_data = bytes[1];
  sizes.l2 = bytes[2];
  sizes.l3 = within(bytes[3], bytes[2], 64 * gib) ? bytes[3] : bytes[2];
  return sizes;
}

#if LOWBIT_X86_64
/// CPUID's list of caches: leaf 4 (Intel), or 0x8000001d (AMD), which has the same fields.
[[nodiscard]] inline found_caches caches_of_cpuid(unsigned leaf) noexcept {
  found_caches found;
  constexpr auto field = [](unsigned reg, unsigned first, unsigned count) -> std::size_t {
    return (reg >> first) & ((1U << count) - 1U);
  };
  constexpr unsigned more_than_any_cpu_has = 16;
  for (unsigned i = 0; i < more_than_any_cpu_has; ++i) {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (__get_cpuid_count(leaf, i, &a, &b, &c, &d) == 0) break;
    const std::size_t type = field(a, 0, 5);  // 1 data, 2 instructions, 3 unified
    if (type == 0) break;
    if (type == 2) continue;
    const std::size_t line = field(b, 0, 12) + 1;
    const std::size_t partitions = field(b, 12, 10) + 1;
    const std::size_t ways = field(b, 22, 10) + 1;
    const std::size_t sets = std::size_t{c} + 1;
    found.add(field(a, 5, 3), line * partitions * ways * sets, line);
  }
  return found;
}
#endif

/// The number that a text starts with, times 2^10, 2^20 or 2^30 if K, M or G follows; 0 if there is
/// none or it is too large.
[[nodiscard]] constexpr std::size_t parse_size(const char* text) noexcept {
  std::size_t value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) {
    value = 10 * value + static_cast<std::size_t>(*text - '0');
    if (value >> 40U != 0) return 0;
  }
  const unsigned shift = *text == 'K' ? 10 : *text == 'M' ? 20 : *text == 'G' ? 30 : 0;
  return value >> (40U - shift) != 0 ? 0 : value << shift;
}

#if defined(__linux__)
/// Linux' description of the caches of processor 0, read from `folder` (a path that ends with
/// "index", less than 100 characters).
[[nodiscard]] inline found_caches caches_of_sysfs(const char* folder) noexcept {
  // Reads folder + digit + "/" + name into text; text is empty if there is no such file.
  constexpr auto read_file = [](const char* path_start, char digit, const char* name,
                                char(&text)[32]) noexcept {
    char path[128];
    std::size_t length = 0;
    const auto append = [&](const char* part) {
      while (*part != '\0' && length + 1 < sizeof path) path[length++] = *part++;
    };
    const char middle[] = {digit, '/', '\0'};
    append(path_start);
    append(middle);
    append(name);
    path[length] = '\0';
    text[0] = '\0';
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    const ::ssize_t count = ::read(file, text, sizeof text - 1);
    ::close(file);
    text[count > 0 ? count : 0] = '\0';
  };

  found_caches found;
  for (char digit = '0'; digit <= '9'; ++digit) {
    char type[32];
    char level[32];
    char size[32];
    char line[32];
    read_file(folder, digit, "type", type);
    if (type[0] == '\0') break;
    if (type[0] != 'D' && type[0] != 'U') continue;  // Data, Unified; not Instruction
    read_file(folder, digit, "level", level);
    read_file(folder, digit, "size", size);
    read_file(folder, digit, "coherency_line_size", line);
    found.add(parse_size(level), parse_size(size), parse_size(line));
  }
  return found;
}
#endif

}  // namespace detail

/// The caches of the core that runs this (on Linux without CPUID: of processor 0). Thread-safe and
/// stateless, but slow (CPUID may trap, files may be read: up to 0.1 ms): call it once and keep the
/// answer.
[[nodiscard]] inline cache_sizes detect_caches() noexcept {
  detail::found_caches found;
#if LOWBIT_X86_64
  found = detail::caches_of_cpuid(4);
  if (found.bytes[1] == 0) found = detail::caches_of_cpuid(0x8000001dU);
#endif
#if defined(__linux__)
  if (found.bytes[1] == 0)
    found = detail::caches_of_sysfs("/sys/devices/system/cpu/cpu0/cache/index");
#endif
  return detail::usable(found);
}

/// How far ahead of a stream from memory it pays to prefetch, in bytes: 8 KiB on AMD (where 1 to 2
/// KiB reach half of the bandwidth), 2 KiB elsewhere (on Intel servers less is late where much is
/// computed for a line, and 4 KiB or more lose up to a fifth where little is;
/// kernels/code_gemm/README.md). Speed only.
[[nodiscard]] inline std::size_t detect_prefetch_bytes() noexcept {
#if LOWBIT_X86_64
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(0, &a, &b, &c, &d) != 0 && b == 0x68747541U && d == 0x69746e65U &&
      c == 0x444d4163U) {  // "AuthenticAMD"
    return std::size_t{8} << 10U;
  }
#endif
  return std::size_t{2} << 10U;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::cpu
