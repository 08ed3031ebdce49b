// What rotations are worth for 4-bit activations, on real inputs of layers, some of which nothing
// was fitted to. `test_rotation "*real activations*" -s` prints the table of the folder's README.
#include "catch.hpp"
#include "lowbit/io/safetensors_reader.hpp"
#include "lowbit/rotation/dfrot.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;

namespace {

const kernels::context best = kernels::context::best();

testing::test_matrix read(const io::safetensors_reader& file, const std::string& name) {
  const io::stored_tensor* const stored = file.find(name);
  REQUIRE(stored != nullptr);
  testing::test_matrix m{name, io::matrix_shape(*stored), {}};
  m.values.resize(m.shape.size());
  io::read_rows(*stored, {0, m.shape.rows}, {m.values.data(), m.shape.rows, m.shape.cols});
  return m;
}

/// The squared error of x R as a part of |x|^2; no matrix: of x.
double relative_error(const testing::test_matrix& x, matrix_view<const double> r) {
  rotation::detail::activation_loss loss(x.view(), 4, best);
  std::vector<double> errors(x.shape.rows);
  loss.evaluate(r, errors);
  double error = 0.0;
  for (const double e : errors) error += e;
  double square = 0.0;
  for (const float v : x.values) square += static_cast<double>(v) * static_cast<double>(v);
  return error / square;
}

}  // namespace

TEST_CASE("on real activations a Hadamard rotation lowers the 4-bit error, and DFRot further") {
  if (lowbit_test::is_sanitized) return;
  const auto file =
      io::safetensors_reader::open("examples/data/whisper_base_en_extract.safetensors");
  for (const std::string name :
       {"decoder.blocks.0.cross_attn.key", "decoder.blocks.1.mlp.0", "decoder.blocks.2.attn.key"}) {
    const auto x = read(file, name + ".input.calibration");
    const auto heldout = read(file, name + ".input.heldout");
    const decorators::hadamard_rotation r0(x.shape.cols, {.seed = 1});
    const rotation::dense_rotation hadamard(r0);
    const auto random = rotation::random_rotation(x.shape.cols, 1, best);
    const double none = relative_error(heldout, {});
    const double turned = relative_error(heldout, hadamard.matrix());
    INFO(name << ", held out: none " << none << ", random "
              << relative_error(heldout, random.matrix()) << ", Hadamard " << turned);
    CHECK(turned < none / 4.0);

    // Three steps reach nearly all of what there is. 256 rows are few for 512 columns: most of it
    // is theirs alone.
    const auto r = rotation::refine_rotation(
        x.view(), r0, {.massive = rotation::massive_rule::none, .iterations = 3}, best);
    const double fitted = relative_error(x, r.rotation.matrix());
    const double refined = relative_error(heldout, r.rotation.matrix());
    INFO("DFRot: fitted " << relative_error(x, hadamard.matrix()) << " -> " << fitted
                          << ", held out " << turned << " -> " << refined);
    CHECK(fitted < 0.5 * relative_error(x, hadamard.matrix()));
    CHECK(refined < 1.05 * turned);
  }
}
