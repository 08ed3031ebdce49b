// Every decorator over uniform tensors of many shapes and params, and nests of them, keeps every
// promise of quantized_tensor and input_transformed_operand; what they are called and store.
#include <numeric>
#include <string>
#include <vector>

#include "catch.hpp"
#include "check_decorated.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/matrices.hpp"
#include "make_transforms.hpp"

namespace {

using namespace lowbit;
using decorators::output_rotated;
using decorators::permuted;
using decorators::rotated;
using decorators::scaled;
using formats::uniform_quantizer;
using formats::uniform_tensor;

constexpr std::uint64_t seed = 51;

template <class T>
void check(const T& t) {
  test::check_decorated(t, seed);
}

}  // namespace

TEST_CASE("decorators over uniform tensors conform") {
  for (const shape2 shape : {shape2{1, 1}, {3, 7}, {2, 64}, {5, 96}, {2, 520}, {0, 5}, {5, 0}}) {
    for (const unsigned bits : {1U, 4U}) {
      for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
        CAPTURE(shape.rows, shape.cols, bits, static_cast<int>(kind));
        const uniform_quantizer q{.params = {.bits = bits, .kind = kind, .group_size = 48}};
        const auto base = q.quantize(testing::normal_matrix(shape, seed).view());
        check(permuted<uniform_tensor>(test::permutation(shape.cols, seed), base));
        check(rotated<uniform_tensor>({shape.cols, {.seed = 7}}, base));
        check(scaled<uniform_tensor>(test::scaling(shape.cols, seed), base));
        check(output_rotated<uniform_tensor>({shape.rows, {.seed = 8}}, base));
      }
    }
  }
}

TEST_CASE("decorators nest both ways and conform") {
  const shape2 shape{3, 72};
  const auto base = uniform_quantizer{}.quantize(testing::normal_matrix(shape, seed).view());
  const auto permutation = test::permutation(shape.cols, seed);
  const auto scaling = test::scaling(shape.cols, seed, scale_type::fp32);
  const decorators::hadamard_rotation rotation(shape.cols, {.block = 4, .seed = 9});
  permuted<uniform_tensor> p(permutation, base);
  rotated<uniform_tensor> r(rotation, base);
  check(rotated<permuted<uniform_tensor>>(rotation, p));
  check(permuted<rotated<uniform_tensor>>(permutation, r));
  check(scaled<rotated<permuted<uniform_tensor>>>(scaling, {rotation, p}));
  check(output_rotated<rotated<uniform_tensor>>({shape.rows, {.seed = 1}}, r));
  check(rotated<output_rotated<uniform_tensor>>(rotation, {{shape.rows, {.seed = 1}}, base}));
  check(permuted<rotated<scaled<uniform_tensor>>>(permutation, {rotation, {scaling, base}}));
}

TEST_CASE("decorators ask a base for no more than the concept promises") {
  const shape2 shape{3, 12};
  const auto m = testing::normal_matrix(shape, seed);
  const auto archetype = [&] { return testing::archetype_quantizer{}.quantize(m.view(), {}); };
  check(permuted<testing::archetype_tensor>(test::permutation(12, seed), archetype()));
  check(scaled<testing::archetype_tensor>(test::scaling(12, seed), archetype()));
  check(output_rotated<testing::archetype_tensor>({3, {}}, archetype()));
  check(rotated<permuted<testing::archetype_tensor>>({12, {}},
                                                     {test::permutation(12, seed), archetype()}));
}

TEST_CASE("names, versions and params are those of the transform, then of the base") {
  using nest = rotated<scaled<permuted<uniform_tensor>>>;
  CHECK(nest::format::name == "rotated.scaled.permuted.uniform");
  CHECK(nest::format::version == 2);  // rotated's
  CHECK(rotated<testing::archetype_tensor>::format::name == "rotated.archetype");

  struct : params_visitor {
    std::string names;
    void integer(field f, std::int64_t&, std::int64_t, std::int64_t) override { add(f); }
    void real(field f, double&, double, double) override { add(f); }
    void choice(field f, std::size_t&, std::span<const std::string_view>) override { add(f); }
    void add(field f) { names.append(f.name).append(" "); }
  } fields;
  nest::format::params params;
  nest::format::describe(params, fields);
  CHECK(fields.names ==
        "rotation_block rotation_seed column_scale_type bits symmetry granularity group_size "
        "scale_type ");
}

TEST_CASE("decorators store what they must and no more") {
  const auto base = uniform_quantizer{}.quantize(testing::normal_matrix({2, 100}, seed).view());
  const auto extra = [&](const auto& t) { return t.storage_bits() - base.storage_bits(); };
  CHECK(extra(rotated<uniform_tensor>({100, {}}, base)) == 0);
  CHECK(extra(permuted<uniform_tensor>(test::permutation(100, seed), base)) == 100U * 16);
  CHECK(extra(scaled<uniform_tensor>(test::scaling(100, seed), base)) == 100U * 16);
  CHECK(extra(scaled<uniform_tensor>(test::scaling(100, seed, scale_type::fp32), base)) ==
        100U * 32);
}

TEST_CASE("a decorator refuses a base of other columns") {
  const auto base = uniform_quantizer{}.quantize(testing::normal_matrix({2, 8}, seed).view());
  CHECK_THROWS_AS(rotated<uniform_tensor>({16, {}}, base), shape_error);
  CHECK_THROWS_AS(output_rotated<uniform_tensor>({8, {}}, base), shape_error);
  CHECK_THROWS_AS(permuted<uniform_tensor>(test::permutation(7, seed), base), shape_error);
}
