// kernels/bit_gemm/driver.hpp: packing, blocking and tails of planes x planes products. Layer L2.
//
// Baseline code: the variant is chosen once per call, and everything that depends on shapes happens
// here. Columns are cut into groups (any size; the last may be shorter), each padded to whole
// words; rows are padded to tiles of 8.
//
// Blocking (shapes decide, never the number of workers): a task is a few tiles of rows; in it, a
// block of tokens meets every tile before the next block comes, so that weights are read once per
// block of tokens from the L2 cache, and activations once per tile from the L1 or L2 cache. Runs
// longer than a block of words are cut, so that the tokens of a block share a part of the weights
// while it is in the L1 or L2 cache; activations of such runs still come once per tile.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/bit_gemm/contract.hpp"
#include "lowbit/kernels/bit_gemm/variants.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/layout/bit_matrix.hpp"
#include "lowbit/linalg/simd.hpp"

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

/// Reads the groups of a canonical row, word by word, padding cleared. `flip` flips the bits of the
/// columns (never the padding).
class group_reader {
 public:
  group_reader() noexcept = default;
  group_reader(std::span<const std::uint64_t> row, const column_groups& groups, bool flip) noexcept
      : row_(row), groups_(&groups), flip_(flip ? ~std::uint64_t{0} : 0) {}

  /// Word `word` of group g, where the group has a column in it.
  [[nodiscard]] std::uint64_t operator()(index_t g, index_t word) const noexcept {
    const index_t done = word * layout::word_bits;
    const index_t count = std::min(layout::word_bits, groups_->size(g) - done);
    const std::uint64_t bits = extract_bits(row_, groups_->begin(g) + done, count);
    return (bits ^ flip_) & layout::low_bits(count);
  }
  /// Whole words of group g, unchanged in memory but for the flip; only if words_are_aligned(g).
  [[nodiscard]] const std::uint64_t* words(index_t g) const noexcept {
    return row_.data() + groups_->begin(g) / layout::word_bits;
  }
  [[nodiscard]] std::uint64_t flip() const noexcept { return flip_; }

 private:
  std::span<const std::uint64_t> row_;
  const column_groups* groups_ = nullptr;
  std::uint64_t flip_ = 0;
};

/// How many leading words of group g lie in the canonical words as they are.
[[nodiscard]] inline index_t aligned_words(const column_groups& groups, index_t g) noexcept {
  return groups.begin(g) % layout::word_bits == 0 ? groups.size(g) / layout::word_bits : 0;
}

/// Words of group g that have a column.
[[nodiscard]] inline index_t used_words(const column_groups& groups, index_t g) noexcept {
  return div_up(groups.size(g), layout::word_bits);
}

/// The number of ones in each byte. (std::popcount is a call of a table's look-ups where the
/// build's flags have no such instruction.)
[[nodiscard]] constexpr std::uint64_t count_bytes(std::uint64_t x) noexcept {
  x -= (x >> 1U) & 0x5555555555555555U;
  x = (x & 0x3333333333333333U) + ((x >> 2U) & 0x3333333333333333U);
  return (x + (x >> 4U)) & 0x0f0f0f0f0f0f0f0fU;
}

/// The sum of the bytes of a word.
[[nodiscard]] constexpr std::uint64_t fold_bytes(std::uint64_t x) noexcept {
  x = (x & 0x00ff00ff00ff00ffU) + ((x >> 8U) & 0x00ff00ff00ff00ffU);
  return (x * 0x0001000100010001U) >> 48U;
}

inline constexpr index_t max_byte_counts = 31;  // of at most 8, that a byte takes

/// Adds to ones[lane] the ones of `words` words of each of `Lanes` lanes, [words][Lanes].
template <index_t Lanes, class Count>
inline void add_ones(const std::uint64_t* words, index_t count, Count* ones) noexcept {
  for (index_t begin = 0; begin < count; begin += max_byte_counts) {
    const index_t end = std::min(count, begin + max_byte_counts);
    std::array<std::uint64_t, Lanes> bytes{};
    for (index_t k = begin; k < end; ++k) {
      for (index_t r = 0; r < Lanes; ++r) bytes[r] += count_bytes(words[k * Lanes + r]);
    }
    for (index_t r = 0; r < Lanes; ++r) ones[r] += static_cast<Count>(fold_bytes(bytes[r]));
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
    ones_ = aligned_buffer<std::uint32_t>(words_.size() / groups_.words());
    for (index_t tile = 0; tile < tiles(); ++tile) {
      const index_t first = tile * bit_gemm_tile_rows;
      const index_t count = std::min(bit_gemm_tile_rows, rows_ - first);
      for (index_t p = 0; p < planes_; ++p) {
        const bool flip = encoding == plane_encoding::twos_complement && p + 1 == planes_;
        std::array<detail::group_reader, bit_gemm_tile_rows> readers;
        for (index_t r = 0; r < count; ++r) {
          readers[r] = {planes.row(p, rows.begin + first + r), groups_, flip};
        }
        for (index_t g = 0; g < groups_.count(); ++g) {
          const index_t at = (tile * groups_.count() + g) * planes_ + p;
          std::uint64_t* const out = words_.data() + at * plane_words();
          pack_rows({readers.data(), count}, g, out);
          detail::add_ones<bit_gemm_tile_rows>(out, groups_.words(),
                                               ones_.data() + at * bit_gemm_tile_rows);
        }
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
  /// Writes one group of one plane of up to 8 rows side by side.
  void pack_rows(std::span<const detail::group_reader> rows, index_t g,
                 std::uint64_t* out) const noexcept {
    const index_t aligned = detail::aligned_words(groups_, g);
    if (rows.size() == bit_gemm_tile_rows && aligned != 0) {
      std::array<const std::uint64_t*, bit_gemm_tile_rows> in;
      for (index_t r = 0; r < bit_gemm_tile_rows; ++r) in[r] = rows[r].words(g);
      const std::uint64_t flip = rows[0].flip();
      for (index_t w = 0; w < aligned; ++w) {
        for (index_t r = 0; r < bit_gemm_tile_rows; ++r) {
          out[w * bit_gemm_tile_rows + r] = in[r][w] ^ flip;
        }
      }
    } else {
      for (index_t r = 0; r < rows.size(); ++r) {
        for (index_t w = 0; w < aligned; ++w) {
          out[w * bit_gemm_tile_rows + r] = rows[r].words(g)[w] ^ rows[r].flip();
        }
      }
    }
    for (index_t w = aligned; w < detail::used_words(groups_, g); ++w) {
      for (index_t r = 0; r < rows.size(); ++r) out[w * bit_gemm_tile_rows + r] = rows[r](g, w);
    }
  }
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
    sums_ = aligned_buffer<std::int64_t>(tokens_ * groups_.count());
    const index_t plane_words = groups_.words();
    for (index_t t = 0; t < tokens_; ++t) {
      for (index_t p = 0; p < planes_; ++p) {
        const bool flip = encoding == plane_encoding::twos_complement && p + 1 == planes_;
        const detail::group_reader reader(planes.row(p, t), groups_, flip);
        for (index_t g = 0; g < groups_.count(); ++g) {
          std::uint64_t* const out = words_.data() + t * stride() + (g * planes_ + p) * plane_words;
          const index_t aligned = detail::aligned_words(groups_, g);
          const std::uint64_t* const in = reader.words(g);
          for (index_t w = 0; w < aligned; ++w) out[w] = in[w] ^ reader.flip();
          for (index_t w = aligned; w < detail::used_words(groups_, g); ++w) out[w] = reader(g, w);
          std::int64_t ones = 0;
          detail::add_ones<1>(out, plane_words, &ones);
          sums_[t * groups_.count() + g] += ones << p;
        }
      }
    }
  }

  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] index_t planes() const noexcept { return planes_; }
  [[nodiscard]] const column_groups& groups() const noexcept { return groups_; }
  [[nodiscard]] plane_scaling scaling() const noexcept { return scaling_; }
  /// Words from one token to the next. From a cache line of 8 words on, an odd number of lines, so
  /// that the same word of several tokens does not fall into one set of a cache.
  [[nodiscard]] index_t stride() const noexcept {
    constexpr index_t line = 8;
    const index_t dense = groups_.count() * planes_ * groups_.words();
    return dense < 8 * line ? dense : (div_up(dense, line) | 1U) * line;
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

namespace detail {

/// How bit_gemm cuts a product. Depends on shapes only.
struct bit_gemm_blocks {
  static constexpr index_t max_tokens = 16;
  static constexpr index_t max_tiles = 16;
  static constexpr index_t activation_bytes = index_t{128} << 10;  // of a block: L2 cache
  static constexpr index_t weight_bytes = index_t{256} << 10;      // of a task's tiles: L2 cache

  index_t tiles;  ///< of a task
  index_t words;  ///< of a cut of a run

  bit_gemm_blocks(const packed_weight_planes& w, const packed_activation_planes& x) noexcept {
    const index_t token_bytes = 8 * max_tokens * std::max(x.planes(), index_t{1});
    words = std::max(std::min(w.groups().words(), activation_bytes / token_bytes), index_t{1});
    const index_t tile_bytes =
        w.groups().count() * w.groups().words() * w.planes() * bit_gemm_tile_rows * 8;
    // At least 8 tasks, if there are 8 tiles, for executors with several workers.
    const index_t fitting = weight_bytes / std::max(tile_bytes, index_t{1});
    tiles = std::max(std::min({fitting, max_tiles, w.tiles() / 8}), index_t{1});
  }
};

/// What encodings add to a product of codes: y = (sum << shift) + row + token.
///
///   su sv sum (u - zu/2) (v - zv/2) = su sv (sum u v - zv/2 sum u - zu/2 sum v + K zu zv / 4)
///
/// Both corrections are integers: a factor su = 2 comes with every odd zu, and zu = 2^b otherwise.
class encoding_correction {
 public:
  encoding_correction(const packed_weight_planes& w, const packed_activation_planes& x) noexcept
      : w_(w), x_(x), step_(w.scaling().step * x.scaling().step) {}

  [[nodiscard]] int shift() const noexcept { return step_ == 4 ? 2 : step_ == 2 ? 1 : 0; }
  [[nodiscard]] std::array<std::int64_t, bit_gemm_tile_rows> row(index_t tile) const noexcept {
    std::array<std::int64_t, bit_gemm_tile_rows> total{};
    const std::int64_t zero = x_.scaling().twice_zero;
    if (zero == 0) return total;
    for (index_t g = 0; g < w_.groups().count(); ++g) {
      const auto sums = w_.sum_codes(tile, g);
      for (index_t r = 0; r < bit_gemm_tile_rows; ++r) total[r] += sums[r];
    }
    for (std::int64_t& sum : total) sum = -(step_ * zero * sum) / 2;
    return total;
  }
  [[nodiscard]] std::int64_t token(index_t t) const noexcept {
    const std::int64_t zero = w_.scaling().twice_zero;
    if (zero == 0) return 0;
    std::int64_t sum = 0;
    for (index_t g = 0; g < x_.groups().count(); ++g) sum += x_.sum_codes(t, g);
    const auto cols = static_cast<std::int64_t>(w_.groups().cols());
    return step_ * zero * (x_.scaling().twice_zero * cols - 2 * sum) / 4;
  }

 private:
  const packed_weight_planes& w_;
  const packed_activation_planes& x_;
  std::int64_t step_;
};

/// The last step of a tile: y = (sum << shift) + of_row + of_token for some tokens, `stride` apart
/// in y. `sums` is aligned to 64 bytes. (Registers from end to end: a copy through an array stalls
/// on store forwarding for longer than a short run takes.)
inline void correct_tile(const std::int64_t* sums, int shift, const std::int64_t* of_row,
                         std::span<const std::int64_t> of_token, std::int64_t* y,
                         index_t stride) noexcept {
  using batch = linalg::simd_batch<std::int64_t>;
  for (const std::int64_t token : of_token) {
    for (index_t r = 0; r < bit_gemm_tile_rows; r += batch::size) {
      batch sum = batch::load_aligned(sums + r);
      for (int i = 0; i < shift; ++i) sum = sum + sum;  // g++ 12 warns of its own 512-bit shift
      (sum + (batch::load_unaligned(of_row + r) + batch(token))).store_unaligned(y + r);
    }
    sums += bit_gemm_tile_rows;
    y += stride;
  }
}

/// The sums of one tile and some tokens over every group, cut into blocks of words.
inline void sum_tile(const packed_weight_planes& w, const packed_activation_planes& x, index_t tile,
                     row_range tokens, index_t block_words, bit_gemm_tile_fn run,
                     std::int64_t* totals) noexcept {
  const index_t size = tokens.size() * bit_gemm_tile_rows;
  const index_t words = w.groups().words();
  alignas(64) std::array<std::int64_t, bit_gemm_blocks::max_tokens * bit_gemm_tile_rows> part;
  bool first = true;
  for (index_t g = 0; g < w.groups().count(); ++g) {
    for (index_t word = 0; word < words; word += block_words) {
      run({.weights = w.plane(tile, g, 0).data() + word * bit_gemm_tile_rows,
           .activations = x.group(tokens.begin, g).data() + word,
           .sums = first ? totals : part.data(),
           .words = std::min(block_words, words - word),
           .tokens = tokens.size(),
           .activation_stride = x.stride(),
           .weight_planes = static_cast<unsigned>(w.planes()),
           .activation_planes = static_cast<unsigned>(x.planes()),
           .plane_words = words});
      for (index_t i = 0; !first && i < size; ++i) totals[i] += part[i];
      first = false;
    }
  }
  if (first) std::fill_n(totals, size, std::int64_t{0});
}

}  // namespace detail

/// Y[t, n] = sum over k of a(t, k) * w(n, k), exactly, for the integers that the planes encode. Y
/// is [tokens, rows]. Refuses shapes that do not fit (shape). Thread-safe.
inline void bit_gemm(const packed_weight_planes& w, const packed_activation_planes& x,
                     matrix_view<std::int64_t> y, const context& ctx) {
  check_bit_gemm_operands(w, x);
  LOWBIT_CHECK((y.shape() == shape2{x.tokens(), w.rows()}), shape, "the product is [", x.tokens(),
               ", ", w.rows(), "], the output [", y.rows(), ", ", y.cols(), "]");
  using blocks_type = detail::bit_gemm_blocks;
  const auto run = select_bit_gemm(ctx.allowed).run;
  const blocks_type blocks(w, x);
  const detail::encoding_correction correction(w, x);
  const int shift = correction.shift();
  parallel_for(ctx, div_up(w.tiles(), blocks.tiles), [&](index_t task, index_t) {
    const index_t first_tile = task * blocks.tiles;
    const index_t tiles = std::min(blocks.tiles, w.tiles() - first_tile);
    alignas(64) std::array<std::int64_t, blocks_type::max_tokens * bit_gemm_tile_rows> sums;
    std::array<std::array<std::int64_t, bit_gemm_tile_rows>, blocks_type::max_tiles> of_row;
    std::array<std::int64_t, blocks_type::max_tokens> of_token{};
    for (index_t i = 0; i < tiles; ++i) of_row[i] = correction.row(first_tile + i);
    for (index_t token = 0; token < x.tokens(); token += blocks_type::max_tokens) {
      const row_range tokens{token, std::min(token + blocks_type::max_tokens, x.tokens())};
      for (index_t t = 0; t < tokens.size(); ++t) of_token[t] = correction.token(token + t);
      for (index_t i = 0; i < tiles; ++i) {
        detail::sum_tile(w, x, first_tile + i, tokens, blocks.words, run, sums.data());
        const index_t row = (first_tile + i) * bit_gemm_tile_rows;
        const index_t rows = std::min(bit_gemm_tile_rows, w.rows() - row);
        const std::span of_tokens(of_token.data(), tokens.size());
        if (rows == bit_gemm_tile_rows) {
          detail::correct_tile(sums.data(), shift, of_row[i].data(), of_tokens, &y(token, row),
                               y.row_stride());
          continue;
        }
        std::array<std::int64_t, blocks_type::max_tokens * bit_gemm_tile_rows> padded;
        detail::correct_tile(sums.data(), shift, of_row[i].data(), of_tokens, padded.data(),
                             bit_gemm_tile_rows);
        for (index_t t = 0; t < tokens.size(); ++t) {
          std::copy_n(padded.data() + t * bit_gemm_tile_rows, rows, &y(token + t, row));
        }
      }
    }
  });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
