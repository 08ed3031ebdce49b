// kernels/bit_gemm/neon.hpp: the contract with NEON. Layer L2.
//
// A tile's words of one column position are 4 registers (a lane is a row). Per step an AND, cnt and
// an add of bytes; 2 tokens share the loads of weights. NEON is part of AArch64, so there is no
// target region.
//
// Invariants:
//  * Diagonals i + j are visited from the heaviest to the lightest and the sums double in between
//    (Horner's rule): planes of equal weight share counters.
//  * A byte counter takes at most 31 counts of at most 8 (248 < 256) before it is folded.
#pragma once

#include "lowbit/kernels/bit_gemm/contract.hpp"

#if LOWBIT_AARCH64

#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace detail {

inline constexpr index_t lanes = 2;
inline constexpr index_t registers = bit_gemm_tile_rows / lanes;  // that hold a word of each row
inline constexpr index_t max_counts = 31;                         // that a byte counter takes

/// Adds the bytes of each word to its sum, and clears them.
inline void fold_bytes(uint64x2_t& sum, uint8x16_t& bytes) noexcept {
  sum = vpadalq_u32(sum, vpaddlq_u16(vpaddlq_u8(bytes)));
  bytes = vdupq_n_u8(0);
}

/// Some tokens at once share the loads of weights.
template <index_t Tokens>
inline void add_tokens(const bit_gemm_tile_args& a, index_t token) noexcept {
  uint64x2_t sums[Tokens][registers];
  uint8x16_t bytes[Tokens][registers];
#pragma GCC unroll 2
  for (index_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
    for (index_t v = 0; v < registers; ++v) {
      sums[t][v] = vdupq_n_u64(0);
      bytes[t][v] = vdupq_n_u8(0);
    }
  }
  for (unsigned shift = a.weight_planes + a.activation_planes - 1; shift-- > 0;) {
#pragma GCC unroll 2
    for (index_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
      for (index_t v = 0; v < registers; ++v) sums[t][v] = vaddq_u64(sums[t][v], sums[t][v]);
    }
    index_t counts = 0;
    const unsigned first = shift < a.activation_planes ? 0 : shift - a.activation_planes + 1;
    const unsigned last = shift < a.weight_planes ? shift : a.weight_planes - 1;
    for (unsigned i = first; i <= last; ++i) {
      const std::uint64_t* w = a.weight_plane(i);
      const std::uint64_t* x = a.activation_plane(token, shift - i);
      const std::uint64_t* const end = x + a.words;
      for (; x != end; ++x, w += bit_gemm_tile_rows) {
        if (counts++ == max_counts) {
#pragma GCC unroll 2
          for (index_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
            for (index_t v = 0; v < registers; ++v) fold_bytes(sums[t][v], bytes[t][v]);
          }
          counts = 1;
        }
#pragma GCC unroll 2
        for (index_t t = 0; t < Tokens; ++t) {
          const uint64x2_t word = vld1q_dup_u64(x + t * a.activation_stride);
#pragma GCC unroll 4
          for (index_t v = 0; v < registers; ++v) {
            const uint64x2_t both = vandq_u64(vld1q_u64(w + v * lanes), word);
            bytes[t][v] = vaddq_u8(bytes[t][v], vcntq_u8(vreinterpretq_u8_u64(both)));
          }
        }
      }
    }
#pragma GCC unroll 2
    for (index_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
      for (index_t v = 0; v < registers; ++v) fold_bytes(sums[t][v], bytes[t][v]);
    }
  }
#pragma GCC unroll 2
  for (index_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 4
    for (index_t v = 0; v < registers; ++v) {
      std::int64_t* const out = a.sums + (token + t) * bit_gemm_tile_rows + v * lanes;
      vst1q_s64(out, vreinterpretq_s64_u64(sums[t][v]));
    }
  }
}

}  // namespace detail

LOWBIT_KERNEL void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  index_t token = 0;
  for (; token + 2 <= a.tokens; token += 2) detail::add_tokens<2>(a, token);
  if (token < a.tokens) detail::add_tokens<1>(a, token);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon

#endif  // LOWBIT_AARCH64
