// kernels/activations/portable.hpp: the contract for whatever the build allows. Layer L2.
//
// Largest magnitudes through xsimd. Rounding cannot go through xsimd: its fma is a product and a
// sum where the build has no FMA, which rounds twice. Doubles are exact with and without FMA, and
// every compiler turns blocks of a fixed size into vectors of them. Planes are 8 x 8 bit
// transpositions in 64-bit registers.
#pragma once

#include <bit>
#include <cstring>

#include "lowbit/kernels/activations/contract.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/linalg/simd.hpp"

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of its own _mm512_max_epi32, inlined here by a build with AVX-512.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable {
namespace activations_detail {

/// Rounds `Count` floats; a constant, so that the loop becomes vectors.
template <index_t Count>
inline std::int32_t round_block(const float* x, double factor, std::int8_t* codes) noexcept {
  constexpr double shift = 0x1.8p52;
  std::int32_t rounded[Count];
  for (index_t i = 0; i < Count; ++i) {
    const double shifted = static_cast<double>(x[i]) * factor + shift;  // the product is exact
    rounded[i] = static_cast<std::int32_t>(std::bit_cast<std::uint64_t>(shifted));
  }
  std::int32_t sum = 0;
  for (index_t i = 0; i < Count; ++i) {
    codes[i] = static_cast<std::int8_t>(rounded[i]);
    sum += rounded[i];
  }
  return sum;
}

/// 64 columns of all planes, byte by byte.
inline void store_whole_words(const std::int8_t* codes, const activation_planes_args& a,
                              index_t word) noexcept {
  const std::uint64_t flip = (std::uint64_t{1} << (a.bits - 1U)) * 0x0101010101010101U;
  auto* const out = reinterpret_cast<unsigned char*>(a.planes + word);
  for (index_t byte = 0; byte < 8; ++byte) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, codes + 8 * byte, 8);
    const std::uint64_t by_plane = layout::transpose_8x8(eight ^ flip);
    for (unsigned p = 0; p < a.bits; ++p) {
      out[p * a.plane_stride * 8 + byte] = static_cast<unsigned char>(by_plane >> (8 * p));
    }
  }
}

/// `count` (1..63) columns of all planes.
inline void store_last_words(const std::int8_t* codes, index_t count,
                             const activation_planes_args& a, index_t word) noexcept {
  const std::uint64_t flip = (std::uint64_t{1} << (a.bits - 1U)) * 0x0101010101010101U;
  std::uint64_t words[8] = {};
  for (index_t begin = 0; begin < count; begin += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, codes + begin, count - begin < 8 ? count - begin : 8);
    const std::uint64_t by_plane = layout::transpose_8x8(eight ^ flip);
    for (index_t p = 0; p < 8; ++p) words[p] |= (by_plane >> (8 * p) & 0xffU) << begin;
  }
  for (unsigned p = 0; p < a.bits; ++p) {
    a.planes[p * a.plane_stride + word] = words[p] & layout::low_bits(count);
  }
}

}  // namespace activations_detail

[[nodiscard]] inline std::uint32_t max_magnitude(const float* x, index_t count) noexcept {
  using float_batch = linalg::simd_batch<float>;
  using int_batch = linalg::simd_batch<std::int32_t>;
  constexpr index_t lanes = float_batch::size;
  constexpr std::int32_t magnitude_bits = 0x7fffffff;
  const int_batch mask(magnitude_bits);  // without the sign they compare as signed integers, too
  int_batch largest[2] = {int_batch(0), int_batch(0)};
  index_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    for (index_t j = 0; j < 2; ++j) {
      const auto bits =
          xsimd::bitwise_cast<int_batch>(float_batch::load_unaligned(x + i + j * lanes));
      largest[j] = xsimd::max(largest[j], bits & mask);
    }
  }
  std::int32_t each[lanes];
  xsimd::max(largest[0], largest[1]).store_unaligned(each);
  std::int32_t result = 0;
  for (const std::int32_t magnitude : each) result = magnitude > result ? magnitude : result;
  for (; i < count; ++i) {
    const std::int32_t magnitude = std::bit_cast<std::int32_t>(x[i]) & magnitude_bits;
    result = magnitude > result ? magnitude : result;
  }
  return static_cast<std::uint32_t>(result);
}

inline std::int32_t quantize_activations(const float* x, index_t count, float inverse_step,
                                         std::int8_t* codes) noexcept {
  const auto factor = static_cast<double>(inverse_step);
  constexpr index_t block = 64;  // too many to unroll, which compilers do instead of vectors
  std::int32_t sum = 0;
  index_t i = 0;
  for (; i + block <= count; i += block) {
    sum += activations_detail::round_block<block>(x + i, factor, codes + i);
  }
  for (; i < count; ++i) sum += activations_detail::round_block<1>(x + i, factor, codes + i);
  return sum;
}

inline sign_sums quantize_signs(const float* x, index_t count, std::int8_t* codes) noexcept {
  constexpr index_t lanes = sign_sum_lanes;
  constexpr index_t block = 64;
  double sums[lanes] = {};
  std::int64_t sum = 0;
  index_t i = 0;
  for (; i + block <= count; i += block) {
    std::int32_t negative[block];
    double magnitudes[block];
    for (index_t j = 0; j < block; ++j) {
      const std::int32_t bits = std::bit_cast<std::int32_t>(x[i + j]);
      magnitudes[j] = static_cast<double>(std::bit_cast<float>(bits & 0x7fffffff));
    }
    for (index_t j = 0; j < block; ++j) negative[j] = x[i + j] < 0.0F ? -1 : 0;
    std::int32_t part = 0;
    for (index_t j = 0; j < block; ++j) {
      codes[i + j] = static_cast<std::int8_t>(negative[j]);
      part += negative[j];
    }
    sum += part;
    for (index_t row = 0; row < block; row += lanes) {
      for (index_t j = 0; j < lanes; ++j) sums[j] += magnitudes[row + j];
    }
  }
  for (; i < count; ++i) {
    codes[i] = x[i] < 0.0F ? -1 : 0;
    sum += codes[i];
    sums[i % lanes] += static_cast<double>(x[i] < 0.0F ? -x[i] : x[i]);
  }
  for (index_t half = lanes / 2; half != 0; half /= 2) {
    for (index_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return {sums[0], sum};
}

inline void activation_planes(const activation_planes_args& a) noexcept {
  index_t word = 0;
  for (; (word + 1) * 64 <= a.count; ++word) {
    activations_detail::store_whole_words(a.codes + word * 64, a, word);
  }
  const index_t rest = a.count % 64;
  if (rest != 0) activations_detail::store_last_words(a.codes + word * 64, rest, a, word);
}

inline constexpr activation_functions activations = {&max_magnitude, &quantize_activations,
                                                     &quantize_signs, &activation_planes};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::portable

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
