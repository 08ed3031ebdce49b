// config.hpp: what the compiler must be, and the macros that keep header-only code safe. Layer L0.
//
// Invariants:
//  * Nothing here depends on what the consumer's flags allow for *which code exists*; only
//    LOWBIT_ABI_NAMESPACE records those flags, so that two translation units that are built for
//    different instruction sets never share an inline function (the linker would keep either one).
//  * Every macro of the library starts with LOWBIT_.
#pragma once

#include <bit>

#include "lowbit/version.hpp"

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "lowbit needs C++20 (-std=c++20)"
#endif

#if defined(__FAST_MATH__)
#error \
    "lowbit must not be built with -ffast-math: NaN checks and reproducible rounding rely on IEEE"
#endif

#if defined(__x86_64__)
#define LOWBIT_X86_64 1
#else
#define LOWBIT_X86_64 0
#endif

#if defined(__aarch64__)
#define LOWBIT_AARCH64 1
#else
#define LOWBIT_AARCH64 0
#endif

#if defined(__cpp_exceptions)
#define LOWBIT_EXCEPTIONS 1
#else
#define LOWBIT_EXCEPTIONS 0
#endif

// Kernels that take long to compile are inline functions, like everything else, unless a program
// defines LOWBIT_COMPILED_KERNELS=1 for all of its source files and includes each
// lowbit/kernels/*/compiled.hpp in exactly one of them: then the others only declare them. Those
// may be compiled for the baseline, since kernels choose their instruction sets at run time.
#if !defined(LOWBIT_COMPILED_KERNELS)
#define LOWBIT_COMPILED_KERNELS 0
#endif
#if LOWBIT_COMPILED_KERNELS
#define LOWBIT_KERNEL
#else
#define LOWBIT_KERNEL inline
#endif

// Target regions: code between BEGIN and END may use the named features whatever the consumer's
// flags are. A region (unlike a function attribute) also reaches lambdas. It must contain no class
// and no standard include.
#define LOWBIT_DETAIL_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define LOWBIT_TARGET_BEGIN(features) \
  LOWBIT_DETAIL_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define LOWBIT_TARGET_END LOWBIT_DETAIL_PRAGMA(clang attribute pop)
#else
#define LOWBIT_TARGET_BEGIN(features) \
  LOWBIT_DETAIL_PRAGMA(GCC push_options) LOWBIT_DETAIL_PRAGMA(GCC target(features))
#define LOWBIT_TARGET_END LOWBIT_DETAIL_PRAGMA(GCC pop_options)
#endif

// Whether this compiler can build NEON's dot products, and what stands around them: g++ takes a
// region; clang 14 has the intrinsics only where the consumer's flags allow the instructions, and
// then no region is needed.
#if LOWBIT_AARCH64 && defined(__ARM_FEATURE_DOTPROD)
#define LOWBIT_DOTPROD_REGION 1
#define LOWBIT_DOTPROD_BEGIN
#define LOWBIT_DOTPROD_END
#elif LOWBIT_AARCH64 && !defined(__clang__)
#define LOWBIT_DOTPROD_REGION 1
#define LOWBIT_DOTPROD_BEGIN LOWBIT_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#define LOWBIT_DOTPROD_END LOWBIT_TARGET_END
#else
#define LOWBIT_DOTPROD_REGION 0
#endif

// For the small functions and lambdas of a region, which must not become calls.
#define LOWBIT_INLINE_LAMBDA __attribute__((always_inline))
#define LOWBIT_ALWAYS_INLINE LOWBIT_INLINE_LAMBDA inline
// Before a loop with a constant count that must become straight code, so that arrays of registers
// stay in registers.
#if defined(__clang__)
#define LOWBIT_UNROLL LOWBIT_DETAIL_PRAGMA(unroll)
#else
#define LOWBIT_UNROLL LOWBIT_DETAIL_PRAGMA(GCC unroll 16)
#endif

// LOWBIT_ABI_NAMESPACE: an inline namespace that spells the version, whether exceptions are on, and
// the instruction sets that the consumer's flags allow, one letter for each that is on: s = SSE3 to
// SSE4.2 or POPCNT, a = AVX, f = FMA, b = AVX2, BMI or F16C, m = AVX-VNNI, w = AVX-512F, x = its
// BW, DQ or VL, v = its VNNI, p = its VPOPCNTDQ, g = its BITALG or VBMI, d = NEON dot product, i =
// NEON int8 matrix product or SVE; e = exceptions.
#if LOWBIT_EXCEPTIONS
#define LOWBIT_DETAIL_TAG_E e
#else
#define LOWBIT_DETAIL_TAG_E
#endif
#if defined(__SSE3__) || defined(__SSSE3__) || defined(__SSE4_1__) || defined(__SSE4_2__) || \
    defined(__POPCNT__)
#define LOWBIT_DETAIL_TAG_S s
#else
#define LOWBIT_DETAIL_TAG_S
#endif
#if defined(__AVX__)
#define LOWBIT_DETAIL_TAG_A a
#else
#define LOWBIT_DETAIL_TAG_A
#endif
#if defined(__FMA__)
#define LOWBIT_DETAIL_TAG_F f
#else
#define LOWBIT_DETAIL_TAG_F
#endif
#if defined(__AVX2__) || defined(__BMI__) || defined(__BMI2__) || defined(__F16C__)
#define LOWBIT_DETAIL_TAG_B b
#else
#define LOWBIT_DETAIL_TAG_B
#endif
#if defined(__AVXVNNI__)
#define LOWBIT_DETAIL_TAG_M m
#else
#define LOWBIT_DETAIL_TAG_M
#endif
#if defined(__AVX512F__)
#define LOWBIT_DETAIL_TAG_W w
#else
#define LOWBIT_DETAIL_TAG_W
#endif
#if defined(__AVX512BW__) || defined(__AVX512DQ__) || defined(__AVX512VL__)
#define LOWBIT_DETAIL_TAG_X x
#else
#define LOWBIT_DETAIL_TAG_X
#endif
#if defined(__AVX512VNNI__)
#define LOWBIT_DETAIL_TAG_V v
#else
#define LOWBIT_DETAIL_TAG_V
#endif
#if defined(__AVX512VPOPCNTDQ__)
#define LOWBIT_DETAIL_TAG_P p
#else
#define LOWBIT_DETAIL_TAG_P
#endif
#if defined(__AVX512BITALG__) || defined(__AVX512VBMI__)
#define LOWBIT_DETAIL_TAG_G g
#else
#define LOWBIT_DETAIL_TAG_G
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define LOWBIT_DETAIL_TAG_D d
#else
#define LOWBIT_DETAIL_TAG_D
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_SVE)
#define LOWBIT_DETAIL_TAG_I i
#else
#define LOWBIT_DETAIL_TAG_I
#endif

#define LOWBIT_DETAIL_JOIN_(major, minor, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13) \
  v##major##_##minor##_##t1##t2##t3##t4##t5##t6##t7##t8##t9##t10##t11##t12##t13
#define LOWBIT_DETAIL_JOIN(...) LOWBIT_DETAIL_JOIN_(__VA_ARGS__)
#define LOWBIT_ABI_NAMESPACE                                                          \
  LOWBIT_DETAIL_JOIN(LOWBIT_VERSION_MAJOR, LOWBIT_VERSION_MINOR, LOWBIT_DETAIL_TAG_E, \
                     LOWBIT_DETAIL_TAG_S, LOWBIT_DETAIL_TAG_A, LOWBIT_DETAIL_TAG_F,   \
                     LOWBIT_DETAIL_TAG_B, LOWBIT_DETAIL_TAG_M, LOWBIT_DETAIL_TAG_W,   \
                     LOWBIT_DETAIL_TAG_X, LOWBIT_DETAIL_TAG_V, LOWBIT_DETAIL_TAG_P,   \
                     LOWBIT_DETAIL_TAG_G, LOWBIT_DETAIL_TAG_D, LOWBIT_DETAIL_TAG_I)

// The canonical layout is little-endian; a big-endian port would have to swap on load and store.
static_assert(std::endian::native == std::endian::little,
              "lowbit supports little-endian CPUs only");
