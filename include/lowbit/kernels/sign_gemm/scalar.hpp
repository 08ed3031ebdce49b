// kernels/sign_gemm/scalar.hpp: the contract, entry by entry: the oracle of every other variant.
// Layer L2.
#pragma once

#include <bit>

#include "lowbit/kernels/sign_gemm/contract.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {
namespace sign_gemm_detail {

[[nodiscard]] constexpr float column(const float* x, index_t count, index_t k) noexcept {
  return k < count ? x[k] : 0.0F;
}
[[nodiscard]] constexpr float magnitude(float x) noexcept {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7fffffffU);
}

}  // namespace sign_gemm_detail

[[nodiscard]] constexpr std::uint32_t sign_limit(const float* x, index_t count) noexcept {
  using namespace sign_gemm_detail;
  std::uint32_t limit = 0;
  for (index_t k = 0; k < count; k += sign_group_columns) {
    float sum = magnitude(x[k]);
    for (index_t j = 1; j < sign_group_columns; ++j) sum += magnitude(column(x, count, k + j));
    const auto bits = std::bit_cast<std::uint32_t>(sum);
    limit = bits > limit ? bits : limit;
  }
  return limit;
}

constexpr void sign_tables(const sign_table_args& a) noexcept {
  using namespace sign_gemm_detail;
  constexpr double shift = 0x1.8p52 + 128.0;  // from here on doubles are integers
  const auto factor = static_cast<double>(a.inverse_step);
  for (index_t g = 0; g < a.groups; ++g) {
    for (unsigned e = 0; e < sign_table_bytes; ++e) {
      float v = 0.0F;
      for (unsigned j = 0; j < sign_group_columns; ++j) {
        const float z = column(a.x, a.count, sign_group_columns * g + j);
        const bool plus = j == 4 || (e >> j & 1U) != 0;
        const float term = plus ? z : -z;
        v = j == 0 ? term : v + term;
      }
      // The product is exact: fused or not, the sum rounds once.
      const double rounded = static_cast<double>(v) * factor + shift;
      a.tables[g * sign_table_bytes + e] =
          static_cast<std::uint8_t>(std::bit_cast<std::uint64_t>(rounded));
    }
  }
}

namespace sign_gemm_detail {

/// Adds the group g of a step to the sums of a tile.
constexpr void add_group(const std::uint8_t* step, index_t w, index_t g, const std::uint8_t* table,
                         std::int32_t* sums) noexcept {
  const index_t of_register = sign_tile_rows / w;
  const bool is_high = g / w % 2 != 0;
  for (index_t r = 0; r < sign_tile_rows; ++r) {
    const unsigned two = step[(g / (2 * w) * sign_tile_rows + r) * w + g % w];
    const unsigned signs = step[sign_pattern_bytes + r % of_register * w + g % w];
    const index_t bit = 7 - (r / of_register * (8 / w) + g / w);
    const std::int32_t q = table[is_high ? two >> 4U : two & 15U] - 128;
    sums[r] += (signs >> bit & 1U) != 0 ? -q : q;
  }
}

}  // namespace sign_gemm_detail

constexpr void sign_gemm_block(const sign_gemm_block_args& a) noexcept {
  for (index_t i = 0; i < a.tiles * a.tokens * sign_tile_rows; ++i) a.sums[i] = 0;
  const std::uint8_t* step = a.weights + a.tiles * sign_head_bytes;
  for (index_t chunk = 0; chunk < a.groups; chunk += sign_chunk_groups) {
    const index_t left = a.groups - chunk;
    const index_t end = chunk + (left < sign_chunk_groups ? left : sign_chunk_groups);
    for (index_t tile = 0; tile < a.tiles; ++tile) {
      for (index_t first = chunk; first < end; first += sign_step_groups, step += sign_step_bytes) {
        for (index_t t = 0; t < a.tokens; ++t) {
          const std::uint8_t* const tables =
              a.tables + t * a.table_stride + first * sign_table_bytes;
          std::int32_t* const sums = a.sums + (tile * a.tokens + t) * sign_tile_rows;
          for (index_t g = 0; g < sign_step_groups; ++g) {
            sign_gemm_detail::add_group(step, a.interleave, g, tables + g * sign_table_bytes, sums);
          }
        }
      }
    }
  }
}

inline constexpr sign_gemm_functions sign_gemm = {&sign_limit, &sign_tables, &sign_gemm_block, 0};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
