// The maps themselves: what they do to inputs, weights, Hessians and importances, exactly or within
// bounds that are derived here; and what they refuse.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/matrices.hpp"
#include "make_transforms.hpp"

namespace {

using namespace lowbit;
using decorators::column_permutation;
using decorators::column_scaling;
using decorators::hadamard_rotation;
using lowbit_test::message_of;

constexpr std::uint64_t seed = 61;
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> normal_row(index_t columns, std::uint64_t from = seed) {
  return testing::normal_matrix({1, columns}, from).values;
}

template <class T>
std::vector<float> input(const T& t, const std::vector<float>& x) {
  std::vector<float> out(x.size());
  t.transform_input(std::span<const float>(x), std::span(out));
  return out;
}
template <class T>
std::vector<float> restored(const T& t, const std::vector<float>& b) {
  std::vector<float> out(b.size());
  t.restore_weights(b, out);
  return out;
}
template <class T>
std::vector<float> weights(const T& t, const std::vector<float>& w) {
  std::vector<float> out(w.size());
  decorators::transform_weights(t, {w.data(), 1, w.size()}, {out.data(), 1, out.size()});
  return out;
}

double norm(const std::vector<float>& x) {
  double sum = 0.0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> difference(a.size());
  for (index_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return norm(difference);
}

/// The matrix of T, column by column: T e_k.
template <class T>
std::vector<double> matrix_of(const T& t) {
  const index_t n = t.columns();
  std::vector<double> matrix(n * n);
  for (index_t k = 0; k < n; ++k) {
    std::vector<double> unit(n);
    std::vector<double> column(n);
    unit[k] = 1.0;
    t.transform_input(std::span<const double>(unit), std::span(column));
    for (index_t i = 0; i < n; ++i) matrix[i * n + k] = column[i];
  }
  return matrix;
}

/// H' against T H T^T with the dense T: each of the two products sums n terms, so both sides are
/// within 4 n u of the sum of magnitudes, u = 2^-53.
template <class T>
void check_hessian(const T& t) {
  const index_t n = t.columns();
  std::vector<double> h(n * n);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      h[i * n + j] = h[j * n + i] = static_cast<double>(random_normal(seed, i * n + j));
    }
  }
  std::vector<double> transformed = h;
  decorators::transform_hessian(t, {transformed.data(), n, n});
  const auto map = matrix_of(t);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double exact = 0.0;
      double magnitude = 0.0;
      for (index_t a = 0; a < n; ++a) {
        for (index_t b = 0; b < n; ++b) {
          const double term = map[i * n + a] * h[a * n + b] * map[j * n + b];
          exact += term;
          magnitude += std::fabs(term);
        }
      }
      INFO("H'(" << i << ", " << j << ")");
      CHECK(std::fabs(transformed[i * n + j] - exact) <=
            8.0 * static_cast<double>(n) * 0x1p-53 * magnitude);
      CHECK(transformed[i * n + j] == transformed[j * n + i]);
    }
  }
}

/// A source that knows one buffer.
template <class Number>
testing::memory_source source_of(std::string name, const std::vector<Number>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return testing::memory_source(
      {{std::move(name), element_type_v<Number>, {values.size()}, {bytes.begin(), bytes.end()}}});
}

}  // namespace

TEST_CASE("the Walsh-Hadamard transform is exact on integers and has its signs") {
  for (const index_t size : {index_t{1}, index_t{2}, index_t{8}, index_t{256}}) {
    std::vector<float> x(size);
    for (index_t i = 0; i < size; ++i) x[i] = static_cast<float>(i * 37 % 255) - 127.0F;
    const std::vector<float> before = x;
    linalg::walsh_hadamard(std::span(x));
    for (index_t i = 0; i < size; ++i) {
      float sum = 0.0F;  // below 2^15: exact
      for (index_t k = 0; k < size; ++k) {
        sum += std::popcount(i & k) % 2 == 0 ? before[k] : -before[k];
      }
      CAPTURE(size, i);
      CHECK(x[i] == sum);
    }
    linalg::walsh_hadamard(std::span(x));
    for (index_t i = 0; i < size; ++i) CHECK(x[i] == static_cast<float>(size) * before[i]);
  }
  CHECK(linalg::hadamard_scale<float>(1) == 1.0F);
  CHECK(linalg::hadamard_scale<float>(16) == 0.25F);
  for (index_t size = 2; size <= (index_t{1} << 31U); size *= 2) {
    const double exact = 1.0 / std::sqrt(static_cast<double>(size));
    CHECK(linalg::hadamard_scale<float>(size) == static_cast<float>(exact));
  }
}

TEST_CASE("a rotation is orthonormal, and its transpose undoes it") {
  for (const index_t columns : {1U, 2U, 7U, 64U, 96U, 1024U, 4096U + 512U, 11U * 256U + 5U * 64U}) {
    const hadamard_rotation t(columns, {.seed = 5});
    const auto x = normal_row(columns);
    const auto turned = input(t, x);
    // Each way: log2(power) stages, a product and two roundings of the scale, each relative to the
    // norm; and m - 1 sums in a row, relative to the sum of the magnitudes of m terms, whose norm
    // over all outputs is at most m, and so sqrt(m) times that of the outputs. Both ways twice
    // that. gamma(2 n) <= 3 n u for n this small.
    const auto factors = linalg::hadamard_order(t.block());
    const auto m = static_cast<double>(factors.dense);
    const double n = std::log2(static_cast<double>(factors.power)) + (m - 1.0) * std::sqrt(m) + 3.0;
    CAPTURE(columns, t.block(), seed);
    CHECK(distance(restored(t, turned), x) <= 3.0 * n * 0x1p-24 * norm(x));
    CHECK(std::fabs(norm(turned) - norm(x)) <= 3.0 * n * 0x1p-24 * norm(x));
    // Weights turn like inputs, in double.
    CHECK(distance(weights(t, x), turned) <= 3.0 * n * 0x1p-24 * norm(x));
    CHECK(distance(restored(t, weights(t, x)), x) <= 3.0 * n * 0x1p-24 * norm(x));
  }
}

TEST_CASE("a rotation turns blocks by themselves, with signs of its seed") {
  const auto block_of = [](index_t columns, std::uint32_t block) {
    const hadamard_rotation t(columns, {.block = block});
    CHECK(t.params().block == t.block());  // what is stored says what it is
    return t.block();
  };
  CHECK(block_of(96, 0) == 96);
  CHECK(block_of(7, 0) == 1);
  CHECK(block_of(0, 0) == 1);
  CHECK(block_of(11008, 0) == 256);
  CHECK(block_of(13696, 0) == 128);
  CHECK(block_of(51864, 0) == 8);
  CHECK(block_of(29568, 0) == 29568);
  CHECK(block_of(96, 8) == 8);
  CHECK(block_of(96, 24) == 24);
  CHECK(block_of(0, 12) == 12);

  // What docs/file_format.md says, term by term. The scale 1 / 4 and the sums are exact.
  const index_t columns = 144;
  const hadamard_rotation t(columns, {.block = 16, .seed = 11});
  const auto dense = matrix_of(t);
  for (index_t i = 0; i < columns; ++i) {
    for (index_t k = 0; k < columns; ++k) {
      const bool minus = ((random_bits(11, k / 64) >> (k % 64)) & 1U) != 0;
      const bool odd = std::popcount((i % 16) & (k % 16)) % 2 != 0;
      const double expected = i / 16 != k / 16 ? 0.0 : (minus != odd ? -0.25 : 0.25);
      CAPTURE(i, k);
      CHECK(dense[i * columns + k] == expected);
    }
  }
  CHECK(matrix_of(hadamard_rotation(columns, {.block = 16, .seed = 12})) != dense);

  // A block with a dense factor: 36 = 36 * 1, rounded as the scale 1 / 6 is.
  const auto whole = matrix_of(hadamard_rotation(columns, {.block = 36, .seed = 11}));
  const linalg::hadamard_matrix h(36);
  for (index_t i = 0; i < columns; ++i) {
    for (index_t k = 0; k < columns; ++k) {
      const bool minus = ((random_bits(11, k / 64) >> (k % 64)) & 1U) != 0;
      const double value = h.is_negative(i % 36, k % 36) != minus ? -1.0 / 6.0 : 1.0 / 6.0;
      CAPTURE(i, k);
      CHECK(whole[i * columns + k] == (i / 36 == k / 36 ? value : 0.0));
    }
  }
}

TEST_CASE("a rotation of a matrix is that of its rows, bit by bit, with every variant") {
  for (const index_t columns : {1U, 24U, 96U, 144U, 512U, 640U, 4608U}) {
    for (const std::uint32_t block : {0U, columns == 144U ? 36U : 0U}) {
      const hadamard_rotation t(columns, {.block = block, .seed = 6});
      const index_t rows = 3;
      const auto x = testing::normal_matrix({rows, columns}, seed);
      std::vector<float> expected(rows * columns);
      std::vector<float> restored_rows(rows * columns);
      for (index_t r = 0; r < rows; ++r) {
        const matrix_view<float> out(expected.data(), rows, columns);
        t.transform_input(std::span<const float>(x.view().row(r)), out.row(r));
        t.restore_weights(x.view().row(r), {restored_rows.data() + r * columns, columns});
      }
      for (const cpu::tier& tier : cpu::tiers) {
        if (!cpu::detect().contains(tier.features)) continue;
        const kernels::context ctx{.allowed = tier.features};
        std::vector<float> found(rows * columns);
        CAPTURE(columns, block, tier.name);
        decorators::transform_inputs(t, x.view(), {found.data(), rows, columns}, ctx);
        CHECK(found == expected);
        decorators::restore_rows(t, x.view(), {found.data(), rows, columns}, ctx);
        CHECK(found == restored_rows);
      }
    }
  }
}

TEST_CASE("a rotation refuses blocks that do not divide or have no Hadamard matrix") {
  CHECK(message_of<value_error>([] { hadamard_rotation(96, {.block = 64}); }) ==
        "rotation_block = 64 does not divide 96 columns or is not the size of a Hadamard matrix");
  for (const std::uint32_t block : {3U, 6U, 128U}) {
    CHECK_THROWS_AS(hadamard_rotation(96, {.block = block}), value_error);
  }
  CHECK_THROWS_AS(hadamard_rotation(0, {.block = 3}), value_error);
  testing::memory_source none({});
  for (const std::uint32_t block : {0U, 3U, 6U, 64U}) {
    CHECK_THROWS_AS(hadamard_rotation::from_buffers(96, {.block = block}, none), format_error);
  }
  CHECK(hadamard_rotation::from_buffers(96, {.block = 96}, none).block() == 96);
}

TEST_CASE("permutations move columns and nothing else") {
  const std::vector<float> x{10, 11, 12, 13};
  const auto permute = [&](const std::vector<index_t>& order) {
    const column_permutation t(order);
    CHECK(weights(t, x) == input(t, x));
    CHECK(restored(t, input(t, x)) == x);
    return input(t, x);
  };
  CHECK(permute({0, 1, 2, 3}) == x);
  CHECK(permute({3, 2, 1, 0}) == std::vector<float>{13, 12, 11, 10});
  CHECK(permute({2, 0, 3, 1}) == std::vector<float>{12, 10, 13, 11});
  CHECK(restored(column_permutation(std::vector<index_t>{2, 0, 3, 1}), x) ==
        std::vector<float>{11, 13, 10, 12});

  const auto order = test::random_order(1000, seed);
  const column_permutation t(order);
  for (index_t k = 0; k < order.size(); ++k) CHECK(t.order(k) == order[k]);
  const auto many = normal_row(1000);
  CHECK(restored(t, input(t, many)) == many);
  std::vector<float> importance(1000);
  t.transform_importance(many, importance);
  CHECK(importance == input(t, many));
}

TEST_CASE("an order takes 16 bits per column up to 65536 columns, then 32") {
  for (const index_t columns : {index_t{65536}, index_t{65537}}) {
    const auto t = test::permutation(columns, seed);
    struct : buffer_visitor {
      testing::stored_buffer buffer;
      void operator()(const buffer_view& b) override {
        buffer = {std::string(b.name),
                  b.type,
                  {b.shape.begin(), b.shape.end()},
                  {b.bytes.begin(), b.bytes.end()}};
      }
    } copy;
    t.for_each_buffer(copy);
    CHECK(copy.buffer.name == "column_order");
    CHECK(copy.buffer.type == (columns == 65536 ? element_type::u16 : element_type::u32));
    testing::memory_source source({copy.buffer});
    const auto back = column_permutation::from_buffers(columns, {}, source);
    for (const index_t k : {index_t{0}, columns / 2, columns - 1}) {
      CHECK(back.order(k) == t.order(k));
    }
  }
}

TEST_CASE("what is no permutation is refused") {
  const auto refused = [](const std::vector<index_t>& order) {
    return message_of<value_error>([&] { column_permutation{order}; });
  };
  CHECK(refused({0, 2, 2}) == "column_order[2] = 2 stands there twice");
  CHECK(refused({0, 3, 1}) == "column_order[1] is 3 of 3 columns");
  CHECK(refused({0, 65536}) == "column_order[1] is 65536 of 2 columns");  // 0 in 16 bits
  const auto load = [](const std::vector<std::uint16_t>& order) {
    auto source = source_of("column_order", order);
    return column_permutation::from_buffers(order.size(), {}, source);
  };
  CHECK(load({1, 0, 2}).order(0) == 1);
  CHECK_THROWS_AS(load({1, 0, 1}), format_error);
  CHECK_THROWS_AS(load({1, 0, 3}), format_error);
}

TEST_CASE("scales multiply weights and divide inputs, as stored, with one rounding") {
  const std::vector<float> scales{0.1F, 3.0F, 1.0F, 2000.0F};
  const std::vector<float> x{7.0F, -1.0F, 0.0F, 1e-3F};
  for (const auto type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
    const column_scaling t({.scale_type = type}, scales);
    const auto down = input(t, x);
    const auto up = weights(t, x);
    std::vector<float> importance(4);
    t.transform_importance(std::vector<float>{4.0F, 3.0F, 0.0F, 8.0F}, importance);
    for (index_t k = 0; k < 4; ++k) {
      const float s = t.scale(k);
      CAPTURE(k, s);
      CHECK(s == layout::round_to(type, scales[k]));
      CHECK(down[k] == x[k] / s);
      CHECK(restored(t, x)[k] == x[k] / s);
      CHECK(up[k] == x[k] * s);
    }
    CHECK(importance[1] == 3.0F / 9.0F);
    CHECK(importance[2] == 0.0F);
    // w * s / s: two roundings of one part in 2^24 each.
    const auto w = normal_row(4);
    for (index_t k = 0; k < 4; ++k) {
      CHECK(std::fabs(restored(t, weights(t, w))[k] - w[k]) <= 0x1.1p-23F * std::fabs(w[k]));
    }
  }
}

TEST_CASE("scales that are not finite and above 0 as stored are refused") {
  const auto make = [](scale_type type, float scale) {
    return column_scaling({.scale_type = type}, std::vector<float>{1.0F, scale});
  };
  for (const auto type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
    for (const float bad : {0.0F, -1.0F, infinity, std::numeric_limits<float>::quiet_NaN()}) {
      CHECK_THROWS_AS(make(type, bad), value_error);
    }
  }
  CHECK(make(scale_type::fp32, 1e-9F).scale(1) == 1e-9F);
  CHECK_THROWS_AS(make(scale_type::fp16, 1e-9F), value_error);  // stored as 0
  CHECK(message_of<value_error>([&] { make(scale_type::fp16, 1e5F); }) ==
        "the scale of column 1 is 1e+05, stored as inf; it must be finite and > 0");

  const auto load = [](const std::vector<float>& scales) {
    auto source = source_of("column_scales", scales);
    return column_scaling::from_buffers(scales.size(), {.scale_type = scale_type::fp32}, source);
  };
  CHECK(load({1.0F, 2.0F}).scale(1) == 2.0F);
  for (const float bad : {0.0F, -0.0F, -1.0F, infinity}) {
    CHECK_THROWS_AS(load({1.0F, bad}), format_error);
  }
}

TEST_CASE("Hessians are those of the transformed inputs") {
  check_hessian(test::permutation(24, seed));
  check_hessian(test::scaling(24, seed));
  check_hessian(hadamard_rotation(24, {.seed = 3}));  // Paley's 12 x 12 by 2
  check_hessian(hadamard_rotation(24, {.block = 8, .seed = 3}));
}

TEST_CASE("columns are transformed as rows are") {
  const shape2 shape{24, 21};
  const auto m = testing::normal_matrix(shape, seed);
  const decorators::output_rotation t(shape.rows, {.seed = 3});
  std::vector<float> b(shape.size());
  decorators::transform_columns(t, m.view(), {b.data(), shape.rows, shape.cols});
  std::vector<float> column(shape.rows);
  for (index_t k = 0; k < shape.cols; ++k) {
    for (index_t r = 0; r < shape.rows; ++r) column[r] = m.view()(r, k);
    const auto expected = weights(t, column);
    for (index_t r = 0; r < shape.rows; ++r) CHECK(b[r * shape.cols + k] == expected[r]);
  }
  CHECK_THROWS_AS(
      decorators::transform_columns(t, m.view().middle_rows({0, 8}), {b.data(), 8, shape.cols}),
      shape_error);
}

TEST_CASE("helpers refuse matrices of other shapes") {
  const hadamard_rotation t(8, {});
  std::vector<float> w(32);
  std::vector<float> out(32);
  std::vector<double> h(64);
  CHECK_THROWS_AS(decorators::transform_weights(t, {w.data(), 2, 16}, {out.data(), 2, 16}),
                  shape_error);
  CHECK_THROWS_AS(decorators::transform_weights(t, {w.data(), 2, 8}, {out.data(), 3, 8}),
                  shape_error);
  CHECK_THROWS_AS(decorators::transform_inputs(t, {w.data(), 2, 8}, {out.data(), 2, 7}, {}),
                  shape_error);
  CHECK_THROWS_AS(decorators::transform_hessian(t, {h.data(), 7, 8}), shape_error);
  CHECK_THROWS_AS(decorators::transform_hessian(t, {h.data(), 4, 4}), shape_error);
}
