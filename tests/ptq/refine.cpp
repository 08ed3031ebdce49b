// ptq::refine: objectives that are true and never rise, and results that no single step improves.
#include "lowbit/ptq/refine.hpp"

#include <chrono>

#include "catch.hpp"
#include "lowbit/formats/envelope/quantizer.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ptq/error_feedback.hpp"
#include "ops/executors.hpp"
#include "problems.hpp"

using namespace lowbit;
using formats::sbvr_quantizer;
using formats::uniform_quantizer;

namespace {

const kernels::context best = kernels::context::best();

struct problem {
  test::test_matrix w;
  observers::second_moments moments;
};

problem make_problem(shape2 shape, std::uint64_t seed) {
  const auto x = test::correlated_inputs({shape.cols + 40, shape.cols}, 5, seed);
  problem p{testing::normal_matrix(shape, seed + 10), test::moments_of(x.view())};
  ptq::damp(p.moments.matrix(), 0.01);
  return p;
}
matrix_view<const double> hessian(const problem& p) { return p.moments.matrix(); }

/// What rounding can make of an objective that is kept up to date while E changes, at most: each of
/// the K terms of E H is rounded once per change of a block or a column, of which there are at most
/// K per round. Two independent sums differ by as much.
double rounding(const test::objective& o, index_t columns, unsigned rounds) {
  const auto k = static_cast<double>(columns);
  return 0x1p-52 * (k + 2.0) * static_cast<double>(rounds + 1) * o.magnitude;
}

/// Refines from round to nearest, and checks what refine() reports.
template <class Q>
void check_refined(const Q& q, shape2 shape, std::uint64_t seed) {
  const problem p = make_problem(shape, seed);
  const auto importance = p.moments.importance();
  auto codec = q.prepare(p.w.view(), {.importance = importance}, 1.0F);
  INFO("[" << shape.rows << ", " << shape.cols << "], seed " << seed << ", groups of "
           << codec.group_size() << ", " << codec.bits() << " bits");
  ptq::coding<typename Q::codec> state(codec, p.w.view());
  state.round_to_nearest(importance, best);
  const auto before =
      test::objective_of(p.w.view(), test::dequantized(state.make_tensor()).view(), hessian(p));
  constexpr unsigned rounds = 4;
  const auto reported = ptq::refine(state, hessian(p), {.rounds = rounds}, best);
  const auto after =
      test::objective_of(p.w.view(), test::dequantized(state.make_tensor()).view(), hessian(p));

  REQUIRE(reported.size() == rounds + 1);
  const double bound = rounding(before, shape.cols, rounds);
  CHECK(std::fabs(reported.front() - before.value) <= bound);
  CHECK(std::fabs(reported.back() - after.value) <= bound);
  for (index_t i = 1; i < reported.size(); ++i) CHECK(reported[i] <= reported[i - 1] + bound);
  // The nearest of fixed levels is the best for a lone column.
  if (codec.terms() > 0 || shape.cols > 1) CHECK(reported.back() < reported.front());

  // A fixed point is reached, and stays.
  ptq::refine(state, hessian(p), {.rounds = 60}, best);
  const auto settled = state.make_tensor();
  const auto same = ptq::refine(state, hessian(p), {.rounds = 3}, best);
  CHECK(test::difference(state.make_tensor(), settled) == "");
  for (const double value : same) CHECK(value == same.front());
}

uniform_quantizer uniform_of(unsigned bits, symmetry kind, std::uint32_t group) {
  return {.params = {.bits = bits, .kind = kind, .group_size = group}};
}

}  // namespace

TEST_CASE("refine lowers the objective that it reports: uniform") {
  std::uint64_t seed = 500;
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
      for (const auto& [cols, group] :
           {std::pair<index_t, std::uint32_t>{40, 16}, {96, 32}, {130, 128}, {70, 200}}) {
        check_refined(uniform_of(bits, kind, group), {5, cols}, ++seed);
      }
    }
    uniform_quantizer rows = uniform_of(3, kind, 1);
    rows.params.granularity = formats::granularity::channel;
    check_refined(rows, {66, 100}, ++seed);
    rows.params.granularity = formats::granularity::tensor;  // nothing to refit
    check_refined(rows, {5, 100}, ++seed);
  }
}

TEST_CASE("refine lowers the objective that it reports: sbvr") {
  using formats::sbvr_basis;
  using formats::sbvr_coefficients;
  using formats::sbvr_offset;
  std::uint64_t seed = 700;
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    for (const sbvr_basis basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
      for (const auto coefficients :
           {sbvr_coefficients::per_group, sbvr_coefficients::shared_ratios}) {
        for (const sbvr_offset offset : {sbvr_offset::none, sbvr_offset::per_group}) {
          sbvr_quantizer q{.params = {.planes = planes,
                                      .basis = basis,
                                      .coefficients = coefficients,
                                      .group_size = 32,
                                      .offset = offset}};
          INFO("basis " << static_cast<int>(basis) << ", coefficients "
                        << static_cast<int>(coefficients) << ", offset "
                        << static_cast<int>(offset));
          check_refined(q, {4, 70}, ++seed);
          q.params.group_size = 256;
          q.params.scale_type = scale_type::bf16;
          check_refined(q, {4, 70}, ++seed);
          if (coefficients == sbvr_coefficients::shared_ratios) {
            q.params.scale_bits = 4;
            q.params.group_size = 48;
            check_refined(q, {4, 100}, ++seed);
          }
        }
      }
    }
  }
}

TEST_CASE("refine lowers the objective that it reports: envelope, whose groups are columns") {
  std::uint64_t seed = 900;
  for (const unsigned planes : {1U, 2U, 3U}) {
    for (const index_t cols : {31U, 32U, 33U, 100U}) {
      const formats::envelope_quantizer q{
          .params = {.planes = planes, .envelope_rank = 1 + planes % 2}};
      check_refined(q, {5, cols}, ++seed);
    }
  }
}

TEST_CASE("refine fits what rows share, unless their codec is to stay") {
  const problem p = make_problem({10, 60}, 950);
  const formats::envelope_quantizer q{.params = {.planes = 1}};
  const auto fixed = q.prepare(p.w.view(), {}, 1.0F);
  ptq::coding<formats::envelope_codec> with_fixed(fixed, p.w.view());
  with_fixed.round_to_nearest({}, best);
  ptq::refine(with_fixed, hessian(p), {.rounds = 60}, best);
  auto codec = q.prepare(p.w.view(), {}, 1.0F);
  ptq::coding<formats::envelope_codec> state(codec, p.w.view());
  state.round_to_nearest({}, best);
  ptq::refine(state, hessian(p), {.rounds = 60}, best);

  const auto objective = [&] {
    return test::objective_of(p.w.view(), test::dequantized(state.make_tensor()).view(),
                              hessian(p));
  };
  const auto settled = objective();
  index_t moved = 0;
  for (index_t n = 0; n < 10; ++n) {
    std::vector<float> before(1);
    fixed.row_numbers(n, before);
    CHECK(with_fixed.make_tensor().plane(0).row_envelopes().get(0, n) == before[0]);
    std::vector<float> numbers(1);
    codec.row_numbers(n, numbers);
    moved += numbers[0] != before[0] ? 1U : 0U;
    // The number is the best one up to its rounding, which is much less than 2 %.
    for (const float factor : {0.98F, 1.02F}) {
      codec.set_row_numbers(n, std::vector<float>{factor * numbers[0]});
      CHECK(objective().value > settled.value - rounding(settled, 60, 60));
    }
    codec.set_row_numbers(n, numbers);
  }
  CHECK(moved > 5);
}

TEST_CASE("refine: in the end no change of one code lowers the objective") {
  // One group of 4 columns, every level tried for every column.
  const std::uint64_t seed = 40;
  INFO("seed " << seed);
  for (std::uint64_t i = 0; i < 50; ++i) {
    const problem p = make_problem({3, 4}, seed + i);
    const auto q = uniform_of(3, symmetry::asymmetric, 4);
    const auto codec = q.prepare(p.w.view(), {});
    ptq::coding<formats::uniform_codec> state(codec, p.w.view());
    state.round_to_nearest({}, best);
    ptq::refine(state, hessian(p), {.rounds = 50}, best);
    const auto values = test::dequantized(state.make_tensor());
    for (index_t r = 0; r < 3; ++r) {
      const auto row = p.w.view().middle_rows({r, r + 1});
      const auto chosen =
          test::objective_of(row, values.view().middle_rows({r, r + 1}), hessian(p));
      std::vector<float> levels(8);
      codec.values(state.levels_of(r, 0), levels);
      for (index_t k = 0; k < 4; ++k) {
        for (const float level : levels) {
          auto other = values;
          other.values[r * 4 + k] = level;
          const auto changed =
              test::objective_of(row, other.view().middle_rows({r, r + 1}), hessian(p));
          CHECK(changed.value >= chosen.value - rounding(changed, 4, 50));
        }
      }
    }
  }
}

TEST_CASE("refine improves on feedback") {
  index_t problems = 0;
  for (std::uint64_t seed = 900; seed < 910; ++seed, ++problems) {
    const problem p = make_problem({8, 128}, seed);
    const sbvr_quantizer q{.params = {.planes = 2, .group_size = 64}};
    const auto codec = q.prepare(p.w.view(), {}, 1.25F);
    ptq::coding<formats::sbvr_codec> state(codec, p.w.view());
    ptq::apply_feedback(state, hessian(p), {}, {}, best);
    const auto reported = ptq::refine(state, hessian(p), {.rounds = 3}, best);
    INFO("seed " << seed);
    CHECK(reported.back() < 0.95 * reported.front());
  }
  CHECK(problems == 10);
}

TEST_CASE("what lies on a grid is there to stay") {
  // Levels that fp16 holds, every code in use in every group: nothing is left to improve.
  test::test_matrix w = testing::make_matrix("grid", {3, 64}, [](index_t r, index_t c) {
    return 0.25F * static_cast<float>(static_cast<int>((3 * r + c) % 16) - 8);
  });
  const auto q = uniform_of(4, symmetry::asymmetric, 32);
  const auto codec = q.prepare(w.view(), {});
  ptq::coding<formats::uniform_codec> state(codec, w.view());
  state.round_to_nearest({}, best);
  const problem p = make_problem({1, 64}, 3);
  for (const double value : ptq::refine(state, hessian(p), {.rounds = 2}, best)) {
    CHECK(value == 0.0);
  }
  CHECK(test::dequantized(state.make_tensor()).values == w.values);
}

TEST_CASE("refine bears Hessians without curvature") {
  const auto w = testing::normal_matrix({3, 40}, 5);
  const auto q = uniform_of(3, symmetry::offset, 16);
  const auto codec = q.prepare(w.view(), {});
  ptq::coding<formats::uniform_codec> state(codec, w.view());
  state.round_to_nearest({}, best);
  const auto before = state.make_tensor();
  test::double_matrix h({40, 40});
  for (const double value : ptq::refine(state, h.view(), {.rounds = 2}, best)) CHECK(value == 0.0);
  CHECK(test::difference(state.make_tensor(), before) == "");

  h(20, 20) = 1.0;  // one column counts: its error can be made small, the others stay decodable
  const auto reported = ptq::refine(state, h.view(), {.rounds = 5}, best);
  CHECK(reported.back() <= reported.front());
  for (const float v : test::dequantized(state.make_tensor()).values) CHECK(std::isfinite(v));
}

TEST_CASE("refine refuses an H of another size, and does nothing to nothing") {
  const auto w = testing::normal_matrix({3, 40}, 5);
  const auto q = uniform_of(3, symmetry::offset, 16);
  const auto codec = q.prepare(w.view(), {});
  ptq::coding<formats::uniform_codec> state(codec, w.view());
  CHECK_THROWS_AS(ptq::refine(state, test::identity(41).view(), {}, best), shape_error);
  CHECK_THROWS_AS(ptq::refine(state, test::identity(40).view().middle_rows({0, 39}), {}, best),
                  shape_error);

  for (const shape2 shape : {shape2{0, 0}, {3, 0}, {0, 40}}) {
    const matrix_view<const float> none(nullptr, shape.rows, shape.cols);
    const auto empty = q.prepare(none, {});
    ptq::coding<formats::uniform_codec> nothing(empty, none);
    CHECK(ptq::refine(nothing, test::identity(shape.cols).view(), {.rounds = 2}, best) ==
          std::vector<double>{0.0, 0.0, 0.0});
  }
}

TEST_CASE("refine gives the same bytes on every tier and at any number of workers") {
  const problem p = make_problem({150, 140}, 55);
  const sbvr_quantizer q{.params = {.planes = 2, .group_size = 64}};
  const auto codec = q.prepare(p.w.view(), {}, 1.0F);
  const auto run = [&](const kernels::context& ctx, std::vector<double>& reported) {
    ptq::coding<formats::sbvr_codec> state(codec, p.w.view());
    state.round_to_nearest({}, ctx);
    reported = ptq::refine(state, hessian(p), {.rounds = 2}, ctx);
    return state.make_tensor();
  };
  std::vector<double> expected_objectives;
  const auto expected = run(best, expected_objectives);
  const auto check = [&](const kernels::context& ctx) {
    std::vector<double> reported;
    CHECK(test::difference(run(ctx, reported), expected) == "");
    CHECK(reported == expected_objectives);
  };
  for (const cpu::tier& tier : cpu::tiers) {
    INFO("tier " << tier.name);
    if (best.allowed.contains(tier.features)) check(best.narrowed_to(tier.name));
  }
  test::on_each_executor(best, {1U, 2U, 3U}, [&](const kernels::context& ctx) {
    INFO(ctx.threads->workers() << " workers");
    check(ctx);
  });
}

TEST_CASE("a listener hears one worker at a time, and in order") {
  struct recorder final : ptq::listener {
    void advanced(std::string_view stage, index_t done, index_t total) override {
      if (inside.exchange(true)) ++overlaps;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      in_order = in_order && stage == "refine" && done == last + 1 && done <= total;
      last = done;
      inside = false;
    }
    std::atomic<bool> inside = false;
    std::atomic<int> overlaps = 0;
    bool in_order = true;
    index_t last = 0;
  };
  // 300 tasks of next to no work beside that of the listener, where workers would meet.
  const auto w = testing::normal_matrix({64 * 300, 1}, 5);
  const auto q = uniform_of(3, symmetry::symmetric, 16);
  const auto codec = q.prepare(w.view(), {});
  ptq::coding<formats::uniform_codec> state(codec, w.view());
  state.round_to_nearest({}, best);
  test::thread_executor threads(3);
  kernels::context ctx = best;
  ctx.threads = &threads;
  recorder heard;
  ptq::refine(state, test::identity(1).view(), {.rounds = 1, .progress = &heard}, ctx);
  CHECK(heard.overlaps == 0);
  CHECK(heard.in_order);
  CHECK(heard.last == 300);
}
