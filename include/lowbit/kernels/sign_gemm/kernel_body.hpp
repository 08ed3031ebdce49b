// kernels/sign_gemm/kernel_body.hpp: what is written once for all registers. Layer L2.
//
// Included inside the target region and namespace of each SIMD variant, hence no include guard and
// no include: outside of a variant this file is empty. The variant defines the types floats and
// ints (`lanes` of 32 bits each), and
//   load, splat, magnitude, add, subtract, multiply_add, as_ints, as_floats, largest, splat_int,
//   shift_left<N>, select (bits of the second where the first is set, else of the third),
//   negate_bytes, reverse_bytes (of each 32 bits), store_ints,
//   transpose (4 registers, as 4 x 4 matrices in each 128 bits), largest_lane,
//   interleave, most_tokens, and
//   add_tile<Tokens>(weights, tables, table_stride, sums, groups, prefetch): adds the table entries
//   (and the variant knows when to take 128 off each) of at most sign_chunk_groups groups of a tile
//
// Tables: a block is 4 registers of columns. They are transposed within 128 bits, so that register
// j holds z_j of as many groups as there are lanes, and so are the tables at the end: what that
// does to the order of groups is undone by doing it twice.
#ifdef LOWBIT_SIGN_GEMM_BODY

inline constexpr index_t block_columns = 4 * lanes;

LOWBIT_ALWAYS_INLINE ints limits_of(const float* x) noexcept {
  floats z[4];
  LOWBIT_UNROLL
  for (index_t j = 0; j < 4; ++j) z[j] = magnitude(load(x + j * lanes));
  transpose(z);
  return as_ints(add(add(add(z[0], z[1]), z[2]), z[3]));
}

[[nodiscard]] inline std::uint32_t limit(const float* x, index_t count) noexcept {
  ints found = splat_int(0);
  index_t k = 0;
  for (; k + block_columns <= count; k += block_columns) found = largest(found, limits_of(x + k));
  if (k != count) {
    float padded[block_columns] = {};
    __builtin_memcpy(padded, x + k, (count - k) * sizeof(float));
    found = largest(found, limits_of(padded));
  }
  return largest_lane(found);
}

/// The low bytes of four registers, side by side in each 32 bits.
LOWBIT_ALWAYS_INLINE ints join_bytes(ints a, ints b, ints c, ints d) noexcept {
  const ints low = select(splat_int(0x000000ff), a, shift_left<8>(b));
  const ints high = select(splat_int(0x00ff0000), shift_left<16>(c), shift_left<24>(d));
  return select(splat_int(0x0000ffff), low, high);
}

/// The tables of as many groups as there are lanes.
LOWBIT_ALWAYS_INLINE void build_block(const float* x, floats inverse_step,
                                      std::uint8_t* tables) noexcept {
  floats z[4];
  LOWBIT_UNROLL
  for (index_t j = 0; j < 4; ++j) z[j] = load(x + j * lanes);
  transpose(z);
  const floats sum = add(z[0], z[1]);
  const floats difference = subtract(z[0], z[1]);
  const floats three[] = {add(sum, z[2]), subtract(sum, z[2]), add(difference, z[2]),
                          subtract(difference, z[2])};
  const floats shift = splat(0x1.8p23F + 128.0F);  // from here on floats are integers
  const auto quantize = [=](floats v) LOWBIT_INLINE_LAMBDA {
    return as_ints(multiply_add(v, inverse_step, shift));
  };
  // Entries 8 .. 15, which add z3; the sums of the other three are those above or their negatives.
  const ints first = join_bytes(quantize(subtract(z[3], three[0])), quantize(add(z[3], three[3])),
                                quantize(subtract(z[3], three[2])), quantize(add(z[3], three[1])));
  const ints last = join_bytes(quantize(subtract(z[3], three[1])), quantize(add(z[3], three[2])),
                               quantize(subtract(z[3], three[3])), quantize(add(z[3], three[0])));
  // 128 - q is -(128 + q) as a byte.
  floats entries[] = {as_floats(reverse_bytes(negate_bytes(last))),
                      as_floats(reverse_bytes(negate_bytes(first))), as_floats(first),
                      as_floats(last)};
  transpose(entries);
  LOWBIT_UNROLL
  for (index_t j = 0; j < 4; ++j) store_ints(tables + j * 4 * lanes, as_ints(entries[j]));
}

inline void build(const sign_table_args& a) noexcept {
  const floats inverse_step = splat(a.inverse_step);
  index_t g = 0;
  const index_t whole = a.count / block_columns * lanes;
  for (; g < whole; g += lanes) {
    build_block(a.x + g * sign_group_columns, inverse_step, a.tables + g * sign_table_bytes);
  }
  for (; g < a.groups; g += lanes) {
    float padded[block_columns] = {};
    const index_t k = g * sign_group_columns;
    if (k < a.count) {
      const index_t left = a.count - k;
      __builtin_memcpy(padded, a.x + k,
                       (left < block_columns ? left : block_columns) * sizeof(float));
    }
    alignas(64) std::uint8_t tables[lanes * sign_table_bytes];
    build_block(padded, inverse_step, tables);
    const index_t left = a.groups - g;
    __builtin_memcpy(a.tables + g * sign_table_bytes, tables,
                     (left < lanes ? left : lanes) * sign_table_bytes);
  }
}

/// The rows of a block for Tokens tokens from `first` on, in one chunk.
template <index_t Tokens>
LOWBIT_ALWAYS_INLINE void add_tiles(const sign_gemm_block_args& a, const std::uint8_t* weights,
                                    const std::uint8_t* tables, index_t first, index_t groups,
                                    index_t prefetch) noexcept {
  for (index_t tile = 0; tile < a.tiles; ++tile) {
    add_tile<Tokens>(weights, tables + first * a.table_stride, a.table_stride,
                     a.sums + (tile * a.tokens + first) * sign_tile_rows, groups, prefetch);
    weights += groups / 2 * sign_tile_rows;
  }
}

inline void block(const sign_gemm_block_args& a) noexcept {
  for (index_t i = 0; i < a.tiles * a.tokens * sign_tile_rows; ++i) {
    a.sums[i] = -128 * static_cast<std::int32_t>(a.groups);
  }
  const std::uint8_t* weights = a.weights;
  const std::uint8_t* tables = a.tables;
  for (index_t g = 0; g < a.groups; g += sign_chunk_groups) {
    const index_t groups = a.groups - g < sign_chunk_groups ? a.groups - g : sign_chunk_groups;
    index_t prefetch = a.prefetch;
    index_t t = 0;
    for (; t + most_tokens <= a.tokens; t += most_tokens) {
      add_tiles<most_tokens>(a, weights, tables, t, groups, prefetch);
      prefetch = 0;  // from now on these weights are in a cache
    }
    if constexpr (most_tokens > 2) {
      if (a.tokens - t == 3) add_tiles<3>(a, weights, tables, t, groups, prefetch);
      if (a.tokens - t == 2) add_tiles<2>(a, weights, tables, t, groups, prefetch);
    }
    if (a.tokens - t == 1) add_tiles<1>(a, weights, tables, t, groups, prefetch);
    weights += a.tiles * (groups / 2 * sign_tile_rows);
    tables += groups * sign_table_bytes;
  }
}

#endif
