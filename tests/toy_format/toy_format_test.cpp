// A whole new format by its folder and one line in a list: it gets conformance tests, products,
// checkpoints, and its options and rows in quantize_model, with nothing else touched.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "../../examples/quantize_model/app.hpp"
#include "catch.hpp"
#include "formats.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/io/calibration_file.hpp"
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

/// Runs quantize_model over the toy's list of formats and returns what it printed: on stdout, or on
/// stderr if it is to fail.
std::string run_program(const scratch_folder& folder, std::vector<const char*> arguments,
                        int expected_code = 0) {
  arguments.insert(arguments.begin(), "quantize_model");
  std::FILE* const stream = expected_code == 0 ? stdout : stderr;
  const fs::path captured = folder.path / "printed.txt";
  std::fflush(stream);
  const int saved = ::dup(::fileno(stream));
  REQUIRE(std::freopen(captured.c_str(), "w", stream) != nullptr);
  const int code = quantize_model::run_app(quantize_model::list_formats<toy::formats>(),
                                           static_cast<int>(arguments.size()), arguments.data());
  std::fflush(stream);
  ::dup2(saved, ::fileno(stream));
  ::close(saved);
  INFO(read_file(captured));
  REQUIRE(code == expected_code);
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

/// A model file with two equal matrices, and a calibration file in which an error of the second
/// costs a thousand times as much.
std::pair<std::string, std::string> write_sensitive_model(const scratch_folder& folder) {
  constexpr lowbit::index_t rows = 8;
  constexpr lowbit::index_t cols = 500;
  std::vector<float> weights(rows * cols);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = lowbit::random_normal(7, i);
  const lowbit::index_t shape[] = {rows, cols};
  lowbit::io::safetensors_writer model(folder.path / "two.safetensors");
  for (const char* name : {"a.weight", "b.weight"}) {
    model.add(name, lowbit::element_type::f32, shape, std::as_bytes(std::span(weights)));
  }
  model.finish();

  std::vector<float> inputs(200 * cols);
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i] = lowbit::random_normal(8, i);
  lowbit::observers::moment_accumulator moments(cols);
  moments.add({inputs.data(), 200, cols}, lowbit::kernels::context::best());
  lowbit::io::calibration_writer calibration(folder.path / "calibration.safetensors");
  const std::string layers[] = {"a", "b"};
  calibration.add(layers, moments.finish());
  calibration.set_sensitivity("a", 1.0);
  calibration.set_sensitivity("b", 1000.0);
  calibration.finish();
  return {(folder.path / "two.safetensors").string(),
          (folder.path / "calibration.safetensors").string()};
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

TEST_CASE("tensors that --set names are quantized otherwise, by a new format as well") {
  const scratch_folder folder;
  const std::string model = write_sensitive_model(folder).first;
  const std::string out = (folder.path / "out.safetensors").string();
  const auto quantize = [&](std::vector<const char*> sets, int code) {
    std::vector<const char*> arguments{"quantize", model.c_str(), "-o",    out.c_str(),
                                       "--format", "folded",      "--run", "10"};
    for (const char* set : sets) arguments.insert(arguments.end(), {"--set", set});
    return run_program(folder, arguments, code);
  };
  // Later ones win; run means nothing to the other format.
  const std::string table = quantize({"^[ab]:run=5", "b:format=uniform,bits=3,rotate=input"}, 0);
  INFO(table);
  CHECK(table.find(" run=5\n") != std::string::npos);
  CHECK(table.find(" bits=3,format=uniform,rotate=input\n") != std::string::npos);
  const auto reader = lowbit::io::checkpoint_reader::open(out);
  CHECK(reader.load<toy::folded_tensor>("a.weight").params().run == 5);
  CHECK(reader.find("b.weight")->format == "rotated.uniform");

  const auto refused = [&](const char* set, const char* why) {
    INFO(set);
    fs::remove(out);
    const std::string message = quantize({set}, 1);
    INFO(message);
    CHECK(message.find(set) != std::string::npos);
    CHECK(message.find(why) != std::string::npos);
    CHECK_FALSE(fs::exists(out));
  };
  refused("c:run=5", "matches no tensor");
  refused("a:bits=4", "format 'folded' has no parameter 'bits'");
  refused("a:run=0", "run = 0 is outside");
  refused("a:format=none", "unknown format 'none'");
  refused("(a:run=5", "no regular expression");
  refused("a", "is not REGEX:name=value");
}

TEST_CASE("a budget is spent where errors cost most, on what --set does not name") {
  const scratch_folder folder;
  const auto files = write_sensitive_model(folder);
  const std::string& model = files.first;
  const std::string& calibration = files.second;
  const std::string out = (folder.path / "out.safetensors").string();
  const auto quantize = [&](const char* format, std::vector<const char*> more, int code = 0) {
    std::vector<const char*> arguments{"quantize",    model.c_str(),      "-o",
                                       out.c_str(),   "--format",         format,
                                       "--calibrate", calibration.c_str()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(folder, arguments, code);
  };
  // 14.4 and 8.64 bits per weight: 11.52 in the mean if each is used once.
  const std::vector<const char*> candidates{"--candidate", "run=50", "--candidate", "run=5"};
  const auto run_of = [&](const char* name) {
    const auto reader = lowbit::io::checkpoint_reader::open(out);
    return reader.load<toy::folded_tensor>(name).params().run;
  };
  const auto with = [&](std::vector<const char*> more) {
    more.insert(more.end(), candidates.begin(), candidates.end());
    return more;
  };
  const std::string table = quantize("folded", with({"--budget", "11.6", "--jobs", "2"}));
  INFO(table);
  CHECK(run_of("a.weight") == 50);
  CHECK(run_of("b.weight") == 5);
  CHECK(table.find("total of 2      11.5200") != std::string::npos);
  CHECK(table.find("nats of KL") != std::string::npos);

  quantize("folded", with({"--budget", "14.4", "--set", "b:run=25"}));
  CHECK(run_of("a.weight") == 5);
  CHECK(run_of("b.weight") == 25);

  CHECK(quantize("folded", with({"--budget", "8"}), 1).find("budget") != std::string::npos);
  CHECK(quantize("folded", {"--budget", "11"}, 1).find("--candidate") != std::string::npos);

  // A format that says what sets its size needs no candidates: 3 bits are the largest that both can
  // have (3.3 with scales and padding), and the rest lifts one of them.
  quantize("uniform", {"--budget", "4", "--feedback", "gptq", "--order", "natural"});
  const auto reader = lowbit::io::checkpoint_reader::open(out);
  CHECK(reader.find("a.weight")->bits + reader.find("b.weight")->bits <= 32000);  // 4 * 8000
  CHECK(reader.find("a.weight")->bits < reader.find("b.weight")->bits);
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
