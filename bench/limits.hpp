// limits.hpp: what this core can do at most, measured in the process that measures the kernels.
//
// Two kinds: instruction peaks (one loop of nothing but the instructions that a kind of product
// cannot do without, in independent chains) and streaming reads (the best of several loops of
// loads over memory that no cache holds).
//
// Invariants:
//  * Time is CPU time of the calling thread: what another process takes does not count.
//  * Every loop is assembly, so no compiler moves, merges or spills what is measured.
//  * A limit executes only the instructions that its `needs` names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <span>
#include <string>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/cpu/features.hpp"

namespace bench {

namespace cpu = lowbit::cpu;

/// CPU time of this thread, in seconds.
[[nodiscard]] inline double cpu_seconds() noexcept {
  std::timespec t{};
  static_cast<void>(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t));
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// The median; of an even number the mean of the two in the middle; 0 of nothing.
[[nodiscard]] double median(std::vector<double> values);

/// What a product does, step by step, and so which instructions bound it.
enum class operation {
  int8_mac,    ///< a product of two 8-bit integers, added up
  look_up,     ///< the sum of 5 numbers with signs, looked up and added: counted as 5 products
  bit_mac,     ///< and + popcount + add: one bit times one bit
  float_mac,   ///< a fused multiply-add of floats
  double_fma,  ///< of doubles, fused where that is the contract
  float_add,   ///< a sum of floats
};

/// The instruction peak of one operation with some CPU features.
struct instruction_limit {
  const char* name;  ///< instruction/features: registered as limit/<name>
  operation what;
  cpu::cpu_set needs;
  void (*run)(std::uint64_t rounds) noexcept;
  double macs_per_round;

  /// MACs per second, from one run of about 1 ms.
  [[nodiscard]] double measure() const noexcept;
};

/// All of this architecture; of each operation the best one first.
[[nodiscard]] std::span<const instruction_limit> instruction_limits() noexcept;

/// The peak that code with the features `allowed` has. There is one for each operation but where an
/// architecture lacks an entry (null).
[[nodiscard]] const instruction_limit* find_limit(operation what, cpu::cpu_set allowed) noexcept;

/// A loop of loads, with or without prefetches.
struct read_loop {
  const char* name;
  cpu::cpu_set needs;
  void (*run)(const std::byte* begin, std::size_t bytes) noexcept;  ///< bytes: a multiple of 4096
};

[[nodiscard]] std::span<const read_loop> read_loops() noexcept;

/// The rate at which this core reads memory that lies in no cache. Holds a buffer as large as what
/// the cold benchmarks rotate over and reads it window by window, each time the next ones: between
/// two visits of a window the whole rest has been read.
class read_limit {
 public:
  /// `bytes` is rounded up to whole windows.
  explicit read_limit(std::size_t bytes);

  /// Bytes per second of one loop over the next window, about 2 ms.
  [[nodiscard]] double measure(const read_loop& loop) noexcept;
  /// The loop that was the fastest when this was constructed (medians of interleaved runs).
  [[nodiscard]] const read_loop& best() const noexcept { return *best_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return buffer_.size(); }

 private:
  static constexpr std::size_t window = std::size_t{64} << 20U;

  lowbit::aligned_buffer<std::byte> buffer_;
  std::size_t next_ = 0;
  const read_loop* best_ = nullptr;
};

/// How much memory may be taken for one of a few large buffers: a third of what is available.
[[nodiscard]] std::size_t memory_share() noexcept;

}  // namespace bench
