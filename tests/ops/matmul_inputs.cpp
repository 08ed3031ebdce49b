// Products of tensors with transformed inputs: near double arithmetic on every path, equal to the
// product of the base with inputs transformed by hand, and equal however the work is spread.
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "../decorators/make_transforms.hpp"
#include "catch.hpp"
#include "executors.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/replicated.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/ops/matmul.hpp"
#include "lowbit/testing/matrices.hpp"

namespace {

using namespace lowbit;
using decorators::output_rotated;
using decorators::permuted;
using decorators::replicated;
using decorators::rotated;
using decorators::scaled;
using decorators::with_outliers;
using formats::uniform_tensor;
using ops::matmul_options;
using ops::matmul_path;
using testing::normal_matrix;

using nest = rotated<scaled<permuted<uniform_tensor>>>;

constexpr std::uint64_t seed = 71;
constexpr index_t rows = 44;  // no multiple of a tile; the order of a Hadamard matrix
constexpr index_t cols = 192;
constexpr index_t tokens = 13;
const testing::test_matrix x = normal_matrix({tokens, cols}, seed);

uniform_tensor base() {
  return formats::uniform_quantizer{}.quantize(normal_matrix({rows, cols}, seed + 1).view());
}

nest make_nest() {
  scaled<permuted<uniform_tensor>> inner(test::scaling(cols, seed),
                                         {test::permutation(cols, seed), base()});
  return {{cols, {.seed = 2}}, std::move(inner)};
}

std::vector<matmul_options> all_paths() {
  const ops::activation_quantization how{.bits = 8, .per_group = true};
  return {{.path = matmul_path::dequantize},
          {.path = matmul_path::int8, .activations = how},
          {.path = matmul_path::bit_serial, .activations = how}};
}

template <class T>
std::vector<float> multiply(matrix_view<const float> in, const T& w, const kernels::context& ctx,
                            const matmul_options& options) {
  std::vector<float> y(in.rows() * rows);
  ops::matmul(in, w, {y.data(), in.rows(), rows}, ctx, options);
  return y;
}

/// |y - W x| <= rounding + quantization, with W by dequantize(), sums in double, u = 2^-24:
///  * T and T^T round at most 64 times in a row, as testing/format.hpp counts it, and B (T x) sums
///  K
///    terms, or fewer with the planes and groups of a path, each with at most 16 roundings of its
///    own: (K + 80) u (|w| |x| + |b| |T x|). A term may be larger than its weight: the magnitudes
///    of 4 planes and their offset sum to 15 + 8 steps, and the largest weight of a group is 7
///    steps at least; so each |b_k| counts as 4 times the largest of its group.
///  * int8 and bit_serial round T x to steps of its largest value in a group over 127: each of K
///    activations is off by at most half a step (and 2^-12 of it): |sum| <= sum_k |b_k| 0.5001
///    step.
template <class T>
void check_near(const T& w) {
  std::vector<float> dense(rows * cols);
  w.dequantize({0, rows}, {dense.data(), rows, cols});
  // B and T x of the innermost base.
  const uniform_tensor b = base();
  std::vector<float> inner(rows * cols);
  b.dequantize({0, rows}, {inner.data(), rows, cols});
  std::vector<float> transformed = x.values;
  const auto descend = [&](const auto& self, const auto& t) -> void {
    if constexpr (input_transformed_operand<std::remove_cvref_t<decltype(t)>>) {
      const std::vector<float> in = transformed;
      t.transform_inputs({in.data(), tokens, cols}, {transformed.data(), tokens, cols}, {});
      self(self, t.base());
    }
  };
  descend(descend, w);

  for (const matmul_options& options : all_paths()) {
    const auto y = multiply(x.view(), w, kernels::context::best(), options);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t n = 0; n < rows; ++n) {
        double exact = 0.0;
        double quantization = 0.0;
        double w2 = 0.0, x2 = 0.0, b2 = 0.0, t2 = 0.0;
        for (index_t begin = 0; begin < cols; begin += b.group_size()) {
          const index_t end = std::min(begin + b.group_size(), cols);
          double largest_x = 0.0;
          double sum_b = 0.0;
          double largest_b = 0.0;
          for (index_t k = begin; k < end; ++k) {
            const double wk = static_cast<double>(dense[n * cols + k]);
            const double xk = static_cast<double>(x.values[t * cols + k]);
            const double bk = std::fabs(static_cast<double>(inner[n * cols + k]));
            const double tk = std::fabs(static_cast<double>(transformed[t * cols + k]));
            exact += wk * xk;
            w2 += wk * wk;
            x2 += xk * xk;
            t2 += tk * tk;
            sum_b += bk;
            largest_b = std::max(largest_b, bk);
            largest_x = std::max(largest_x, tk);
          }
          quantization += sum_b * 0.5001 * largest_x / 127.0;
          b2 += static_cast<double>(end - begin) * 16.0 * largest_b * largest_b;
        }
        if (options.path == matmul_path::dequantize) quantization = 0.0;
        const double rounding =
            static_cast<double>(cols + 80) * 0x1p-24 * (std::sqrt(w2 * x2) + std::sqrt(b2 * t2));
        const double value = static_cast<double>(y[t * rows + n]);
        CAPTURE(static_cast<int>(options.path), t, n, value, exact, quantization, rounding);
        CHECK(std::fabs(value - exact) <= rounding + quantization);
      }
    }
  }
}

}  // namespace

TEST_CASE("products with transformed inputs are near the decoded product on every path") {
  check_near(permuted<uniform_tensor>(test::permutation(cols, seed), base()));
  check_near(scaled<uniform_tensor>(test::scaling(cols, seed), base()));
  check_near(rotated<uniform_tensor>({cols, {.seed = 2}}, base()));
  check_near(make_nest());
}

TEST_CASE("a product with transformed inputs is that of the base with inputs transformed once") {
  const nest w = make_nest();
  const auto ctx = kernels::context::best();
  std::vector<float> a(x.values.size());
  std::vector<float> b(x.values.size());
  ops::transform_inputs(x.view(), w, {a.data(), tokens, cols}, ctx);
  ops::transform_inputs({a.data(), tokens, cols}, w.base(), {b.data(), tokens, cols}, ctx);
  ops::transform_inputs({b.data(), tokens, cols}, w.base().base(), {a.data(), tokens, cols}, ctx);
  const uniform_tensor& innermost = w.base().base().base();
  for (const matmul_options& options : all_paths()) {
    CAPTURE(static_cast<int>(options.path));
    CHECK(multiply(x.view(), w, ctx, options) ==
          multiply({a.data(), tokens, cols}, innermost, ctx, options));
  }
  // The way of packed weights.
  std::vector<float> packed(tokens * rows);
  const ops::activation_quantization how{.bits = 8, .per_group = true};
  ops::matmul({a.data(), tokens, cols}, ops::pack(innermost, ctx), {packed.data(), tokens, rows},
              ctx, how);
  CHECK(packed == multiply(x.view(), w, ctx, all_paths()[1]));
  std::fill(packed.begin(), packed.end(), 0.0F);
  ops::matmul(x.view(), ops::pack(w, ctx), {packed.data(), tokens, rows}, ctx, how);
  CHECK(packed == multiply(x.view(), w, ctx, all_paths()[1]));
}

TEST_CASE("a product with rotated outputs is that of the base, restored") {
  const decorators::output_rotation turn(rows, {.seed = 6});
  const output_rotated<uniform_tensor> w(turn, base());
  const auto ctx = kernels::context::best();
  for (const matmul_options& options : all_paths()) {
    CAPTURE(static_cast<int>(options.path));
    const auto of_base = multiply(x.view(), base(), ctx, options);
    std::vector<float> restored(of_base.size());
    for (index_t t = 0; t < tokens; ++t) {
      turn.restore_weights({of_base.data() + t * rows, rows}, {restored.data() + t * rows, rows});
    }
    const auto y = multiply(x.view(), w, ctx, options);
    CHECK(y == restored);
    test::backwards_executor backwards(3);
    CHECK(multiply(x.view(), w, {.threads = &backwards}, options) ==
          multiply(x.view(), w, {}, options));
  }
  CHECK(ops::explain(w, {}).text().starts_with("rotated outputs, dequantize through eigen"));
  CHECK(dequantize_block_rows(w) % rows == 0);
}

TEST_CASE("outliers inside and around a rotation, and replicas, multiply on every path") {
  const decorators::hadamard_rotation turn(cols, {.seed = 4});
  std::vector<index_t> places;
  std::vector<float> values;
  for (index_t i = 0; i < rows * cols; i += 1 + random_bits(5, i) % 200) {
    places.push_back(i);
    values.push_back(4.0F * random_normal(6, i));
  }
  const layout::sparse_matrix outliers({rows, cols}, places, values);
  const with_outliers<rotated<uniform_tensor>> around(outliers, {turn, base()});
  const rotated<with_outliers<uniform_tensor>> inside(turn, {outliers, base()});
  const replicated<uniform_tensor> twice(decorators::replica_total::mean, {base(), base()});
  const auto ctx = kernels::context::best();

  const auto check = [&](const auto& w, const auto& expected) {
    for (const matmul_options& options : all_paths()) {
      CAPTURE(static_cast<int>(options.path));
      const auto y = multiply(x.view(), w, ctx, options);
      CHECK(y == expected(options));
      CHECK(multiply(x.view(), w, {}, options) ==
            multiply(x.view(), w, {.allowed = cpu::none}, options));
    }
    std::vector<float> packed(tokens * rows);
    ops::matmul(x.view(), ops::pack(w, ctx), {packed.data(), tokens, rows}, ctx,
                {.bits = 8, .per_group = true});
    CHECK(packed == multiply(x.view(), w, ctx, all_paths()[1]));
    // The values that dequantize() defines, in double: both sides sum K terms in floats.
    std::vector<float> dense(rows * cols);
    w.dequantize({0, rows}, {dense.data(), rows, cols});
    const auto y = multiply(x.view(), w, ctx, {.path = matmul_path::dequantize});
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t n = 0; n < rows; ++n) {
        double exact = 0.0;
        double w2 = 0.0;
        double x2 = 0.0;
        for (index_t k = 0; k < cols; ++k) {
          const double wk = static_cast<double>(dense[n * cols + k]);
          const double xk = static_cast<double>(x.values[t * cols + k]);
          exact += wk * xk;
          w2 += wk * wk;
          x2 += xk * xk;
        }
        const double bound = static_cast<double>(2 * cols + 160) * 0x1p-24 * std::sqrt(w2 * x2);
        CHECK(std::fabs(static_cast<double>(y[t * rows + n]) - exact) <= bound);
      }
    }
  };
  const kernels::packed_sparse sparse(outliers);
  const auto add_outliers = [&](matrix_view<const float> in, std::vector<float> y) {
    kernels::add_sparse_product(in, sparse, {y.data(), tokens, rows}, ctx);
    return y;
  };
  std::vector<float> turned(tokens * cols);
  turn.transform_inputs(x.view(), {turned.data(), tokens, cols}, ctx);
  const matrix_view<const float> turned_view(turned.data(), tokens, cols);
  check(around, [&](const matmul_options& options) {
    return add_outliers(x.view(), multiply(x.view(), around.base(), ctx, options));
  });
  check(inside, [&](const matmul_options& options) {
    return add_outliers(turned_view, multiply(turned_view, base(), ctx, options));
  });
  check(twice,
        [&](const matmul_options& options) { return multiply(x.view(), base(), ctx, options); });
  CHECK(ops::explain(around, {}).text().starts_with("outliers, rotated inputs, dequantize"));
}

TEST_CASE("products with transformed inputs do not depend on workers or workspaces", "[any_isa]") {
  const nest w = make_nest();
  for (const matmul_options& options : all_paths()) {
    const auto expected = multiply(x.view(), w, {}, options);
    test::backwards_executor backwards(3);
    test::thread_executor threads(2);
    kernels::workspace scratch;
    CAPTURE(static_cast<int>(options.path));
    CHECK(multiply(x.view(), w, {.threads = &backwards, .scratch = &scratch}, options) == expected);
    CHECK(multiply(x.view(), w, {.threads = &threads, .scratch = &scratch}, options) == expected);
    // Nor on which tokens come together.
    const auto some = multiply(x.view().middle_rows({5, 7}), w, {}, options);
    if (options.path != matmul_path::dequantize) {  // Eigen's sums may
      CHECK(std::equal(some.begin(), some.end(), expected.begin() + 5 * rows));
    }
  }
}

TEST_CASE("explain() names the transforms, then tells the plan of the base", "[any_isa]") {
  const nest w = make_nest();
  const matmul_options may{.activations = ops::activation_quantization{}};
  for (const matmul_options& options : {matmul_options{}, may}) {
    CHECK(ops::explain(w, {}, options).text() ==
          "rotated inputs, scaled inputs, permuted inputs, " +
              ops::explain(w.base().base().base(), {}, options).text());
  }
  CHECK(ops::explain(rotated<uniform_tensor>({cols, {}}, base()), {}, may)
            .text()
            .starts_with("rotated inputs, int8 through code_gemm/"));
}

TEST_CASE("products with transformed inputs refuse what does not fit", "[any_isa]") {
  const nest w = make_nest();
  std::vector<float> y(tokens * rows);
  const matrix_view<float> out(y.data(), tokens, rows);
  const auto narrow = normal_matrix({tokens, cols - 1}, seed);
  CHECK_THROWS_AS(ops::matmul(narrow.view(), w, out, {}), shape_error);
  CHECK_THROWS_AS(ops::matmul(x.view().middle_rows({0, 2}), w, out, {}), shape_error);
  CHECK_THROWS_AS(ops::matmul(x.view(), w, out, {}, {.path = matmul_path::int8}), value_error);
  std::vector<float> transformed(tokens * cols);
  CHECK_THROWS_AS(ops::transform_inputs(narrow.view(), w, {transformed.data(), tokens, cols}, {}),
                  shape_error);
}
