// make_transforms.hpp: transforms of random content for tests.
#pragma once

#include <numeric>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/scaled.hpp"

namespace test {

/// A random order (Fisher and Yates).
inline std::vector<lowbit::index_t> random_order(lowbit::index_t columns, std::uint64_t seed) {
  std::vector<lowbit::index_t> order(columns);
  std::iota(order.begin(), order.end(), lowbit::index_t{0});
  for (lowbit::index_t k = columns; k > 1; --k) {
    std::swap(order[k - 1], order[lowbit::random_bits(seed, k) % k]);
  }
  return order;
}

inline lowbit::decorators::column_permutation permutation(lowbit::index_t columns,
                                                          std::uint64_t seed) {
  return lowbit::decorators::column_permutation(random_order(columns, seed));
}

/// Scales from 1/8 to 8.
inline lowbit::decorators::column_scaling scaling(
    lowbit::index_t columns, std::uint64_t seed,
    lowbit::scale_type type = lowbit::scale_type::fp16) {
  std::vector<float> scales(columns);
  for (lowbit::index_t k = 0; k < columns; ++k) {
    scales[k] = std::exp2(6.0F * lowbit::random_uniform(seed, k) - 3.0F);
  }
  return {{.scale_type = type}, scales};
}

}  // namespace test
