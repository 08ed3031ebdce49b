// The concepts accept what they name and nothing less: each near-miss below is a complete model
// with one member missing or wrong, and must not be a model. The assertions run in the compiler;
// the test case states them once more, so that the suite's report shows them.
#include "catch.hpp"
#include "lowbit/layout/operands.hpp"
#include "lowbit/testing/archetype.hpp"

// Not anonymous: compilers warn of members there that only they use.
namespace near_misses {

using namespace lowbit;

// -- format_tag -----------------------------------------------------------------------------------

struct complete_format {
  static constexpr std::string_view name = "complete";
  static constexpr std::uint32_t version = 1;
  struct params {
    int bits = 4;
    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params&, params_visitor&) {}
};
static_assert(format_tag<complete_format>);

struct without_name {
  static constexpr std::uint32_t version = 1;
  using params = complete_format::params;
  static void describe(params&, params_visitor&) {}
};
static_assert(!format_tag<without_name>, "a file could not say what it holds");

struct with_number_as_name : complete_format {
  static constexpr int name = 7;
};
static_assert(!format_tag<with_number_as_name>, "a name is text");

struct without_version {
  static constexpr std::string_view name = "complete";
  using params = complete_format::params;
  static void describe(params&, params_visitor&) {}
};
static_assert(!format_tag<without_version>, "an old reader could not refuse a newer file");

struct with_text_as_version : complete_format {
  static constexpr std::string_view version = "1.0";
};
static_assert(!format_tag<with_text_as_version>, "versions are compared as numbers");

struct without_params {
  static constexpr std::string_view name = "complete";
  static constexpr std::uint32_t version = 1;
  static void describe(complete_format::params&, params_visitor&) {}
};
static_assert(!format_tag<without_params>, "params are a type of the format");

struct with_incomparable_params : complete_format {
  struct params {};
  static void describe(params&, params_visitor&) {}
};
static_assert(!format_tag<with_incomparable_params>, "params are compared after a round trip");

struct with_params_without_default : complete_format {
  struct params {
    explicit params(int);
    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params&, params_visitor&) {}
};
static_assert(!format_tag<with_params_without_default>, "a reader starts from default params");

struct with_params_that_stay : complete_format {
  struct params {
    params() = default;
    params(const params&) = delete;
    params& operator=(const params&) = delete;
    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params&, params_visitor&) {}
};
static_assert(!format_tag<with_params_that_stay>, "params are a value");

struct without_description {
  static constexpr std::string_view name = "complete";
  static constexpr std::uint32_t version = 1;
  using params = complete_format::params;
};
static_assert(!format_tag<without_description>, "files and command lines learn fields from it");

struct with_description_of_a_quantizer : complete_format {
  struct other {};
  static void describe(other&, params_visitor&) {}
};
static_assert(!format_tag<with_description_of_a_quantizer>,
              "describe() visits the format's params");

struct with_answering_description : complete_format {
  static bool describe(params&, params_visitor&) { return true; }
};
static_assert(!format_tag<with_answering_description>, "nobody would read the answer");

// -- quantized_tensor -----------------------------------------------------------------------------

/// Everything that a tensor needs; Self is the type that inherits it.
template <class Self>
struct tensor_model {
  using format = complete_format;
  shape2 shape() const { return {}; }
  const format::params& params() const { return params_; }
  std::uint64_t storage_bits() const { return 0; }
  void dequantize(row_range, matrix_view<float>) const {}
  void for_each_buffer(buffer_visitor&) const {}
  static Self from_buffers(shape2, const format::params&, buffer_source&) { return {}; }

  format::params params_;
};

struct complete_tensor : tensor_model<complete_tensor> {};
static_assert(quantized_tensor<complete_tensor>, "the control: inheriting a model is a model");

struct without_format : tensor_model<without_format> {
 private:
  using format = complete_format;  // hides the inherited one
};
static_assert(!quantized_tensor<without_format>, "what writes its files?");

struct with_broken_format : tensor_model<with_broken_format> {
  using format = without_name;
};
static_assert(!quantized_tensor<with_broken_format>, "format must be a format_tag");

struct without_shape : tensor_model<without_shape> {
  void shape() const = delete;
};
static_assert(!quantized_tensor<without_shape>);

struct with_shape_as_pair : tensor_model<with_shape_as_pair> {
  std::pair<index_t, index_t> shape() const { return {}; }
};
static_assert(!quantized_tensor<with_shape_as_pair>, "shape2 says which number is the rows");

struct with_mutable_shape : tensor_model<with_mutable_shape> {
  shape2 shape() { return {}; }
};
static_assert(!quantized_tensor<with_mutable_shape>, "a const tensor has a shape");

struct with_shape_reference : tensor_model<with_shape_reference> {
  const shape2& shape() const { return shape_; }
  shape2 shape_;
};
static_assert(!quantized_tensor<with_shape_reference>, "shape() is a value: it may be computed");

struct without_params_member : tensor_model<without_params_member> {
  void params() const = delete;
};
static_assert(!quantized_tensor<without_params_member>);

struct with_params_by_value : tensor_model<with_params_by_value> {
  format::params params() const { return {}; }
};
static_assert(!quantized_tensor<with_params_by_value>, "params() refers to what is stored");

struct with_writable_params : tensor_model<with_writable_params> {
  format::params& params() const { return changeable; }
  mutable format::params changeable;
};
static_assert(!quantized_tensor<with_writable_params>, "nobody changes params behind the buffers");

struct with_params_of_another_format : tensor_model<with_params_of_another_format> {
  struct others {};
  const others& params() const { return other; }
  others other;
};
static_assert(!quantized_tensor<with_params_of_another_format>);

struct without_storage_bits : tensor_model<without_storage_bits> {
  void storage_bits() const = delete;
};
static_assert(!quantized_tensor<without_storage_bits>, "bits per weight must be honest");

struct with_narrow_storage_bits : tensor_model<with_narrow_storage_bits> {
  std::uint32_t storage_bits() const { return 0; }
};
static_assert(!quantized_tensor<with_narrow_storage_bits>, "32 bits count to half a gigabyte only");

struct with_fractional_storage_bits : tensor_model<with_fractional_storage_bits> {
  double storage_bits() const { return 0; }
};
static_assert(!quantized_tensor<with_fractional_storage_bits>, "stored bits are counted");

struct without_dequantize : tensor_model<without_dequantize> {
  void dequantize(row_range, matrix_view<float>) const = delete;
};
static_assert(!quantized_tensor<without_dequantize>, "nothing would define what the bits mean");

struct with_dequantize_to_double : tensor_model<with_dequantize_to_double> {
  void dequantize(row_range, matrix_view<double>) const {}
};
static_assert(!quantized_tensor<with_dequantize_to_double>, "values are floats");

struct with_dequantize_of_everything : tensor_model<with_dequantize_of_everything> {
  void dequantize(matrix_view<float>) const {}
};
static_assert(!quantized_tensor<with_dequantize_of_everything>, "large tensors go block by block");

struct with_mutable_dequantize : tensor_model<with_mutable_dequantize> {
  void dequantize(row_range, matrix_view<float>) {}
};
static_assert(!quantized_tensor<with_mutable_dequantize>, "threads share a const tensor");

struct with_answering_dequantize : tensor_model<with_answering_dequantize> {
  bool dequantize(row_range, matrix_view<float>) const { return true; }
};
static_assert(!quantized_tensor<with_answering_dequantize>, "errors are refusals, not answers");

struct without_buffers : tensor_model<without_buffers> {
  void for_each_buffer(buffer_visitor&) const = delete;
};
static_assert(!quantized_tensor<without_buffers>);

struct with_stopping_buffers : tensor_model<with_stopping_buffers> {
  bool for_each_buffer(buffer_visitor&) const { return true; }
};
static_assert(!quantized_tensor<with_stopping_buffers>, "every buffer is visited");

struct with_buffers_for_its_own_visitor : tensor_model<with_buffers_for_its_own_visitor> {
  struct own_visitor : buffer_visitor {};
  void for_each_buffer(own_visitor&) const {}
};
static_assert(!quantized_tensor<with_buffers_for_its_own_visitor>, "any visitor may come");

struct without_from_buffers : tensor_model<without_from_buffers> {
  static void from_buffers(shape2, const format::params&, buffer_source&) = delete;
};
static_assert(!quantized_tensor<without_from_buffers>, "what is written must be readable");

struct with_from_buffers_to_its_base : tensor_model<complete_tensor> {};
static_assert(!quantized_tensor<with_from_buffers_to_its_base>, "from_buffers() makes this type");

struct with_optional_from_buffers : tensor_model<with_optional_from_buffers> {
  static with_optional_from_buffers* from_buffers(shape2, const format::params&, buffer_source&) {
    return nullptr;
  }
};
static_assert(!quantized_tensor<with_optional_from_buffers>, "errors are refusals, not null");

struct with_member_from_buffers : tensor_model<with_member_from_buffers> {
  with_member_from_buffers from_buffers(shape2, const format::params&, buffer_source&) const {
    return {};
  }
};
static_assert(!quantized_tensor<with_member_from_buffers>, "there is no tensor to start from");

struct immovable : tensor_model<immovable> {
  immovable() = default;
  immovable(immovable&&) = delete;
  immovable& operator=(immovable&&) = delete;
};
static_assert(!quantized_tensor<immovable>, "tensors are kept in containers");

// -- bit_serial_operand ---------------------------------------------------------------------------

template <class Self>
struct operand_model : tensor_model<Self> {
  const layout::bit_matrix& planes() const { return planes_; }
  index_t group_size() const { return 1; }
  float plane_coefficients(index_t, index_t, std::span<float>) const { return 0.0F; }

  layout::bit_matrix planes_;
};

struct complete_operand : operand_model<complete_operand> {};
static_assert(bit_serial_operand<complete_operand>);
static_assert(!bit_serial_operand<complete_tensor>, "a refinement is not required");

struct operand_without_meaning : operand_model<operand_without_meaning> {
  void dequantize(row_range, matrix_view<float>) const = delete;
};
static_assert(!bit_serial_operand<operand_without_meaning>, "it is a quantized_tensor first");

struct with_planes_by_value : operand_model<with_planes_by_value> {
  layout::bit_matrix planes() const { return {}; }
};
static_assert(!bit_serial_operand<with_planes_by_value>, "each product would copy the weights");

struct without_group_size : operand_model<without_group_size> {
  void group_size() const = delete;
};
static_assert(!bit_serial_operand<without_group_size>);

struct with_double_coefficients : operand_model<with_double_coefficients> {
  float plane_coefficients(index_t, index_t, std::span<double>) const { return 0.0F; }
};
static_assert(!bit_serial_operand<with_double_coefficients>, "kernels multiply floats");

struct without_offset : operand_model<without_offset> {
  void plane_coefficients(index_t, index_t, std::span<float>) const {}
};
static_assert(!bit_serial_operand<without_offset>, "plane_coefficients() returns the offset");

// -- plane_sum_operand ----------------------------------------------------------------------------

template <class Self>
struct plane_sum_model : operand_model<Self> {
  lowbit::plane_form plane_form() const { return {}; }
  float plane_levels(index_t, index_t, std::span<float>) const { return 0.0F; }
};

struct complete_plane_sum : plane_sum_model<complete_plane_sum> {};
static_assert(plane_sum_operand<complete_plane_sum>);
static_assert(!plane_sum_operand<complete_operand>, "a refinement is not required");

struct plane_sum_without_planes : plane_sum_model<plane_sum_without_planes> {
  void planes() const = delete;
};
static_assert(!plane_sum_operand<plane_sum_without_planes>, "it is a bit_serial_operand first");

struct without_levels : plane_sum_model<without_levels> {
  void plane_levels(index_t, index_t, std::span<float>) const {}
};
static_assert(!plane_sum_operand<without_levels>, "plane_levels() returns the offset");

// -- quantizer ------------------------------------------------------------------------------------

template <class Self>
struct quantizer_model {
  using tensor = complete_tensor;
  static constexpr std::string_view summary = "a model";
  static void describe(Self&, params_visitor&) {}
  tensor quantize(matrix_view<const float>, const calibration&) const { return {}; }
};

struct complete_quantizer : quantizer_model<complete_quantizer> {};
static_assert(quantizer<complete_quantizer>, "the control");

struct without_summary : quantizer_model<without_summary> {
  static constexpr int summary = 0;
};
static_assert(!quantizer<without_summary>, "a listing prints it");

struct with_broken_tensor : quantizer_model<with_broken_tensor> {
  using tensor = without_shape;
  tensor quantize(matrix_view<const float>, const calibration&) const { return {}; }
};
static_assert(!quantizer<with_broken_tensor>, "it makes a quantized_tensor");

struct without_quantize : quantizer_model<without_quantize> {
  void quantize(matrix_view<const float>, const calibration&) const = delete;
};
static_assert(!quantizer<without_quantize>);

struct with_mutable_quantize : quantizer_model<with_mutable_quantize> {
  tensor quantize(matrix_view<const float>, const calibration&) { return {}; }
};
static_assert(!quantizer<with_mutable_quantize>, "threads share a const quantizer");

struct with_writing_quantize : quantizer_model<with_writing_quantize> {
  tensor quantize(matrix_view<float>, const calibration&) const { return {}; }
};
static_assert(!quantizer<with_writing_quantize>, "weights are read from a read-only file");

struct with_another_result : quantizer_model<with_another_result> {
  complete_operand quantize(matrix_view<const float>, const calibration&) const { return {}; }
};
static_assert(!quantizer<with_another_result>, "quantize() returns what `tensor` names");

struct without_calibration : quantizer_model<without_calibration> {
  tensor quantize(matrix_view<const float>) const { return {}; }
};
static_assert(!quantizer<without_calibration>, "callers hand over what they know");

struct without_options : quantizer_model<without_options> {
  static void describe(complete_format::params&, params_visitor&) {}
};
static_assert(!quantizer<without_options>, "describe() visits the quantizer's own options");

struct without_default : quantizer_model<without_default> {
  explicit without_default(int) {}
};
static_assert(!quantizer<without_default>, "a command line starts from the defaults");

struct move_only_quantizer : quantizer_model<move_only_quantizer> {
  move_only_quantizer() = default;
  move_only_quantizer(move_only_quantizer&&) = default;
  move_only_quantizer& operator=(move_only_quantizer&&) = default;
};
static_assert(!quantizer<move_only_quantizer>, "a quantizer is a set of options: a value");

// -- the archetype offers the least ---------------------------------------------------------------

using archetype = testing::archetype_tensor;
static_assert(!std::copyable<archetype>, "movable is all that a tensor must be");
static_assert(!std::default_initializable<archetype>);
static_assert(!std::constructible_from<archetype, shape2>);
static_assert(!bit_serial_operand<archetype>);
static_assert(!std::same_as<decltype(testing::archetype_format::name), const std::string_view>);
static_assert(!std::equality_comparable<archetype>);

}  // namespace near_misses

using namespace near_misses;  // NOLINT: the names are this file's

TEMPLATE_TEST_CASE("a complete model is a quantized_tensor", "", complete_tensor, complete_operand,
                   testing::archetype_tensor) {
  STATIC_REQUIRE(quantized_tensor<TestType>);
  STATIC_REQUIRE(format_tag<typename TestType::format>);
}

TEMPLATE_TEST_CASE("a tensor with one member missing or wrong is none", "", without_format,
                   with_broken_format, without_shape, with_shape_as_pair, with_mutable_shape,
                   with_shape_reference, without_params_member, with_params_by_value,
                   with_writable_params, with_params_of_another_format, without_storage_bits,
                   with_narrow_storage_bits, with_fractional_storage_bits, without_dequantize,
                   with_dequantize_to_double, with_dequantize_of_everything,
                   with_mutable_dequantize, with_answering_dequantize, without_buffers,
                   with_stopping_buffers, with_buffers_for_its_own_visitor, without_from_buffers,
                   with_from_buffers_to_its_base, with_optional_from_buffers,
                   with_member_from_buffers, immovable) {
  STATIC_REQUIRE_FALSE(quantized_tensor<TestType>);
}

TEMPLATE_TEST_CASE("a quantizer with one member missing or wrong is none", "", without_summary,
                   with_broken_tensor, without_quantize, with_mutable_quantize,
                   with_writing_quantize, with_another_result, without_calibration, without_options,
                   without_default, move_only_quantizer) {
  STATIC_REQUIRE(quantizer<complete_quantizer>);
  STATIC_REQUIRE_FALSE(quantizer<TestType>);
}
