// The programs, from model to model: calibrate, quantize with that, calibrate on what came of it.
#include <sys/wait.h>

#include <cstdlib>

#include "catch.hpp"
#include "lowbit/io/calibration_file.hpp"
#include "lowbit/io/checkpoint_reader.hpp"
#include "tiny_model.hpp"
#include "wav.hpp"

namespace {

using lowbit_test::read_file;
using lowbit_test::temporary_folder;
using whisper_test::tiny_model;

/// Runs a command in a folder; its output goes to `log` there. Returns the exit status.
int run(const temporary_folder& folder, const std::string& command) {
  const int status =
      std::system(("cd '" + folder.path().string() + "' && " + command + " >log 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
std::string log_of(const temporary_folder& folder) {
  const auto bytes = read_file(folder / "log");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

const std::string whisper = "'" LOWBIT_WHISPER_PROGRAM "' ";
const std::string quantize_model = "'" LOWBIT_QUANTIZE_PROGRAM "' ";

TEST_CASE("calibrate, quantize, and again on inputs that quantized layers distort") {
  const temporary_folder folder;
  whisper_test::write_file(folder / "tiny.bin", tiny_model{}.bytes());
  std::string text;
  for (int i = 0; i < 200; ++i) text += i % 7 == 0 ? " abc" : i % 3 == 0 ? " ab" : "da";
  whisper_test::write_file(folder / "text.txt", text);
  std::vector<float> samples(8000);
  for (lowbit::index_t i = 0; i < samples.size(); ++i) {
    samples[i] = 0.1F * lowbit::random_normal(3, i);
  }
  std::filesystem::create_directory(folder / "sounds");
  whisper_test::write_file(folder / "sounds/a.wav", whisper_test::wav(16000, 1, samples));

  const std::string calibrate =
      whisper + "calibrate tiny.bin --text text.txt --text-tokens 100 --audio sounds --window 1 ";
  const std::string quantize = quantize_model +
                               "quantize tiny.bin --include 'blocks.*weight$' --bits 3 "
                               "--group-size 16 --feedback gptq ";
  const auto check = [&](const std::string& command) {
    INFO(command);
    const int status = run(folder, command);
    INFO(log_of(folder));
    REQUIRE(status == 0);
  };
  check(calibrate + "-o c1");
  check(quantize + "--calibrate c1 -o q1");
  check(calibrate + "-o c2 --distorted-by q1 --sensitivity --audio-share 0.5");
  check(quantize + "--calibrate c2 -o q2");

  const auto c1 = lowbit::io::calibration_reader::open(folder / "c1");
  const auto c2 = lowbit::io::calibration_reader::open(folder / "c2");
  CHECK(c1.layers().size() == 29);  // 2 convolutions, 6 + 2 * 10 layers in blocks, the embedding
  CHECK(c2.layers() == c1.layers());
  for (const std::string& layer : c1.layers()) {
    INFO(layer);
    CHECK(c1.find(layer)->cross_moments().empty());
    CHECK(!c1.sensitivity(layer));
    CHECK(!c2.find(layer)->cross_moments().empty());
    // Of those that were quantized.
    CHECK(c2.sensitivity(layer).has_value() == (layer.find("blocks") != std::string::npos));
  }
  CHECK(lowbit::io::checkpoint_reader::open(folder / "q2")
            .find("decoder.blocks.1.mlp.2.weight")
            ->is_quantized());
  CHECK(read_file(folder / "q1") != read_file(folder / "q2"));

  // The same again gives the same bytes.
  check(calibrate + "-o c3");
  CHECK(read_file(folder / "c1") == read_file(folder / "c3"));
}

TEST_CASE("what cannot be calibrated is refused in one line") {
  const temporary_folder folder;
  whisper_test::write_file(folder / "tiny.bin", tiny_model{}.bytes());
  whisper_test::write_file(folder / "text.txt", "ab abc");
  const auto refusal = [&](const std::string& arguments) {
    CHECK(run(folder, whisper + "calibrate tiny.bin -o c " + arguments) != 0);
    CHECK(!std::filesystem::exists(folder / "c"));
    return log_of(folder);
  };
  CHECK(refusal("") == "whisper: error: there is no text and no sound to calibrate with\n");
  CHECK(refusal("--text text.txt --layers xyz") ==
        "whisper: error: no layer's name matches --layers 'xyz'\n");
  CHECK(
      refusal("--text text.txt --sensitivity").starts_with("whisper: error: --sensitivity needs "));
  CHECK(refusal("--text nothing.txt").starts_with("whisper: error: cannot open"));
  CHECK(refusal("--audio nothing") == "whisper: error: 'nothing' does not exist\n");
}

TEST_CASE("a saved state of other options is refused") {
  const temporary_folder folder;
  whisper_test::write_file(folder / "tiny.bin", tiny_model{}.bytes());
  whisper_test::write_file(folder / "text.txt", "ab abc");
  lowbit::io::safetensors_writer out(folder / "c.partial");
  out.set_metadata("tool", "something else");
  out.finish();
  CHECK(run(folder, whisper + "calibrate tiny.bin -o c --text text.txt") == 1);
  CHECK(log_of(folder).find("is of a run with other options (tool: 'something else', now '") !=
        std::string::npos);
  CHECK(std::filesystem::exists(folder / "c.partial"));
}

}  // namespace
