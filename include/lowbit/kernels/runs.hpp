// kernels/runs.hpp: how the columns of a product are cut into runs. Layer L2.
//
// A group of columns shares a scale. A run is what a kernel multiplies in integers before it turns
// to floats: a group, or a part of a long one.
//
// Invariants: a run lies in one group and has at most max_columns columns, so that int32 sums of
// 8-bit products cannot overflow (256 * 255 * 128 < 2^23) and an unpacked run stays in the L1
// cache. Runs of a group differ in size by less than their number; all take the same room, a
// multiple of 4 columns.
#pragma once

#include <algorithm>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// The cutting of `cols` columns. A regular value.
class code_runs {
 public:
  static constexpr index_t max_columns = 256;

  code_runs() noexcept = default;
  /// `group_size` of 0 or >= cols: one group.
  code_runs(index_t cols, index_t group_size) noexcept
      : cols_(cols), group_size_(group_size == 0 || group_size > cols ? cols : group_size) {
    if (cols == 0) return;
    runs_per_group_ = div_up(group_size_, max_columns);
    run_size_ = div_up(group_size_, runs_per_group_);
    const index_t last_group = cols_ % group_size_;  // 0: all groups are whole
    count_ = cols_ / group_size_ * runs_per_group_ + div_up(last_group, run_size_);
  }

  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] index_t group_size() const noexcept { return group_size_; }
  [[nodiscard]] index_t groups() const noexcept {
    return group_size_ == 0 ? 0 : div_up(cols_, group_size_);
  }
  /// Number of runs.
  [[nodiscard]] index_t count() const noexcept { return count_; }
  /// Columns of the longest run.
  [[nodiscard]] index_t run_size() const noexcept { return run_size_; }
  /// Room that every run takes, in units of 4 columns.
  [[nodiscard]] index_t quads() const noexcept { return div_up(run_size_, 4); }
  /// The group that run i is part of.
  [[nodiscard]] index_t group(index_t i) const noexcept { return i / runs_per_group_; }
  /// First column of run i.
  [[nodiscard]] index_t begin(index_t i) const noexcept {
    return group(i) * group_size_ + i % runs_per_group_ * run_size_;
  }
  /// Columns of run i, at least 1.
  [[nodiscard]] index_t size(index_t i) const noexcept {
    const index_t group_end = std::min((group(i) + 1) * group_size_, cols_);
    return std::min(run_size_, group_end - begin(i));
  }

  friend bool operator==(const code_runs&, const code_runs&) = default;

 private:
  index_t cols_ = 0;
  index_t group_size_ = 0;
  index_t runs_per_group_ = 1;
  index_t run_size_ = 0;
  index_t count_ = 0;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
