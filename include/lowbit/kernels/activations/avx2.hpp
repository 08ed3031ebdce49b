// kernels/activations/avx2.hpp: 256-bit registers with FMA. Layer L2.
#pragma once

#include "lowbit/kernels/activations/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace activations_detail {

inline __m256i magnitudes(const float* x) noexcept {
  return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x)), _mm256_set1_epi32(0x7fffffff));
}

/// 8 codes as 32-bit integers.
inline __m256i round_8(const float* x, __m256 inverse_step) noexcept {
  const __m256 rounded =
      _mm256_fmadd_ps(_mm256_loadu_ps(x), inverse_step, _mm256_set1_ps(0x1.8p23F));
  return _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_set1_epi32(0x4b400000));
}

/// -1 in the lanes where x < 0.
inline __m128i negative(__m128 x) noexcept {
  return _mm_castps_si128(_mm_cmplt_ps(x, _mm_setzero_ps()));
}

/// The planes of 64 codes: bits past the `columns` are cleared.
inline void store_planes(const std::int8_t* codes, const activation_planes_args& a, index_t word,
                         std::uint64_t columns) noexcept {
  // As in avx512bw: the top plane first, each bit in turn at the top of its byte.
  const __m128i to_top = _mm_cvtsi32_si128(static_cast<int>(8U - a.bits));
  const __m256i flip = _mm256_set1_epi8(-128);
  __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32));
  low = _mm256_xor_si256(_mm256_sll_epi16(low, to_top), flip);
  high = _mm256_xor_si256(_mm256_sll_epi16(high, to_top), flip);
  for (unsigned p = a.bits; p-- > 0;) {
    const std::uint64_t bits =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(low))) |
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(high))) << 32U;
    a.planes[p * a.plane_stride + word] = bits & columns;
    low = _mm256_add_epi8(low, low);
    high = _mm256_add_epi8(high, high);
  }
}

}  // namespace activations_detail

[[nodiscard]] inline std::uint32_t max_magnitude(const float* x, index_t count) noexcept {
  using activations_detail::magnitudes;
  __m256i largest = _mm256_setzero_si256();
  __m256i second = largest;
  __m256i third = largest;
  __m256i fourth = largest;
  index_t i = 0;
  for (; i + 32 <= count; i += 32) {
    largest = _mm256_max_epu32(largest, magnitudes(x + i));
    second = _mm256_max_epu32(second, magnitudes(x + i + 8));
    third = _mm256_max_epu32(third, magnitudes(x + i + 16));
    fourth = _mm256_max_epu32(fourth, magnitudes(x + i + 24));
  }
  for (; i + 8 <= count; i += 8) largest = _mm256_max_epu32(largest, magnitudes(x + i));
  const __m256i eight =
      _mm256_max_epu32(_mm256_max_epu32(largest, second), _mm256_max_epu32(third, fourth));
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  for (; i < count; ++i) {
    const __m128i one = _mm_castps_si128(_mm_load_ss(x + i));
    four = _mm_max_epu32(four, _mm_and_si128(one, _mm_set1_epi32(0x7fffffff)));
  }
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(four));
}

inline std::int32_t quantize_activations(const float* x, index_t count, float inverse_step,
                                         std::int8_t* codes) noexcept {
  using activations_detail::round_8;
  const __m256 factor = _mm256_set1_ps(inverse_step);
  // Packing works within halves of a register: 0 1 2 3 a b c d ... comes out as quads of codes in
  // the order 0 2 4 6 1 3 5 7.
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i flip = _mm256_set1_epi8(-128);
  __m256i sums = _mm256_setzero_si256();  // of code + 128, in 4 lanes of 64 bits
  index_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i first = _mm256_packs_epi32(round_8(x + i, factor), round_8(x + i + 8, factor));
    const __m256i second =
        _mm256_packs_epi32(round_8(x + i + 16, factor), round_8(x + i + 24, factor));
    const __m256i packed = _mm256_packs_epi16(first, second);
    sums = _mm256_add_epi64(
        sums, _mm256_sad_epu8(_mm256_xor_si256(packed, flip), _mm256_setzero_si256()));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                        _mm256_permutevar8x32_epi32(packed, in_order));
  }
  const index_t whole = i;
  std::int32_t rest = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i wide = round_8(x + i, factor);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i packed = _mm_packs_epi16(words, words);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), packed);
    const __m128i biased = _mm_xor_si128(packed, _mm256_castsi256_si128(flip));
    rest += _mm_cvtsi128_si32(_mm_sad_epu8(biased, _mm_setzero_si128())) - 8 * 128;
  }
  for (; i < count; ++i) {
    const __m128 rounded =
        _mm_fmadd_ss(_mm_load_ss(x + i), _mm256_castps256_ps128(factor), _mm_set_ss(0x1.8p23F));
    codes[i] = static_cast<std::int8_t>(_mm_cvtsi128_si32(_mm_castps_si128(rounded)));
    rest += codes[i];
  }
  const __m128i two =
      _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  const std::int64_t sum = _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
  return static_cast<std::int32_t>(sum - 128 * static_cast<std::int64_t>(whole)) + rest;
}

inline sign_sums quantize_signs(const float* x, index_t count, std::int8_t* codes) noexcept {
  const __m128 sign = _mm_set1_ps(-0.0F);
  std::int64_t negatives = 0;
  __m256d sums = _mm256_setzero_pd();  // lanes 0..3
  __m256d second = sums;
  __m256d third = sums;
  __m256d fourth = sums;
  for (index_t i = 0; i < count; i += 16) {
    const float* from = x + i;
    float padded[16] = {};
    const index_t rest = count - i;
    if (rest < 16) {
      for (index_t k = 0; k < rest; ++k) padded[k] = from[k];
      from = padded;
    }
    const __m128 a = _mm_loadu_ps(from);
    const __m128 b = _mm_loadu_ps(from + 4);
    const __m128 c = _mm_loadu_ps(from + 8);
    const __m128 d = _mm_loadu_ps(from + 12);
    sums = _mm256_add_pd(sums, _mm256_cvtps_pd(_mm_andnot_ps(sign, a)));
    second = _mm256_add_pd(second, _mm256_cvtps_pd(_mm_andnot_ps(sign, b)));
    third = _mm256_add_pd(third, _mm256_cvtps_pd(_mm_andnot_ps(sign, c)));
    fourth = _mm256_add_pd(fourth, _mm256_cvtps_pd(_mm_andnot_ps(sign, d)));
    const __m128i packed = _mm_packs_epi16(
        _mm_packs_epi32(activations_detail::negative(a), activations_detail::negative(b)),
        _mm_packs_epi32(activations_detail::negative(c), activations_detail::negative(d)));
    negatives += _mm_popcnt_u32(static_cast<std::uint32_t>(_mm_movemask_epi8(packed)));
    if (rest >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), packed);
    } else {
      alignas(16) std::int8_t bytes[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes), packed);
      for (index_t k = 0; k < rest; ++k) codes[i + k] = bytes[k];
    }
  }
  const __m256d four = _mm256_add_pd(_mm256_add_pd(sums, third), _mm256_add_pd(second, fourth));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return {_mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two))), -negatives};
}

inline void activation_planes(const activation_planes_args& a) noexcept {
  index_t word = 0;
  for (; (word + 1) * 64 <= a.count; ++word) {
    activations_detail::store_planes(a.codes + word * 64, a, word, ~std::uint64_t{0});
  }
  const index_t rest = a.count % 64;
  if (rest != 0) {
    alignas(32) std::int8_t padded[64] = {};
    for (index_t k = 0; k < rest; ++k) padded[k] = a.codes[word * 64 + k];
    activations_detail::store_planes(padded, a, word, (std::uint64_t{1} << rest) - 1U);
  }
}

inline constexpr activation_functions activations = {&max_magnitude, &quantize_activations,
                                                     &quantize_signs, &activation_planes};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END
#endif
