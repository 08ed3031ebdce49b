// linalg/simd.hpp: the fence around xsimd: the only file that includes it. Layer L2.
//
// xsimd carries portability: a batch is as wide as the consumer's own flags allow (SSE2, NEON,
// ...). Debian's 8.1.0 has no popcount, no run-time swizzle and no run-time dispatch; what needs
// those is written with intrinsics in the dispatched tiers.
#pragma once

#include <xsimd/xsimd.hpp>

#include "lowbit/config.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// As many T as fit a register of the build's own instruction set.
template <class T>
using simd_batch = xsimd::batch<T>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
