// kernels/code_gemm/registers_neon.hpp: what tile_body.hpp needs of NEON registers, but for
// products. Layer L2.
//
// Included inside the target regions and namespaces of the variants that have these registers, like
// tile_body.hpp, hence no include guard and no include: outside of a variant this file is empty.
#ifdef LOWBIT_CODE_GEMM_REGISTERS

using bytes = uint8x16_t;
using book_table = bytes;
using ints = int32x4_t;
using floats = float32x4_t;

inline constexpr index_t vector_bytes = 16;

LOWBIT_ALWAYS_INLINE bytes load(const std::uint8_t* p) noexcept { return vld1q_u8(p); }
/// x, made once: not loaded again by every instruction that uses it.
LOWBIT_ALWAYS_INLINE bytes in_register(bytes x) noexcept {
  __asm__("" : "+w"(x));
  return x;
}
LOWBIT_ALWAYS_INLINE void store(std::uint8_t* p, bytes x) noexcept { vst1q_u8(p, x); }
LOWBIT_ALWAYS_INLINE bytes splat(unsigned byte) noexcept {
  return vdupq_n_u8(static_cast<std::uint8_t>(byte));
}
LOWBIT_ALWAYS_INLINE bytes both(bytes a, bytes b) noexcept { return vandq_u8(a, b); }
LOWBIT_ALWAYS_INLINE bytes either(bytes a, bytes b) noexcept { return vorrq_u8(a, b); }
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_right(bytes x) noexcept {
  return vshrq_n_u8(x, Count);
}
template <unsigned Count>
LOWBIT_ALWAYS_INLINE bytes shift_left(bytes x) noexcept {
  return vshlq_n_u8(x, Count);
}
LOWBIT_ALWAYS_INLINE bytes load_table(const std::uint8_t* table) noexcept { return load(table); }
LOWBIT_ALWAYS_INLINE bytes look_up(bytes table, bytes indices) noexcept {
  return vqtbl1q_u8(table, indices);
}
/// 4 activations, for every row.
LOWBIT_ALWAYS_INLINE bytes broadcast_quad(const std::int8_t* x) noexcept {
  std::uint32_t quad;
  __builtin_memcpy(&quad, x, 4);
  return vreinterpretq_u8_u32(vdupq_n_u32(quad));
}

LOWBIT_ALWAYS_INLINE ints splat_int(std::int32_t x) noexcept { return vdupq_n_s32(x); }
LOWBIT_ALWAYS_INLINE ints add(ints a, ints b) noexcept { return vaddq_s32(a, b); }
LOWBIT_ALWAYS_INLINE ints subtract(ints a, ints b) noexcept { return vsubq_s32(a, b); }
template <unsigned Count>
LOWBIT_ALWAYS_INLINE ints shift_right_int(ints x) noexcept {
  return vshrq_n_s32(x, Count);
}
LOWBIT_ALWAYS_INLINE ints multiply(ints a, ints b) noexcept { return vmulq_s32(a, b); }
/// As many unsigned bytes as there are ints.
LOWBIT_ALWAYS_INLINE ints load_bytes_as_ints(const std::uint8_t* p) noexcept {
  std::uint32_t four;
  __builtin_memcpy(&four, p, 4);
  const uint16x8_t shorts = vmovl_u8(vcreate_u8(four));
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(shorts)));
}

LOWBIT_ALWAYS_INLINE floats splat_float(float x) noexcept { return vdupq_n_f32(x); }
LOWBIT_ALWAYS_INLINE floats load_floats(const float* p) noexcept { return vld1q_f32(p); }
LOWBIT_ALWAYS_INLINE void store_floats(float* p, floats x) noexcept { vst1q_f32(p, x); }
LOWBIT_ALWAYS_INLINE floats load_halves(const std::uint8_t* p) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
LOWBIT_ALWAYS_INLINE floats to_floats(ints x) noexcept { return vcvtq_f32_s32(x); }
LOWBIT_ALWAYS_INLINE floats times(floats a, floats b) noexcept { return vmulq_f32(a, b); }
LOWBIT_ALWAYS_INLINE floats fused(floats a, floats b, floats c) noexcept {
  return vfmaq_f32(c, a, b);
}

#endif
