// kernels/hadamard/compiled.hpp: the family's kernels, defined once for a program. Layer L2.
//
// See LOWBIT_COMPILED_KERNELS in lowbit/config.hpp. Saves each source file that rotates 5 seconds,
// with sanitizers 30.
#pragma once

#include "lowbit/config.hpp"

#if LOWBIT_COMPILED_KERNELS
#include "lowbit/kernels/hadamard/avx2.hpp"      // IWYU pragma: export
#include "lowbit/kernels/hadamard/avx512bw.hpp"  // IWYU pragma: export
#include "lowbit/kernels/hadamard/neon.hpp"      // IWYU pragma: export
#include "lowbit/kernels/hadamard/portable.hpp"  // IWYU pragma: export
#endif
