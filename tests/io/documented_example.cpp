// The hex dump of docs/file_format.md is what the library writes, and what it reads.
#include "documented_example.hpp"

#include <fstream>
#include <sstream>

#include "catch.hpp"

namespace lowbit_test {
namespace {

std::string hex(std::uint64_t value, int digits) {
  std::string out;
  for (int i = digits - 1; i >= 0; --i) out += "0123456789abcdef"[(value >> (4 * i)) & 15U];
  return out;
}

/// One line as `hexdump -C` prints it: offset, 16 bytes, and those that are printable.
std::string dump_line(std::span<const std::byte> line, std::size_t offset) {
  std::string bytes_column;
  std::string text_column;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const auto value = std::to_integer<unsigned char>(line[i]);
    bytes_column += (i == 8 ? "  " : " ") + hex(value, 2);
    text_column += value >= 0x20U && value < 0x7fU ? static_cast<char>(value) : '.';
  }
  bytes_column.resize(1 + 16 * 3, ' ');
  return hex(offset, 8) + " " + bytes_column + "  |" + text_column + "|\n";
}

/// All of `hexdump -C`: a line that repeats the one before is left out, "*" stands for a run of
/// such.
std::string dump(std::span<const std::byte> file) {
  std::string out;
  bool starred = false;
  for (std::size_t at = 0; at < file.size(); at += 16) {
    const auto line = file.subspan(at, std::min<std::size_t>(16, file.size() - at));
    const bool repeats = at >= 16 && std::ranges::equal(line, file.subspan(at - 16, line.size()));
    if (!repeats) out += dump_line(line, at);
    if (repeats && !starred) out += "*\n";
    starred = repeats;
  }
  return out + hex(file.size(), 8) + "\n";
}

/// What stands in the documentation between ```hexdump and ```.
std::string documented_dump() {
  std::ifstream in("docs/file_format.md");
  INFO("run from the root of the repository");
  REQUIRE(in.is_open());
  std::stringstream text;
  text << in.rdbuf();
  const std::string document = text.str();
  const std::string open = "```hexdump\n";
  const std::size_t begin = document.find(open);
  REQUIRE(begin != std::string::npos);
  const std::size_t end = document.find("```", begin + open.size());
  return document.substr(begin + open.size(), end - begin - open.size());
}

TEST_CASE("the documented hex dump is what the library writes") {
  const std::string actual = dump(documented_example());
  INFO("the block of docs/file_format.md must be:\n" << actual);
  CHECK((documented_dump() == actual));
}

TEST_CASE("the documented file holds the documented weights") {
  const byte_vector content = documented_example();
  const auto reader = lowbit::io::checkpoint_reader::parse(content, "documented");
  const auto tensor = reader.load<lowbit::formats::uniform_tensor>("w");
  std::vector<float> values(6);
  tensor.dequantize({0, 2}, {values.data(), 2, 3});
  CHECK(std::ranges::equal(values, documented_weights));
  reader.verify();
}

}  // namespace
}  // namespace lowbit_test
