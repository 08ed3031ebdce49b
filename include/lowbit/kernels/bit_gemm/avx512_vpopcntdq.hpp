// kernels/bit_gemm/avx512_vpopcntdq.hpp: the contract with vpopcntq. Layer L2.
//
// A tile's words of one column position are one register (a lane is a row). Per step an AND whose
// other operand is a broadcast from memory, a popcount, an add; up to 8 tokens share a load of
// weights.
//
// Invariants: diagonals i + j are visited from the heaviest to the lightest and the sums double in
// between (Horner's rule), so that pairs of planes of equal weight share an accumulator and no
// partial sum exceeds the final one (contract: below 2^47).
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

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512_vpopcntdq {
namespace detail {

/// sums += ones of one word of 8 rows AND one word of each token.
template <index_t Tokens>
inline void add_word(__m512i* sums, const std::uint64_t* weights, const std::uint64_t* activations,
                     index_t stride) noexcept {
  const __m512i w = _mm512_load_si512(weights);
#pragma GCC unroll 32
  for (index_t t = 0; t < Tokens; ++t) {
    const __m512i x = _mm512_set1_epi64(static_cast<long long>(activations[t * stride]));
    sums[t] = _mm512_add_epi64(sums[t], _mm512_popcnt_epi64(_mm512_and_epi64(w, x)));
  }
}

/// sums += ones of one weight plane AND one activation plane of each token.
template <index_t Tokens>
inline void add_pair(__m512i* sums, const std::uint64_t* weights, const std::uint64_t* activations,
                     index_t words, index_t stride) noexcept {
  index_t word = 0;
  if constexpr (Tokens <= 2) {
    for (; word + 4 <= words; word += 4) {
#pragma GCC unroll 4
      for (index_t i = 0; i < 4; ++i) {
        add_word<Tokens>(sums, weights + (word + i) * bit_gemm_tile_rows, activations + word + i,
                         stride);
      }
    }
  }
  for (; word < words; ++word) {
    add_word<Tokens>(sums, weights + word * bit_gemm_tile_rows, activations + word, stride);
  }
}

/// Some tokens: each has an accumulator, and all share each load of weights.
template <index_t Tokens>
inline void add_tokens(const bit_gemm_tile_args& a, index_t token) noexcept {
  __m512i sums[Tokens];
#pragma GCC unroll 32
  for (index_t t = 0; t < Tokens; ++t) sums[t] = _mm512_setzero_si512();
  for (unsigned shift = a.weight_planes + a.activation_planes - 1; shift-- > 0;) {
#pragma GCC unroll 32
    for (index_t t = 0; t < Tokens; ++t) sums[t] = _mm512_add_epi64(sums[t], sums[t]);
    const unsigned first = shift < a.activation_planes ? 0 : shift - a.activation_planes + 1;
    const unsigned last = shift < a.weight_planes ? shift : a.weight_planes - 1;
    for (unsigned i = first; i <= last; ++i) {
      add_pair<Tokens>(sums, a.weight_plane(i), a.activation_plane(token, shift - i), a.words,
                       a.activation_stride);
    }
  }
#pragma GCC unroll 32
  for (index_t t = 0; t < Tokens; ++t) {
    _mm512_storeu_si512(a.sums + (token + t) * bit_gemm_tile_rows, sums[t]);
  }
}

/// 8 tokens, one weight plane, very few words: no inner loop at all.
template <index_t Words>
inline void add_8_tokens_short(const bit_gemm_tile_args& a, index_t token) noexcept {
  constexpr index_t tokens = 8;
  __m512i sums[tokens];
  __m512i w[Words];
#pragma GCC unroll 32
  for (index_t t = 0; t < tokens; ++t) sums[t] = _mm512_setzero_si512();
#pragma GCC unroll 32
  for (index_t k = 0; k < Words; ++k) {
    w[k] = _mm512_load_si512(a.weights + k * bit_gemm_tile_rows);
  }
  for (unsigned plane = a.activation_planes; plane-- > 0;) {
    const std::uint64_t* const x = a.activation_plane(token, plane);
#pragma GCC unroll 32
    for (index_t t = 0; t < tokens; ++t) {
      __m512i sum = _mm512_add_epi64(sums[t], sums[t]);
#pragma GCC unroll 32
      for (index_t k = 0; k < Words; ++k) {
        const __m512i word =
            _mm512_set1_epi64(static_cast<long long>(x[t * a.activation_stride + k]));
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_and_epi64(w[k], word)));
      }
      sums[t] = sum;
    }
  }
#pragma GCC unroll 32
  for (index_t t = 0; t < tokens; ++t) {
    _mm512_storeu_si512(a.sums + (token + t) * bit_gemm_tile_rows, sums[t]);
  }
}

/// One token: each of its planes has an accumulator, and all share each load of weights.
template <index_t Planes>
inline void add_planes(const bit_gemm_tile_args& a, index_t token) noexcept {
  __m512i sums[Planes];
#pragma GCC unroll 32
  for (index_t j = 0; j < Planes; ++j) sums[j] = _mm512_setzero_si512();
  for (unsigned i = a.weight_planes; i-- > 0;) {
#pragma GCC unroll 32
    for (index_t j = 0; j < Planes; ++j) sums[j] = _mm512_add_epi64(sums[j], sums[j]);
    add_pair<Planes>(sums, a.weight_plane(i), a.activation_plane(token, 0), a.words,
                     a.plane_stride());
  }
  __m512i sum = sums[Planes - 1];
#pragma GCC unroll 32
  for (index_t j = 2; j <= Planes; ++j) {
    sum = _mm512_add_epi64(_mm512_add_epi64(sum, sum), sums[Planes - j]);
  }
  _mm512_storeu_si512(a.sums + token * bit_gemm_tile_rows, sum);
}

inline void add_token(const bit_gemm_tile_args& a, index_t token) noexcept {
  switch (a.activation_planes) {
    case 1: return add_planes<1>(a, token);
    case 2: return add_planes<2>(a, token);
    case 3: return add_planes<3>(a, token);
    case 4: return add_planes<4>(a, token);
    case 5: return add_planes<5>(a, token);
    case 6: return add_planes<6>(a, token);
    case 7: return add_planes<7>(a, token);
    default: return add_planes<8>(a, token);
  }
}

inline void add_8_tokens(const bit_gemm_tile_args& a, index_t token) noexcept {
  if (a.weight_planes == 1) {
    if (a.words == 1) return add_8_tokens_short<1>(a, token);
    if (a.words == 2) return add_8_tokens_short<2>(a, token);
  }
  add_tokens<8>(a, token);
}

}  // namespace detail

LOWBIT_KERNEL void bit_gemm_tile(const bit_gemm_tile_args& a) noexcept {
  index_t token = 0;
  for (; token + 8 <= a.tokens; token += 8) detail::add_8_tokens(a, token);
  const index_t rest = a.tokens - token;
  if (rest < 4 && rest < a.activation_planes) {
    for (; token < a.tokens; ++token) detail::add_token(a, token);
    return;
  }
  switch (rest) {
    case 1: return detail::add_tokens<1>(a, token);
    case 2: return detail::add_tokens<2>(a, token);
    case 3: return detail::add_tokens<3>(a, token);
    case 4: return detail::add_tokens<4>(a, token);
    case 5: return detail::add_tokens<5>(a, token);
    case 6: return detail::add_tokens<6>(a, token);
    case 7: return detail::add_tokens<7>(a, token);
    default: return;
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx512_vpopcntdq
LOWBIT_TARGET_END

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif  // LOWBIT_X86_64
