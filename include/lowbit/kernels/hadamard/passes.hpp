// kernels/hadamard/passes.hpp: both functions of the contract, written once for all registers.
// Layer L2.
//
// Included inside the namespace (and target region) of each SIMD variant, hence no include guard
// and no include: outside of a variant this file is empty. The variant defines
//   vec, lanes, log2_lanes   a register of `lanes` floats
//   max_registers            what a pass over memory holds of x, as a power of two
//   block_outputs            rows of a block of `mix`: 8 or 4
//   load, store, load_part, store_part, splat, add, subtract, multiply, multiply_add
//   mixes_fma                whether half of the differences are computed as fma(b, -1, a)
//   in_register(x)           x as an unknown in a register (where mixes_fma)
//   lane_constants(vec*), lane_stage<S>(x, constants)   the stage of distance 2^S in a register
//   flip(x, bits)            changes the sign of lane i where bit i of an integer is set
//   flip_at<Offset>(x, words)   by the bits from Offset on, a multiple of `lanes`, of words
//   expand_signs(byte, out)  +-1 for each bit of a byte
//
// A block goes through memory once per 2^max_registers elements' worth of stages: the first pass
// does the stages inside registers and the first ones between them, each later one as many as its
// registers hold. Blocks above what half of an L1 cache holds are cut into such that it does.
#ifdef LOWBIT_HADAMARD_PASSES

/// f(0), f(1), ..., f(Count - 1) with constants, as straight code: arrays of registers indexed by
/// them stay in registers.
template <index_t... I, class Function>
LOWBIT_ALWAYS_INLINE void repeat_each(std::index_sequence<I...>,
                                      [[maybe_unused]] Function f) noexcept {
  (f(std::integral_constant<index_t, I>{}), ...);
}
template <index_t Count, class Function>
LOWBIT_ALWAYS_INLINE void repeat(Function f) noexcept {
  repeat_each(std::make_index_sequence<Count>{}, f);
}

inline constexpr unsigned log2_in_cache = 12;  // 2^12 floats: 16 KiB
/// Passes over more than that: their rows lie a multiple of 16 KiB apart, hence in one set of the
/// L1 cache, of which there are 8 lines or more.
inline constexpr unsigned max_far_registers = 3;
inline constexpr unsigned max_near_registers = max_registers;

/// x, of which the compiler knows no more than its type: neither that a factor is -1, so that a
/// product is a sum, nor that a pointer is another one's multiple of a stride away, so that it
/// needs a register of its own.
template <class T>
LOWBIT_ALWAYS_INLINE T hidden_register(T x) noexcept {
  if constexpr (std::is_pointer_v<T> || std::is_integral_v<T>) {
    __asm__("" : "+r"(x));
  } else if constexpr (mixes_fma) {
    x = in_register(x);
  }
  return x;
}

/// The stages between registers, of distance Half = 1, 2, ... below Count registers. Adders and
/// multipliers are units of their own (Zen) or the adders are the scarce ones (Haswell), so that
/// some differences go through the latter: which ones is measured (README.md).
template <index_t Count, index_t Half = 1>
LOWBIT_ALWAYS_INLINE void register_stages(vec* r, vec minus) noexcept {
  if constexpr (Half < Count) {
    repeat<Count / 2>([&](auto i) LOWBIT_INLINE_LAMBDA {
      constexpr index_t low = i / Half * 2 * Half + i % Half;
      const vec a = r[low];
      const vec b = r[low + Half];
      r[low] = add(a, b);
      if constexpr (mixes_fma && Count > 4 && (Half == 1 || i % 2 == 0)) {
        r[low + Half] = multiply_add(b, minus, a);
      } else {
        r[low + Half] = subtract(a, b);
      }
    });
    register_stages<Count, 2 * Half>(r, minus);
  }
}

/// The first Stages stages inside each of Count registers, stage by stage.
template <unsigned Stages, index_t Count>
LOWBIT_ALWAYS_INLINE void lane_stages(vec* r, const vec* constants) noexcept {
  repeat<Stages>([&](auto s) LOWBIT_INLINE_LAMBDA {
    repeat<Count>([&](auto i) LOWBIT_INLINE_LAMBDA { r[i] = lane_stage<s>(r[i], constants); });
  });
}

/// The signs from any element on; only the first one's word is read.
LOWBIT_ALWAYS_INLINE std::uint64_t sign_bits(const std::uint64_t* signs, index_t element) noexcept {
  return signs[element / 64] >> (element % 64);
}

/// Changes the signs of Count registers, First and following of those that lie one after the other
/// from `element` on.
template <index_t First, index_t Count>
LOWBIT_ALWAYS_INLINE void flip_registers(vec* r, const std::uint64_t* signs, index_t element,
                                         std::bool_constant<true> /*begins a word*/) noexcept {
  const std::uint64_t* const words = signs + element / 64;
  repeat<Count>([&](auto i)
                    LOWBIT_INLINE_LAMBDA { r[i] = flip_at<(First + i) * lanes>(r[i], words); });
}
template <index_t First, index_t Count>
LOWBIT_ALWAYS_INLINE void flip_registers(vec* r, const std::uint64_t* signs, index_t element,
                                         std::bool_constant<false>) noexcept {
  repeat<Count>([&](auto i) LOWBIT_INLINE_LAMBDA {
    r[i] = flip(r[i], sign_bits(signs, element + (First + i) * lanes));
  });
}

/// `tiles` tiles of 2^LogRegisters registers, one after the other; element is where they begin
/// among those that have signs. Not inlined, like strided_pass(): measured (README.md).
template <unsigned LogRegisters, bool SignsBefore>
__attribute__((noinline)) void contiguous_pass(const hadamard_blocks_args& a, const float* x,
                                               float* y, index_t tiles, index_t element,
                                               bool is_last) noexcept {
  constexpr index_t count = index_t{1} << LogRegisters;
  constexpr index_t tile = count * lanes;
  constexpr index_t group = count < 8 ? count : 8;  // as many as wait for each other and no more
  constexpr std::bool_constant<tile % 64 == 0> in_words;
  vec constants[log2_lanes];
  lane_constants(constants);
  const vec scale = splat(a.scale);
  const vec minus = hidden_register(splat(-1.0F));
  for (index_t t = 0; t < tiles; ++t, x += tile, y += tile, element += tile) {
    vec r[count];
    repeat<count / group>([&](auto g) LOWBIT_INLINE_LAMBDA {
      constexpr index_t first = g * group;
      repeat<group>([&](auto i)
                        LOWBIT_INLINE_LAMBDA { r[first + i] = load(x + (first + i) * lanes); });
      if constexpr (SignsBefore) {
        flip_registers<first, group>(r + first, a.signs_before, element, in_words);
      }
      lane_stages<log2_lanes, group>(r + first, constants);
    });
    register_stages<count>(r, minus);
    if (is_last) {
      repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA { r[i] = multiply(r[i], scale); });
      if (a.signs_after != nullptr) {
        flip_registers<0, count>(r, a.signs_after, element, in_words);
      }
    }
    repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA { store(y + i * lanes, r[i]); });
  }
}
template <unsigned LogRegisters>
LOWBIT_ALWAYS_INLINE void contiguous_pass(const hadamard_blocks_args& a, const float* x, float* y,
                                          index_t tiles, index_t element, bool is_last) noexcept {
  if (a.signs_before != nullptr) {
    contiguous_pass<LogRegisters, true>(a, x, y, tiles, element, is_last);
  } else {
    contiguous_pass<LogRegisters, false>(a, x, y, tiles, element, is_last);
  }
}

/// The stages of distance stride, 2 * stride, ..., 2^(LogRegisters - 1) * stride of `size`
/// elements.
template <unsigned LogRegisters, bool SignsAfter>
__attribute__((noinline)) void strided_pass(const hadamard_blocks_args& a, float* y, index_t size,
                                            index_t stride, index_t element,
                                            bool is_last) noexcept {
  constexpr index_t count = index_t{1} << LogRegisters;
  constexpr index_t fours = (count + 3) / 4;  // pointers, 4 strides apart
  const vec scale = splat(a.scale);
  const vec minus = hidden_register(splat(-1.0F));
  const index_t three = hidden_register(3 * stride);
  for (index_t begin = 0; begin < size; begin += count * stride) {
    float* rows[fours];
    repeat<fours>([&](auto f) LOWBIT_INLINE_LAMBDA {
      rows[f] = hidden_register(y + begin + 4 * f * stride);
    });
    const auto row = [&](auto i) LOWBIT_INLINE_LAMBDA {
      return rows[i / 4] + (i % 4 == 3 ? three : i % 4 * stride);
    };
    for (index_t c = 0; c < stride; c += lanes) {
      vec r[count];
      repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA { r[i] = load(row(i)); });
      register_stages<count>(r, minus);
      if (is_last) {
        repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA { r[i] = multiply(r[i], scale); });
        if constexpr (SignsAfter) {
          repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA {
            r[i] = flip(r[i], sign_bits(a.signs_after, element + begin + c + i * stride));
          });
        }
      }
      repeat<count>([&](auto i) LOWBIT_INLINE_LAMBDA { store(row(i), r[i]); });
      repeat<fours>([&](auto f) LOWBIT_INLINE_LAMBDA { rows[f] += lanes; });
    }
  }
}

template <unsigned LogRegisters>
LOWBIT_ALWAYS_INLINE void strided_pass(const hadamard_blocks_args& a, float* y, index_t size,
                                       index_t stride, index_t element, bool is_last) noexcept {
  if (is_last && a.signs_after != nullptr) {
    strided_pass<LogRegisters, true>(a, y, size, stride, element, true);
  } else {
    strided_pass<LogRegisters, false>(a, y, size, stride, element, is_last);
  }
}

/// Calls f with the constant that `value` is, at most Max.
template <unsigned Max, class Function>
LOWBIT_ALWAYS_INLINE void with_constant(unsigned value, Function f) noexcept {
  if constexpr (Max == 0) {
    f(std::integral_constant<unsigned, 0>{});
  } else if (value == Max) {
    f(std::integral_constant<unsigned, Max>{});
  } else {
    with_constant<Max - 1>(value, f);
  }
}

/// The stages of distance 2^from ... 2^(to - 1) of 2^to elements.
template <unsigned Max>
inline void strided_passes(const hadamard_blocks_args& a, float* y, unsigned from, unsigned to,
                           index_t element, bool is_last) noexcept {
  while (from < to) {
    const unsigned passes = (to - from + Max - 1) / Max;
    const unsigned registers = (to - from + passes - 1) / passes;
    with_constant<Max - 1>(registers - 1, [&](auto less) LOWBIT_INLINE_LAMBDA {
      strided_pass<less + 1>(a, y, index_t{1} << to, index_t{1} << from, element,
                             is_last && passes == 1);
    });
    from += registers;
  }
}

inline void turn_block(const hadamard_blocks_args& a, index_t block) noexcept {
  const unsigned near = a.log2_size < log2_in_cache ? a.log2_size : log2_in_cache;
  const unsigned first = near < log2_lanes + max_registers ? near : log2_lanes + max_registers;
  const index_t size = index_t{1} << a.log2_size;
  const float* const x = a.x + block * size;
  float* const y = a.y + block * a.y_stride;
  for (index_t begin = 0; begin < size; begin += index_t{1} << near) {
    const index_t element = block * size + begin;
    with_constant<max_registers>(first - log2_lanes, [&](auto registers) LOWBIT_INLINE_LAMBDA {
      contiguous_pass<registers>(a, x + begin, y + begin, index_t{1} << (near - first), element,
                                 first == a.log2_size);
    });
    strided_passes<max_near_registers>(a, y + begin, first, near, element, near == a.log2_size);
  }
  strided_passes<max_far_registers>(a, y, near, a.log2_size, block * size, true);
}

/// Blocks smaller than a register, which lie without gaps: a register of them at a time.
template <unsigned Stages>
inline void turn_small_blocks(const hadamard_blocks_args& a) noexcept {
  vec constants[log2_lanes];
  lane_constants(constants);
  const vec scale = splat(a.scale);
  const index_t size = a.count << Stages;
  const auto turn = [&](vec x, index_t element) LOWBIT_INLINE_LAMBDA {
    if (a.signs_before != nullptr) x = flip(x, sign_bits(a.signs_before, element));
    lane_stages<Stages, 1>(&x, constants);
    x = multiply(x, scale);
    return a.signs_after != nullptr ? flip(x, sign_bits(a.signs_after, element)) : x;
  };
  index_t i = 0;
  for (; i + lanes <= size; i += lanes) store(a.y + i, turn(load(a.x + i), i));
  if (i < size) store_part(a.y + i, turn(load_part(a.x + i, size - i), i), size - i);
}

inline void turn_blocks(const hadamard_blocks_args& a) noexcept {
  if (a.log2_size < log2_lanes) {
    with_constant<log2_lanes - 1>(
        a.log2_size, [&](auto stages) LOWBIT_INLINE_LAMBDA { turn_small_blocks<stages>(a); });
    return;
  }
  if (a.log2_size <= log2_lanes + max_registers && a.y_stride == index_t{1} << a.log2_size) {
    with_constant<max_registers>(a.log2_size - log2_lanes,
                                 [&](auto registers) LOWBIT_INLINE_LAMBDA {
                                   contiguous_pass<registers>(a, a.x, a.y, a.count, 0, true);
                                 });
    return;
  }
  for (index_t block = 0; block < a.count; ++block) turn_block(a, block);
}

/// Inputs whose signs are made at a time: 8 KiB of them.
inline constexpr index_t mix_inputs = 256;

/// Inputs [begin, begin + count) of Outputs outputs from i on, of Vectors registers of columns from
/// `column` on, or of `part` columns if that is not 0. What earlier inputs gave is in y. signs are
/// +-1, 8 per input.
template <index_t Outputs, index_t Vectors, bool Part>
LOWBIT_ALWAYS_INLINE void mix_tile(const hadamard_mix_args& a, const float* signs, row_range inputs,
                                   index_t i, index_t column) noexcept {
  const auto get = [&](const float* p) LOWBIT_INLINE_LAMBDA {
    if constexpr (Part) {
      return load_part(p, a.width);
    } else {
      return load(p);
    }
  };
  const float* x = a.x + inputs.begin * a.x_stride + column;
  float* const y = a.y + i * a.width + column;
  vec sums[Outputs * Vectors];
  index_t j = inputs.begin;
  if (j == 0) {  // the first term alone: 0 + -0 is not -0
    repeat<Outputs * Vectors>([&](auto o) LOWBIT_INLINE_LAMBDA {
      sums[o] = multiply(splat(signs[o / Vectors]), get(x + o % Vectors * lanes));
    });
    x += a.x_stride;
    signs += 8;
    ++j;
  } else {
    repeat<Outputs * Vectors>([&](auto o) LOWBIT_INLINE_LAMBDA {
      sums[o] = get(y + o / Vectors * a.width + o % Vectors * lanes);
    });
  }
  for (; j < inputs.end; ++j, x += a.x_stride, signs += 8) {
    vec terms[Vectors];
    repeat<Vectors>([&](auto v) LOWBIT_INLINE_LAMBDA { terms[v] = get(x + v * lanes); });
    repeat<Outputs>([&](auto o) LOWBIT_INLINE_LAMBDA {
      const vec sign = splat(signs[o]);
      repeat<Vectors>([&](auto v) LOWBIT_INLINE_LAMBDA {
        sums[o * Vectors + v] = multiply_add(sign, terms[v], sums[o * Vectors + v]);
      });
    });
  }
  const bool is_last = inputs.end == a.order;
  const vec scale = splat(is_last ? a.scale : 1.0F);
  repeat<Outputs * Vectors>([&](auto o) LOWBIT_INLINE_LAMBDA {
    const index_t at = o / Vectors * a.width + o % Vectors * lanes;
    vec sum = multiply(sums[o], scale);
    if (is_last && a.signs_after != nullptr) {
      sum = flip(sum, sign_bits(a.signs_after, i * a.width + column + at));
    }
    if constexpr (Part) {
      store_part(y + at, sum, a.width);
    } else {
      store(y + at, sum);
    }
  });
}

/// All columns of Outputs outputs.
template <index_t Outputs>
inline void mix_columns(const hadamard_mix_args& a, const float* signs, row_range inputs,
                        index_t i) noexcept {
  if (a.width < lanes) {
    mix_tile<Outputs, 1, true>(a, signs, inputs, i, 0);
  } else if (a.width == lanes) {
    mix_tile<Outputs, 1, false>(a, signs, inputs, i, 0);
  } else {
    for (index_t column = 0; column < a.width; column += 2 * lanes) {
      mix_tile<Outputs, 2, false>(a, signs, inputs, i, column);
    }
  }
}

inline void mix(const hadamard_mix_args& a) noexcept {
  alignas(64) float signs[mix_inputs * 8];
  for (index_t i = 0; i < a.order; i += 8) {
    for (index_t begin = 0; begin < a.order; begin += mix_inputs) {
      const index_t end = begin + mix_inputs < a.order ? begin + mix_inputs : a.order;
      for (index_t j = begin; j < end; ++j) {
        expand_signs(sign_bits(a.matrix + j * a.words, i) & 255U, signs + (j - begin) * 8);
      }
      for (index_t o = i; o < a.order && o < i + 8;) {
        if (block_outputs == 8 && o + 8 <= a.order) {
          mix_columns<block_outputs>(a, signs, {begin, end}, o);
          o += 8;
        } else {
          mix_columns<4>(a, signs + (o - i), {begin, end}, o);
          o += 4;
        }
      }
    }
  }
}

#endif
