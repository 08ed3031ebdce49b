// kernels/code_gemm/driver.hpp: packing, blocking and tails of codes x int8 products. Layer L2.
//
// Baseline code: the variant is chosen once per call, and everything that depends on shapes happens
// here. Rows are padded to tiles of 128, columns cut into runs (kernels/runs.hpp).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/activations/driver.hpp"
#include "lowbit/kernels/code_gemm/contract.hpp"
#include "lowbit/kernels/code_gemm/variants.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/runs.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

static_assert(code_runs::max_columns == 4 * code_max_quads);

/// What a row has in a group beside its scales.
struct code_group {
  std::int32_t zero = 0;  ///< 0..255; read where the format has zeros
  float offset = 0.0F;    ///< read where the format has offsets
};

/// A matrix of codes as packed_codes reads it. Both functions are called for every row, from
/// several threads if the context has them.
struct code_rows {
  shape2 shape;
  index_t group_size = 0;  ///< columns per scale; 0: one group
  code_format format;      ///< has_wide_scales is ignored: packed_codes finds out
  /// Writes the codes of one row and plane: one byte each, below 2^bits.
  function_ref<void(index_t row, index_t plane, std::span<std::uint8_t> codes)> codes;
  /// Writes one scale per plane; one where planes share it.
  function_ref<code_group(index_t row, index_t group, std::span<float> scales)> levels;
};

namespace detail {

/// Puts the codes of one run of 128 rows (`row_stride` bytes apart) where the contract wants them.
/// Columns past `size` become 0.
inline void interleave_codes(unsigned bits, const std::uint8_t* rows, index_t row_stride,
                             index_t size, index_t quads, std::uint8_t* out) noexcept {
  for (index_t q = 0; q < quads; ++q, out += bits * code_quad_bytes) {
    const index_t left = 4 * q < size ? size - 4 * q : 0;
    const std::uint32_t mask =
        left >= 4 ? ~std::uint32_t{0} : (std::uint32_t{1} << (8 * left)) - 1U;
    for (index_t r = 0; r < 16; ++r) {
      std::array<std::uint32_t, 8> set;
      for (index_t s = 0; s < 8; ++s) {
        std::memcpy(&set[s], rows + (16 * s + r) * row_stride + 4 * q, 4);
        set[s] &= mask;
      }
      std::array<std::uint32_t, 8> lines{};
      if (bits == 3) {
        constexpr std::uint32_t ones = 0x01010101U;
        lines[0] = (set[0] << 5U) | (set[1] << 2U) | (set[6] & (3 * ones));
        lines[1] = (set[2] << 5U) | (set[3] << 2U) | (set[7] & (3 * ones));
        lines[2] = (set[4] << 5U) | (set[5] << 2U) | ((set[6] >> 2U) & ones) |
                   (((set[7] >> 2U) & ones) << 1U);
      } else {
        for (index_t s = 0; s < 8; ++s) {
          const code_place place = code_place::of(bits, 16 * s);
          lines[place.line] |= set[s] << place.shift;
        }
      }
      for (index_t line = 0; line < bits; ++line) {
        std::memcpy(out + line * code_quad_bytes + 4 * r, &lines[line], 4);
      }
    }
  }
}

[[nodiscard]] inline bool fits_half(float x) noexcept {
  return to_float(from_float<float16>(x)) == x;
}

/// out = step * sums, 16 at a time: a loop that g++ -O2 makes vectors of.
inline void store_scaled(float step, const float* sums, index_t count, float* out) noexcept {
  constexpr index_t block = 16;
  index_t i = 0;
  for (; i + block <= count; i += block) {
    float scaled[block];
    for (index_t j = 0; j < block; ++j) scaled[j] = step * sums[i + j];
    std::memcpy(out + i, scaled, sizeof scaled);
  }
  for (; i < count; ++i) out[i] = step * sums[i];
}

/// Writes one scale or offset of a row.
inline void store_real(const code_format& f, std::uint8_t* reals, index_t row, float x) noexcept {
  if (f.has_wide_scales) {
    std::memcpy(reals + 4 * row, &x, 4);
  } else {
    const std::uint16_t bits = from_float<float16>(x).bits;
    std::memcpy(reals + 2 * row, &bits, 2);
  }
}

inline void check_code_format(const code_format& f) {
  const bool bits_exist = f.bits == 1 || f.bits == 2 || f.bits == 3 || f.bits == 4 || f.bits == 8;
  LOWBIT_CHECK(bits_exist, value, "code_gemm has codes of 1, 2, 3, 4 and 8 bits, not ", f.bits);
  LOWBIT_CHECK(f.planes == 1 || (f.planes >= 1 && f.planes <= 8 && f.bits == 1), value, f.planes,
               " planes of ", f.bits, " bits: code_gemm takes one plane, or up to 8 of 1 bit");
  LOWBIT_CHECK(f.code_step == 1 || (f.code_step == 2 && f.bits == 1), value,
               "code_step = ", f.code_step, " with ", f.bits,
               " bits: it is 1, or 2 for 1-bit codes");
  LOWBIT_CHECK(f.zero >= 0 && f.zero <= 255, value, "zero = ", f.zero, " is outside 0..255");
  LOWBIT_CHECK(!f.has_zeros || (f.planes == 1 && f.code_step == 1), value,
               "zeros per group go with one plane and code_step 1");
  LOWBIT_CHECK(!f.has_book || f.bits == 4, value, "a code book goes with 4 bits, not ", f.bits);
  LOWBIT_CHECK(!f.has_ratios || f.bits == 1, value, "planes of ", f.bits,
               " bits share no scale: those of 1 bit do");
}

}  // namespace detail

/// Weight codes packed for code_gemm: [tile][run] as code_format::run_bytes() says. In memory only.
/// Reading is thread-safe.
class packed_codes {
 public:
  packed_codes() noexcept = default;
  /// Packs every row, tile by tile on ctx's executor. Refuses a format that the contract does not
  /// know (value). Scales become fp16 where that loses nothing, else fp32.
  explicit packed_codes(const code_rows& rows, const context& ctx = {})
      : shape_(rows.shape), runs_(rows.shape.cols, rows.group_size), format_(rows.format) {
    detail::check_code_format(format_);
    if (shape_.rows == 0 || shape_.cols == 0) return;
    format_.has_wide_scales = needs_wide_scales(rows);
    bytes_ = aligned_buffer<std::uint8_t>(checked_mul(tiles(), tile_bytes(), "packed codes"),
                                          huge_pages::for_all);
    parallel_for(ctx, tiles(), [&](index_t tile, index_t) { pack_tile(rows, tile); });
  }

  [[nodiscard]] shape2 shape() const noexcept { return shape_; }
  [[nodiscard]] const code_runs& runs() const noexcept { return runs_; }
  [[nodiscard]] const code_format& format() const noexcept { return format_; }
  [[nodiscard]] index_t tiles() const noexcept { return div_up(shape_.rows, code_tile_rows); }
  /// Everything a product reads, padding included.
  [[nodiscard]] index_t size_bytes() const noexcept { return bytes_.size(); }
  [[nodiscard]] std::span<const std::uint8_t> tile(index_t i) const noexcept {
    return bytes_.span().subspan(i * tile_bytes(), tile_bytes());
  }

 private:
  [[nodiscard]] index_t tile_bytes() const noexcept {
    return runs_.count() * format_.run_bytes(runs_.quads());
  }

  [[nodiscard]] index_t scales_per_group() const noexcept {
    return format_.has_ratios ? 1 : format_.planes;
  }

  [[nodiscard]] bool needs_wide_scales(const code_rows& rows) const {
    std::array<float, 8> scales;
    const std::span<float> used(scales.data(), scales_per_group());
    for (index_t r = 0; r < shape_.rows; ++r) {
      for (index_t g = 0; g < runs_.groups(); ++g) {
        const code_group group = rows.levels(r, g, used);
        for (const float s : used) {
          if (!detail::fits_half(s)) return true;
        }
        if (format_.has_offsets && !detail::fits_half(group.offset)) return true;
      }
    }
    return false;
  }

  void pack_tile(const code_rows& rows, index_t tile) {
    const index_t first = tile * code_tile_rows;
    const index_t count = std::min(code_tile_rows, shape_.rows - first);
    const index_t quads = runs_.quads();
    const index_t run_bytes = format_.run_bytes(quads);
    const index_t row_stride =
        runs_.cols() + 4;  // a load of 4 bytes at the last column stays inside
    aligned_buffer<std::uint8_t> codes(code_tile_rows * row_stride);
    std::uint8_t* const out = bytes_.data() + tile * tile_bytes();
    for (index_t p = 0; p < format_.planes; ++p) {
      for (index_t r = 0; r < count; ++r) {
        rows.codes(first + r, p, codes.span().subspan(r * row_stride, runs_.cols()));
      }
      for (index_t g = 0; g < runs_.count(); ++g) {
        // Runs that end before their room does read past the row here; the mask drops that.
        const index_t size = runs_.size(g);
        detail::interleave_codes(format_.bits, codes.data() + runs_.begin(g), row_stride, size,
                                 div_up(size, 4), out + g * run_bytes + format_.codes_at(p, quads));
      }
    }
    std::array<float, 8> scales{};
    const std::span<float> used(scales.data(), scales_per_group());
    for (index_t g = 0; g < runs_.count(); ++g) {
      std::uint8_t* const run = out + g * run_bytes;
      std::uint8_t* const zeros = run + format_.zeros_at(quads);
      std::uint8_t* const offsets = run + format_.offsets_at(quads);
      for (index_t r = 0; r < count; ++r) {
        const code_group group = rows.levels(first + r, runs_.group(g), used);
        for (index_t p = 0; p < used.size(); ++p) {
          detail::store_real(format_, run + format_.scales_at(p, quads), r, used[p]);
        }
        if (format_.has_zeros) zeros[r] = static_cast<std::uint8_t>(group.zero);
        if (format_.has_offsets) detail::store_real(format_, offsets, r, group.offset);
      }
    }
  }

  shape2 shape_;
  code_runs runs_;
  code_format format_;
  aligned_buffer<std::uint8_t> bytes_;
};

/// Y[M, N] = X[M, K] * W[N, K]^T for quantized X and W, by the arithmetic of contract.hpp; a step
/// per token multiplies the sum at the end. Overwrites y. Same bits with any variant and any number
/// of workers. Refuses shapes and runs that do not fit (shape). Thread-safe for distinct y,
/// executors and workspaces.
inline void code_gemm(const packed_codes& w, const int8_activations& x, matrix_view<float> y,
                      const context& ctx, code_gemm_tile_fn run) {
  LOWBIT_CHECK(w.shape().cols == x.runs().cols(), shape, "weights have ", w.shape().cols,
               " columns, activations ", x.runs().cols());
  LOWBIT_CHECK(w.runs() == x.runs(), shape, "weights are packed in groups of ",
               w.runs().group_size(), ", activations of ", x.runs().group_size());
  LOWBIT_CHECK((y.shape() == shape2{x.tokens(), w.shape().rows}), shape, "the product is [",
               x.tokens(), ", ", w.shape().rows, "], the output [", y.rows(), ", ", y.cols(), "]");
  if (y.empty()) return;
  // The activations and sums of a block of tokens take a third of the L2 cache while the tiles
  // pass: with half of it 192 tokens cost more than 96, with a quarter 128 do.
  const code_runs& runs = w.runs();
  const index_t token_bytes = runs.count() * x.run_bytes() + code_tile_rows * sizeof(float);
  const index_t fitting = std::max<index_t>(ctx.caches.l2 / 3 / token_bytes, 48);
  const index_t blocks = div_up(x.tokens(), fitting);
  const index_t block_tokens = div_up(x.tokens(), blocks);
  workspace own;
  workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  constexpr index_t stack_tokens = 8;  // a GEMV allocates nothing
  if (block_tokens > stack_tokens) {
    scratch.reserve(workers(ctx), block_tokens * code_tile_rows * sizeof(float));
  }
  parallel_for(ctx, w.tiles() * blocks, [&](index_t task, index_t worker) {
    const index_t tile = task / blocks;
    const index_t first = task % blocks * block_tokens;
    const index_t row = tile * code_tile_rows;
    const index_t rows = std::min(code_tile_rows, w.shape().rows - row);
    alignas(64) std::array<float, stack_tokens * code_tile_rows> few;
    float* const sums = block_tokens > stack_tokens
                            ? reinterpret_cast<float*>(scratch.slot(worker).data())
                            : few.data();
    if (first >= x.tokens()) return;
    const index_t tokens = std::min(block_tokens, x.tokens() - first);
    if (runs.count() != 0) {
      std::fill_n(sums, tokens * code_tile_rows, 0.0F);
      run({.weights = w.tile(tile).data(),
           .activations = x.codes(0).data() + first * x.run_bytes(),
           .sums = x.sums(0).data() + first,
           .steps = x.per_group() ? x.steps(0).data() + first : nullptr,
           .y = sums,
           .runs = runs.count(),
           .quads = runs.quads(),
           .tokens = tokens,
           .activation_stride = x.run_stride(),
           .sum_stride = x.tokens(),
           .prefetch = ctx.prefetch_bytes,
           .format = &w.format()});
    }
    for (index_t t = 0; t < tokens; ++t) {
      float* const out = y.row(first + t).data() + row;
      const float* const sum = sums + t * code_tile_rows;
      if (runs.count() == 0) {
        std::fill_n(out, rows, 0.0F);
      } else if (x.per_group()) {
        std::copy_n(sum, rows, out);
      } else {
        detail::store_scaled(x.steps(0)[first + t], sum, rows, out);
      }
    }
  });
}

/// The same with the best variant that ctx allows.
inline void code_gemm(const packed_codes& w, const int8_activations& x, matrix_view<float> y,
                      const context& ctx) {
  code_gemm(w, x, y, ctx, select_code_gemm(ctx.allowed).run);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
