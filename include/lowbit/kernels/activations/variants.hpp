// kernels/activations/variants.hpp: every way to run the activation kernels, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/activations/avx2.hpp"
#include "lowbit/kernels/activations/avx512bw.hpp"
#include "lowbit/kernels/activations/contract.hpp"
#include "lowbit/kernels/activations/neon.hpp"
#include "lowbit/kernels/activations/portable.hpp"
#include "lowbit/kernels/activations/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<activation_functions> activation_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, avx512bw::activations},
    {"avx2", cpu::avx2_core, avx2::activations},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, neon::activations},
#endif
    {"portable", cpu::portable_simd, portable::activations},
    {"scalar", cpu::none, scalar::activations},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<activation_functions>& select_activations(
    cpu::cpu_set allowed) noexcept {
  return select<activation_functions>(activation_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
