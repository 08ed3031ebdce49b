// Dense fp64 products: every element against its definition, a loop of std::fma, bit by bit: edges,
// strides, variants, workers and chunks.
#include "lowbit/kernels/dense/driver.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/dense.hpp"

using namespace lowbit;
using kernels::context;
using kernels::dense_sign;
using testing::detail::compare_bits;

namespace {

/// A matrix inside a larger array of `fill`, whose rows are `gap` elements further apart than they
/// are long.
template <class T>
class padded_matrix {
 public:
  padded_matrix(index_t rows, index_t cols, index_t gap,
                T fill = std::numeric_limits<T>::quiet_NaN())
      : rows_(rows), cols_(cols), stride_(cols + gap), all_(1 + rows * stride_ + 3, fill) {}
  /// Rows and columns of values around 1, of both signs; every fifth one is a zero.
  padded_matrix(index_t rows, index_t cols, index_t gap, std::uint64_t seed, T fill)
      : padded_matrix(rows, cols, gap, fill) {
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        const std::uint64_t index = i * cols + j;
        const T value = static_cast<T>(random_normal(seed, index)) / T{3};
        view()(i, j) = random_bits(seed + 1, index) % 5 == 0 ? std::copysign(T{0}, value) : value;
      }
    }
  }
  [[nodiscard]] matrix_view<T> view() noexcept { return {all_.data() + 1, rows_, cols_, stride_}; }
  [[nodiscard]] std::vector<T>& all() noexcept { return all_; }

 private:
  index_t rows_;
  index_t cols_;
  index_t stride_;
  std::vector<T> all_;
};

using doubles = padded_matrix<double>;
using floats = padded_matrix<float>;
constexpr double guard = 12345.0;
const double trap = std::numeric_limits<double>::quiet_NaN();
const float float_trap = std::numeric_limits<float>::quiet_NaN();

/// A context for each variant that may run here.
std::vector<context> contexts() {
  std::vector<context> all;
  for (const auto& v : kernels::dense_variants) {
    context ctx = context::best();
    if (!v.is_supported(ctx.allowed)) continue;
    ctx.allowed = v.needs;
    all.push_back(ctx);
  }
  return all;
}

/// The definition: element (i, j) of C takes the terms left(i, k) * right(k, j) in order.
template <class Left, class Right>
void add_terms(matrix_view<double> c, index_t depth, const Left& left, const Right& right,
               bool lower = false) {
  for (index_t i = 0; i < c.rows(); ++i) {
    for (index_t j = 0; j < (lower ? std::min(i + 1, c.cols()) : c.cols()); ++j) {
      for (index_t k = 0; k < depth; ++k) c(i, j) = std::fma(left(i, k), right(k, j), c(i, j));
    }
  }
}

/// Runs every function of doubles on one shape and compares; returns what is wrong.
std::string check_products(index_t m, index_t n, index_t k, const context& ctx,
                           std::uint64_t seed) {
  const index_t gap = seed % 3;
  doubles a(m, k, gap, seed, trap);
  doubles b(k, n, (gap + 1) % 3, seed + 2, trap);
  doubles bt(n, k, gap, trap);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < k; ++j) bt.view()(i, j) = b.view()(j, i);
  }
  for (const auto sign : {dense_sign::add, dense_sign::subtract}) {
    const double factor = sign == dense_sign::add ? 1.0 : -1.0;
    const auto left = [&](index_t i, index_t j) { return factor * a.view()(i, j); };
    doubles expected(m, n, gap, seed + 4, guard);
    doubles found = expected;
    doubles transposed = expected;
    add_terms(expected.view(), k, left, [&](index_t i, index_t j) { return b.view()(i, j); });
    kernels::add_product(found.view(), sign, a.view(), b.view(), ctx);
    kernels::add_product_transposed(transposed.view(), sign, a.view(), bt.view(), ctx);
    std::string wrong = compare_bits(found.all(), expected.all());
    if (!wrong.empty()) return "add_product " + wrong;
    wrong = compare_bits(transposed.all(), expected.all());
    if (!wrong.empty()) return "add_product_transposed " + wrong;

    doubles gram(m, m, gap, seed + 6, guard);
    doubles expected_gram = gram;
    add_terms(
        expected_gram.view(), k, left, [&](index_t i, index_t j) { return a.view()(j, i); }, true);
    kernels::add_outer_gram(gram.view(), sign, a.view(), ctx);
    wrong = compare_bits(gram.all(), expected_gram.all());
    if (!wrong.empty()) return "add_outer_gram " + wrong;
  }
  return {};
}

/// The same for functions of floats: T rows, K and N columns.
std::string check_grams(index_t rows, index_t k, index_t n, const context& ctx,
                        std::uint64_t seed) {
  floats x(rows, k, seed % 3, seed, float_trap);
  floats y(rows, n, (seed + 1) % 3, seed + 2, float_trap);
  std::vector<float> weights(seed % 2 == 0 ? 0 : rows);
  for (index_t t = 0; t < weights.size(); ++t) {
    weights[t] = random_bits(seed, t) % 4 == 0 ? 0.0F : random_uniform(seed + 3, t);
  }
  const auto left = [&](index_t i, index_t t) {
    const double value = x.view()(t, i);
    return weights.empty() ? value : static_cast<double>(weights[t]) * value;
  };
  doubles h(k, k, seed % 4, seed + 4, guard);
  doubles expected = h;
  add_terms(
      expected.view(), rows, left,
      [&](index_t t, index_t j) { return static_cast<double>(x.view()(t, j)); }, true);
  kernels::add_gram(h.view(), x.view(), weights, ctx);
  std::string wrong = compare_bits(h.all(), expected.all());
  if (!wrong.empty()) return "add_gram " + wrong;

  doubles c(k, n, seed % 4, seed + 5, guard);
  doubles expected_cross = c;
  add_terms(expected_cross.view(), rows, left,
            [&](index_t t, index_t j) { return static_cast<double>(y.view()(t, j)); });
  kernels::add_cross(c.view(), x.view(), y.view(), weights, ctx);
  wrong = compare_bits(c.all(), expected_cross.all());
  return wrong.empty() ? wrong : "add_cross " + wrong;
}

}  // namespace

TEST_CASE("dense driver: every small shape is the definition, bit by bit") {
  for (const context& ctx : contexts()) {
    std::uint64_t seed = 0;
    for (index_t m = 1; m <= 9; ++m) {
      for (index_t n = 1; n <= 9; ++n) {
        for (const index_t k : {1U, 2U, 7U, 8U, 9U, 63U, 64U, 65U}) {
          INFO("variant " << kernels::select_dense(ctx.allowed).name << " m " << m << " n " << n
                          << " k " << k);
          REQUIRE(check_products(m, n, k, ctx, ++seed) == "");
          REQUIRE(check_grams(k, m, n, ctx, ++seed) == "");
        }
      }
    }
  }
}

TEST_CASE("dense driver: shapes around tiles and blocks", "[any_isa]") {
  // Tiles are 8 x 16; blocks 16..96 rows, 512 columns, 256 terms.
  constexpr index_t shapes[][3] = {{15, 16, 17},   {16, 17, 31},   {17, 15, 100}, {24, 32, 191},
                                   {25, 33, 192},  {31, 47, 257},  {95, 65, 5},   {96, 64, 3},
                                   {97, 129, 7},   {130, 40, 513}, {8, 511, 9},   {9, 512, 4},
                                   {3, 513, 200},  {1, 1040, 258}, {200, 1, 577}, {769, 18, 3},
                                   {777, 530, 11}, {140, 140, 400}};
  for (const context& ctx : contexts()) {
    std::uint64_t seed = 100;
    for (const auto& s : shapes) {
      if (lowbit_test::is_sanitized && s[0] * s[1] * s[2] > 300'000) continue;
      INFO("variant " << kernels::select_dense(ctx.allowed).name << " m " << s[0] << " n " << s[1]
                      << " k " << s[2]);
      CHECK(check_products(s[0], s[1], s[2], ctx, ++seed) == "");
      CHECK(check_grams(s[2], s[0], s[1], ctx, ++seed) == "");
      CHECK(check_grams(s[2], s[1], s[0], ctx, ++seed) == "");
    }
  }
}

TEST_CASE("dense driver: nothing is a shape, too") {
  const context ctx = context::best();
  for (const index_t m : {0U, 3U}) {
    for (const index_t n : {0U, 20U}) {
      for (const index_t k : {0U, 5U}) {
        CHECK(check_products(m, n, k, ctx, 5) == "");
        CHECK(check_grams(k, m, n, ctx, 6) == "");
      }
    }
  }
  kernels::add_product({}, dense_sign::add, {}, {}, ctx);
  kernels::add_gram({}, {}, {}, ctx);
  kernels::mirror_lower({});
}

TEST_CASE("dense driver: a sum without terms keeps -0, and padding adds none") {
  for (const context& ctx : contexts()) {
    std::vector<double> c(3 * 5, -0.0);
    std::vector<double> a(3 * 2, 0.0);
    std::vector<double> b(2 * 5, -1.0);
    kernels::add_product({c.data(), 3, 5}, dense_sign::add, {a.data(), 3, 0}, {b.data(), 0, 5},
                         ctx);
    CHECK(compare_bits(c, std::vector<double>(3 * 5, -0.0)) == "");
    kernels::add_product({c.data(), 3, 5}, dense_sign::add, {a.data(), 3, 2}, {b.data(), 2, 5},
                         ctx);  // -0 + 0 * -1 + 0 * -1
    CHECK(compare_bits(c, std::vector<double>(3 * 5, -0.0)) == "");
    kernels::add_product({c.data(), 3, 5}, dense_sign::subtract, {a.data(), 3, 2}, {b.data(), 2, 5},
                         ctx);
    CHECK(compare_bits(c, std::vector<double>(3 * 5, 0.0)) == "");
  }
}

TEST_CASE("dense driver: an infinity reaches only its own rows and columns") {
  for (const context& ctx : contexts()) {
    doubles a(9, 4, 0, 1, trap);
    doubles b(4, 17, 0, 2, trap);
    for (double& x : a.all()) x = std::fabs(x) + 1;
    for (double& x : b.all()) x = std::fabs(x) + 1;
    b.view()(1, 16) = std::numeric_limits<double>::infinity();
    doubles c(9, 17, 0, 0.0);
    kernels::add_product(c.view(), dense_sign::add, a.view(), b.view(), ctx);
    for (index_t i = 0; i < 9; ++i) {
      for (index_t j = 0; j < 17; ++j) CHECK(std::isinf(c.view()(i, j)) == (j == 16));
    }
  }
}

TEST_CASE("dense driver: who runs a task does not matter, nor does the scratch that was there") {
  doubles a(300, 410, 1, 1, trap);
  doubles b(410, 700, 2, 2, trap);
  floats x(150, 300, 1, 3, float_trap);
  const auto all_of = [&](const context& ctx) {
    doubles c(300, 700, 1, 4, guard);
    kernels::add_product(c.view(), dense_sign::subtract, a.view(), b.view(), ctx);
    doubles h(300, 300, 1, 5, guard);
    kernels::add_gram(h.view(), x.view(), {}, ctx);
    kernels::add_outer_gram(h.view(), dense_sign::add, a.view(), ctx);
    std::vector<double> all = c.all();
    all.insert(all.end(), h.all().begin(), h.all().end());
    return all;
  };
  const auto expected = all_of(context::best());
  kernels::workspace scratch;
  test::on_each_executor(context::best(), {1U, 2U, 3U, 7U}, [&](context ctx) {
    for (kernels::workspace* const w : {static_cast<kernels::workspace*>(nullptr), &scratch}) {
      ctx.scratch = w;
      CHECK(compare_bits(all_of(ctx), expected) == "");
    }
  });
}

TEST_CASE("dense driver: rows of a gram matrix may come in chunks of any size") {
  constexpr index_t rows = 403;
  constexpr index_t k = 45;
  floats x(rows, k, 3, 1, float_trap);
  std::vector<float> weights(rows);
  for (index_t t = 0; t < rows; ++t) weights[t] = random_uniform(9, t);
  for (const context& ctx : contexts()) {
    const auto run = [&](index_t chunk, bool weighted) {
      doubles h(k, k, 0, 0.0);
      for (index_t t = 0; t < rows; t += chunk) {
        const row_range range{t, std::min(t + chunk, rows)};
        const std::span<const float> all(weights);
        kernels::add_gram(h.view(), x.view().middle_rows(range),
                          weighted ? all.subspan(t, range.size()) : all.first(0), ctx);
      }
      kernels::mirror_lower(h.view());
      return h;
    };
    for (const bool weighted : {false, true}) {
      doubles expected = run(rows, weighted);
      for (const index_t chunk : {1U, 2U, 3U, 64U, 255U, 256U, 257U, 400U}) {
        CHECK(compare_bits(run(chunk, weighted).all(), expected.all()) == "");
      }
      // What is mirrored is what would have been computed: w x_i is exact, so terms are symmetric.
      doubles cross(k, k, 0, 0.0);
      kernels::add_cross(cross.view(), x.view(), x.view(),
                         weighted ? std::span<const float>(weights) : std::span<const float>{},
                         ctx);
      CHECK(compare_bits(cross.all(), expected.all()) == "");
    }
  }
}

TEST_CASE("dense driver: mirror_lower") {
  for (const index_t n : {1U, 2U, 31U, 32U, 33U, 70U}) {
    doubles h(n, n, 2, 3, guard);
    doubles before = h;
    kernels::mirror_lower(h.view());
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        REQUIRE(h.view()(i, j) == before.view()(std::max(i, j), std::min(i, j)));
      }
      if (i + 1 < n) REQUIRE(*(&h.view()(i, n - 1) + 1) == guard);
    }
  }
}

TEST_CASE("dense driver: what does not fit is refused") {
  const context ctx = context::best();
  std::vector<double> d(100);
  std::vector<float> f(100);
  const auto c = [&](index_t rows, index_t cols) { return matrix_view(d.data(), rows, cols); };
  const auto x = [&](index_t rows, index_t cols) {
    return matrix_view<const float>(f.data(), rows, cols);
  };
  const auto add = dense_sign::add;
  CHECK_THROWS_AS(kernels::add_product(c(2, 3), add, c(2, 4), c(5, 3), ctx), shape_error);
  CHECK_THROWS_AS(kernels::add_product(c(2, 3), add, c(3, 4), c(4, 3), ctx), shape_error);
  CHECK_THROWS_AS(kernels::add_product(c(2, 3), add, c(2, 4), c(4, 2), ctx), shape_error);
  CHECK_THROWS_AS(kernels::add_product_transposed(c(2, 3), add, c(2, 4), c(4, 3), ctx),
                  shape_error);
  CHECK_THROWS_AS(kernels::add_outer_gram(c(2, 3), add, c(2, 4), ctx), shape_error);
  CHECK_THROWS_AS(kernels::add_gram(c(3, 3), x(5, 4), {}, ctx), shape_error);
  CHECK_THROWS_AS(kernels::add_cross(c(3, 4), x(5, 3), x(6, 4), {}, ctx), shape_error);
  CHECK_THROWS_AS(kernels::mirror_lower(c(3, 4)), shape_error);
  std::vector<float> weights(4, 1.0F);
  CHECK_THROWS_AS(kernels::add_gram(c(3, 3), x(5, 3), weights, ctx), shape_error);
  for (const float bad : {-1.0F, float_trap, std::numeric_limits<float>::infinity()}) {
    weights.assign(5, 1.0F);
    weights[3] = bad;
    CHECK_THROWS_AS(kernels::add_gram(c(3, 3), x(5, 3), weights, ctx), value_error);
  }
}
