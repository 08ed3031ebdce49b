// kernels/code_gemm/compiled.hpp: the kernels that take long to compile, defined once for a
// program. Layer L2.
//
// Optional. Without it everything is inline, and each source file that multiplies spends about 6
// seconds on kernels. With LOWBIT_COMPILED_KERNELS=1 defined for every source file of a program,
// include this header in exactly one of them; that one may be compiled for the baseline, since
// kernels choose their instruction sets at run time.
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
