// kernels/bit_gemm/compiled.hpp: the family's kernels, defined once for a program. Layer L2.
//
// See LOWBIT_COMPILED_KERNELS in lowbit/config.hpp. Saves each source file that multiplies 2
// seconds.
#pragma once

#include "lowbit/config.hpp"

#if LOWBIT_COMPILED_KERNELS
#include "lowbit/kernels/bit_gemm/avx2.hpp"              // IWYU pragma: export
#include "lowbit/kernels/bit_gemm/avx512_vpopcntdq.hpp"  // IWYU pragma: export
#include "lowbit/kernels/bit_gemm/avx512bw.hpp"          // IWYU pragma: export
#include "lowbit/kernels/bit_gemm/neon.hpp"              // IWYU pragma: export
#include "lowbit/kernels/bit_gemm/portable.hpp"          // IWYU pragma: export
#endif
