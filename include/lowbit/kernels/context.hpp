// kernels/context.hpp: what a call may use: CPU features, threads, memory. Layer L2.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/executor.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/cpu/caches.hpp"
#include "lowbit/cpu/features.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Scratch memory that a caller keeps between calls, so that repeated products of the same shapes
/// allocate nothing. One call at a time may use it.
class workspace {
 public:
  /// Makes `workers` slots of at least `bytes` each; keeps what is large enough already.
  void reserve(index_t workers, index_t bytes) {
    if (slots_.size() < workers) slots_.resize(workers);
    for (index_t i = 0; i < workers; ++i) {
      if (slots_[i].size() < bytes) slots_[i] = aligned_buffer<std::byte>(bytes);
    }
  }
  /// Slot of one worker. Its content is unspecified.
  [[nodiscard]] std::span<std::byte> slot(index_t worker) noexcept { return slots_[worker].span(); }

  /// At least `bytes` of unspecified content, which the taker gives back: see borrowed.
  [[nodiscard]] aligned_buffer<std::byte> take(index_t bytes) {
    spare_.reserve(spare_.size() + ++taken_);  // so that giving back cannot fail
    const auto fitting = std::find_if(spare_.begin(), spare_.end(),
                                      [&](const auto& b) { return b.size() >= bytes; });
    aligned_buffer<std::byte> found;
    if (fitting != spare_.end()) {
      found = std::move(*fitting);
      spare_.erase(fitting);
    } else {
      if (!spare_.empty()) spare_.pop_back();  // too small: replaced
      found = aligned_buffer<std::byte>(bytes);
    }
    return found;
  }
  void give_back(aligned_buffer<std::byte> buffer) noexcept {
    --taken_;
    spare_.push_back(std::move(buffer));
  }

 private:
  std::vector<aligned_buffer<std::byte>> slots_;
  std::vector<aligned_buffer<std::byte>> spare_;
  index_t taken_ = 0;
};

/// What a call may use. A cheap value; the executor and the workspace belong to the caller and must
/// outlive the call. Without them a call runs serially and allocates its own scratch.
struct context {
  cpu::cpu_set allowed = cpu::portable_simd;
  executor* threads = nullptr;
  workspace* scratch = nullptr;
  cpu::cache_sizes caches = {};       ///< for choosing block sizes: speed only
  std::size_t prefetch_bytes = 2048;  ///< how far ahead weights are prefetched: speed only

  /// Everything that this machine supports, narrowed by the environment variable LOWBIT_ISA if that
  /// is set (see narrowed_to). Refuses a LOWBIT_ISA that is unknown or unsupported here (value).
  [[nodiscard]] static context best() {
    const context all{.allowed = cpu::detect(),
                      .caches = cpu::detect_caches(),
                      .prefetch_bytes = cpu::detect_prefetch_bytes()};
    const char* isa = std::getenv("LOWBIT_ISA");
    return isa == nullptr || *isa == '\0' ? all : all.narrowed_to(isa);
  }

  /// This context for the inside of a task: without threads, and with scratch of its own, if any.
  [[nodiscard]] context serial(workspace* own = nullptr) const noexcept {
    context alone = *this;
    alone.threads = nullptr;
    alone.scratch = own;
    return alone;
  }

  /// This context with the features of one tier (cpu::tiers) at most, such as "scalar" or "avx2".
  /// Refuses a tier that is unknown or that this context does not support, listing those it does.
  [[nodiscard]] context narrowed_to(std::string_view tier_name) const {
    std::string available;
    for (const cpu::tier& tier : cpu::tiers) {
      const bool supported = allowed.contains(tier.features);
      if (supported && tier.name == tier_name) {
        context narrowed = *this;
        narrowed.allowed = allowed & tier.features;
        return narrowed;
      }
      if (supported) available.append(available.empty() ? "" : ", ").append(tier.name);
    }
    LOWBIT_CHECK(false, value, "instruction-set tier '", tier_name,
                 "' is unknown or not supported here; available: ", available);
    return *this;
  }
};

/// An array of unspecified content for the duration of a call, from the context's workspace if it
/// has one. For the thread that makes the call, not for its tasks; calls inside may borrow, too.
template <trivially_copyable T>
class borrowed {
 public:
  borrowed(const context& ctx, index_t count)
      : from_(ctx.scratch), buffer_(take(checked_mul(count, sizeof(T), "scratch"))) {}
  borrowed(const borrowed&) = delete;
  borrowed& operator=(const borrowed&) = delete;
  ~borrowed() {
    if (from_ != nullptr) from_->give_back(std::move(buffer_));
  }
  [[nodiscard]] T* data() noexcept { return reinterpret_cast<T*>(buffer_.data()); }

 private:
  [[nodiscard]] aligned_buffer<std::byte> take(index_t bytes) const {
    return from_ != nullptr ? from_->take(bytes) : aligned_buffer<std::byte>(bytes);
  }

  workspace* from_;
  aligned_buffer<std::byte> buffer_;
};

/// Calls run(task, worker) for every task on the context's executor, or serially without one.
inline void parallel_for(const context& ctx, index_t tasks, executor::task run) {
  serial_executor serial;
  (ctx.threads != nullptr ? *ctx.threads : static_cast<executor&>(serial)).parallel_for(tasks, run);
}

/// Calls run(range), or run(range, worker), for ranges of `size` items (the last may be shorter)
/// that cover `count`.
template <class Run>
void parallel_for_blocks(const context& ctx, index_t count, index_t size, const Run& run) {
  parallel_for(ctx, div_up(count, size), [&](index_t i, index_t worker) {
    const row_range range{i * size, std::min((i + 1) * size, count)};
    if constexpr (std::is_invocable_v<const Run&, row_range, index_t>) {
      run(range, worker);
    } else {
      run(range);
    }
  });
}

/// How many workers may run at the same time.
[[nodiscard]] inline index_t workers(const context& ctx) noexcept {
  return ctx.threads != nullptr ? ctx.threads->workers() : 1;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
