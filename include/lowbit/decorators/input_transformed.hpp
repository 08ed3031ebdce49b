// decorators/input_transformed.hpp: a decorator over any quantized tensor: W = B T, where B is the
// base tensor's matrix and T a cheap map of the inputs. Layer L3.
//
// y = W x = B (T x): a product transforms the inputs once and goes the way of the base (see
// ops/matmul.hpp). Decorators nest: rotated<permuted<T>> rotates the inputs, then permutes them.
//
// Stored: the params of the transform, then the base's, as one flat list; the buffers of the
// transform, then the base's, under their own names.
#pragma once

#include <array>
#include <string_view>

#include "lowbit/decorators/transform.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

template <quantized_tensor Base, input_transform Transform>
class input_transformed;

namespace detail {

/// "first.second" in static storage.
template <class First, class Second>
struct dotted_name {
  static constexpr std::string_view first = First::name;
  static constexpr std::string_view second = Second::name;
  static constexpr auto text = [] {
    std::array<char, first.size() + 1 + second.size()> chars{};
    auto at = std::copy(first.begin(), first.end(), chars.begin());
    *at++ = '.';
    std::copy(second.begin(), second.end(), at);
    return chars;
  }();
  static constexpr std::string_view value{text.data(), text.size()};
};

/// Whether a tensor is decorated with this transform, at whatever depth.
template <class T, class Transform>
inline constexpr bool has_transform = false;
template <class Base, class Other, class Transform>
inline constexpr bool has_transform<input_transformed<Base, Other>, Transform> =
    std::same_as<Other, Transform> || has_transform<Base, Transform>;

}  // namespace detail

/// Models quantized_tensor and input_transformed_operand. Copyable if its parts are.
template <quantized_tensor Base, input_transform Transform>
class input_transformed {
  static_assert(!detail::has_transform<Base, Transform>,
                "a tensor has each transform once: twice, their params and buffers would clash");

 public:
  struct format {
    static constexpr std::string_view name =
        detail::dotted_name<typename Transform::format, typename Base::format>::value;
    /// Versions only grow, and so does their sum: no two layouts of this name get the same.
    static constexpr std::uint32_t version =
        static_cast<std::uint32_t>(Transform::format::version) +
        static_cast<std::uint32_t>(Base::format::version) - 1U;

    struct params {
      typename Transform::format::params transform = {};
      typename Base::format::params base = {};

      friend bool operator==(const params&, const params&) = default;
    };

    static void describe(params& p, params_visitor& v) {
      Transform::format::describe(p.transform, v);
      Base::format::describe(p.base, v);
    }
  };

  /// W = base * transform. Refuses parts with different numbers of columns (shape).
  input_transformed(Transform transform, Base base)
      : transform_(std::move(transform)),
        base_(std::move(base)),
        params_{transform_.params(), base_.params()} {
    LOWBIT_CHECK(transform_.columns() == base_.shape().cols, shape, "a transform of ",
                 transform_.columns(), " columns does not fit a tensor of ", base_.shape().cols);
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return base_.shape(); }
  [[nodiscard]] const typename format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  /// Rows of the base, each through Transform::restore_weights().
  void dequantize(row_range rows, matrix_view<float> out) const {
    base_.dequantize(rows, out);
    if (out.empty()) return;
    aligned_buffer<float> row(out.cols());
    for (index_t r = 0; r < out.rows(); ++r) {
      std::copy_n(out.row(r).data(), row.size(), row.data());
      transform_.restore_weights(row.span(), out.row(r));
    }
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    transform_.for_each_buffer(visitor);
    base_.for_each_buffer(visitor);
  }

  /// Refuses what either part refuses (format).
  [[nodiscard]] static input_transformed from_buffers(shape2 shape,
                                                      const typename format::params& params,
                                                      buffer_source& source) {
    Base base = Base::from_buffers(shape, params.base, source);
    return {Transform::from_buffers(shape.cols, params.transform, source), std::move(base)};
  }

  // -- input_transformed_operand -----------------------------------------------------------------

  [[nodiscard]] static constexpr std::string_view transform_name() noexcept {
    return Transform::format::name;
  }
  [[nodiscard]] const Base& base() const noexcept { return base_; }
  /// out [M, K] = x T^T, row by row. Refuses other shapes (shape).
  void transform_inputs(matrix_view<const float> x, matrix_view<float> out) const {
    decorators::transform_inputs(transform_, x, out);
  }

  [[nodiscard]] const Transform& transform() const noexcept { return transform_; }

 private:
  Transform transform_;
  Base base_;
  typename format::params params_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
