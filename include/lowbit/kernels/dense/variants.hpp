// kernels/dense/variants.hpp: every way to run the family, best first. Layer L2.
//
// There is no "portable" variant: a fused multiply-add is the contract, and a baseline x86-64 has
// none (README.md).
#pragma once

#include <span>

#include "lowbit/kernels/dense/avx2.hpp"
#include "lowbit/kernels/dense/avx512bw.hpp"
#include "lowbit/kernels/dense/contract.hpp"
#include "lowbit/kernels/dense/neon.hpp"
#include "lowbit/kernels/dense/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<dense_functions> dense_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, avx512bw::dense},
    {"avx2", cpu::avx2_core, avx2::dense},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, neon::dense},
#endif
    {"scalar", cpu::none, scalar::dense},
};

/// The best variant that `allowed` supports. Inner loops call its functions directly:
///   const auto axpy = select_dense(ctx.allowed).run.axpy;
[[nodiscard]] constexpr const variant<dense_functions>& select_dense(
    cpu::cpu_set allowed) noexcept {
  return select<dense_functions>(dense_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
