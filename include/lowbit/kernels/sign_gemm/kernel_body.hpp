// kernels/sign_gemm/kernel_body.hpp: what is written once for all registers. Layer L2.
//
// Included inside the target region and namespace of each SIMD variant, hence no include guard and
// no include: outside of a variant this file is empty. The variant defines the types floats and
// ints (`lanes` of 32 bits each), and
//   load_columns (below), splat, magnitude, add, subtract, multiply_add, as_ints, as_floats,
//   largest, splat_int, load_ints, store_ints, subtract_ints, shift_left<N>, shift_right<N>, select
//   (bits of the second where the first is set, else of the third), transpose (4 registers, as
//   4 x 4 matrices in each 128 bits), largest_lane,
//   interleave, most_tokens, bias (128 or 0), scale_bits, and
//   add_tile<Tokens>(weights, tables, table_stride, sums, groups, prefetch): adds at most
//   sign_chunk_groups groups of a tile, as 2^scale_bits times
//   sum of sign * (table entry - 128 + bias)
//
// Tables: load_columns(x, z) loads as many groups as there are lanes, so that element 4 q + i of
// z[j] is the column j of group i * lanes / 4 + q. Transposed within 128 bits, registers of table
// entries are then the tables of lanes / 4 groups each, in order.
#ifdef LOWBIT_SIGN_GEMM_BODY

inline constexpr index_t block_columns = sign_group_columns * lanes;

LOWBIT_ALWAYS_INLINE ints limits_of(const float* x) noexcept {
  floats z[sign_group_columns];
  load_columns(x, z);
  floats sum = magnitude(z[0]);
  LOWBIT_UNROLL
  for (index_t j = 1; j < sign_group_columns; ++j) sum = add(sum, magnitude(z[j]));
  return as_ints(sum);
}

[[nodiscard]] LOWBIT_KERNEL std::uint32_t limit(const float* x, index_t count) noexcept {
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
  floats z[sign_group_columns];
  load_columns(x, z);
  const floats sum = add(z[0], z[1]);
  const floats difference = subtract(z[0], z[1]);
  const floats three[] = {add(sum, z[2]), subtract(sum, z[2]), add(difference, z[2]),
                          subtract(difference, z[2])};
  // Sums of four for the patterns 8 .. 15, which add z3: those of three are above, or their
  // negatives. The patterns 0 .. 7 have the negatives of these.
  const floats four[] = {
      subtract(z[3], three[0]), add(z[3], three[3]), subtract(z[3], three[2]), add(z[3], three[1]),
      subtract(z[3], three[1]), add(z[3], three[2]), subtract(z[3], three[3]), add(z[3], three[0])};
  const floats shift = splat(0x1.8p23F + 128.0F);  // from here on floats are integers
  const auto quantize = [=](floats v) LOWBIT_INLINE_LAMBDA {
    return as_ints(multiply_add(v, inverse_step, shift));
  };
  floats entries[4];
  LOWBIT_UNROLL
  for (index_t i = 0; i < 2; ++i) {
    const floats* const f = four + 4 * i;
    entries[1 - i] =
        as_floats(join_bytes(quantize(subtract(z[4], f[3])), quantize(subtract(z[4], f[2])),
                             quantize(subtract(z[4], f[1])), quantize(subtract(z[4], f[0]))));
    entries[2 + i] = as_floats(join_bytes(quantize(add(z[4], f[0])), quantize(add(z[4], f[1])),
                                          quantize(add(z[4], f[2])), quantize(add(z[4], f[3]))));
  }
  transpose(entries);
  LOWBIT_UNROLL
  for (index_t j = 0; j < 4; ++j) store_ints(tables + j * 4 * lanes, as_ints(entries[j]));
}

LOWBIT_KERNEL void build(const sign_table_args& a) noexcept {
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
    weights += groups / sign_step_groups * sign_step_bytes;
  }
}

/// What sums begin with: minus the sum of sign * bias, 128 * (2 * negatives - groups), scaled.
LOWBIT_ALWAYS_INLINE void begin_sums(const sign_gemm_block_args& a) noexcept {
  const ints all = splat_int(
      static_cast<std::int32_t>(static_cast<std::uint32_t>(bias * a.groups) << scale_bits));
  for (index_t tile = 0; tile < a.tiles; ++tile) {
    std::int32_t* const sums = a.sums + tile * a.tokens * sign_tile_rows;
    for (index_t r = 0; r < sign_tile_rows; r += lanes) {
      ints first = splat_int(0);
      if constexpr (bias != 0) {
        const ints negatives = load_ints(a.weights + tile * sign_head_bytes + 4 * r);
        first = subtract_ints(shift_left<8 + scale_bits>(negatives), all);
      }
      for (index_t t = 0; t < a.tokens; ++t) store_ints(sums + t * sign_tile_rows + r, first);
    }
  }
}

/// Takes the factor 2^scale_bits from sums.
LOWBIT_ALWAYS_INLINE void end_sums(const sign_gemm_block_args& a) noexcept {
  if constexpr (scale_bits != 0) {
    for (index_t i = 0; i < a.tiles * a.tokens * sign_tile_rows; i += lanes) {
      store_ints(a.sums + i, shift_right<scale_bits>(load_ints(a.sums + i)));
    }
  }
}

LOWBIT_KERNEL void block(const sign_gemm_block_args& a) noexcept {
  begin_sums(a);
  const std::uint8_t* weights = a.weights + a.tiles * sign_head_bytes;
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
    weights += a.tiles * (groups / sign_step_groups * sign_step_bytes);
    tables += groups * sign_table_bytes;
  }
  end_sums(a);
}

#endif
