// Quantized checkpoints: what is written is read; the same bytes every time; the errors that only a
// caller can make (files that are wrong are in malformed_files.hpp).
#include "lowbit/io/checkpoint.hpp"

#include <algorithm>

#include "catch.hpp"
#include "files.hpp"
#include "toy_tensor.hpp"

namespace lowbit_test {
namespace {

using lowbit::element_type;
using lowbit::index_t;
using lowbit::io::checkpoint_entry;
using lowbit::io::checkpoint_reader;
using lowbit::io::checkpoint_writer;

/// Another format, under another name: the list must pick the right one.
struct other_format : toy_format {
  static constexpr std::string_view name = "other";
};
struct other_tensor {
  using format = other_format;
  [[nodiscard]] lowbit::shape2 shape() const { return shape_; }
  [[nodiscard]] const toy_params& params() const { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return 0; }
  void dequantize(lowbit::row_range, lowbit::matrix_view<float>) const {}
  void for_each_buffer(lowbit::buffer_visitor&) const {}
  static other_tensor from_buffers(lowbit::shape2, const toy_params&, lowbit::buffer_source&) {
    return {};  // forgets the shape
  }
  lowbit::shape2 shape_{2, 2};
  toy_params params_ = {};
};
struct other_quantizer : toy_quantizer {
  using tensor = other_tensor;
  [[nodiscard]] other_tensor quantize(lowbit::matrix_view<const float>,
                                      const lowbit::calibration& = {}) const {
    return {};
  }
};
using two_formats = lowbit::format_list<other_quantizer, toy_quantizer>;

const toy_params low{.bits = 2, .gain = 0.1, .rounding = toy_rounding::down};
const byte_vector plain_content(10, std::byte{3});

void write(const std::filesystem::path& path) {
  checkpoint_writer writer(path);
  writer.set_provenance("tool", "test");
  writer.add("z", make_toy({3, 7}, low));
  writer.add_plain("m.bias", element_type::f16, std::vector<index_t>{5}, plain_content);
  writer.add("a", make_toy({4, 1}));
  writer.add("empty", make_toy({0, 5}));
  writer.add("other", other_tensor{});
  writer.set_provenance("source", "nowhere");
  writer.finish();
}

struct written {
  written() : reader((write(folder / "f"), checkpoint_reader::open(folder / "f"))) {}
  temporary_folder folder;
  checkpoint_reader reader;
};

TEST_CASE("a checkpoint lists its tensors in the order of the file") {
  const written file;
  CHECK(file.reader.is_quantized_checkpoint());
  std::string names;
  for (const checkpoint_entry& entry : file.reader.entries()) names += entry.name + " ";
  CHECK(names == "z m.bias a empty other ");
  const checkpoint_entry& z = *file.reader.find("z");
  CHECK(z.format == "toy");
  CHECK(z.version == 2);
  CHECK(z.shape == std::vector<index_t>{3, 7});
  CHECK(z.params_json == R"({"bits":2,"gain":0.1,"rounding":"down"})");
  REQUIRE(z.buffers.size() == 2);
  CHECK(z.buffers[0]->name == "z.codes");
  CHECK(z.buffers[1]->name == "z.scales");
  CHECK(z.bits == make_toy({3, 7}).storage_bits());
  const checkpoint_entry& bias = *file.reader.find("m.bias");
  CHECK_FALSE(bias.is_quantized());
  CHECK(bias.shape == std::vector<index_t>{5});
  CHECK(bias.bits == 80);
  CHECK(file.reader.find("z.codes") == nullptr);  // a buffer is no tensor
  CHECK(file.reader.provenance() ==
        lowbit::io::metadata_map{{"source", "nowhere"}, {"tool", "test"}});
}

TEST_CASE("a tensor comes back as it was") {
  written file;
  const checkpoint_reader reader = std::move(file.reader);  // pointers inside survive a move
  CHECK(reader.load<toy_tensor>("z") == make_toy({3, 7}, low));
  CHECK(reader.load<toy_tensor>("a") == make_toy({4, 1}));
  CHECK(reader.load<toy_tensor>("empty") == make_toy({0, 5}));
  CHECK(std::ranges::equal(reader.plain("m.bias").bytes, plain_content));
  reader.verify();
  reader.release_pages(*reader.find("z"));
  CHECK(reader.load<toy_tensor>("z") == make_toy({3, 7}, low));
}

TEST_CASE("a list of formats finds the type by the name in the file") {
  const written file;
  int calls = 0;
  file.reader.visit<two_formats>("z", [&]<class T>(const T& tensor) {
    if constexpr (std::is_same_v<T, toy_tensor>) calls += tensor == make_toy({3, 7}, low) ? 1 : 0;
  });
  file.reader.visit<two_formats>(
      "other", [&]<class T>(const T&) { calls += std::is_same_v<T, other_tensor> ? 1 : 0; });
  CHECK(calls == 2);
}

TEST_CASE("the same calls give the same bytes") {
  const temporary_folder folder;
  write(folder / "f");
  write(folder / "g");
  CHECK(read_file(folder / "f") == read_file(folder / "g"));
}

TEST_CASE("another program may reorder the entries and rewrite the header") {
  const temporary_folder folder;
  write(folder / "f");
  const auto source = lowbit::io::safetensors_reader::open(folder / "f");
  lowbit::io::safetensors_writer copy(folder / "g");
  for (const auto& [key, value] : source.metadata()) copy.set_metadata(key, value);
  for (auto t = source.tensors().rbegin(); t != source.tensors().rend(); ++t) {
    copy.add(t->name, t->type, t->shape, t->bytes);
  }
  copy.finish();
  const checkpoint_reader reader = checkpoint_reader::open(folder / "g");
  reader.verify();
  CHECK(reader.load<toy_tensor>("z") == make_toy({3, 7}, low));
}

TEST_CASE("a plain safetensors file opens with every tensor plain") {
  const temporary_folder folder;
  lowbit::io::safetensors_writer writer(folder / "f");
  writer.add("w", element_type::u8, std::vector<index_t>{10}, plain_content);
  writer.set_metadata("format", "pt");
  writer.finish();
  const checkpoint_reader reader = checkpoint_reader::open(folder / "f");
  CHECK_FALSE(reader.is_quantized_checkpoint());
  REQUIRE(reader.entries().size() == 1);
  CHECK(std::ranges::equal(reader.plain("w").bytes, plain_content));
  CHECK(message_of<lowbit::format_error>([&] {
          reader.verify();
        }).find("it is not a quantized checkpoint") != std::string::npos);
}

TEST_CASE("a caller who asks for the wrong thing is told so") {
  const written file;
  const auto ends = [](const std::string& message, std::string_view end) {
    INFO(message);
    CHECK(message.ends_with(end));
  };
  const auto load_toy = [&](const char* name) {
    return message_of<lowbit::format_error>([&] { return file.reader.load<toy_tensor>(name); });
  };
  ends(load_toy("gone"), "tensor 'gone' is not in the file");
  ends(load_toy("m.bias"), "tensor 'm.bias' is stored plain, not quantized");
  ends(load_toy("other"), "tensor 'other': the format is 'other', not 'toy'");
  ends(message_of([&] { return &file.reader.plain("z"); }),
       "tensor 'z' is quantized in format 'toy', not plain");
  ends(message_of([&] { file.reader.visit<toy_list>("other", [](const auto&) {}); }),
       "tensor 'other' has the unknown format 'other'; known are 'toy'");
}

TEST_CASE("a format that makes another shape than the record says is caught") {
  const temporary_folder folder;
  checkpoint_writer writer(folder / "f");
  writer.add("w", other_tensor{{3, 3}});
  writer.finish();
  const checkpoint_reader reader = checkpoint_reader::open(folder / "f");
  CHECK(message_of<lowbit::format_error>([&] {
          return reader.load<other_tensor>("w");
        }).find("the record says [3, 3], but the format made [2, 2]") != std::string::npos);
}

TEST_CASE("the writer refuses names that are taken, whoever took them") {
  const temporary_folder folder;
  const std::vector<index_t> shape{10};
  const auto refused = [&](auto first, auto second) {
    checkpoint_writer writer(folder / "f");
    first(writer);
    const std::string message = message_of<lowbit::format_error>([&] { second(writer); });
    INFO(message);
    CHECK(message.find("is there already") != std::string::npos);
    CHECK_THROWS_AS(writer.finish(), lowbit::value_error);
  };
  const auto plain = [&](std::string name) {
    return [&, name](auto& w) { w.add_plain(name, element_type::u8, shape, plain_content); };
  };
  const auto toy = [&](std::string name) {
    return [name](auto& w) { w.add(name, make_toy({1, 1})); };
  };
  refused(toy("w"), toy("w"));
  refused(toy("w"), plain("w"));
  refused(plain("w"), toy("w"));
  refused(toy("w"), plain("w.codes"));
  refused(plain("w.scales"), toy("w"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a tensor with params out of range is not written") {
  const temporary_folder folder;
  checkpoint_writer writer(folder / "f");
  CHECK_THROWS_AS(writer.add("w", make_toy({1, 1}, {.bits = 9})), lowbit::value_error);
  CHECK_THROWS_AS(writer.add("v", make_toy({1, 1})), lowbit::value_error);  // after an error
  CHECK_THROWS_AS(writer.set_provenance("k", "v"), lowbit::value_error);
}

TEST_CASE("the writer refuses records that the reader would") {
  const temporary_folder folder;
  const auto refusal = [&](lowbit::shape2 shape) {
    checkpoint_writer writer(folder / "f");
    return message_of<lowbit::shape_error>([&] { writer.add("w", other_tensor{shape}); });
  };
  const std::string where = "'" + (folder / "f").string() + "': tensor 'w': ";
  const index_t large = index_t{1} << 40U;
  CHECK(refusal({large, large}) ==
        where + "shape: 8796093022208 * 1099511627776 overflows 64 bits");
  CHECK(refusal({large, 0}).starts_with(where + "shape: [1099511627776, 0] holds no values"));
}

TEST_CASE("a quantized tensor goes through a file and means the same") {
  const temporary_folder folder;
  const std::vector<float> weights{0.5F, -1.0F, 0.25F, 3.0F, -2.0F, 0.125F};
  const toy_tensor tensor = toy_quantizer{}.quantize({weights.data(), 2, 3});
  checkpoint_writer writer(folder / "f");
  writer.add("w", tensor);
  writer.finish();
  std::vector<float> before(6);
  std::vector<float> after(6);
  tensor.dequantize({0, 2}, {before.data(), 2, 3});
  checkpoint_reader::open(folder / "f").visit<toy_list>("w", [&](const auto& loaded) {
    loaded.dequantize({0, 2}, {after.data(), 2, 3});
  });
  CHECK(before == after);
}

}  // namespace
}  // namespace lowbit_test
