// The codecs of every format with options other than the defaults: conformance.cpp runs the same
// checks with those.
#include "catch.hpp"
#include "lowbit/formats/envelope/quantizer.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/codec.hpp"

using namespace lowbit;

namespace {

template <class Q>
void check(const Q& q, double coefficient_step = 0x1p-7) {
  const std::uint64_t seed = 20251126;
  const auto list = testing::check_codec(q, {.seed = seed, .coefficient_step = coefficient_step});
  INFO("seed " << seed << "\n" << testing::failures(list).substr(0, 3000));
  CHECK(testing::all_passed(list));
  CHECK(list.size() > 1000);
}

}  // namespace

TEST_CASE("the codec of uniform keeps its promises") {
  using formats::granularity;
  for (const symmetry kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
    for (const unsigned bits : {1U, 3U, 8U}) {
      if (lowbit_test::is_sanitized && bits != 3) continue;
      for (const auto which : {granularity::tensor, granularity::channel, granularity::group}) {
        for (const scale_type type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
          if (which != granularity::group && type == scale_type::bf16) continue;
          INFO("symmetry " << static_cast<int>(kind) << ", " << bits << " bits, granularity "
                           << static_cast<int>(which) << ", scale_type " << static_cast<int>(type));
          check(formats::uniform_quantizer{.params = {.bits = bits,
                                                      .kind = kind,
                                                      .granularity = which,
                                                      .group_size = 48,
                                                      .scale_type = type}});
        }
      }
    }
  }
}

TEST_CASE("the codec of sbvr keeps its promises") {
  using namespace formats;
  for (const sbvr_basis basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
    for (const sbvr_offset offset : {sbvr_offset::none, sbvr_offset::per_group}) {
      for (const auto coefficients : {sbvr_coefficients::per_group, sbvr_coefficients::table,
                                      sbvr_coefficients::shared_ratios}) {
        for (const unsigned planes : {1U, 3U}) {
          if (lowbit_test::is_sanitized && planes == 1) continue;
          INFO("basis " << static_cast<int>(basis) << ", offset " << static_cast<int>(offset)
                        << ", coefficients " << static_cast<int>(coefficients) << ", " << planes
                        << " planes");
          sbvr_quantizer q{.params = {.planes = planes,
                                      .basis = basis,
                                      .coefficients = coefficients,
                                      .group_size = 48,
                                      .offset = offset,
                                      .table_lines = 16}};
          check(q);
          q.params.scale_type = scale_type::bf16;
          check(q);
        }
      }
    }
  }
}

TEST_CASE("the codec of sbvr keeps its promises with scale codes") {
  using namespace formats;
  for (const unsigned scale_bits : {3U, 5U, 8U}) {
    for (const sbvr_offset offset : {sbvr_offset::none, sbvr_offset::per_group}) {
      INFO(scale_bits << " bits per scale, offset " << static_cast<int>(offset));
      sbvr_quantizer q{.params = {.planes = 2, .group_size = 32, .offset = offset}};
      q.params.scale_bits = scale_bits;
      // With twice the room the scales of a row are codes of about half the largest one.
      check(q, 4.0 / static_cast<double>((1U << scale_bits) - 1U));
    }
  }
}

TEST_CASE("the codec of envelope keeps its promises") {
  for (const unsigned planes : {1U, 3U}) {
    for (const unsigned rank : {1U, 2U}) {
      for (const scale_type type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
        if (lowbit_test::is_sanitized && type != scale_type::fp16) continue;
        INFO(planes << " planes of rank " << rank << ", scale_type " << static_cast<int>(type));
        check(formats::envelope_quantizer{
            .params = {.planes = planes, .envelope_rank = rank, .scale_type = type}});
      }
    }
  }
}
