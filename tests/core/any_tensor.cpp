// An any_tensor is the tensor: every function forwards, and decorators over it store what they
// store over the tensor's own type.
#include "lowbit/core/any_tensor.hpp"

#include "catch.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/format.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;
using decorators::rotated;
using testing::archetype_tensor;

namespace {

constexpr shape2 shape{3, 20};

archetype_tensor make() {
  return testing::archetype_quantizer{}.quantize(testing::normal_matrix(shape, 1).view(), {});
}
void check_conforms(const auto& t) {
  const auto list = testing::check_tensor(t);
  INFO(testing::failures(list));
  CHECK(testing::all_passed(list));
}

}  // namespace

TEST_CASE("an any_tensor conforms, and so do decorators over it") {
  check_conforms(any_tensor(make()));
  check_conforms(rotated<any_tensor>({shape.cols, {.seed = 3}}, make()));
  check_conforms(any_tensor(rotated<any_tensor>({shape.cols, {.seed = 3}}, make())));
}

TEST_CASE("an any_tensor stores what its tensor stores, under the same name") {
  const rotated<archetype_tensor> typed({shape.cols, {.seed = 3}}, make());
  const any_tensor any = rotated<any_tensor>({shape.cols, {.seed = 3}}, make());
  const tensor_ref a = typed;
  const tensor_ref b = any;
  CHECK(b.format_name() == a.format_name());
  CHECK(b.format_version() == a.format_version());
  CHECK(b.storage_bits() == a.storage_bits());
  CHECK(b.coupled_rows() == a.coupled_rows());
  CHECK(testing::first_difference(testing::copy_buffers(b), testing::copy_buffers(a)) == "");
  CHECK(any.get_if<archetype_tensor>() == nullptr);
  const auto* const outer = any.get_if<rotated<any_tensor>>();
  REQUIRE(outer != nullptr);
  CHECK(outer->base().get_if<archetype_tensor>() != nullptr);
}

TEST_CASE("params of any tensors are equal if type and values are; those of none make no tensor") {
  const any_tensor a = make();
  const any_tensor b = make();
  const any_tensor turned = rotated<any_tensor>({shape.cols, {.seed = 3}}, make());
  const any_tensor otherwise = rotated<any_tensor>({shape.cols, {.seed = 4}}, make());
  CHECK(a.params() == b.params());
  CHECK(a.params() != turned.params());
  CHECK(turned.params() != otherwise.params());
  const any_tensor::format::params none;
  CHECK(none == any_tensor::format::params());
  CHECK(none != a.params());
  testing::memory_source source({});
  CHECK_THROWS_AS(any_tensor::from_buffers(shape, none, source), format_error);
}
