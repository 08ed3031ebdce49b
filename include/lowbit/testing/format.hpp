// testing/format.hpp: does a quantized tensor keep the promises of its concept?
// Framework-neutral: a downstream project checks a tensor of its own format with
//   all_passed(check_tensor(my_tensor))
// and prints failures(...) where that is false.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <exception>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/layout/operands.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

/// Runs f; an exception becomes a failed finding instead of ending the suite.
template <class F>
void attempt([[maybe_unused]] findings& list, [[maybe_unused]] const std::string& check, F&& f) {
#if LOWBIT_EXCEPTIONS
  try {
    f();
  } catch (const std::exception& e) {
    add(list, check, false, "threw: ", e.what());
  }
#else
  f();
#endif
}

/// a-z, 0-9 and _, beginning with a letter.
[[nodiscard]] inline bool is_snake_case(std::string_view name) noexcept {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  return !name.empty() && is_letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '_'; });
}

/// snake_case words joined by dots: the name of a format and of its decorators.
[[nodiscard]] inline bool is_format_name(std::string_view name) noexcept {
  const auto dot = name.find('.');
  return is_snake_case(name.substr(0, dot)) &&
         (dot == std::string_view::npos || is_format_name(name.substr(dot + 1)));
}

/// A matrix to write to, inside a larger one whose other elements must stay as they are.
class guarded_matrix {
 public:
  explicit guarded_matrix(shape2 shape)
      : shape_(shape),
        stride_(shape.cols + gap),
        values_((shape.rows + 2) * stride_, std::bit_cast<float>(mark)) {}

  [[nodiscard]] matrix_view<float> view() noexcept {
    return {values_.data() + stride_, shape_.rows, shape_.cols, stride_};
  }
  [[nodiscard]] std::uint32_t bits(index_t r, index_t c) const noexcept {
    return std::bit_cast<std::uint32_t>(values_[(r + 1) * stride_ + c]);
  }
  /// Whether nothing outside of view() was written.
  [[nodiscard]] bool is_intact() const noexcept {
    for (index_t i = 0; i < values_.size(); ++i) {
      const index_t row = i / stride_;
      const bool inside = row >= 1 && row <= shape_.rows && i % stride_ < shape_.cols;
      if (!inside && std::bit_cast<std::uint32_t>(values_[i]) != mark) return false;
    }
    return true;
  }

 private:
  static constexpr index_t gap = 3;
  static constexpr std::uint32_t mark = 0x7fc5a5a5U;  // a NaN that no computation yields

  shape2 shape_;
  index_t stride_;
  std::vector<float> values_;
};

/// Every value of a tensor, as bits: comparisons see the sign of zero, and NaN equals itself.
template <quantized_tensor T>
[[nodiscard]] std::vector<std::uint32_t> value_bits(const T& t) {
  const shape2 shape = t.shape();
  std::vector<float> values(shape.size());
  t.dequantize({0, shape.rows}, {values.data(), shape.rows, shape.cols});
  std::vector<std::uint32_t> bits;
  bits.reserve(values.size());
  for (const float v : values) bits.push_back(std::bit_cast<std::uint32_t>(v));
  return bits;
}

template <quantized_tensor T>
class tensor_checks {
 public:
  tensor_checks(findings& list, std::string prefix, const T& t)
      : list_(list), prefix_(std::move(prefix)), t_(t) {}

  void run() {
    section("format", [this] { check_format(); });
    section("buffers", [this] { check_buffers(); });
    section("dequantize", [this] { check_values(); });
    section("dequantize_refusals", [this] { check_refusals(); });
    section("round_trip", [this] { check_round_trip(); });
    section("moves", [this] { check_moves(); });
    section("damage", [this] { check_damage(); });
    if constexpr (bit_serial_operand<T>) {
      section("bit_serial", [this] { check_planes(); });
    }
    if constexpr (plane_sum_operand<T>) {
      section("plane_sum", [this] { check_plane_form(); });
    }
    if constexpr (input_transformed_operand<T>) {
      section("transformed_inputs", [this] { check_transform(); });
    }
    if constexpr (composite_operand<T>) {
      section("parts", [this] { check_parts(); });
    }
  }

 private:
  using format = typename T::format;

  template <class F>
  void section(std::string_view name, F&& f) {
    attempt(list_, prefix_ + std::string(name), f);
  }
  template <class... Parts>
  void report(std::string_view check, bool passed, const Parts&... detail) {
    add(list_, prefix_ + std::string(check), passed, detail...);
  }
  template <class F>
  void expect_refusal(const std::string& check, error_kind kind, F&& f) {
    add_refusal(list_, prefix_ + check, kind, f);
  }
  [[nodiscard]] T rebuild(std::vector<stored_buffer> buffers) const {
    memory_source source(std::move(buffers));
    return T::from_buffers(t_.shape(), t_.params(), source);
  }

  void check_format() {
    const std::string_view name = format::name;
    report("format_name", is_format_name(name), "'", name, "' is not snake_case");
    check_params<format>(t_.params());
    report("params_in_range", true);
  }

  void check_buffers() {
    const auto buffers = copy_buffers(t_);
    std::set<std::string> names;
    std::uint64_t bits = 0;
    for (const stored_buffer& b : buffers) {
      report("buffer_name", is_snake_case(b.name), "'", b.name, "' is not snake_case");
      report("buffer_names_differ", names.insert(b.name).second, "two are called '", b.name, "'");
      index_t size = element_size(b.type);
      for (const index_t extent : b.shape) size = checked_mul(size, extent, b.name);
      report("buffer_extents", size == b.bytes.size(), "'", b.name, "' has ", b.bytes.size(),
             " bytes, its extents say ", size);
      bits += 8U * b.bytes.size();
    }
    report("storage_bits", t_.storage_bits() == bits, "are ", t_.storage_bits(),
           ", the buffers hold ", bits);
    const std::string change = first_difference(buffers, copy_buffers(t_));
    report("buffers_stay", change.empty(), "two visits differ: ", change);
  }

  /// Ranges of every kind; all of them for few rows.
  [[nodiscard]] std::vector<row_range> ranges() const {
    const index_t rows = t_.shape().rows;
    if (rows > 5) {
      return {{0, 0},           {0, 1},       {0, rows},           {1, rows - 1},
              {rows - 1, rows}, {rows, rows}, {rows / 3, rows / 2}};
    }
    std::vector<row_range> list;
    for (index_t begin = 0; begin <= rows; ++begin) {
      for (index_t end = begin; end <= rows; ++end) list.push_back({begin, end});
    }
    return list;
  }

  void check_values() {
    const shape2 shape = t_.shape();
    const auto whole = value_bits(t_);
    const auto bad = std::find_if(whole.begin(), whole.end(), [](std::uint32_t bits) {
      return (bits & 0x7f800000U) == 0x7f800000U;
    });
    const auto place = static_cast<index_t>(bad - whole.begin());
    report("finite", bad == whole.end(), "value (", place / std::max<index_t>(shape.cols, 1), ", ",
           place % std::max<index_t>(shape.cols, 1), ") is NaN or Inf");

    std::string wrong;
    std::string stray;
    for (const row_range range : ranges()) {
      guarded_matrix out({range.size(), shape.cols});
      t_.dequantize(range, out.view());
      const auto text = [&] {
        return lowbit::detail::message("[", range.begin, ", ", range.end, ")");
      };
      if (!out.is_intact() && stray.empty()) stray = text();
      for (index_t r = 0; r < range.size() && wrong.empty(); ++r) {
        for (index_t c = 0; c < shape.cols && wrong.empty(); ++c) {
          if (out.bits(r, c) != whole[(range.begin + r) * shape.cols + c]) {
            wrong = text() + lowbit::detail::message(" at row ", range.begin + r, ", column ", c);
          }
        }
      }
    }
    report("row_ranges", wrong.empty(), "differ from the whole: rows ", wrong);
    report("writes_inside", stray.empty(), "elements around the output were written for rows ",
           stray);
  }

  void check_refusals() {
    const auto [rows, cols] = t_.shape();
    const auto refuses = [&, this](const char* check, row_range range, shape2 out) {
      expect_refusal(check, error_kind::shape, [&, this] {
        guarded_matrix values(out);
        t_.dequantize(range, values.view());
      });
    };
    refuses("refuses_range_past_the_end", {0, rows + 1}, {rows + 1, cols});
    refuses("refuses_empty_range_past_the_end", {rows + 1, rows + 1}, {0, cols});
    refuses("refuses_reversed_range", {1, 0}, {0, cols});
    refuses("refuses_more_output_rows", {0, rows}, {rows + 1, cols});
    refuses("refuses_more_output_columns", {0, rows}, {rows, cols + 1});
    if (rows > 0) refuses("refuses_fewer_output_rows", {0, rows}, {rows - 1, cols});
    if (cols > 0) refuses("refuses_fewer_output_columns", {0, rows}, {rows, cols - 1});
  }

  /// `other` must be the tensor under test in every respect.
  void expect_same(const std::string& check, const T& other) {
    report(check + "_shape", other.shape() == t_.shape(), "is another");
    report(check + "_params", other.params() == t_.params(), "are others");
    const std::string change = first_difference(copy_buffers(t_), copy_buffers(other));
    report(check + "_buffers", change.empty(), change);
    report(check + "_storage_bits", other.storage_bits() == t_.storage_bits(), "are ",
           other.storage_bits(), " instead of ", t_.storage_bits());
    report(check + "_values", value_bits(other) == value_bits(t_), "dequantize() gives others");
  }

  void check_round_trip() { expect_same("round_trip", rebuild(copy_buffers(t_))); }

  void check_moves() {
    T first = rebuild(copy_buffers(t_));
    T moved(std::move(first));
    expect_same("move", moved);
    T target = different();
    target = std::move(moved);
    expect_same("move_assignment", target);
    if constexpr (std::copyable<T>) {
      T copy(target);
      expect_same("copy", copy);
      T other = different();
      copy = other;
      expect_same("copied_from", target);
      other = target;
      expect_same("copy_assignment", other);
    }
  }

  /// The same shape with other content, if the format accepts zeros; so that an assignment that
  /// does nothing shows.
  [[nodiscard]] T different() const {
    auto buffers = copy_buffers(t_);
#if LOWBIT_EXCEPTIONS
    auto zeros = buffers;
    for (stored_buffer& b : zeros) std::fill(b.bytes.begin(), b.bytes.end(), std::byte{0});
    try {
      return rebuild(std::move(zeros));
    } catch (const error&) {  // zeros mean nothing in this format
    }
#endif
    return rebuild(std::move(buffers));
  }

  void check_damage() {
    const auto buffers = copy_buffers(t_);
    bool has_bytes = false;
    for (index_t i = 0; i < buffers.size(); ++i) {
      if (buffers[i].bytes.empty()) continue;
      has_bytes = true;
      const std::string& name = buffers[i].name;

      auto fewer = buffers;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      expect_refusal("refuses_missing/" + name, error_kind::format,
                     [&] { discard(rebuild(fewer)); });

      auto longer = buffers;
      const index_t part = longer[i].bytes.size() / std::max<index_t>(first_extent(longer[i]), 1);
      longer[i].bytes.resize(longer[i].bytes.size() + part);
      if (longer[i].shape.empty()) longer[i].shape.push_back(1);
      ++longer[i].shape.front();
      expect_refusal("refuses_other_extents/" + name, error_kind::format,
                     [&] { discard(rebuild(longer)); });

      check_corrupt(buffers, i);
    }
    if (!has_bytes) return;
    expect_refusal("refuses_another_shape", error_kind::format, [&, this] {
      memory_source source(buffers);
      const shape2 shape = t_.shape();
      discard(T::from_buffers({shape.rows + 1, shape.cols}, t_.params(), source));
    });
  }
  static void discard(const T&) noexcept {}
  [[nodiscard]] static index_t first_extent(const stored_buffer& b) noexcept {
    return b.shape.empty() ? 1 : b.shape.front();
  }

  /// Whatever the bytes: a refusal, or a tensor that holds them and that can be read. That nothing
  /// is read out of bounds shows under a sanitizer.
  void check_corrupt([[maybe_unused]] const std::vector<stored_buffer>& buffers,
                     [[maybe_unused]] index_t which) {
#if LOWBIT_EXCEPTIONS
    constexpr std::array<std::uint8_t, 3> patterns{0xff, 0x80, 0x55};
    for (const std::uint8_t pattern : patterns) {
      auto damaged = buffers;
      std::fill(damaged[which].bytes.begin(), damaged[which].bytes.end(), std::byte{pattern});
      const std::string check = "corrupt/" + damaged[which].name;
      try {
        const T t = rebuild(damaged);
        static_cast<void>(value_bits(t));
        const std::string change = first_difference(damaged, copy_buffers(t));
        report(check, change.empty(), "was accepted, but changed: ", change);
      } catch (const error& e) {
        report(check, e.kind() == error_kind::format, "refused with the wrong kind: ", e.what());
      }
    }
#endif
  }

  /// The planes and coefficients give the values of dequantize() up to rounding: each of the
  /// planes + 1 terms may have been rounded once, and their sum was rounded at most once per term
  /// and once at the end. So, with u = 2^-24 and subnormals rounded to 2^-150 at worst,
  ///   |difference| <= (planes + 3) (u (|offset| + sum of |c_i| b_i) + 2^-150).
  void check_planes() requires bit_serial_operand<T> {
    const shape2 shape = t_.shape();
    const layout::bit_matrix& planes = t_.planes();
    const index_t count = planes.planes();
    report("planes_shape", planes.shape() == shape, "is [", planes.shape().rows, ", ",
           planes.shape().cols, "]");
    report("planes_padding", planes.padding_is_zero(), "has set bits");
    const index_t group_size = t_.group_size();
    report("group_size", group_size > 0 || shape.cols == 0, "is 0");
    if (planes.shape() != shape || (group_size == 0 && shape.cols > 0)) return;

    const auto whole = value_bits(t_);
    std::vector<float> coefficients(count);
    std::string wrong;
    for (index_t r = 0; r < shape.rows; ++r) {
      for (index_t c = 0; c < shape.cols && wrong.empty(); ++c) {
        const double offset =
            static_cast<double>(t_.plane_coefficients(r, c / group_size, coefficients));
        double sum = offset;
        double magnitude = std::fabs(offset);
        for (index_t p = 0; p < count; ++p) {
          if (!planes.bit(p, r, c)) continue;
          sum += static_cast<double>(coefficients[p]);
          magnitude += std::fabs(static_cast<double>(coefficients[p]));
        }
        const float value = std::bit_cast<float>(whole[r * shape.cols + c]);
        const double bound = static_cast<double>(count + 3) * (0x1p-24 * magnitude + 0x1p-150);
        if (!(std::fabs(sum - static_cast<double>(value)) <= bound)) {
          wrong = lowbit::detail::message("row ", r, ", column ", c, " is ", sum, " instead of ",
                                          value);
        }
      }
    }
    report("planes_are_the_values", wrong.empty(), wrong);
  }

  /// The form and the levels give the values of dequantize() up to rounding: each of the planes + 1
  /// terms may have been rounded twice (a ratio's own sum, and the product), and their sum once per
  /// term and once at the end:
  ///   |difference| <= (planes + 4) (u (|offset| + sum of |c_i|) + 2^-150).
  void check_plane_form() requires plane_sum_operand<T> {
    const shape2 shape = t_.shape();
    const layout::bit_matrix& planes = t_.planes();
    const index_t count = planes.planes();
    const index_t group_size = t_.group_size();
    const plane_form form = t_.plane_form();
    report("ratios_of_8_planes", !form.has_ratios || count <= form.ratios.size(), "for ", count);
    if (planes.shape() != shape || (group_size == 0 && shape.cols > 0)) return;
    if (form.has_ratios && count > form.ratios.size()) return;

    const auto whole = value_bits(t_);
    std::vector<float> levels(count);
    std::string unannounced;
    std::string wrong;
    for (index_t r = 0; r < shape.rows; ++r) {
      for (index_t c = 0; c < shape.cols && wrong.empty(); ++c) {
        const auto offset = static_cast<double>(t_.plane_levels(r, c / group_size, levels));
        if (!form.has_offsets && offset != 0.0 && unannounced.empty()) {
          unannounced = lowbit::detail::message("row ", r, ", column ", c, " has ", offset);
        }
        double sum = offset;
        double magnitude = std::fabs(offset);
        for (index_t p = 0; p < count; ++p) {
          const double c_p =
              form.has_ratios ? static_cast<double>(levels[0]) * static_cast<double>(form.ratios[p])
                              : static_cast<double>(levels[p]);
          const bool bit = planes.bit(p, r, c);
          if (bit || form.is_signed) sum += bit ? c_p : -c_p;
          magnitude += std::fabs(c_p);
        }
        const float value = std::bit_cast<float>(whole[r * shape.cols + c]);
        const double bound = static_cast<double>(count + 4) * (0x1p-24 * magnitude + 0x1p-150);
        if (!(std::fabs(sum - static_cast<double>(value)) <= bound)) {
          wrong = lowbit::detail::message("row ", r, ", column ", c, " is ", sum, " instead of ",
                                          value);
        }
      }
    }
    report("no_offset_unless_announced", unannounced.empty(), unannounced);
    report("plane_form_gives_the_values", wrong.empty(), wrong);
  }

  /// B (T x) is W x up to rounding. If T and T^T round less than 64 times in a row, relative to the
  /// norm of what they map, and to subnormals at worst, then with u = 2^-24, a row w of W, b of B
  ///   |w x - b (T x)| <= 64 u (|w| |x| + |b| |T x|) + 2^-149 (sum of |x_k| + |b_k|)
  /// in Euclidean norms, all but T in double.
  void check_transform() requires input_transformed_operand<T> {
    const shape2 shape = t_.shape();
    const auto& base = t_.base();
    report("base_shape", base.shape() == shape, "is [", base.shape().rows, ", ", base.shape().cols,
           "]");
    if (base.shape() != shape) return;

    constexpr index_t tokens = 3;
    std::vector<float> x(tokens * shape.cols);
    for (index_t i = 0; i < x.size(); ++i) x[i] = 2.0F * random_uniform(1, i) - 1.0F;
    const matrix_view<const float> inputs(x.data(), tokens, shape.cols);
    guarded_matrix whole({tokens, shape.cols});
    t_.transform_inputs(inputs, whole.view(), {});
    guarded_matrix last({1, shape.cols});
    t_.transform_inputs(inputs.middle_rows({tokens - 1, tokens}), last.view(), {});
    bool same = true;
    for (index_t c = 0; c < shape.cols; ++c) same &= last.bits(0, c) == whole.bits(tokens - 1, c);
    report("tokens_are_independent", same, "the last of ", tokens, " tokens alone is another");
    report("transform_writes_inside", whole.is_intact() && last.is_intact(),
           "elements around the output were written");
    expect_refusal("transform_refuses_other_columns", error_kind::shape, [&, this] {
      guarded_matrix out({tokens, shape.cols + 1});
      t_.transform_inputs(inputs, out.view(), {});
    });
    expect_refusal("transform_refuses_other_tokens", error_kind::shape, [&, this] {
      guarded_matrix out({tokens + 1, shape.cols});
      t_.transform_inputs(inputs, out.view(), {});
    });

    const auto w = value_bits(t_);
    const auto b = value_bits(base);
    std::string wrong;
    for (index_t i = 0; i < tokens * shape.rows && wrong.empty(); ++i) {
      const index_t token = i % tokens;
      const index_t r = i / tokens;
      double difference = 0.0;
      double subnormal = 0.0;
      std::array<double, 4> squares{};
      for (index_t c = 0; c < shape.cols; ++c) {
        const auto value = [](std::uint32_t bits) {
          return static_cast<double>(std::bit_cast<float>(bits));
        };
        const double xc = static_cast<double>(inputs(token, c));
        const double tc = value(whole.bits(token, c));
        const double wc = value(w[r * shape.cols + c]);
        const double bc = value(b[r * shape.cols + c]);
        difference += wc * xc - bc * tc;
        subnormal += 0x1p-149 * (std::fabs(xc) + std::fabs(bc));
        const std::array<double, 4> values{wc, xc, bc, tc};
        for (index_t v = 0; v < 4; ++v) squares[v] += values[v] * values[v];
      }
      const double norms = std::sqrt(squares[0]) * std::sqrt(squares[1]) +
                           std::sqrt(squares[2]) * std::sqrt(squares[3]);
      if (!(std::fabs(difference) <= 64 * 0x1p-24 * norms + subnormal)) {
        wrong = lowbit::detail::message("row ", r, ", token ", token, " differs by ", difference);
      }
    }
    report("transform_is_the_values", wrong.empty(), wrong);
  }

  /// Products of the parts, exact but for the rounding of their results, give W x. If what is done
  /// beside them rounds less than 64 times in a row, relative to the norms of what is multiplied,
  /// and to subnormals at worst, then with u = 2^-24 and sums over the parts
  ///   |W x - multiply(x)| <= 64 u (|W| |x| + sum |W_i| |x_i|) + 2^-149 N K
  /// in Euclidean norms.
  void check_parts() requires composite_operand<T> {
    const shape2 shape = t_.shape();
    report("has_parts", t_.parts() > 0, "parts() is 0");
    report("product_step", !std::string_view(T::product_step()).empty(), "is empty");

    constexpr index_t tokens = 3;
    std::vector<float> x(tokens * shape.cols);
    for (index_t i = 0; i < x.size(); ++i) x[i] = 2.0F * random_uniform(2, i) - 1.0F;
    const std::vector<float> before = x;
    const matrix_view<const float> inputs(x.data(), tokens, shape.cols);
    double parts_norm = 0.0;  // sum |W_i| |x_i|, of the last product
    const auto multiply = [&](matrix_view<const float> in, matrix_view<float> out) {
      parts_norm = 0.0;
      t_.multiply(in, out, kernels::context{},
                  [&](index_t part, matrix_view<const float> a, matrix_view<float> y) {
                    const auto& p = t_.part(part);
                    parts_norm += norm(value_bits(p)) * norm_of(a);
                    exact_product(a, value_bits(p), p.shape(), [&](index_t t, index_t r, double v) {
                      y(t, r) = static_cast<float>(v);
                    });
                  });
    };
    guarded_matrix last({1, shape.rows});
    multiply(inputs.middle_rows({tokens - 1, tokens}), last.view());
    guarded_matrix whole({tokens, shape.rows});
    multiply(inputs, whole.view());
    bool same = true;
    for (index_t r = 0; r < shape.rows; ++r) same &= last.bits(0, r) == whole.bits(tokens - 1, r);
    report("parts_keep_tokens_apart", same, "the last of ", tokens, " tokens alone is another");
    report("multiply_writes_inside", whole.is_intact() && last.is_intact(),
           "elements around the output were written");
    report("multiply_keeps_inputs", x == before, "the inputs were written");

    const auto w = value_bits(t_);
    double squares = 0.0;
    exact_product(inputs, w, shape, [&](index_t t, index_t r, double v) {
      const double d = v - static_cast<double>(std::bit_cast<float>(whole.bits(t, r)));
      squares += d * d;
    });
    const double bound = 64 * 0x1p-24 * (norm(w) * norm_of(inputs) + parts_norm) +
                         0x1p-149 * static_cast<double>(tokens * shape.size());
    report("parts_are_the_values", std::sqrt(squares) <= bound, "the product is off by ",
           std::sqrt(squares), ", more than ", bound);
  }

  /// Calls set(token, row, sum of x w) with sums in double; w as value_bits() has it.
  template <class Set>
  static void exact_product(matrix_view<const float> x, const std::vector<std::uint32_t>& w,
                            shape2 shape, Set&& set) {
    for (index_t t = 0; t < x.rows(); ++t) {
      for (index_t r = 0; r < shape.rows; ++r) {
        double sum = 0.0;
        for (index_t c = 0; c < shape.cols; ++c) {
          sum += static_cast<double>(x(t, c)) *
                 static_cast<double>(std::bit_cast<float>(w[r * shape.cols + c]));
        }
        set(t, r, sum);
      }
    }
  }
  [[nodiscard]] static double norm(const std::vector<std::uint32_t>& bits) {
    double sum = 0.0;
    for (const std::uint32_t b : bits) {
      const auto v = static_cast<double>(std::bit_cast<float>(b));
      sum += v * v;
    }
    return std::sqrt(sum);
  }
  [[nodiscard]] static double norm_of(matrix_view<const float> x) {
    double sum = 0.0;
    for (index_t t = 0; t < x.rows(); ++t) {
      for (const float v : x.row(t)) sum += static_cast<double>(v) * static_cast<double>(v);
    }
    return std::sqrt(sum);
  }

  findings& list_;
  std::string prefix_;
  const T& t_;
};

template <quantized_tensor T>
void append_tensor_checks(findings& list, std::string prefix, const T& t) {
  tensor_checks<T>(list, std::move(prefix), t).run();
}

}  // namespace detail

/// Checks everything that core/quantized_tensor.hpp promises of any tensor: params in range; named
/// buffers whose extents, bytes and storage_bits() agree; dequantize() of any row range, inside its
/// output only; refusals of what does not fit; the way through buffers and back; moves and copies;
/// missing and damaged buffers; for bit_serial_operand, planes that are the values; for
/// plane_sum_operand, a form and levels that are; for input_transformed_operand, a transform and a
/// base that are; and for composite_operand, parts whose products are the product.
template <quantized_tensor T>
[[nodiscard]] findings check_tensor(const T& t) {
  findings list;
  detail::append_tensor_checks(list, "", t);
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
