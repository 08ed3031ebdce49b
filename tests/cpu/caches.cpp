// The caches that are found must be those that the operating system reports, and usable ones
// whatever a machine says.
#include "lowbit/cpu/caches.hpp"
#include "io/files.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "io/files.hpp"

using namespace lowbit;
using cpu::cache_sizes;
using cpu::detail::found_caches;
using cpu::detail::parse_size;
using cpu::detail::usable;

namespace {

constexpr std::size_t kib = 1024;

constexpr found_caches found(std::size_t l1, std::size_t l2, std::size_t l3, std::size_t line) {
  found_caches f;
  f.add(1, l1, line);
  f.add(2, l2, line);
  f.add(3, l3, line);
  return f;
}

constexpr cache_sizes sizes(std::size_t l1, std::size_t l2, std::size_t l3, std::size_t line) {
  return {.l1_data = l1, .l2 = l2, .l3 = l3, .line = line};
}

/// A folder of files such as sysfs has, removed at the end.
class cache_folder {
 public:
  void add(const std::string& type, const std::string& level, const std::string& size,
           const std::string& line) {
    const auto folder = folder_ / ("index" + std::to_string(count_++));
    std::filesystem::create_directory(folder);
    std::ofstream(folder / "type") << type << '\n';
    std::ofstream(folder / "level") << level << '\n';
    std::ofstream(folder / "size") << size << '\n';
    std::ofstream(folder / "coherency_line_size") << line << '\n';
  }
  [[nodiscard]] std::string index() const { return (folder_ / "index").string(); }

 private:
  lowbit_test::temporary_folder folder_;
  int count_ = 0;
};

}  // namespace

TEST_CASE("caches: what makes sense is taken as it is") {
  static_assert(usable(found(48 * kib, 2048 * kib, 491520 * kib, 64)) ==
                sizes(48 * kib, 2048 * kib, 491520 * kib, 64));
  static_assert(usable(found(64 * kib, 8192 * kib, 32768 * kib, 256)) ==
                sizes(64 * kib, 8192 * kib, 32768 * kib, 256));
  // Without a third level the second is the last.
  static_assert(usable(found(32 * kib, 1024 * kib, 0, 64)) ==
                sizes(32 * kib, 1024 * kib, 1024 * kib, 64));
  // AMD: a small L3 slice that a virtual machine was given.
  static_assert(usable(found(32 * kib, 512 * kib, 256 * kib, 64)).l3 == 512 * kib);
}

TEST_CASE("caches: what does not makes way for the defaults") {
  constexpr cache_sizes defaults;
  static_assert(defaults == sizes(32 * kib, 512 * kib, 8192 * kib, 64));
  static_assert(usable({}) == defaults);
  static_assert(usable(found(0, 512 * kib, 0, 64)) == defaults);
  static_assert(usable(found(32 * kib, 0, 8192 * kib, 64)) == defaults);
  static_assert(usable(found(32 * kib, 16 * kib, 8192 * kib, 64)) == defaults);
  static_assert(usable(found(1, 2, 3, 64)) == defaults);
  static_assert(usable(found(8192 * kib, 8192 * kib, 8192 * kib, 64)) == defaults);
  static_assert(usable(found(32 * kib, ~std::size_t{0}, ~std::size_t{0}, 64)) == defaults);
  static_assert(usable(found(32 * kib, 512 * kib, ~std::size_t{0}, 64)).l3 == 512 * kib);
  for (const std::size_t line : {std::size_t{0}, std::size_t{1}, std::size_t{8}, std::size_t{48},
                                 std::size_t{65}, std::size_t{4096}, ~std::size_t{0}}) {
    CHECK(usable(found(48 * kib, 2048 * kib, 0, line)) ==
          sizes(48 * kib, 2048 * kib, 2048 * kib, 64));
  }
}

TEST_CASE("caches: levels that do not exist are no levels") {
  found_caches f;
  f.add(0, 1, 1);
  f.add(4, 1, 1);
  f.add(~std::size_t{0}, 1, 1);
  CHECK(usable(f) == cache_sizes{});
  CHECK(f.line == 0);
}

TEST_CASE("caches: sizes as Linux writes them") {
  static_assert(parse_size("48K\n") == 48 * kib);
  static_assert(parse_size("491520K") == 491520 * kib);
  static_assert(parse_size("2M") == 2048 * kib);
  static_assert(parse_size("1G") == 1048576 * kib);
  static_assert(parse_size("64\n") == 64);
  static_assert(parse_size("") == 0);
  static_assert(parse_size("K") == 0);
  static_assert(parse_size("-1") == 0);
  static_assert(parse_size("99999999999999999999999999") == 0);
  static_assert(parse_size("1099511627775") == 1099511627775);
  static_assert(parse_size("1099511627775K") == 0);
}

TEST_CASE("caches: detection is stable and usable") {
  static_assert(noexcept(cpu::detect_caches()));
  const cache_sizes here = cpu::detect_caches();
  CHECK(here == cpu::detect_caches());
  CHECK(here.l1_data >= 4 * kib);
  CHECK(here.l2 >= here.l1_data);
  CHECK(here.l3 >= here.l2);
  CHECK((here.line & (here.line - 1)) == 0);
  WARN("L1 " << here.l1_data / kib << " KiB, L2 " << here.l2 / kib << " KiB, L3 " << here.l3 / kib
             << " KiB, lines of " << here.line << " bytes");
}

#if defined(__linux__)
TEST_CASE("caches: a folder of sysfs") {
  using cpu::detail::caches_of_sysfs;
  cache_folder folder;
  CHECK(usable(caches_of_sysfs(folder.index().c_str())) == cache_sizes{});  // empty
  folder.add("Instruction", "1", "64K", "32");
  folder.add("Data", "1", "128K", "128");
  CHECK(usable(caches_of_sysfs(folder.index().c_str())) ==
        sizes(32 * kib, 512 * kib, 8192 * kib, 128));
  folder.add("Unified", "2", "3M", "128");
  CHECK(usable(caches_of_sysfs(folder.index().c_str())) ==
        sizes(128 * kib, 3072 * kib, 3072 * kib, 128));
  folder.add("Unified", "3", "24576K", "128");
  folder.add("Unified", "4", "1G", "128");
  CHECK(usable(caches_of_sysfs(folder.index().c_str())) ==
        sizes(128 * kib, 3072 * kib, 24576 * kib, 128));
  CHECK(caches_of_sysfs(std::string(1000, 'x').c_str()).bytes[1] == 0);
}

#if LOWBIT_X86_64
namespace {

/// Whether /proc/cpuinfo names another CPU than CPUID does.
bool is_emulated() {
  unsigned words[13] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned* const w = words + 4 * leaf;
    if (__get_cpuid(0x80000002U + leaf, w, w + 1, w + 2, w + 3) == 0) return true;
  }
  std::string name(reinterpret_cast<const char*>(words));
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 10, "model name") == 0) return line.find(": " + name) == std::string::npos;
  }
  return true;
}

}  // namespace
#endif

// sysfs is read here by other code than the library's, for every processor: cores may differ.
TEST_CASE("caches: found is what the kernel reports") {
  std::vector<cache_sizes> reported;
  const auto line_of = [](const std::filesystem::path& file) {
    std::string line;
    std::ifstream stream(file);
    std::getline(stream, line);
    return line;
  };
  for (int processor = 0;; ++processor) {
    const std::filesystem::path folder =
        "/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/cache";
    if (!std::filesystem::exists(folder / "index0/size")) break;
    found_caches f;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string type = line_of(entry.path() / "type");
      if (type != "Data" && type != "Unified") continue;
      const std::string size = line_of(entry.path() / "size");
      REQUIRE(size.back() == 'K');
      f.add(std::stoul(line_of(entry.path() / "level")), std::stoul(size) * kib,
            std::stoul(line_of(entry.path() / "coherency_line_size")));
    }
    reported.push_back(usable(f));
  }
  if (reported.empty()) {
    WARN("/sys lists no caches: not compared");
    return;
  }
#if LOWBIT_X86_64
  if (is_emulated()) {  // CPUID is about the emulated CPU, /sys about the real one
    WARN("/proc/cpuinfo is about another CPU than CPUID (an emulator): not compared");
    return;
  }
#endif
  CHECK(std::count(reported.begin(), reported.end(), cpu::detect_caches()) > 0);
}
#endif
