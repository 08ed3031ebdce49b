// run.hpp: the main function of a benchmark program whose benchmarks are registered at run time.
#pragma once

#include <benchmark/benchmark.h>

namespace bench {

/// Parses the command line and runs what is registered. Returns the exit code.
inline int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace bench
