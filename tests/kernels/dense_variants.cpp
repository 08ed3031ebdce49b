// Every variant of the dense fp64 kernel against its contract, and the suite against variants that
// are wrong on purpose.
#include "lowbit/kernels/dense/variants.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "lowbit/testing/dense.hpp"
#include "variant_table.hpp"

using namespace lowbit;
using kernels::dense_functions;
using kernels::dense_tile_args;
using kernels::dense_tile_cols;
using kernels::dense_tile_rows;
using dense_variant = kernels::variant<dense_functions>;

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

TEST_CASE("dense: every variant that this machine supports keeps the contract", "[any_isa]") {
  lowbit_test::check_supported_variants<dense_functions>(
      kernels::dense_variants, tiers_with_a_variant, 700,
      [](const auto& v) { return testing::check_dense_variant(v, 2024); });
}

TEST_CASE("dense: the variant table is in order") {
  const auto found = lowbit_test::check_variant_table<dense_functions>(kernels::dense_variants);
  INFO(testing::failures(found));
  CHECK(testing::all_passed(found));
}

// Wrong on purpose -------------------------------------------------------------------------------
namespace {

/// The contract with another sum: sum(c, a, b) takes a column of each panel, `depth` terms.
template <class Sum>
void tile(const dense_tile_args& args, Sum sum) {
  for (index_t i = 0; i < dense_tile_rows; ++i) {
    for (index_t j = 0; j < dense_tile_cols; ++j) {
      double& c = args.c[i * args.c_stride + j];
      c = sum(
          c, [&](index_t k) { return args.a[k * dense_tile_rows + i]; },
          [&](index_t k) { return args.b[k * dense_tile_cols + j]; });
    }
  }
}

double rounded_product(double a, double b) noexcept {
  volatile double product = a * b;  // rounded, whatever may be fused
  return product;
}

void rounds_products(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    for (index_t k = 0; k < args.depth; ++k) c += rounded_product(a(k), b(k));
    return c;
  });
}
void goes_backwards(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    for (index_t k = args.depth; k-- > 0;) c = std::fma(a(k), b(k), c);
    return c;
  });
}
void sums_even_and_odd_apart(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    double sums[2] = {c, -0.0};
    for (index_t k = 0; k < args.depth; ++k) sums[k % 2] = std::fma(a(k), b(k), sums[k % 2]);
    return sums[0] + sums[1];
  });
}
void adds_c_last(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    double sum = -0.0;
    for (index_t k = 0; k < args.depth; ++k) sum = std::fma(a(k), b(k), sum);
    return sum + c;
  });
}
void overwrites(const dense_tile_args& args) noexcept {
  tile(args, [&](double, auto a, auto b) {
    double sum = 0.0;
    for (index_t k = 0; k < args.depth; ++k) sum = std::fma(a(k), b(k), sum);
    return sum;
  });
}
void drops_the_odd_term(const dense_tile_args& args) noexcept {
  dense_tile_args shorter = args;
  shorter.depth = args.depth / 2 * 2;
  kernels::scalar::dense_tile(shorter);
}
/// What comes of unrolling by two with zeros for the missing term: -0 + 0 is +0.
void adds_a_zero_term(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    for (index_t k = 0; k < args.depth; ++k) c = std::fma(a(k), b(k), c);
    return args.depth % 2 == 0 ? c : std::fma(0.0, 0.0, c);
  });
}
void flushes_denormals(const dense_tile_args& args) noexcept {
  tile(args, [&](double c, auto a, auto b) {
    for (index_t k = 0; k < args.depth; ++k) {
      c = std::fma(a(k), b(k), c);
      if (std::fabs(c) < 0x1p-1022) c = std::copysign(0.0, c);
    }
    return c;
  });
}
void ignores_the_stride(const dense_tile_args& args) noexcept {
  dense_tile_args dense = args;
  dense.c_stride = dense_tile_cols;
  kernels::scalar::dense_tile(dense);
}
void writes_past_the_row(const dense_tile_args& args) noexcept {
  kernels::scalar::dense_tile(args);
  args.c[(dense_tile_rows - 1) * args.c_stride + dense_tile_cols] = 0.0;
}
void exchanges_two_columns(const dense_tile_args& args) noexcept {
  kernels::scalar::dense_tile(args);
  for (index_t i = 0; i < dense_tile_rows; ++i) {
    std::swap(args.c[i * args.c_stride + 3], args.c[i * args.c_stride + 4]);
  }
}

void axpy_rounds_products(double a, const double* x, double* y, index_t count) noexcept {
  for (index_t j = 0; j < count; ++j) y[j] += rounded_product(a, x[j]);
}
void axpy_drops_the_last_step(double a, const double* x, double* y, index_t count) noexcept {
  kernels::scalar::dense_axpy(a, x, y, count / 16 * 16);
}
void axpy_writes_whole_lines(double a, const double* x, double* y, index_t count) noexcept {
  kernels::scalar::dense_axpy(a, x, y, count);
  if (count % 16 != 0) y[count] = 0.0;
}

}  // namespace

TEST_CASE("dense: the conformance suite finds wrong variants", "[any_isa]") {
  const auto passes = [](kernels::dense_tile_fn tile_fn, kernels::dense_axpy_fn axpy) {
    return testing::all_passed(
        testing::check_dense_variant({"mutant", cpu::none, {tile_fn, axpy}}, 7));
  };
  const auto right = kernels::scalar::dense;
  REQUIRE(passes(right.tile, right.axpy));
  for (const auto wrong :
       {&rounds_products, &goes_backwards, &sums_even_and_odd_apart, &adds_c_last, &overwrites,
        &drops_the_odd_term, &adds_a_zero_term, &flushes_denormals, &ignores_the_stride,
        &writes_past_the_row, &exchanges_two_columns}) {
    CHECK_FALSE(passes(wrong, right.axpy));
  }
  for (const auto wrong :
       {&axpy_rounds_products, &axpy_drops_the_last_step, &axpy_writes_whole_lines}) {
    CHECK_FALSE(passes(right.tile, wrong));
  }
  const auto missing = testing::check_dense_variant({"none", cpu::cpu_set{~0ULL}, {}});
  CHECK(missing.size() == 1);
  CHECK_FALSE(testing::all_passed(missing));
}
