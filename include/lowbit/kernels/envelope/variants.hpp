// kernels/envelope/variants.hpp: every way to run the family, best first. Layer L2.
//
// There is no "portable" variant: a fused multiply-add is the contract, and a baseline x86-64 has
// none.
#pragma once

#include <span>

#include "lowbit/kernels/envelope/avx2.hpp"
#include "lowbit/kernels/envelope/avx512bw.hpp"
#include "lowbit/kernels/envelope/contract.hpp"
#include "lowbit/kernels/envelope/neon.hpp"
#include "lowbit/kernels/envelope/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<envelope_functions> envelope_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, avx512bw::envelope},
    {"avx2", cpu::avx2_core, avx2::envelope},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, neon::envelope},
#endif
    {"scalar", cpu::none, scalar::envelope},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<envelope_functions>& select_envelope(
    cpu::cpu_set allowed) noexcept {
  return select<envelope_functions>(envelope_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
