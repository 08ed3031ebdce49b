// Every configuration of the format keeps every promise of the concepts.
#include "catch.hpp"
#include "common.hpp"
#include "lowbit/testing/quantizer.hpp"

using namespace sbvr_test;

TEST_CASE("sbvr: every configuration conforms") {
  const std::uint64_t seed = 20260711;
  const std::vector<unsigned> planes =
      lowbit_test::is_sanitized ? std::vector<unsigned>{3} : std::vector<unsigned>{1, 2, 3, 4};
  for (const auto& p : configurations(planes)) {
    sbvr_quantizer q{.params = p};
    q.fit.rounds = 3;
    INFO(text(p) << ", seed " << seed);
    testing::quantizer_checks options{.seed = seed, .independent_fields = false};
    // With twice the room, as codecs are checked, scales are codes from a quarter of the largest
    // on.
    if (p.has_scale_codes()) {
      options.coefficient_step = 4.0 / static_cast<double>((1U << p.scale_bits) - 1U);
    }
    const auto list = testing::check_quantizer(q, options);
    INFO(testing::failures(list));
    CHECK(testing::all_passed(list));
  }
}

TEST_CASE("sbvr: 8 planes and learned ratios conform") {
  for (const auto basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
    for (const auto offset : {sbvr_offset::none, sbvr_offset::per_group}) {
      if (lowbit_test::is_sanitized && offset == sbvr_offset::none) continue;
      sbvr_quantizer q{.params = {.planes = 8, .basis = basis, .offset = offset},
                       .fit = {.method = sbvr_method::learned_ratios, .rounds = 2}};
      INFO(text(q.params));
      const auto list = testing::check_quantizer(q, {.independent_fields = false});
      INFO(testing::failures(list));
      CHECK(testing::all_passed(list));
    }
  }
}

TEST_CASE("sbvr: the authors' format conforms, with a small search") {
  const sbvr_quantizer q{.params = {.planes = 4,
                                    .basis = sbvr_basis::zero_one,
                                    .coefficients = sbvr_coefficients::table,
                                    .index_bits = 16,
                                    .table_lines = 65536},
                         .fit = {.method = sbvr_method::grid_search,
                                 .search_ratios = 4,
                                 .search_biases = 4,
                                 .search_scales = 4,
                                 .warmup_lines = 2}};
  // A search that knows only its own candidates does not find the levels that a tensor has.
  const auto list =
      testing::check_quantizer(q, {.requantization = false, .independent_fields = false});
  INFO(testing::failures(list));
  CHECK(testing::all_passed(list));
}
