// kernels/hadamard/variants.hpp: every way to run the Hadamard kernels, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/hadamard/avx2.hpp"
#include "lowbit/kernels/hadamard/avx512bw.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/kernels/hadamard/neon.hpp"
#include "lowbit/kernels/hadamard/portable.hpp"
#include "lowbit/kernels/hadamard/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<hadamard_functions> hadamard_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, avx512bw::hadamard},
    {"avx2", cpu::avx2_core, avx2::hadamard},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, neon::hadamard},
#endif
    {"portable", cpu::portable_simd, portable::hadamard},
    {"scalar", cpu::none, scalar::hadamard},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<hadamard_functions>& select_hadamard(
    cpu::cpu_set allowed) noexcept {
  return select<hadamard_functions>(hadamard_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
