// Products with low-bit weights never hold the weights in another form: nothing of the size of the
// matrix is allocated, not even a byte per weight. The global operator new and aligned_alloc of
// this test program count (aligned_buffer calls the latter).
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/formats/sbvr/tensor.hpp"
#include "lowbit/ops/matmul.hpp"

namespace {

// Other tests of this program have threads.
std::atomic<std::size_t> total_bytes = 0;
std::atomic<std::size_t> largest_bytes = 0;

void count(std::size_t size) noexcept {
  total_bytes += size;
  std::size_t largest = largest_bytes;
  while (size > largest && !largest_bytes.compare_exchange_weak(largest, size)) {
  }
}

void* counted_new(std::size_t size) noexcept {
  count(size);
  return std::malloc(std::max<std::size_t>(size, 1));
}

void* counted_new_or_throw(std::size_t size) {
  void* const p = counted_new(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t size) { return counted_new_or_throw(size); }
void* operator new[](std::size_t size) { return counted_new_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return counted_new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return counted_new(size); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  count(size);
  void* p = nullptr;
  return ::posix_memalign(&p, alignment, size) == 0 ? p : nullptr;
}

namespace {

using namespace lowbit;

struct allocations {
  std::size_t total;    ///< everything, though it may have been freed in between
  std::size_t largest;  ///< of one allocation
};

template <class Run>
allocations count_allocations(Run&& run) {
  const std::size_t before = total_bytes;
  largest_bytes = 0;
  run();
  return {total_bytes - before, largest_bytes};
}

/// Any codes, scales and two ratios.
formats::sbvr_tensor some_tensor(shape2 shape) {
  formats::sbvr_codebook codebook({.planes = 2});
  codebook.set_ratios(std::vector<float>{1.0F, 0.5F});
  formats::sbvr_tensor t(shape, codebook);
  std::vector<std::uint8_t> codes(shape.cols);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) {
      codes[c] = static_cast<std::uint8_t>(random_bits(r, c) & 3U);
    }
    t.set_codes(r, codes);
    for (index_t g = 0; g < t.group_shape().cols; ++g) t.set_levels(r, g, {.scale = 0.25F});
  }
  return t;
}

constexpr shape2 shape{2048, 4096};
constexpr std::size_t byte_per_weight = shape.rows * shape.cols;

}  // namespace

TEST_CASE("counting allocations works", "[any_isa]") {
  const auto of_new = count_allocations([] { std::vector<char> v(12345); });
  CHECK(of_new.total == 12345);
  CHECK(of_new.largest == 12345);
  const auto of_buffers = count_allocations([] {
    const aligned_buffer<std::uint8_t> a(byte_per_weight);
    const aligned_buffer<float> b(100);
  });
  CHECK(of_buffers.largest >= byte_per_weight);
  CHECK(of_buffers.total >= byte_per_weight + 400);
  // What all others are compared with: the weights as floats are seen.
  const formats::sbvr_tensor w = some_tensor({64, 4096});
  std::vector<float> values(w.shape().size());
  const auto of_decoding = count_allocations([&] {
    const aligned_buffer<float> all(w.shape().size());
    w.dequantize({0, 64}, {values.data(), 64, 4096});
  });
  CHECK(of_decoding.largest >= sizeof(float) * w.shape().size());
}

TEST_CASE("a product with packed weights allocates for its tokens only", "[any_isa]") {
  const kernels::packed_codes w = ops::pack(some_tensor(shape));
  // 2 bits per weight and an fp16 per group of 128, nothing else.
  CHECK(w.size_bytes() >= byte_per_weight / 4 + byte_per_weight / 64);
  CHECK(w.size_bytes() < byte_per_weight / 4 + byte_per_weight / 64 + (2U << 20U));  // whole pages
  for (const index_t tokens : {1U, 8U, 9U, 40U}) {
    const std::vector<float> x(tokens * shape.cols, 0.5F);
    std::vector<float> y(tokens * shape.rows);
    const auto found = count_allocations([&] {
      ops::matmul(matrix_view<const float>(x.data(), tokens, shape.cols), w,
                  {y.data(), tokens, shape.rows}, kernels::context::best());
    });
    INFO(tokens << " tokens: " << found.total << " bytes");
    // Activations: a byte each, and a sum and a step per run of 128. One tile of outputs.
    CHECK(found.total >= tokens * shape.cols);
    CHECK(found.total <=
          2 * tokens * (shape.cols + kernels::code_tile_rows * sizeof(float)) + 4096);
  }
}

TEST_CASE("one-shot products never hold all weights in another form", "[any_isa]") {
  const formats::sbvr_tensor w = some_tensor(shape);
  for (const auto path : {ops::matmul_path::int8, ops::matmul_path::bit_serial}) {
    for (const index_t tokens : {1U, 3U}) {
      const std::vector<float> x(tokens * shape.cols, 0.5F);
      std::vector<float> y(tokens * shape.rows);
      const auto found = count_allocations([&] {
        ops::matmul(matrix_view<const float>(x.data(), tokens, shape.cols), w,
                    {y.data(), tokens, shape.rows}, kernels::context::best(),
                    {.path = path, .activations = ops::activation_quantization{}});
      });
      INFO("path " << static_cast<int>(path) << ", " << tokens << " tokens: " << found.total
                   << " bytes, at most " << found.largest << " at once");
      // A tile of 128 rows at a time, packed and as bytes (int8), or of 8 rows (bit_serial).
      CHECK(found.largest <= 128 * (shape.cols + 64));
      CHECK(found.largest <= byte_per_weight / 8);
      // Each row passes through once.
      CHECK(found.total <= 2 * byte_per_weight);
    }
  }
}
