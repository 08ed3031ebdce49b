// core/params.hpp: how parameters describe themselves, once, for files, command lines and tables.
// Layer L1.
//
// A params aggregate has one static function `describe(params&, params_visitor&)` that names every
// field with its legal range. IO writes and checks what it visits, a command line makes an option
// of it, a listing prints it: none of them knows a format.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>

#include "lowbit/core/error.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// The name (snake_case, stable: it is written to files) and one line of help of a field.
struct field {
  std::string_view name;
  std::string_view help;
};

/// The names of an enumeration, in the order of its values from 0 on. Specialise for each
/// enumeration that is a field: `template <> inline constexpr std::string_view enum_names<E>[]`.
template <class E>
inline constexpr std::string_view enum_names[] = {""};

/// What a field that is a number may be. A yes or no is an enumeration.
template <class T>
concept number_field = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

/// Visits the fields of a params aggregate. A visitor may read or replace the values; what it
/// leaves there must be in range, which check() verifies.
class params_visitor {
 public:
  virtual ~params_visitor() = default;

  virtual void integer(field f, std::int64_t& value, std::int64_t min, std::int64_t max) = 0;
  virtual void real(field f, double& value, double min, double max) = 0;
  /// `index` selects one of `names`.
  virtual void choice(field f, std::size_t& index, std::span<const std::string_view> names) = 0;

  /// Integers and reals: `min` and `max` are inclusive.
  template <number_field T>
  void operator()(field f, T& value, T min, T max) {
    if constexpr (std::is_integral_v<T>) {
      auto wide = static_cast<std::int64_t>(value);
      integer(f, wide, static_cast<std::int64_t>(min), static_cast<std::int64_t>(max));
      LOWBIT_CHECK(wide >= static_cast<std::int64_t>(min) && wide <= static_cast<std::int64_t>(max),
                   value, f.name, " = ", wide, " is outside ", min, "..", max);
      value = static_cast<T>(wide);
    } else {
      auto wide = static_cast<double>(value);
      real(f, wide, static_cast<double>(min), static_cast<double>(max));
      LOWBIT_CHECK(wide >= static_cast<double>(min) && wide <= static_cast<double>(max), value,
                   f.name, " = ", wide, " is outside ", min, "..", max);
      value = static_cast<T>(wide);
    }
  }
  /// Enumerations with enum_names.
  template <class E>
  requires std::is_enum_v<E>
  void operator()(field f, E& value) {
    auto index = static_cast<std::size_t>(value);
    choice(f, index, enum_names<E>);
    LOWBIT_CHECK(index < std::size(enum_names<E>), value, f.name, " has no choice number ", index);
    value = static_cast<E>(index);
  }
};

/// Refuses params with a field outside its range; the message names the field and the value.
template <class Described, class Params>
void check_params(const Params& params) {
  class : public params_visitor {
    void integer(field, std::int64_t&, std::int64_t, std::int64_t) override {}
    void real(field, double&, double, double) override {}
    void choice(field, std::size_t&, std::span<const std::string_view>) override {}
  } only_ranges;  // the checks are in operator()
  Params copy = params;
  Described::describe(copy, only_ranges);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
