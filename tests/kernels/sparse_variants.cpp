// Every variant of the sparse kernel against its contract, and the suite against variants that are
// wrong on purpose.
#include "lowbit/kernels/sparse/variants.hpp"

#include <cmath>
#include <string_view>

#include "catch.hpp"
#include "lowbit/testing/sparse.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::sparse_block_args;
using kernels::sparse_functions;
using kernels::sparse_lanes;
using kernels::sparse_step;
using kernels::sparse_tokens;
using kernels::sparse_vector_args;

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

TEST_CASE("sparse: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<sparse_functions>(
      kernels::sparse_variants, tiers_with_a_variant, 300,
      [](const auto& v) { return testing::check_sparse_variant(v, 2024); });
}

TEST_CASE("sparse: the variant table is in order") {
  const auto found = lowbit_test::check_variant_table<sparse_functions>(kernels::sparse_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// The contract with another operation for one value.
template <class Add>
void vector(const sparse_vector_args& args, Add add) {
  for (index_t t = 0; t < args.depth; ++t) {
    for (index_t i = 0; i < sparse_lanes; ++i) {
      const sparse_step& step = args.steps[t];
      args.sums[i] = add(args.sums[i], to_float(step.values[i]), args.x[step.columns[i]]);
    }
  }
}
template <class Add>
void block(const sparse_block_args& args, Add add) {
  for (index_t token = 0; token < sparse_tokens; ++token) {
    for (index_t t = 0; t < args.depth; ++t) {
      for (index_t i = 0; i < sparse_lanes; ++i) {
        const sparse_step& step = args.steps[t];
        float& sum = args.sums[i * sparse_tokens + token];
        sum = add(sum, to_float(step.values[i]), args.x[step.columns[i] * sparse_tokens + token]);
      }
    }
  }
}

float twice_rounded(float s, float v, float x) noexcept {
  volatile float product = v * x;  // rounded, whatever may be fused
  return s + product;
}
float without_zero_terms(float s, float v, float x) noexcept {  // -0 + 0 is 0, Inf * 0 is NaN
  return v == 0.0F ? s + 0.0F : std::fma(v, x, s);
}
float without_subnormals(float s, float v, float x) noexcept {
  return std::fabs(v) < 0x1p-14F ? s : std::fma(v, x, s);
}

void drops_the_last_step(const sparse_vector_args& args) noexcept {
  sparse_vector_args shorter = args;
  shorter.depth = args.depth / 2 * 2;
  kernels::scalar::sparse_vector(shorter);
}
void goes_a_step_too_far(const sparse_vector_args& args) noexcept {
  sparse_vector_args longer = args;
  longer.depth += args.depth % 2;
  kernels::scalar::sparse_vector(longer);
}
void goes_backwards(const sparse_vector_args& args) noexcept {
  for (index_t t = args.depth; t-- > 0;) {
    kernels::scalar::sparse_vector({args.steps + t, 1, args.x, args.sums});
  }
}
void starts_from_zero(const sparse_vector_args& args) noexcept {
  for (index_t i = 0; i < sparse_lanes; ++i) args.sums[i] = 0.0F;
  kernels::scalar::sparse_vector(args);
}
void has_signed_columns(const sparse_vector_args& args) noexcept {
  vector(args, [](float s, float v, float x) { return std::fma(v, x, s); });
  for (index_t t = 0; t < args.depth; ++t) {
    if (args.steps[t].columns[3] > 32767) args.sums[3] = 0.0F;
  }
}
void writes_behind_the_sums(const sparse_vector_args& args) noexcept {
  kernels::scalar::sparse_vector(args);
  args.sums[sparse_lanes] = 0.0F;
}
void exchanges_two_lanes(const sparse_block_args& args) noexcept {
  kernels::scalar::sparse_block(args);
  for (index_t i = 0; i < sparse_tokens; ++i) {
    std::swap(args.sums[3 * sparse_tokens + i], args.sums[4 * sparse_tokens + i]);
  }
}
void leaves_out_the_last_token(const sparse_block_args& args) noexcept {
  alignas(64) float last[sparse_lanes];
  for (index_t i = 0; i < sparse_lanes; ++i) last[i] = args.sums[i * sparse_tokens + 15];
  kernels::scalar::sparse_block(args);
  for (index_t i = 0; i < sparse_lanes; ++i) args.sums[i * sparse_tokens + 15] = last[i];
}

template <float (*Add)(float, float, float) noexcept>
void vector_by(const sparse_vector_args& args) noexcept {
  vector(args, Add);
}
template <float (*Add)(float, float, float) noexcept>
void block_by(const sparse_block_args& args) noexcept {
  block(args, Add);
}

}  // namespace

TEST_CASE("sparse: the conformance suite finds wrong variants", "[any_isa]") {
  const auto passes = [](kernels::sparse_vector_fn v, kernels::sparse_block_fn b) {
    return testing::all_passed(testing::check_sparse_variant({"mutant", cpu::none, {v, b}}, 7));
  };
  const auto right = kernels::scalar::sparse;
  REQUIRE(passes(right.vector, right.block));
  for (const auto wrong :
       {&vector_by<twice_rounded>, &vector_by<without_zero_terms>, &vector_by<without_subnormals>,
        &drops_the_last_step, &goes_a_step_too_far, &goes_backwards, &starts_from_zero,
        &has_signed_columns, &writes_behind_the_sums}) {
    CHECK_FALSE(passes(wrong, right.block));
  }
  for (const auto wrong :
       {&block_by<twice_rounded>, &block_by<without_zero_terms>, &block_by<without_subnormals>,
        &exchanges_two_lanes, &leaves_out_the_last_token}) {
    CHECK_FALSE(passes(right.vector, wrong));
  }
  const auto missing = testing::check_sparse_variant({"none", cpu::cpu_set{~0ULL}, {}});
  CHECK(missing.size() == 1);
  CHECK_FALSE(testing::all_passed(missing));
}
