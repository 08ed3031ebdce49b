// The relative MSE of real weights equals an independent numpy computation:
// tests/reference/uniform_numpy.py, which shares no code with lowbit.
//
// Both quantize in the same correctly rounded float operations, so that codes are equal. What may
// differ is the order in which squares are summed, and how an error is rounded: here to float,
// there to double, that is, by 2^-24 of each error, by 2^-23 = 1.2e-7 of its square.
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "catch.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/io/safetensors_reader.hpp"
#include "lowbit/ops/evaluate.hpp"

namespace {

using namespace lowbit;

constexpr const char* extract = "examples/data/whisper_base_en_extract.safetensors";
constexpr const char* golden = "tests/reference/uniform_extract.json";

/// The value of an enumeration by its name in params.
template <class E>
E value_of(const std::string& name) {
  for (std::size_t i = 0; i < std::size(enum_names<E>); ++i) {
    if (enum_names<E>[i] == name) return static_cast<E>(i);
  }
  throw std::runtime_error("no value is called " + name);
}

}  // namespace

TEST_CASE("relative MSE of the Whisper extract equals numpy's") {
  std::ifstream file(golden);
  REQUIRE(file.good());  // the working directory is the checkout
  const auto entries = nlohmann::json::parse(file);
  const auto reader = io::safetensors_reader::open(extract);

  std::map<std::string, aligned_buffer<float>> weights;
  std::set<unsigned> bits_seen;
  std::set<std::string> modes_seen;
  for (const auto& entry : entries) {
    const auto name = entry.at("tensor").get<std::string>();
    const io::stored_tensor* const stored = reader.find(name);
    REQUIRE(stored != nullptr);
    const shape2 shape = io::matrix_shape(*stored);
    auto& values = weights[name];
    if (values.empty()) {
      values = aligned_buffer<float>(shape.size());
      io::read_rows(*stored, {0, shape.rows}, {values.data(), shape.rows, shape.cols});
    }

    formats::uniform_quantizer q;
    q.params.bits = entry.at("bits").get<unsigned>();
    q.params.kind = value_of<symmetry>(entry.at("mode").get<std::string>());
    q.params.group_size = entry.at("group_size").get<std::uint32_t>();
    q.params.scale_type = value_of<scale_type>(entry.at("scale_type").get<std::string>());
    bits_seen.insert(q.params.bits);
    modes_seen.insert(entry.at("mode").get<std::string>());

    const matrix_view<const float> view(values.data(), shape.rows, shape.cols);
    const double actual = ops::weight_error(view, q.quantize(view)).relative_mse();
    const double expected = entry.at("relative_mse").get<double>();
    INFO(entry.dump() << ": " << actual);
    CHECK(std::fabs(actual - expected) <= 1e-6 * expected);
  }
  CHECK(weights.size() == 4);
  CHECK(entries.size() == 4U * 4 * 3 * 3 * 2);
  CHECK(bits_seen == std::set<unsigned>{2, 3, 4, 8});
  CHECK(modes_seen == std::set<std::string>{"asymmetric", "offset", "symmetric"});
}
