// What reading a file allocates is bounded by the size of the file, never by a number in it. The
// global operator new of this test program counts.
#include <malloc.h>

#include <cstdlib>
#include <new>

#include "catch.hpp"
#include "malformed_files.hpp"

namespace {

std::size_t bytes_in_use = 0;
std::size_t most_bytes = 0;

void* counted_new(std::size_t size) noexcept {
  void* const p = std::malloc(size);
  bytes_in_use += ::malloc_usable_size(p);
  most_bytes = std::max(most_bytes, bytes_in_use);
  return p;
}

void* counted_new_or_throw(std::size_t size) {
  void* const p = counted_new(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void counted_delete(void* p) noexcept {
  bytes_in_use -= ::malloc_usable_size(p);
  std::free(p);
}

}  // namespace

void* operator new(std::size_t size) { return counted_new_or_throw(size); }
void* operator new[](std::size_t size) { return counted_new_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return counted_new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return counted_new(size); }
void operator delete(void* p) noexcept { counted_delete(p); }
void operator delete[](void* p) noexcept { counted_delete(p); }
void operator delete(void* p, std::size_t) noexcept { counted_delete(p); }
void operator delete[](void* p, std::size_t) noexcept { counted_delete(p); }

namespace lowbit_test {
namespace {

/// The most that is allocated at once while `run` runs, beyond what was before.
template <class Run>
std::size_t most_allocated(Run&& run) {
  const std::size_t before = bytes_in_use;
  most_bytes = before;
  run();
  return most_bytes - before;
}

std::size_t most_allocated_reading(const byte_vector& content) {
  return most_allocated([&] {
    try {
      static_cast<void>(lowbit::io::checkpoint_reader::parse(content, "f"));
    } catch (const lowbit::error&) {
    }
  });
}

// docs/file_format.md promises this much, and max_record for the one record that is being read.
constexpr std::size_t factor = 12;
constexpr std::size_t max_record = 2 << 20;
constexpr std::size_t messages = 1 << 14;

TEST_CASE("counting works") {
  CHECK(most_allocated([] { std::vector<char> v(12345); }) >= 12345);
}

TEST_CASE("no malformed file makes the reader allocate much") {
  for (const malformed_file& file : malformed_files()) {
    INFO(file.name);
    const byte_vector content = file.make();
    CHECK(most_allocated_reading(content) <= factor * content.size() + messages);
  }
}

TEST_CASE("headers that are made of the smallest things do not allocate much") {
  // One more than a power of two: the vectors that grow by doubling have just done so.
  constexpr int items = (1 << 14) + 1;
  const auto header = [](std::string_view begin, auto item, std::string_view end) {
    std::string text(begin);
    for (int i = 0; i < items; ++i) text.append(i == 0 ? "" : ",").append(item(std::to_string(i)));
    return assemble({text + std::string(end), {}});
  };
  const auto names = header(
      "{",
      [](const std::string& n) {
        return "\"" + n + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
      },
      "}");
  const auto texts = header(R"({"__metadata__":{)",
                            [](const std::string& n) { return "\"" + n + R"(":"")"; }, "}}");
  for (const byte_vector& content : {names, texts}) {
    const std::size_t most = most_allocated_reading(content);
    INFO(content.size() << " bytes of file, " << most << " bytes allocated");
    CHECK(most <= factor * content.size() + messages);
  }
  const auto record = header(R"({"__metadata__":{"lowbit.version":"1","lowbit.tensor.w":"[)",
                             [](const std::string&) { return std::string("0"); }, "]\"}}");
  CHECK(most_allocated_reading(record) <= factor * record.size() + max_record);
}

}  // namespace
}  // namespace lowbit_test
