// kernels/bit_gemm/avx2.hpp: the contract with AVX2. Layer L2.
//
// A register holds one word of 4 rows of the tile (a lane is a row); one token at a time, since
// loads are not what limits.
//  * Blocks of 8 words go through carry-save adders (Harley and Seal; Mula, Kurz, Lemire, 2018):
//    about 6.3 operations a word where looking up the counts of its nibbles (vpshufb) costs 8. One
//    half of the rows at a time: two spill.
//  * What is left of a run, and short runs, are looked up, both halves of the rows side by side.
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

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace detail {

inline constexpr index_t lanes = 4;
inline constexpr index_t registers = bit_gemm_tile_rows / lanes;  // that hold a word of each row
inline constexpr index_t block_words = 8;  // that carry-save adders reduce to one
inline constexpr index_t long_words = 24;  // from here on carry-save adders pay (measured)
inline constexpr index_t max_counts = 31;  // that a byte counter takes

/// One word of each of 4 rows AND one word of a token.
[[nodiscard]] inline __m256i both(const std::uint64_t* weights, const std::uint64_t* x) noexcept {
  return _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(weights)),
                          _mm256_set1_epi64x(static_cast<long long>(*x)));
}

/// The number of ones in each byte.
[[nodiscard]] inline __m256i count_bytes(__m256i x) noexcept {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
  const __m256i high =
      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
  return _mm256_add_epi8(low, high);
}

/// The sum of the bytes of each word.
[[nodiscard]] inline __m256i fold_bytes(__m256i x) noexcept {
  return _mm256_sad_epu8(x, _mm256_setzero_si256());
}

[[nodiscard]] inline __m256i count_words(__m256i x) noexcept { return fold_bytes(count_bytes(x)); }

[[nodiscard]] inline __m256i twice(__m256i x) noexcept { return _mm256_add_epi64(x, x); }

/// Adds a and b to `sum`, bit by bit; returns the carries.
[[nodiscard]] inline __m256i carry_save(__m256i& sum, __m256i a, __m256i b) noexcept {
  const __m256i either = _mm256_xor_si256(a, b);
  const __m256i carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(either, sum));
  sum = _mm256_xor_si256(sum, either);
  return carry;
}

/// Adds 8 words to the digits at each bit position; returns the carries, which count 8.
[[nodiscard]] inline __m256i add_block(__m256i& ones, __m256i& twos, __m256i& fours,
                                       const std::uint64_t* w, const std::uint64_t* x) noexcept {
  constexpr index_t row = bit_gemm_tile_rows;
  const __m256i twos_a = carry_save(ones, both(w, x), both(w + row, x + 1));
  const __m256i twos_b = carry_save(ones, both(w + 2 * row, x + 2), both(w + 3 * row, x + 3));
  const __m256i fours_a = carry_save(twos, twos_a, twos_b);
  const __m256i twos_c = carry_save(ones, both(w + 4 * row, x + 4), both(w + 5 * row, x + 5));
  const __m256i twos_d = carry_save(ones, both(w + 6 * row, x + 6), both(w + 7 * row, x + 7));
  const __m256i fours_b = carry_save(twos, twos_c, twos_d);
  return carry_save(fours, fours_a, fours_b);
}

/// One token and the rows of some registers, from `row` on. Blocks: whether there is a block of 8
/// words.
template <index_t Registers, bool Blocks>
inline void add_token(const bit_gemm_tile_args& a, index_t token, index_t row) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  const index_t in_blocks = Blocks ? a.words / block_words * block_words : 0;
  const index_t rest = a.words - in_blocks;
  __m256i sums[Registers];    // of counts of 1
  __m256i eights[Registers];  // of counts of 8
  __m256i digits[Registers][3];
  __m256i bytes[Registers];
  __m256i bytes_of_8[Registers];
#pragma GCC unroll 2
  for (index_t v = 0; v < Registers; ++v) {
    sums[v] = eights[v] = digits[v][0] = digits[v][1] = digits[v][2] = zero;
  }
  for (unsigned shift = a.weight_planes + a.activation_planes - 1; shift-- > 0;) {
#pragma GCC unroll 2
    for (index_t v = 0; v < Registers; ++v) {
      sums[v] = twice(sums[v]);
      bytes[v] = zero;
      if constexpr (Blocks) {
        eights[v] = _mm256_add_epi64(twice(eights[v]), count_words(digits[v][2]));
        digits[v][2] = digits[v][1];
        digits[v][1] = digits[v][0];
        digits[v][0] = zero;
        bytes_of_8[v] = zero;
      }
    }
    index_t counts = 0;
    index_t counts_of_8 = 0;
    const unsigned first = shift < a.activation_planes ? 0 : shift - a.activation_planes + 1;
    const unsigned last = shift < a.weight_planes ? shift : a.weight_planes - 1;
    for (unsigned i = first; i <= last; ++i) {
      const std::uint64_t* w = a.weight_plane(i) + row;
      const std::uint64_t* x = a.activation_plane(token, shift - i);
      if constexpr (Blocks) {
        const std::uint64_t* const end = x + in_blocks;
        for (; x != end; x += block_words, w += block_words * bit_gemm_tile_rows) {
          if (counts_of_8++ == max_counts) {
#pragma GCC unroll 2
            for (index_t v = 0; v < Registers; ++v) {
              eights[v] = _mm256_add_epi64(eights[v], fold_bytes(bytes_of_8[v]));
              bytes_of_8[v] = zero;
            }
            counts_of_8 = 1;
          }
#pragma GCC unroll 2
          for (index_t v = 0; v < Registers; ++v) {
            const __m256i carries =
                add_block(digits[v][0], digits[v][1], digits[v][2], w + v * lanes, x);
            bytes_of_8[v] = _mm256_add_epi8(bytes_of_8[v], count_bytes(carries));
          }
        }
      }
      if (counts + rest > max_counts) {
#pragma GCC unroll 2
        for (index_t v = 0; v < Registers; ++v) {
          sums[v] = _mm256_add_epi64(sums[v], fold_bytes(bytes[v]));
          bytes[v] = zero;
        }
        counts = 0;
      }
      counts += rest;
      for (index_t k = 0; k < rest; ++k) {
#pragma GCC unroll 2
        for (index_t v = 0; v < Registers; ++v) {
          const __m256i word = both(w + k * bit_gemm_tile_rows + v * lanes, x + k);
          bytes[v] = _mm256_add_epi8(bytes[v], count_bytes(word));
        }
      }
    }
#pragma GCC unroll 2
    for (index_t v = 0; v < Registers; ++v) {
      sums[v] = _mm256_add_epi64(sums[v], fold_bytes(bytes[v]));
      if constexpr (Blocks) eights[v] = _mm256_add_epi64(eights[v], fold_bytes(bytes_of_8[v]));
    }
  }
#pragma GCC unroll 2
  for (index_t v = 0; v < Registers; ++v) {
    if constexpr (Blocks) {
      __m256i sum = _mm256_add_epi64(twice(eights[v]), count_words(digits[v][2]));
      sum = _mm256_add_epi64(twice(sum), count_words(digits[v][1]));
      sum = _mm256_add_epi64(twice(sum), count_words(digits[v][0]));
      sums[v] = _mm256_add_epi64(sums[v], sum);
    }
    auto* const out =
        reinterpret_cast<__m256i*>(a.sums + token * bit_gemm_tile_rows + row + v * lanes);
    _mm256_storeu_si256(out, sums[v]);
  }
}

}  // namespace detail

LOWBIT_KERNEL void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  for (index_t token = 0; token < a.tokens; ++token) {
    if (a.words >= detail::long_words) {
      for (index_t row = 0; row < bit_gemm_tile_rows; row += detail::lanes) {
        detail::add_token<1, true>(a, token, row);
      }
    } else {
      detail::add_token<detail::registers, false>(a, token, 0);
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
