// Folding: networks keep their outputs, weights do not stay what they were, and what cannot be
// folded is refused before anything has changed.
#include "lowbit/rotation/fold.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/testing/matrices.hpp"
#include "networks.hpp"

using namespace lowbit;
using decorators::hadamard_rotation;
using lowbit_test::message_of;
using rotation::dense_rotation;
using test::network;

namespace {

const kernels::context best = kernels::context::best();

/// Checks that outputs stayed where they were, after folds that rounded every weight `folds` times
/// at most.
void check_outputs(network<float>& folded, const std::vector<double>& expected, unsigned folds,
                   const hadamard_rotation* online = nullptr) {
  const double moved = test::distance(test::run(test::runnable(folded), online), expected);
  const double bound = folds * test::rounding_bound(folded, online);
  INFO("outputs moved by " << moved << ", by rounding " << bound);
  CHECK(moved <= bound);
  CHECK(bound < 1e-5 * test::distance(expected, std::vector<double>(expected.size())));
}

/// Checks that no matrix is nearly what it was: by a tenth of its norm.
void check_changed(std::vector<float> now, const std::vector<float>& before) {
  const std::vector<double> zeros(now.size());
  CHECK(test::distance(test::widened(now), test::widened(before)) >
        0.1 * test::distance(test::widened(before), zeros));
}

/// Calls f with rotations of each kind.
template <class F>
void with_each_rotation(index_t columns, F&& f) {
  SECTION("dense") { f(rotation::random_rotation(columns, 3, best)); }
  SECTION("Hadamard") { f(hadamard_rotation(columns, {.seed = 4})); }
  SECTION("Hadamard in blocks") { f(hadamard_rotation(columns, {.block = 8, .seed = 5})); }
}

}  // namespace

TEST_CASE("fused norms leave outputs as they are, and have nothing left") {
  for (network<float> n : {test::llama_like(), test::whisper_like()}) {
    const network<float> before = n;
    const auto expected = test::run(test::runnable(n));
    const test::roles r(n);
    rotation::fuse_norms(r.stream());
    check_outputs(n, expected, 1);
    for (const float g : n.blocks[1].norm2.weight) CHECK(g == 1.0F);
    for (const float b : n.norm.bias) CHECK(b == 0.0F);
    check_changed(n.blocks[0].q.weight, before.blocks[0].q.weight);
    check_changed(n.head.weight, before.head.weight);
    CHECK(n.blocks[0].o.weight == before.blocks[0].o.weight);

    network<float> again = n;
    const test::roles again_roles(again);
    rotation::fuse_norms(again_roles.stream());
    CHECK(again.head.weight == n.head.weight);
    CHECK(again.head.bias == n.head.bias);
  }
}

TEST_CASE("a centred stream makes LayerNorm an RMSNorm") {
  network<float> n = test::whisper_like();
  const network<float> before = n;
  const auto expected = test::run(test::runnable(n));
  const test::roles r(n);
  rotation::centre(r.stream());  // norms still have their weights
  check_outputs(n, expected, 1);
  n.subtracts_mean = false;
  check_outputs(n, expected, 1);
  check_changed(n.tokens.weight, before.tokens.weight);
  CHECK(n.blocks[0].o.weight != before.blocks[0].o.weight);
  CHECK(n.blocks[0].down.bias != before.blocks[0].down.bias);
  CHECK(n.blocks[0].up.weight == before.blocks[0].up.weight);

  network<float> uncentred = before;
  uncentred.subtracts_mean = false;
  CHECK(test::distance(test::run(test::runnable(uncentred)), expected) > 0.1);
}

TEST_CASE("R1: a rotated stream leaves outputs as they are") {
  network<float> n = test::llama_like();
  const test::roles r(n);
  rotation::fuse_norms(r.stream());
  const network<float> before = n;
  const auto expected = test::run(test::runnable(n));
  with_each_rotation(test::hidden, [&](const auto& r1) {
    rotation::rotate(r.stream(), r1, best);
    check_outputs(n, expected, 1);
    check_changed(n.tokens.weight, before.tokens.weight);
    check_changed(n.head.weight, before.head.weight);
    for (index_t i = 0; i < 2; ++i) {
      auto& now = n.blocks[i];
      const auto& then = before.blocks[i];
      check_changed(now.q.weight, then.q.weight);
      check_changed(now.k.weight, then.k.weight);
      check_changed(now.v.weight, then.v.weight);
      check_changed(now.o.weight, then.o.weight);
      check_changed(now.gate.weight, then.gate.weight);
      check_changed(now.up.weight, then.up.weight);
      check_changed(now.down.weight, then.down.weight);
    }
    // A layer that is left out is seen.
    n.blocks[1].down.weight = before.blocks[1].down.weight;
    CHECK(test::distance(test::run(test::runnable(n)), expected) > 0.1);
  });
}

TEST_CASE("R2: rotated heads leave outputs as they are, with grouped queries and with biases") {
  for (network<float> n : {test::llama_like(), test::whisper_like()}) {
    const network<float> before = n;
    const auto expected = test::run(test::runnable(n));
    const auto r2 = rotation::random_rotation(test::head_size, 6, best);
    for (auto& b : n.blocks) rotation::rotate_heads(b.v.linear(), b.o.view(), r2, best);
    check_outputs(n, expected, 1);
    check_changed(n.blocks[0].v.weight, before.blocks[0].v.weight);
    check_changed(n.blocks[0].o.weight, before.blocks[0].o.weight);
    if (!n.blocks[0].v.bias.empty()) {
      check_changed(n.blocks[0].v.bias, before.blocks[0].v.bias);
    }
    CHECK(n.blocks[0].o.bias == before.blocks[0].o.bias);
  }
}

TEST_CASE("R4: a rotation before the down-projection is folded into it") {
  network<float> n = test::llama_like();
  const network<float> before = n;
  const auto expected = test::run(test::runnable(n));
  const hadamard_rotation r4(n.blocks[0].down.cols, {.seed = 7});
  for (auto& b : n.blocks) rotation::rotate_inputs(b.down.view(), r4, best);
  check_outputs(n, expected, 1, &r4);
  check_changed(n.blocks[1].down.weight, before.blocks[1].down.weight);
  CHECK(test::distance(test::run(test::runnable(n)), expected) > 0.1);  // it is needed at run time
}

TEST_CASE("all folds together leave outputs as they are") {
  for (network<float> n : {test::llama_like(), test::whisper_like()}) {
    const auto expected = test::run(test::runnable(n));
    const test::roles r(n);
    rotation::fuse_norms(r.stream());
    if (n.subtracts_mean) rotation::centre(r.stream());
    n.subtracts_mean = false;
    rotation::rotate(r.stream(), hadamard_rotation(test::hidden, {.seed = 8}), best);
    const auto r2 = rotation::random_rotation(test::head_size, 9, best);
    const hadamard_rotation r4(n.blocks[0].down.cols, {.seed = 10});
    for (auto& b : n.blocks) {
      rotation::rotate_heads(b.v.linear(), b.o.view(), r2, best);
      rotation::rotate_inputs(b.down.view(), r4, best);
    }
    check_outputs(n, expected, 3, &r4);  // o and down: centred or not, R1, and R2 or R4
  }
}

TEST_CASE("a fold is one rounding of the exact map, in views with strides and by any threads") {
  constexpr index_t n = 24;
  constexpr index_t others = 70;  // more lines than a task takes
  constexpr index_t stride = 77;
  const auto values = testing::normal_matrix({others, stride}, 11).values;
  const auto tall_values = testing::normal_matrix({n, stride}, 12).values;
  const auto bias_values = testing::normal_matrix({1, n}, 13).values;

  with_each_rotation(n, [&](const auto& r) {
    const auto turned = [&](const std::vector<float>& x) {
      std::vector<double> wide(x.begin(), x.end());
      std::vector<double> out(x.size());
      r.transform_input(std::span<const double>(wide), std::span<double>(out));
      std::vector<float> rounded(x.size());
      for (index_t i = 0; i < x.size(); ++i) rounded[i] = static_cast<float>(out[i]);
      return rounded;
    };
    auto rows = values;  // inputs: columns 3 .. 3 + n of each row
    auto columns = tall_values;
    auto bias = bias_values;
    for (index_t i = 0; i < others; ++i) {
      std::vector<float> row(n);
      for (index_t k = 0; k < n; ++k) row[k] = rows[i * stride + 3 + k];
      row = turned(row);
      for (index_t k = 0; k < n; ++k) rows[i * stride + 3 + k] = row[k];
      for (index_t k = 0; k < n; ++k) row[k] = columns[k * stride + i];
      row = turned(row);
      for (index_t k = 0; k < n; ++k) columns[k * stride + i] = row[k];
    }
    bias = turned(bias);

    test::on_each_executor(best, {1, 3}, [&](const kernels::context& ctx) {
      auto w = values;
      rotation::rotate_inputs(matrix_view<float>(w.data() + 3, others, n, stride), r, ctx);
      CHECK(w == rows);
      auto tall = tall_values;
      auto b = bias_values;
      rotation::rotate_outputs({{tall.data(), n, others, stride}, b}, r, ctx);
      CHECK(tall == columns);
      CHECK(b == bias);
    });
  });
}

TEST_CASE("fuse and centre do what their formulas say") {
  std::vector<float> w = {1.0F, 2.0F, 3.0F, -4.0F, 5.0F, 6.0F};
  std::vector<float> b = {10.0F, 20.0F};
  std::vector<float> g = {2.0F, 0.5F, -1.0F};
  std::vector<float> beta = {1.0F, 0.0F, 3.0F};
  const rotation::linear readers[] = {{{w.data(), 2, 3}, b}};
  rotation::fuse_norm({g, beta, readers});
  CHECK(w == std::vector<float>{2.0F, 1.0F, -3.0F, -8.0F, 2.5F, -6.0F});
  CHECK(b == std::vector<float>{20.0F, 34.0F});
  CHECK(g == std::vector<float>{1.0F, 1.0F, 1.0F});
  CHECK(beta == std::vector<float>{0.0F, 0.0F, 0.0F});

  rotation::centre_outputs({{w.data(), 2, 3}, b});
  CHECK(w == std::vector<float>{5.0F, -0.75F, 1.5F, -5.0F, 0.75F, -1.5F});
  CHECK(b == std::vector<float>{-7.0F, 7.0F});
  rotation::centre_table({w.data(), 1, 3});
  CHECK(w[0] == static_cast<float>(5.0 - 5.75 / 3.0));
}

TEST_CASE("a dense rotation is any map's matrix, and must be orthogonal") {
  const hadamard_rotation h(24, {.seed = 14});
  const dense_rotation r(h);
  CHECK_NOTHROW(dense_rotation(r.matrix(), best));
  std::vector<double> x(24), a(24), b(24);
  for (index_t i = 0; i < 24; ++i) x[i] = static_cast<double>(random_normal(15, i));
  h.transform_input(std::span<const double>(x), std::span<double>(a));
  r.transform_input(std::span<const double>(x), std::span<double>(b));
  CHECK(test::distance(a, b) <
        1e-14 * std::sqrt(24.0) * test::distance(x, std::vector<double>(24)));

  std::vector<double> rounded(24 * 24);
  for (index_t i = 0; i < rounded.size(); ++i) {
    rounded[i] = static_cast<double>(static_cast<float>(r.matrix()(i / 24, i % 24))) * 1.000001;
  }
  CHECK(message_of<value_error>([&] {
          dense_rotation({rounded.data(), 24, 24}, best);
        }).find("a rotation of 24 columns is not orthogonal: |I - R^T R| = ") == 0);
  REQUIRE(linalg::reorthonormalize({rounded.data(), 24, 24}, best));
  CHECK_NOTHROW(dense_rotation({rounded.data(), 24, 24}, best));
  CHECK(message_of<shape_error>([&] {
          dense_rotation({rounded.data(), 3, 24}, best);
        }) == "a rotation is square, not [3, 24]");
}

TEST_CASE("what cannot be folded is refused, and nothing has changed then") {
  network<float> n = test::whisper_like();
  const network<float> before = n;
  const hadamard_rotation r1(test::hidden, {.seed = 1});
  const auto unchanged = [&] {
    network<float> expected = before;
    std::vector<std::vector<float>> now, then;
    n.for_each([&](auto& d) { now.insert(now.end(), {d.weight, d.bias}); });
    expected.for_each([&](auto& d) { then.insert(then.end(), {d.weight, d.bias}); });
    return now == then && n.norm.weight == before.norm.weight && n.norm.bias == before.norm.bias;
  };

  SECTION("norms that are not fused") {
    const test::roles r(n);
    CHECK(message_of<value_error>([&] { rotation::rotate(r.stream(), r1, best); }) ==
          "norm 0 has weights of its own, which do not commute with a rotation: fuse it first");
  }
  SECTION("a rotation of another size") {
    const test::roles r(n);
    const hadamard_rotation half(test::hidden / 2, {});
    CHECK(message_of<shape_error>([&] { rotation::rotate(r.stream(), half, best); }) ==
          "the stream has 32 columns, the rotation 16");
    CHECK(message_of<shape_error>([&] { rotation::rotate_inputs(n.head.view(), half, best); }) ==
          "a rotated layer has 32 columns, not 16");
    CHECK(message_of<shape_error>([&] {
            rotation::rotate_outputs(n.blocks[0].o.linear(), half, best);
          }) == "a rotated layer has 32 outputs, the rotation 16 columns");
  }
  SECTION("tied embeddings") {
    test::roles r(n);
    r.readers.back()[0].weight = n.tokens.view();
    r.readers.back()[0].bias = n.head.bias;
    const auto tied = [&](auto&& fold) {
      CHECK(message_of<value_error>(fold) ==
            "table 0 and reader of norm 4 share memory; tied matrices have to be copied apart, "
            "because each role changes them in its own way");
    };
    tied([&] { rotation::fuse_norms(r.stream()); });
    tied([&] { rotation::centre(r.stream()); });
    tied([&] { rotation::rotate(r.stream(), r1, best); });
  }
  SECTION("a norm's bias without a place to go") {
    test::roles r(n);
    r.readers[0][1].bias = {};
    CHECK(message_of<value_error>([&] { rotation::fuse_norms(r.stream()); }) ==
          "a norm has a bias, which its reader of [32, 32] needs a bias to take: give it one of "
          "zeros");
  }
  SECTION("NaN, with its place") {
    const test::roles r(n);
    float& last = n.blocks[1].down.weight.back();
    const float kept = last;
    last = std::numeric_limits<float>::quiet_NaN();
    CHECK(message_of<value_error>([&] { rotation::centre(r.stream()); }) ==
          "a writer holds NaN at row 31, column 63");
    last = kept;
  }
  SECTION("parts of other sizes") {
    test::roles r(n);
    r.writers[2].weight = r.writers[2].weight.middle_rows({0, 31});
    r.writers[2].bias = r.writers[2].bias.first(31);
    CHECK(message_of<shape_error>([&] { rotation::centre(r.stream()); }) ==
          "a writer has 31 outputs, the stream 32 columns");
    r = test::roles(n);
    r.writers[2].bias = r.writers[2].bias.first(31);
    CHECK(message_of<shape_error>([&] { rotation::centre(r.stream()); }) ==
          "a writer of [32, 32] has a bias of 31");
    r = test::roles(n);
    r.norms[1].weight = r.norms[1].weight.first(3);
    CHECK(message_of<shape_error>([&] { rotation::fuse_norms(r.stream()); }) ==
          "a norm of 3 columns has a bias of 32");
    r = test::roles(n);
    r.readers[1][0].weight = r.readers[1][0].weight.middle_cols(0, 8);
    CHECK(message_of<shape_error>([&] { rotation::fuse_norms(r.stream()); }) ==
          "a norm's reader has 8 columns, not 32");
  }
  SECTION("heads that do not fit") {
    auto& b = n.blocks[0];
    const hadamard_rotation r2(24, {});
    CHECK(message_of<shape_error>(
              [&] { rotation::rotate_heads(b.v.linear(), b.o.view(), r2, best); }) ==
          "heads of 24 elements fit neither evenly into 32 values nor into 32 inputs behind "
          "attention");
    const hadamard_rotation eight(8, {});
    CHECK(message_of<shape_error>([&] {
            rotation::rotate_heads({b.v.view().middle_rows({0, 24}), {}}, b.o.view(), eight, best);
          }) == "4 heads cannot share 3 heads of values");
    CHECK(message_of<value_error>([&] {
            rotation::rotate_heads({b.v.view(), {}}, b.v.view(), eight, best);
          }).find("values 0 and output 0 share memory") == 0);
  }
  CHECK(unchanged());
}

TEST_CASE("views of one matrix share memory only where they overlap") {
  std::vector<float> m(64);
  const auto view = [&](index_t row, index_t rows, index_t col, index_t cols) {
    return matrix_view<const float>(m.data() + row * 8 + col, rows, cols, 8);
  };
  const auto check = [](matrix_view<const float> a, matrix_view<const float> b, bool expected) {
    CHECK(rotation::detail::overlap(a, b) == expected);
    CHECK(rotation::detail::overlap(b, a) == expected);
  };
  check(view(0, 4, 0, 8), view(4, 4, 0, 8), false);  // rows, as of a fused q, k, v
  check(view(0, 5, 0, 8), view(4, 4, 0, 8), true);
  check(view(0, 8, 0, 4), view(0, 8, 4, 4), false);  // columns
  check(view(0, 8, 0, 5), view(0, 8, 4, 4), true);
  check(view(0, 8, 4, 4), view(1, 7, 0, 4), false);  // columns that begin a row later
  check(view(0, 8, 4, 4), view(1, 7, 0, 5), true);
  check(view(0, 0, 0, 8), view(0, 8, 0, 8), false);
  check(view(0, 8, 0, 8), view(0, 8, 0, 8), true);
}
