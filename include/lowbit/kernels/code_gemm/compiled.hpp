// kernels/code_gemm/compiled.hpp: the family's kernels, defined once for a program. Layer L2.
//
// See LOWBIT_COMPILED_KERNELS in lowbit/config.hpp. Saves each source file that multiplies 6
// seconds, with sanitizers a minute.
#pragma once

#include "lowbit/config.hpp"

#if LOWBIT_COMPILED_KERNELS
#include "lowbit/kernels/code_gemm/avx2.hpp"          // IWYU pragma: export
#include "lowbit/kernels/code_gemm/avx512_vnni.hpp"   // IWYU pragma: export
#include "lowbit/kernels/code_gemm/avx512bw.hpp"      // IWYU pragma: export
#include "lowbit/kernels/code_gemm/avx_vnni.hpp"      // IWYU pragma: export
#include "lowbit/kernels/code_gemm/neon.hpp"          // IWYU pragma: export
#include "lowbit/kernels/code_gemm/neon_dotprod.hpp"  // IWYU pragma: export
#include "lowbit/kernels/code_gemm/portable.hpp"      // IWYU pragma: export
#endif
