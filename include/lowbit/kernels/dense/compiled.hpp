// kernels/dense/compiled.hpp: the family's kernels, defined once for a program. Layer L2.
//
// See LOWBIT_COMPILED_KERNELS in lowbit/config.hpp. What is not optimized can use them at full
// speed.
#pragma once

#include "lowbit/config.hpp"

#if LOWBIT_COMPILED_KERNELS
#include "lowbit/kernels/dense/avx2.hpp"      // IWYU pragma: export
#include "lowbit/kernels/dense/avx512bw.hpp"  // IWYU pragma: export
#include "lowbit/kernels/dense/neon.hpp"      // IWYU pragma: export
#endif
