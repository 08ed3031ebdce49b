// Every malformed file is refused, with a message that names the file, the tensor and the cause.
#include "catch.hpp"
#include "malformed_files.hpp"

namespace lowbit_test {
namespace {

TEST_CASE("the files that the malformed ones are made from are read") {
  read_everything(assemble(plain_parts()), "plain");
  read_everything(checkpoint_bytes(), "checkpoint");
}

TEST_CASE("every malformed file is refused with its message") {
  const std::vector<malformed_file> files = malformed_files();
  REQUIRE(files.size() >= 100);
  for (const malformed_file& file : files) {
    INFO(file.name);
    const byte_vector content = file.make();
    const std::string message =
        message_of<lowbit::error>([&] { read_everything(content, "some.file"); });
    INFO(message);
    CHECK(message.starts_with("some.file"));
    for (const std::string& fragment : file.fragments) {
      INFO(fragment);
      CHECK(message.find(fragment) != std::string::npos);
    }
  }
}

TEST_CASE("messages are short and printable whatever the file holds") {
  for (const malformed_file& file : malformed_files()) {
    INFO(file.name);
    const byte_vector content = file.make();
    const std::string message =
        message_of<lowbit::error>([&] { read_everything(content, "some.file"); });
    CHECK(message.size() < 600);
    for (const char c : message) CHECK(static_cast<unsigned char>(c) >= 0x20U);
  }
}

TEST_CASE("a file that is cut anywhere is refused") {
  const byte_vector content = checkpoint_bytes();
  for (std::size_t size = 0; size < content.size(); ++size) {
    INFO(size);
    CHECK_THROWS_AS(read_everything(std::span(content).first(size), "cut"), lowbit::error);
  }
}

TEST_CASE("no flipped bit crashes, and no flipped bit of the data goes unseen") {
  byte_vector content = checkpoint_bytes();
  const std::size_t data_begin = content.size() - disassemble(content).data.size();
  for (std::size_t bit = 0; bit < 8 * content.size(); ++bit) {
    const auto flip = static_cast<std::byte>(1U << (bit % 8));
    content[bit / 8] ^= flip;
    bool refused = false;
    try {
      read_everything(content, "flipped");
    } catch (const lowbit::error&) {
      refused = true;
    }
    if (bit / 8 >= data_begin) {
      INFO(bit);
      CHECK(refused);
    }
    content[bit / 8] ^= flip;
  }
}

}  // namespace
}  // namespace lowbit_test
