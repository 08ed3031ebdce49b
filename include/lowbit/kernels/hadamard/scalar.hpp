// kernels/hadamard/scalar.hpp: the contract, as linalg/hadamard.hpp spells it: the oracle of every
// other variant. Layer L2.
#pragma once

#include <span>

#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/linalg/hadamard.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar {
namespace hadamard_detail {

/// x, or -x where the sign of element i says so; signs may be null.
[[nodiscard]] constexpr float with_sign(float x, const std::uint64_t* signs, index_t i) noexcept {
  return signs != nullptr && ((signs[i / 64] >> (i % 64)) & 1U) != 0 ? -x : x;
}

}  // namespace hadamard_detail

constexpr void hadamard_blocks(const hadamard_blocks_args& a) noexcept {
  using hadamard_detail::with_sign;
  const index_t size = index_t{1} << a.log2_size;
  for (index_t b = 0; b < a.count; ++b) {
    const std::span<float> y(a.y + b * a.y_stride, size);
    for (index_t i = 0; i < size; ++i) {
      y[i] = with_sign(a.x[b * size + i], a.signs_before, b * size + i);
    }
    linalg::walsh_hadamard(y);
    for (index_t i = 0; i < size; ++i) {
      y[i] = with_sign(y[i] * a.scale, a.signs_after, b * size + i);
    }
  }
}

constexpr void hadamard_mix(const hadamard_mix_args& a) noexcept {
  linalg::mix_rows<float>({a.matrix, a.order, a.words}, a.x, a.x_stride, a.y, a.width, a.width);
  for (index_t i = 0; i < a.order * a.width; ++i) {
    a.y[i] = hadamard_detail::with_sign(a.y[i] * a.scale, a.signs_after, i);
  }
}

inline constexpr hadamard_functions hadamard = {&hadamard_blocks, &hadamard_mix};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels::scalar
