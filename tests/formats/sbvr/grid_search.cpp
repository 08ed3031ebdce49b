// The authors' format and their search.
#include <cmath>

#include "catch.hpp"
#include "common.hpp"
#include "lowbit/ops/evaluate.hpp"
#include "lowbit/testing/buffers.hpp"

using namespace sbvr_test;

namespace {

/// basis {0, 1}, fp16 coefficients by index, groups of 128, no offset.
sbvr_quantizer authors(unsigned planes) {
  return {.params = {.planes = planes,
                     .basis = sbvr_basis::zero_one,
                     .coefficients = sbvr_coefficients::table,
                     .group_size = 128,
                     .index_bits = 16,
                     .table_lines = 65536},
          .fit = {.method = sbvr_method::grid_search,
                  .search_ratios = 6,
                  .search_biases = 5,
                  .search_scales = 5}};
}

}  // namespace

TEST_CASE("sbvr grid search: without sharing, every group has its best candidate") {
  const auto m = testing::normal_matrix({100, 128}, 51);
  for (const unsigned planes : {1U, 2U, 4U}) {
    auto q = authors(planes);
    q.fit.warmup_lines = 65536;  // never warm: no group takes a line of another by default
    const auto t = q.quantize(m.view());
    const auto w_hat = values_of(t);
    const formats::detail::grid_search grid(q.params, q.fit);
    for (index_t r = 0; r < 100; ++r) {
      const auto x = m.view().row(r);
      const formats::detail::group_values values(x, {}, grid.symmetric());
      const auto best = grid.search(x, values, /*extended=*/true);
      const double mse =
          squared_error(x, std::span<const float>(w_hat).subspan(r * 128, 128)) / 128.0;
      INFO(planes << " planes, row " << r);
      // Some other group's line may be better than all candidates of this group, never worse.
      // (Lines nearly the same as one before are that one: 1e-4 of the coefficients.)
      CHECK(mse <= best.mse * (1.0 + 1e-2) + 1e-7);
    }
    CHECK(t.params().table_lines <= 100);
    CHECK(t.params().table_lines > 50);
  }
}

TEST_CASE("sbvr grid search: one group gets exactly the best candidate") {
  for (const unsigned planes : {1U, 2U, 3U, 4U, 7U}) {
    const auto m = testing::normal_matrix({1, 128}, 52 + planes);
    const auto q = authors(planes);
    const auto t = q.quantize(m.view());
    const formats::detail::grid_search grid(q.params, q.fit);
    const formats::detail::group_values values(m.view().row(0), {}, grid.symmetric());
    const auto best = grid.search(m.view().row(0), values, /*extended=*/true);
    REQUIRE(t.params().table_lines == 1);
    for (unsigned i = 0; i < planes; ++i) {
      CHECK(t.codebook().table().get(0, i) == best.levels.coefficients[i]);
    }
    // Values are levels rounded to float: each error e is off by u |w| at most, u = 2^-24, and the
    // mean of e^2 by 2 u sqrt(mean e^2 * mean w^2); twice that leaves room for the squares of u.
    const double mse = squared_error(m.values, values_of(t)) / 128.0;
    const double energy = squared_error(values_of(t), std::vector<float>(128)) / 128.0;
    CHECK(std::fabs(mse - best.mse) <= 0x1p-22 * std::sqrt(best.mse * energy));
  }
}

TEST_CASE("sbvr grid search: warm tables are shared") {
  const auto m = testing::normal_matrix({64, 512}, 60);
  auto q = authors(3);
  const auto t = q.quantize(m.view());
  CHECK(t.params().table_lines >= 10);
  CHECK(t.params().table_lines < 256);
  const double shared = ops::weight_error(m.view(), t).relative_mse();
  q.fit.warmup_lines = 65536;
  const double own = ops::weight_error(m.view(), q.quantize(m.view())).relative_mse();
  CHECK(shared < 1.15 * own);
  CHECK(shared < 0.06);
  // With its own least squares the same format does better in less time.
  q.fit.method = sbvr_method::alternating;
  q.params.table_lines = 256;
  CHECK(ops::weight_error(m.view(), q.quantize(m.view())).relative_mse() < shared);
}

TEST_CASE("sbvr grid search: the authors' format goes through buffers") {
  const auto m = testing::normal_matrix({16, 300}, 61);
  const auto t = authors(4).quantize(m.view());
  testing::memory_source source(testing::copy_buffers(t));
  const auto again = sbvr_tensor::from_buffers(t.shape(), t.params(), source);
  CHECK(values_of(again) == values_of(t));
  const auto buffers = testing::copy_buffers(t);
  REQUIRE(buffers.size() == 3);
  CHECK(buffers[0].name == "planes");
  CHECK(buffers[1].name == "indices");
  CHECK(buffers[1].type == element_type::u16);
  CHECK(buffers[2].name == "table");
  CHECK(buffers[2].type == element_type::f16);
}
