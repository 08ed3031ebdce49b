// kernels/sign_gemm/variants.hpp: every way to run the family, best first. Layer L2.
//
// There is no "portable" variant: a baseline x86-64 has no look-ups of bytes, nor has xsimd 8.1
// (README.md).
#pragma once

#include <span>

#include "lowbit/kernels/sign_gemm/contract.hpp"
#include "lowbit/kernels/sign_gemm/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

#if LOWBIT_COMPILED_KERNELS
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace avx512_vbmi_vnni::sign_gemm_detail {
std::uint32_t limit(const float* x, index_t count) noexcept;
void build(const sign_table_args& a) noexcept;
void block(const sign_gemm_block_args& a) noexcept;
}  // namespace avx512_vbmi_vnni::sign_gemm_detail
namespace avx2::sign_gemm_detail {
std::uint32_t limit(const float* x, index_t count) noexcept;
void build(const sign_table_args& a) noexcept;
void block(const sign_gemm_block_args& a) noexcept;
}  // namespace avx2::sign_gemm_detail
namespace neon::sign_gemm_detail {
std::uint32_t limit(const float* x, index_t count) noexcept;
void build(const sign_table_args& a) noexcept;
void block(const sign_gemm_block_args& a) noexcept;
}  // namespace neon::sign_gemm_detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
#else
#include "lowbit/kernels/sign_gemm/avx2.hpp"
#include "lowbit/kernels/sign_gemm/avx512_vbmi_vnni.hpp"
#include "lowbit/kernels/sign_gemm/neon.hpp"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

// The last number is the interleave of the weights that a variant reads.
inline constexpr variant<sign_gemm_functions> sign_gemm_variants[] = {
#if LOWBIT_X86_64
    {"avx512_vbmi_vnni",
     cpu::avx512_core | cpu::avx512_bytes,
     {&avx512_vbmi_vnni::sign_gemm_detail::limit, &avx512_vbmi_vnni::sign_gemm_detail::build,
      &avx512_vbmi_vnni::sign_gemm_detail::block, 4}},
    {"avx2",
     cpu::avx2_core,
     {&avx2::sign_gemm_detail::limit, &avx2::sign_gemm_detail::build,
      &avx2::sign_gemm_detail::block, 1}},
#elif LOWBIT_AARCH64
    {"neon",
     cpu::neon,
     {&neon::sign_gemm_detail::limit, &neon::sign_gemm_detail::build,
      &neon::sign_gemm_detail::block, 1}},
#endif
    {"scalar", cpu::none, scalar::sign_gemm},
};

/// The best variant that `allowed` supports.
[[nodiscard]] constexpr const variant<sign_gemm_functions>& select_sign_gemm(
    cpu::cpu_set allowed) noexcept {
  return select<sign_gemm_functions>(sign_gemm_variants, allowed);
}

/// The best of those that read weights with this interleave.
[[nodiscard]] constexpr const variant<sign_gemm_functions>& select_sign_gemm(
    cpu::cpu_set allowed, index_t interleave) noexcept {
  const std::span<const variant<sign_gemm_functions>> table = sign_gemm_variants;
  for (const variant<sign_gemm_functions>& v : table) {
    if (v.is_supported(allowed) && v.run.reads(interleave)) return v;
  }
  return table.back();
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
