#include "lowbit/io/checksum.hpp"

#include "catch.hpp"
#include "files.hpp"

namespace lowbit_test {
namespace {

using lowbit::io::checksum;
using lowbit::io::checksum_text;
using lowbit::io::parse_checksum;

TEST_CASE("the checksum is XXH3 with 64 bits and seed 0") {
  // From the specification of XXH3 (seed 0): the empty input; and `printf abc | xxhsum -H3`.
  CHECK(checksum({}) == 0x2d06800538d394c2ULL);
  CHECK(checksum(as_bytes("abc")) == 0x78af5f94892f3950ULL);
}

TEST_CASE("a checksum and its text are one to one") {
  CHECK(checksum_text(0) == "xxh3-64:0000000000000000");
  CHECK(checksum_text(0x2d06800538d394c2ULL) == "xxh3-64:2d06800538d394c2");
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{0xabc}, ~std::uint64_t{0}}) {
    CHECK(parse_checksum(checksum_text(value), "f") == value);
  }
}

TEST_CASE("other texts are no checksums") {
  for (const char* text : {"", "xxh3-64", "xxh3-64:", "xxh3-64:0x00000000000000", "xxh3-64: 000",
                           "xxh3-64:000000000000000g", "xxh3-64:00000000000000000",
                           "xxh3-64:000000000000000A", "xxh3-64:-00000000000001", "xxh64:0000",
                           " xxh3-64:0000000000000000", "xxh3-64:0000000000000000 "}) {
    INFO(text);
    CHECK_THROWS_AS(parse_checksum(text, "f"), lowbit::format_error);
  }
}

}  // namespace
}  // namespace lowbit_test
