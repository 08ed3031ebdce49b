// decorators/rotated.hpp: a base tensor whose input side was rotated by a random-sign Hadamard
// matrix. Layer L3.
//
// The rotation spreads outliers over all columns of a block, which makes rows nearly normal and
// hence easy to quantize (QuIP#, arXiv 2402.04396; QuaRot, arXiv 2404.00456). Per block of b
// columns
//   T x = H (sign .* x) / sqrt(b)
// with H of linalg/hadamard.hpp. T is orthonormal, so B = W T^T: rows of W turn like inputs.
//
// Stored: two params and no buffer. The block decides H (linalg::hadamard_order), so it is stored
// as it is, never as "the largest". The sign of column k is - where bit k % 64 of
// random_bits(rotation_seed, k / 64) is set (core/random.hpp).
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/decorators/input_transformed.hpp"
#include "lowbit/kernels/hadamard/driver.hpp"
#include "lowbit/linalg/hadamard.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// Signs (exact), then the sums of hadamard_matrix::apply(), then one multiplication by
/// hadamard_scale<Real>(block).
class hadamard_rotation {
 public:
  struct format {
    static constexpr std::string_view name = "rotated";
    static constexpr std::uint32_t version = 2;

    struct params {
      std::uint32_t block = 0;  ///< columns that turn together; 0: as many as possible
      std::uint32_t seed = 0;   ///< of the signs

      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params& p, params_visitor& v) {
      v({"rotation_block",
         "columns that turn together: divides the row and is the size of a Hadamard matrix; 0: the "
         "row, or the largest power of two"},
        p.block, std::uint32_t{0}, max_block);
      v({"rotation_seed", "of the random signs"}, p.seed, std::uint32_t{0},
        std::numeric_limits<std::uint32_t>::max());
    }
  };

  static constexpr std::string_view inputs_step = "rotated inputs";

  /// A block of 0 becomes the whole row if that is a size with a Hadamard matrix
  /// (linalg::hadamard_order), else the largest power of two that divides it (1 for K = 0).
  /// Refuses (value) params out of range, and a block that has no such matrix or does not divide
  /// `columns`.
  hadamard_rotation(index_t columns, const format::params& params)
      : columns_(columns), params_(resolved(columns, params)), signs_(div_up(columns, 64)) {
    check_params<format>(params);
    LOWBIT_CHECK(is_possible(columns, params_.block), value, refusal(columns, params_.block));
    matrix_ = linalg::hadamard_matrix(params_.block);
    for (index_t w = 0; w < signs_.size(); ++w) signs_[w] = random_bits(params_.seed, w);
  }

  [[nodiscard]] index_t columns() const noexcept { return columns_; }
  /// The block is that of block(), not 0.
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  /// Columns that turn together.
  [[nodiscard]] index_t block() const noexcept { return params_.block; }

  template <std::floating_point Real>
  void transform_input(std::type_identity_t<std::span<const Real>> x, std::span<Real> out) const {
    std::copy_n(x.data(), columns_, out.data());
    flip_signs(out);
    turn_blocks(linalg::hadamard_direction::forward, out);
  }
  /// T is orthonormal: T^-T w = T w. In double, rounded once at the end.
  void transform_weights(std::span<const float> w, std::span<float> out) const {
    aligned_buffer<double> row(columns_);
    std::copy_n(w.data(), columns_, row.data());
    flip_signs(row.span());
    turn_blocks(linalg::hadamard_direction::forward, row.span());
    for (index_t k = 0; k < columns_; ++k) out[k] = static_cast<float>(row[k]);
  }
  /// T^T b = sign .* (H^T b / sqrt(block)), in floats.
  void restore_weights(std::span<const float> b, std::span<float> out) const {
    std::copy_n(b.data(), columns_, out.data());
    turn_blocks(linalg::hadamard_direction::transposed, out);
    flip_signs(out);
  }

  /// transform_input() of every row, by the fastest kernel that ctx allows.
  void transform_inputs(matrix_view<const float> x, matrix_view<float> out,
                        const kernels::context& ctx) const {
    kernels::hadamard_rows(matrix_, linalg::hadamard_direction::forward, signs_, x, out, ctx);
  }
  /// restore_weights() of every row, by the fastest kernel that ctx allows.
  void restore_rows(matrix_view<const float> b, matrix_view<float> out,
                    const kernels::context& ctx) const {
    kernels::hadamard_rows(matrix_, linalg::hadamard_direction::transposed, signs_, b, out, ctx);
  }

  void for_each_buffer(buffer_visitor&) const noexcept {}
  /// Refuses (format) a block that the constructor refuses, and 0.
  [[nodiscard]] static hadamard_rotation from_buffers(index_t columns, const format::params& params,
                                                      buffer_source&) {
    LOWBIT_CHECK(is_possible(columns, params.block), format, refusal(columns, params.block));
    return {columns, params};
  }

 protected:
  static constexpr std::uint32_t max_block = std::uint32_t{1} << 31U;

 private:
  [[nodiscard]] static bool is_possible(index_t columns, index_t block) noexcept {
    return block != 0 && columns % block == 0 && linalg::hadamard_order(block).exist();
  }
  [[nodiscard]] static std::string refusal(index_t columns, index_t block) {
    return lowbit::detail::message("rotation_block = ", block, " does not divide ", columns,
                                   " columns or is not the size of a Hadamard matrix");
  }
  [[nodiscard]] static format::params resolved(index_t columns, format::params params) noexcept {
    if (params.block != 0) return params;
    const bool whole = columns <= max_block && linalg::hadamard_order(columns).exist();
    // The largest power of two: the lowest bit that is set, of columns or of the limit.
    const index_t bits = columns == 0 ? 1 : columns | max_block;
    params.block = static_cast<std::uint32_t>(whole ? columns : bits & (~bits + 1));
    return params;
  }

  template <std::floating_point Real>
  void flip_signs(std::span<Real> x) const noexcept {
    for (index_t k = 0; k < columns_; ++k) {
      x[k] = ((signs_[k / 64] >> (k % 64)) & 1U) != 0 ? -x[k] : x[k];
    }
  }
  template <std::floating_point Real>
  void turn_blocks(linalg::hadamard_direction direction, std::span<Real> x) const {
    for (index_t begin = 0; begin < columns_; begin += block()) {
      matrix_.apply(direction, x.subspan(begin, block()));
    }
    const Real scale = linalg::hadamard_scale<Real>(block());
    for (Real& value : x) value *= scale;
  }

  index_t columns_;
  format::params params_;
  linalg::hadamard_matrix matrix_;
  std::vector<std::uint64_t> signs_;
};

static_assert(input_transform<hadamard_rotation>);

/// W = B T with the block-diagonal T above.
template <quantized_tensor Base>
using rotated = input_transformed<Base, hadamard_rotation>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
