// decorators/permuted.hpp: a base tensor whose columns stand in another order. Layer L3.
//
// Error feedback quantizes columns by falling energy and groups neighbours (GPTQ's "act-order",
// arXiv 2210.17323): B holds the columns in that order. T x = x[order].
//
// Stored: column_order, U16 [K] for K <= 65536, else U32 [K]: W[:, order[k]] = B[:, k].
#pragma once

#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "lowbit/decorators/input_transformed.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// out[k] = in[order[k]]. Exact.
class column_permutation {
 public:
  struct format {
    static constexpr std::string_view name = "permuted";
    static constexpr std::uint32_t version = 1;

    struct params {
      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params&, params_visitor&) {}
  };

  static constexpr std::string_view inputs_step = "permuted inputs";

  /// Refuses (value) what does not hold each of 0 .. K-1 once, and (shape) K above 2^32.
  explicit column_permutation(std::span<const index_t> order) : column_permutation(order.size()) {
    for (index_t k = 0; k < columns_; ++k) {
      LOWBIT_CHECK(order[k] < columns_, value, "column_order[", k, "] is ", order[k], " of ",
                   columns_, " columns");
      if (is_narrow(columns_)) {
        narrow_[k] = static_cast<std::uint16_t>(order[k]);
      } else {
        wide_[k] = static_cast<std::uint32_t>(order[k]);
      }
    }
    const index_t bad = first_not_new();
    LOWBIT_CHECK(bad == columns_, value, "column_order[", bad, "] = ", order[bad],
                 " stands there twice");
  }

  [[nodiscard]] index_t columns() const noexcept { return columns_; }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  /// The column of W that is column k of B.
  [[nodiscard]] index_t order(index_t k) const noexcept {
    return is_narrow(columns_) ? narrow_[k] : wide_[k];
  }

  template <std::floating_point Real>
  void transform_input(std::type_identity_t<std::span<const Real>> x,
                       std::span<Real> out) const noexcept {
    for (index_t k = 0; k < columns_; ++k) out[k] = x[order(k)];
  }
  void transform_weights(std::span<const float> w, std::span<float> out) const noexcept {
    transform_input(w, out);
  }
  void restore_weights(std::span<const float> b, std::span<float> out) const noexcept {
    for (index_t k = 0; k < columns_; ++k) out[order(k)] = b[k];
  }
  /// One importance per column of W (see calibration) to one per column of B.
  void transform_importance(std::span<const float> importance,
                            std::span<float> out) const noexcept {
    transform_input(importance, out);
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    visitor({"column_order",
             element(columns_),
             {&columns_, 1},
             is_narrow(columns_) ? std::as_bytes(narrow_.span()) : std::as_bytes(wide_.span())});
  }
  /// Refuses (format) what is no permutation.
  [[nodiscard]] static column_permutation from_buffers(index_t columns, const format::params&,
                                                       buffer_source& source) {
    const auto bytes = source.get("column_order", element(columns), {&columns, 1});
    column_permutation t(columns);
    const auto to = is_narrow(columns) ? std::as_writable_bytes(t.narrow_.span())
                                       : std::as_writable_bytes(t.wide_.span());
    if (!to.empty()) std::memcpy(to.data(), bytes.data(), to.size());
    const index_t bad = t.first_not_new();
    LOWBIT_CHECK(bad == columns, format, "column_order[", bad, "] = ", t.order(bad), ": of ",
                 columns, " columns each must be there once");
    return t;
  }

 private:
  /// Every entry 0.
  explicit column_permutation(index_t columns)
      : columns_(columns),
        narrow_(is_narrow(columns) ? columns : 0),
        wide_(is_narrow(columns) ? 0 : columns) {
    LOWBIT_CHECK(columns <= (index_t{1} << 32U), shape, columns,
                 " columns are more than a permutation can store");
  }

  [[nodiscard]] static constexpr bool is_narrow(index_t columns) noexcept {
    return columns <= 65536;
  }
  [[nodiscard]] static constexpr element_type element(index_t columns) noexcept {
    return is_narrow(columns) ? element_type::u16 : element_type::u32;
  }
  /// The first entry that is out of range or was there before; columns() if this is a permutation.
  [[nodiscard]] index_t first_not_new() const {
    std::vector<bool> seen(columns_, false);
    for (index_t k = 0; k < columns_; ++k) {
      if (order(k) >= columns_ || seen[order(k)]) return k;
      seen[order(k)] = true;
    }
    return columns_;
  }

  index_t columns_;
  format::params params_;
  aligned_buffer<std::uint16_t> narrow_;  // exactly one of these two holds the order
  aligned_buffer<std::uint32_t> wide_;
};

static_assert(input_transform<column_permutation>);

/// W[:, order[k]] = B[:, k].
template <quantized_tensor Base>
using permuted = input_transformed<Base, column_permutation>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
