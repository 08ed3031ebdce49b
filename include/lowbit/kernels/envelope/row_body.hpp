// kernels/envelope/row_body.hpp: both functions, written once for all registers. Layer L2.
//
// Included inside the target region and namespace of each SIMD variant, hence no include guard and
// no include: outside of a variant this file is empty. The variant defines `lanes`, the type
// `floats` and load, load_part, store, store_part (the first `count` lanes), load_half,
// load_brain, multiply, add, multiply_add.
//
// A tail of half-precision values is copied to a register's worth first.
#ifdef LOWBIT_ENVELOPE_ROW_BODY

/// `lanes` values of one envelope, or (Part) the first `count` of them.
template <scale_type Type, bool Part>
LOWBIT_ALWAYS_INLINE floats load_values(const std::byte* row, index_t i, index_t count) noexcept {
  if constexpr (Type == scale_type::fp32) {
    const auto* const p = reinterpret_cast<const float*>(row) + i;
    return Part ? load_part(p, count) : load(p);
  } else {
    const auto* p = reinterpret_cast<const std::uint16_t*>(row) + i;
    std::uint16_t part[lanes] = {};
    if constexpr (Part) {
      __builtin_memcpy(part, p, count * sizeof(std::uint16_t));
      p = part;
    }
    return Type == scale_type::fp16 ? load_half(p) : load_brain(p);
  }
}
template <bool Part>
LOWBIT_ALWAYS_INLINE floats load_floats(const float* p, index_t count) noexcept {
  return Part ? load_part(p, count) : load(p);
}
template <bool Part>
LOWBIT_ALWAYS_INLINE void store_floats(float* p, floats x, index_t count) noexcept {
  Part ? store_part(p, x, count) : store(p, x);
}

template <scale_type Type>
[[nodiscard]] constexpr index_t row_bytes(const envelope_rows& e) noexcept {
  return e.stride * (Type == scale_type::fp32 ? 4U : 2U);
}

template <scale_type Type, bool Part>
LOWBIT_ALWAYS_INLINE void expand_lanes(const envelope_expand_args& a, index_t i,
                                       index_t count) noexcept {
  const floats x = load_floats<Part>(a.x + i, count);
  const std::byte* row = a.envelope.data;
  float* out = a.out + i;
  for (index_t j = 0; j < a.envelope.rows; ++j) {
    store_floats<Part>(out, multiply(load_values<Type, Part>(row, i, count), x), count);
    row += row_bytes<Type>(a.envelope);
    out += a.out_stride;
  }
}

template <scale_type Type, bool Part>
LOWBIT_ALWAYS_INLINE void combine_lanes(const envelope_combine_args& a, index_t i,
                                        index_t count) noexcept {
  const std::byte* row = a.envelope.data;
  const float* z = a.z + i;
  // A product as fma(e, z, -0), which is e * z rounded, with its sign of zero: a compiler that
  // fuses products with sums does not see one.
  floats sum = splat(-0.0F);
  for (index_t j = 0; j < a.envelope.rows; ++j) {
    sum = multiply_add(load_values<Type, Part>(row, i, count), load_floats<Part>(z, count), sum);
    row += row_bytes<Type>(a.envelope);
    z += a.z_stride;
  }
  if (a.accumulate) sum = add(load_floats<Part>(a.y + i, count), sum);
  store_floats<Part>(a.y + i, sum, count);
}

template <scale_type Type>
LOWBIT_ALWAYS_INLINE void expand_row(const envelope_expand_args& a) noexcept {
  index_t i = 0;
  for (; i + lanes <= a.count; i += lanes) expand_lanes<Type, false>(a, i, lanes);
  if (i != a.count) expand_lanes<Type, true>(a, i, a.count - i);
}
template <scale_type Type>
LOWBIT_ALWAYS_INLINE void combine_row(const envelope_combine_args& a) noexcept {
  index_t i = 0;
  for (; i + lanes <= a.count; i += lanes) combine_lanes<Type, false>(a, i, lanes);
  if (i != a.count) combine_lanes<Type, true>(a, i, a.count - i);
}

inline void expand(const envelope_expand_args& a) noexcept {
  switch (a.envelope.type) {
    case scale_type::fp32: return expand_row<scale_type::fp32>(a);
    case scale_type::fp16: return expand_row<scale_type::fp16>(a);
    case scale_type::bf16: return expand_row<scale_type::bf16>(a);
  }
}
inline void combine(const envelope_combine_args& a) noexcept {
  switch (a.envelope.type) {
    case scale_type::fp32: return combine_row<scale_type::fp32>(a);
    case scale_type::fp16: return combine_row<scale_type::fp16>(a);
    case scale_type::bf16: return combine_row<scale_type::bf16>(a);
  }
}

#endif
