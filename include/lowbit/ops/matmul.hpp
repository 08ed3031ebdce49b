// ops/matmul.hpp: Y = X W^T for any quantized tensor, by the best path that its type offers. Layer
// L4.
//
//   dequantize   blocks of rows become floats and are multiplied by Eigen. Every format; exact up
//                to float rounding.
//   bit_serial   activations are quantized, and bit-planes meet bit-planes (kernels/bit_gemm).
//                Needs bit_serial_operand with 1..8 planes, and the caller's consent to quantized
//                activations.
//
// Both paths split the work in blocks of a fixed size: results do not depend on the executor.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include "lowbit/kernels/bit_gemm/driver.hpp"
#include "lowbit/layout/activations.hpp"
#include "lowbit/layout/operands.hpp"
#include "lowbit/linalg/eigen.hpp"
#include "lowbit/ops/dequantize.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops {

enum class matmul_path : std::uint8_t { automatic, dequantize, bit_serial };

/// How activations are quantized when a path needs it.
struct activation_quantization {
  unsigned bits = 8;                    ///< 1..8
  symmetry kind = symmetry::symmetric;  ///< symmetric or asymmetric
  bool per_group = false;               ///< a scale per weight group instead of one per token
};

struct matmul_options {
  matmul_path path = matmul_path::automatic;
  /// Set: activations may be quantized so. Quantizing them changes the result, hence the default
  /// no.
  std::optional<activation_quantization> activations = std::nullopt;
};

/// Which path a product takes and why.
struct matmul_plan {
  matmul_path path;
  std::string_view family;   ///< "eigen" or a kernel family
  std::string_view variant;  ///< the family's variant, "" for Eigen
  std::string reason;

  /// One line for people.
  [[nodiscard]] std::string text() const {
    return lowbit::detail::message(path == matmul_path::bit_serial ? "bit_serial" : "dequantize",
                                   " through ", family, variant.empty() ? "" : "/", variant, ": ",
                                   reason);
  }
};

/// What matmul() will do with a tensor of this type. Refuses a path that the type or the options do
/// not allow (value), as matmul() does.
template <quantized_tensor T>
[[nodiscard]] matmul_plan explain(const T& w, const kernels::context& ctx,
                                  const matmul_options& options = {}) {
  index_t planes = 0;
  if constexpr (bit_serial_operand<T>) planes = w.planes().planes();
  const bool has_planes = planes >= 1 && planes <= 8;
  const std::string_view format = T::format::name;
  const auto no_planes = [&] {
    return planes == 0 ? lowbit::detail::message("format '", format, "' has no bit-planes")
                       : lowbit::detail::message("format '", format, "' has ", planes,
                                                 " bit-planes, bit_gemm takes 8");
  };
  const auto dequantize = [](std::string reason) {
    return matmul_plan{matmul_path::dequantize, "eigen", "", std::move(reason)};
  };
  const auto bit_serial = [&ctx, &w](std::string_view why) {
    return matmul_plan{
        matmul_path::bit_serial, "bit_gemm", kernels::select_bit_gemm(ctx.allowed).name,
        lowbit::detail::message(why, " (", w.shape().rows, " x ", w.shape().cols, ")")};
  };
  switch (options.path) {
    case matmul_path::automatic: break;
    case matmul_path::dequantize: return dequantize("asked for");
    case matmul_path::bit_serial:
      LOWBIT_CHECK(has_planes, value, "path bit_serial: ", no_planes());
      LOWBIT_CHECK(options.activations.has_value(), value,
                   "path bit_serial quantizes activations: set matmul_options::activations");
      return bit_serial("asked for");
  }
  if (!options.activations) return dequantize("activations stay float unless options allow less");
  if (!has_planes) return dequantize(no_planes());
  return bit_serial("the format has bit-planes and activations may be quantized");
}

namespace detail {

template <class T>
void check_product(matrix_view<const float> x, const T& w, matrix_view<float> y) {
  const shape2 shape = w.shape();
  LOWBIT_CHECK(x.cols() == shape.cols, shape, "inputs have ", x.cols(), " channels, weights ",
               shape.cols, " columns");
  LOWBIT_CHECK((y.shape() == shape2{x.rows(), shape.rows}), shape, "the product is [", x.rows(),
               ", ", shape.rows, "], the output [", y.rows(), ", ", y.cols(), "]");
}

template <quantized_tensor T>
void matmul_dequantize(matrix_view<const float> x, const T& w, matrix_view<float> y,
                       const kernels::context& ctx) {
  const shape2 shape = w.shape();
  const index_t block_size =
      checked_mul(std::min(shape.rows, dequantize_block_rows), shape.cols, "block");
  kernels::workspace own;
  kernels::workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  scratch.reserve(kernels::workers(ctx), checked_mul(block_size, sizeof(float), "block"));
  kernels::parallel_for(
      ctx, div_up(shape.rows, dequantize_block_rows), [&](index_t i, index_t worker) {
        const row_range rows = dequantize_block(i, shape.rows);
        auto* const values = reinterpret_cast<float*>(scratch.slot(worker).data());
        const matrix_view<float> block(values, rows.size(), shape.cols);
        w.dequantize(rows, block);
        linalg::multiply_transposed(x, block, y.middle_cols(rows.begin, rows.end));
      });
}

/// The bit-serial product of one tile of 8 weight rows with all tokens.
///
/// Per output, groups g in increasing order, and within a group planes i in increasing order:
///   s = offset * (A - z n);  s = fma(c_i, P_i - z W_i, s);  y = fma(step, s, y)
/// with A = sum of codes, P_i = sum of codes under plane i, W_i = ones of plane i (exact integers),
/// n columns, and step, z the token's scaling. std::fma and this order make every tier equal.
template <bit_serial_operand T>
void multiply_tile(const T& w, row_range rows, const layout::quantized_activations& x,
                   const kernels::packed_activation_planes& planes, matrix_view<float> y,
                   kernels::bit_gemm_tile_fn run) {
  constexpr index_t lanes = kernels::bit_gemm_tile_rows;
  constexpr index_t token_block = 16;
  const kernels::packed_weight_planes tile(w.planes(), rows, planes.groups().group_size(),
                                           kernels::plane_encoding::unsigned_code);
  std::array<std::int64_t, token_block * lanes> sums;
  std::array<std::array<float, 8>, lanes> coefficients{};
  std::array<float, lanes> offsets{};
  std::array<float, token_block * lanes> group_values;
  const bool grouped = x.groups() > 1;

  for (index_t token = 0; token < x.shape().rows; token += token_block) {
    const index_t tokens = std::min(token_block, x.shape().rows - token);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t r = 0; r < rows.size(); ++r) y(token + t, rows.begin + r) = 0.0F;
    }
    for (index_t g = 0; g < planes.groups().count(); ++g) {
      const auto columns = static_cast<std::int64_t>(planes.groups().size(g));
      for (index_t r = 0; r < rows.size(); ++r) {
        offsets[r] = w.plane_coefficients(rows.begin + r, g, coefficients[r]);
      }
      for (index_t t = 0; t < tokens; ++t) {
        const int twice_zero = x.scaling(token + t, grouped ? g : 0).twice_zero;
        const auto twice_sum = 2 * planes.sum_codes(token + t, g) - twice_zero * columns;
        for (index_t r = 0; r < rows.size(); ++r) {
          group_values[t * lanes + r] = offsets[r] * (0.5F * static_cast<float>(twice_sum));
        }
      }
      for (index_t i = 0; i < tile.planes(); ++i) {
        run({.weights = tile.plane(0, g, i).data(),
             .activations = planes.group(token, g).data(),
             .sums = sums.data(),
             .words = planes.groups().words(),
             .tokens = tokens,
             .activation_stride = planes.stride(),
             .weight_planes = 1,
             .activation_planes = x.bits()});
        const auto ones = tile.count_ones(0, g, i);
        for (index_t t = 0; t < tokens; ++t) {
          const int twice_zero = x.scaling(token + t, grouped ? g : 0).twice_zero;
          for (index_t r = 0; r < rows.size(); ++r) {
            const std::int64_t twice = 2 * sums[t * lanes + r] - twice_zero * ones[r];
            float& value = group_values[t * lanes + r];
            value = std::fma(coefficients[r][i], 0.5F * static_cast<float>(twice), value);
          }
        }
      }
      for (index_t t = 0; t < tokens; ++t) {
        const float step = x.scaling(token + t, grouped ? g : 0).step;
        for (index_t r = 0; r < rows.size(); ++r) {
          float& out = y(token + t, rows.begin + r);
          out = std::fma(step, group_values[t * lanes + r], out);
        }
      }
    }
  }
}

template <bit_serial_operand T>
void matmul_bit_serial(matrix_view<const float> x, const T& w, matrix_view<float> y,
                       const kernels::context& ctx, const activation_quantization& how) {
  const index_t group_size = w.group_size();
  const layout::quantized_activations codes(
      x, {.bits = how.bits, .kind = how.kind, .group_size = how.per_group ? group_size : 0});
  const kernels::packed_activation_planes planes(codes.planes(), group_size);
  const auto run = kernels::select_bit_gemm(ctx.allowed).run;
  const index_t rows = w.shape().rows;
  kernels::parallel_for(ctx, div_up(rows, kernels::bit_gemm_tile_rows), [&](index_t tile, index_t) {
    const index_t begin = tile * kernels::bit_gemm_tile_rows;
    multiply_tile(w, {begin, std::min(begin + kernels::bit_gemm_tile_rows, rows)}, codes, planes, y,
                  run);
  });
}

}  // namespace detail

/// y[M, N] = x[M, K] * W[N, K]^T. Overwrites y, which overlaps neither operand. Deterministic at
/// any number of workers. Thread-safe for distinct y, executors and workspaces. Refuses shapes that
/// do not fit (shape), paths that do not exist (value), and, where activations are quantized,
/// NaN/Inf in x (value).
template <quantized_tensor T>
void matmul(matrix_view<const float> x, const T& w, matrix_view<float> y,
            const kernels::context& ctx, const matmul_options& options = {}) {
  detail::check_product(x, w, y);
  const matmul_plan plan = explain(w, ctx, options);
  if constexpr (bit_serial_operand<T>) {
    if (plan.path == matmul_path::bit_serial) {
      return detail::matmul_bit_serial(x, w, y, ctx, *options.activations);
    }
  }
  detail::matmul_dequantize(x, w, y, ctx);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::ops
