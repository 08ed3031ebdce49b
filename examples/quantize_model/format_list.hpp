// format_list.hpp: the formats that the program offers. The only file that needs the types of
// quantizers: all else is compiled once, whatever the formats.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fields.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/ptq/any_quantizer.hpp"
#include "lowbit/ptq/replicate.hpp"

namespace quantize_model {

/// A quantizer of some format, with values for its fields. Immutable; thread-safe.
class tuned_quantizer {
 public:
  virtual ~tuned_quantizer() = default;
  [[nodiscard]] virtual const lowbit::ptq::any_quantizer& plain() const = 0;
  /// The same for matrices that are stored several times. Refuses (value) formats that are fitted
  /// as a whole.
  [[nodiscard]] virtual std::unique_ptr<const lowbit::ptq::any_quantizer> replicating(
      const lowbit::ptq::replicate_options& how) const = 0;
  [[nodiscard]] virtual std::vector<field_text> fields() const = 0;
};

/// A format of the program's list.
struct format_entry {
  std::string name;
  std::uint32_t version = 0;
  std::string summary;
  /// A quantizer whose fields are those that the visitor leaves.
  std::shared_ptr<const tuned_quantizer> (*tune)(lowbit::params_visitor& setter) = nullptr;
};
using format_entries = std::vector<format_entry>;

/// Its fields as they are by default.
[[nodiscard]] inline std::vector<field_text> default_fields(const format_entry& entry) {
  field_setter none{field_texts{}};
  return entry.tune(none)->fields();
}

template <lowbit::quantizer Q>
class tuned_quantizer_of final : public tuned_quantizer {
 public:
  explicit tuned_quantizer_of(Q quantizer) : quantizer_(quantizer), plain_(quantizer) {}

  [[nodiscard]] const lowbit::ptq::any_quantizer& plain() const override { return plain_; }
  [[nodiscard]] std::unique_ptr<const lowbit::ptq::any_quantizer> replicating(
      [[maybe_unused]] const lowbit::ptq::replicate_options& how) const override {
    if constexpr (lowbit::groupwise_quantizer<Q>) {
      using several = lowbit::ptq::replicating<Q>;
      return std::make_unique<lowbit::ptq::erased<several>>(several{quantizer_, how});
    } else {
      LOWBIT_CHECK(false, value, "format '", lowbit::format_of<Q>::name,
                   "' is fitted as a whole: replicate does not apply to it");
      return nullptr;
    }
  }
  [[nodiscard]] std::vector<field_text> fields() const override { return list_fields(quantizer_); }

 private:
  const Q quantizer_;
  const lowbit::ptq::erased<Q> plain_;
};

/// The formats of a lowbit::format_list.
template <class FormatList>
[[nodiscard]] format_entries list_formats() {
  format_entries list;
  FormatList::for_each([&]<class Q>(std::type_identity<Q>) {
    using format = lowbit::format_of<Q>;
    list.push_back({std::string(std::string_view(format::name)), format::version,
                    std::string(std::string_view(Q::summary)), [](lowbit::params_visitor& setter) {
                      Q quantizer{};
                      Q::describe(quantizer, setter);
                      return std::shared_ptr<const tuned_quantizer>(
                          std::make_shared<tuned_quantizer_of<Q>>(std::move(quantizer)));
                    }});
  });
  return list;
}

}  // namespace quantize_model
