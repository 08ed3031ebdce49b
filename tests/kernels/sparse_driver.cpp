// kernels/sparse/driver.hpp against its definition, element by element: every tier, shape, number
// of tokens and executor.
#include "lowbit/kernels/sparse/driver.hpp"

#include <bit>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::context;

namespace {

/// `count` values, half of them in a few rows, so that slices have rows of very different lengths.
layout::sparse_matrix random_sparse(shape2 shape, index_t count, std::uint64_t seed) {
  std::set<index_t> places;
  for (index_t i = 0; places.size() < count; ++i) {
    const index_t row = i % 2 == 0 ? random_bits(seed, i) % shape.rows : i / 2 % 3 % shape.rows;
    places.insert(row * shape.cols + random_bits(seed + 1, i) % shape.cols);
  }
  const std::vector<index_t> sorted(places.begin(), places.end());
  std::vector<float> values;
  for (index_t i = 0; i < count; ++i) values.push_back(random_normal(seed + 2, i));
  return {shape, sorted, values};
}

std::vector<float> numbers(index_t count, std::uint64_t seed) {
  std::vector<float> x(count);
  for (index_t i = 0; i < count; ++i) x[i] = i % 7 == 3 ? -0.0F : random_normal(seed, i);
  return x;
}

/// y += x S^T as the header of the driver states it.
std::vector<float> plain_product(const layout::sparse_matrix& s, matrix_view<const float> x,
                                 std::vector<float> y) {
  const index_t n = s.shape().rows;
  for (index_t m = 0; m < x.rows(); ++m) {
    for (index_t r = 0; r < n; ++r) {
      float sum = 0.0F;
      bool any = false;
      s.for_each({r, r + 1}, [&](index_t, index_t k, float16 v) {
        sum = std::fma(to_float(v), x(m, k), sum);
        any = true;
      });
      if (any) y[m * n + r] += sum;
    }
  }
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (index_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  }
  return a.size() == b.size();
}

std::vector<context> contexts() {
  std::vector<context> list;
  for (const auto& v : kernels::sparse_variants) {
    if (!v.is_supported(context::best().allowed)) continue;
    context ctx = context::best();
    ctx.allowed = v.needs;
    list.push_back(ctx);
  }
  return list;
}

}  // namespace

TEST_CASE("sparse driver: the product is its definition, for any tokens on any tier") {
  struct problem {
    shape2 shape;
    index_t count;
  };
  for (const auto& [shape, count] :
       {problem{{1, 1}, 1}, {{3, 5}, 2}, {{40, 70}, 300}, {{100, 33}, 7}, {{5, 64}, 320}}) {
    const auto s = random_sparse(shape, count, 11);
    const kernels::packed_sparse packed(s);
    CHECK(packed.count() == count);
    for (const index_t tokens : {1U, 2U, 3U, 4U, 15U, 16U, 17U, 35U}) {
      const auto x = numbers(tokens * shape.cols, 21);
      const auto y = numbers(tokens * shape.rows, 22);
      const matrix_view<const float> inputs(x.data(), tokens, shape.cols);
      const auto expected = plain_product(s, inputs, y);
      for (const context& ctx : contexts()) {
        CAPTURE(shape.rows, shape.cols, count, tokens);
        auto found = y;
        kernels::add_sparse_product(inputs, packed, {found.data(), tokens, shape.rows}, ctx);
        CHECK(same_bits(found, expected));
      }
    }
  }
}

TEST_CASE("sparse driver: wide matrices go in panels, whose borders change nothing") {
  constexpr index_t panel = kernels::packed_sparse::panel_columns;
  const shape2 shape{3, 2 * panel + 5};
  std::vector<index_t> places;
  std::vector<float> values;
  for (index_t r = 0; r < 3; ++r) {
    for (const index_t k :
         {index_t{0}, panel - 1, panel, panel + 1, 2 * panel - 1, 2 * panel, 2 * panel + 4}) {
      if (r == 1 && k == panel) continue;
      places.push_back(r * shape.cols + k);
      values.push_back(random_normal(5, places.size()));
    }
  }
  const layout::sparse_matrix s(shape, places, values);
  const kernels::packed_sparse packed(s);
  CHECK(packed.panels() == 3);
  for (const index_t tokens : {1U, 5U}) {
    const auto x = numbers(tokens * shape.cols, 31);
    const auto y = numbers(tokens * shape.rows, 32);
    const matrix_view<const float> inputs(x.data(), tokens, shape.cols);
    const auto expected = plain_product(s, inputs, y);
    for (const context& ctx : contexts()) {
      auto found = y;
      kernels::add_sparse_product(inputs, packed, {found.data(), tokens, shape.rows}, ctx);
      CHECK(same_bits(found, expected));
    }
  }
}

TEST_CASE("sparse driver: who runs a task does not matter, nor does the scratch that was there") {
  const shape2 shape{5000, 40};  // more rows than are sorted together
  const auto s = random_sparse(shape, 9000, 41);
  const kernels::packed_sparse packed(s);
  kernels::workspace scratch;
  for (const index_t tokens : {1U, 5U}) {
    const auto x = numbers(tokens * shape.cols, 51);
    const auto y = numbers(tokens * shape.rows, 52);
    const matrix_view<const float> inputs(x.data(), tokens, shape.cols);
    const auto expected = plain_product(s, inputs, y);
    test::on_each_executor(context::best(), {1U, 3U}, [&](context ctx) {
      for (kernels::workspace* const w : {static_cast<kernels::workspace*>(nullptr), &scratch}) {
        ctx.scratch = w;
        auto found = y;
        kernels::add_sparse_product(inputs, packed, {found.data(), tokens, shape.rows}, ctx);
        CHECK(same_bits(found, expected));
      }
    });
  }
}

TEST_CASE("sparse driver: an infinity reaches the rows that have a value there, and no other") {
  const std::vector<index_t> places{1, 4 + 2, 12 + 1};  // rows 0, 1 and 3 of 4 columns
  const std::vector<float> values{1.0F, 2.0F, 3.0F};
  const kernels::packed_sparse packed(layout::sparse_matrix({4, 4}, places, values));
  std::vector<float> x{1.0F, std::numeric_limits<float>::infinity(), 1.0F, 1.0F};
  for (const context& ctx : contexts()) {
    std::vector<float> y(4, -0.0F);
    kernels::add_sparse_product({x.data(), 1, 4}, packed, {y.data(), 1, 4}, ctx);
    CHECK(std::isinf(y[0]));
    CHECK(y[1] == 2.0F);
    CHECK((y[2] == 0.0F && std::signbit(y[2])));  // no values: left as it was
    CHECK(std::isinf(y[3]));
  }
}

TEST_CASE("sparse driver: nothing is a shape, and what does not fit is refused") {
  const context ctx = context::best();
  kernels::add_sparse_product({}, kernels::packed_sparse(), {}, ctx);
  const kernels::packed_sparse none(layout::sparse_matrix({3, 4}, {}, {}));
  CHECK(none.slices() == 0);
  std::vector<float> x(20, 1.0F);
  std::vector<float> y(20, 5.0F);
  kernels::add_sparse_product({x.data(), 2, 4}, none, {y.data(), 2, 3}, ctx);
  CHECK(y == std::vector<float>(20, 5.0F));
  CHECK_THROWS_AS(kernels::add_sparse_product({x.data(), 2, 5}, none, {y.data(), 2, 3}, ctx),
                  shape_error);
  CHECK_THROWS_AS(kernels::add_sparse_product({x.data(), 2, 4}, none, {y.data(), 2, 4}, ctx),
                  shape_error);
  CHECK_THROWS_AS(kernels::add_sparse_product({x.data(), 2, 4}, none, {y.data(), 3, 3}, ctx),
                  shape_error);
}
