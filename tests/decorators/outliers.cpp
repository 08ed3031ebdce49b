// with_outliers over uniform tensors and in nests keeps every promise of its concepts, stores what
// it must, and multiplies as its definition says.
#include <string>
#include <vector>

#include "catch.hpp"
#include "check_decorated.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/matrices.hpp"
#include "make_transforms.hpp"

namespace {

using namespace lowbit;
using decorators::output_rotated;
using decorators::rotated;
using decorators::with_outliers;
using formats::uniform_quantizer;
using formats::uniform_tensor;

constexpr std::uint64_t seed = 61;

template <class T>
void check(const T& t) {
  test::check_decorated(t, seed);
}

/// Every `step`th place, from 1/8 to 8 and of both signs.
layout::sparse_matrix some(shape2 shape, index_t step) {
  std::vector<index_t> places;
  std::vector<float> values;
  for (index_t i = step / 2; i < shape.size(); i += step) {
    places.push_back(i);
    values.push_back(std::exp2(6.0F * random_uniform(seed, i) - 3.0F) *
                     (i % 3 == 0 ? -1.0F : 1.0F));
  }
  return {shape, places, values};
}

uniform_tensor base_of(shape2 shape) {
  return uniform_quantizer{.params = {.bits = 2, .group_size = 48}}.quantize(
      testing::normal_matrix(shape, seed).view());
}

}  // namespace

TEST_CASE("with_outliers over uniform tensors conforms") {
  for (const shape2 shape : {shape2{1, 1}, {3, 7}, {2, 520}, {35, 20}, {0, 5}, {5, 0}}) {
    for (const index_t step : {1U, 3U, 300U, 100000U}) {  // all, some, with skips, none
      CAPTURE(shape.rows, shape.cols, step);
      check(with_outliers<uniform_tensor>(some(shape, step), base_of(shape)));
    }
  }
}

TEST_CASE("with_outliers nests both ways and conforms") {
  const shape2 shape{18, 72};
  const decorators::hadamard_rotation rotation(72, {.block = 4, .seed = 9});
  const rotated<uniform_tensor> turned(rotation, base_of(shape));
  const with_outliers<uniform_tensor> apart(some(shape, 50), base_of(shape));
  check(rotated<with_outliers<uniform_tensor>>(rotation, apart));
  check(with_outliers<rotated<uniform_tensor>>(some(shape, 50), turned));
  check(with_outliers<rotated<decorators::permuted<uniform_tensor>>>(
      some(shape, 50), {rotation, {test::permutation(72, seed), base_of(shape)}}));
  const with_outliers<output_rotated<uniform_tensor>> coupled(some(shape, 50),
                                                              {{18, {.seed = 3}}, base_of(shape)});
  check(coupled);
  CHECK(coupled.coupled_rows() == 18);
  static_assert(!row_coupled_tensor<with_outliers<uniform_tensor>>);
}

TEST_CASE("with_outliers asks a base for no more than the concept promises") {
  const auto m = testing::normal_matrix({3, 12}, seed);
  check(with_outliers<testing::archetype_tensor>(
      some({3, 12}, 5), testing::archetype_quantizer{}.quantize(m.view(), {})));
}

TEST_CASE("with_outliers adds its values to the base and stores what the layout says") {
  const shape2 shape{20, 30};
  const auto base = base_of(shape);
  const auto outliers = some(shape, 7);
  const with_outliers<uniform_tensor> t(outliers, base);
  std::vector<float> expected(shape.size());
  base.dequantize({0, 20}, {expected.data(), 20, 30});
  outliers.for_each({0, 20},
                    [&](index_t r, index_t k, float16 v) { expected[r * 30 + k] += to_float(v); });
  std::vector<float> found(shape.size());
  t.dequantize({0, 20}, {found.data(), 20, 30});
  CHECK(found == expected);
  CHECK(t.storage_bits() - base.storage_bits() ==
        layout::sparse_matrix::storage_bits(shape, outliers.extents()));
  CHECK(with_outliers<uniform_tensor>::format::name == "with_outliers.uniform");
  CHECK(with_outliers<rotated<uniform_tensor>>::format::name == "with_outliers.rotated.uniform");
  CHECK_THROWS_AS(with_outliers<uniform_tensor>(some({20, 31}, 7), base), shape_error);
}
