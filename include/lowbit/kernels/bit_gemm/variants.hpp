// kernels/bit_gemm/variants.hpp: every way to run the kernel, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/kernels/bit_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

#if LOWBIT_COMPILED_KERNELS
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace avx2 {
void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept;
}
namespace avx512bw {
void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept;
}
namespace avx512_vpopcntdq {
void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept;
}
namespace neon {
void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept;
}
namespace portable {
void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept;
}
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
#else
#include "lowbit/kernels/bit_gemm/avx2.hpp"
#include "lowbit/kernels/bit_gemm/avx512_vpopcntdq.hpp"
#include "lowbit/kernels/bit_gemm/avx512bw.hpp"
#include "lowbit/kernels/bit_gemm/neon.hpp"
#include "lowbit/kernels/bit_gemm/portable.hpp"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<bit_gemm_tile_fn> bit_gemm_variants[] = {
#if LOWBIT_X86_64
    {"avx512_vpopcntdq", cpu::avx512_core | cpu::avx512_vpopcntdq,
     &avx512_vpopcntdq::bit_gemm_tile},
    {"avx512bw", cpu::avx512_core, &avx512bw::bit_gemm_tile},
    {"avx2", cpu::avx2_core, &avx2::bit_gemm_tile},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, &neon::bit_gemm_tile},
#endif
    {"portable", cpu::portable_simd, &portable::bit_gemm_tile},
    {"scalar", cpu::none, &scalar::bit_gemm_tile},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<bit_gemm_tile_fn>& select_bit_gemm(
    cpu::cpu_set allowed) noexcept {
  return select<bit_gemm_tile_fn>(bit_gemm_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
