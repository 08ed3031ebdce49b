// peak_memory.hpp: how much memory a program needed.
#pragma once

#include <sys/resource.h>

namespace examples {

/// The most memory that this process had resident so far, in MiB.
[[nodiscard]] inline double peak_memory_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;  // Linux counts KiB
}

}  // namespace examples
