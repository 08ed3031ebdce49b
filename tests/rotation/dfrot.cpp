// DFRot: what it returns is orthogonal and never worse than its start; it finds what there is to be
// found, and gives the same bytes whoever runs it.
#include "lowbit/rotation/dfrot.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;
using decorators::hadamard_rotation;
using lowbit_test::message_of;
using rotation::dense_rotation;
using rotation::dfrot_options;
using rotation::dfrot_result;
using rotation::massive_rule;
using testing::test_matrix;

namespace {

const kernels::context best = kernels::context::best();

/// Rows as an RMSNorm makes them, |x|^2 = columns: normal ones with some strong channels, and every
/// `every`-th one massive: nearly all of it lies in three elements.
test_matrix activations(shape2 shape, std::uint64_t seed, index_t every) {
  auto m = testing::normal_matrix(shape, seed);
  for (index_t t = 0; t < shape.rows; ++t) {
    float* const x = m.values.data() + t * shape.cols;
    for (index_t k = 0; k < shape.cols; k += 13) x[k] *= 6.0F;
    if (t % every == 0) {
      for (index_t k = 0; k < shape.cols; ++k) x[k] *= 0.25F;
      x[2] += 100.0F;
      x[shape.cols / 2] -= 55.0F;
      x[shape.cols - 1] += 30.0F;
    }
    double square = 0.0;
    for (index_t k = 0; k < shape.cols; ++k) {
      square += static_cast<double>(x[k]) * static_cast<double>(x[k]);
    }
    const auto scale = static_cast<float>(std::sqrt(static_cast<double>(shape.cols) / square));
    for (index_t k = 0; k < shape.cols; ++k) x[k] *= scale;
  }
  return m;
}

/// |x R - Q(x R)|^2 of each row in plain double arithmetic, Q with 2^bits - 1 levels around 0.
std::vector<double> errors_of(const test_matrix& x, matrix_view<const double> r,
                              unsigned bits = 4) {
  const double top = static_cast<double>((1U << (bits - 1U)) - 1U);
  std::vector<double> errors;
  for (index_t t = 0; t < x.shape.rows; ++t) {
    std::vector<double> y(x.shape.cols, 0.0);
    for (index_t k = 0; k < y.size(); ++k) {
      for (index_t j = 0; j < y.size(); ++j) {
        const double element = r.empty() ? (k == j ? 1.0 : 0.0) : r(k, j);
        y[j] += static_cast<double>(x.view()(t, k)) * element;
      }
    }
    double largest = 0.0;
    for (const double v : y) largest = std::max(largest, std::fabs(v));
    const double scale = largest / top;
    double error = 0.0;
    for (const double v : y) {
      const double d = v - scale * std::nearbyint(v / scale);
      error += d * d;
    }
    errors.push_back(error);
  }
  return errors;
}

double loss_of(const std::vector<double>& errors, const std::vector<bool>& massive, double alpha) {
  double sum = 0.0;
  for (index_t t = 0; t < errors.size(); ++t) sum += errors[t] * (massive[t] ? alpha * alpha : 1.0);
  return std::sqrt(sum);
}

double defect_of(const dense_rotation& r) {
  double largest = 0.0;
  const auto m = r.matrix();
  for (index_t i = 0; i < m.rows(); ++i) {
    for (index_t j = 0; j < m.rows(); ++j) {
      double sum = i == j ? -1.0 : 0.0;
      for (index_t k = 0; k < m.rows(); ++k) sum += m(k, i) * m(k, j);
      largest = std::max(largest, std::fabs(sum));
    }
  }
  return largest;
}

/// What is promised of every result. The losses that it reports are those of plain arithmetic but
/// for floats' rounding, which may send an element that lies between two levels to the other one:
/// that changes its error by a rounding only.
void check_result(const test_matrix& x, const dense_rotation& start, const dfrot_result& r,
                  const dfrot_options& options) {
  REQUIRE(r.losses.size() >= 1);
  REQUIRE(r.best < r.losses.size());
  REQUIRE(r.massive.size() == x.shape.rows);
  CHECK(r.losses.size() <= options.iterations + 1);
  CHECK(r.losses[r.best] <= r.losses[0]);
  CHECK(defect_of(r.rotation) < 1e-14);
  const double first =
      loss_of(errors_of(x, start.matrix(), options.bits), r.massive, options.alpha);
  const double last =
      loss_of(errors_of(x, r.rotation.matrix(), options.bits), r.massive, options.alpha);
  double magnitude = 0.0;
  for (index_t t = 0; t < x.shape.rows; ++t) {
    for (const float v : x.view().row(t)) {
      const double wide = static_cast<double>(v) * (r.massive[t] ? options.alpha : 1.0);
      magnitude += wide * wide;
    }
  }
  const double rounding = 8.0 * 0x1p-24 * std::sqrt(magnitude);
  CHECK(std::fabs(r.losses[0] - first) <= rounding);
  CHECK(std::fabs(r.losses[r.best] - last) <= rounding);
}

double sum_of(const std::vector<double>& errors, const std::vector<bool>& which, bool value) {
  double sum = 0.0;
  for (index_t t = 0; t < errors.size(); ++t) sum += which[t] == value ? errors[t] : 0.0;
  return sum;
}

}  // namespace

TEST_CASE("DFRot lowers the error of massive rows, on rows it has not seen too") {
  const shape2 shape{512, 32};
  constexpr index_t every = 16;
  const test_matrix x = activations(shape, 21, every);
  const test_matrix heldout = activations(shape, 22, every);
  std::vector<bool> massive(shape.rows);
  for (index_t t = 0; t < shape.rows; ++t) massive[t] = t % every == 0;
  const hadamard_rotation r0(shape.cols, {.seed = 23});
  const dense_rotation start(r0);
  const auto plain = errors_of(x, {});
  const auto random = errors_of(x, rotation::random_rotation(shape.cols, 0, best).matrix());

  for (const massive_rule rule : {massive_rule::no_gain, massive_rule::small_error}) {
    const dfrot_options options{
        .alpha = 10.0, .massive = rule, .error_limit = 0.3, .iterations = 30};
    const auto r = rotation::refine_rotation(x.view(), r0, options, best);
    check_result(x, start, r, options);
    for (index_t t = 0; t < shape.rows; ++t) {
      const bool is_massive = rule == massive_rule::no_gain
                                  ? random[t] >= plain[t]
                                  : std::sqrt(plain[t]) < options.error_limit;
      CHECK(r.massive[t] == is_massive);
      if (massive[t]) CHECK(r.massive[t]);
    }
    for (const test_matrix* m : {&x, &heldout}) {
      const auto before = errors_of(*m, start.matrix());
      const auto after = errors_of(*m, r.rotation.matrix());
      INFO("rule " << static_cast<int>(rule) << (m == &x ? ", fitted" : ", held out")
                   << ": massive rows " << sum_of(before, massive, true) << " -> "
                   << sum_of(after, massive, true) << ", others " << sum_of(before, massive, false)
                   << " -> " << sum_of(after, massive, false));
      CHECK(sum_of(after, massive, true) < 0.5 * sum_of(before, massive, true));
      CHECK(sum_of(after, massive, false) < 1.1 * sum_of(before, massive, false));
    }
  }
}

TEST_CASE("DFRot finds a planted rotation") {
  // Rows of integers up to 7 are levels of 4 bits: turned back by R their error is 0.
  constexpr index_t n = 32;
  const auto planted = rotation::random_rotation(n, 31, best);
  auto x = testing::make_matrix("planted", {256, n}, [](index_t, index_t) { return 0.0F; });
  double square = 0.0;
  for (index_t t = 0; t < x.shape.rows; ++t) {
    std::vector<double> integers(n);
    for (index_t k = 0; k < n; ++k) {
      integers[k] = static_cast<double>(random_bits(32, t * n + k) % 15U) - 7.0;
      square += integers[k] * integers[k];
    }
    integers[t % n] = 7.0;
    for (index_t k = 0; k < n; ++k) {
      double sum = 0.0;
      for (index_t j = 0; j < n; ++j) sum += integers[j] * planted.matrix()(k, j);
      x.values[t * n + k] = static_cast<float>(sum);
    }
  }
  std::vector<double> near(n * n);
  for (index_t i = 0; i < near.size(); ++i) {
    near[i] = planted.matrix()(i / n, i % n) + 0.003 * static_cast<double>(random_normal(33, i));
  }
  REQUIRE(linalg::polar_factor({near.data(), n, n}, best));
  const dense_rotation start({near.data(), n, n}, best);
  const dfrot_options options{.massive = massive_rule::none};
  const auto r = rotation::refine_rotation(x.view(), start, options, best);
  check_result(x, start, r, options);
  INFO("losses " << r.losses[0] << " -> " << r.losses[r.best]);
  CHECK(r.losses[0] > 0.01 * std::sqrt(square));
  // What remains is the rounding of x, u |x| an element, of y = x R, and of scales.
  CHECK(r.losses[r.best] < 4.0 * 0x1p-24 * std::sqrt(square));
  double furthest = 0.0;
  for (index_t i = 0; i < n * n; ++i) {
    furthest = std::max(
        furthest, std::fabs(r.rotation.matrix()(i / n, i % n) - planted.matrix()(i / n, i % n)));
  }
  CHECK(furthest < 1e-6);
}

TEST_CASE("DFRot is never worse than its start, whatever it starts from") {
  // Fewer rows than columns, single rows, zeros, rows that no rotation can improve.
  const auto check = [](const test_matrix& x, const auto& r0, const dfrot_options& options) {
    INFO(x.name << ", " << options.bits << " bits");
    check_result(x, dense_rotation(r0), rotation::refine_rotation(x.view(), r0, options, best),
                 options);
  };
  for (const shape2 shape : {shape2{5, 24}, {1, 16}, {40, 1}, {40, 7}}) {
    for (const unsigned bits : {2U, 4U, 8U}) {
      check(activations(shape.cols < 8 ? shape2{shape.rows, 8} : shape, 41, 3),
            hadamard_rotation(std::max<index_t>(shape.cols, 8), {.seed = 42}),
            {.bits = bits, .iterations = 12});
      check(testing::normal_matrix(shape, 43), hadamard_rotation(shape.cols, {.seed = 44}),
            {.bits = bits, .massive = massive_rule::none, .iterations = 12});
    }
  }
  const auto zeros = testing::make_matrix("zeros", {6, 8}, [](index_t, index_t) { return 0.0F; });
  const auto r = rotation::refine_rotation(zeros.view(), hadamard_rotation(8, {}), {}, best);
  CHECK(r.losses == std::vector<double>{0.0});
  CHECK(r.best == 0);

  const auto none = testing::make_matrix("none", {0, 8}, [](index_t, index_t) { return 0.0F; });
  const auto unmoved = rotation::refine_rotation(none.view(), hadamard_rotation(8, {}), {}, best);
  CHECK(unmoved.losses.empty());
  CHECK(defect_of(unmoved.rotation) < 1e-15);

  // Nothing accepted: the start itself.
  const auto x = activations({64, 16}, 45, 8);
  const auto random = rotation::random_rotation(16, 46, best);
  const auto kept = rotation::refine_rotation(x.view(), random, {.least_gain = 1.0}, best);
  CHECK(kept.best == 0);
  CHECK(kept.losses.size() == 11);  // patience
  CHECK(std::equal(random.matrix().data(), random.matrix().data() + 16 * 16,
                   kept.rotation.matrix().data()));
}

TEST_CASE("DFRot gives the same bytes on every tier and for any number of workers") {
  const auto x = activations({600, 40}, 51, 20);  // two chunks, and tiles with edges
  const hadamard_rotation r0(40, {.seed = 52});
  const dfrot_options options{.iterations = 3};
  const auto expected = rotation::refine_rotation(x.view(), r0, options, best);
  REQUIRE(expected.best != 0);
  const auto check = [&](const kernels::context& ctx) {
    const auto r = rotation::refine_rotation(x.view(), r0, options, ctx);
    CHECK(r.losses == expected.losses);
    CHECK(std::equal(r.rotation.matrix().data(), r.rotation.matrix().data() + 40 * 40,
                     expected.rotation.matrix().data()));
  };
  test::on_each_executor(best, {1, 3}, check);
  for (const cpu::tier& tier : cpu::tiers) {
    if (best.allowed.contains(tier.features)) check(best.narrowed_to(tier.name));
  }
}

TEST_CASE("DFRot tells its steps, and a listener that throws stops it") {
  struct recorder final : listener {
    index_t heard = 0;
    index_t last = 1000;
    void advanced(std::string_view stage, index_t done, index_t total) override {
      CHECK(stage == "dfrot");
      CHECK(total == 5);
      CHECK(done == ++heard);
      if (done == last) throw cancelled_error("enough");
    }
  };
  const auto x = activations({64, 16}, 61, 8);
  const hadamard_rotation r0(16, {});
  recorder all;
  static_cast<void>(
      rotation::refine_rotation(x.view(), r0, {.iterations = 5, .progress = &all}, best));
  CHECK(all.heard == 5);
  recorder few;
  few.last = 2;
  CHECK(message_of<cancelled_error>([&] {
          static_cast<void>(
              rotation::refine_rotation(x.view(), r0, {.iterations = 5, .progress = &few}, best));
        }) == "enough");
  CHECK(few.heard == 2);
}

TEST_CASE("DFRot refuses what it cannot use") {
  auto x = activations({8, 16}, 71, 4);
  const hadamard_rotation r0(16, {});
  const auto refused = [&](const dfrot_options& options) {
    return message_of<value_error>(
        [&] { static_cast<void>(rotation::refine_rotation(x.view(), r0, options, best)); });
  };
  CHECK(refused({.bits = 1}) == "bits = 1 is outside 2..8");
  CHECK(refused({.bits = 9}) == "bits = 9 is outside 2..8");
  CHECK(refused({.alpha = 0.5}) == "alpha = 0.5 is outside 1..1e6");
  CHECK(refused({.least_gain = -1.0}) == "least_gain = -1 is outside 0..1");
  CHECK(message_of<shape_error>([&] {
          static_cast<void>(
              rotation::refine_rotation(x.view(), hadamard_rotation(8, {}), {}, best));
        }) == "the activations have 16 columns, the rotation 8");
  x.values[17] = std::numeric_limits<float>::infinity();
  CHECK(refused({}) == "the activations to rotate for holds +Inf at row 1, column 1");
}
