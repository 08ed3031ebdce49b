// kernels/sign_gemm/driver.hpp: packing, blocking and tails of signs x activations. Layer L2.
//
//   y[t][n] = step_t * float(sum over groups g of sign(n, g) * q(t, g, pattern of row n in g))
//
// Baseline code: the variant is chosen once per call. Rows are padded to tiles of 64, columns to
// multiples of 40.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/activations/driver.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/sign_gemm/contract.hpp"
#include "lowbit/kernels/sign_gemm/variants.hpp"
#include "lowbit/layout/bit_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

namespace detail {

/// Groups of 5 that `cols` columns take, padding included.
[[nodiscard]] inline index_t sign_groups(index_t cols) {
  const index_t groups = div_up(cols, sign_group_columns * sign_step_groups) * sign_step_groups;
  LOWBIT_CHECK(groups <= sign_max_groups, shape, cols, " columns are more than ",
               sign_max_groups * sign_group_columns, ", which sums of signs take");
  return groups;
}

/// The 8 lowest groups of 5 bits, each as a byte.
[[nodiscard]] constexpr std::uint64_t spread_fives(std::uint64_t x) noexcept {
  x = (x & 0xfffffU) | (x & 0xfffff00000U) << 12U;
  x = (x & 0x000003ff000003ffU) | (x & 0x000ffc00000ffc00U) << 6U;
  return (x & 0x001f001f001f001fU) | (x & 0x03e003e003e003e0U) << 3U;
}

}  // namespace detail

/// Signs packed for sign_gemm, a bit each and 32 for a row, as contract.hpp says, for the variant
/// that was best when they were packed. In memory only. Reading is thread-safe.
class packed_signs {
 public:
  packed_signs() noexcept = default;
  /// Packs rows of a matrix of one plane (a set bit is +1), tile by tile on ctx's executor, for the
  /// best variant that ctx allows. Refuses other numbers of planes and rows outside (shape).
  packed_signs(const layout::bit_matrix& signs, row_range rows, const context& ctx = {})
      : shape_{rows.size(), signs.shape().cols}, groups_(detail::sign_groups(shape_.cols)) {
    check_row_range(rows, signs.shape().rows);
    if (shape_.rows == 0 || shape_.cols == 0) return;
    LOWBIT_CHECK(signs.planes() == 1, shape, "signs are one plane of bits, not ", signs.planes());
    interleave_ = std::max<index_t>(1, select_sign_gemm(ctx.allowed).run.interleave);
    bytes_ = aligned_buffer<std::uint8_t>(checked_mul(tiles(), tile_bytes(), "packed signs"),
                                          huge_pages::even_for_part);
    parallel_for(ctx, tiles(), [&](index_t i, index_t) { pack_tile(signs, rows.begin, i); });
  }
  explicit packed_signs(const layout::bit_matrix& signs, const context& ctx = {})
      : packed_signs(signs, {0, signs.shape().rows}, ctx) {}

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  /// Which variants read them: contract.hpp.
  [[nodiscard]] index_t interleave() const noexcept { return interleave_; }
  [[nodiscard]] index_t tiles() const noexcept { return div_up(shape_.rows, sign_tile_rows); }
  [[nodiscard]] index_t blocks() const noexcept { return div_up(tiles(), sign_block_tiles); }
  /// Tiles of a block: the last one may have fewer.
  [[nodiscard]] index_t tiles(index_t block) const noexcept {
    return std::min(sign_block_tiles, tiles() - block * sign_block_tiles);
  }
  /// Everything a product reads, padding included.
  [[nodiscard]] index_t size_bytes() const noexcept { return bytes_.size(); }
  [[nodiscard]] std::span<const std::uint8_t> block(index_t i) const noexcept {
    return bytes_.span().subspan(i * sign_block_tiles * tile_bytes(), tiles(i) * tile_bytes());
  }

 private:
  [[nodiscard]] index_t tile_bytes() const noexcept {
    return sign_head_bytes + groups_ / sign_step_groups * sign_step_bytes;
  }

  void pack_tile(const layout::bit_matrix& signs, index_t first_row, index_t tile) noexcept {
    const index_t first = tile * sign_tile_rows;
    const index_t count = std::min(sign_tile_rows, shape_.rows - first);
    const index_t block = tile / sign_block_tiles;
    const index_t of_block = tile % sign_block_tiles;
    std::uint8_t* out = bytes_.data() + block * sign_block_tiles * tile_bytes();
    std::uint8_t* const head = out + of_block * sign_head_bytes;
    std::array<std::uint32_t, sign_tile_rows> negatives{};
    out += tiles(block) * sign_head_bytes;
    for (index_t chunk = 0; chunk < groups_; chunk += sign_chunk_groups) {
      const index_t steps = std::min(sign_chunk_groups, groups_ - chunk) / sign_step_groups;
      for (index_t r = 0; r < count; ++r) {
        // A row of the canonical layout has whole words, zero behind its columns.
        const auto bytes = std::as_bytes(signs.row(0, first_row + first + r));
        negatives[r] += pack_row(bytes.subspan(chunk * sign_group_columns / 8), steps, r,
                                 out + of_block * steps * sign_step_bytes);
      }
      out += tiles(block) * steps * sign_step_bytes;
    }
    std::memcpy(head, negatives.data(), sign_head_bytes);
  }

  /// Some steps of a row of a tile; returns how many of their groups are minus.
  std::uint32_t pack_row(std::span<const std::byte> signs, index_t steps, index_t r,
                         std::uint8_t* out) const noexcept {
    constexpr index_t step_bytes = sign_group_columns * sign_step_groups / 8;
    std::uint64_t negatives = 0;
    for (index_t i = 0; i < steps; ++i, out += sign_step_bytes) {
      std::uint64_t forty = 0;
      const index_t left = signs.size() - i * step_bytes;
      if (left >= 8) {
        std::memcpy(&forty, &signs[i * step_bytes], 8);
      } else {
        std::memcpy(&forty, &signs[i * step_bytes], left);
      }
      // A byte for each group.
      constexpr std::uint64_t ones = 0x0101010101010101U;
      const std::uint64_t fives = detail::spread_fives(forty);
      const std::uint64_t minus = ~fives >> 4U & ones;
      const std::uint64_t patterns = (fives & 15U * ones) ^ minus * 15U;
      negatives += minus * ones >> 56U;
      std::uint8_t* const factors = out + sign_pattern_bytes;
      if (interleave_ == 4) {
        const auto two = static_cast<std::uint32_t>(patterns | patterns >> 28U);
        std::memcpy(out + 4 * r, &two, 4);
        const index_t bit = 7 - r / 16 * 2;  // of four groups; the bit below is of the other four
        std::uint32_t all = 0;
        std::memcpy(&all, factors + r % 16 * 4, 4);
        all |= static_cast<std::uint32_t>(minus << bit | minus >> 32U << (bit - 1));
        std::memcpy(factors + r % 16 * 4, &all, 4);
      } else {
        for (index_t s = 0; s < 4; ++s) {
          const std::uint64_t two = patterns >> (16 * s);
          out[s * sign_tile_rows + r] = static_cast<std::uint8_t>(two | two >> 4U);
        }
        // Byte g, which is 0 or 1, becomes bit 7 - g.
        factors[r] = static_cast<std::uint8_t>(minus * 0x8040201008040201U >> 56U);
      }
    }
    return static_cast<std::uint32_t>(negatives);
  }

  shape2 shape_;
  index_t groups_ = 0;
  index_t interleave_ = 1;
  aligned_buffer<std::uint8_t> bytes_;
};

/// Activations [tokens, K] as tables of what the signs of 5 columns can sum to, with a step per
/// token: step = limit / qmax with qmax = 2^(bits-1) - 1, where limit is the largest sum of
/// magnitudes of a group (steps as in activations/levels.hpp). The tables take 16 bytes per 5
/// columns.
///
/// Reading is thread-safe. An object that is assigned again keeps its memory, and allocates none if
/// that is large enough: keep one for each thread that calls products.
class sign_activations {
 public:
  sign_activations() noexcept = default;
  /// See assign().
  explicit sign_activations(matrix_view<const float> x, unsigned bits = 8,
                            const context& ctx = {}) {
    assign(x, bits, ctx);
  }

  /// Makes the tables of x. Refuses NaN/Inf, with token and channel, activations so large that a
  /// sum of 5 or a level is no float, and bits outside 2..8 (value); then the content is
  /// unspecified until the next assign(). Uses ctx's executor when there are many tokens; the
  /// result never depends on it.
  void assign(matrix_view<const float> x, unsigned bits, const context& ctx) {
    detail::check_activation_params({.bits = bits}, 2);
    shape_ = {};  // nothing to read if anything below refuses
    bits_ = bits;
    groups_ = detail::sign_groups(x.cols());
    detail::grow(tables_, checked_mul(x.rows(), table_bytes(), "tables of activations"));
    detail::grow(steps_, x.rows());
    shape_ = x.shape();
    if (x.cols() == 0) {
      std::fill_n(steps_.data(), x.rows(), 0.0F);
      return;
    }
    const sign_gemm_functions& run = select_sign_gemm(ctx.allowed).run;
    const index_t bad = detail::for_each_token(ctx, x.shape(), [&](index_t t) {
      const std::uint32_t limit = run.limit(x.row(t).data(), x.cols());
      if (limit >= magnitude_of_infinity) return false;
      const auto steps = symmetric_steps::of(limit, bits);
      steps_[t] = steps.step;
      run.build({.x = x.row(t).data(),
                 .count = x.cols(),
                 .inverse_step = steps.inverse_step,
                 .tables = tables_.data() + t * table_bytes(),
                 .groups = groups_});
      return steps.fits(bits);
    });
    if (bad == x.rows()) return;
    shape_ = {};
    detail::refuse_token(x.row(bad), bad);
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] unsigned bits() const noexcept { return bits_; }
  [[nodiscard]] index_t groups() const noexcept { return groups_; }
  /// Bytes from the tables of one token to those of the next.
  [[nodiscard]] index_t table_bytes() const noexcept { return groups_ * sign_table_bytes; }
  /// [groups][16] of one token; the next token follows. Aligned to 64 bytes.
  [[nodiscard]] std::span<const std::uint8_t> tables(index_t token) const noexcept {
    return tables_.span().subspan(token * table_bytes(), table_bytes());
  }
  [[nodiscard]] float step(index_t token) const noexcept { return steps_[token]; }

 private:
  shape2 shape_;
  unsigned bits_ = 8;
  index_t groups_ = 0;
  aligned_buffer<std::uint8_t> tables_;  // [token][group][16]
  aligned_buffer<float> steps_;          // [token]
};

/// Y[M, N] = X[M, K] * S[N, K]^T for signs S and quantized X, by the arithmetic of contract.hpp.
/// Overwrites y. Same bits with any variant and any number of workers. Refuses shapes that do not
/// fit (shape). `run` must read the interleave of w. Allocates nothing. Thread-safe for distinct y
/// and executors.
inline void sign_gemm(const packed_signs& w, const sign_activations& x, matrix_view<float> y,
                      const context& ctx, const sign_gemm_functions& run) {
  LOWBIT_CHECK(w.shape().cols == x.shape().cols, shape, "signs have ", w.shape().cols,
               " columns, activations ", x.shape().cols);
  LOWBIT_CHECK((y.shape() == shape2{x.shape().rows, w.shape().rows}), shape, "the product is [",
               x.shape().rows, ", ", w.shape().rows, "], the output [", y.rows(), ", ", y.cols(),
               "]");
  if (y.empty()) return;
  if (w.groups() == 0) {
    for (index_t t = 0; t < y.rows(); ++t) std::fill(y.row(t).begin(), y.row(t).end(), 0.0F);
    return;
  }
  // The tables of some tokens stay in half of the L2 cache while all rows pass.
  constexpr index_t most_tokens = 16;  // their sums take 16 KiB of stack
  constexpr index_t least_tokens = 4;  // less would read weights more often
  const index_t fitting =
      std::clamp(ctx.caches.l2 / 2 / x.table_bytes(), least_tokens, most_tokens);
  const index_t parts = div_up(x.shape().rows, fitting);
  // Whole fours, but for the last part.
  const index_t part = std::min(div_up(div_up(x.shape().rows, parts), 4) * 4, fitting);
  parallel_for(ctx, w.blocks() * parts, [&](index_t task, index_t) {
    const index_t first = task / w.blocks() * part;
    const index_t block = task % w.blocks();
    if (first >= x.shape().rows) return;
    const index_t tokens = std::min(part, x.shape().rows - first);
    alignas(64) std::array<std::int32_t, most_tokens * sign_block_tiles * sign_tile_rows> sums;
    run.block({.weights = w.block(block).data(),
               .tables = x.tables(first).data(),
               .sums = sums.data(),
               .groups = w.groups(),
               .tiles = w.tiles(block),
               .tokens = tokens,
               .table_stride = x.table_bytes(),
               .interleave = w.interleave(),
               .prefetch = ctx.prefetch_bytes});
    const std::int32_t* from = sums.data();
    for (index_t tile = 0; tile < w.tiles(block); ++tile) {
      const index_t row = (block * sign_block_tiles + tile) * sign_tile_rows;
      const index_t rows = std::min(sign_tile_rows, w.shape().rows - row);
      for (index_t t = 0; t < tokens; ++t, from += sign_tile_rows) {
        float* const out = y.row(first + t).data() + row;
        const float step = x.step(first + t);
        for (index_t r = 0; r < rows; ++r) out[r] = step * static_cast<float>(from[r]);
      }
    }
  });
}

/// The same with the best variant that ctx allows for weights packed like these.
inline void sign_gemm(const packed_signs& w, const sign_activations& x, matrix_view<float> y,
                      const context& ctx) {
  sign_gemm(w, x, y, ctx, select_sign_gemm(ctx.allowed, w.interleave()).run);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
