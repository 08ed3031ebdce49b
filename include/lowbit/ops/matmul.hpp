// ops/matmul.hpp: Y = X W^T for any quantized tensor, by the best path that its type offers. Layer
// L4.
//
//   dequantize   blocks of rows become floats and are multiplied by Eigen. Every format; exact up
//                to float rounding.
//   int8         activations become int8 codes and meet codes (kernels/code_gemm) or, where a
//                format has planes only, scaled bit planes (the same kernel: "plane_gemm"). With
//                signs alone they become tables of sums of 5, of 8 bits each (kernels/sign_gemm).
//   bit_serial   activations become bit planes and meet bit planes (kernels/bit_gemm).
//
// A tensor made of parts (composite_operand: decorators) does in floats what it must beside, and
// its parts go their ways.
//
// The last two need the caller's consent to quantized activations. All paths split the work in
// blocks of a fixed size, so results do not depend on the executor; and the choice among them
// depends on the format and the options only, never on the machine or the number of tokens, so that
// the same call gives the same bits everywhere (the dequantize path: see docs/architecture.md).
//
// The cost model counts vector operations of 512 bits for 64 products:
//   int8         2 for each plane of codes: one to unpack, one to multiply (measured: 1.9 to 2.6);
//                0.6 for signs: a look-up and a sum for 320 products, and their indices and factors
//   bit_serial   0.6 for each pair of a weight and an activation plane: AND, popcount and add take
//                3 for 512 products, on CPUs with one popcount unit the time of 5
// and a path that needs fewer wins. Measured figures: kernels/*/README.md, docs/performance.md.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/kernels/activations/quantized.hpp"
#include "lowbit/kernels/bit_gemm/driver.hpp"
#include "lowbit/layout/operands.hpp"
#include "lowbit/linalg/eigen.hpp"
#include "lowbit/ops/dequantize.hpp"
#include "lowbit/ops/pack.hpp"
#include "lowbit/ops/split_activations.hpp"
#include "lowbit/ops/transform_inputs.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace ops {
enum class matmul_path : std::uint8_t { automatic, dequantize, int8, bit_serial };
}  // namespace ops

template <>
inline constexpr std::string_view enum_names<ops::matmul_path>[] = {"automatic", "dequantize",
                                                                    "int8", "bit_serial"};

namespace ops {

struct matmul_options {
  matmul_path path = matmul_path::automatic;
  /// Set: activations may be quantized so. Quantizing them changes the result, hence the default
  /// no.
  std::optional<activation_quantization> activations = std::nullopt;
};

/// Which path a product takes and why.
struct matmul_plan {
  struct rejection {
    matmul_path path;
    std::string reason;
  };

  /// What happens beside the products of parts, outermost first.
  std::vector<std::string_view> steps = {};
  matmul_path path = matmul_path::dequantize;
  std::string_view family = {};   ///< "eigen" or a kernel family
  std::string_view variant = {};  ///< the family's variant, "" for Eigen
  std::string reason = {};
  std::vector<rejection> rejected = {};  ///< the other paths, and why not

  /// One line for people.
  [[nodiscard]] std::string text() const {
    std::string line;
    for (const std::string_view step : steps) line.append(step).append(", ");
    line.append(lowbit::detail::message(name_of(path), " through ", family,
                                        variant.empty() ? "" : "/", variant, ": ", reason));
    for (const rejection& r : rejected) {
      line.append("; not ").append(name_of(r.path)).append(": ").append(r.reason);
    }
    return line;
  }

  [[nodiscard]] static std::string_view name_of(matmul_path path) noexcept {
    return enum_names<matmul_path>[static_cast<std::size_t>(path)];
  }
};

namespace detail {

/// What is known of a path for a tensor and options: why it cannot be taken, or what it costs.
struct path_estimate {
  std::string obstacle;  ///< empty: the path can be taken
  double cost = 0.0;     ///< vector operations for 64 products
};

template <quantized_tensor T>
[[nodiscard]] index_t count_planes(const T& w) {
  if constexpr (bit_serial_operand<T>) return w.planes().planes();
  return 0;
}

template <quantized_tensor T>
[[nodiscard]] std::string why_no_planes(const T& w) {
  const index_t planes = count_planes(w);
  if (planes == 0) {
    return lowbit::detail::message("format '", T::format::name, "' has no bit-planes");
  }
  if (planes > 8) {
    return lowbit::detail::message("format '", T::format::name, "' has ", planes,
                                   " bit-planes, kernels take 8");
  }
  return {};
}

inline constexpr std::string_view no_consent =
    "it quantizes activations: set matmul_options::activations";
inline constexpr std::string_view no_residual_of_tables =
    "products with signs round sums of activations, of which there is no residual: use split none "
    "or clipped";

template <quantized_tensor T>
[[nodiscard]] path_estimate estimate_bit_serial(const T& w, const matmul_options& options) {
  path_estimate e{.obstacle = why_no_planes(w)};
  if (!e.obstacle.empty()) return e;
  if (!options.activations) {
    e.obstacle = no_consent;
    return e;
  }
  e.cost = 0.6 * static_cast<double>(count_planes(w)) * options.activations->bits;
  return e;
}

template <quantized_tensor T>
[[nodiscard]] path_estimate estimate_int8(const T& w, const matmul_options& options) {
  path_estimate e;
  if constexpr (!packable<T>) {
    e.obstacle = lowbit::detail::message("format '", T::format::name, "' has no codes or planes");
    return e;
  }
  if constexpr (!code_operand<T> && !sign_operand<T>) e.obstacle = why_no_planes(w);
  if (!e.obstacle.empty()) return e;
  if (!options.activations) {
    e.obstacle = no_consent;
  } else if (options.activations->kind != symmetry::symmetric) {
    e.obstacle = "int8 activations are symmetric";
  } else if (options.activations->bits < 2) {
    e.obstacle = "int8 activations have 2 bits at least";
  } else if (sign_operand<T> && options.activations->split == activation_split::residual) {
    e.obstacle = no_residual_of_tables;
  }
  e.cost = sign_operand<T>   ? 0.6
           : code_operand<T> ? 2.0
                             : 2.0 * static_cast<double>(count_planes(w));
  return e;
}

/// The path of a product and what it was chosen by.
struct path_choice {
  matmul_path path;
  path_estimate int8;
  path_estimate bit_serial;
};

/// What matmul() does on every call: explain() without its texts.
template <quantized_tensor T>
[[nodiscard]] path_choice choose_path(const T& w, const matmul_options& options) {
  path_choice c{options.path, estimate_int8(w, options), estimate_bit_serial(w, options)};
  const bool can_int8 = c.int8.obstacle.empty();
  const bool can_bits = c.bit_serial.obstacle.empty();
  LOWBIT_CHECK(c.path != matmul_path::int8 || can_int8, value, "path int8: ", c.int8.obstacle);
  LOWBIT_CHECK(c.path != matmul_path::bit_serial || can_bits, value,
               "path bit_serial: ", c.bit_serial.obstacle);
  if (c.path == matmul_path::automatic) {
    c.path = can_int8 && (!can_bits || c.int8.cost <= c.bit_serial.cost) ? matmul_path::int8
             : can_bits                                                  ? matmul_path::bit_serial
                                                                         : matmul_path::dequantize;
  }
  return c;
}

}  // namespace detail

/// What matmul() will do with a tensor. Refuses a path that the type or the options do not allow
/// (value), as matmul() does.
template <quantized_tensor T>
[[nodiscard]] matmul_plan explain(const T& w, const kernels::context& ctx,
                                  const matmul_options& options = {}) {
  const detail::path_choice choice = detail::choose_path(w, options);
  const bool asked = options.path != matmul_path::automatic;
  const auto text_of = [](const detail::path_estimate& e) {
    return e.obstacle.empty()
               ? lowbit::detail::message(e.cost, " vector operations for 64 products")
               : e.obstacle;
  };
  matmul_plan plan;
  plan.path = choice.path;
  switch (plan.path) {
    case matmul_path::int8:
      if constexpr (packable<T>) plan.family = int8_family<T>;
      plan.variant = sign_operand<T> ? kernels::select_sign_gemm(ctx.allowed).name
                                     : kernels::select_code_gemm(ctx.allowed).name;
      plan.reason = text_of(choice.int8);
      break;
    case matmul_path::bit_serial:
      plan.family = "bit_gemm";
      plan.variant = kernels::select_bit_gemm(ctx.allowed).name;
      plan.reason = text_of(choice.bit_serial);
      break;
    default:
      plan.family = "eigen";
      plan.reason = "every format can, and activations stay float";
      break;
  }
  if (asked) plan.reason = "asked for";
  const auto reject = [&](matmul_path other, std::string why) {
    if (other != plan.path) {
      plan.rejected.push_back({other, asked ? "not asked for" : std::move(why)});
    }
  };
  reject(matmul_path::int8, text_of(choice.int8));
  reject(matmul_path::bit_serial, text_of(choice.bit_serial));
  reject(matmul_path::dequantize, "decoding every weight to float costs more");
  return plan;
}

/// The same for a tensor made of parts: the plan of its first part.
template <composite_operand T>
[[nodiscard]] matmul_plan explain(const T& w, const kernels::context& ctx,
                                  const matmul_options& options = {}) {
  matmul_plan plan = explain(w.part(0), ctx, options);
  plan.steps.insert(plan.steps.begin(), T::product_step());
  return plan;
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
  const index_t block_rows = dequantize_block_rows(w);
  const index_t block_size = checked_mul(std::min(shape.rows, block_rows), shape.cols, "block");
  kernels::workspace own;
  kernels::workspace& scratch = ctx.scratch != nullptr ? *ctx.scratch : own;
  scratch.reserve(kernels::workers(ctx), checked_mul(block_size, sizeof(float), "block"));
  kernels::parallel_for_blocks(ctx, shape.rows, block_rows, [&](row_range rows, index_t worker) {
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
void multiply_tile(const T& w, row_range rows, const kernels::quantized_activations& x,
                   const kernels::plane_activations& planes, matrix_view<float> y,
                   kernels::bit_gemm_tile_fn run) {
  constexpr index_t lanes = kernels::bit_gemm_tile_rows;
  constexpr index_t token_block = 16;
  const kernels::packed_weight_planes tile(w.planes(), rows, w.group_size(),
                                           kernels::plane_encoding::unsigned_code);
  std::array<std::int64_t, token_block * lanes> sums;
  std::array<std::array<float, 8>, lanes> coefficients{};
  std::array<float, lanes> offsets{};
  std::array<float, token_block * lanes> group_values;

  for (index_t token = 0; token < x.shape().rows; token += token_block) {
    const index_t tokens = std::min(token_block, x.shape().rows - token);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t r = 0; r < rows.size(); ++r) y(token + t, rows.begin + r) = 0.0F;
    }
    for (index_t g = 0; g < tile.groups().count(); ++g) {
      const auto columns = static_cast<std::int64_t>(tile.groups().size(g));
      for (index_t r = 0; r < rows.size(); ++r) {
        offsets[r] = w.plane_coefficients(rows.begin + r, g, coefficients[r]);
      }
      for (index_t t = 0; t < tokens; ++t) {
        const int twice_zero = x.scaling(token + t, g).twice_zero;
        const auto twice_sum = 2 * planes.sum_codes(token + t, g) - twice_zero * columns;
        for (index_t r = 0; r < rows.size(); ++r) {
          group_values[t * lanes + r] = offsets[r] * (0.5F * static_cast<float>(twice_sum));
        }
      }
      for (index_t i = 0; i < tile.planes(); ++i) {
        run({.weights = tile.plane(0, g, i).data(),
             .activations = planes.group(token, g).data(),
             .sums = sums.data(),
             .words = planes.words(),
             .tokens = tokens,
             .activation_stride = planes.stride(),
             .weight_planes = 1,
             .activation_planes = x.bits()});
        const auto ones = tile.count_ones(0, g, i);
        for (index_t t = 0; t < tokens; ++t) {
          const int twice_zero = x.scaling(token + t, g).twice_zero;
          for (index_t r = 0; r < rows.size(); ++r) {
            const std::int64_t twice = 2 * sums[t * lanes + r] - twice_zero * ones[r];
            float& value = group_values[t * lanes + r];
            value = std::fma(coefficients[r][i], 0.5F * static_cast<float>(twice), value);
          }
        }
      }
      for (index_t t = 0; t < tokens; ++t) {
        const float step = x.scaling(token + t, g).step;
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
  const kernels::quantized_activations codes(x,
                                             {.bits = how.bits,
                                              .kind = how.kind,
                                              .group_size = w.group_size(),
                                              .per_group = how.per_group},
                                             ctx);
  const kernels::plane_activations planes(codes, ctx);
  const auto run = kernels::select_bit_gemm(ctx.allowed).run;
  kernels::parallel_for_blocks(
      ctx, w.shape().rows, kernels::bit_gemm_tile_rows,
      [&](row_range rows) { multiply_tile(w, rows, codes, planes, y, run); });
}

/// Packs and multiplies block by block, so that memory stays bounded.
template <sign_operand T>
void matmul_int8(matrix_view<const float> x, const T& w, matrix_view<float> y,
                 const kernels::context& ctx, const activation_quantization& how) {
  const kernels::sign_activations tables(x, how.bits, ctx);
  const kernels::context serial = ctx.serial();
  constexpr index_t block = kernels::sign_block_tiles * kernels::sign_tile_rows;
  kernels::parallel_for_blocks(ctx, w.shape().rows, block, [&](row_range rows) {
    kernels::sign_gemm(pack(w, rows, serial), tables, y.middle_cols(rows.begin, rows.end), serial);
  });
}
template <packable T>
void matmul_int8(matrix_view<const float> x, const T& w, matrix_view<float> y,
                 const kernels::context& ctx, const activation_quantization& how) {
  const kernels::int8_activations codes(
      x, {.bits = how.bits, .group_size = w.group_size(), .per_group = how.per_group}, ctx);
  const kernels::context serial = ctx.serial();
  kernels::parallel_for_blocks(ctx, w.shape().rows, kernels::code_tile_rows, [&](row_range rows) {
    kernels::code_gemm(pack(w, rows, serial), codes, y.middle_cols(rows.begin, rows.end), serial);
  });
}

/// Columns that share a scale.
template <packable T>
[[nodiscard]] index_t scale_columns(const T& w) {
  if constexpr (sign_operand<T>) {
    return std::max<index_t>(w.shape().cols, 1);
  } else {
    return w.group_size();
  }
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
  const matmul_path path = detail::choose_path(w, options).path;
  if constexpr (packable<T>) {
    if (path == matmul_path::int8) {
      return detail::multiply_split(x, y, *options.activations, detail::scale_columns(w), ctx,
                                    [&](matrix_view<const float> in, matrix_view<float> out) {
                                      detail::matmul_int8(in, w, out, ctx, *options.activations);
                                    });
    }
  }
  if constexpr (bit_serial_operand<T>) {
    if (path == matmul_path::bit_serial) {
      return detail::multiply_split(x, y, *options.activations, w.group_size(), ctx,
                                    [&](matrix_view<const float> in, matrix_view<float> out) {
                                      detail::matmul_bit_serial(in, w, out, ctx,
                                                                *options.activations);
                                    });
    }
  }
  detail::matmul_dequantize(x, w, y, ctx);
}

/// The same for a tensor made of parts. Transforming inputs may round finite ones to Inf and
/// spreads NaN; a refusal then tells the place in the transformed inputs.
template <composite_operand T>
void matmul(matrix_view<const float> x, const T& w, matrix_view<float> y,
            const kernels::context& ctx, const matmul_options& options = {}) {
  detail::check_product(x, w, y);
  w.multiply(x, y, ctx, [&](index_t part, matrix_view<const float> in, matrix_view<float> out) {
    matmul(in, w.part(part), out, ctx, options);
  });
}

/// The same with weights packed once (pack()), by the path int8: the same bits as matmul() on the
/// tensor. Activations are quantized symmetrically. Refuses shapes that do not fit (shape) and
/// NaN/Inf in x (value).
inline void matmul(matrix_view<const float> x, const kernels::packed_codes& w, matrix_view<float> y,
                   const kernels::context& ctx, const activation_quantization& how = {}) {
  detail::check_product(x, w, y);
  const index_t group_size = w.runs().group_size();
  detail::multiply_split(x, y, how, group_size, ctx,
                         [&](matrix_view<const float> in, matrix_view<float> out) {
                           const kernels::int8_activations codes(in,
                                                                 {.bits = how.bits,
                                                                  .kind = how.kind,
                                                                  .group_size = group_size,
                                                                  .per_group = how.per_group},
                                                                 ctx);
                           kernels::code_gemm(w, codes, out, ctx);
                         });
}

/// The same for packed signs. Refuses also activations that are not symmetric or split into
/// residuals (value).
inline void matmul(matrix_view<const float> x, const kernels::packed_signs& w, matrix_view<float> y,
                   const kernels::context& ctx, const activation_quantization& how = {}) {
  detail::check_product(x, w, y);
  LOWBIT_CHECK(how.kind == symmetry::symmetric, value, "int8 activations are symmetric");
  LOWBIT_CHECK(how.split != activation_split::residual, value, detail::no_residual_of_tables);
  detail::multiply_split(x, y, how, std::max<index_t>(x.cols(), 1), ctx,
                         [&](matrix_view<const float> in, matrix_view<float> out) {
                           const kernels::sign_activations tables(in, how.bits, ctx);
                           kernels::sign_gemm(w, tables, out, ctx);
                         });
}

/// The same for a tensor made of parts.
template <composite_operand T>
void matmul(matrix_view<const float> x, const packed_parts<T>& w, matrix_view<float> y,
            const kernels::context& ctx, const activation_quantization& how = {}) {
  detail::check_product(x, w.tensor(), y);
  w.tensor().multiply(x, y, ctx,
                      [&](index_t part, matrix_view<const float> in, matrix_view<float> out) {
                        matmul(in, w.part(part), out, ctx, how);
                      });
}

}  // namespace ops
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
