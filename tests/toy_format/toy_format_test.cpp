// A whole new format by its folder and one line in a list: it gets conformance tests, products,
// checkpoints, and its options and rows in quantize_model, with nothing else touched.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "../../examples/quantize_model/app.hpp"
#include "catch.hpp"
#include "formats.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "lowbit/ops/dequantize.hpp"
#include "lowbit/ops/matmul.hpp"
#include "lowbit/testing/quantizer.hpp"

namespace {

namespace fs = std::filesystem;

/// A folder of this test's own, removed at the end.
struct scratch_folder {
  fs::path path = fs::temp_directory_path() / ("lowbit_toy_" + std::to_string(::getpid()));
  scratch_folder() { fs::create_directories(path); }
  ~scratch_folder() { fs::remove_all(path); }
};

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs quantize_model over the toy's list of formats and returns what it printed.
std::string run_program(const scratch_folder& folder, std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "quantize_model");
  const fs::path captured = folder.path / "stdout.txt";
  std::fflush(stdout);
  const int saved = ::dup(STDOUT_FILENO);
  REQUIRE(std::freopen(captured.c_str(), "w", stdout) != nullptr);
  const int code = quantize_model::run_app(quantize_model::list_formats<toy::formats>(),
                                           static_cast<int>(arguments.size()), arguments.data());
  std::fflush(stdout);
  ::dup2(saved, STDOUT_FILENO);
  ::close(saved);
  INFO(read_file(captured));
  REQUIRE(code == 0);
  return read_file(captured);
}

/// A model file with one matrix of 6 x 100 random weights.
fs::path write_model(const scratch_folder& folder) {
  std::vector<float> weights(600);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = lowbit::random_normal(7, i);
  const lowbit::index_t shape[] = {6, 100};
  lowbit::io::safetensors_writer file(folder.path / "model.safetensors");
  file.add("layer.weight", lowbit::element_type::f32, shape, std::as_bytes(std::span(weights)));
  file.finish();
  return folder.path / "model.safetensors";
}

}  // namespace

TEST_CASE("a new format gets the conformance tests") {
  int checked = 0;
  toy::formats::for_each([&]<class Q>(std::type_identity<Q>) {
    const auto findings = lowbit::testing::check_quantizer(Q{});
    INFO(lowbit::testing::failures(findings));
    CHECK(lowbit::testing::all_passed(findings));
    ++checked;
  });
  CHECK(checked == 2);
}

TEST_CASE("a new format gets its row in the table, its options and its listing") {
  const scratch_folder folder;
  const std::string model = write_model(folder).string();

  const std::string table = run_program(folder, {"compare", model.c_str(), "--config",
                                                 "uniform:bits=4", "--config", "folded:run=25"});
  INFO(table);
  // One byte per sign and a float for each 25 columns: 8 + 32 / 25 bits per weight.
  CHECK(table.find("folded:run=25        9.2800") != std::string::npos);

  const std::string listing = run_program(folder, {"formats"});
  INFO(listing);
  CHECK(listing.find("folded (version 3): a toy") != std::string::npos);
  CHECK(listing.find("columns per magnitude") != std::string::npos);
}

TEST_CASE("a new format gets checkpoints") {
  const scratch_folder folder;
  const std::string model = write_model(folder).string();
  const std::string out = (folder.path / "out.safetensors").string();
  run_program(folder, {"quantize", model.c_str(), "-o", out.c_str(), "--format", "folded", "--run",
                       "7", "--jobs", "2"});

  const auto reader = lowbit::io::checkpoint_reader::open(out);
  const auto tensor = reader.load<toy::folded_tensor>("layer.weight");
  CHECK(tensor.params().run == 7);
  CHECK(tensor.shape() == lowbit::shape2{6, 100});

  const std::string inspected = run_program(folder, {"inspect", out.c_str()});
  CHECK(inspected.find("all checksums are right") != std::string::npos);
  CHECK(inspected.find("folded") != std::string::npos);

  // Through the list, as a program does that does not know which format it meets.
  bool visited = false;
  reader.visit<toy::formats>("layer.weight", [&](const auto& any) {
    visited = true;
    CHECK(any.shape() == lowbit::shape2{6, 100});
  });
  CHECK(visited);
}

TEST_CASE("a new format gets decorators") {
  const scratch_folder folder;
  const std::vector<float> w(6 * 100, 1.0F);
  const lowbit::decorators::rotated<toy::folded_tensor> tensor(
      {100, {.seed = 12}}, toy::folded_quantizer{}.quantize({w.data(), 6, 100}, {}));
  const auto findings = lowbit::testing::check_tensor(tensor);
  INFO(lowbit::testing::failures(findings));
  CHECK(lowbit::testing::all_passed(findings));

  const std::string out = (folder.path / "rotated.safetensors").string();
  lowbit::io::checkpoint_writer writer(out);
  writer.add("layer.weight", tensor);
  writer.finish();
  const std::string inspected = run_program(folder, {"inspect", out.c_str()});
  INFO(inspected);
  CHECK(inspected.find("rotated.folded") != std::string::npos);
  CHECK(inspected.find(R"({"rotation_block":4,"rotation_seed":12,"run":32})") != std::string::npos);
}

TEST_CASE("a new format gets products") {
  std::vector<float> w(40 * 70);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = lowbit::random_normal(8, i);
  const auto tensor = toy::folded_quantizer{}.quantize({w.data(), 40, 70}, {});
  const std::vector<float> x(70, 1.0F);
  std::vector<float> y(40);
  std::vector<float> dense(w.size());
  const auto context = lowbit::kernels::context::best();
  lowbit::ops::matmul({x.data(), 1, 70}, tensor, {y.data(), 1, 40}, context);
  lowbit::ops::dequantize(tensor, {dense.data(), 40, 70}, context);
  for (std::size_t n = 0; n < y.size(); ++n) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (std::size_t k = 0; k < 70; ++k) {
      sum += static_cast<double>(dense[n * 70 + k]);
      magnitude += std::fabs(static_cast<double>(dense[n * 70 + k]));
    }
    // A float sum of 70 terms, in any order: |error| <= 70 eps sum |w|.
    CHECK(std::fabs(static_cast<double>(y[n]) - sum) <= 70 * 0x1p-24 * magnitude);
  }
}

TEST_CASE("nothing outside of its folder and its list knows the new format") {
  int files = 0;
  for (const char* folder : {"include", "examples", "bench"}) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".hpp" && extension != ".cpp" && extension != ".txt") continue;
      ++files;
      INFO(entry.path());
      const std::string text = read_file(entry.path());
      for (const char* trace : {"folded_", "folded/", "\"folded\"", "toy::"}) {
        CHECK(text.find(trace) == std::string::npos);
      }
    }
  }
  CHECK(files > 30);  // the working directory is the checkout
}
