// kernels/envelope/neon.hpp: AArch64, whose baseline has fused multiply-add and conversions of
// fp16. Layer L2.
#pragma once

#include "lowbit/kernels/envelope/contract.hpp"

#if LOWBIT_AARCH64
#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace envelope_detail {

using floats = float32x4_t;
inline constexpr index_t lanes = 4;

LOWBIT_ALWAYS_INLINE floats splat(float x) noexcept { return vdupq_n_f32(x); }
LOWBIT_ALWAYS_INLINE floats load(const float* p) noexcept { return vld1q_f32(p); }
LOWBIT_ALWAYS_INLINE void store(float* p, floats x) noexcept { vst1q_f32(p, x); }
LOWBIT_ALWAYS_INLINE floats load_part(const float* p, index_t count) noexcept {
  float part[lanes] = {};
  __builtin_memcpy(part, p, count * sizeof(float));
  return load(part);
}
LOWBIT_ALWAYS_INLINE void store_part(float* p, floats x, index_t count) noexcept {
  float part[lanes];
  store(part, x);
  __builtin_memcpy(p, part, count * sizeof(float));
}
LOWBIT_ALWAYS_INLINE floats load_half(const std::uint16_t* p) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
LOWBIT_ALWAYS_INLINE floats load_brain(const std::uint16_t* p) noexcept {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
LOWBIT_ALWAYS_INLINE floats multiply(floats a, floats b) noexcept { return vmulq_f32(a, b); }
LOWBIT_ALWAYS_INLINE floats add(floats a, floats b) noexcept { return vaddq_f32(a, b); }
LOWBIT_ALWAYS_INLINE floats multiply_add(floats a, floats b, floats c) noexcept {
  return vfmaq_f32(c, a, b);
}

#define LOWBIT_ENVELOPE_ROW_BODY
#include "lowbit/kernels/envelope/row_body.hpp"
#undef LOWBIT_ENVELOPE_ROW_BODY

}  // namespace envelope_detail

inline constexpr envelope_functions envelope = {&envelope_detail::expand,
                                                &envelope_detail::combine};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon
#endif
