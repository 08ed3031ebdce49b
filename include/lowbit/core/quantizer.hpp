// core/quantizer.hpp: what turns floats into a quantized tensor, and lists of formats. Layer L1.
#pragma once

#include <bit>
#include <concepts>
#include <span>
#include <string_view>
#include <type_traits>

#include "lowbit/core/quantized_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// What is known of a layer when its weights are quantized. Everything is optional, and a quantizer
/// uses what it can.
struct calibration {
  /// One weight >= 0 per column (K of them), such as the mean square of the input channel; empty
  /// for none. All zero counts as none.
  std::span<const float> importance = {};
  /// The same per row (N of them), such as the mean square of the loss's gradient there.
  std::span<const float> output_importance = {};
  /// E[x x^T] [K, K] of the inputs x, symmetric; empty for none.
  matrix_view<const double> hessian = {};
};

/// Fits and encodes. Deterministic; quantize() is const and thread-safe. It refuses NaN and Inf
/// with their row and column (value), and params outside their range (value).
template <class Q>
concept quantizer = std::copyable<Q> && std::default_initializable<Q> &&
    quantized_tensor<typename Q::tensor> &&
    requires(const Q& q, Q& mutable_q, matrix_view<const float> weights, const calibration& known,
             params_visitor& visitor) {
  { q.quantize(weights, known) } -> std::same_as<typename Q::tensor>;
  // Every option of the quantizer: the format's params and how to fit them.
  { Q::describe(mutable_q, visitor) } -> std::same_as<void>;
  { Q::summary } -> std::convertible_to<std::string_view>;
};

/// A quantizer with a field that is about the bits per weight (scales and the like not counted,
/// perhaps): `size_field` is its name. Programs that choose sizes themselves vary it.
template <class Q>
concept sized_quantizer = quantizer<Q> && requires {
  { Q::size_field } -> std::convertible_to<std::string_view>;
};

/// The format that a quantizer writes.
template <quantizer Q>
using format_of = typename Q::tensor::format;

/// A list of quantizers, one per format. Tests, IO and tools are written over such a list, so that
/// a new format takes part by one line in it (formats/all.hpp).
template <quantizer... Qs>
struct format_list {
  static constexpr index_t size = sizeof...(Qs);

  /// Calls f(std::type_identity<Q>{}) for every quantizer of the list.
  template <class F>
  static void for_each([[maybe_unused]] F&& f) {
    (f(std::type_identity<Qs>{}), ...);
  }

  /// Calls f for the quantizer whose format has this name; false if there is none.
  template <class F>
  static bool visit([[maybe_unused]] std::string_view name, [[maybe_unused]] F&& f) {
    return ((std::string_view{format_of<Qs>::name} == name ? (f(std::type_identity<Qs>{}), true)
                                                           : false) ||
            ...);
  }
};

/// Refuses an importance that is neither empty nor `count` finite weights >= 0, of `what` each.
inline void check_importance(std::span<const float> importance, index_t count,
                             std::string_view what = "column") {
  if (importance.empty()) return;
  LOWBIT_CHECK(importance.size() == count, shape, "importance has ", importance.size(),
               " values for ", count, " ", what, "s");
  for (index_t c = 0; c < count; ++c) {
    LOWBIT_CHECK(importance[c] >= 0.0F && importance[c] - importance[c] == 0.0F, value,
                 "importance of ", what, " ", c, " is ", importance[c],
                 "; it must be finite and >= 0");
  }
}

/// Refuses a matrix that holds NaN or Inf; the message says whose (`what`), where and which.
inline void check_finite(matrix_view<const float> m, std::string_view what) {
  for (index_t r = 0; r < m.rows(); ++r) {
    const auto row = m.row(r);
    // Adding one to the exponent field carries into the sign bit exactly for Inf and NaN; an OR of
    // integers vectorises where a branch does not.
    std::uint32_t carries = 0;
    for (const float x : row)
      carries |= (std::bit_cast<std::uint32_t>(x) & 0x7fffffffU) + 0x00800000U;
    if ((carries & 0x80000000U) == 0) continue;
    for (index_t c = 0; c < row.size(); ++c) {
      const float x = row[c];
      LOWBIT_CHECK(x - x == 0.0F, value, what, " holds ",
                   x != x ? "NaN" : (x > 0.0F ? "+Inf" : "-Inf"), " at row ", r, ", column ", c);
    }
  }
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
