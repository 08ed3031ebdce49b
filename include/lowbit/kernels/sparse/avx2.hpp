// kernels/sparse/avx2.hpp: the contract with AVX2, FMA and F16C. Layer L2.
//
// `vector` fetches x by 16 loads of one float and puts them together by inserts, which beats
// gathers (README.md); columns are read four at a time.
#pragma once

#include "lowbit/kernels/sparse/contract.hpp"

#if LOWBIT_X86_64

#include <immintrin.h>

#include <cstring>

LOWBIT_TARGET_BEGIN("avx2,fma,f16c,bmi2,popcnt")
namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2 {
namespace sparse_detail {

/// x at the four columns whose indices `columns` holds. As vectors, of which an insert reads one
/// float: a load of a single float would be an instruction of its own.
LOWBIT_ALWAYS_INLINE __m128 load_four(const float* x, std::uint64_t columns) noexcept {
  const __m128 a = _mm_load_ss(x + (columns & 0xffffU));
  const __m128 b = _mm_insert_ps(a, _mm_loadu_ps(x + (columns >> 16U & 0xffffU)), 0x10);
  const __m128 c = _mm_insert_ps(b, _mm_loadu_ps(x + (columns >> 32U & 0xffffU)), 0x20);
  return _mm_insert_ps(c, _mm_loadu_ps(x + (columns >> 48U)), 0x30);
}

LOWBIT_ALWAYS_INLINE __m256 load_eight(const float* x, const std::uint16_t* columns) noexcept {
  std::uint64_t fours[2];
  std::memcpy(fours, columns, sizeof(fours));
  return _mm256_insertf128_ps(_mm256_castps128_ps256(load_four(x, fours[0])),
                              load_four(x, fours[1]), 1);
}

LOWBIT_ALWAYS_INLINE __m256 load_values(const float16* values) noexcept {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(values)));
}

}  // namespace sparse_detail

inline void sparse_vector(const sparse_vector_args& args) noexcept {
  using namespace sparse_detail;
  __m256 low = _mm256_loadu_ps(args.sums);
  __m256 high = _mm256_loadu_ps(args.sums + 8);
  const sparse_step* const end = args.steps + args.depth;
  for (const sparse_step* step = args.steps; step != end; ++step) {
    _mm_prefetch(reinterpret_cast<const char*>(step) + args.prefetch_bytes, _MM_HINT_T0);
    low = _mm256_fmadd_ps(load_values(step->values), load_eight(args.x, step->columns), low);
    high =
        _mm256_fmadd_ps(load_values(step->values + 8), load_eight(args.x, step->columns + 8), high);
  }
  _mm256_storeu_ps(args.sums, low);
  _mm256_storeu_ps(args.sums + 8, high);
}

/// Eight lanes and eight tokens at a time: eight chains of sums.
inline void sparse_block(const sparse_block_args& args) noexcept {
  using namespace sparse_detail;
  constexpr index_t part = 8;
  for (index_t lane = 0; lane < sparse_lanes; lane += part) {
    for (index_t token = 0; token < sparse_tokens; token += part) {
      float* const out = args.sums + lane * sparse_tokens + token;
      const float* const x = args.x + token;
      __m256 sums[part];
      LOWBIT_UNROLL
      for (index_t i = 0; i < part; ++i) sums[i] = _mm256_load_ps(out + i * sparse_tokens);
      for (index_t t = 0; t < args.depth; ++t) {
        const sparse_step& step = args.steps[t];
        alignas(32) float values[part];
        _mm256_store_ps(values, load_values(step.values + lane));
        LOWBIT_UNROLL
        for (index_t i = 0; i < part; ++i) {
          sums[i] = _mm256_fmadd_ps(
              _mm256_broadcast_ss(values + i),
              _mm256_load_ps(x + index_t{step.columns[lane + i]} * sparse_tokens), sums[i]);
        }
      }
      LOWBIT_UNROLL
      for (index_t i = 0; i < part; ++i) _mm256_store_ps(out + i * sparse_tokens, sums[i]);
    }
  }
}

inline constexpr sparse_functions sparse = {&sparse_vector, &sparse_block};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::avx2
LOWBIT_TARGET_END

#endif  // LOWBIT_X86_64
