// kernels/activations/avx512bw.hpp: 512-bit registers, masked tails. Layer L2.
#pragma once

#include "lowbit/kernels/activations/contract.hpp"

#if LOWBIT_X86_64
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the undefined pass-through operands of its own AVX-512 intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw {
namespace activations_detail {

inline __m512i magnitudes(__m512 x) noexcept {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/// The lowest `count` (0..16) lanes.
inline __mmask16 first_lanes(index_t count) noexcept {
  return static_cast<__mmask16>((1U << count) - 1U);
}

/// 16 codes as 32-bit lanes, of which only the low byte counts.
inline __m512i round_16(__m512 x, __m512 inverse_step) noexcept {
  return _mm512_castps_si512(_mm512_fmadd_ps(x, inverse_step, _mm512_set1_ps(0x1.8p23F)));
}

inline void store_planes(__m512i codes, const activation_planes_args& a, index_t word,
                         __mmask64 columns) noexcept {
  // The top plane first: its bit goes to the top of each byte, where masks are made of; doubling a
  // byte brings up the next one. What a 16-bit shift carries over from the byte below stays below.
  const __m128i to_top = _mm_cvtsi32_si128(static_cast<int>(8U - a.bits));
  codes = _mm512_xor_si512(_mm512_sll_epi16(codes, to_top), _mm512_set1_epi8(-128));
  for (unsigned p = a.bits; p-- > 0;) {
    a.planes[p * a.plane_stride + word] =
        static_cast<std::uint64_t>(_mm512_movepi8_mask(codes) & columns);
    codes = _mm512_add_epi8(codes, codes);
  }
}

}  // namespace activations_detail

[[nodiscard]] inline std::uint32_t max_magnitude(const float* x, index_t count) noexcept {
  using activations_detail::magnitudes;
  __m512i largest = _mm512_setzero_si512();
  __m512i second = largest;
  __m512i third = largest;
  __m512i fourth = largest;
  index_t i = 0;
  for (; i + 64 <= count; i += 64) {
    largest = _mm512_max_epu32(largest, magnitudes(_mm512_loadu_ps(x + i)));
    second = _mm512_max_epu32(second, magnitudes(_mm512_loadu_ps(x + i + 16)));
    third = _mm512_max_epu32(third, magnitudes(_mm512_loadu_ps(x + i + 32)));
    fourth = _mm512_max_epu32(fourth, magnitudes(_mm512_loadu_ps(x + i + 48)));
  }
  largest = _mm512_max_epu32(_mm512_max_epu32(largest, second), _mm512_max_epu32(third, fourth));
  for (; i < count; i += 16) {
    const __mmask16 lanes =
        activations_detail::first_lanes(count - i < 16 ? count - i : index_t{16});
    largest = _mm512_max_epu32(largest, magnitudes(_mm512_maskz_loadu_ps(lanes, x + i)));
  }
  const __m256i eight =
      _mm256_max_epu32(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64(largest, 1));
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(four));
}

inline std::int32_t quantize_activations(const float* x, index_t count, float inverse_step,
                                         std::int8_t* codes) noexcept {
  using activations_detail::round_16;
  const __m512 factor = _mm512_set1_ps(inverse_step);
  // Sums of the whole 32-bit lanes, 0x4b400000 + code each, modulo 2^32.
  __m512i sums = _mm512_setzero_si512();
  __m512i more_sums = sums;
  index_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m512i a = round_16(_mm512_loadu_ps(x + i), factor);
    const __m512i b = round_16(_mm512_loadu_ps(x + i + 16), factor);
    const __m512i c = round_16(_mm512_loadu_ps(x + i + 32), factor);
    const __m512i d = round_16(_mm512_loadu_ps(x + i + 48), factor);
    auto* const out = reinterpret_cast<__m128i*>(codes + i);
    _mm_storeu_si128(out, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128(out + 1, _mm512_cvtepi32_epi8(b));
    _mm_storeu_si128(out + 2, _mm512_cvtepi32_epi8(c));
    _mm_storeu_si128(out + 3, _mm512_cvtepi32_epi8(d));
    sums = _mm512_add_epi32(sums, _mm512_add_epi32(a, b));
    more_sums = _mm512_add_epi32(more_sums, _mm512_add_epi32(c, d));
  }
  index_t rounds = i / 16;
  for (; i < count; i += 16, ++rounds) {
    const __mmask16 lanes =
        activations_detail::first_lanes(count - i < 16 ? count - i : index_t{16});
    const __m512i rounded = round_16(_mm512_maskz_loadu_ps(lanes, x + i), factor);  // others: 0
    sums = _mm512_add_epi32(sums, rounded);
    _mm_mask_storeu_epi8(codes + i, lanes, _mm512_cvtepi32_epi8(rounded));
  }
  const __m512i sixteen = _mm512_add_epi32(sums, more_sums);
  const __m256i eight =
      _mm256_add_epi32(_mm512_castsi512_si256(sixteen), _mm512_extracti64x4_epi64(sixteen, 1));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  const auto bias = static_cast<std::uint32_t>(16 * rounds) * 0x4b400000U;
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(_mm_cvtsi128_si32(four)) - bias);
}

inline sign_sums quantize_signs(const float* x, index_t count, std::int8_t* codes) noexcept {
  std::int64_t negatives = 0;
  __m512d low = _mm512_setzero_pd();  // lanes 0..7
  __m512d high = _mm512_setzero_pd();
  for (index_t i = 0; i < count; i += 16) {
    const __mmask16 lanes =
        activations_detail::first_lanes(count - i < 16 ? count - i : index_t{16});
    const __m512 value = _mm512_maskz_loadu_ps(lanes, x + i);
    const __m512 magnitude = _mm512_castsi512_ps(activations_detail::magnitudes(value));
    low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(magnitude)));
    high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(magnitude, 1)));
    const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
    negatives += _mm_popcnt_u32(negative);
    _mm_mask_storeu_epi8(codes + i, lanes, _mm_movm_epi8(negative));
  }
  const __m512d eight = _mm512_add_pd(low, high);
  const __m256d four =
      _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return {_mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two))), -negatives};
}

inline void activation_planes(const activation_planes_args& a) noexcept {
  index_t word = 0;
  for (; (word + 1) * 64 <= a.count; ++word) {
    activations_detail::store_planes(_mm512_loadu_si512(a.codes + word * 64), a, word,
                                     ~std::uint64_t{0});
  }
  const index_t rest = a.count % 64;
  if (rest != 0) {
    const __mmask64 columns = (std::uint64_t{1} << rest) - 1U;
    activations_detail::store_planes(_mm512_maskz_loadu_epi8(columns, a.codes + word * 64), a, word,
                                     columns);
  }
}

inline constexpr activation_functions activations = {&max_magnitude, &quantize_activations,
                                                     &quantize_signs, &activation_planes};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
