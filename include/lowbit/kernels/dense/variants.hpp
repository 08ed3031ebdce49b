// kernels/dense/variants.hpp: every way to run the family, best first. Layer L2.
//
// There is no "portable" variant: a fused multiply-add is the contract, and a baseline x86-64 has
// none (README.md).
#pragma once

#include <span>

#include "lowbit/kernels/dense/contract.hpp"
#include "lowbit/kernels/dense/scalar.hpp"
#include "lowbit/kernels/variant.hpp"

#if LOWBIT_COMPILED_KERNELS
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace avx2 {
void dense_tile(const dense_tile_args& args) noexcept;
void dense_axpy(double a, const double* x, double* y, index_t count) noexcept;
}  // namespace avx2
namespace avx512bw {
void dense_tile(const dense_tile_args& args) noexcept;
void dense_axpy(double a, const double* x, double* y, index_t count) noexcept;
}  // namespace avx512bw
namespace neon {
void dense_tile(const dense_tile_args& args) noexcept;
void dense_axpy(double a, const double* x, double* y, index_t count) noexcept;
}  // namespace neon
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
#else
#include "lowbit/kernels/dense/avx2.hpp"
#include "lowbit/kernels/dense/avx512bw.hpp"
#include "lowbit/kernels/dense/neon.hpp"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

inline constexpr variant<dense_functions> dense_variants[] = {
#if LOWBIT_X86_64
    {"avx512bw", cpu::avx512_core, {&avx512bw::dense_tile, &avx512bw::dense_axpy}},
    {"avx2", cpu::avx2_core, {&avx2::dense_tile, &avx2::dense_axpy}},
#elif LOWBIT_AARCH64
    {"neon", cpu::neon, {&neon::dense_tile, &neon::dense_axpy}},
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
