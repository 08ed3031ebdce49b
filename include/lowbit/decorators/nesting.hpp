// decorators/nesting.hpp: the format of a decorated tensor, made of its own and its base's. Layer
// L3.
//
// Decorators nest, and a nest is stored flat: one list of params and one of buffers, outermost
// first. So the fields and buffers of a decorator have names that no other part uses, and a tensor
// has each decorator once. (Over an any_tensor, whose own decorators no type shows, that is up to
// who nests them.)
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "lowbit/core/quantized_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

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

}  // namespace detail

template <format_tag Own, format_tag Base>
struct nested_format;

/// Whether a format is, or decorates, one that is decorated with Own.
template <class Format, class Own>
inline constexpr bool has_decorator = false;
template <class Other, class Base, class Own>
inline constexpr bool has_decorator<nested_format<Other, Base>, Own> =
    std::same_as<Other, Own> || has_decorator<Base, Own>;

/// What a decorator stores beside a base: a format_tag whose name is "own.base".
template <format_tag Own, format_tag Base>
struct nested_format {
  static_assert(!has_decorator<Base, Own>,
                "a tensor has each decorator once: twice, their params and buffers would clash");

  static constexpr std::string_view name = detail::dotted_name<Own, Base>::value;
  /// Versions only grow, and so does their sum: no two layouts of this name get the same.
  static constexpr std::uint32_t version =
      static_cast<std::uint32_t>(Own::version) + static_cast<std::uint32_t>(Base::version) - 1U;

  struct params {
    typename Own::params own = {};
    typename Base::params base = {};

    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params& p, params_visitor& v) {
    Own::describe(p.own, v);
    Base::describe(p.base, v);
  }

  // open_format, over a base that is one.
  [[nodiscard]] static std::string name_of(const params& p) requires open_format<Base> {
    return lowbit::detail::message(Own::name, ".", Base::name_of(p.base));
  }
  [[nodiscard]] static std::uint32_t version_of(const params& p) requires open_format<Base> {
    return static_cast<std::uint32_t>(Own::version) + Base::version_of(p.base) - 1U;
  }
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
