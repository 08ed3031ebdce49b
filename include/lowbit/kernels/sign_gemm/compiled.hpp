// kernels/sign_gemm/compiled.hpp: the family's kernels, defined once for a program. Layer L2.
//
// See LOWBIT_COMPILED_KERNELS in lowbit/config.hpp. Saves each source file that multiplies a
// second, with sanitizers 6.
#pragma once

#include "lowbit/config.hpp"

#if LOWBIT_COMPILED_KERNELS
#include "lowbit/kernels/sign_gemm/avx2.hpp"              // IWYU pragma: export
#include "lowbit/kernels/sign_gemm/avx512_vbmi_vnni.hpp"  // IWYU pragma: export
#include "lowbit/kernels/sign_gemm/neon.hpp"              // IWYU pragma: export
#endif
