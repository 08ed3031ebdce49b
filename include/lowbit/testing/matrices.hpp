// testing/matrices.hpp: the inputs on which quantizers show what they are worth.
//
// Invariant: a pure function of the seed. Values are made without sums of products, so that they
// are the same in translation units with different flags.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/core/random.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// A matrix that owns its values, and what it shows.
struct test_matrix {
  std::string name;
  shape2 shape;
  std::vector<float> values;

  [[nodiscard]] matrix_view<const float> view() const noexcept {
    return {values.data(), shape.rows, shape.cols};
  }
};

/// A matrix whose element (r, c) is value(r, c); its name is `what` and its shape.
template <class F>
[[nodiscard]] test_matrix make_matrix(std::string_view what, shape2 shape, F&& value) {
  test_matrix m{lowbit::detail::message(what, "_", shape.rows, "x", shape.cols), shape, {}};
  m.values.reserve(shape.size());
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) m.values.push_back(value(r, c));
  }
  return m;
}

/// Standard normal values.
[[nodiscard]] inline test_matrix normal_matrix(shape2 shape, std::uint64_t seed) {
  return make_matrix("normal", shape,
                     [&](index_t r, index_t c) { return random_normal(seed, r * shape.cols + c); });
}

/// Every kind of input that a quantizer must stand: usual ones, every way in which a shape fails to
/// fit groups and words, and the values at which formulas divide by zero, underflow or lose signs.
[[nodiscard]] inline std::vector<test_matrix> conformance_matrices(std::uint64_t seed) {
  constexpr float denormal = std::numeric_limits<float>::denorm_min();
  const auto normal = [seed](index_t r, index_t c) { return random_normal(seed, r * 4096 + c); };
  const auto uniform = [seed](index_t r, index_t c) {
    return random_uniform(seed, r * 4096 + c) - 0.5F;
  };
  std::vector<test_matrix> list;
  for (const shape2 shape : {shape2{1, 1}, {1, 200}, {70, 1}, {3, 7}, {9, 130}}) {
    list.push_back(normal_matrix(shape, seed));
  }
  for (const index_t cols : {63U, 64U, 65U, 511U, 512U, 513U}) {  // words and rows of words
    list.push_back(normal_matrix({3, cols}, seed + cols));
  }
  list.push_back(make_matrix("uniform", {7, 100}, uniform));
  list.push_back(make_matrix("positive", {3, 100},
                             [&](index_t r, index_t c) { return uniform(r, c) + 1.0F; }));
  list.push_back(make_matrix("negative", {3, 100},
                             [&](index_t r, index_t c) { return uniform(r, c) - 1.0F; }));
  list.push_back(make_matrix("log_normal_rows", {8, 65}, [&](index_t r, index_t c) {
    return normal(r, c) * std::exp(random_normal(seed + 1, r));
  }));
  list.push_back(make_matrix("log_normal_columns", {5, 130}, [&](index_t r, index_t c) {
    return normal(r, c) * std::exp(random_normal(seed + 2, c));
  }));
  list.push_back(make_matrix("outlier", {3, 96}, [&](index_t r, index_t c) {
    return r == 1 && c == 40 ? -1e4F : normal(r, c);
  }));
  list.push_back(make_matrix("one_hot", {2, 70},
                             [](index_t r, index_t c) { return r == 0 && c == 69 ? 1.0F : 0.0F; }));
  list.push_back(make_matrix("constant", {3, 70}, [](index_t, index_t) { return 0.1F; }));
  list.push_back(make_matrix("negative_constant", {3, 70}, [](index_t, index_t) { return -3.0F; }));
  list.push_back(make_matrix("two_values", {2, 66},
                             [](index_t r, index_t c) { return (r + c) % 2 == 0 ? 1.0F : -1.0F; }));
  list.push_back(make_matrix("zeros", {3, 70}, [](index_t, index_t) { return 0.0F; }));
  list.push_back(make_matrix("signed_zeros", {2, 70},
                             [](index_t, index_t c) { return c % 3 == 0 ? 0.0F : -0.0F; }));
  list.push_back(make_matrix("denormals", {2, 70}, [](index_t r, index_t c) {
    const float x = static_cast<float>(c) * denormal;
    return r == 0 ? x : -x;
  }));
  list.push_back(make_matrix("tiny", {2, 70},
                             [&](index_t r, index_t c) { return std::ldexp(normal(r, c), -110); }));
  list.push_back(make_matrix("minus_one", {1, 1}, [](index_t, index_t) { return -1.0F; }));
  for (const shape2 shape : {shape2{0, 5}, {5, 0}, {0, 0}}) {
    list.push_back(make_matrix("empty", shape, [](index_t, index_t) { return 0.0F; }));
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
