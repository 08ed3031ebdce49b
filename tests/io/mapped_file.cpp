#include "lowbit/io/mapped_file.hpp"

#include <sys/stat.h>

#include <algorithm>

#include "catch.hpp"
#include "files.hpp"

namespace lowbit_test {
namespace {

using lowbit::io::mapped_file;

byte_vector pattern(std::size_t size) {
  byte_vector out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(i * 7 + i / 256);
  return out;
}

TEST_CASE("a mapped file has the bytes of the file") {
  const temporary_folder folder;
  for (const std::size_t size : {0U, 1U, 4095U, 4096U, 4097U, 100000U}) {
    INFO(size);
    write_file(folder / "f", pattern(size));
    const mapped_file file(folder / "f");
    CHECK(std::ranges::equal(file.bytes(), pattern(size)));
  }
}

TEST_CASE("a mapping moves") {
  const temporary_folder folder;
  write_file(folder / "f", pattern(10));
  mapped_file file(folder / "f");
  const std::byte* const start = file.bytes().data();
  mapped_file moved(std::move(file));
  CHECK(moved.bytes().data() == start);
  mapped_file assigned;
  assigned = std::move(moved);
  CHECK(assigned.bytes().data() == start);
  CHECK(std::ranges::equal(assigned.bytes(), pattern(10)));
}

TEST_CASE("released pages stay readable") {
  const temporary_folder folder;
  const byte_vector content = pattern(20000);
  write_file(folder / "f", content);
  const mapped_file file(folder / "f");
  for (const auto& [begin, size] : {std::pair{0, 20000}, {1, 1}, {4096, 4096}, {5000, 15000}}) {
    file.release_pages(
        file.bytes().subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)));
    CHECK(std::ranges::equal(file.bytes(), content));
  }
}

TEST_CASE("pages that are not the mapping's are never released") {
  const temporary_folder folder;
  write_file(folder / "f", pattern(5000));
  const mapped_file file(folder / "f");
  byte_vector own = pattern(1 << 20);  // madvise(MADV_DONTNEED) would zero these
  file.release_pages(own);
  mapped_file().release_pages(own);
  CHECK(own == pattern(1 << 20));
}

TEST_CASE("what cannot be mapped is refused with path and cause") {
  const temporary_folder folder;
  const auto message = [](const std::filesystem::path& path) {
    return message_of<lowbit::system_error>([&] { mapped_file file(path); });
  };
  const std::string missing = (folder / "missing").string();
  CHECK(message(missing) == "cannot open '" + missing + "': No such file or directory");
  const std::string itself = folder.path().string();
  CHECK(message(itself) == "cannot read '" + itself + "': it is not a regular file");
  const std::string fifo = (folder / "fifo").string();
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(message(fifo) == "cannot read '" + fifo + "': it is not a regular file");
  CHECK(message("/dev/null") == "cannot read '/dev/null': it is not a regular file");
}

}  // namespace
}  // namespace lowbit_test
