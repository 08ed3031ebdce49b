// Rows by Hadamard matrices: against the definition of linalg/hadamard.hpp bit by bit, with every
// variant, in place and not, over several workers; and what is refused.
#include "lowbit/kernels/hadamard/driver.hpp"

#include <algorithm>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/testing/hadamard.hpp"

using namespace lowbit;
using kernels::context;
using linalg::hadamard_direction;
using linalg::hadamard_matrix;

namespace {

/// A row by its definition: signs, H or H^T of every block, scale, signs.
std::vector<float> defined(const hadamard_matrix& h, hadamard_direction direction,
                           const std::vector<std::uint64_t>& signs, std::vector<float> x) {
  const auto flip = [&] {
    for (index_t k = 0; k < x.size() && !signs.empty(); ++k) {
      if ((signs[k / 64] >> (k % 64) & 1U) != 0) x[k] = -x[k];
    }
  };
  if (direction == hadamard_direction::forward) flip();
  for (index_t begin = 0; begin < x.size(); begin += h.size()) {
    h.apply(direction, std::span(x).subspan(begin, h.size()));
  }
  for (float& v : x) v *= linalg::hadamard_scale<float>(h.size());
  if (direction == hadamard_direction::transposed) flip();
  return x;
}

struct rows_case {
  index_t block;
  index_t blocks;
  index_t rows;
};

void check_rows(const rows_case& c, const context& ctx, std::uint64_t seed) {
  const hadamard_matrix h(c.block);
  const index_t columns = c.block * c.blocks;
  const index_t stride = columns + 3;
  const auto x = testing::detail::hadamard_values(testing::detail::hadamard_pattern::normal, seed,
                                                  c.rows * stride);
  for (const bool has_signs : {false, true}) {
    const auto signs = testing::detail::hadamard_sign_words(has_signs, columns, seed);
    for (const auto direction : {hadamard_direction::forward, hadamard_direction::transposed}) {
      std::vector<float> expected = x;
      for (index_t r = 0; r < c.rows; ++r) {
        const auto at = static_cast<std::ptrdiff_t>(r * stride);
        const auto last = at + static_cast<std::ptrdiff_t>(columns);
        const auto row = defined(h, direction, signs, {x.begin() + at, x.begin() + last});
        std::copy(row.begin(), row.end(), expected.begin() + at);
      }
      std::vector<float> in_place = x;
      std::vector<float> out = x;
      const matrix_view<const float> in(x.data(), c.rows, columns, stride);
      const matrix_view<float> same(in_place.data(), c.rows, columns, stride);
      kernels::hadamard_rows(h, direction, signs, same, same, ctx);
      kernels::hadamard_rows(h, direction, signs, in, {out.data(), c.rows, columns, stride}, ctx);
      CAPTURE(c.block, c.blocks, c.rows, has_signs, static_cast<int>(direction), seed);
      CHECK(testing::detail::compare_float_bits(in_place, expected).empty());
      CHECK(testing::detail::compare_float_bits(out, expected).empty());
    }
  }
}

}  // namespace

TEST_CASE("hadamard_rows is its definition with every variant") {
  std::uint64_t seed = 1;
  for (const auto& v : kernels::hadamard_variants) {
    context ctx = context::best();
    if (!v.is_supported(ctx.allowed)) continue;
    ctx.allowed = v.needs;
    INFO(v.name);
    // Blocks of a power of two and others, whose signs begin inside a word or not; dense factors
    // of 12, 20, 28, 36, 44, 60, 180, and widths from 1 on.
    for (const rows_case& c :
         {rows_case{1, 7, 2}, {2, 5, 1},    {8, 13, 2},  {16, 3, 3},  {256, 5, 2}, {512, 3, 2},
          {4096, 1, 1},       {8192, 1, 1}, {12, 1, 2},  {12, 11, 2}, {20, 3, 1},  {36, 5, 2},
          {40, 4, 1},         {60, 2, 2},   {96, 1, 2},  {144, 3, 1}, {448, 1, 2}, {704, 2, 1},
          {1536, 2, 2},       {2880, 1, 1}, {3072, 1, 1}}) {
      check_rows(c, ctx, ++seed);
    }
  }
}

TEST_CASE("hadamard_rows gives the same bits with any workers and scratch") {
  test::backwards_executor backwards(3);
  kernels::workspace scratch;
  context ctx = context::best();
  ctx.threads = &backwards;
  ctx.scratch = &scratch;
  check_rows({2048, 2, 40}, ctx, 3);
  check_rows({1536, 1, 50}, ctx, 4);
  check_rows({12, 3, 2000}, ctx, 5);
}

TEST_CASE("hadamard_rows refuses what does not fit and takes what is empty") {
  const hadamard_matrix h(12);
  std::vector<float> x(48);
  const std::vector<std::uint64_t> none;
  const context ctx = context::best();
  const auto run = [&](shape2 in, shape2 out, const std::vector<std::uint64_t>& signs) {
    kernels::hadamard_rows(h, hadamard_direction::forward, signs,
                           matrix_view<const float>(x.data(), in.rows, in.cols),
                           {x.data(), out.rows, out.cols}, ctx);
  };
  CHECK_THROWS_AS(run({2, 12}, {2, 24}, none), shape_error);
  CHECK_THROWS_AS(run({1, 16}, {1, 16}, none), shape_error);
  std::vector<float> wide(72);
  const matrix_view<float> row(wide.data(), 1, 72);
  CHECK_THROWS_AS(kernels::hadamard_rows(h, hadamard_direction::forward,
                                         std::vector<std::uint64_t>(1), row, row, ctx),
                  shape_error);
  run({0, 12}, {0, 12}, none);
  run({2, 0}, {2, 0}, none);
}
