// kernels/sparse/variants.hpp: every way to run the family, best first. Layer L2.
//
// There is no "portable" variant: a fused multiply-add is the contract, and a baseline x86-64 has
// none; xsimd 8.1 has no gathers either (README.md).
#pragma once

#include <span>

#include "lowbit/kernels/sparse/avx2.hpp"
#include "lowbit/kernels/sparse/avx512bw.hpp"
#include "lowbit/kernels/sparse/contract.hpp"
#include "lowbit/kernels/sparse/neon.hpp"
#include "lowbit/kernels/sparse/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<sparse_functions> sparse_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, avx512bw::sparse},
    {"avx2", cpu::avx2_core, avx2::sparse},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, neon::sparse},
#endif
    {"scalar", cpu::none, scalar::sparse},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<sparse_functions>& select_sparse(
    cpu::cpu_set allowed) noexcept {
  return select<sparse_functions>(sparse_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
