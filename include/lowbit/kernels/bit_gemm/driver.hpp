// kernels/bit_gemm/driver.hpp: packing, blocking and tails of planes x planes products. Layer L2.
//
// Baseline code: the variant is chosen once per call, and everything that depends on shapes happens
// here. Columns are cut into groups (any size; the last may be shorter), each padded to whole
// words; rows are padded to tiles of 8.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/kernels/bit_gemm/variants.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/layout/bit_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// What integer the planes of a matrix stand for.
enum class plane_encoding : std::uint8_t {
  unsigned_code,    ///< plane i counts 2^i
  twos_complement,  ///< the same, but the top plane counts negatively
  sign,             ///< one plane: a set bit is +1, a clear bit is -1
};

/// An encoding as value = step * (code - twice_zero / 2), with the code that packing leaves in the
/// planes: two's complement becomes offset binary by flipping its top plane.
struct plane_scaling {
  std::int64_t step = 1;
  std::int64_t twice_zero = 0;

  [[nodiscard]] static constexpr plane_scaling of(plane_encoding encoding,
                                                  index_t planes) noexcept {
    switch (encoding) {
      case plane_encoding::unsigned_code: break;
      case plane_encoding::twos_complement: return {1, std::int64_t{1} << planes};
      case plane_encoding::sign: return {2, 1};
    }
    return {};
  }
};

/// How `cols` columns are cut into groups, and where each group's words lie in a packed row.
class column_groups {
 public:
  column_groups() noexcept = default;
  /// `group_size` of 0 or >= cols: one group.
  column_groups(index_t cols, index_t group_size) noexcept
      : cols_(cols),
        group_size_(group_size == 0 || group_size > cols ? cols : group_size),
        count_(group_size_ == 0 ? 0 : div_up(cols, group_size_)),
        words_(div_up(group_size_, layout::word_bits)) {}

  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] index_t group_size() const noexcept { return group_size_; }
  [[nodiscard]] index_t count() const noexcept { return count_; }
  /// Words that each group takes (the last one too).
  [[nodiscard]] index_t words() const noexcept { return words_; }
  [[nodiscard]] index_t begin(index_t g) const noexcept { return g * group_size_; }
  [[nodiscard]] index_t size(index_t g) const noexcept {
    return std::min(group_size_, cols_ - begin(g));
  }

 private:
  index_t cols_ = 0;
  index_t group_size_ = 0;
  index_t count_ = 0;
  index_t words_ = 0;
};

namespace detail {

/// `count` (1..64) bits of a canonical row from column `begin` on, in the low bits of a word.
[[nodiscard]] inline std::uint64_t extract_bits(std::span<const std::uint64_t> row, index_t begin,
                                                index_t count) noexcept {
  const index_t w = begin / layout::word_bits;
  const index_t shift = begin % layout::word_bits;
  std::uint64_t bits = row[w] >> shift;
  if (shift != 0 && w + 1 < row.size()) bits |= row[w + 1] << (layout::word_bits - shift);
  return bits & layout::low_bits(count);
}

/// Where scatter_row puts the words of a row, and whether it flips the bits (never the padding).
struct scatter_target {
  std::uint64_t* out;
  index_t group_stride;  ///< words from one group to the next
  index_t word_stride;   ///< words from one word of a group to the next
  bool flip;
};

/// Cuts one canonical row into groups of groups.words() words each.
inline void scatter_row(std::span<const std::uint64_t> row, const column_groups& groups,
                        const scatter_target& target) noexcept {
  for (index_t g = 0; g < groups.count(); ++g) {
    const index_t size = groups.size(g);
    for (index_t w = 0; w * layout::word_bits < size; ++w) {
      const index_t done = w * layout::word_bits;
      const index_t count = std::min(layout::word_bits, size - done);
      const std::uint64_t bits = extract_bits(row, groups.begin(g) + done, count);
      target.out[g * target.group_stride + w * target.word_stride] =
          target.flip ? bits ^ layout::low_bits(count) : bits;
    }
  }
}

inline void check_encoding(plane_encoding encoding, index_t planes) {
  LOWBIT_CHECK(planes >= 1 && planes <= 8, shape, "bit_gemm takes 1..8 planes, not ", planes);
  LOWBIT_CHECK(encoding != plane_encoding::sign || planes == 1, shape,
               "a sign matrix has one plane, not ", planes);
}

}  // namespace detail

/// Weight planes packed for bit_gemm: [tile][group][plane][word][8 rows]. In memory only.
class packed_weight_planes {
 public:
  packed_weight_planes() noexcept = default;
  /// Packs every row. `group_size` of 0: one group. Refuses more than 8 planes, or several planes
  /// of signs (shape).
  explicit packed_weight_planes(const layout::bit_matrix& planes, index_t group_size = 0,
                                plane_encoding encoding = plane_encoding::unsigned_code)
      : packed_weight_planes(planes, {0, planes.shape().rows}, group_size, encoding) {}
  /// Packs the rows of `rows` only; row 0 of the result is rows.begin.
  packed_weight_planes(const layout::bit_matrix& planes, row_range rows, index_t group_size,
                       plane_encoding encoding)
      : rows_(rows.size()),
        planes_(planes.planes()),
        groups_(planes.shape().cols, group_size),
        scaling_(plane_scaling::of(encoding, planes_)) {
    detail::check_encoding(encoding, planes_);
    check_row_range(rows, planes.shape().rows);
    words_ = aligned_buffer<std::uint64_t>(checked_mul(tiles(), tile_words(), "packed planes"));
    if (words_.empty()) return;
    for (index_t r = 0; r < rows_; ++r) {
      for (index_t p = 0; p < planes_; ++p) {
        detail::scatter_row(
            planes.row(p, rows.begin + r), groups_,
            {.out = words_.data() + (r / bit_gemm_tile_rows) * tile_words() + p * plane_words() +
                    r % bit_gemm_tile_rows,
             .group_stride = planes_ * plane_words(),
             .word_stride = bit_gemm_tile_rows,
             .flip = encoding == plane_encoding::twos_complement && p + 1 == planes_});
      }
    }
    ones_ = aligned_buffer<std::uint32_t>(words_.size() / groups_.words());
    for (index_t word = 0; word < words_.size(); word += bit_gemm_tile_rows) {
      std::uint32_t* const ones = &ones_[word / plane_words() * bit_gemm_tile_rows];
      for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
        ones[r] += static_cast<std::uint32_t>(std::popcount(words_[word + r]));
      }
    }
  }

  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] index_t tiles() const noexcept { return div_up(rows_, bit_gemm_tile_rows); }
  [[nodiscard]] index_t planes() const noexcept { return planes_; }
  [[nodiscard]] const column_groups& groups() const noexcept { return groups_; }
  [[nodiscard]] plane_scaling scaling() const noexcept { return scaling_; }
  /// [word][8 rows] of one tile, group and plane; the next plane follows.
  [[nodiscard]] std::span<const std::uint64_t> plane(index_t tile, index_t group,
                                                     index_t plane) const noexcept {
    return words_.span().subspan(tile * tile_words() + (group * planes_ + plane) * plane_words(),
                                 plane_words());
  }
  /// Ones of one plane in one group, for the 8 rows of a tile. Counted once, when packed.
  [[nodiscard]] std::array<std::int64_t, bit_gemm_tile_rows> count_ones(
      index_t tile, index_t group, index_t plane_index) const noexcept {
    std::array<std::int64_t, bit_gemm_tile_rows> ones;
    const index_t begin =
        ((tile * groups_.count() + group) * planes_ + plane_index) * bit_gemm_tile_rows;
    for (index_t r = 0; r < bit_gemm_tile_rows; ++r) ones[r] = ones_[begin + r];
    return ones;
  }
  /// Sums of the (unsigned) codes of one group, for the 8 rows of a tile.
  [[nodiscard]] std::array<std::int64_t, bit_gemm_tile_rows> sum_codes(
      index_t tile, index_t group) const noexcept {
    std::array<std::int64_t, bit_gemm_tile_rows> sums{};
    for (index_t p = 0; p < planes_; ++p) {
      const auto ones = count_ones(tile, group, p);
      for (index_t r = 0; r < bit_gemm_tile_rows; ++r) sums[r] += ones[r] << p;
    }
    return sums;
  }

 private:
  [[nodiscard]] index_t plane_words() const noexcept {
    return groups_.words() * bit_gemm_tile_rows;
  }
  [[nodiscard]] index_t tile_words() const noexcept {
    return groups_.count() * planes_ * plane_words();
  }

  index_t rows_ = 0;
  index_t planes_ = 0;
  column_groups groups_;
  plane_scaling scaling_;
  aligned_buffer<std::uint64_t> words_;
  aligned_buffer<std::uint32_t> ones_;  // [tile][group][plane][8 rows]
};

/// Activation planes packed for bit_gemm: [token][group][plane][word]. In memory only.
class packed_activation_planes {
 public:
  packed_activation_planes() noexcept = default;
  /// Packs planes of shape [tokens, K]; refuses as packed_weight_planes does.
  explicit packed_activation_planes(const layout::bit_matrix& planes, index_t group_size = 0,
                                    plane_encoding encoding = plane_encoding::unsigned_code)
      : tokens_(planes.shape().rows),
        planes_(planes.planes()),
        groups_(planes.shape().cols, group_size),
        scaling_(plane_scaling::of(encoding, planes_)) {
    detail::check_encoding(encoding, planes_);
    words_ = aligned_buffer<std::uint64_t>(checked_mul(tokens_, stride(), "packed activations"));
    for (index_t t = 0; t < tokens_; ++t) {
      for (index_t p = 0; p < planes_; ++p) {
        detail::scatter_row(
            planes.row(p, t), groups_,
            {.out = words_.data() + t * stride() + p * groups_.words(),
             .group_stride = planes_ * groups_.words(),
             .word_stride = 1,
             .flip = encoding == plane_encoding::twos_complement && p + 1 == planes_});
      }
    }
    sums_ = aligned_buffer<std::int64_t>(tokens_ * groups_.count());
    for (index_t t = 0; t < tokens_; ++t) {
      for (index_t g = 0; g < groups_.count(); ++g) {
        const auto words = group(t, g);
        std::int64_t& sum = sums_[t * groups_.count() + g];
        for (index_t i = 0; i < words.size(); ++i) {
          sum += static_cast<std::int64_t>(std::popcount(words[i])) << (i / groups_.words());
        }
      }
    }
  }

  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] index_t planes() const noexcept { return planes_; }
  [[nodiscard]] const column_groups& groups() const noexcept { return groups_; }
  [[nodiscard]] plane_scaling scaling() const noexcept { return scaling_; }
  /// Words from one token to the next.
  [[nodiscard]] index_t stride() const noexcept {
    return groups_.count() * planes_ * groups_.words();
  }
  /// [plane][word] of one token and group.
  [[nodiscard]] std::span<const std::uint64_t> group(index_t token, index_t g) const noexcept {
    const index_t size = planes_ * groups_.words();
    return words_.span().subspan(token * stride() + g * size, size);
  }
  /// Sum of the (unsigned) codes of one token in one group. Computed once, when packed.
  [[nodiscard]] std::int64_t sum_codes(index_t token, index_t g) const noexcept {
    return sums_[token * groups_.count() + g];
  }

 private:
  index_t tokens_ = 0;
  index_t planes_ = 0;
  column_groups groups_;
  plane_scaling scaling_;
  aligned_buffer<std::uint64_t> words_;
  aligned_buffer<std::int64_t> sums_;  // [token][group]
};

/// Refuses packed operands that cannot be multiplied, or whose sums could leave the contract's
/// range.
inline void check_bit_gemm_operands(const packed_weight_planes& w,
                                    const packed_activation_planes& x) {
  LOWBIT_CHECK(w.groups().cols() == x.groups().cols(), shape, "weights have ", w.groups().cols(),
               " columns, activations ", x.groups().cols());
  LOWBIT_CHECK(w.groups().group_size() == x.groups().group_size(), shape,
               "weights are packed in groups of ", w.groups().group_size(), ", activations of ",
               x.groups().group_size());
  LOWBIT_CHECK(w.groups().group_size() < (index_t{1} << 31U), shape, "a group of ",
               w.groups().group_size(), " columns is too wide: bit_gemm takes fewer than 2^31");
}

/// Y[t, n] = sum over k of a(t, k) * w(n, k), exactly, for the integers that the planes encode.
/// Y is [tokens, rows]. Refuses shapes that do not fit (shape). Thread-safe.
inline void bit_gemm(const packed_weight_planes& w, const packed_activation_planes& x,
                     matrix_view<std::int64_t> y, const context& ctx) {
  check_bit_gemm_operands(w, x);
  LOWBIT_CHECK((y.shape() == shape2{x.tokens(), w.rows()}), shape, "the product is [", x.tokens(),
               ", ", w.rows(), "], the output [", y.rows(), ", ", y.cols(), "]");
  constexpr index_t token_block = 16;  // 1 KiB of sums: they stay in the L1 cache
  const auto run = select_bit_gemm(ctx.allowed).run;
  const plane_scaling sw = w.scaling();
  const plane_scaling sx = x.scaling();
  const std::int64_t both_zeros = sw.twice_zero * sx.twice_zero;
  parallel_for(ctx, w.tiles(), [&](index_t tile, index_t) {
    std::array<std::int64_t, token_block * bit_gemm_tile_rows> sums;
    std::array<std::int64_t, token_block * bit_gemm_tile_rows> four_times;  // stays an integer
    const index_t row = tile * bit_gemm_tile_rows;
    const index_t rows = std::min(bit_gemm_tile_rows, w.rows() - row);
    for (index_t token = 0; token < x.tokens(); token += token_block) {
      const index_t tokens = std::min(token_block, x.tokens() - token);
      four_times.fill(0);
      for (index_t g = 0; g < w.groups().count(); ++g) {
        run({.weights = w.plane(tile, g, 0).data(),
             .activations = x.group(token, g).data(),
             .sums = sums.data(),
             .words = w.groups().words(),
             .tokens = tokens,
             .activation_stride = x.stride(),
             .weight_planes = static_cast<unsigned>(w.planes()),
             .activation_planes = static_cast<unsigned>(x.planes())});
        // sum of (u - twice_zero_w / 2) * (v - twice_zero_x / 2) over the codes u of w and v of x.
        const auto w_sums = w.sum_codes(tile, g);
        const auto cols = static_cast<std::int64_t>(w.groups().size(g));
        for (index_t t = 0; t < tokens; ++t) {
          const std::int64_t x_part =
              both_zeros * cols - 2 * sw.twice_zero * x.sum_codes(token + t, g);
          for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
            const index_t i = t * bit_gemm_tile_rows + r;
            four_times[i] += 4 * sums[i] - 2 * sx.twice_zero * w_sums[r] + x_part;
          }
        }
      }
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t r = 0; r < rows; ++r) {
          y(token + t, row + r) = sw.step * sx.step * four_times[t * bit_gemm_tile_rows + r] / 4;
        }
      }
    }
  });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
