#include "lowbit/core/aligned_buffer.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {

template <class T>
std::uintptr_t address(const aligned_buffer<T>& b) {
  return reinterpret_cast<std::uintptr_t>(b.data());
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LOWBIT_TEST_SANITIZED_ALLOCATOR 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOWBIT_TEST_SANITIZED_ALLOCATOR 1
#endif

}  // namespace

TEMPLATE_TEST_CASE("aligned_buffer: aligned and zero at any size", "", std::uint8_t, float,
                   std::uint64_t) {
  for (index_t size = 1; size < 300; ++size) {
    const aligned_buffer<TestType> b(size);
    REQUIRE(b.size() == size);
    REQUIRE(address(b) % 64 == 0);
    REQUIRE(std::all_of(b.begin(), b.end(), [](TestType x) { return x == TestType{}; }));
    REQUIRE(b.span().data() == b.data());
    REQUIRE(b.end() - b.begin() == static_cast<std::ptrdiff_t>(size));
  }
}

TEST_CASE("aligned_buffer: from 2 MiB on it starts a huge page") {
  const index_t threshold = aligned_buffer<std::uint8_t>::huge_page;
  CHECK(threshold == index_t{2} << 20U);
  for (const index_t size : {threshold - 1, threshold, threshold + 1}) {
    aligned_buffer<std::uint8_t> b(size);
    CHECK(address(b) % (size < threshold ? 64U : std::uintptr_t{2} << 20U) == 0);
    CHECK(std::all_of(b.begin(), b.end(), [](std::uint8_t x) { return x == 0; }));
    b[size - 1] = 1;
  }
}

TEST_CASE("aligned_buffer: an eighth of a huge page starts one if that is asked for") {
  const index_t eighth = aligned_buffer<std::uint8_t>::huge_page / 8;
  for (const index_t size : {eighth, eighth + 1}) {
    const aligned_buffer<std::uint8_t> b(size, huge_pages::even_for_part);
    CHECK(address(b) % (std::uintptr_t{2} << 20U) == 0);
    const aligned_buffer<std::uint8_t> copy(b);
    CHECK(address(copy) % (std::uintptr_t{2} << 20U) == 0);
    CHECK(std::all_of(copy.begin(), copy.end(), [](std::uint8_t x) { return x == 0; }));
  }
}

TEST_CASE("aligned_buffer: empty ones own nothing") {
  const aligned_buffer<int> none;
  const aligned_buffer<int> zero(0);
  CHECK(none.data() == nullptr);
  CHECK(zero.data() == nullptr);
  CHECK(zero.empty());
  CHECK(zero.begin() == zero.end());
  CHECK(aligned_buffer<int>(zero).empty());
}

TEST_CASE("aligned_buffer: copies are deep, moves leave an empty buffer") {
  aligned_buffer<int> a(3);
  a[0] = 1;
  a[2] = 3;
  aligned_buffer<int> b = a;
  CHECK(b.data() != a.data());
  b[0] = 7;
  CHECK(a[0] == 1);
  CHECK(b[2] == 3);

  const int* const place = b.data();
  aligned_buffer<int> c = std::move(b);
  CHECK(c.data() == place);
  CHECK(b.empty());  // NOLINT: what a move leaves is part of the contract
  CHECK(b.data() == nullptr);

  b = c;
  CHECK(b[0] == 7);
  CHECK(b.data() != c.data());
  const auto& same = b;
  b = same;  // self-assignment
  CHECK(b.size() == 3);
  CHECK(b[0] == 7);
  b = aligned_buffer<int>(1);
  CHECK(b.size() == 1);
  b = {};
  CHECK(b.empty());
  static_assert(std::is_nothrow_move_constructible_v<aligned_buffer<int>>);
}

TEST_CASE("aligned_buffer: sizes that overflow or do not exist are refused") {
  constexpr index_t largest = ~index_t{0};
  CHECK(message_of<shape_error>([] { aligned_buffer<std::uint64_t>(largest / 8 + 1); }) ==
        "buffer size: 2305843009213693952 * 8 overflows 64 bits");
  CHECK(message_of<shape_error>([] {
          aligned_buffer<std::uint8_t>(largest - 5);
        }).find("buffer size rounded up to its alignment") == 0);
#if !defined(LOWBIT_TEST_SANITIZED_ALLOCATOR)  // its allocator aborts instead of failing
  volatile index_t exbibyte = index_t{1} << 60U;
  CHECK(message_of<system_error>([&] { aligned_buffer<std::uint8_t>{exbibyte}; }) ==
        "cannot allocate 1152921504606846976 bytes");
#endif
}

namespace {

template <class T>
void fill_and_empty(aligned_buffer<T>& buffer) {
  buffer = aligned_buffer<T>(1000);
  buffer = {};
}

}  // namespace

TEST_CASE("a buffer that a template empties gives its memory back") {
  aligned_buffer<double> buffer;
  fill_and_empty(buffer);  // the leak checker of the sanitized builds is the judge
  CHECK(buffer.empty());
  CHECK(buffer.data() == nullptr);
}

TEST_CASE("assignment copies, moves, and bears a buffer's own name") {
  aligned_buffer<int> a(3);
  a[2] = 7;
  aligned_buffer<int> b(100);
  b = a;
  CHECK(b.size() == 3);
  CHECK(b[2] == 7);
  CHECK(b.data() != a.data());
  const int* const memory = b.data();
  a = std::move(b);
  CHECK(a.data() == memory);
  CHECK(b.empty());  // NOLINT: moved-from buffers are empty
  auto& same = a;
  a = same;
  CHECK(a.size() == 3);
  CHECK(a[2] == 7);
  a = std::move(same);
  CHECK(a.size() == 3);
  CHECK(a[2] == 7);
}
