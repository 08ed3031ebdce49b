// kernels/hadamard/driver.hpp: rows times a block-diagonal Hadamard matrix with random signs. Layer
// L2.
//
// Baseline code: the variant is chosen once per call, rows are spread over the executor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/hadamard/contract.hpp"
#include "lowbit/kernels/hadamard/variants.hpp"
#include "lowbit/linalg/hadamard.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {
namespace detail {

/// Blocks that lie apart by a power of two would share few sets of the L1 cache.
[[nodiscard]] constexpr index_t padded_hadamard_stride(index_t power) noexcept {
  return power < 256 ? power : power + 16;
}

/// Signs from element `begin` on: a pointer into them if that begins a word, else a copy of
/// `count`, shifted, in `words`. Null stays null.
[[nodiscard]] inline const std::uint64_t* signs_from(const std::uint64_t* signs, index_t begin,
                                                     index_t count, std::uint64_t* words) noexcept {
  if (signs == nullptr || begin % 64 == 0) return signs == nullptr ? nullptr : signs + begin / 64;
  const index_t shift = begin % 64;
  for (index_t w = 0; w * 64 < count; ++w) {
    const std::uint64_t* const from = signs + begin / 64 + w;
    const bool needs_next = w * 64 + 64 - shift < count;
    words[w] = from[0] >> shift | (needs_next ? from[1] << (64 - shift) : 0);
  }
  return words;
}

/// One block of a row whose matrix has a dense factor. `blocked` holds dense *
/// padded_hadamard_stride(power) floats.
inline void turn_dense_block(const hadamard_functions& run, const linalg::hadamard_matrix& h,
                             const hadamard_blocks_args& a, linalg::hadamard_direction direction,
                             float* blocked) noexcept {
  const linalg::dense_signs matrix = h.signs(direction);
  const index_t power = h.factors().power;
  const index_t stride = padded_hadamard_stride(power);
  run.blocks({.x = a.x,
              .y = blocked,
              .y_stride = stride,
              .count = matrix.order,
              .log2_size = a.log2_size,
              .signs_before = a.signs_before,
              .signs_after = nullptr,
              .scale = 1.0F});
  run.mix({.x = blocked,
           .y = a.y,
           .x_stride = stride,
           .order = matrix.order,
           .width = power,
           .matrix = matrix.bits,
           .words = matrix.words,
           .signs_after = a.signs_after,
           .scale = a.scale});
}

}  // namespace detail

/// Each row of x [M, K] by blocks of b = h.size() elements, K a multiple of b, with H or H^T as
/// `direction` says, D = diag(+-1):
///   forward     y = H D x / sqrt(b)
///   transposed  y = D H^T x / sqrt(b), which undoes the former
/// The sign of element k is - where bit k % 64 of signs[k / 64] is set; without signs D = I. The
/// factor is hadamard_scale<float>(b). x and y may be the same, but do not overlap otherwise.
/// Refuses other shapes and too few signs (shape). Thread-safe, but for ctx.scratch.
inline void hadamard_rows(const linalg::hadamard_matrix& h, linalg::hadamard_direction direction,
                          std::span<const std::uint64_t> signs, matrix_view<const float> x,
                          matrix_view<float> y, const context& ctx) {
  LOWBIT_CHECK(x.shape() == y.shape(), shape, "the input is [", x.rows(), ", ", x.cols(),
               "], the output [", y.rows(), ", ", y.cols(), "]");
  LOWBIT_CHECK(x.cols() % h.size() == 0, shape, "blocks of ", h.size(), " do not divide ", x.cols(),
               " columns");
  LOWBIT_CHECK(signs.empty() || signs.size() >= div_up(x.cols(), 64), shape, "there are ",
               signs.size(), " words of signs for ", x.cols(), " columns");
  if (x.empty()) return;
  const linalg::hadamard_factors& factors = h.factors();
  const bool is_forward = direction == linalg::hadamard_direction::forward;
  const std::uint64_t* const all_signs = signs.empty() ? nullptr : signs.data();
  const hadamard_functions& run = select_hadamard(ctx.allowed).run;
  hadamard_blocks_args args{
      .x = nullptr,
      .y = nullptr,
      .y_stride = factors.power,
      .count = x.cols() / h.size(),
      .log2_size = static_cast<unsigned>(std::countr_zero(factors.power)),
      .signs_before = is_forward ? all_signs : nullptr,
      .signs_after = is_forward ? nullptr : all_signs,
      .scale = linalg::hadamard_scale<float>(h.size()),
  };

  const index_t floats = factors.dense * detail::padded_hadamard_stride(factors.power);
  const index_t words = div_up(h.size(), 64);
  workspace own;
  workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  if (factors.dense != 1) {
    scratch.reserve(workers(ctx), words * sizeof(std::uint64_t) + floats * sizeof(float));
  }
  constexpr index_t floats_of_a_task = 32768;
  const index_t task_rows = std::max<index_t>(1, floats_of_a_task / x.cols());
  parallel_for(ctx, div_up(x.rows(), task_rows), [&](index_t task, index_t worker) {
    hadamard_blocks_args a = args;
    const index_t end = std::min((task + 1) * task_rows, x.rows());
    for (index_t r = task * task_rows; r < end; ++r) {
      a.x = x.row(r).data();
      a.y = y.row(r).data();
      if (factors.dense == 1) {
        run.blocks(a);
        continue;
      }
      auto* const shifted = reinterpret_cast<std::uint64_t*>(scratch.slot(worker).data());
      auto* const blocked = reinterpret_cast<float*>(shifted + words);
      for (index_t begin = 0; begin < x.cols(); begin += h.size()) {
        hadamard_blocks_args block = a;
        block.x += begin;
        block.y += begin;
        block.signs_before = detail::signs_from(args.signs_before, begin, h.size(), shifted);
        block.signs_after = detail::signs_from(args.signs_after, begin, h.size(), shifted);
        detail::turn_dense_block(run, h, block, direction, blocked);
      }
    }
  });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
