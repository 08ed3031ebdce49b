// core/listener.hpp: how a long job tells its caller how far it is. Layer L1.
#pragma once

#include <string_view>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// Told how far a long job is. Called from any worker, at most one at a time per call of lowbit; it
/// may throw to stop the job (throw cancelled_error), which then has no result.
class listener {
 public:
  virtual ~listener() = default;
  /// `done` of `total` steps of a stage, such as "feedback", are done.
  virtual void advanced(std::string_view stage, index_t done, index_t total) = 0;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
