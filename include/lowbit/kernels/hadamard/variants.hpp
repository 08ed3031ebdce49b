// kernels/hadamard/variants.hpp: every way to run the Hadamard kernels, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/kernels/hadamard/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

#if LOWBIT_COMPILED_KERNELS
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace avx2 {
void hadamard_blocks(const hadamard_blocks_args& a) noexcept;
void hadamard_mix(const hadamard_mix_args& a) noexcept;
}  // namespace avx2
namespace avx512bw {
void hadamard_blocks(const hadamard_blocks_args& a) noexcept;
void hadamard_mix(const hadamard_mix_args& a) noexcept;
}  // namespace avx512bw
namespace neon {
void hadamard_blocks(const hadamard_blocks_args& a) noexcept;
void hadamard_mix(const hadamard_mix_args& a) noexcept;
}  // namespace neon
namespace portable {
void hadamard_blocks(const hadamard_blocks_args& a) noexcept;
void hadamard_mix(const hadamard_mix_args& a) noexcept;
}  // namespace portable
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
#else
#include "lowbit/kernels/hadamard/avx2.hpp"
#include "lowbit/kernels/hadamard/avx512bw.hpp"
#include "lowbit/kernels/hadamard/neon.hpp"
#include "lowbit/kernels/hadamard/portable.hpp"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<hadamard_functions> hadamard_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, {&avx512bw::hadamard_blocks, &avx512bw::hadamard_mix}},
    {"avx2", cpu::avx2_core, {&avx2::hadamard_blocks, &avx2::hadamard_mix}},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, {&neon::hadamard_blocks, &neon::hadamard_mix}},
#endif
    {"portable", cpu::portable_simd, {&portable::hadamard_blocks, &portable::hadamard_mix}},
    {"scalar", cpu::none, scalar::hadamard},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<hadamard_functions>& select_hadamard(
    cpu::cpu_set allowed) noexcept {
  return select<hadamard_functions>(hadamard_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
