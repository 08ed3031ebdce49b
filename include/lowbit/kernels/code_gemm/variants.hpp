// kernels/code_gemm/variants.hpp: every way to run the kernel, best first. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/code_gemm/contract.hpp"
#include "lowbit/kernels/code_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

#if LOWBIT_COMPILED_KERNELS
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace avx2 {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace avx_vnni {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace avx512bw {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace avx512_vnni {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace neon {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace neon_dotprod {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
namespace portable {
void code_gemm_tile(const code_gemm_tile_args& a) noexcept;
}
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
#else
#include "lowbit/kernels/code_gemm/avx2.hpp"
#include "lowbit/kernels/code_gemm/avx512_vnni.hpp"
#include "lowbit/kernels/code_gemm/avx512bw.hpp"
#include "lowbit/kernels/code_gemm/avx_vnni.hpp"
#include "lowbit/kernels/code_gemm/neon.hpp"
#include "lowbit/kernels/code_gemm/neon_dotprod.hpp"
#include "lowbit/kernels/code_gemm/portable.hpp"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<code_gemm_tile_fn> code_gemm_variants[] = {
#if LOWBIT_X86_64
    {"avx512_vnni", cpu::avx512_core | cpu::avx512_vnni, &avx512_vnni::code_gemm_tile},
    {"avx512bw", cpu::avx512_core, &avx512bw::code_gemm_tile},
    {"avx_vnni", cpu::avx2_core | cpu::avx_vnni, &avx_vnni::code_gemm_tile},
    {"avx2", cpu::avx2_core, &avx2::code_gemm_tile},
#elif LOWBIT_AARCH64
#if LOWBIT_DOTPROD_REGION
    {"neon_dotprod", cpu::neon | cpu::neon_dotprod, &neon_dotprod::code_gemm_tile},
#endif
    {"neon", cpu::neon, &neon::code_gemm_tile},
#endif
    {"portable", cpu::portable_simd, &portable::code_gemm_tile},
    {"scalar", cpu::none, &scalar::code_gemm_tile},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<code_gemm_tile_fn>& select_code_gemm(
    cpu::cpu_set allowed) noexcept {
  return select<code_gemm_tile_fn>(code_gemm_variants, allowed);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
