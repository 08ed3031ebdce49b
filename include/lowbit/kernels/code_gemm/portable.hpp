// kernels/code_gemm/portable.hpp: the contract with xsimd, as wide as the build allows. Layer L2.
//
// There is no byte product at a baseline: the 4 columns of a row are two 16-bit lanes, even and odd
// columns apart, and products of codes up to 15 are summed in 16 bits.
#pragma once

#include "lowbit/core/half.hpp"
#include "lowbit/kernels/code_gemm/contract.hpp"
#include "lowbit/kernels/code_gemm/scalar.hpp"
#include "lowbit/linalg/simd.hpp"

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of its own AVX-512 intrinsics, inlined here by a build with AVX-512.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable {
namespace code_gemm_detail {

using bytes = linalg::simd_batch<std::int16_t>;  // two bytes a lane
using ints = linalg::simd_batch<std::int32_t>;
using floats = linalg::simd_batch<float>;
using partial = bytes;
using book_table = const std::uint8_t*;

inline constexpr index_t vector_bytes = sizeof(std::int16_t) * bytes::size;
inline constexpr index_t lanes = ints::size;
static_assert(64 % vector_bytes == 0, "a line must be whole registers");
inline constexpr bool dot_takes_any_byte = false;
inline constexpr index_t partial_steps = 8;  // of 2 * 15 * 128 in 16 bits
inline constexpr std::int32_t wide_bias = 0;
inline constexpr index_t block_vectors = 2;
inline constexpr index_t block_tokens = 3;
inline constexpr bool few_share_unpacking = false;
inline constexpr index_t few_tokens = 2;
inline constexpr bool has_plain_path = false;  // half the code

LOWBIT_ALWAYS_INLINE bytes load(const void* p) noexcept {
  return bytes::load_aligned(static_cast<const std::int16_t*>(p));
}
LOWBIT_ALWAYS_INLINE bytes in_register(bytes x) noexcept { return x; }
LOWBIT_ALWAYS_INLINE void store(void* p, bytes x) noexcept {
  x.store_aligned(static_cast<std::int16_t*>(p));
}
LOWBIT_ALWAYS_INLINE bytes splat(unsigned byte) noexcept {
  return bytes(static_cast<std::int16_t>(byte * 0x0101U));
}
LOWBIT_ALWAYS_INLINE bytes both(bytes a, bytes b) noexcept { return a & b; }
LOWBIT_ALWAYS_INLINE bytes either(bytes a, bytes b) noexcept { return a | b; }
/// Shifts right; other bits come in from above, so mask afterwards.
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_right(bytes x) noexcept {
  return x >> static_cast<int>(Count);
}
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_left(bytes x) noexcept {
  return x << static_cast<int>(Count);
}
LOWBIT_ALWAYS_INLINE const std::uint8_t* load_table(const std::uint8_t* table) noexcept {
  return table;
}
inline bytes look_up(const std::uint8_t* table, bytes indices) noexcept {
  alignas(64) std::uint8_t codes[vector_bytes];
  store(codes, indices);
  for (std::uint8_t& code : codes) code = table[code & 15U];
  return load(codes);
}
/// 4 activations, for every row.
LOWBIT_ALWAYS_INLINE bytes broadcast_quad(const std::int8_t* x) noexcept {
  std::int32_t quad;
  __builtin_memcpy(&quad, x, 4);
  return xsimd::bitwise_cast<bytes>(ints(quad));
}

LOWBIT_ALWAYS_INLINE ints splat_int(std::int32_t x) noexcept { return ints(x); }
LOWBIT_ALWAYS_INLINE ints add(ints a, ints b) noexcept { return a + b; }
LOWBIT_ALWAYS_INLINE ints subtract(ints a, ints b) noexcept { return a - b; }
template <unsigned Count>
LOWBIT_ALWAYS_INLINE ints shift_right_int(ints x) noexcept {
  return x >> static_cast<int>(Count);
}
inline ints multiply(ints a, ints b) noexcept { return a * b; }
/// As many unsigned bytes as there are ints.
inline ints load_bytes_as_ints(const std::uint8_t* p) noexcept {
  alignas(64) std::int32_t values[lanes];
  for (index_t i = 0; i < lanes; ++i) values[i] = p[i];
  return ints::load_aligned(values);
}
/// Adds both 16-bit halves of each lane.
LOWBIT_ALWAYS_INLINE ints widen(ints sum, partial narrow) noexcept {
  const ints pairs = xsimd::bitwise_cast<ints>(narrow);
  return sum + ((pairs << 16) >> 16) + (pairs >> 16);
}
LOWBIT_ALWAYS_INLINE partial zero_partial() noexcept { return partial(std::int16_t{0}); }
LOWBIT_ALWAYS_INLINE bytes even_products(bytes codes, bytes x) noexcept {
  return (codes & bytes(std::int16_t{255})) * ((x << 8) >> 8);
}
LOWBIT_ALWAYS_INLINE bytes odd_products(bytes codes, bytes x) noexcept {
  return ((codes >> 8) & bytes(std::int16_t{255})) * (x >> 8);
}
LOWBIT_ALWAYS_INLINE partial dot_partial(partial sum, bytes codes, bytes x) noexcept {
  return sum + even_products(codes, x) + odd_products(codes, x);
}
/// sum + the sums of 4 products each, for any codes: 255 * 128 fits 16 bits, once.
LOWBIT_ALWAYS_INLINE ints dot(ints sum, bytes codes, bytes x) noexcept {
  return widen(widen(sum, even_products(codes, x)), odd_products(codes, x));
}

LOWBIT_ALWAYS_INLINE floats splat_float(float x) noexcept { return floats(x); }
LOWBIT_ALWAYS_INLINE floats load_floats(const float* p) noexcept {
  return floats::load_unaligned(p);
}
LOWBIT_ALWAYS_INLINE void store_floats(float* p, floats x) noexcept { x.store_unaligned(p); }
inline floats load_halves(const std::uint8_t* p) noexcept {
  alignas(64) float values[lanes];
  for (index_t i = 0; i < lanes; ++i) {
    float16 half;
    __builtin_memcpy(&half, p + 2 * i, 2);
    values[i] = to_float(half);
  }
  return floats::load_aligned(values);
}
LOWBIT_ALWAYS_INLINE floats to_floats(ints x) noexcept { return xsimd::to_float(x); }
/// (A factor of fused() only, so there is no sum that a compiler could contract it with.)
LOWBIT_ALWAYS_INLINE floats times(floats a, floats b) noexcept { return a * b; }
/// A baseline may have no fused multiply-add.
inline floats fused(floats a, floats b, floats c) noexcept {
  alignas(64) float x[lanes];
  alignas(64) float y[lanes];
  alignas(64) float z[lanes];
  a.store_aligned(x);
  b.store_aligned(y);
  c.store_aligned(z);
  for (index_t i = 0; i < lanes; ++i) z[i] = scalar::code_gemm_detail::fused(x[i], y[i], z[i]);
  return floats::load_aligned(z);
}

#define LOWBIT_CODE_GEMM_TILE_BODY
#include "lowbit/kernels/code_gemm/tile_body.hpp"
#undef LOWBIT_CODE_GEMM_TILE_BODY

}  // namespace code_gemm_detail

LOWBIT_KERNEL void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  code_gemm_detail::tile(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
