// kernels/sparse/neon.hpp: AArch64, whose baseline has fused multiply-add and conversions of fp16.
// Layer L2.
//
// There are no gathers: lanes are loaded one by one.
#pragma once

#include "lowbit/kernels/sparse/contract.hpp"

#if LOWBIT_AARCH64

#include <arm_neon.h>

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon {
namespace sparse_detail {

inline constexpr index_t width = 4;

/// Four values.
LOWBIT_ALWAYS_INLINE float32x4_t load_values(const float16* values) noexcept {
  return vcvt_f32_f16(
      vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(values))));
}

LOWBIT_ALWAYS_INLINE float32x4_t load_four(const float* x, const std::uint16_t* columns) noexcept {
  float32x4_t four = vdupq_n_f32(0.0F);
  four = vld1q_lane_f32(x + columns[0], four, 0);
  four = vld1q_lane_f32(x + columns[1], four, 1);
  four = vld1q_lane_f32(x + columns[2], four, 2);
  return vld1q_lane_f32(x + columns[3], four, 3);
}

}  // namespace sparse_detail

inline void sparse_vector(const sparse_vector_args& args) noexcept {
  using namespace sparse_detail;
  constexpr index_t parts = sparse_lanes / width;
  float32x4_t sums[parts];
  LOWBIT_UNROLL
  for (index_t i = 0; i < parts; ++i) sums[i] = vld1q_f32(args.sums + i * width);
  for (index_t t = 0; t < args.depth; ++t) {
    const sparse_step& step = args.steps[t];
    LOWBIT_UNROLL
    for (index_t i = 0; i < parts; ++i) {
      sums[i] = vfmaq_f32(sums[i], load_values(step.values + i * width),
                          load_four(args.x, step.columns + i * width));
    }
  }
  LOWBIT_UNROLL
  for (index_t i = 0; i < parts; ++i) vst1q_f32(args.sums + i * width, sums[i]);
}

/// Four lanes and all tokens at a time: 16 chains of sums.
inline void sparse_block(const sparse_block_args& args) noexcept {
  using namespace sparse_detail;
  constexpr index_t vectors = sparse_tokens / width;
  for (index_t lane = 0; lane < sparse_lanes; lane += width) {
    float* const out = args.sums + lane * sparse_tokens;
    float32x4_t sums[width][vectors];
    LOWBIT_UNROLL
    for (index_t i = 0; i < width; ++i) {
      LOWBIT_UNROLL
      for (index_t v = 0; v < vectors; ++v) {
        sums[i][v] = vld1q_f32(out + i * sparse_tokens + v * width);
      }
    }
    for (index_t t = 0; t < args.depth; ++t) {
      const sparse_step& step = args.steps[t];
      const float32x4_t values = load_values(step.values + lane);
      const float* const x0 = args.x + index_t{step.columns[lane]} * sparse_tokens;
      const float* const x1 = args.x + index_t{step.columns[lane + 1]} * sparse_tokens;
      const float* const x2 = args.x + index_t{step.columns[lane + 2]} * sparse_tokens;
      const float* const x3 = args.x + index_t{step.columns[lane + 3]} * sparse_tokens;
      LOWBIT_UNROLL
      for (index_t v = 0; v < vectors; ++v) {
        sums[0][v] = vfmaq_laneq_f32(sums[0][v], vld1q_f32(x0 + v * width), values, 0);
        sums[1][v] = vfmaq_laneq_f32(sums[1][v], vld1q_f32(x1 + v * width), values, 1);
        sums[2][v] = vfmaq_laneq_f32(sums[2][v], vld1q_f32(x2 + v * width), values, 2);
        sums[3][v] = vfmaq_laneq_f32(sums[3][v], vld1q_f32(x3 + v * width), values, 3);
      }
    }
    LOWBIT_UNROLL
    for (index_t i = 0; i < width; ++i) {
      LOWBIT_UNROLL
      for (index_t v = 0; v < vectors; ++v) {
        vst1q_f32(out + i * sparse_tokens + v * width, sums[i][v]);
      }
    }
  }
}

inline constexpr sparse_functions sparse = {&sparse_vector, &sparse_block};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::neon

#endif  // LOWBIT_AARCH64
