// replicated tensors: they conform, alone and in nests; their values are the sum or the mean of
// their replicas; what they are called and store; what they refuse.
#include "lowbit/decorators/replicated.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "check_decorated.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/matrices.hpp"

namespace {

using namespace lowbit;
using decorators::output_rotated;
using decorators::replica_total;
using decorators::replicated;
using decorators::rotated;
using formats::uniform_quantizer;
using formats::uniform_tensor;

constexpr std::uint64_t seed = 71;

template <class T>
void check(const T& t) {
  test::check_decorated(t, seed);
}

/// Different matrices: replicas need not have anything to do with each other.
std::vector<uniform_tensor> uniform_replicas(shape2 shape, index_t count,
                                             const uniform_quantizer& q = {}) {
  std::vector<uniform_tensor> list;
  for (index_t k = 0; k < count; ++k) {
    list.push_back(q.quantize(testing::normal_matrix(shape, seed + k).view()));
  }
  return list;
}

template <class T>
std::vector<float> values_of(const T& t) {
  std::vector<float> values(t.shape().size());
  t.dequantize({0, t.shape().rows}, {values.data(), t.shape().rows, t.shape().cols});
  return values;
}

}  // namespace

TEST_CASE("replicated uniform tensors conform") {
  for (const shape2 shape : {shape2{1, 1}, {3, 7}, {5, 96}, {2, 520}, {0, 5}, {5, 0}}) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      const uniform_quantizer q{.params = {.bits = 2, .kind = kind, .group_size = 48}};
      for (const index_t count : {index_t{1}, index_t{3}}) {
        for (const auto total : {replica_total::sum, replica_total::mean}) {
          CAPTURE(shape.rows, shape.cols, static_cast<int>(kind), count, static_cast<int>(total));
          check(replicated<uniform_tensor>(total, uniform_replicas(shape, count, q)));
        }
      }
    }
  }
}

TEST_CASE("replicated tensors nest with rotations on either side of them") {
  const shape2 shape{4, 72};
  const replicated<uniform_tensor> t(replica_total::sum, uniform_replicas(shape, 2));
  check(rotated<replicated<uniform_tensor>>({shape.cols, {.seed = 3}}, t));
  check(output_rotated<replicated<uniform_tensor>>({shape.rows, {.seed = 3}}, t));

  std::vector<rotated<uniform_tensor>> inside;
  std::vector<output_rotated<uniform_tensor>> outputs;
  for (const uniform_tensor& replica : uniform_replicas(shape, 3)) {
    inside.push_back({{shape.cols, {.seed = 3}}, replica});
    outputs.push_back({{shape.rows, {.seed = 3}}, replica});
  }
  check(replicated<rotated<uniform_tensor>>(replica_total::mean, inside));
  const replicated<output_rotated<uniform_tensor>> coupled(replica_total::sum, outputs);
  check(coupled);
  CHECK(coupled.coupled_rows() == shape.rows);
}

TEST_CASE("replicated asks a base for no more than the concept promises") {
  std::vector<testing::archetype_tensor> list;
  for (std::uint64_t k = 0; k < 3; ++k) {
    list.push_back(
        testing::archetype_quantizer{}.quantize(testing::normal_matrix({3, 12}, k).view(), {}));
  }
  check(replicated<testing::archetype_tensor>(replica_total::mean, std::move(list)));
}

TEST_CASE("a replicated tensor is the sum or the mean of its replicas, in floats") {
  const auto list = uniform_replicas({3, 40}, 3);
  const auto sum = values_of(replicated<uniform_tensor>(replica_total::sum, list));
  const auto mean = values_of(replicated<uniform_tensor>(replica_total::mean, list));
  for (index_t i = 0; i < sum.size(); ++i) {
    float expected = values_of(list[0])[i];
    for (index_t k = 1; k < list.size(); ++k) expected += values_of(list[k])[i];
    CHECK(sum[i] == expected);
    CHECK(mean[i] == expected / 3.0F);
  }
}

TEST_CASE("replicas are stored one after the other, their params once") {
  using t = replicated<uniform_tensor>;
  CHECK(t::format::name == "replicated.uniform");
  CHECK(t::format::version == 1);
  CHECK(rotated<t>::format::name == "rotated.replicated.uniform");
  CHECK(decorators::has_decorator<rotated<t>::format, decorators::replication_format>);

  struct : params_visitor {
    std::string names;
    void integer(field f, std::int64_t&, std::int64_t, std::int64_t) override { add(f); }
    void real(field f, double&, double, double) override { add(f); }
    void choice(field f, std::size_t&, std::span<const std::string_view>) override { add(f); }
    void add(field f) { names.append(f.name).append(" "); }
  } fields;
  t::format::params params;
  t::format::describe(params, fields);
  CHECK(fields.names == "replicas replica_total bits symmetry granularity group_size scale_type ");

  const auto list = uniform_replicas({3, 40}, 2);
  const t tensor(replica_total::sum, list);
  CHECK(tensor.params().own ==
        decorators::replication_format::params{.replicas = 2, .total = replica_total::sum});
  CHECK(tensor.params().base == list[0].params());
  CHECK(tensor.storage_bits() == 2 * list[0].storage_bits());
  const auto buffers = testing::copy_buffers(tensor);
  REQUIRE(buffers.size() == 4);
  const std::vector<std::string> names{"replica0_planes", "replica0_scales", "replica1_planes",
                                       "replica1_scales"};
  for (index_t i = 0; i < names.size(); ++i) {
    CHECK(buffers[i].name == names[i]);
    CHECK(buffers[i].bytes == testing::copy_buffers(list[i / 2])[i % 2].bytes);
  }
}

TEST_CASE("replicas that do not fit together are refused") {
  using t = replicated<uniform_tensor>;
  const auto make = [](std::vector<uniform_tensor> list) {
    static_cast<void>(t(replica_total::sum, std::move(list)));
  };
  CHECK_NOTHROW(make(uniform_replicas({1, 4}, 16)));
  CHECK_THROWS_AS(make({}), value_error);
  CHECK_THROWS_AS(make(uniform_replicas({1, 4}, 17)), value_error);
  auto shapes = uniform_replicas({2, 4}, 1);
  shapes.push_back(uniform_replicas({2, 5}, 1).front());
  CHECK_THROWS_AS(make(shapes), shape_error);
  auto params = uniform_replicas({2, 4}, 1);
  params.push_back(uniform_replicas({2, 4}, 1, {.params = {.bits = 3}}).front());
  CHECK_THROWS_AS(make(params), value_error);

  const t good(replica_total::sum, uniform_replicas({2, 4}, 2));
  for (const unsigned count : {0U, 17U, 3U}) {
    t::format::params other = good.params();
    other.own.replicas = count;
    testing::memory_source source(testing::copy_buffers(good));
    CHECK_THROWS_AS(t::from_buffers(good.shape(), other, source), error);
  }
}
