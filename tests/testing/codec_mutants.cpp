// check_codec sees what it is for: each deliberately broken codec is reported, by the check that
// names its fault, and the unbroken one is not.
#include <algorithm>

#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/quantizer.hpp"

using namespace lowbit;
using testing::finding;
using testing::findings;

namespace {

/// One promise of a codec broken.
enum class fault {
  none,
  accepts_not_finite,
  accepts_negative_importance,
  accepts_short_importance,
  refuses_headroom,
  other_bits,
  no_group_size,
  other_shape,
  other_params,
  forgets_to_store,
  stores_next_group,
  levels_not_rounded,
  values_of_another_code,
  value_of_unused_code,
  infinite_value,
  nothing_to_use,
  forgets_a_value,
  drops_codes,
  term_twice_as_large,
  term_of_opposite_sign,
  term_of_another_code,
  term_is_zero,
  term_not_finite,
  adjusts_nothing,
  adjusts_by_nothing,
  adjusts_other_coefficient,
  adjusts_to_negative_scale,
  adjusts_without_rounding,
  adjusts_to_infinity,
  moves_values_unevenly,
};

/// A tensor whose codes may be lost on the way.
class codes_tensor : public formats::uniform_tensor {
 public:
  codes_tensor(formats::uniform_tensor t, fault f)
      : formats::uniform_tensor(std::move(t)), fault_(f) {}
  static codes_tensor from_buffers(shape2 shape, const formats::uniform::params& params,
                                   buffer_source& source) {
    return {formats::uniform_tensor::from_buffers(shape, params, source), fault::none};
  }
  void set_codes(index_t row, std::span<const std::uint8_t> codes) {
    if (fault_ == fault::drops_codes && row == 1) return;
    formats::uniform_tensor::set_codes(row, codes);
  }

 private:
  fault fault_;
};

class faulty_codec {
 public:
  using tensor = codes_tensor;
  using levels = affine_levels;

  faulty_codec(formats::uniform_codec right, shape2 shape, const formats::uniform::params& params,
               fault f)
      : right_(std::move(right)), shape_(shape), params_(params), fault_(f) {}

  [[nodiscard]] unsigned bits() const { return has(fault::other_bits) ? 9U : right_.bits(); }
  [[nodiscard]] index_t group_size() const {
    return has(fault::no_group_size) ? 0 : right_.group_size();
  }
  [[nodiscard]] affine_levels fit(index_t row, index_t group, std::span<const float> x,
                                  std::span<const float> h) const {
    affine_levels l = right_.fit(row, group, x, h);
    if (has(fault::levels_not_rounded)) l.scale *= 1.0001F;
    return l;
  }
  void values(const affine_levels& l, std::span<float> out) const {
    const float kept = out[2];
    right_.values(l, out);
    if (has(fault::values_of_another_code)) std::swap(out[2], out[3]);
    if (has(fault::value_of_unused_code)) out[1] = 123.0F;
    if (has(fault::infinite_value)) out[2] = HUGE_VALF;
    if (has(fault::forgets_a_value)) out[2] = kept;
    if (has(fault::nothing_to_use)) std::fill(out.begin(), out.end(), NAN);
    if (has(fault::moves_values_unevenly)) out[3] *= 1.0F + 0x1p-12F * l.scale;
  }
  [[nodiscard]] index_t terms() const { return right_.terms(); }
  void term(const affine_levels& l, std::uint8_t code, std::span<float> out) const {
    right_.term(l, has(fault::term_of_another_code) ? code ^ 1U : code, out);
    if (has(fault::term_twice_as_large)) out[0] *= 2.0F;
    if (has(fault::term_of_opposite_sign)) out[0] = -out[0];
    if (has(fault::term_is_zero)) out[0] = 0.0F;
    if (has(fault::term_not_finite)) out[0] = HUGE_VALF;
  }
  [[nodiscard]] affine_levels adjusted(const affine_levels& l, index_t row,
                                       std::span<const double> delta) const {
    if (has(fault::adjusts_nothing)) return l;
    affine_levels changed = right_.adjusted(l, row, delta);
    if (has(fault::adjusts_by_nothing)) changed.scale = 2.0F * changed.scale;
    if (has(fault::adjusts_other_coefficient)) {
      return right_.adjusted(l, row, std::vector<double>{delta[1], delta[0]});
    }
    const float moved = static_cast<float>(static_cast<double>(l.scale) + delta[0]);
    if (has(fault::adjusts_to_negative_scale)) {
      changed.scale = layout::round_to(params_.scale_type, std::clamp(moved, -9.0F, 9.0F));
    }
    if (has(fault::adjusts_without_rounding)) changed.scale = std::clamp(moved, 0.0F, 9.0F);
    if (has(fault::adjusts_to_infinity)) changed.scale = std::max(moved, 0.0F);
    return changed;
  }
  [[nodiscard]] codes_tensor make_tensor() const {
    if (has(fault::other_shape)) {
      return {formats::uniform_tensor({shape_.rows + 1, shape_.cols}, params_), fault_};
    }
    if (has(fault::other_params)) {
      formats::uniform::params other = params_;
      other.group_size += 1;
      return {formats::uniform_tensor(shape_, other), fault_};
    }
    return {right_.make_tensor(), fault_};
  }
  void store(codes_tensor& t, index_t row, index_t group, const affine_levels& l) const {
    if (has(fault::forgets_to_store) && row == 1) return;
    const index_t to = has(fault::stores_next_group) && (group + 2) * group_size() <= shape_.cols
                           ? group + 1
                           : group;
    right_.store(t, row, to, l);
  }

 private:
  [[nodiscard]] bool has(fault f) const { return fault_ == f; }

  formats::uniform_codec right_;
  shape2 shape_;
  formats::uniform::params params_;
  fault fault_;
};

struct faulty_quantizer {
  using tensor = codes_tensor;
  using codec = faulty_codec;
  static constexpr std::string_view summary = "uniform with one promise broken";

  fault broken = fault::none;
  formats::uniform_quantizer right = {
      .params = {.bits = 3, .kind = symmetry::offset, .group_size = 32}};

  static void describe(faulty_quantizer& q, params_visitor& v) {
    formats::uniform_quantizer::describe(q.right, v);
  }
  [[nodiscard]] codes_tensor quantize(matrix_view<const float> weights,
                                      const calibration& known) const {
    return {right.quantize(weights, known), broken};
  }
  [[nodiscard]] faulty_codec prepare(matrix_view<const float> weights, const calibration& known,
                                     float headroom) const {
    LOWBIT_CHECK(headroom <= 1.0F || broken != fault::refuses_headroom, value, "headroom");
    if (broken != fault::accepts_not_finite) check_finite(weights, "the weight matrix");
    const bool bad_is_fine =
        (broken == fault::accepts_negative_importance &&
         known.importance.size() == weights.cols()) ||
        (broken == fault::accepts_short_importance && known.importance.size() < weights.cols());
    if (!bad_is_fine) check_importance(known.importance, weights.cols());
    return {formats::uniform_codec(weights, right.params, right.fit, known.importance),
            weights.shape(), right.params, broken};
  }
};

static_assert(groupwise_quantizer<faulty_quantizer>);

/// Whether a check whose name holds this has failed.
bool reports(const findings& list, const std::string& check) {
  return std::any_of(list.begin(), list.end(), [&](const finding& f) {
    return !f.passed && f.check.find(check) != std::string::npos;
  });
}

}  // namespace

TEST_CASE("the unbroken codec passes, alone and with its quantizer") {
  const findings alone = testing::check_codec(faulty_quantizer{});
  INFO(testing::failures(alone));
  CHECK(testing::all_passed(alone));
  const findings all = testing::check_quantizer(faulty_quantizer{});
  INFO(testing::failures(all));
  CHECK(testing::all_passed(all));
}

TEST_CASE("check_codec reports each fault by its name, and check_quantizer asks it") {
  struct mutant {
    fault broken;
    const char* check;
  };
  const auto [broken, check] = GENERATE(values<mutant>({
      {fault::accepts_not_finite, "refuses_not_finite"},
      {fault::accepts_negative_importance, "refuses_bad_importance"},
      {fault::accepts_short_importance, "refuses_short_importance"},
      {fault::refuses_headroom, "headroom"},
      {fault::other_bits, "/bits"},
      {fault::no_group_size, "/group_size"},
      {fault::other_shape, "/tensor_shape"},
      {fault::other_params, "/tensor_params"},
      {fault::forgets_to_store, "/fit/values_are_decoded"},
      {fault::stores_next_group, "/fit/values_are_decoded"},
      {fault::levels_not_rounded, "/fit/values_are_decoded"},
      {fault::values_of_another_code, "/fit/values_are_decoded"},
      {fault::value_of_unused_code, "/fit/values_are_decoded"},
      {fault::infinite_value, "/fit/values_finite"},
      {fault::forgets_a_value, "/fit/values_finite"},
      {fault::nothing_to_use, "/fit/values_finite"},
      {fault::drops_codes, "/fit/values_are_decoded"},
      {fault::term_twice_as_large, "terms/0/row_0/up/as_asked"},
      {fault::term_of_opposite_sign, "terms/0/row_0/down/as_asked"},
      {fault::term_of_another_code, "terms/0/row_0/up/linear"},
      {fault::term_is_zero, "terms/not_zero"},
      {fault::term_not_finite, "terms/finite"},
      {fault::adjusts_nothing, "terms/0/row_0/up/as_asked"},
      {fault::adjusts_by_nothing, "/adjusted_by_nothing"},
      {fault::adjusts_other_coefficient, "terms/0/row_0/up/as_asked"},
      {fault::adjusts_to_negative_scale, "/adjusted_by_-0.3/"},
      {fault::adjusts_without_rounding, "/adjusted_by_0.3/values_are_decoded"},
      {fault::adjusts_to_infinity, "/values_finite"},
      {fault::moves_values_unevenly, "terms/0/row_0/up/linear"},
  }));
  const faulty_quantizer q{.broken = broken};
  const findings alone = testing::check_codec(q);
  INFO("fault " << static_cast<int>(broken) << " should fail " << check << ", and it fails\n"
                << testing::failures(alone).substr(0, 2000));
  CHECK(reports(alone, check));
  CHECK_FALSE(testing::all_passed(alone));
  CHECK(reports(testing::check_quantizer(q), std::string("codec/")));
}

TEST_CASE("a coefficient that is stored in coarse steps has to say so") {
  // fp16 steps are 2^-10 of a number: claims of finer ones are refuted.
  testing::codec_checks options;
  options.coefficient_step = 0x1p-20;
  CHECK(reports(testing::check_codec(faulty_quantizer{}, options), "/as_asked"));
}
