// kernels/code_gemm/scalar.hpp: the contract, code by code: the oracle of every other variant.
// Layer L2.
#pragma once

#include <bit>
#include <cstdint>

#include "lowbit/core/half.hpp"
#include "lowbit/kernels/code_gemm/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {
namespace code_gemm_detail {

/// The integer that row r multiplies column `col` of a quad with.
[[nodiscard]] constexpr std::int32_t code_at(const code_format& f, const std::uint8_t* quad,
                                             index_t row, index_t col) noexcept {
  const index_t byte = row % 16 * 4 + col;
  unsigned code = 0;
  if (f.bits == 3) {
    code = code_of_3_bits(quad[byte], quad[64 + byte], quad[128 + byte], row / 16);
  } else {
    const code_place place = code_place::of(f.bits, row);
    code = (static_cast<unsigned>(quad[place.line * 64 + byte]) >> place.shift) &
           ((1U << f.bits) - 1U);
  }
  return static_cast<std::int32_t>(f.has_book ? f.book[code] : code);
}

/// Scale or offset of a row.
[[nodiscard]] constexpr float real_at(const code_format& f, const std::uint8_t* reals,
                                      index_t row) noexcept {
  std::uint32_t bits = 0;
  const index_t size = f.has_wide_scales ? 4 : 2;
  for (index_t i = 0; i < size; ++i) {
    bits |= static_cast<std::uint32_t>(reals[row * size + i]) << (8 * i);
  }
  return f.has_wide_scales ? std::bit_cast<float>(bits)
                           : to_float(float16{static_cast<std::uint16_t>(bits)});
}

/// a * b + c, rounded once, in constant expressions too. The product is exact in double; the sum is
/// rounded to odd, which leaves what the rounding to float needs (Boldo and Melquiond, 2008).
[[nodiscard]] constexpr float fused(float a, float b, float c) noexcept {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  double sum = product + addend;
  const double part = sum - product;
  const double lost = (product - (sum - part)) + (addend - part);  // 2Sum: what rounding dropped
  auto bits = std::bit_cast<std::uint64_t>(sum);
  if (lost != 0.0 && (bits & 1U) == 0 && (bits << 1U) < 0xffe0000000000000U) {
    bits += (lost > 0.0) == (sum > 0.0) ? std::uint64_t{1} : ~std::uint64_t{0};
    sum = std::bit_cast<double>(bits);
  }
  return static_cast<float>(sum);
}

}  // namespace code_gemm_detail

constexpr void code_gemm_tile(const code_gemm_tile_args& a) noexcept {
  namespace impl = code_gemm_detail;
  const code_format& f = *a.format;
  for (index_t g = 0; g < a.runs; ++g) {
    const std::uint8_t* const run = a.weights + g * f.run_bytes(a.quads);
    const std::uint8_t* const zeros = run + f.zeros_at(a.quads);
    const std::uint8_t* const offsets = run + f.offsets_at(a.quads);
    for (index_t t = 0; t < a.tokens; ++t) {
      const std::int8_t* const x = a.activations + g * a.activation_stride + t * 4 * a.quads;
      const std::int32_t sum = a.sums[g * a.sum_stride + t];
      const float step = a.steps != nullptr ? a.steps[g * a.sum_stride + t] : 1.0F;
      for (index_t r = 0; r < code_tile_rows; ++r) {
        float& y = a.y[t * code_tile_rows + r];
        const std::int32_t zero = f.has_zeros ? zeros[r] : f.zero;
        for (index_t p = 0; p < f.planes; ++p) {
          const std::uint8_t* const codes = run + f.codes_at(p, a.quads);
          float scale = impl::real_at(f, run + f.scales_at(p, a.quads), r);
          if (f.has_ratios) scale *= f.ratios[p];
          std::int32_t dot = 0;
          for (index_t k = 0; k < 4 * a.quads; ++k) {
            dot += impl::code_at(f, codes + k / 4 * code_quad_bytes * f.bits, r, k % 4) * x[k];
          }
          const std::int32_t v = f.code_step * dot - zero * sum;
          y = impl::fused(scale * step, static_cast<float>(v), y);
        }
        if (f.has_offsets) {
          y = impl::fused(impl::real_at(f, offsets, r) * step, static_cast<float>(sum), y);
        }
      }
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
