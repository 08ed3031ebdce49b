// Every variant of the envelope kernel against its contract, and the suite against variants that
// are wrong on purpose; and the driver against its definition.
#include "lowbit/kernels/envelope/variants.hpp"

#include <bit>
#include <cmath>
#include <string_view>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/kernels/envelope/driver.hpp"
#include "lowbit/testing/envelope.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::context;
using kernels::envelope_combine_args;
using kernels::envelope_expand_args;
using kernels::envelope_functions;

namespace {

/// The tiers that have a variant of their own, spelled out (see check_supported_variants).
constexpr std::string_view tiers_with_a_variant[] = {
#if LOWBIT_X86_64
    "avx512bw", "avx2",
#elif LOWBIT_AARCH64
    "neon",
#endif
    "scalar"};

}  // namespace

TEST_CASE("envelope: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<envelope_functions>(
      kernels::envelope_variants, tiers_with_a_variant, 4000,
      [](const auto& v) { return testing::check_envelope_variant(v, 2024); });
}

TEST_CASE("envelope: the variant table is in order") {
  const auto found =
      lowbit_test::check_variant_table<envelope_functions>(kernels::envelope_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

using kernels::scalar::envelope_detail::product;
using kernels::scalar::envelope_detail::value_at;

/// The contract with other operations.
template <float (*First)(float, float) noexcept, float (*Next)(float, float, float) noexcept>
void combine_by(const envelope_combine_args& a) noexcept {
  for (index_t i = 0; i < a.count; ++i) {
    float sum = First(value_at(a.envelope, 0, i), a.z[i]);
    for (index_t j = 1; j < a.envelope.rows; ++j) {
      sum = Next(value_at(a.envelope, j, i), a.z[j * a.z_stride + i], sum);
    }
    a.y[i] = a.accumulate ? a.y[i] + sum : sum;
  }
}
float right_first(float e, float z) noexcept { return product(e, z); }
float right_next(float e, float z, float s) noexcept { return std::fma(e, z, s); }
float plus_zero(float e, float z) noexcept { return std::fma(e, z, 0.0F); }  // -0 is lost
float twice_rounded(float e, float z, float s) noexcept {
  volatile float product = e * z;  // rounded, whatever may be fused
  return s + product;
}
float flushed(float e, float z) noexcept {
  const float p = product(e, z);
  return std::fabs(p) < 0x1p-126F ? 0.0F : p;
}

void fuses_the_sum(const envelope_combine_args& a) noexcept {
  if (!a.accumulate || a.envelope.rows != 1) return kernels::scalar::envelope_combine(a);
  for (index_t i = 0; i < a.count; ++i) {
    a.y[i] = std::fma(value_at(a.envelope, 0, i), a.z[i], a.y[i]);
  }
}
void forgets_to_add(const envelope_combine_args& a) noexcept {
  envelope_combine_args b = a;
  b.accumulate = false;
  kernels::scalar::envelope_combine(b);
}
void always_adds(const envelope_combine_args& a) noexcept {
  envelope_combine_args b = a;
  b.accumulate = true;
  kernels::scalar::envelope_combine(b);
}
void ignores_the_stride_of_z(const envelope_combine_args& a) noexcept {
  envelope_combine_args b = a;
  b.z_stride = a.count;
  kernels::scalar::envelope_combine(b);
}
void drops_the_tail(const envelope_combine_args& a) noexcept {
  envelope_combine_args b = a;
  b.count = a.count / 8 * 8;
  kernels::scalar::envelope_combine(b);
}
void drops_the_last_row(const envelope_combine_args& a) noexcept {
  envelope_combine_args b = a;
  b.envelope.rows = a.envelope.rows == 5 ? 4 : a.envelope.rows;
  kernels::scalar::envelope_combine(b);
}
void writes_behind_y(const envelope_combine_args& a) noexcept {
  kernels::scalar::envelope_combine(a);
  a.y[a.count] = 0.0F;
}
void takes_halves_for_brain_floats(const envelope_expand_args& a) noexcept {
  envelope_expand_args b = a;
  if (a.envelope.type == scale_type::fp16) b.envelope.type = scale_type::bf16;
  kernels::scalar::envelope_expand(b);
}
void ignores_the_stride_of_envelopes(const envelope_expand_args& a) noexcept {
  envelope_expand_args b = a;
  b.envelope.stride = a.count;
  kernels::scalar::envelope_expand(b);
}
void ignores_the_stride_of_outputs(const envelope_expand_args& a) noexcept {
  envelope_expand_args b = a;
  b.out_stride = a.count;
  kernels::scalar::envelope_expand(b);
}
void expands_whole_registers(const envelope_expand_args& a) noexcept {
  envelope_expand_args b = a;
  b.count = a.count / 4 * 4;
  kernels::scalar::envelope_expand(b);
}

}  // namespace

TEST_CASE("envelope: the conformance suite finds wrong variants", "[any_isa]") {
  const auto passes = [](kernels::envelope_expand_fn e, kernels::envelope_combine_fn c) {
    return testing::all_passed(testing::check_envelope_variant({"mutant", cpu::none, {e, c}}, 7));
  };
  const auto right = kernels::scalar::envelope;
  REQUIRE(passes(right.expand, right.combine));
  REQUIRE(passes(right.expand, &combine_by<right_first, right_next>));
  for (const auto wrong :
       {&combine_by<plus_zero, right_next>, &combine_by<right_first, twice_rounded>,
        &combine_by<flushed, right_next>, &fuses_the_sum, &forgets_to_add, &always_adds,
        &ignores_the_stride_of_z, &drops_the_tail, &drops_the_last_row, &writes_behind_y}) {
    CHECK_FALSE(passes(right.expand, wrong));
  }
  for (const auto wrong : {&takes_halves_for_brain_floats, &ignores_the_stride_of_envelopes,
                           &ignores_the_stride_of_outputs, &expands_whole_registers}) {
    CHECK_FALSE(passes(wrong, right.combine));
  }
  const auto missing = testing::check_envelope_variant({"none", cpu::cpu_set{~0ULL}, {}});
  CHECK(missing.size() == 1);
  CHECK_FALSE(testing::all_passed(missing));
}

// The driver -------------------------------------------------------------------------------------
namespace {

layout::scale_matrix envelopes(scale_type type, shape2 shape) {
  layout::scale_matrix e(type, shape);
  for (index_t j = 0; j < shape.rows; ++j) {
    for (index_t i = 0; i < shape.cols; ++i) e.set(j, i, random_normal(3, j * shape.cols + i));
  }
  return e;
}
std::vector<float> numbers(index_t count, std::uint64_t seed) {
  std::vector<float> x(count);
  for (index_t i = 0; i < count; ++i) x[i] = random_normal(seed, i);
  return x;
}

}  // namespace

TEST_CASE("envelope driver: both functions are their definition, whoever runs the tasks") {
  for (const scale_type type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
    for (const shape2 shape : {shape2{1, 1}, shape2{1, 70}, shape2{4, 33}, shape2{2, 8200}}) {
      const auto e = envelopes(type, shape);
      const index_t l = shape.rows;
      const index_t n = shape.cols;
      for (const index_t tokens : {1U, 3U}) {
        const auto x = numbers(tokens * (n + 1), 4);  // rows lie apart
        const auto z = numbers(tokens * l * (n + 2), 5);
        const auto y = numbers(tokens * (n + 3), 6);
        test::on_each_executor(context::best(), {1U, 3U}, [&](const context& ctx) {
          std::vector<float> out(tokens * l * (n + 2), 5.0F);
          kernels::expand_envelopes(e, {x.data(), tokens, n, n + 1},
                                    {out.data(), tokens * l, n, n + 2}, ctx);
          std::size_t wrong = 0;
          for (index_t row = 0; row < tokens * l; ++row) {
            for (index_t i = 0; i < n + 2; ++i) {
              const float expected =
                  i < n ? product(e.get(row % l, i), x[row / l * (n + 1) + i]) : 5.0F;
              wrong += out[row * (n + 2) + i] != expected ? 1U : 0U;
            }
          }
          CHECK(wrong == 0);
          for (const auto sum : {kernels::envelope_sum::overwrite, kernels::envelope_sum::add}) {
            std::vector<float> found = y;
            kernels::combine_envelopes(e, {z.data(), tokens * l, n, n + 2}, sum,
                                       {found.data(), tokens, n, n + 3}, ctx);
            for (index_t t = 0; t < tokens; ++t) {
              for (index_t i = 0; i < n + 3; ++i) {
                const index_t at = t * (n + 3) + i;
                float expected = y[at];
                if (i < n) {
                  float s = product(e.get(0, i), z[t * l * (n + 2) + i]);
                  for (index_t j = 1; j < l; ++j) {
                    s = std::fma(e.get(j, i), z[(t * l + j) * (n + 2) + i], s);
                  }
                  expected = sum == kernels::envelope_sum::add ? y[at] + s : s;
                }
                wrong += found[at] != expected ? 1U : 0U;
              }
            }
            CHECK(wrong == 0);
          }
        });
      }
    }
  }
}

TEST_CASE("envelope driver: nothing is a shape, and what does not fit is refused") {
  const context ctx = context::best();
  const layout::scale_matrix none(scale_type::fp16, {0, 4});
  std::vector<float> y(8, 5.0F);
  kernels::expand_envelopes(none, {y.data(), 2, 4}, {nullptr, 0, 4}, ctx);
  kernels::combine_envelopes(none, {nullptr, 0, 4}, kernels::envelope_sum::add, {y.data(), 2, 4},
                             ctx);
  CHECK(y == std::vector<float>(8, 5.0F));
  kernels::combine_envelopes(none, {nullptr, 0, 4}, kernels::envelope_sum::overwrite,
                             {y.data(), 2, 4}, ctx);
  CHECK(y == std::vector<float>(8, 0.0F));
  kernels::expand_envelopes({}, {}, {}, ctx);

  const auto e = envelopes(scale_type::fp16, {2, 4});
  std::vector<float> many(24);
  CHECK(lowbit_test::message_of<shape_error>([&] {
          kernels::expand_envelopes(e, {y.data(), 2, 4}, {many.data(), 3, 4}, ctx);
        }) == "2 tokens with 2 envelopes have not 3 right-hand sides");
  CHECK(lowbit_test::message_of<shape_error>([&] {
          kernels::expand_envelopes(e, {y.data(), 2, 3}, {many.data(), 4, 4}, ctx);
        }) == "envelopes have 4 columns, tokens 3, and their right-hand sides 4");
  CHECK_THROWS_AS(kernels::combine_envelopes(e, {many.data(), 4, 5}, kernels::envelope_sum::add,
                                             {y.data(), 2, 4}, ctx),
                  shape_error);
  CHECK_THROWS_AS(kernels::combine_envelopes(e, {many.data(), 4, 4}, kernels::envelope_sum::add,
                                             {y.data(), 1, 4}, ctx),
                  shape_error);
}
