// The bar that calibration has to clear, on real weights and inputs: the error of a layer's outputs
// on inputs that nothing was fitted to.
#include "catch.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/io/safetensors_reader.hpp"
#include "lowbit/ops/evaluate.hpp"
#include "lowbit/ptq/recipe.hpp"
#include "problems.hpp"

using namespace lowbit;

namespace {

const kernels::context best = kernels::context::best();

test::test_matrix read(const io::safetensors_reader& file, const std::string& name) {
  const io::stored_tensor* const stored = file.find(name);
  REQUIRE(stored != nullptr);
  test::test_matrix m{name, io::matrix_shape(*stored), {}};
  m.values.resize(m.shape.size());
  io::read_rows(*stored, {0, m.shape.rows}, {m.values.data(), m.shape.rows, m.shape.cols});
  return m;
}

struct layer {
  test::test_matrix weight;
  test::test_matrix heldout;
  observers::second_moments moments;
};

/// Relative error of the outputs on held-out inputs.
template <class Q>
double heldout_error(const layer& l, const Q& q, const ptq::recipe& how) {
  const ptq::recipe_result made =
      ptq::quantize_by_recipe(how, q, l.weight.view(), {.moments = &l.moments}, best);
  return ops::output_error(l.heldout.view(), l.weight.view(), made.tensor).relative_mse();
}

}  // namespace

TEST_CASE("on real layers sbvr with everything beats round to nearest fourfold, and plain GPTQ") {
  const auto file =
      io::safetensors_reader::open("examples/data/whisper_base_en_extract.safetensors");
  for (const std::string name : {"decoder.blocks.0.cross_attn.key", "decoder.blocks.1.mlp.0",
                                 "decoder.blocks.1.mlp.2", "decoder.blocks.2.attn.key"}) {
    if (lowbit_test::is_sanitized && name != "decoder.blocks.1.mlp.0") continue;
    const layer l{read(file, name + ".weight"), read(file, name + ".input.heldout"),
                  test::moments_of(read(file, name + ".input.calibration").view())};
    for (const unsigned bits : {2U, 3U}) {
      const formats::uniform_quantizer uniform{
          .params = {.bits = bits, .kind = symmetry::asymmetric, .group_size = 128}};
      const formats::sbvr_quantizer sbvr{.params = {.planes = bits, .group_size = 128}};
      const double nearest = ops::output_error(l.heldout.view(), l.weight.view(),
                                               uniform.quantize(l.weight.view(), {}))
                                 .relative_mse();
      const double plain = heldout_error(l, uniform,
                                         {.feedback = ptq::feedback_method::gptq,
                                          .order = ptq::column_order::natural,
                                          .shrink = ptq::shrinkage::none});
      const double all = heldout_error(
          l, sbvr,
          {.feedback = ptq::feedback_method::gptq, .refine = 3, .rotate = ptq::rotation::input});
      INFO(name << ", " << bits << " bits: round to nearest " << nearest << ", plain GPTQ " << plain
                << ", sbvr with everything " << all);
      CHECK(all <= 0.25 * nearest);
      CHECK(all < plain);
    }
  }
}
