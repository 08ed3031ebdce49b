// Everything that takes any quantized_tensor works with the archetype, which is nothing more.
#include "lowbit/testing/archetype.hpp"

#include <bit>

#include "catch.hpp"
#include "lowbit/ops/evaluate.hpp"
#include "lowbit/ops/matmul.hpp"
#include "lowbit/testing/matrices.hpp"
#include "lowbit/testing/quantizer.hpp"

namespace {

using namespace lowbit;
using testing::archetype_quantizer;
using testing::archetype_tensor;

constexpr shape2 shape{3, 70};
const testing::test_matrix weights = testing::normal_matrix(shape, 1);

}  // namespace

TEST_CASE("bits_per_weight of the archetype: a float each") {
  const archetype_tensor t = archetype_quantizer{}.quantize(weights.view(), {});
  CHECK(bits_per_weight(t) == 32.0);
  CHECK(count_buffer_bits(t) == 32U * shape.size());
}

TEST_CASE("ops::dequantize of the archetype: the weights") {
  const archetype_tensor t = archetype_quantizer{}.quantize(weights.view(), {});
  std::vector<float> values(shape.size());
  ops::dequantize(t, {values.data(), shape.rows, shape.cols}, {});
  CHECK(values == weights.values);
}

TEST_CASE("ops::matmul and explain of the archetype: the dequantize path") {
  const archetype_tensor t = archetype_quantizer{}.quantize(weights.view(), {});
  CHECK(ops::explain(t, {}).text() ==
        "dequantize through eigen: every format can, and activations stay float; not int8: format "
        "'archetype' has no codes or planes; not bit_serial: format 'archetype' has no "
        "bit-planes");
  // Powers of two that pick one column each: the products are exact.
  std::vector<float> x(2 * shape.cols, 0.0F);
  x[5] = 2.0F;
  x[shape.cols + 69] = -1.0F;
  std::vector<float> y(2 * shape.rows);
  ops::matmul({x.data(), 2, shape.cols}, t, {y.data(), 2, shape.rows}, {});
  for (index_t n = 0; n < shape.rows; ++n) {
    CHECK(y[n] == 2.0F * weights.view()(n, 5));
    CHECK(y[shape.rows + n] == -weights.view()(n, 69));
  }
}

TEST_CASE("ops::evaluate of the archetype: no error") {
  const archetype_tensor t = archetype_quantizer{}.quantize(weights.view(), {});
  CHECK(ops::weight_error(weights.view(), t).relative_mse() == 0.0);
  CHECK(ops::output_error(weights.view(), weights.view(), t).relative_mse() == 0.0);
}

TEST_CASE("the archetype conforms") {
  const auto of_tensor = check_tensor(archetype_quantizer{}.quantize(weights.view(), {}));
  INFO(failures(of_tensor));
  CHECK(all_passed(of_tensor));
  CHECK(of_tensor.size() > 25);

  const auto of_quantizer = testing::check_quantizer(archetype_quantizer{});
  INFO(failures(of_quantizer));
  CHECK(all_passed(of_quantizer));
  CHECK(of_quantizer.size() > 1000);
}

TEST_CASE("the archetype is found in a list of formats by its name") {
  using list = format_list<archetype_quantizer>;
  bool found = false;
  CHECK(list::visit("archetype", [&]<class Q>(std::type_identity<Q>) {
    found = std::is_same_v<Q, archetype_quantizer>;
  }));
  CHECK(found);
  CHECK_FALSE(list::visit("archetypes", [](auto) { FAIL("there is no such format"); }));
}
