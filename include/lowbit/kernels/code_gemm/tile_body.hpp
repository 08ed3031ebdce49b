// kernels/code_gemm/tile_body.hpp: the tile function, written once for all registers. Layer L2.
//
// Included inside the target region and namespace of each SIMD variant, hence no include guard and
// no include: outside of a variant this file is empty. The variant defines the types bytes, ints,
// floats, partial, the constants and the small functions that avx512_vnni.hpp and avx2.hpp show.
//
//  * Few tokens: codes are unpacked in registers and multiplied at once. Where a dot product takes
//    any byte (VNNI), the fields of a byte are not shifted into place, nor even cleared above:
//    sums over the low 2, 4, 6, 8 bits are kept and subtracted once per run.
//  * More tokens: half a run (64 rows) is unpacked to bytes in the L1 cache and multiplied with
//    blocks of tokens whose sums stay in registers.
#ifdef LOWBIT_CODE_GEMM_TILE_BODY

/// f(0), f(1), ..., f(Count - 1) with constants, as straight code: arrays of registers indexed by
/// them stay in registers with every compiler and level, which unrolled loops do not promise.
template <index_t... I, class Function>
LOWBIT_ALWAYS_INLINE void repeat_each(std::index_sequence<I...>, Function f) noexcept {
  (f(std::integral_constant<index_t, I>{}), ...);
}
template <index_t Count, class Function>
LOWBIT_ALWAYS_INLINE void repeat(Function f) noexcept {
  repeat_each(std::make_index_sequence<Count>{}, f);
}

inline constexpr index_t parts = 64 / vector_bytes;  // registers of a line
inline constexpr index_t vector_rows = vector_bytes / 4;
inline constexpr index_t half_rows = code_tile_rows / 2;
static_assert(block_tokens >= 3 && few_tokens >= 1, "no block of several tokens may have one");

/// What codes are: the formats of the contract, as compile-time constants.
enum class code_kind { bit, sign, two_bits, three_bits, four_bits, book, byte };

[[nodiscard]] constexpr unsigned bits_of(code_kind kind) noexcept {
  switch (kind) {
    case code_kind::bit:
    case code_kind::sign: return 1;
    case code_kind::two_bits: return 2;
    case code_kind::three_bits: return 3;
    case code_kind::four_bits:
    case code_kind::book: return 4;
    case code_kind::byte: break;
  }
  return 8;
}

template <unsigned Bits>
LOWBIT_ALWAYS_INLINE void prefetch_lines(const std::uint8_t* p) noexcept {
  LOWBIT_UNROLL
  for (index_t i = 0; i < Bits; ++i) {
    __builtin_prefetch(p + 64 * i);
  }
}

/// Whether codes may exceed what partial sums take.
template <code_kind Kind>
inline constexpr bool is_wide = (Kind == code_kind::byte || Kind == code_kind::book) &&
                                !dot_takes_any_byte;

/// The codes of 4 columns of sets 4 * Half .. 4 * Half + 3, for the rows of one register of each.
/// `p` is where the register's share of the quad begins.
template <code_kind Kind, unsigned Half>
LOWBIT_ALWAYS_INLINE void unpack(const std::uint8_t* p, book_table table, bytes* codes) noexcept {
  constexpr unsigned Bits = bits_of(Kind);
  if constexpr (Bits == 8) {
    LOWBIT_UNROLL
    for (index_t i = 0; i < 4; ++i) {
      codes[i] = load(p + (4 * Half + i) * 64);
    }
  } else if constexpr (Bits == 4) {
    const bytes mask = splat(15);
    LOWBIT_UNROLL
    for (index_t i = 0; i < 2; ++i) {
      const bytes line = load(p + (2 * Half + i) * 64);
      codes[2 * i] = both(line, mask);
      codes[2 * i + 1] = both(shift_right<4>(line), mask);
      if constexpr (Kind == code_kind::book) {
        codes[2 * i] = look_up(table, codes[2 * i]);
        codes[2 * i + 1] = look_up(table, codes[2 * i + 1]);
      }
    }
  } else if constexpr (Bits == 2) {
    const bytes mask = splat(3);
    const bytes line = load(p + Half * 64);
    codes[0] = both(line, mask);
    codes[1] = both(shift_right<2>(line), mask);
    codes[2] = both(shift_right<4>(line), mask);
    codes[3] = both(shift_right<6>(line), mask);
  } else if constexpr (Bits == 1) {
    const bytes mask = splat(1);
    const bytes line = load(p);
    codes[0] = both(Half == 0 ? line : shift_right<4>(line), mask);
    codes[1] = both(shift_right<4 * Half + 1>(line), mask);
    codes[2] = both(shift_right<4 * Half + 2>(line), mask);
    codes[3] = both(shift_right<4 * Half + 3>(line), mask);
    if constexpr (Kind == code_kind::sign) {  // code_step: 2 for +1, 0 for -1, zero is 1
      LOWBIT_UNROLL
      for (index_t i = 0; i < 4; ++i) {
        codes[i] = shift_left<1>(codes[i]);
      }
    }
  } else {
    static_assert(Bits == 3);
    const bytes mask = splat(7);
    const bytes a = load(p);
    const bytes b = load(p + 64);
    const bytes c = load(p + 128);
    if constexpr (Half == 0) {
      codes[0] = both(shift_right<5>(a), mask);
      codes[1] = both(shift_right<2>(a), mask);
      codes[2] = both(shift_right<5>(b), mask);
      codes[3] = both(shift_right<2>(b), mask);
    } else {
      codes[0] = both(shift_right<5>(c), mask);
      codes[1] = both(shift_right<2>(c), mask);
      codes[2] = either(both(a, splat(3)), both(shift_left<2>(c), splat(4)));
      codes[3] = either(both(b, splat(3)), both(shift_left<1>(c), splat(4)));
    }
  }
}

// What the end of a run has to look at is decided once per call: Plain formats, the common ones,
// have fp16 scales, no zeros per row and no steps per run. Branches there would cost a tenth of the
// time.

/// Scales or offsets of the rows of one register.
template <bool Plain>
LOWBIT_ALWAYS_INLINE floats load_reals(const code_format& f, const std::uint8_t* reals,
                                       index_t row) noexcept {
  if (Plain || !f.has_wide_scales) return load_halves(reals + 2 * row);
  return load_floats(reinterpret_cast<const float*>(reals) + row);
}

/// The scales of a plane: 1-bit codes only have a ratio other than 1.
template <code_kind Kind, bool Plain>
LOWBIT_ALWAYS_INLINE floats load_scales(const code_format& f, const std::uint8_t* scales,
                                        index_t row, float ratio) noexcept {
  const floats scale = load_reals<Plain>(f, scales, row);
  if constexpr (bits_of(Kind) == 1) return times(scale, splat_float(ratio));
  return scale;
}

/// What V of one token has beside the sum over codes and, where zeros are per row, beside theirs:
/// sums begin with it.
template <bool Wide>
LOWBIT_ALWAYS_INLINE std::int32_t base_of(const code_format& f, std::int32_t sum) noexcept {
  return ((Wide ? wide_bias : 0) - (f.has_zeros ? 0 : f.zero)) * sum;
}

/// V from a sum that began with base_of().
template <bool Plain>
LOWBIT_ALWAYS_INLINE ints finish(const code_format& f, ints dots, const std::uint8_t* zeros,
                                 std::int32_t sum) noexcept {
  if (Plain || !f.has_zeros) return dots;
  return subtract(dots, multiply(load_bytes_as_ints(zeros), splat_int(sum)));
}

/// scale, times the step of a token where there is one per run.
template <bool Plain>
LOWBIT_ALWAYS_INLINE floats with_step(floats scale, const float* steps, index_t token) noexcept {
  if (Plain || steps == nullptr) return scale;
  return times(scale, splat_float(steps[token]));
}

/// y += scale * v, in the contract's order of operations.
LOWBIT_ALWAYS_INLINE void add_scaled(floats scale, ints v, float* y) noexcept {
  store_floats(y, fused(scale, to_floats(v), load_floats(y)));
}

/// y += offset * sum for `count` rows from `row` on and some tokens, after a run's last plane.
inline void add_offsets(const code_format& f, const std::uint8_t* offsets, index_t row,
                        index_t count, const std::int32_t* sums, const float* steps, index_t tokens,
                        float* y) noexcept {
  for (const index_t end = row + count; row < end; row += vector_rows) {
    const floats offset = load_reals<false>(f, offsets, row);
    for (index_t t = 0; t < tokens; ++t) {
      add_scaled(with_step<false>(offset, steps, t), splat_int(sums[t]),
                 y + t * code_tile_rows + row);
    }
  }
}

// Few tokens --------------------------------------------------------------------------------------

/// Sums of one register of each set, any tier.
template <code_kind Kind, index_t Tokens>
LOWBIT_ALWAYS_INLINE void multiply_tokens(const std::uint8_t* codes, index_t quads,
                                          const std::int8_t* x, index_t prefetch, book_table table,
                                          index_t part, const std::int32_t (&base)[Tokens],
                                          ints (&dots)[Tokens][8]) noexcept {
  constexpr bool direct = partial_steps == 0 || is_wide<Kind>;
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    LOWBIT_UNROLL
    for (index_t s = 0; s < 8; ++s) {
      dots[t][s] = splat_int(base[t]);
    }
  }
  const std::uint8_t* p = codes + part * vector_bytes;
  index_t q = 0;
  do {
    const index_t end = direct || q + partial_steps >= quads ? quads : q + partial_steps;
    partial narrow[Tokens][8];
    if constexpr (!direct) {
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        LOWBIT_UNROLL
        for (index_t s = 0; s < 8; ++s) {
          narrow[t][s] = zero_partial();
        }
      }
    }
    do {
      if (part == 0) prefetch_lines<bits_of(Kind)>(p + prefetch);
      bytes sets[8];
      unpack<Kind, 0>(p, table, sets);
      unpack<Kind, 1>(p, table, sets + 4);
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        const bytes quad = broadcast_quad(x + 4 * (t * quads + q));
        LOWBIT_UNROLL
        for (index_t s = 0; s < 8; ++s) {
          if constexpr (direct) {
            dots[t][s] = dot(dots[t][s], sets[s], quad);
          } else {
            narrow[t][s] = dot_partial(narrow[t][s], sets[s], quad);
          }
        }
      }
      p += code_quad_bytes * bits_of(Kind);
    } while (++q < end);
    if constexpr (!direct) {
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        LOWBIT_UNROLL
        for (index_t s = 0; s < 8; ++s) {
          dots[t][s] = widen(dots[t][s], narrow[t][s]);
        }
      }
    }
  } while (q < quads);
}

/// Whether the common start of all sets is added to them at the end of a run, or every sum over
/// fields begins with so much of it that it comes out once in every difference. The latter takes a
/// number of its own for each field of a line: measured, too many with 1 and 3 bits.
template <code_kind Kind>
inline constexpr bool base_comes_last = bits_of(Kind) == 1 || bits_of(Kind) == 3;

/// Sums of sets 0 .. Set out of sums over the low fields of the bytes. Signs count double: one
/// shift less, or a sum more.
template <code_kind Kind, index_t Set>
LOWBIT_ALWAYS_INLINE void resolve(const ints* sums, ints* dots) noexcept {
  constexpr unsigned bits = bits_of(Kind);
  constexpr index_t field = Set % (8 / bits);
  if constexpr (field == 0) {
    dots[Set] = Kind == code_kind::sign ? add(sums[Set], sums[Set]) : sums[Set];
  } else {
    constexpr index_t shift = Kind == code_kind::sign ? field - 1 : field * bits;
    dots[Set] = shift_right_int<shift>(subtract(sums[Set], sums[Set - 1]));
  }
  if constexpr (Set > 0) resolve<Kind, Set - 1>(sums, dots);
}

/// The same for 3-bit codes, whose sums are those over A & 3, A & 31, A, B & 3, B & 31, B, C & 1,
/// C & 3, C & 31, C for the lines A, B, C.
LOWBIT_ALWAYS_INLINE void resolve_3_bits(const ints* sums, ints* dots) noexcept {
  dots[0] = shift_right_int<5>(subtract(sums[2], sums[1]));
  dots[1] = shift_right_int<2>(subtract(sums[1], sums[0]));
  dots[2] = shift_right_int<5>(subtract(sums[5], sums[4]));
  dots[3] = shift_right_int<2>(subtract(sums[4], sums[3]));
  dots[4] = shift_right_int<5>(subtract(sums[9], sums[8]));
  dots[5] = shift_right_int<2>(subtract(sums[8], sums[7]));
  const ints twice = add(sums[6], sums[6]);
  dots[6] = add(sums[0], add(twice, twice));
  const ints high = subtract(sums[7], sums[6]);  // twice the sum over bit 1
  dots[7] = add(sums[3], add(high, high));
}

/// Which sum over low fields: of which line, over which bits, and how often the common start is in
/// it.
template <unsigned Bits>
inline constexpr index_t field_count = Bits == 3 ? 10 : 8;
template <unsigned Bits>
LOWBIT_ALWAYS_INLINE constexpr index_t line_of(index_t field) noexcept {
  if (Bits == 3) return field < 9 ? field / 3 : 2;
  return field * Bits / 8;
}
template <unsigned Bits>
LOWBIT_ALWAYS_INLINE constexpr unsigned mask_of(index_t field) noexcept {
  constexpr unsigned masks[] = {3, 31, 255, 3, 31, 255, 1, 3, 31, 255};
  if (Bits == 3) return masks[field];
  return (1U << (field % (8 / Bits) + 1) * Bits) - 1U;
}
template <code_kind Kind>
LOWBIT_ALWAYS_INLINE constexpr std::int32_t starts_of(index_t field) noexcept {
  constexpr unsigned bits = bits_of(Kind);
  if (base_comes_last<Kind>) return 0;
  std::int32_t sum = 1;
  for (index_t below = field % (8 / bits); below > 0; --below) sum = (sum << bits) + 1;
  return sum;
}

/// The same as multiply_tokens where a dot product takes any byte.
template <code_kind Kind, index_t Tokens>
LOWBIT_ALWAYS_INLINE void multiply_in_place(const std::uint8_t* codes, index_t quads,
                                            const std::int8_t* x, index_t prefetch, index_t part,
                                            const std::int32_t (&base)[Tokens],
                                            ints (&dots)[Tokens][8]) noexcept {
  constexpr unsigned Bits = bits_of(Kind);
  constexpr index_t fields = field_count<Bits>;
  ints sums[Tokens][fields];
  repeat<Tokens>([&](auto t) LOWBIT_INLINE_LAMBDA {
    repeat<fields>(
        [&](auto i) LOWBIT_INLINE_LAMBDA { sums[t][i] = splat_int(base[t] * starts_of<Kind>(i)); });
  });
  const std::uint8_t* p = codes + part * vector_bytes;
  index_t q = 0;
  do {
    if (part == 0) prefetch_lines<Bits>(p + prefetch);
    bytes quad[Tokens];
    repeat<Tokens>([&](auto t)
                       LOWBIT_INLINE_LAMBDA { quad[t] = broadcast_quad(x + 4 * (t * quads + q)); });
    repeat<Bits>([&](auto line) LOWBIT_INLINE_LAMBDA {
      const bytes whole = in_register(load(p + 64 * line));
      repeat<fields>([&](auto i) LOWBIT_INLINE_LAMBDA {
        if constexpr (line_of<Bits>(i) == line) {
          constexpr unsigned mask = mask_of<Bits>(i);
          const bytes low = mask == 255 ? whole : both(whole, splat(mask));
          repeat<Tokens>([&](auto t)
                             LOWBIT_INLINE_LAMBDA { sums[t][i] = dot(sums[t][i], low, quad[t]); });
        }
      });
    });
    p += code_quad_bytes * Bits;
  } while (++q < quads);
  repeat<Tokens>([&](auto t) LOWBIT_INLINE_LAMBDA {
    if constexpr (Bits == 3) {
      resolve_3_bits(sums[t], dots[t]);
    } else {
      resolve<Kind, 7>(sums[t], dots[t]);
    }
    if constexpr (base_comes_last<Kind>) {
      const ints start = splat_int(base[t]);
      repeat<8>([&](auto s) LOWBIT_INLINE_LAMBDA { dots[t][s] = add(dots[t][s], start); });
    }
  });
}

/// The same for sets 4 * Half .. 4 * Half + 3 only, where these are whole lines: half the sums, so
/// that twice as many tokens share the ANDs.
template <code_kind Kind, unsigned Half, index_t Tokens>
LOWBIT_ALWAYS_INLINE void multiply_half_in_place(const std::uint8_t* codes, index_t quads,
                                                 const std::int8_t* x, index_t prefetch,
                                                 index_t part, const std::int32_t (&base)[Tokens],
                                                 ints (&dots)[Tokens][4]) noexcept {
  constexpr unsigned bits = bits_of(Kind);
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    repeat<4>([&](auto i) LOWBIT_INLINE_LAMBDA {
      dots[t][i] = splat_int(base[t] * starts_of<Kind>(4 * Half + i));
    });
  }
  const std::uint8_t* p = codes + part * vector_bytes;
  index_t q = 0;
  do {
    if (Half == 0 && part == 0) prefetch_lines<bits>(p + prefetch);
    bytes low[4];
    repeat<4>([&](auto i) LOWBIT_INLINE_LAMBDA {
      constexpr unsigned mask = mask_of<bits>(4 * Half + i);
      const bytes line = load(p + 64 * line_of<bits>(4 * Half + i));
      low[i] = mask == 255 ? line : both(line, splat(mask));
    });
    LOWBIT_UNROLL
    for (index_t t = 0; t < Tokens; ++t) {
      const bytes quad = broadcast_quad(x + 4 * (t * quads + q));
      LOWBIT_UNROLL
      for (index_t i = 0; i < 4; ++i) dots[t][i] = dot(dots[t][i], low[i], quad);
    }
    p += code_quad_bytes * bits;
  } while (++q < quads);
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    repeat<3>([&](auto i) LOWBIT_INLINE_LAMBDA {  // from the top: each takes the one below
      constexpr index_t set = 3 - i;
      constexpr index_t field = set % (8 / bits);
      if constexpr (field != 0) {
        dots[t][set] = shift_right_int<field * bits>(subtract(dots[t][set], dots[t][set - 1]));
      }
    });
  }
}

/// Prefetches a share of the stream that the loop over codes skips.
LOWBIT_ALWAYS_INLINE void prefetch_reals(const std::uint8_t* reals, index_t size) noexcept {
  for (index_t i = 0; i < size; i += 64) __builtin_prefetch(reals + i);
}

/// Adds sets First .. First + Sets - 1 (all 8, or a half by multiply_half_in_place) of plane p of
/// one run for Tokens tokens. x, sums, steps, y: of the first of them. Not inlined: with the
/// caller's variables around, g++ 12 spills registers of the inner loop.
template <code_kind Kind, bool Plain, index_t First, index_t Sets, index_t Tokens>
__attribute__((noinline)) void add_sets(const code_gemm_tile_args& a, const std::uint8_t* run,
                                        index_t p, const std::int8_t* x, const std::int32_t* sums,
                                        const float* steps, float* y) noexcept {
  const code_format& f = *a.format;
  const std::uint8_t* const scales = run + f.scales_at(p, a.quads);
  const std::uint8_t* const codes = run + f.codes_at(p, a.quads);
  const std::uint8_t* const zeros = run + f.zeros_at(a.quads);
  const float ratio = f.ratio(p);  // once: stores to y might change what `f` refers to
  if (First == 0 && (p == 0 || !f.has_ratios)) prefetch_reals(scales + a.prefetch, f.scale_bytes());
  std::int32_t base[Tokens];
  for (index_t t = 0; t < Tokens; ++t) base[t] = base_of<is_wide<Kind>>(f, sums[t]);
  for (index_t part = 0; part < parts; ++part) {
    ints dots[Tokens][Sets];
    if constexpr (Sets == 4) {
      multiply_half_in_place<Kind, First / 4>(codes, a.quads, x, a.prefetch, part, base, dots);
    } else if constexpr (dot_takes_any_byte && Kind != code_kind::book) {
      multiply_in_place<Kind>(codes, a.quads, x, a.prefetch, part, base, dots);
    } else {
      multiply_tokens<Kind>(codes, a.quads, x, a.prefetch, load_table(f.book), part, base, dots);
    }
    LOWBIT_UNROLL
    for (index_t s = 0; s < Sets; ++s) {
      const index_t row = (First + s) * 16 + part * vector_rows;
      const floats scale = load_scales<Kind, Plain>(f, scales, row, ratio);
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        add_scaled(with_step<Plain>(scale, steps, t),
                   finish<Plain>(f, dots[t][s], zeros + row, sums[t]),
                   y + t * code_tile_rows + row);
      }
    }
  }
}

/// Tokens [token, token + Tokens) of a call.
template <code_kind Kind, bool Plain, index_t Tokens>
inline void tile_of_few_tokens(const code_gemm_tile_args& a, index_t token) noexcept {
  const code_format& f = *a.format;
  const index_t run_bytes = f.run_bytes(a.quads);
  float* const y = a.y + token * code_tile_rows;
  const std::uint8_t* run = a.weights;
  for (index_t g = 0; g < a.runs; ++g, run += run_bytes) {
    const std::int8_t* const x = a.activations + g * a.activation_stride + token * 4 * a.quads;
    const std::int32_t* const sums = a.sums + g * a.sum_stride + token;
    const float* const steps = a.steps == nullptr ? nullptr : a.steps + g * a.sum_stride + token;
    for (index_t p = 0; p < f.planes; ++p) {
      if constexpr (Tokens > 3) {
        add_sets<Kind, Plain, 0, 4, Tokens>(a, run, p, x, sums, steps, y);
        add_sets<Kind, Plain, 4, 4, Tokens>(a, run, p, x, sums, steps, y);
      } else {
        add_sets<Kind, Plain, 0, 8, Tokens>(a, run, p, x, sums, steps, y);
      }
    }
    const index_t zeros_at = f.zeros_at(a.quads);
    prefetch_reals(run + zeros_at + a.prefetch, run_bytes - zeros_at);
    if (f.has_offsets) {
      add_offsets(f, run + f.offsets_at(a.quads), 0, code_tile_rows, sums, steps, Tokens, y);
    }
  }
}

// Several tokens ----------------------------------------------------------------------------------
// A panel is what is unpacked at a time: half the rows of one or more segments. A segment is one
// plane of one run. As many segments go into a panel as keep its bytes within max_quads, so that
// sums in floats stay in the L1 cache from one segment to the next.

/// Unpacks half a segment. panel: [quad][64 rows][4 columns], bytes.
template <code_kind Kind, unsigned Half>
inline void unpack_half(const std::uint8_t* codes, index_t quads, index_t prefetch,
                        book_table table, std::uint8_t* panel) noexcept {
  for (index_t q = 0; q < quads;
       ++q, codes += code_quad_bytes * bits_of(Kind), panel += 4 * half_rows) {
    prefetch_lines<bits_of(Kind)>(codes + prefetch);
    for (index_t part = 0; part < parts; ++part) {
      bytes sets[4];
      unpack<Kind, Half>(codes + part * vector_bytes, table, sets);
      LOWBIT_UNROLL
      for (index_t s = 0; s < 4; ++s) {
        store(panel + s * 64 + part * vector_bytes, sets[s]);
      }
    }
  }
}

/// Adds one segment of a panel, block_vectors registers of rows, for Tokens tokens.
/// codes, scales, zeros, y: of the first of these rows; x, sums, steps: of the first token.
template <bool Wide, bool Plain, index_t Tokens>
LOWBIT_ALWAYS_INLINE void multiply_block(const code_format& f, const std::uint8_t* codes,
                                         index_t quads, const std::int8_t* x,
                                         const std::int32_t* sums, const float* steps,
                                         const float* scales, const std::uint8_t* zeros,
                                         float* y) noexcept {
  constexpr bool direct = partial_steps == 0 || Wide;
  ints dots[Tokens][block_vectors];
  LOWBIT_UNROLL
  for (index_t t = 0; t < Tokens; ++t) {
    const ints start = splat_int(base_of<Wide>(f, sums[t]));
    LOWBIT_UNROLL
    for (index_t v = 0; v < block_vectors; ++v) {
      dots[t][v] = start;
    }
  }
  if constexpr (direct) {
    index_t q = 0;
    do {
      bytes rows[block_vectors];
      LOWBIT_UNROLL
      for (index_t v = 0; v < block_vectors; ++v) {
        rows[v] = load(codes + v * vector_bytes);
      }
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        const bytes quad = broadcast_quad(x + 4 * (t * quads + q));
        LOWBIT_UNROLL
        for (index_t v = 0; v < block_vectors; ++v) {
          dots[t][v] = dot(dots[t][v], rows[v], quad);
        }
      }
      codes += 4 * half_rows;
    } while (++q < quads);
  } else {
    for (index_t q = 0; q < quads;) {
      partial narrow[Tokens][block_vectors];
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        LOWBIT_UNROLL
        for (index_t v = 0; v < block_vectors; ++v) {
          narrow[t][v] = zero_partial();
        }
      }
      const index_t end = q + partial_steps >= quads ? quads : q + partial_steps;
      for (; q < end; ++q, codes += 4 * half_rows) {
        bytes rows[block_vectors];
        LOWBIT_UNROLL
        for (index_t v = 0; v < block_vectors; ++v) {
          rows[v] = load(codes + v * vector_bytes);
        }
        LOWBIT_UNROLL
        for (index_t t = 0; t < Tokens; ++t) {
          const bytes quad = broadcast_quad(x + 4 * (t * quads + q));
          LOWBIT_UNROLL
          for (index_t v = 0; v < block_vectors; ++v) {
            narrow[t][v] = dot_partial(narrow[t][v], rows[v], quad);
          }
        }
      }
      LOWBIT_UNROLL
      for (index_t t = 0; t < Tokens; ++t) {
        LOWBIT_UNROLL
        for (index_t v = 0; v < block_vectors; ++v) {
          dots[t][v] = widen(dots[t][v], narrow[t][v]);
        }
      }
    }
  }
  LOWBIT_UNROLL
  for (index_t v = 0; v < block_vectors; ++v) {
    const index_t row = v * vector_rows;
    const floats scale = load_floats(scales + row);
    LOWBIT_UNROLL
    for (index_t t = 0; t < Tokens; ++t) {
      add_scaled(with_step<Plain>(scale, steps, t),
                 finish<Plain>(f, dots[t][v], zeros + row, sums[t]), y + t * code_tile_rows + row);
    }
  }
}

/// Adds all segments of a panel for `count` tokens, at most Tokens. `rows` is the first row of the
/// half, `segment` the first segment.
template <bool Wide, bool Plain, index_t Tokens>
inline void multiply_panel(const code_gemm_tile_args& a, const std::uint8_t* panel,
                           const float* scales, index_t segment, index_t segments, index_t rows,
                           index_t token, index_t count) noexcept {
  if constexpr (Tokens > 2) {  // blocks of nearly equal size never have one token
    if (count < Tokens) {
      return multiply_panel<Wide, Plain, Tokens - 1>(a, panel, scales, segment, segments, rows,
                                                     token, count);
    }
  }
  const code_format& f = *a.format;
  const index_t quads = a.quads;
  const index_t run_bytes = f.run_bytes(quads);
  float* const y = a.y + token * code_tile_rows + rows;
  for (index_t s = 0; s < segments; ++s) {
    const index_t run = (segment + s) / f.planes;
    const std::uint8_t* const stream = a.weights + run * run_bytes;
    const std::uint8_t* const zeros = stream + f.zeros_at(quads) + rows;
    const std::int8_t* const x = a.activations + run * a.activation_stride + token * 4 * quads;
    const std::int32_t* const sums = a.sums + run * a.sum_stride + token;
    const float* const steps = a.steps == nullptr ? nullptr : a.steps + run * a.sum_stride + token;
    for (index_t row = 0; row < half_rows; row += block_vectors * vector_rows) {
      multiply_block<Wide, Plain, Tokens>(f, panel + (s * quads * half_rows + row) * 4, quads, x,
                                          sums, steps, scales + s * half_rows + row, zeros + row,
                                          y + row);
    }
    if (f.has_offsets && (segment + s + 1) % f.planes == 0) {
      add_offsets(f, stream + f.offsets_at(quads), rows, half_rows, sums, steps, Tokens, y - rows);
    }
  }
}

template <code_kind Kind, bool Plain>
inline void tile_of_many_tokens(const code_gemm_tile_args& a) noexcept {
  alignas(64) std::uint8_t panel[code_max_quads * 4 * half_rows];
  alignas(64) float scales[code_max_quads * half_rows];
  const code_format& f = *a.format;
  const index_t run_bytes = f.run_bytes(a.quads);
  const book_table table = load_table(f.book);
  // Rare formats have smaller blocks: less code to compile.
  constexpr index_t most = Plain && !is_wide<Kind> ? block_tokens
                           : block_tokens < 3      ? block_tokens
                                                   : 3;
  const index_t blocks = (a.tokens + most - 1) / most;
  const index_t segments = a.runs * f.planes;
  const index_t panel_segments = code_max_quads / a.quads;
  for (index_t first = 0; first < segments; first += panel_segments) {
    const index_t rest = segments - first;
    const index_t count = panel_segments < rest ? panel_segments : rest;
    for (index_t half = 0; half < 2; ++half) {
      for (index_t s = 0; s < count; ++s) {
        const std::uint8_t* const run = a.weights + (first + s) / f.planes * run_bytes;
        const index_t p = (first + s) % f.planes;
        for (index_t row = 0; row < half_rows; row += vector_rows) {
          store_floats(scales + s * half_rows + row,
                       load_scales<Kind, Plain>(f, run + f.scales_at(p, a.quads),
                                                half * half_rows + row, f.ratio(p)));
        }
        const std::uint8_t* const codes = run + f.codes_at(p, a.quads);
        std::uint8_t* const to = panel + s * a.quads * half_rows * 4;
        if (half == 0) {
          unpack_half<Kind, 0>(codes, a.quads, a.prefetch, table, to);
        } else {
          unpack_half<Kind, 1>(codes, a.quads, a.prefetch, table, to);
        }
      }
      // Blocks of nearly equal size: 7 tokens are 4 + 3, not 6 + 1.
      for (index_t block = 0, token = 0; block < blocks; ++block) {
        const index_t tokens = (a.tokens - token + blocks - block - 1) / (blocks - block);
        multiply_panel<is_wide<Kind>, Plain, most>(a, panel, scales, first, count, half * half_rows,
                                                   token, tokens);
        token += tokens;
      }
    }
  }
}

/// How many tokens go through tile_of_few_tokens together, and how many at most in all (measured,
/// see README). Halves of 2, 4 and 8 bits are whole lines, so twice as many fit; 3-bit codes need
/// 10 sums a token, look-ups 8 more registers.
template <code_kind Kind, bool Plain>
inline constexpr index_t at_once = !few_share_unpacking || !Plain                             ? 1
                                   : Kind == code_kind::three_bits || Kind == code_kind::book ? 2
                                   : bits_of(Kind) == 1                                       ? 3
                                                                                              : 6;
template <code_kind Kind, bool Plain>
inline constexpr index_t few = at_once<Kind, Plain> == 2   ? 4
                               : at_once<Kind, Plain> != 6 ? few_tokens
                               : Kind == code_kind::byte   ? ~index_t{0}  // nothing to unpack
                                                           : 48;

/// Calls tile_of_few_tokens with `count` tokens, at most Tokens.
template <code_kind Kind, bool Plain, index_t Tokens>
inline void tile_of_tokens(const code_gemm_tile_args& a, index_t token, index_t count) noexcept {
  if constexpr (Tokens > 1) {
    if (count < Tokens) return tile_of_tokens<Kind, Plain, Tokens - 1>(a, token, count);
  }
  tile_of_few_tokens<Kind, Plain, Tokens>(a, token);
}

template <code_kind Kind, bool Plain>
inline void tile_of_kind(const code_gemm_tile_args& a) noexcept {
  if (a.tokens > few<Kind, Plain>) return tile_of_many_tokens<Kind, Plain>(a);
  constexpr index_t most = at_once<Kind, Plain>;
  index_t blocks = (a.tokens + most - 1) / most;
  for (index_t token = 0; blocks > 0; --blocks) {  // of nearly equal size: 4 are 2 + 2, not 3 + 1
    const index_t count = (a.tokens - token + blocks - 1) / blocks;
    tile_of_tokens<Kind, Plain, most>(a, token, count);
    token += count;
  }
}

template <code_kind Kind>
inline void tile_of_kind(const code_gemm_tile_args& a) noexcept {
  [[maybe_unused]] const code_format& f = *a.format;
  if constexpr (has_plain_path) {
    if (a.steps == nullptr && !f.has_zeros && !f.has_wide_scales) {
      return tile_of_kind<Kind, true>(a);
    }
  }
  tile_of_kind<Kind, false>(a);
}

inline void tile(const code_gemm_tile_args& a) noexcept {
  const code_format& f = *a.format;
  switch (f.bits) {
    case 1:
      return f.code_step == 1 ? tile_of_kind<code_kind::bit>(a) : tile_of_kind<code_kind::sign>(a);
    case 2: return tile_of_kind<code_kind::two_bits>(a);
    case 3: return tile_of_kind<code_kind::three_bits>(a);
    case 4:
      return f.has_book ? tile_of_kind<code_kind::book>(a) : tile_of_kind<code_kind::four_bits>(a);
    default: return tile_of_kind<code_kind::byte>(a);
  }
}

#endif
