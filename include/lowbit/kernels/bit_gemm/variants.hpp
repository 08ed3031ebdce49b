// kernels/bit_gemm/variants.hpp: every way to run the kernel, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/kernels/bit_gemm/portable.hpp"
#include "lowbit/kernels/bit_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<bit_gemm_tile_fn> bit_gemm_variants[] = {
    {"portable", cpu::portable_simd, &portable::bit_gemm_tile},
    {"scalar", cpu::none, &scalar::bit_gemm_tile},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<bit_gemm_tile_fn>& select_bit_gemm(
    cpu::cpu_set allowed) noexcept {
  return select<bit_gemm_tile_fn>(bit_gemm_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
