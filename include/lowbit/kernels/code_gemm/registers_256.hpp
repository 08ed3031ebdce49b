// kernels/code_gemm/registers_256.hpp: what tile_body.hpp needs of 256-bit x86 registers, but for
// products. Layer L2.
//
// Included inside the target regions and namespaces of the variants that have these registers, like
// tile_body.hpp, hence no include guard and no include: outside of a variant this file is empty.
#ifdef LOWBIT_CODE_GEMM_REGISTERS

using bytes = __m256i;
// Not __m256i, whose elements are 64 bits wide: g++ 12 does not see through the conversions in a
// loop and copies and spills every sum (measured with 512 bits: a GEMM takes 1.7 times as long).
using ints = int __attribute__((vector_size(32)));
using floats = __m256;
using book_table = bytes;

inline constexpr index_t vector_bytes = 32;

LOWBIT_ALWAYS_INLINE bytes load(const void* p) noexcept {
  return _mm256_load_si256(static_cast<const __m256i*>(p));
}
/// x, made once: not loaded again by every instruction that uses it.
LOWBIT_ALWAYS_INLINE bytes in_register(bytes x) noexcept {
  __asm__("" : "+x"(x));
  return x;
}
LOWBIT_ALWAYS_INLINE void store(void* p, bytes x) noexcept {
  _mm256_store_si256(static_cast<__m256i*>(p), x);
}
LOWBIT_ALWAYS_INLINE bytes splat(unsigned byte) noexcept {
  return _mm256_set1_epi8(static_cast<char>(byte));
}
LOWBIT_ALWAYS_INLINE bytes both(bytes a, bytes b) noexcept { return _mm256_and_si256(a, b); }
LOWBIT_ALWAYS_INLINE bytes either(bytes a, bytes b) noexcept { return _mm256_or_si256(a, b); }
/// Shifts right; bits of the next byte come in from above, so mask afterwards.
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_right(bytes x) noexcept {
  return _mm256_srli_epi16(x, Count);
}
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_left(bytes x) noexcept {
  return _mm256_slli_epi16(x, Count);
}
LOWBIT_ALWAYS_INLINE bytes load_table(const std::uint8_t* table) noexcept {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
LOWBIT_ALWAYS_INLINE bytes look_up(bytes table, bytes indices) noexcept {
  return _mm256_shuffle_epi8(table, indices);
}
/// 4 activations, for every row.
LOWBIT_ALWAYS_INLINE bytes broadcast_quad(const std::int8_t* x) noexcept {
  std::int32_t quad;
  __builtin_memcpy(&quad, x, 4);
  return _mm256_set1_epi32(quad);
}

LOWBIT_ALWAYS_INLINE ints splat_int(std::int32_t x) noexcept {
  return reinterpret_cast<ints>(_mm256_set1_epi32(x));
}
LOWBIT_ALWAYS_INLINE ints add(ints a, ints b) noexcept { return a + b; }
LOWBIT_ALWAYS_INLINE ints subtract(ints a, ints b) noexcept { return a - b; }
template <unsigned Count>
LOWBIT_ALWAYS_INLINE ints shift_right_int(ints x) noexcept {
  return x >> static_cast<int>(Count);
}
/// a * b for a in 0..255 and b in -2^15 .. 2^15 - 1.
LOWBIT_ALWAYS_INLINE ints multiply(ints a, ints b) noexcept {
  return reinterpret_cast<ints>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
/// As many unsigned bytes as there are ints.
LOWBIT_ALWAYS_INLINE ints load_bytes_as_ints(const std::uint8_t* p) noexcept {
  return reinterpret_cast<ints>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

LOWBIT_ALWAYS_INLINE floats splat_float(float x) noexcept { return _mm256_set1_ps(x); }
LOWBIT_ALWAYS_INLINE floats load_floats(const float* p) noexcept { return _mm256_loadu_ps(p); }
LOWBIT_ALWAYS_INLINE void store_floats(float* p, floats x) noexcept { _mm256_storeu_ps(p, x); }
LOWBIT_ALWAYS_INLINE floats load_halves(const std::uint8_t* p) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LOWBIT_ALWAYS_INLINE floats to_floats(ints x) noexcept {
  return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(x));
}
LOWBIT_ALWAYS_INLINE floats times(floats a, floats b) noexcept { return _mm256_mul_ps(a, b); }
LOWBIT_ALWAYS_INLINE floats fused(floats a, floats b, floats c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}

#endif
