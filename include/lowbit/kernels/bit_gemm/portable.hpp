// kernels/bit_gemm/portable.hpp: the contract with xsimd, as wide as the build allows. Layer L2.
//
// A lane is a row of the tile, so counts never cross lanes. There is no popcount at a baseline:
// bits are counted in parallel inside a register (SWAR), with shifts, masks and adds only.
//  * Long runs first reduce 16 words to one by carry-save adders (Harley and Seal; Mula, Kurz,
//    Lemire, 2018), which takes 5 bit operations a word where counting it takes 11.
//  * Short runs and what is left over count every word; pairs of planes of equal weight share the
//    counters.
//
// Invariants: a byte counter takes at most 31 counts of at most 8 (248 < 256) before it is folded.
#pragma once

#include <algorithm>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/linalg/simd.hpp"

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of its own _mm512_srli_epi64, inlined here by a build with AVX-512.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable {
namespace detail {

using word_batch = linalg::simd_batch<std::uint64_t>;

inline constexpr index_t lanes = word_batch::size;
/// Registers that hold one word of each row of a tile.
inline constexpr index_t registers = bit_gemm_tile_rows / lanes;
static_assert(bit_gemm_tile_rows % lanes == 0, "a tile must be whole registers");

inline constexpr index_t block_words = 16;  // that carry-save adders reduce to one
inline constexpr index_t max_counts = 31;   // that a byte counter takes

/// The same word in every lane.
[[nodiscard]] inline word_batch splat(std::uint64_t word) noexcept { return word_batch(word); }

/// The number of ones in each byte.
[[nodiscard]] inline word_batch count_bytes(word_batch x) noexcept {
  const word_batch two_bits = splat(0x3333333333333333U);
  x = x - ((x >> 1) & splat(0x5555555555555555U));
  x = (x & two_bits) + ((x >> 2) & two_bits);
  return (x + (x >> 4)) & splat(0x0f0f0f0f0f0f0f0fU);
}

/// The sum of the bytes of each word.
[[nodiscard]] inline word_batch fold_bytes(word_batch x) noexcept {
  const word_batch even_bytes = splat(0x00ff00ff00ff00ffU);
  x = (x & even_bytes) + ((x >> 8) & even_bytes);
  x = x + (x >> 16);
  return (x + (x >> 32)) & splat(0xffffU);
}

/// Adds a and b to `sum`, bit by bit; returns the carries.
[[nodiscard]] inline word_batch carry_save(word_batch& sum, word_batch a, word_batch b) noexcept {
  const word_batch either = a ^ b;
  const word_batch carry = (a & b) | (either & sum);
  sum = sum ^ either;
  return carry;
}

/// Some words of one weight plane (one register of rows) and one activation plane.
struct plane_pair {
  const std::uint64_t* weights;
  const std::uint64_t* activations;

  [[nodiscard]] word_batch both(index_t word) const noexcept {
    return word_batch::load_aligned(weights + word * bit_gemm_tile_rows) & splat(activations[word]);
  }
  [[nodiscard]] static plane_pair of(const bit_gemm_tile_args& a, index_t token, unsigned i,
                                     unsigned j) noexcept {
    return {a.weight_plane(i), a.activation_plane(token, j)};
  }
};

/// A number below 16 at each bit position, one binary digit a word.
struct carry_save_state {
  word_batch ones = splat(0);
  word_batch twos = splat(0);
  word_batch fours = splat(0);
  word_batch eights = splat(0);

  /// Adds 8 words; returns the carries, which count 8.
  [[nodiscard]] word_batch add_8(const plane_pair& p, index_t word) noexcept {
    const word_batch twos_a = carry_save(ones, p.both(word), p.both(word + 1));
    const word_batch twos_b = carry_save(ones, p.both(word + 2), p.both(word + 3));
    const word_batch fours_a = carry_save(twos, twos_a, twos_b);
    const word_batch twos_c = carry_save(ones, p.both(word + 4), p.both(word + 5));
    const word_batch twos_d = carry_save(ones, p.both(word + 6), p.both(word + 7));
    const word_batch fours_b = carry_save(twos, twos_c, twos_d);
    return carry_save(fours, fours_a, fours_b);
  }
};

/// Ones of `words` words, a multiple of block_words, in each lane.
[[nodiscard]] inline word_batch count_blocks(const plane_pair& p, index_t words) noexcept {
  carry_save_state state;
  word_batch sixteens = splat(0);
  for (index_t begin = 0; begin < words; begin += max_counts * block_words) {
    const index_t end = std::min(words, begin + max_counts * block_words);
    word_batch bytes = splat(0);
    for (index_t word = begin; word < end; word += block_words) {
      const word_batch eights_a = state.add_8(p, word);
      const word_batch eights_b = state.add_8(p, word + 8);
      bytes = bytes + count_bytes(carry_save(state.eights, eights_a, eights_b));
    }
    sixteens = sixteens + fold_bytes(bytes);
  }
  // 8 counts of at most 8 each: twice and four times included, at most 15 * 8 fit a byte.
  word_batch rest = count_bytes(state.eights);
  rest = rest + rest + count_bytes(state.fours);
  rest = rest + rest + count_bytes(state.twos);
  rest = rest + rest + count_bytes(state.ones);
  return (sixteens << 4) + fold_bytes(rest);
}

/// Adds what words [begin, end) of every pair of planes contribute to one token's sums.
inline void add_words(const bit_gemm_tile_args& a, index_t token, row_range words,
                      word_batch (&sums)[registers]) noexcept {
  for (unsigned shift = 0; shift + 1 < a.weight_planes + a.activation_planes; ++shift) {
    word_batch bytes[registers];
    for (word_batch& b : bytes) b = splat(0);
    const auto flush = [&] {
      for (index_t v = 0; v < registers; ++v) {
        sums[v] = sums[v] + (fold_bytes(bytes[v]) << static_cast<int>(shift));
        bytes[v] = splat(0);
      }
    };
    index_t counts = 0;
    const unsigned first = shift < a.activation_planes ? 0 : shift - a.activation_planes + 1;
    const unsigned last = std::min(shift, a.weight_planes - 1);
    for (unsigned i = first; i <= last; ++i) {
      const plane_pair p = plane_pair::of(a, token, i, shift - i);
      for (index_t word = words.begin; word < words.end; ++word) {
        if (counts++ == max_counts) {
          flush();
          counts = 1;
        }
        const word_batch x = splat(p.activations[word]);
        const std::uint64_t* const w = p.weights + word * bit_gemm_tile_rows;
        for (index_t v = 0; v < registers; ++v) {
          bytes[v] = bytes[v] + count_bytes(word_batch::load_aligned(w + v * lanes) & x);
        }
      }
    }
    flush();
  }
}

}  // namespace detail

LOWBIT_KERNEL void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  const index_t in_blocks = a.words / detail::block_words * detail::block_words;
  for (index_t t = 0; t < a.tokens; ++t) {
    detail::word_batch sums[detail::registers];
    for (auto& s : sums) s = detail::splat(0);
    if (in_blocks != 0) {
      for (unsigned i = 0; i < a.weight_planes; ++i) {
        for (unsigned j = 0; j < a.activation_planes; ++j) {
          detail::plane_pair p = detail::plane_pair::of(a, t, i, j);
          for (index_t v = 0; v < detail::registers; ++v, p.weights += detail::lanes) {
            sums[v] = sums[v] + (detail::count_blocks(p, in_blocks) << static_cast<int>(i + j));
          }
        }
      }
    }
    if (in_blocks != a.words) detail::add_words(a, t, {in_blocks, a.words}, sums);
    auto* const out = reinterpret_cast<std::uint64_t*>(a.sums + t * bit_gemm_tile_rows);
    for (index_t v = 0; v < detail::registers; ++v) {
      sums[v].store_unaligned(out + v * detail::lanes);
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
