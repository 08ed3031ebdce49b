// io/params_json.hpp: params aggregates as JSON objects and back. Layer L4.
//
// Invariants: {"field": value, ...} in the order in which describe() names the fields; choices are
// written by name; reals so that they come back exactly. Reading is strict: every field must be
// there, with the right type and inside its range, and nothing else.
#pragma once

#include <cmath>

#include "lowbit/core/params.hpp"
#include "lowbit/core/tensor_ref.hpp"
#include "lowbit/io/detail/json.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

namespace detail {

/// Appends what it visits to a JSON object.
class params_json_writer final : public params_visitor {
 public:
  void integer(field f, std::int64_t& value, std::int64_t, std::int64_t) override {
    put(f, json(value));
  }
  void real(field f, double& value, double, double) override {
    LOWBIT_CHECK(std::isfinite(value), value, f.name, " = ", value, " cannot be written as JSON");
    put(f, json(value));
  }
  void choice(field f, std::size_t& index, std::span<const std::string_view> names) override {
    LOWBIT_CHECK(index < names.size(), value, f.name, " has no choice number ", index);
    put(f, json(names[index]));
  }
  /// The object, compact.
  [[nodiscard]] std::string text() const { return "{" + fields_ + "}"; }

 private:
  void put(field f, const json& value) {
    if (!fields_.empty()) fields_ += ',';
    fields_ += json(f.name).dump() + ":" + value.dump();
  }

  std::string fields_;
};

/// Sets what it visits from a JSON object.
class params_json_reader final : public params_visitor {
 public:
  explicit params_json_reader(strict_object& fields) : fields_(fields) {}

  void integer(field f, std::int64_t& value, std::int64_t min, std::int64_t max) override {
    value = fields_.integer(f.name);
    check_range(f, value, min, max);
  }
  void real(field f, double& value, double min, double max) override {
    value = fields_.real(f.name);
    check_range(f, value, min, max);
  }
  void choice(field f, std::size_t& index, std::span<const std::string_view> names) override {
    const std::string& name = fields_.text(f.name);
    const auto found = std::find(names.begin(), names.end(), name);
    LOWBIT_CHECK(found != names.end(), format, fields_.where(), ": ", f.name, " is ",
                 in_quotes(name), ", which is none of ", list(names));
    index = static_cast<std::size_t>(found - names.begin());
  }

 private:
  /// The visitor's own check would refuse too, but could not say in which file.
  template <class Number>
  void check_range(field f, Number value, Number min, Number max) const {
    LOWBIT_CHECK(value >= min && value <= max, format, fields_.where(), ": ", f.name, " = ", value,
                 " is outside ", min, "..", max);
  }
  [[nodiscard]] static std::string list(std::span<const std::string_view> names) {
    std::string out;
    for (const std::string_view name : names)
      out.append(out.empty() ? "" : ", ").append(in_quotes(name));
    return out;
  }

  strict_object& fields_;
};

/// The params of a tensor as params_to_json() writes them.
[[nodiscard]] inline std::string params_to_json(tensor_ref tensor) {
  params_json_writer writer;
  tensor.describe_params(writer);
  return writer.text();
}

/// params_from_json for a document that is parsed already.
template <class Described, class Params>
[[nodiscard]] Params params_from_object(const json& object, std::string where) {
  strict_object fields(object, std::move(where));
  params_json_reader reader(fields);
  Params params{};
  Described::describe(params, reader);
  fields.check_all_asked();
  return params;
}

}  // namespace detail

/// The params as compact JSON. `Described` has the static describe(), such as a format for its
/// params or a quantizer for itself. Refuses (error_kind::value) what is outside its range.
template <class Described, class Params>
[[nodiscard]] std::string params_to_json(const Params& params) {
  detail::params_json_writer writer;
  Params copy = params;  // describe() may write to what it visits
  Described::describe(copy, writer);
  return writer.text();
}

/// The params that `text` holds. Refuses (error_kind::format) what is not exactly one object with
/// the described fields; the message starts with `where`.
template <class Described, class Params>
[[nodiscard]] Params params_from_json(std::string_view text, std::string_view where) {
  return detail::params_from_object<Described, Params>(detail::parse_document(text, where),
                                                       std::string(where));
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
