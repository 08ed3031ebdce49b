// ptq::quantize_by_recipe: every combination of steps gives a tensor that is what the outcome says
// of it, and that a checkpoint gives back.
#include "lowbit/ptq/recipe.hpp"

#include <functional>
#include <map>

#include "../io/files.hpp"
#include "catch.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "lowbit/testing/format.hpp"
#include "ops/executors.hpp"
#include "problems.hpp"

using namespace lowbit;
using formats::sbvr_quantizer;
using formats::uniform_quantizer;
using ptq::column_order;
using ptq::column_scales;
using ptq::feedback_method;
using ptq::recipe;
using ptq::rotation;

namespace {

const kernels::context best = kernels::context::best();
constexpr index_t columns = 80;  // rotated as a whole: 20 * 4

uniform_quantizer uniform_of(unsigned bits) {
  return {.params = {.bits = bits, .kind = symmetry::asymmetric, .group_size = 32}};
}
sbvr_quantizer sbvr_of(unsigned planes) { return {.params = {.planes = planes, .group_size = 32}}; }

struct layer {
  test::test_matrix w;
  observers::second_moments moments;
};
layer make_layer(index_t rows, std::uint64_t seed) {
  return {testing::normal_matrix({rows, columns}, seed),
          test::moments_of(test::correlated_inputs({200, columns}, 4, seed).view())};
}

/// Every combination of steps.
std::vector<recipe> all_recipes() {
  std::vector<recipe> list;
  for (const auto feedback : {feedback_method::none, feedback_method::gptq}) {
    for (const auto order :
         {column_order::natural, column_order::energy, column_order::energy_static}) {
      for (const auto rotate : {rotation::none, rotation::input, rotation::both}) {
        for (const auto scale : {column_scales::none, column_scales::awq}) {
          for (const unsigned rounds : {0U, 2U}) {
            list.push_back({.feedback = feedback,
                            .refine = rounds,
                            .order = order,
                            .rotate = rotate,
                            .rotation_seed = 5,
                            .scale = scale});
          }
        }
      }
    }
  }
  return list;
}

std::string text_of(const recipe& how) {
  return lowbit::detail::message("feedback ", static_cast<int>(how.feedback), ", order ",
                                 static_cast<int>(how.order), ", rotate ",
                                 static_cast<int>(how.rotate), ", scale ",
                                 static_cast<int>(how.scale), ", refine ", how.refine);
}

/// What the recipe's tensor is called.
std::string expected_format(const recipe& how, std::string name) {
  if (how.feedback == feedback_method::gptq && how.order == column_order::energy) {
    name = "permuted." + name;
  }
  const bool both = how.rotate == rotation::both;
  if (both || how.rotate == rotation::input) name = "rotated." + name;
  if (both || how.rotate == rotation::output) name = "output_rotated." + name;
  if (how.scale == column_scales::awq) name = "scaled." + name;
  return name;
}

/// Every buffer and the name of the format: the tensor of a recipe, whatever its type.
struct stored {
  std::string format;
  std::vector<testing::stored_buffer> buffers;
  test::test_matrix values;
  ptq::outcome outcome;
};
template <class Q>
stored quantized(const recipe& how, const Q& q, matrix_view<const float> w,
                 const ptq::knowledge& known, const kernels::context& ctx = best,
                 ptq::listener* progress = nullptr) {
  const auto [tensor, outcome] = ptq::quantize_by_recipe(how, q, w, known, ctx, progress);
  return {tensor_ref(tensor).format_name(), testing::copy_buffers(tensor),
          test::dequantized(tensor), outcome};
}
std::string difference(const stored& a, const stored& b) {
  if (a.format != b.format) return a.format + " and " + b.format;
  if (a.outcome.objectives != b.outcome.objectives) return "other objectives";
  return testing::first_difference(a.buffers, b.buffers);
}
template <class T>
std::string difference(const stored& a, const T& tensor) {
  return testing::first_difference(a.buffers, testing::copy_buffers(tensor));
}

/// The objective of the outcome is tr E H E^T with E = W - Ŵ, but computed of B and B̂, and Ŵ is
/// restored from B̂ in floats. A rotation of m 2^n columns rounds n + (m - 1) sqrt(m) times the norm
/// (tests/decorators/transforms.cpp) and by its scale (twice, as that is rounded itself), a scaling
/// once, each way, and scaling back enlarges what was
/// rounded before by the ratio of the scales at most. With |dE| the sum of it, square roots of
/// objectives differ by at most |dE| sqrt(tr H).
double root_bound(const recipe& how, const layer& l, matrix_view<const double> h) {
  double energy = 0.0;
  for (const float v : l.w.values) energy += static_cast<double>(v) * static_cast<double>(v);
  double trace = 0.0;
  for (index_t k = 0; k < columns; ++k) trace += h(k, k);
  const auto [low, high] =
      std::minmax_element(l.moments.mean_magnitude.begin(), l.moments.mean_magnitude.end());
  const double ratio = how.scale == column_scales::awq ? 1.01 * *high / *low : 1.0;
  constexpr double roundings = 2.0 * (2.0 + 19.0 * 4.48 + 2.0) + 2.0;
  return roundings * 0x1p-24 * ratio * std::sqrt(energy) * std::sqrt(trace);
}

/// Runs all recipes with one quantizer, and rebuilds every tensor from what it stores. (That nests
/// of decorators keep the concept's promises is tested in tests/decorators.)
template <class Q>
void check_all_recipes(const Q& q, std::uint64_t seed) {
  INFO("seed " << seed);
  const layer l = make_layer(5, seed);
  std::map<std::string, index_t> seen;
  for (recipe how : all_recipes()) {
    INFO(text_of(how));
    // Damping adds to H a multiple of 1, which only scaling does not leave what it is.
    if (how.scale == column_scales::awq) how.damping = 0.0;
    const auto [tensor, outcome] =
        ptq::quantize_by_recipe(how, q, l.w.view(), {.moments = &l.moments}, best);
    const std::string format = tensor_ref(tensor).format_name();
    CHECK(format == expected_format(how, std::string(std::string_view(format_of<Q>::name))));
    CHECK(tensor.shape() == l.w.shape);
    CHECK(outcome.shrinkage == l.moments.shrinkage);
    ++seen[format];

    const auto values = test::dequantized(tensor);
    if (how.refine == 0) {
      CHECK(outcome.objectives.empty());
    } else {
      observers::second_moments h = l.moments;
      h.shrink(outcome.shrinkage);
      ptq::damp(h.matrix(), how.damping);
      REQUIRE(outcome.objectives.size() == how.refine + 1);
      const double actual = test::objective_of(l.w.view(), values.view(), h.matrix()).value;
      CHECK(std::fabs(std::sqrt(outcome.objectives.back()) - std::sqrt(actual)) <=
            root_bound(how, l, h.matrix()));
      for (index_t i = 1; i < outcome.objectives.size(); ++i) {
        CHECK(outcome.objectives[i] <= outcome.objectives[i - 1] * (1.0 + 0x1p-40));
      }
    }

    testing::memory_source source(testing::copy_buffers(tensor));
    const auto rebuilt = any_tensor::from_buffers(tensor.shape(), tensor.params(), source);
    CHECK(testing::first_difference(testing::copy_buffers(rebuilt),
                                    testing::copy_buffers(tensor)) == "");
    CHECK(test::dequantized(rebuilt).values == values.values);
  }
  CHECK(seen.size() == 12);
}

}  // namespace

TEST_CASE("every recipe keeps its word: uniform") { check_all_recipes(uniform_of(3), 11); }
TEST_CASE("every recipe keeps its word: sbvr") { check_all_recipes(sbvr_of(2), 12); }

TEST_CASE("a sink gets the same tensor with its own type, which a checkpoint gives back") {
  const layer l = make_layer(5, 13);
  const lowbit_test::temporary_folder folder;
  io::checkpoint_writer writer(folder / "all");
  std::vector<std::function<void(const io::checkpoint_reader&)>> read_back;
  for (const auto order : {column_order::natural, column_order::energy}) {
    for (const auto rotate : {rotation::none, rotation::both}) {
      for (const auto scale : {column_scales::none, column_scales::awq}) {
        const recipe how{
            .feedback = feedback_method::gptq, .order = order, .rotate = rotate, .scale = scale};
        const auto expected = quantized(how, uniform_of(3), l.w.view(), {.moments = &l.moments});
        ptq::quantize_by_recipe(
            how, uniform_of(3), l.w.view(), {.moments = &l.moments}, best,
            [&]<class T>(const T& tensor, const ptq::outcome& outcome) {
              // No recipe of these takes outliers, or turns one side only: spare the compiler.
              using format = typename T::format;
              constexpr bool in =
                  decorators::has_decorator<format, decorators::hadamard_rotation::format>;
              constexpr bool out =
                  decorators::has_decorator<format, decorators::output_rotation::format>;
              if constexpr (in != out ||
                            decorators::has_decorator<format, decorators::outlier_format>) {
                FAIL("a tensor of " << std::string(std::string_view(format::name)));
              } else {
                CHECK(expected.format == std::string_view(format::name));
                CHECK(expected.outcome.objectives == outcome.objectives);
                CHECK(difference(expected, tensor) == "");
                const std::string name = lowbit::detail::message("layer", read_back.size());
                writer.add(name, tensor);
                read_back.push_back(
                    [name, buffers = expected.buffers](const io::checkpoint_reader& reader) {
                      CHECK(testing::first_difference(testing::copy_buffers(reader.load<T>(name)),
                                                      buffers) == "");
                    });
              }
            });
      }
    }
  }
  CHECK(read_back.size() == 8);
  writer.finish();
  const auto reader = io::checkpoint_reader::open(folder / "all");
  for (const auto& check : read_back) check(reader);
}

TEST_CASE("groups of one column are not moved, only rounded in another order, and not scaled") {
  const layer l = make_layer(5, 14);
  const uniform_quantizer q{.params = {.bits = 2, .kind = symmetry::symmetric, .group_size = 1}};
  recipe how{.feedback = feedback_method::gptq};
  const auto moved = quantized(how, q, l.w.view(), {.moments = &l.moments});
  CHECK(moved.format == "uniform");
  how.order = column_order::energy_static;
  CHECK(difference(moved, quantized(how, q, l.w.view(), {.moments = &l.moments})) == "");
  how.scale = column_scales::awq;
  CHECK(lowbit_test::message_of<value_error>([&] {
          quantized(how, q, l.w.view(), {.moments = &l.moments});
        }).find("numbers for each column") != std::string::npos);
}

TEST_CASE("the default recipe is the quantizer") {
  const layer l = make_layer(7, 3);
  const std::vector<float> importance = l.moments.importance();
  const auto check = [&](const auto& q) {
    CHECK(difference(quantized({}, q, l.w.view(), {}), q.quantize(l.w.view(), {})) == "");
    CHECK(difference(quantized({}, q, l.w.view(), {.importance = importance}),
                     q.quantize(l.w.view(), {.importance = importance})) == "");
    // Of moments it takes the importance.
    observers::second_moments damped = l.moments;
    ptq::damp(damped.matrix(), 0.01);
    CHECK(difference(quantized({}, q, l.w.view(), {.moments = &l.moments}),
                     q.quantize(l.w.view(), {.importance = damped.importance()})) == "");
  };
  check(uniform_quantizer{});
  check(uniform_quantizer{.params = {.bits = 2},
                          .fit = {.method = formats::range_method::least_mse}});
  check(sbvr_quantizer{});
}

TEST_CASE("a rotation needs no moments, and leaves no use for an importance of columns") {
  const layer l = make_layer(7, 3);
  const auto plain = quantized({.rotate = rotation::input}, sbvr_of(2), l.w.view(), {});
  CHECK(plain.format == "rotated.sbvr");
  const std::vector<float> importance = l.moments.importance();
  CHECK(difference(plain, quantized({.rotate = rotation::input}, sbvr_of(2), l.w.view(),
                                    {.importance = importance})) == "");
  CHECK(difference(plain, quantized({.rotate = rotation::input, .rotation_seed = 1}, sbvr_of(2),
                                    l.w.view(), {})) != "");
}

TEST_CASE("rotated outputs quantize the rotated columns, under the same moments") {
  const layer l = make_layer(8, 3);
  const decorators::output_rotation turn(8, {.seed = 5});
  test::test_matrix b = l.w;
  decorators::transform_columns(turn, l.w.view(), {b.values.data(), 8, columns});
  recipe how{.feedback = feedback_method::gptq, .refine = 2, .rotation_seed = 5};
  const auto base = quantized(how, sbvr_of(2), b.view(), {.moments = &l.moments});
  how.rotate = rotation::output;
  const auto rotated = quantized(how, sbvr_of(2), l.w.view(), {.moments = &l.moments});
  CHECK(rotated.format == "output_rotated." + base.format);
  CHECK(testing::first_difference(rotated.buffers, base.buffers) == "");
  CHECK(rotated.outcome.objectives == base.outcome.objectives);
}

TEST_CASE("weights on a grid are found by every recipe without rotation") {
  const auto check = [](const auto& q, std::uint64_t seed) {
    layer l = make_layer(6, seed);
    l.w = test::dequantized(q.quantize(l.w.view(), {}));
    REQUIRE(test::dequantized(q.quantize(l.w.view(), {})).values == l.w.values);
    index_t recipes = 0;
    for (recipe how : all_recipes()) {
      if (how.rotate != rotation::none) continue;
      INFO(text_of(how) << ", seed " << seed);
      CHECK(quantized(how, q, l.w.view(), {.moments = &l.moments}).values.values == l.w.values);
      ++recipes;
    }
    CHECK(recipes == 24);
  };
  // A group is a row: no order of columns takes them to other groups.
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    check(
        uniform_quantizer{
            .params = {.bits = 3, .kind = kind, .granularity = formats::granularity::channel}},
        21);
  }
  check(sbvr_quantizer{.params = {.planes = 3, .group_size = 128}}, 22);
}

TEST_CASE("recipes that need moments are refused without") {
  const layer l = make_layer(3, 4);
  for (const recipe& how : all_recipes()) {
    INFO(text_of(how));
    const auto run = [&] {
      static_cast<void>(ptq::quantize_by_recipe(how, uniform_of(4), l.w.view(), {}, best));
    };
    if (how.needs_calibration()) {
      CHECK(lowbit_test::message_of<value_error>(run).find("calibration") != std::string::npos);
    } else {
      run();
    }
  }
}

TEST_CASE("recipes refuse what does not fit, and what the quantizer refuses") {
  const layer l = make_layer(3, 4);
  const auto run = [&](const recipe& how, matrix_view<const float> w, const ptq::knowledge& known) {
    static_cast<void>(ptq::quantize_by_recipe(how, uniform_of(4), w, known, best));
    FAIL("there is a tensor");
  };
  const auto narrow = test::moments_of(test::correlated_inputs({50, columns - 1}, 3, 1).view());
  CHECK_THROWS_AS(run({.refine = 1}, l.w.view(), {.moments = &narrow}), shape_error);
  const test::double_matrix cross = test::identity(columns + 1);
  CHECK_THROWS_AS(run({}, l.w.view(), {.moments = &l.moments, .cross = cross.view()}), shape_error);
  const std::vector<float> importance(columns - 1, 1.0F);
  CHECK_THROWS_AS(run({}, l.w.view(), {.importance = importance}), shape_error);

  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {-0.01, nan, 1e9}) {
    CHECK(lowbit_test::message_of<value_error>([&] {
            run({.damping = bad}, l.w.view(), {});
          }).find("damping") != std::string::npos);
  }
  for (const double bad : {-0.01, nan, 1.01}) {
    CHECK(lowbit_test::message_of<value_error>([&] {
            run({.qep = bad}, l.w.view(), {});
          }).find("qep") != std::string::npos);
  }
  CHECK_THROWS_AS(run({.refine = 1001}, l.w.view(), {.moments = &l.moments}), value_error);

  auto bad = l.w;
  bad.values[2 * columns + 7] = std::numeric_limits<float>::quiet_NaN();
  for (const recipe& how : all_recipes()) {
    const auto text = lowbit_test::message_of<value_error>(
        [&] { run(how, bad.view(), {.moments = &l.moments}); });
    CHECK(text.find("row 2, column 7") != std::string::npos);
  }
  auto large = l.w;
  large.values[5] = 3e38F;  // its scale is no fp16 number
  CHECK_THROWS_AS(run({.refine = 1}, large.view(), {.moments = &l.moments}), value_error);
}

TEST_CASE("every recipe takes matrices without rows or columns") {
  const layer l = make_layer(3, 4);
  const observers::second_moments none(0);
  for (const recipe& how : all_recipes()) {
    INFO(text_of(how));
    CHECK(quantized(how, uniform_of(4), {nullptr, 0, columns}, {.moments = &l.moments})
              .values.shape == shape2{0, columns});
    CHECK(quantized(how, sbvr_of(2), {nullptr, 3, 0}, {.moments = &none}).values.shape ==
          shape2{3, 0});
    CHECK(quantized(how, uniform_of(4), {nullptr, 3, 0}, {.moments = &none}).values.shape ==
          shape2{3, 0});
  }
}

TEST_CASE("moments of distorted inputs correct the weights first") {
  const layer l = make_layer(6, 8);
  const auto x = test::correlated_inputs({300, columns}, 4, 8);
  const auto y = testing::make_matrix("distorted", x.shape, [&](index_t t, index_t k) {
    return x.view()(t, k) + 0.2F * x.view()(t, (k + 1) % columns);
  });
  const auto moments = test::moments_of(y.view());
  observers::cross_accumulator both(columns);
  both.add(x.view(), y.view(), best);
  const auto cross = both.finish();
  const ptq::knowledge known{.moments = &moments, .cross = {cross.data(), columns, columns}};
  std::vector<float> corrected(l.w.shape.size());
  const matrix_view<float> out(corrected.data(), 6, columns);
  for (const double qep : {0.0, 0.5, 1.0}) {
    ptq::correct_for_inputs(l.w.view(), known.cross, moments.matrix(),
                            {.alpha = qep, .damping = 0.02}, out, best);
    for (const recipe& plain : {recipe{}, recipe{.feedback = feedback_method::gptq, .refine = 1}}) {
      recipe how = plain;
      how.qep = qep;
      how.damping = 0.02;
      CHECK(difference(quantized(how, uniform_of(4), l.w.view(), known),
                       quantized(how, uniform_of(4), out, {.moments = &moments})) == "");
    }
  }
}

TEST_CASE("automatic shrinkage is that of the moments, and can be left out") {
  const layer l = make_layer(6, 8);
  recipe how{.feedback = feedback_method::gptq, .refine = 1};
  const auto automatic = quantized(how, sbvr_of(2), l.w.view(), {.moments = &l.moments});
  CHECK(automatic.outcome.shrinkage == l.moments.shrinkage);
  CHECK(l.moments.shrinkage > 0.0);

  how.shrink = ptq::shrinkage::none;
  CHECK(quantized(how, sbvr_of(2), l.w.view(), {.moments = &l.moments}).outcome.shrinkage == 0.0);
  observers::second_moments shrunk = l.moments;
  shrunk.shrink(l.moments.shrinkage);
  auto by_hand = quantized(how, sbvr_of(2), l.w.view(), {.moments = &shrunk});
  CHECK(difference(automatic, by_hand) == "");
}

TEST_CASE("recipes give the same bytes on every tier and at any number of workers") {
  const layer l = make_layer(150, 9);
  for (const recipe& how : {recipe{.feedback = feedback_method::gptq,
                           .refine = 2,
                           .rotate = rotation::input,
                           .scale = column_scales::awq},
                            recipe{.feedback = feedback_method::gptq,
                            .refine = 1,
                            .order = column_order::energy_static}}) {
    const ptq::knowledge known{.moments = &l.moments};
    const auto expected = quantized(how, sbvr_of(2), l.w.view(), known);
    for (const cpu::tier& tier : cpu::tiers) {
      INFO("tier " << tier.name);
      if (!best.allowed.contains(tier.features)) continue;
      CHECK(difference(quantized(how, sbvr_of(2), l.w.view(), known, best.narrowed_to(tier.name)),
                       expected) == "");
    }
    for (const index_t workers : {2U, 3U}) {
      kernels::context ctx = best;
      test::thread_executor threads(workers);
      ctx.threads = &threads;
      CHECK(difference(quantized(how, sbvr_of(2), l.w.view(), known, ctx), expected) == "");
    }
  }
}

TEST_CASE("a listener hears the stages in order, and one that throws ends the job") {
  struct recorder final : ptq::listener {
    void advanced(std::string_view stage, index_t done, index_t total) override {
      if (stages.empty() || stages.back() != stage) {
        stages.emplace_back(stage);
        last = 0;
      }
      in_order = in_order && done <= total && done >= last;
      last = done;
      if (++calls == stop_after) throw cancelled_error("enough");
    }
    std::vector<std::string> stages;
    bool in_order = true;
    index_t last = 0;
    index_t calls = 0;
    index_t stop_after = 0;
  };
  const layer l = make_layer(200, 9);
  const recipe how{.feedback = feedback_method::gptq,
                   .refine = 2,
                   .rotate = rotation::input,
                   .scale = column_scales::awq};
  recorder all;
  quantized(how, uniform_of(3), l.w.view(), {.moments = &l.moments}, best, &all);
  CHECK(all.stages == std::vector<std::string>{"factor", "feedback", "refine"});
  CHECK(all.in_order);
  CHECK(all.calls == 2 + 4 + 4);
  for (index_t stop = 1; stop <= all.calls; ++stop) {
    recorder some;
    some.stop_after = stop;
    CHECK_THROWS_AS(quantized(how, uniform_of(3), l.w.view(), {.moments = &l.moments}, best, &some),
                    cancelled_error);
    CHECK(some.calls == stop);
  }
}
