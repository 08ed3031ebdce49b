// kernels/bit_gemm/avx512bw.hpp: the contract for AVX-512 without a popcount instruction. Layer L2.
//
// A tile's words of one column position are one register (a lane is a row).
//  * Blocks of 8 words go through carry-save adders (Harley and Seal; Mula, Kurz, Lemire, 2018): a
//    full adder is two vpternlogq, so that a word costs about 3.6 operations where looking up the
//    counts of its nibbles (vpshufb) costs 8.
//  * What is left of a run, and short runs, are looked up.
//
// Invariants:
//  * Diagonals i + j are visited from the heaviest to the lightest and everything doubles in
//    between (Horner's rule): planes of equal weight share counters, and doubling a carry-save
//    state is to rename its digits.
//  * A byte counter takes at most 31 counts of at most 8 (248 < 256) before vpsadbw folds it.
#pragma once

#include "lowbit/kernels/bit_gemm/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the undefined operands of its own AVX-512 intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw {
namespace detail {

inline constexpr index_t block_words = 8;  // that carry-save adders reduce to one
inline constexpr index_t max_counts = 31;  // that a byte counter takes

/// One word of each row AND one word of a token.
[[nodiscard]] inline __m512i both(const std::uint64_t* weights, const std::uint64_t* x) noexcept {
  return _mm512_and_epi64(_mm512_load_si512(weights),
                          _mm512_set1_epi64(static_cast<long long>(*x)));
}

/// The number of ones in each byte.
[[nodiscard]] inline __m512i count_bytes(__m512i x) noexcept {
  const __m512i table = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(x, nibble));
  const __m512i high =
      _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble));
  return _mm512_add_epi8(low, high);
}

/// The sum of the bytes of each word.
[[nodiscard]] inline __m512i fold_bytes(__m512i x) noexcept {
  return _mm512_sad_epu8(x, _mm512_setzero_si512());
}

[[nodiscard]] inline __m512i count_words(__m512i x) noexcept { return fold_bytes(count_bytes(x)); }

[[nodiscard]] inline __m512i twice(__m512i x) noexcept { return _mm512_add_epi64(x, x); }

/// Adds a and b to `sum`, bit by bit; returns the carries.
[[nodiscard]] inline __m512i carry_save(__m512i& sum, __m512i a, __m512i b) noexcept {
  const __m512i carry = _mm512_ternarylogic_epi64(sum, a, b, 0xe8);  // majority
  sum = _mm512_ternarylogic_epi64(sum, a, b, 0x96);                  // parity
  return carry;
}

/// Adds 8 words to the digits at each bit position; returns the carries, which count 8.
[[nodiscard]] inline __m512i add_block(__m512i& ones, __m512i& twos, __m512i& fours,
                                       const std::uint64_t* w, const std::uint64_t* x) noexcept {
  constexpr index_t row = bit_gemm_tile_rows;
  const __m512i twos_a = carry_save(ones, both(w, x), both(w + row, x + 1));
  const __m512i twos_b = carry_save(ones, both(w + 2 * row, x + 2), both(w + 3 * row, x + 3));
  const __m512i fours_a = carry_save(twos, twos_a, twos_b);
  const __m512i twos_c = carry_save(ones, both(w + 4 * row, x + 4), both(w + 5 * row, x + 5));
  const __m512i twos_d = carry_save(ones, both(w + 6 * row, x + 6), both(w + 7 * row, x + 7));
  const __m512i fours_b = carry_save(twos, twos_c, twos_d);
  return carry_save(fours, fours_a, fours_b);
}

/// Some tokens at once share the loads of weights. Blocks: whether there is a block of 8 words.
template <index_t Tokens, bool Blocks>
inline void add_tokens(const bit_gemm_tile_args& a, index_t token) noexcept {
  const __m512i zero = _mm512_setzero_si512();
  const index_t in_blocks = Blocks ? a.words / block_words * block_words : 0;
  const index_t rest = a.words - in_blocks;
  __m512i sums[Tokens];    // of counts of 1
  __m512i eights[Tokens];  // of counts of 8
  __m512i digits[Tokens][3];
  __m512i bytes[Tokens];
  __m512i bytes_of_8[Tokens];
#pragma GCC unroll 4
  for (index_t t = 0; t < Tokens; ++t) {
    sums[t] = eights[t] = digits[t][0] = digits[t][1] = digits[t][2] = zero;
  }
  for (unsigned shift = a.weight_planes + a.activation_planes - 1; shift-- > 0;) {
#pragma GCC unroll 4
    for (index_t t = 0; t < Tokens; ++t) {
      sums[t] = twice(sums[t]);
      bytes[t] = zero;
      if constexpr (Blocks) {
        eights[t] = _mm512_add_epi64(twice(eights[t]), count_words(digits[t][2]));
        digits[t][2] = digits[t][1];
        digits[t][1] = digits[t][0];
        digits[t][0] = zero;
        bytes_of_8[t] = zero;
      }
    }
    index_t counts = 0;
    index_t counts_of_8 = 0;
    const unsigned first = shift < a.activation_planes ? 0 : shift - a.activation_planes + 1;
    const unsigned last = shift < a.weight_planes ? shift : a.weight_planes - 1;
    for (unsigned i = first; i <= last; ++i) {
      const std::uint64_t* w = a.weight_plane(i);
      const std::uint64_t* x = a.activation_plane(token, shift - i);
      if constexpr (Blocks) {
        const std::uint64_t* const end = x + in_blocks;
        for (; x != end; x += block_words, w += block_words * bit_gemm_tile_rows) {
          if (counts_of_8++ == max_counts) {
#pragma GCC unroll 4
            for (index_t t = 0; t < Tokens; ++t) {
              eights[t] = _mm512_add_epi64(eights[t], fold_bytes(bytes_of_8[t]));
              bytes_of_8[t] = zero;
            }
            counts_of_8 = 1;
          }
#pragma GCC unroll 4
          for (index_t t = 0; t < Tokens; ++t) {
            const __m512i carries =
                add_block(digits[t][0], digits[t][1], digits[t][2], w, x + t * a.activation_stride);
            bytes_of_8[t] = _mm512_add_epi8(bytes_of_8[t], count_bytes(carries));
          }
        }
      }
      if (counts + rest > max_counts) {
#pragma GCC unroll 4
        for (index_t t = 0; t < Tokens; ++t) {
          sums[t] = _mm512_add_epi64(sums[t], fold_bytes(bytes[t]));
          bytes[t] = zero;
        }
        counts = 0;
      }
      counts += rest;
      for (index_t k = 0; k < rest; ++k) {
#pragma GCC unroll 4
        for (index_t t = 0; t < Tokens; ++t) {
          const __m512i word = both(w + k * bit_gemm_tile_rows, x + t * a.activation_stride + k);
          bytes[t] = _mm512_add_epi8(bytes[t], count_bytes(word));
        }
      }
    }
#pragma GCC unroll 4
    for (index_t t = 0; t < Tokens; ++t) {
      sums[t] = _mm512_add_epi64(sums[t], fold_bytes(bytes[t]));
      if constexpr (Blocks) eights[t] = _mm512_add_epi64(eights[t], fold_bytes(bytes_of_8[t]));
    }
  }
#pragma GCC unroll 4
  for (index_t t = 0; t < Tokens; ++t) {
    if constexpr (Blocks) {
      __m512i sum = _mm512_add_epi64(twice(eights[t]), count_words(digits[t][2]));
      sum = _mm512_add_epi64(twice(sum), count_words(digits[t][1]));
      sum = _mm512_add_epi64(twice(sum), count_words(digits[t][0]));
      sums[t] = _mm512_add_epi64(sums[t], sum);
    }
    _mm512_storeu_si512(a.sums + (token + t) * bit_gemm_tile_rows, sums[t]);
  }
}

/// Every token, some at once.
template <index_t Tokens, bool Blocks>
inline void add_all(const bit_gemm_tile_args& a) noexcept {
  index_t token = 0;
  for (; token + Tokens <= a.tokens; token += Tokens) add_tokens<Tokens, Blocks>(a, token);
  for (; token < a.tokens; ++token) add_tokens<1, Blocks>(a, token);
}

}  // namespace detail

LOWBIT_KERNEL void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  if (a.words >= detail::block_words) return detail::add_all<4, true>(a);
  detail::add_all<4, false>(a);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512bw
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif  // LOWBIT_X86_64
