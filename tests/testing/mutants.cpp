// The conformance suite sees what it is for: each deliberately broken tensor or quantizer is
// reported, by the check that names its fault, and the unbroken one is not.
#include <algorithm>

#include "catch.hpp"
#include "lowbit/testing/quantizer.hpp"
#include "toy.hpp"

namespace {

using namespace lowbit::testing;
using toy::quantizer_fault;
using toy::tensor_fault;

/// Whether a check whose name ends like this has failed.
bool reports(const findings& list, const std::string& check) {
  return std::any_of(list.begin(), list.end(), [&](const finding& f) {
    return !f.passed && f.check.size() >= check.size() &&
           f.check.compare(f.check.size() - check.size(), check.size(), check) == 0;
  });
}

findings check_with(tensor_fault fault) {
  return check_tensor(toy::signs_quantizer(fault).quantize(normal_matrix({4, 70}, 1).view(), {}));
}

}  // namespace

TEST_CASE("the unbroken toy passes") {
  const findings of_tensor = check_with(tensor_fault::none);
  INFO(failures(of_tensor));
  CHECK(all_passed(of_tensor));

  const findings of_quantizer = check_quantizer(toy::signs_quantizer{});
  INFO(failures(of_quantizer));
  CHECK(all_passed(of_quantizer));
}

TEST_CASE("check_tensor reports each fault of a tensor by its name") {
  struct mutant {
    tensor_fault fault;
    const char* check;
  };
  const auto [fault, check] = GENERATE(values<mutant>({
      {tensor_fault::forgets_storage, "storage_bits"},
      {tensor_fault::starts_at_row_zero, "row_ranges"},
      {tensor_fault::ignores_stride, "writes_inside"},
      {tensor_fault::accepts_any_range, "refuses_range_past_the_end"},
      {tensor_fault::accepts_any_range, "refuses_empty_range_past_the_end"},
      {tensor_fault::accepts_any_range, "refuses_reversed_range"},
      {tensor_fault::accepts_any_output, "refuses_more_output_rows"},
      {tensor_fault::accepts_any_output, "refuses_fewer_output_rows"},
      {tensor_fault::accepts_any_output, "refuses_more_output_columns"},
      {tensor_fault::accepts_any_output, "refuses_fewer_output_columns"},
      {tensor_fault::refuses_with_another_kind, "refuses_range_past_the_end"},
      {tensor_fault::refuses_empty_ranges, "dequantize"},
      {tensor_fault::decodes_to_infinity, "finite"},
      {tensor_fault::names_buffers_alike, "buffer_names_differ"},
      {tensor_fault::names_in_capitals, "buffer_name"},
      {tensor_fault::states_other_extents, "buffer_extents"},
      {tensor_fault::changes_between_visits, "buffers_stay"},
      {tensor_fault::forgets_a_buffer, "refuses_missing/scales"},
      {tensor_fault::forgets_a_buffer, "round_trip_values"},
      {tensor_fault::swallows_refusals, "refuses_missing/planes"},
      {tensor_fault::swallows_refusals, "refuses_other_extents/planes"},
      {tensor_fault::swallows_refusals, "refuses_another_shape"},
      {tensor_fault::asks_for_other_extents, "round_trip"},
      {tensor_fault::loses_params, "round_trip_params"},
      {tensor_fault::loses_content_when_moved, "move_buffers"},
      {tensor_fault::keeps_content_when_assigned, "move_assignment_values"},
      {tensor_fault::copies_badly, "copy_values"},
      {tensor_fault::repairs_damage_silently, "corrupt/scales"},
      {tensor_fault::damage_with_another_kind, "corrupt/scales"},
      {tensor_fault::other_coefficients, "planes_are_the_values"},
      {tensor_fault::other_form, "plane_form_gives_the_values"},
      {tensor_fault::other_levels, "plane_form_gives_the_values"},
      {tensor_fault::unannounced_offset, "no_offset_unless_announced"},
      {tensor_fault::no_group_size, "group_size"},
      {tensor_fault::set_padding, "planes_padding"},
  }));
  const findings list = check_with(fault);
  INFO("fault " << static_cast<int>(fault) << " should fail " << check << ", and it fails\n"
                << failures(list));
  CHECK(reports(list, check));
  CHECK_FALSE(all_passed(list));
}

TEST_CASE("check_quantizer reports each fault of a quantizer by its name") {
  struct mutant {
    quantizer_fault fault;
    const char* check;
  };
  const auto [fault, check] = GENERATE(values<mutant>({
      {quantizer_fault::differs_each_time, "/deterministic"},
      {quantizer_fault::ignores_stride, "/strided"},
      {quantizer_fault::accepts_not_finite, "refuses_nan"},
      {quantizer_fault::accepts_not_finite, "refuses_minus_inf"},
      {quantizer_fault::hides_the_place, "refuses_plus_inf"},
      {quantizer_fault::accepts_short_importance, "refuses_short_importance"},
      {quantizer_fault::accepts_negative_importance, "refuses_bad_importance"},
      {quantizer_fault::zero_importance_counts, "zero_importance_is_none"},
      {quantizer_fault::equal_importance_counts, "equal_importance_is_none"},
      {quantizer_fault::zeros_become_minus_zero, "exact_zero"},
      {quantizer_fault::grows_each_time, "requantization"},
      {quantizer_fault::refuses_empty, "empty_0x5"},
      {quantizer_fault::breaks_at_maximum, "set/gain=2"},
      {quantizer_fault::same_field_name, "field_names_differ"},
      {quantizer_fault::field_name_in_capitals, "field_name"},
      {quantizer_fault::no_help, "field_help/gain"},
      {quantizer_fault::two_fields_one_member, "set/gain=2"},
      {quantizer_fault::ignores_settings, "set/gain=2"},
      {quantizer_fault::unchecked_field, "refuses_too_high/unused"},
      {quantizer_fault::forgets_when_copied, "/copied_quantizer"},
  }));
  const findings list = check_quantizer(toy::signs_quantizer(fault));
  INFO("fault " << static_cast<int>(fault) << " should fail " << check << ", and it fails\n"
                << failures(list).substr(0, 2000));
  CHECK(reports(list, check));
  CHECK_FALSE(all_passed(list));
}

TEST_CASE("check_quantizer runs the checks of every tensor that a quantizer makes") {
  const findings list = check_quantizer(toy::signs_quantizer(tensor_fault::forgets_storage));
  CHECK(reports(list, "normal_3x513/storage_bits"));
  CHECK(reports(list, "set/gain=2/storage_bits"));
}

TEST_CASE("a property that a quantizer does not claim is not checked") {
  const auto without = [](quantizer_fault fault, bool quantizer_checks::*claim) {
    quantizer_checks options;
    options.*claim = false;
    return check_quantizer(toy::signs_quantizer(fault), options);
  };
  CHECK(
      all_passed(without(quantizer_fault::zeros_become_minus_zero, &quantizer_checks::exact_zero)));
  CHECK(all_passed(without(quantizer_fault::equal_importance_counts,
                           &quantizer_checks::equal_importance_is_none)));
  CHECK(all_passed(without(quantizer_fault::grows_each_time, &quantizer_checks::requantization)));
  CHECK(all_passed(
      without(quantizer_fault::breaks_at_maximum, &quantizer_checks::independent_fields)));
}

TEST_CASE("a suite that looked at nothing has not passed") {
  CHECK_FALSE(all_passed({}));
  CHECK(failures({}) == "nothing was checked");
}
