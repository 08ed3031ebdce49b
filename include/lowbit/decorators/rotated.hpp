// decorators/rotated.hpp: a base tensor whose input side was rotated by a random-sign Hadamard
// matrix. Layer L3.
//
// The rotation spreads outliers over all columns of a block, which makes rows nearly normal and
// hence easy to quantize (QuIP#, arXiv 2402.04396; QuaRot, arXiv 2404.00456). Per block of b
// columns
//   T x = H (sign .* x) / sqrt(b)
// with H of linalg/hadamard.hpp. T is orthonormal, so B = W T^T: rows of W turn like inputs.
//
// Stored: two params and no buffer. The sign of column k is - where bit k % 64 of
// random_bits(rotation_seed, k / 64) is set (core/random.hpp).
#pragma once

#include <bit>
#include <limits>
#include <type_traits>

#include "lowbit/core/random.hpp"
#include "lowbit/decorators/input_transformed.hpp"
#include "lowbit/linalg/hadamard.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// Signs (exact), then the sums of walsh_hadamard(), then one multiplication by
/// hadamard_scale<Real>(block).
class hadamard_rotation {
 public:
  struct format {
    static constexpr std::string_view name = "rotated";
    static constexpr std::uint32_t version = 1;

    struct params {
      std::uint32_t block = 0;  ///< columns that turn together; 0: as many as possible
      std::uint32_t seed = 0;   ///< of the signs

      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params& p, params_visitor& v) {
      v({"rotation_block",
         "columns that turn together, a power of two that divides the row; 0: the largest"},
        p.block, std::uint32_t{0}, std::uint32_t{1} << 31U);
      v({"rotation_seed", "of the random signs"}, p.seed, std::uint32_t{0},
        std::numeric_limits<std::uint32_t>::max());
    }
  };

  static constexpr std::string_view inputs_step = "rotated inputs";

  /// Refuses (value) params out of range, and a block that is no power of two or does not divide
  /// `columns`.
  hadamard_rotation(index_t columns, const format::params& params)
      : columns_(columns), params_(params), block_(block_of(columns, params)) {
    check_params<format>(params);
    LOWBIT_CHECK(block_ != 0, value, "rotation_block = ", params.block,
                 " is no power of two that divides ", columns, " columns");
  }

  [[nodiscard]] index_t columns() const noexcept { return columns_; }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  /// Columns that turn together: rotation_block, or the largest power of two that divides K (1 for
  /// K = 0).
  [[nodiscard]] index_t block() const noexcept { return block_; }

  template <std::floating_point Real>
  void transform_input(std::type_identity_t<std::span<const Real>> x,
                       std::span<Real> out) const noexcept {
    std::copy_n(x.data(), columns_, out.data());
    flip_signs(out);
    turn_blocks(out);
  }
  /// T is orthonormal: T^-T w = T w. In double, rounded once at the end.
  void transform_weights(std::span<const float> w, std::span<float> out) const {
    aligned_buffer<double> row(columns_);
    std::copy_n(w.data(), columns_, row.data());
    flip_signs(row.span());
    turn_blocks(row.span());
    for (index_t k = 0; k < columns_; ++k) out[k] = static_cast<float>(row[k]);
  }
  /// T^T b = sign .* (H b / sqrt(block)), in floats.
  void restore_weights(std::span<const float> b, std::span<float> out) const noexcept {
    std::copy_n(b.data(), columns_, out.data());
    turn_blocks(out);
    flip_signs(out);
  }

  void for_each_buffer(buffer_visitor&) const noexcept {}
  /// Refuses (format) a block that the constructor refuses.
  [[nodiscard]] static hadamard_rotation from_buffers(index_t columns, const format::params& params,
                                                      buffer_source&) {
    LOWBIT_CHECK(block_of(columns, params) != 0, format, "rotation_block = ", params.block,
                 " is no power of two that divides ", columns, " columns");
    return {columns, params};
  }

 private:
  /// 0 for a block that cannot be.
  [[nodiscard]] static index_t block_of(index_t columns, const format::params& params) noexcept {
    if (params.block == 0) return index_t{1} << (columns == 0 ? 0 : std::countr_zero(columns));
    const index_t block = params.block;
    return std::has_single_bit(block) && columns % block == 0 ? block : 0;
  }

  template <std::floating_point Real>
  void flip_signs(std::span<Real> x) const noexcept {
    for (index_t begin = 0; begin < columns_; begin += 64) {
      const std::uint64_t bits = random_bits(params_.seed, begin / 64);
      const index_t size = std::min<index_t>(64, columns_ - begin);
      for (index_t i = 0; i < size; ++i) {
        Real& value = x[begin + i];
        value = ((bits >> i) & 1U) != 0 ? -value : value;
      }
    }
  }
  template <std::floating_point Real>
  void turn_blocks(std::span<Real> x) const noexcept {
    for (index_t begin = 0; begin < columns_; begin += block_) {
      linalg::walsh_hadamard(x.subspan(begin, block_));
    }
    const Real scale = linalg::hadamard_scale<Real>(block_);
    for (Real& value : x) value *= scale;
  }

  index_t columns_;
  format::params params_;
  index_t block_;
};

static_assert(input_transform<hadamard_rotation>);

/// W = B T with the block-diagonal T above.
template <quantized_tensor Base>
using rotated = input_transformed<Base, hadamard_rotation>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
