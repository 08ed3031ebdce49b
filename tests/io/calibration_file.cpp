// Calibration files: what is written is read; the same bytes every time; what is refused.
#include "lowbit/io/calibration_file.hpp"

#include "catch.hpp"
#include "files.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/io/checkpoint_reader.hpp"

namespace lowbit_test {
namespace {

using lowbit::index_t;
using lowbit::io::calibration_reader;
using lowbit::io::calibration_writer;
using lowbit::observers::second_moments;

/// Moments whose values are floats.
second_moments moments_of(index_t k, std::uint64_t seed) {
  second_moments m(k);
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      const auto v = static_cast<double>(lowbit::random_normal(seed, i * k + j));
      m.matrix()(i, j) = m.matrix()(j, i) = i == j ? std::fabs(v) : v;
    }
    m.mean.push_back(static_cast<double>(lowbit::random_normal(seed + 1, i)));
    m.mean_magnitude.push_back(std::fabs(m.mean.back()));
  }
  m.rows = 1000 + k;
  m.shrinkage = 0.1 * static_cast<double>(k);
  return m;
}

const std::vector<std::string> attention{"a.query", "a.key", "a.value"};

void write(const std::filesystem::path& path) {
  calibration_writer out(path);
  out.set_provenance("tool", "test");
  out.add(attention, moments_of(3, 1));
  const second_moments distorted = moments_of(2, 5);
  const std::vector<double> cross{1.0, 2.0, -3.0, 4.0};
  out.add(std::vector<std::string>{"b"}, distorted, {cross.data(), 2, 2});
  out.set_sensitivity("a.key", 0.1);
  out.finish();
}

byte_vector file_bytes() {
  const temporary_folder folder;
  write(folder / "c");
  return read_file(folder / "c");
}

TEST_CASE("calibration files give back what was written, the same bytes each time") {
  const byte_vector bytes = file_bytes();
  CHECK(bytes == file_bytes());
  const auto file = calibration_reader::parse(bytes, "c");
  CHECK(calibration_reader::recognizes(file.file()));
  CHECK(file.layers() == std::vector<std::string>{"a.key", "a.query", "a.value", "b"});
  CHECK(file.provenance().at("tool") == "test");
  const second_moments expected = moments_of(3, 1);
  for (const std::string& layer : attention) {
    INFO(layer);
    const auto found = file.find(layer);
    REQUIRE(found);
    const second_moments& m = found->moments;
    REQUIRE(m.channels() == 3);
    CHECK(std::equal(m.matrix().data(), m.matrix().data() + 9, expected.matrix().data()));
    CHECK(m.mean == expected.mean);
    CHECK(m.mean_magnitude == expected.mean_magnitude);
    CHECK(m.rows == 1003);
    CHECK(m.shrinkage == expected.shrinkage);
    CHECK(found->cross_moments().empty());
  }
  const auto distorted = file.find("b");
  REQUIRE(distorted);
  CHECK(distorted->cross_moments()(1, 0) == -3.0);
  CHECK(file.sensitivity("a.key") == 0.1);
  CHECK(!file.sensitivity("a.query"));
  CHECK(!file.find("c"));
  CHECK(!file.contains("c"));

  // Tools for checkpoints list it as plain tensors.
  const auto checkpoint = lowbit::io::checkpoint_reader::parse(bytes, "c");
  CHECK(!checkpoint.is_quantized_checkpoint());
  CHECK(checkpoint.find("a.query.second_moments")->shape == std::vector<index_t>{3, 3});
}

TEST_CASE("the writer of calibration files refuses what a reader would") {
  const temporary_folder folder;
  const auto refusal = [&](auto&& f) {
    calibration_writer out(folder / "c");
    out.add(attention, moments_of(3, 1));
    const std::string message = message_of<lowbit::error>([&] { f(out); });
    CHECK_THROWS_AS(out.finish(), lowbit::value_error);  // half of something may be there
    return message;
  };
  const std::vector<std::string> other{"b"};
  CHECK(refusal([&](auto& out) {
          out.add(std::vector<std::string>{"b", "a.key"}, moments_of(3, 1));
        }).ends_with("layer 'a.key' is there already"));
  CHECK(refusal([](auto& out) { out.add({}, moments_of(3, 1)); }).find("no layer") !=
        std::string::npos);
  auto m = moments_of(3, 1);
  m.rows = 0;
  CHECK(refusal([&](auto& out) { out.add(other, m); }).find("no rows") != std::string::npos);
  for (const double bad : {1e39, std::numeric_limits<double>::quiet_NaN()}) {
    m = moments_of(3, 1);
    m.matrix()(1, 2) = bad;
    CHECK(refusal([&](auto& out) {
            out.add(other, m);
          }).starts_with("layer 'b': second_moments number 5 is "));
  }
  m = moments_of(3, 1);
  m.shrinkage = std::numeric_limits<double>::quiet_NaN();
  CHECK(refusal([&](auto& out) { out.add(other, m); }).find("shrinkage") != std::string::npos);
  m = moments_of(3, 1);
  m.mean.pop_back();
  CHECK(refusal([&](auto& out) { out.add(other, m); }).find("means of 2 and 3") !=
        std::string::npos);
  const std::vector<double> cross(4);
  CHECK(refusal([&](auto& out) {
          out.add(other, moments_of(3, 1), {cross.data(), 2, 2});
        }).find("cross moments are [2, 2]") != std::string::npos);
  CHECK(refusal([](auto& out) {
          out.set_sensitivity("b", std::numeric_limits<double>::infinity());
        }).find("sensitivity is inf") != std::string::npos);
  CHECK(folder.files() == 0);
}

TEST_CASE("malformed calibration files are refused by name") {
  const parts good = disassemble(file_bytes());
  const auto refusal = [&](std::string_view from, std::string_view to) {
    const byte_vector bytes = assemble({replaced(good.header, from, to), good.data});
    const std::string message = message_of<lowbit::error>([&] {
      const auto file = calibration_reader::parse(bytes, "some.file");
      for (const std::string& layer : file.layers()) static_cast<void>(file.find(layer));
      static_cast<void>(file.sensitivity("a.key"));
    });
    INFO(message);
    CHECK(message.starts_with("some.file: "));
    return message;
  };
  struct change {
    std::string_view from, to, says;
  };
  for (const change& c : std::initializer_list<change>{
           {R"(calibration.version":"1)", R"(calibration.version":"2)", "is '2', this library"},
           {R"(lowbit_calibration.version")", R"(other.version")", "not a calibration file"},
           {R"(calibration.provenance.)", R"(calibration.origin.)", "unknown metadata key"},
           {R"(\"rows\":1003)", R"(\"rows\":0)", "rows = 0"},
           {R"(\"rows\":1003)", R"(\"rows\":1e3)", "rows must be an integer"},
           {R"(\"rows\":1003,)", "", "'rows' is missing"},
           {R"(\"rows\":1003)", R"(\"rows\":3,\"x\":1)", "unknown field 'x'"},
           {R"(\"shrinkage\":0.2)", R"(\"shrinkage\":1.5)", "outside 0..1"},
           {R"(\"distorted\":1)", R"(\"distorted\":2)", "distorted = 2"},
           {R"(\"distorted\":1)", R"(\"distorted\":0)", "nothing that a calibration file has"},
           {R"(\"distorted\":0)", R"(\"distorted\":1)", "no entry 'a.query.cross_moments'"},
           {R"(\"a.key\",\"a.value\")", R"(\"a.key\",\"b\")", "layer 'b' is there twice"},
           {R"(\"a.key\",\"a.value\")", R"(\"a.key\",7)", "names only"},
           {R"("b.mean":{"dtype":"F32","shape":[2])", R"("b.mean":{"dtype":"F32","shape":[1,2])",
            "is [1, 2], not [2]"},
           {R"("b.mean":{"dtype":"F32")", R"("b.mean":{"dtype":"I32")", "is I32, not F32"},
           {R"("b.mean":{)", R"("b.meen":{)", "no such entry"},
           {R"("b.second_moments":{"dtype":"F32","shape":[2,2])",
            R"("b.second_moments":{"dtype":"F32","shape":[1,4])", "not [1, 1]"},
           {R"("a.key.sensitivity":{"dtype":"F64")", R"("a.key.sensitivity":{"dtype":"I64")",
            "nothing that a calibration file has"},
           {R"(lowbit_calibration.checksum.b.mean")", R"(other.b.mean")", "checksum is missing"},
       }) {
    INFO(c.from << " -> " << c.to);
    CHECK(refusal(c.from, c.to).find(c.says) != std::string::npos);
  }
}

TEST_CASE("damaged or impossible data of a calibration file is refused") {
  const parts good = disassemble(file_bytes());
  // With its checksum made to fit or not.
  const auto refusal = [&](index_t number, float value, bool fits) {
    parts bad = good;
    std::memcpy(bad.data.data() + number * sizeof(float), &value, sizeof value);
    if (fits) {
      const auto sum = [](const byte_vector& data) {
        return lowbit::io::checksum_text(
            lowbit::io::checksum(std::span(data).first(9 * sizeof(float))));
      };
      bad.header = replaced(bad.header, sum(good.data), sum(bad.data));
    }
    const byte_vector bytes = assemble(bad);
    const auto file = calibration_reader::parse(bytes, "f");
    CHECK(file.find("b"));  // the other inputs are read
    return message_of<lowbit::format_error>([&] { static_cast<void>(file.find("a.value")); });
  };
  CHECK(refusal(1, 7.0F, false).starts_with("f: 'a.query.second_moments': the data is damaged"));
  CHECK(refusal(1, 7.0F, true).ends_with("not symmetric at (1, 0)"));
  CHECK(refusal(4, -1.0F, true).ends_with("the square of channel 1 is -1"));
  CHECK(refusal(1, std::numeric_limits<float>::quiet_NaN(), true).ends_with("number 1 is nan"));
}

}  // namespace
}  // namespace lowbit_test
