// testing/quantizer.hpp: does a quantizer keep the promises of its concept?
// Framework-neutral: a downstream project checks its own quantizer with
//   all_passed(check_quantizer(my_quantizer{}))
// and prints failures(...) where that is false.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "lowbit/core/group_codec.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/testing/codec.hpp"
#include "lowbit/testing/format.hpp"
#include "lowbit/testing/matrices.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// What check_quantizer does, and which properties, beyond those of the concept, a quantizer has.
struct quantizer_checks {
  std::uint64_t seed = 1;  ///< of the random matrices; print it where a check fails
  /// Zeros decode to zeros, and zeros that are all +0 to +0.
  bool exact_zero = true;
  /// An importance that is the same power of two for every column is none.
  bool equal_importance_is_none = true;
  /// To quantize what was dequantized costs no more error than the first time did.
  bool requantization = true;
  /// Each field may take each end of its range, or each of its choices, while the others stay.
  bool independent_fields = true;
  /// See codec_checks; for a groupwise_quantizer.
  double coefficient_step = codec_checks{}.coefficient_step;
};

namespace detail {

/// Adds the finding that `f` refuses with an error of this kind whose message holds every text.
template <class F>
void add_refusal_naming([[maybe_unused]] findings& list, [[maybe_unused]] std::string check,
                        [[maybe_unused]] error_kind kind,
                        [[maybe_unused]] const std::vector<std::string>& texts,
                        [[maybe_unused]] F&& f) {
#if LOWBIT_EXCEPTIONS
  try {
    f();
    add(list, std::move(check), false, "was accepted");
  } catch (const error& e) {
    const std::string_view message = e.what();
    std::string missing;
    for (const std::string& text : texts) {
      if (message.find(text) == std::string_view::npos) missing = text;
    }
    add(list, std::move(check), e.kind() == kind && missing.empty(),
        e.kind() == kind ? "the message does not name '" + missing + "': "
                         : "refused with the wrong kind: ",
        message);
  }
#endif
}

/// One field as describe() shows it, and its value as text.
struct described_field {
  std::string name;
  std::string help;
  std::string value;
  index_t settings;  ///< how many values set_field tries: both ends of a range, or every choice
};

/// Lists the fields and, where it is asked to, changes one of them.
class field_visitor final : public params_visitor {
 public:
  enum class change : std::uint8_t { none, to_setting, too_low, too_high, not_a_number };

  field_visitor() = default;
  field_visitor(index_t field_number, change what, index_t setting = 0)
      : target_(field_number), change_(what), setting_(setting) {}

  void integer(field f, std::int64_t& value, std::int64_t min, std::int64_t max) override {
    constexpr auto lowest = std::numeric_limits<std::int64_t>::min();
    constexpr auto highest = std::numeric_limits<std::int64_t>::max();
    switch (asked()) {
      case change::none: break;
      case change::to_setting: changed_ = true, value = setting_ == 0 ? min : max; break;
      case change::too_low:
        if (min != lowest) changed_ = true, value = min - 1;
        break;
      case change::too_high:
        if (max != highest) changed_ = true, value = max + 1;
        break;
      case change::not_a_number: break;
    }
    list(f, lowbit::detail::message(value), min <= max ? 2 : 0);
  }
  void real(field f, double& value, double min, double max) override {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    switch (asked()) {
      case change::none: break;
      case change::to_setting: changed_ = true, value = setting_ == 0 ? min : max; break;
      case change::too_low:
        if (min != -infinity) changed_ = true, value = std::nextafter(min, -infinity);
        break;
      case change::too_high:
        if (max != infinity) changed_ = true, value = std::nextafter(max, infinity);
        break;
      case change::not_a_number:
        changed_ = true, value = std::numeric_limits<double>::quiet_NaN();
        break;
    }
    list(f, lowbit::detail::message(value), min <= max ? 2 : 0);
  }
  void choice(field f, std::size_t& index, std::span<const std::string_view> names) override {
    switch (asked()) {
      case change::to_setting: changed_ = true, index = setting_; break;
      case change::too_high: changed_ = true, index = names.size(); break;
      default: break;
    }
    list(f, index < names.size() ? std::string(names[index]) : "", names.size());
  }

  [[nodiscard]] const std::vector<described_field>& fields() const noexcept { return fields_; }
  /// Whether the change was possible.
  [[nodiscard]] bool changed() const noexcept { return changed_; }

 private:
  [[nodiscard]] change asked() const noexcept {
    return fields_.size() == target_ ? change_ : change::none;
  }
  void list(field f, std::string value, index_t settings) {
    fields_.push_back({std::string(f.name), std::string(f.help), std::move(value), settings});
  }

  index_t target_ = std::numeric_limits<index_t>::max();
  change change_ = change::none;
  index_t setting_ = 0;
  bool changed_ = false;
  std::vector<described_field> fields_;
};

template <quantizer Q>
[[nodiscard]] std::vector<described_field> list_fields(const Q& q) {
  Q copy = q;
  field_visitor fields;
  Q::describe(copy, fields);
  return fields.fields();
}

template <quantizer Q>
class quantizer_checks_run {
 public:
  quantizer_checks_run(findings& list, const Q& q, const quantizer_checks& options)
      : list_(list), q_(q), options_(options), sample_(normal_matrix({3, 70}, options.seed)) {}

  void run() {
    attempt(list_, "describe", [this] { check_description(); });
    for (const test_matrix& m : conformance_matrices(options_.seed)) {
      attempt(list_, m.name, [&, this] { check_matrix(m); });
    }
    attempt(list_, "not_finite", [this] { check_not_finite(); });
    attempt(list_, "importance", [this] { check_importances(); });
    if (options_.exact_zero) attempt(list_, "exact_zero", [this] { check_zeros(); });
    if (options_.requantization) attempt(list_, "requantization", [this] { check_requantized(); });
    if constexpr (groupwise_quantizer<Q>) {
      append_codec_checks(list_, "codec/", q_,
                          {.seed = options_.seed, .coefficient_step = options_.coefficient_step});
    }
  }

 private:
  using tensor = typename Q::tensor;
  using change = field_visitor::change;

  template <class... Parts>
  void report(std::string check, bool passed, const Parts&... detail) {
    add(list_, std::move(check), passed, detail...);
  }
  /// Reports whether two tensors have the same buffers.
  void expect_equal(const std::string& check, const tensor& a, const tensor& b) {
    const std::string difference = first_difference(copy_buffers(a), copy_buffers(b));
    report(check, difference.empty(), difference);
  }

  // -- options -----------------------------------------------------------------------------------

  void check_description() {
    report("summary", !std::string_view(Q::summary).empty(), "is empty");
    const auto fields = list_fields(q_);
    std::set<std::string> names;
    for (index_t i = 0; i < fields.size(); ++i) {
      const described_field& f = fields[i];
      report("field_name", is_snake_case(f.name), "'", f.name, "' is not snake_case");
      report("field_names_differ", names.insert(f.name).second, "two are called '", f.name, "'");
      report("field_help/" + f.name, !f.help.empty(), "is empty");
      report("field_range/" + f.name, f.settings > 0, "is empty");
      for (index_t setting = 0; setting < f.settings; ++setting) check_setting(i, setting);
      refuses_value(i, change::too_low, "refuses_too_low/" + f.name);
      refuses_value(i, change::too_high, "refuses_too_high/" + f.name);
      refuses_value(i, change::not_a_number, "refuses_nan/" + f.name);
    }
  }

  void check_setting(index_t which, index_t setting) {
    Q changed = q_;
    field_visitor set(which, change::to_setting, setting);
    Q::describe(changed, set);
    const described_field& asked = set.fields()[which];
    const std::string name = "set/" + asked.name + "=" + asked.value;

    const auto before = list_fields(q_);
    const auto after = list_fields(changed);
    std::string wrong;
    for (index_t i = 0; i < after.size(); ++i) {
      const std::string& expected = i == which ? asked.value : before[i].value;
      if (after[i].value != expected) wrong = after[i].name + " is " + after[i].value;
    }
    report(name, wrong.empty(), wrong);
    if (!options_.independent_fields) return;
    // With everything known, so that every choice is possible.
    const index_t cols = sample_.shape.cols;
    const std::vector<float> rows(sample_.shape.rows, 1.0F);
    std::vector<float> importance(cols);
    std::vector<double> hessian(cols * cols);
    for (index_t c = 0; c < cols; ++c) {
      importance[c] = 0.5F + random_uniform(options_.seed + 5, c);
      hessian[c * cols + c] = static_cast<double>(importance[c]);
      if (c > 0) hessian[c * cols + c - 1] = hessian[(c - 1) * cols + c] = 0.125;
    }
    attempt(list_, name, [&, this] {
      append_tensor_checks(
          list_, name + "/",
          changed.quantize(sample_.view(), {.importance = importance,
                                            .output_importance = rows,
                                            .hessian = {hessian.data(), cols, cols}}));
    });
  }

  void refuses_value(index_t which, change what, const std::string& check) {
    Q trial = q_;
#if LOWBIT_EXCEPTIONS
    field_visitor probe(which, what);
    try {
      Q::describe(trial, probe);
    } catch (const error&) {  // expected: reported below
    }
    if (!probe.changed()) return;  // there is no value past this end
    trial = q_;
#endif
    field_visitor visitor(which, what);
    add_refusal_naming(list_, check, error_kind::value, {list_fields(q_)[which].name},
                       [&] { Q::describe(trial, visitor); });
  }

  // -- matrices ----------------------------------------------------------------------------------

  void check_matrix(const test_matrix& m) {
    const tensor t = q_.quantize(m.view(), {});
    report(m.name + "/shape", t.shape() == m.shape, "is [", t.shape().rows, ", ", t.shape().cols,
           "]");
    append_tensor_checks(list_, m.name + "/", t);
    expect_equal(m.name + "/deterministic", t, q_.quantize(m.view(), {}));
    const Q copy = q_;
    expect_equal(m.name + "/copied_quantizer", t, copy.quantize(m.view(), {}));

    // The same values apart from each other, with NaN between the rows.
    constexpr index_t gap = 5;
    const index_t stride = m.shape.cols + gap;
    std::vector<float> apart(m.shape.rows * stride, std::numeric_limits<float>::quiet_NaN());
    for (index_t r = 0; r < m.shape.rows; ++r) {
      for (index_t c = 0; c < m.shape.cols; ++c) apart[r * stride + c] = m.view()(r, c);
    }
    expect_equal(m.name + "/strided", t,
                 q_.quantize({apart.data(), m.shape.rows, m.shape.cols, stride}, {}));
  }

  void check_not_finite() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    struct bad_value {
      std::string_view name;
      float value;
    };
    const bad_value bad_values[] = {{"nan", std::numeric_limits<float>::quiet_NaN()},
                                    {"plus_inf", infinity},
                                    {"minus_inf", -infinity}};
    const shape2 places[] = {{0, 0}, {1, 64}, {2, 69}};
    for (const bad_value& bad : bad_values) {
      for (const auto& [r, c] : places) {
        test_matrix m = sample_;
        m.values[r * m.shape.cols + c] = bad.value;
        add_refusal_naming(
            list_, lowbit::detail::message("refuses_", bad.name), error_kind::value,
            {lowbit::detail::message("row ", r), lowbit::detail::message("column ", c)},
            [&, this] { static_cast<void>(q_.quantize(m.view(), {})); });
      }
    }
  }

  void check_importances() {
    const auto quantize = [this](std::span<const float> importance) {
      return q_.quantize(sample_.view(), {.importance = importance});
    };
    const index_t cols = sample_.shape.cols;
    const auto refuses = [&, this](const char* check, error_kind kind,
                                   const std::vector<float>& importance) {
      add_refusal(list_, check, kind, [&] { static_cast<void>(quantize(importance)); });
    };
    refuses("refuses_short_importance", error_kind::shape, std::vector<float>(cols - 1, 1.0F));
    refuses("refuses_long_importance", error_kind::shape, std::vector<float>(cols + 1, 1.0F));
    for (const float bad :
         {-1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> importance(cols, 1.0F);
      importance[cols - 1] = bad;
      refuses("refuses_bad_importance", error_kind::value, importance);
    }

    const tensor none = quantize({});
    expect_equal("zero_importance_is_none", none, quantize(std::vector<float>(cols, 0.0F)));
    if (options_.equal_importance_is_none) {
      for (const float equal : {0x1p-60F, 1.0F, 0x1p20F}) {
        expect_equal("equal_importance_is_none", none, quantize(std::vector<float>(cols, equal)));
      }
    }
    std::vector<float> importance;
    for (index_t c = 0; c < cols; ++c) {
      importance.push_back(c % 9 == 4 ? 0.0F : random_uniform(options_.seed + 3, c));
    }
    const tensor weighted = quantize(importance);
    append_tensor_checks(list_, "importance/", weighted);
    expect_equal("importance_deterministic", weighted, quantize(importance));
  }

  void check_zeros() {
    for (const float second : {0.0F, -0.0F}) {
      const auto m = make_matrix("zeros", {3, 70},
                                 [&](index_t, index_t c) { return c % 2 == 0 ? 0.0F : second; });
      const bool all_plus = !std::signbit(second);
      std::string wrong;
      for (const std::uint32_t bits : value_bits(q_.quantize(m.view(), {}))) {
        if ((all_plus ? bits : bits & 0x7fffffffU) != 0) {
          wrong = lowbit::detail::message("a zero decodes to ", std::bit_cast<float>(bits));
        }
      }
      report(all_plus ? "exact_zero" : "exact_signed_zero", wrong.empty(), wrong);
    }
  }

  /// In norms: |w'' - w'| <= |w' - w| + 2^-22 |w'|, w' being the first result and w'' the second.
  /// The last term is for values that the format holds exactly but for a few roundings of a float.
  void check_requantized() {
    const shape2 shape{5, 130};
    const test_matrix m = normal_matrix(shape, options_.seed + 4);
    const auto dequantize = [&](const tensor& t) {
      test_matrix out{m.name, shape, std::vector<float>(shape.size())};
      t.dequantize({0, shape.rows}, {out.values.data(), shape.rows, shape.cols});
      return out;
    };
    const auto distance = [](const test_matrix& a, const test_matrix& b) {
      double sum = 0.0;
      for (index_t i = 0; i < a.values.size(); ++i) {
        const double d = static_cast<double>(a.values[i]) - static_cast<double>(b.values[i]);
        sum += d * d;
      }
      return std::sqrt(sum);
    };
    const test_matrix once = dequantize(q_.quantize(m.view(), {}));
    const test_matrix twice = dequantize(q_.quantize(once.view(), {}));
    const test_matrix zero = make_matrix("zero", shape, [](index_t, index_t) { return 0.0F; });
    const double first = distance(m, once);
    const double second = distance(once, twice);
    report("requantization", second <= first + 0x1p-22 * distance(once, zero),
           "the first time costs ", first, ", the second ", second);
  }

  findings& list_;
  const Q& q_;
  quantizer_checks options_;
  test_matrix sample_;
};

}  // namespace detail

/// Checks everything that core/quantizer.hpp promises of any quantizer, on every kind of matrix
/// (testing/matrices.hpp), and check_tensor() on all that it makes: the same bytes each time and
/// for strided views; refusals of NaN and Inf with row and column, and of bad importances; named
/// options that can be set, and that refuse what is out of range by name; what `options` says; and
/// check_codec() of a groupwise_quantizer.
template <quantizer Q>
[[nodiscard]] findings check_quantizer(const Q& q, const quantizer_checks& options = {}) {
  findings list;
  detail::quantizer_checks_run<Q>(list, q, options).run();
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
