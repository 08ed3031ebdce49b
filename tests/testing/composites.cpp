// The conformance suite sees what is wrong with a tensor of transformed inputs and with one made of
// parts, and the concepts accept what they name and nothing less.
#include <algorithm>
#include <string>
#include <vector>

#include "catch.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/format.hpp"
#include "lowbit/testing/matrices.hpp"

// Not anonymous: compilers warn of members there that only they use.
namespace transformed_mutants {

using namespace lowbit;
using testing::archetype_tensor;

enum class fault {
  none,
  another_map,
  forgets_the_map,
  mixes_tokens,
  ignores_stride,
  accepts_other_columns,
  accepts_other_tokens,
  multiply_forgets_the_map,
  multiply_mixes_tokens,
  multiply_ignores_stride,
  no_parts,
};

/// Columns reversed. Which promise it breaks is told from outside, so that copies break it, too.
class reversed {
 public:
  using format = decorators::permuted<archetype_tensor>::format;
  static inline fault broken = fault::none;

  explicit reversed(decorators::permuted<archetype_tensor> t) : t_(std::move(t)) {}
  [[nodiscard]] shape2 shape() const { return t_.shape(); }
  [[nodiscard]] const format::params& params() const { return t_.params(); }
  [[nodiscard]] std::uint64_t storage_bits() const { return t_.storage_bits(); }
  void dequantize(row_range rows, matrix_view<float> out) const { t_.dequantize(rows, out); }
  void for_each_buffer(buffer_visitor& v) const { t_.for_each_buffer(v); }
  static reversed from_buffers(shape2 shape, const format::params& params, buffer_source& source) {
    return reversed(decorators::permuted<archetype_tensor>::from_buffers(shape, params, source));
  }

  [[nodiscard]] const archetype_tensor& base() const { return t_.base(); }
  void transform_inputs(matrix_view<const float> x, matrix_view<float> out,
                        const kernels::context&) const {
    LOWBIT_CHECK(x.cols() == out.cols() || broken == fault::accepts_other_columns, shape,
                 "columns");
    LOWBIT_CHECK(x.rows() == out.rows() || broken == fault::accepts_other_tokens, shape, "tokens");
    const index_t cols = x.cols();
    const matrix_view<float> to =
        broken == fault::ignores_stride ? matrix_view(out.data(), out.rows(), cols) : out;
    for (index_t r = 0; r < x.rows(); ++r) {
      for (index_t c = 0; c < cols; ++c) {
        to(r, c) = x(r, broken == fault::forgets_the_map ? c : cols - 1 - c);
        if (broken == fault::another_map && c == 0) to(r, c) *= 1.0001F;
        if (broken == fault::mixes_tokens) to(r, c) += x(0, c);
      }
    }
  }

  using part_type = archetype_tensor;
  [[nodiscard]] index_t parts() const { return broken == fault::no_parts ? 0 : 1; }
  [[nodiscard]] const archetype_tensor& part(index_t) const { return t_.base(); }
  static constexpr std::string_view product_step() { return "reversed inputs"; }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context&,
                const Product& product) const {
    std::vector<float> values(x.rows() * x.cols());
    const matrix_view<float> in(values.data(), x.rows(), x.cols());
    for (index_t r = 0; r < x.rows(); ++r) {
      const index_t from = broken == fault::multiply_mixes_tokens ? 0 : r;
      for (index_t c = 0; c < x.cols(); ++c) {
        in(r, c) = x(from, broken == fault::multiply_forgets_the_map ? c : x.cols() - 1 - c);
      }
    }
    product(
        index_t{0}, in,
        broken == fault::multiply_ignores_stride ? matrix_view(y.data(), y.rows(), y.cols()) : y);
  }

 private:
  decorators::permuted<archetype_tensor> t_;
};
static_assert(input_transformed_operand<reversed>);
static_assert(composite_operand<reversed>);

// -- the concept ----------------------------------------------------------------------------------

static_assert(!input_transformed_operand<archetype_tensor>, "a refinement is not required");
static_assert(input_transformed_operand<decorators::permuted<archetype_tensor>>);

struct without_base : reversed {
  void base() const = delete;
  static without_base from_buffers(shape2, const format::params&, buffer_source&);
};
struct with_number_as_base : reversed {
  int base() const;
  static with_number_as_base from_buffers(shape2, const format::params&, buffer_source&);
};
struct without_transform : reversed {
  void transform_inputs(matrix_view<const float>, matrix_view<float>,
                        const kernels::context&) const = delete;
  static without_transform from_buffers(shape2, const format::params&, buffer_source&);
};

static_assert(!composite_operand<archetype_tensor>, "a refinement is not required");
struct without_multiply : reversed {
  void multiply() const = delete;
  static without_multiply from_buffers(shape2, const format::params&, buffer_source&);
};
struct without_part : reversed {
  void part(index_t) const;
  static without_part from_buffers(shape2, const format::params&, buffer_source&);
};
struct without_step : reversed {
  static void product_step();
  static without_step from_buffers(shape2, const format::params&, buffer_source&);
};

std::vector<std::string> failed_checks(fault which) {
  constexpr shape2 shape{3, 20};
  std::vector<index_t> order(shape.cols);
  for (index_t k = 0; k < order.size(); ++k) order[k] = shape.cols - 1 - k;
  const auto m = testing::normal_matrix(shape, 81);
  const reversed t({decorators::column_permutation(order),
                    testing::archetype_quantizer{}.quantize(m.view(), {})});
  reversed::broken = which;
  std::vector<std::string> failed;
  for (const testing::finding& f : testing::check_tensor(t)) {
    if (!f.passed) failed.push_back(f.check);
  }
  reversed::broken = fault::none;
  return failed;
}

}  // namespace transformed_mutants

using namespace transformed_mutants;  // NOLINT: the names are this file's

TEMPLATE_TEST_CASE("an operand with one member missing or wrong is none", "", without_base,
                   with_number_as_base, without_transform) {
  STATIC_REQUIRE(quantized_tensor<TestType>);
  STATIC_REQUIRE_FALSE(input_transformed_operand<TestType>);
}

TEMPLATE_TEST_CASE("a composite with one member missing or wrong is none", "", without_multiply,
                   without_part, without_step) {
  STATIC_REQUIRE(quantized_tensor<TestType>);
  STATIC_REQUIRE_FALSE(composite_operand<TestType>);
}

TEST_CASE("check_tensor reports each fault of transformed inputs by its name") {
  CHECK(failed_checks(fault::none).empty());
  const auto reports = [](fault which, const std::string& check) {
    const auto failed = failed_checks(which);
    return std::find(failed.begin(), failed.end(), check) != failed.end();
  };
  CHECK(reports(fault::another_map, "transform_is_the_values"));
  CHECK(reports(fault::forgets_the_map, "transform_is_the_values"));
  CHECK(reports(fault::mixes_tokens, "tokens_are_independent"));
  CHECK(reports(fault::ignores_stride, "transform_writes_inside"));
  CHECK(reports(fault::accepts_other_columns, "transform_refuses_other_columns"));
  CHECK(reports(fault::accepts_other_tokens, "transform_refuses_other_tokens"));
  CHECK(reports(fault::multiply_forgets_the_map, "parts_are_the_values"));
  CHECK(reports(fault::multiply_mixes_tokens, "parts_keep_tokens_apart"));
  CHECK(reports(fault::multiply_ignores_stride, "multiply_writes_inside"));
  CHECK(reports(fault::no_parts, "has_parts"));
}

TEST_CASE("format names are snake_case words joined by dots") {
  using testing::detail::is_format_name;
  for (const char* good : {"a", "uniform", "rotated.uniform", "rotated.permuted.uniform_2"}) {
    CHECK(is_format_name(good));
  }
  for (const char* bad : {"", ".", "a.", ".a", "a..b", "a.B", "2.a", "a-b"}) {
    CAPTURE(std::string(bad));
    CHECK_FALSE(is_format_name(bad));
  }
}
