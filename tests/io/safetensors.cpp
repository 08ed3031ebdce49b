// Plain files: what is written is read, byte for byte, and is the same every time.
#include "lowbit/io/safetensors.hpp"

#include <algorithm>

#include "catch.hpp"
#include "files.hpp"

namespace lowbit_test {
namespace {

using lowbit::element_type;
using lowbit::index_t;
using lowbit::io::safetensors_reader;
using lowbit::io::safetensors_writer;
using lowbit::io::stored_tensor;

struct source_tensor {
  std::string name;
  element_type type;
  std::vector<index_t> shape;
  byte_vector content;
};

/// One tensor of every type, so that all but the first lie unaligned; and the odd shapes.
std::vector<source_tensor> sources() {
  std::vector<source_tensor> out;
  const auto add = [&](std::string name, element_type type, std::vector<index_t> shape) {
    index_t size = element_size(type);
    for (const index_t extent : shape) size *= extent;
    byte_vector content(size);
    for (index_t i = 0; i < size; ++i) {
      content[i] = static_cast<std::byte>(31 * i + 7 * out.size());
    }
    out.push_back({std::move(name), type, std::move(shape), std::move(content)});
  };
  add("z.last name first", element_type::u8, {1});
  for (const auto& known : lowbit::io::detail::type_names) {
    add("all." + std::string(known.name), known.type, {3, 5});
  }
  add("scalar", element_type::f64, {});
  add("empty.rows", element_type::f32, {0, 4});
  add("empty.cols", element_type::i64, {4, 0});
  add("empty.large", element_type::u8, {index_t{1} << 24U, 0});
  add("rank 8", element_type::i8, {1, 2, 1, 3, 1, 1, 2, 1});
  add("quotes \" \\ / \xe2\x82\xac", element_type::bf16, {2});
  add("large", element_type::f32, {700, 500});  // more than one chunk of the copy
  return out;
}

void write(const std::filesystem::path& path) {
  safetensors_writer writer(path);
  writer.set_metadata("note", "to be replaced");
  for (const source_tensor& s : sources()) writer.add(s.name, s.type, s.shape, s.content);
  writer.set_metadata("note", "line\nand \"quotes\"");
  writer.set_metadata("", "");
  writer.finish();
}

TEST_CASE("what was written is read") {
  const temporary_folder folder;
  write(folder / "f");
  const safetensors_reader reader = safetensors_reader::open(folder / "f");
  REQUIRE(reader.tensors().size() == sources().size());
  for (const source_tensor& s : sources()) {
    INFO(s.name);
    const stored_tensor* const found = reader.find(s.name);
    REQUIRE(found != nullptr);
    CHECK(found->name == s.name);
    CHECK(found->type == s.type);
    CHECK(found->shape == s.shape);
    CHECK(std::ranges::equal(found->bytes, s.content));
    reader.release_pages(*found);
    CHECK(std::ranges::equal(found->bytes, s.content));
  }
  CHECK(reader.find("not there") == nullptr);
  CHECK(reader.find("") == nullptr);
  CHECK(reader.metadata() == lowbit::io::metadata_map{{"", ""}, {"note", "line\nand \"quotes\""}});
  CHECK(reader.label() == (folder / "f").string());
  CHECK(folder.files() == 1);
}

TEST_CASE("tensors come in the order of the file, which is that of the calls") {
  const temporary_folder folder;
  write(folder / "f");
  const safetensors_reader reader = safetensors_reader::open(folder / "f");
  const std::byte* end = nullptr;
  for (const stored_tensor& tensor : reader.tensors()) {
    if (end != nullptr) CHECK(tensor.bytes.data() == end);
    end = tensor.bytes.data() + tensor.bytes.size();
  }
  CHECK(reader.tensors().front().name == "z.last name first");
  CHECK(reader.tensors().back().name == "large");
}

TEST_CASE("the same calls give the same bytes, in the documented order") {
  const temporary_folder folder;
  write(folder / "f");
  write(folder / "g");
  const byte_vector content = read_file(folder / "f");
  CHECK(content == read_file(folder / "g"));
  const parts file = disassemble(content);
  CHECK((8 + file.header.size()) % 64 == 0);
  CHECK(file.header.starts_with(
      R"({"__metadata__":{"":"","note":"line\nand \"quotes\""},"all.BF16":{"dtype":"BF16",)"
      R"("shape":[3,5],"data_offsets":[)"));
  std::vector<std::string> names;
  for (const source_tensor& s : sources()) names.push_back(s.name);
  std::sort(names.begin(), names.end());
  std::size_t at = 0;
  for (const std::string& name : names) {
    at = file.header.find(lowbit::io::detail::json_string(name) + ":{", at);
    INFO(name);
    CHECK(at != std::string::npos);
  }
}

TEST_CASE("a file without tensors or metadata") {
  const temporary_folder folder;
  safetensors_writer(folder / "f").finish();
  const safetensors_reader reader = safetensors_reader::open(folder / "f");
  CHECK(reader.tensors().empty());
  CHECK(reader.metadata().empty());
  CHECK(read_file(folder / "f").size() == 64);
}

TEST_CASE("a file is read from memory at any alignment, and the reader moves") {
  const temporary_folder folder;
  write(folder / "f");
  const byte_vector content = read_file(folder / "f");
  for (std::size_t offset = 0; offset < 9; ++offset) {
    byte_vector shifted(offset);
    shifted.insert(shifted.end(), content.begin(), content.end());
    safetensors_reader first = safetensors_reader::parse(std::span(shifted).subspan(offset), "m");
    const stored_tensor* const found = first.find("all.F32");
    const safetensors_reader second = std::move(first);
    CHECK(second.find("all.F32") == found);
    std::vector<float> values(15);
    read_rows(*found, {0, 3}, {values.data(), 3, 5});
    CHECK(std::memcmp(values.data(), found->bytes.data(), found->bytes.size()) == 0);
    second.release_pages(*found);  // the caller's bytes: nothing happens
    CHECK(std::ranges::equal(std::span(shifted).subspan(offset), content));
  }
}

TEST_CASE("headers that others write are read") {
  // In any order, with blanks, with escapes, with blanks at the end, and without metadata.
  const parts file{
      "{ \"b\" : {\"data_offsets\":[2,4],\n\t\"shape\":[],\"dtype\":\"I16\"},\r\n"
      R"("\u00e9":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}     )",
      byte_vector(4)};
  const byte_vector content = assemble(file);
  const safetensors_reader reader = safetensors_reader::parse(content, "other");
  REQUIRE(reader.tensors().size() == 2);
  CHECK(reader.tensors()[0].name == "\xc3\xa9");
  CHECK(reader.tensors()[1].name == "b");
  CHECK(reader.metadata().empty());
}

TEST_CASE("empty tensors may lie at every border") {
  const parts file{R"({"e3":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},)"
                   R"("x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                   R"("e1":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                   R"("y":{"dtype":"U8","shape":[2],"data_offsets":[2,4]},)"
                   R"("e2":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
                   R"("e0":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                   byte_vector(4)};
  const byte_vector content = assemble(file);
  const safetensors_reader reader = safetensors_reader::parse(content, "borders");
  std::string order;
  for (const stored_tensor& tensor : reader.tensors()) order += tensor.name + " ";
  CHECK(order == "e0 e1 x e2 y e3 ");
}

TEST_CASE("the writer refuses what the reader would") {
  const temporary_folder folder;
  const byte_vector content(6);
  const auto refusal = [&](std::string_view name, std::vector<index_t> shape) {
    safetensors_writer writer(folder / "f");
    writer.add("taken", element_type::u8, std::vector<index_t>{6}, content);
    const std::string message =
        message_of<lowbit::error>([&] { writer.add(name, element_type::u8, shape, content); });
    CHECK_THROWS_AS(writer.finish(), lowbit::value_error);
    return message;
  };
  const auto contains = [](const std::string& text, std::string_view part) {
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
  };
  contains(refusal("taken", {6}), "tensor 'taken' is there already");
  contains(refusal("", {6}), "empty name");
  contains(refusal("a\n", {6}), "control character");
  contains(refusal("\xff", {6}), "not UTF-8");
  contains(refusal(std::string(4097, 'n'), {6}), "4097 bytes");
  contains(refusal("__metadata__", {6}), "reserved");
  contains(refusal("a", {5}), "6 bytes given, but U8 x [5] takes 5");
  contains(refusal("a", {1, 1, 1, 1, 1, 1, 1, 1, 6}), "9 dimensions, more than 8");
  contains(refusal("a", {0, (index_t{1} << 24U) + 1}), "holds no values");
  contains(refusal("a", {index_t{1} << 63U, 2}), "overflows 64 bits");
  safetensors_writer writer(folder / "f");
  CHECK_THROWS_AS(writer.set_metadata("\xff", "v"), lowbit::format_error);
  CHECK(folder.files() == 0);
}

TEST_CASE("a writer that is not finished leaves nothing, and one that is takes nothing more") {
  const temporary_folder folder;
  const byte_vector content(6);
  const std::vector<index_t> shape{6};
  {
    safetensors_writer writer(folder / "f");
    writer.add("a", element_type::u8, shape, content);
  }
  CHECK(folder.files() == 0);
  safetensors_writer writer(folder / "f");
  writer.finish();
  CHECK_THROWS_AS(writer.add("a", element_type::u8, shape, content), lowbit::value_error);
  CHECK_THROWS_AS(writer.set_metadata("a", "b"), lowbit::value_error);
  CHECK_THROWS_AS(writer.finish(), lowbit::value_error);
  CHECK_THROWS_AS(safetensors_writer("/dev/null"), lowbit::system_error);
}

TEST_CASE("a file that cannot be opened is refused with its path") {
  const temporary_folder folder;
  CHECK_THROWS_AS(safetensors_reader::open(folder / "missing"), lowbit::system_error);
  write_file(folder / "f", as_bytes("short"));
  CHECK(message_of<lowbit::format_error>([&] { return safetensors_reader::open(folder / "f"); }) ==
        (folder / "f").string() + ": the file has 5 bytes, too few for the header length");
}

}  // namespace
}  // namespace lowbit_test
