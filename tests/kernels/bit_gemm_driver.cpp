// The exact integer product of packed planes, whatever its shape, encodings, groups and threads.
#include "lowbit/kernels/bit_gemm/driver.hpp"

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::plane_encoding;
using lowbit_test::message_of;

namespace {

constexpr plane_encoding encodings[] = {plane_encoding::unsigned_code,
                                        plane_encoding::twos_complement, plane_encoding::sign};

/// Integers of one encoding, and their planes, set bit by bit (not through pack_row).
struct integers {
  index_t rows;
  index_t cols;
  unsigned bits;
  plane_encoding encoding;
  std::vector<std::int64_t> values;
  layout::bit_matrix planes;

  template <class Code>
  integers(shape2 shape, unsigned b, plane_encoding e, Code code_at)
      : rows(shape.rows), cols(shape.cols), bits(b), encoding(e), planes(b, shape) {
    for (index_t r = 0; r < rows; ++r) {
      for (index_t k = 0; k < cols; ++k) {
        const std::uint64_t code = code_at(r, k) & ((1U << bits) - 1U);
        for (unsigned p = 0; p < bits; ++p) {
          planes.row(p, r)[k / 64] |= ((code >> p) & 1U) << (k % 64);
        }
        values.push_back(value_of(code));
      }
    }
  }
  static integers random(shape2 shape, unsigned bits, plane_encoding e, std::uint64_t seed) {
    return {shape, e == plane_encoding::sign ? 1 : bits, e,
            [&](index_t r, index_t k) { return random_bits(seed, r * shape.cols + k); }};
  }

  [[nodiscard]] std::int64_t value_of(std::uint64_t code) const {
    const auto value = static_cast<std::int64_t>(code);
    if (encoding == plane_encoding::sign) return code != 0 ? 1 : -1;
    if (encoding == plane_encoding::twos_complement && code >> (bits - 1) != 0) {
      return value - (std::int64_t{1} << bits);
    }
    return value;
  }
};

std::vector<std::int64_t> naive_product(const integers& w, const integers& x) {
  std::vector<std::int64_t> y(x.rows * w.rows);
  for (index_t t = 0; t < x.rows; ++t) {
    for (index_t n = 0; n < w.rows; ++n) {
      for (index_t k = 0; k < w.cols; ++k) {
        y[t * w.rows + n] += w.values[n * w.cols + k] * x.values[t * w.cols + k];
      }
    }
  }
  return y;
}

std::vector<std::int64_t> packed_product(const integers& w, const integers& x, index_t group_size,
                                         const kernels::context& ctx) {
  const kernels::packed_weight_planes pw(w.planes, group_size, w.encoding);
  const kernels::packed_activation_planes px(x.planes, group_size, x.encoding);
  std::vector<std::int64_t> y(x.rows * w.rows, -77);
  kernels::bit_gemm(pw, px, {y.data(), x.rows, w.rows}, ctx);
  return y;
}

/// Lends std::threads: `workers` of them take tasks from a counter.
class thread_executor final : public executor {
 public:
  explicit thread_executor(index_t workers) : workers_(workers) {}
  [[nodiscard]] index_t workers() const noexcept override { return workers_; }
  void parallel_for(index_t tasks, task run) override {
    std::atomic<index_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    std::vector<std::thread> threads;
    for (index_t worker = 0; worker < workers_; ++worker) {
      threads.emplace_back([&, worker] {
        try {
          for (index_t i = next++; i < tasks; i = next++) run(i, worker);
        } catch (...) {
          const std::lock_guard lock(failure_mutex);
          failure = std::current_exception();
        }
      });
    }
    for (std::thread& t : threads) t.join();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  index_t workers_;
};

std::vector<index_t> interesting_columns() {
  std::vector<index_t> cols;
  for (index_t k = 1; k <= 130; ++k) cols.push_back(k);
  for (const index_t k : {191U, 192U, 193U,  509U,  510U,  511U,  512U,  513U,  514U,  575U,
                          576U, 577U, 1022U, 1023U, 1024U, 1025U, 1030U, 1087U, 1088U, 1089U}) {
    cols.push_back(k);
  }
  return cols;
}

}  // namespace

TEST_CASE("bit_gemm: every small shape equals the naive product") {
  const kernels::context ctx = kernels::context::best();
  constexpr index_t group_sizes[] = {0, 1, 7, 32, 64, 100, 128, 5000};
  std::uint64_t draw = 0;
  const auto random = [&](std::uint64_t below) { return random_bits(11, draw++) % below; };
  std::size_t wrong = 0;
  std::size_t products = 0;
  for (const index_t cols : interesting_columns()) {
    for (index_t m = 1; m <= 5; ++m) {
      for (index_t n = 1; n <= 5; ++n) {
        const auto w = integers::random({n, cols}, 1 + static_cast<unsigned>(random(8)),
                                        encodings[random(3)], draw);
        const auto x = integers::random({m, cols}, 1 + static_cast<unsigned>(random(8)),
                                        encodings[random(3)], draw + 1);
        const index_t group_size = group_sizes[random(std::size(group_sizes))];
        ++products;
        if (packed_product(w, x, group_size, ctx) != naive_product(w, x)) {
          ++wrong;
          UNSCOPED_INFO("M " << m << " N " << n << " K " << cols << " group " << group_size << " w"
                             << w.bits << "a" << x.bits << " encodings "
                             << static_cast<int>(w.encoding) << ' '
                             << static_cast<int>(x.encoding));
        }
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(products == interesting_columns().size() * 25);
}

TEST_CASE("bit_gemm: every pair of encodings, bits and group size equals the naive product") {
  const kernels::context ctx = kernels::context::best();
  std::size_t wrong = 0;
  std::uint64_t seed = 100;
  for (const plane_encoding we : encodings) {
    for (const plane_encoding xe : encodings) {
      for (unsigned wb = 1; wb <= (we == plane_encoding::sign ? 1U : 8U); ++wb) {
        for (unsigned xb = 1; xb <= (xe == plane_encoding::sign ? 1U : 8U); ++xb) {
          for (const index_t cols : {1U, 64U, 130U}) {
            const auto w = integers::random({9, cols}, wb, we, ++seed);
            const auto x = integers::random({2, cols}, xb, xe, ++seed);
            const auto expected = naive_product(w, x);
            for (const index_t group_size : {0U, 7U, 32U, 64U, 100U, 128U, 130U, 131U}) {
              if (packed_product(w, x, group_size, ctx) != expected) {
                ++wrong;
                UNSCOPED_INFO("K " << cols << " group " << group_size << " w" << wb << "a" << xb
                                   << " encodings " << static_cast<int>(we) << ' '
                                   << static_cast<int>(xe));
              }
            }
          }
        }
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("bit_gemm: several blocks of tokens and tiles of rows, into a strided output") {
  const kernels::context ctx = kernels::context::best();
  const auto w = integers::random({27, 200}, 3, plane_encoding::twos_complement, 5);
  const auto x = integers::random({53, 200}, 5, plane_encoding::twos_complement, 6);
  const auto expected = naive_product(w, x);
  const kernels::packed_weight_planes pw(w.planes, 64, w.encoding);
  const kernels::packed_activation_planes px(x.planes, 64, x.encoding);
  constexpr index_t stride = 31;
  constexpr std::int64_t untouched = -12345;
  std::vector<std::int64_t> y(53 * stride, untouched);
  kernels::bit_gemm(pw, px, {y.data(), 53, 27, stride}, ctx);
  std::size_t wrong = 0;
  for (index_t t = 0; t < 53; ++t) {
    for (index_t c = 0; c < stride; ++c) {
      wrong += y[t * stride + c] != (c < 27 ? expected[t * 27 + c] : untouched) ? 1U : 0U;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("bit_gemm: extremes of every encoding up to 2^20 columns are exact") {
  const kernels::context ctx = kernels::context::best();
  const auto extreme = [](index_t cols, unsigned bits, plane_encoding e, bool top) {
    // The largest or the smallest value of the encoding, in every column.
    const std::uint64_t largest =
        e == plane_encoding::twos_complement ? (1U << (bits - 1)) - 1U : (1U << bits) - 1U;
    const std::uint64_t smallest =
        e == plane_encoding::twos_complement ? std::uint64_t{1} << (bits - 1) : 0;
    return integers({1, cols}, bits, e, [&](index_t, index_t) { return top ? largest : smallest; });
  };
  for (const index_t cols : {1000U, 33024U, 1U << 20U}) {
    for (const plane_encoding e : encodings) {
      const unsigned bits = e == plane_encoding::sign ? 1 : 8;
      for (const bool w_top : {false, true}) {
        for (const bool x_top : {false, true}) {
          const auto w = extreme(cols, bits, e, w_top);
          const auto x = extreme(cols, bits, e, x_top);
          const auto k = static_cast<std::int64_t>(cols);
          INFO("K " << cols << " encoding " << static_cast<int>(e) << ' ' << w_top << x_top);
          const std::vector<std::int64_t> expected{k * w.values[0] * x.values[0]};
          CHECK(packed_product(w, x, 0, ctx) == expected);
          if (cols < 100000) CHECK(packed_product(w, x, 128, ctx) == expected);
        }
      }
    }
  }
}

TEST_CASE("bit_gemm: runs longer than a block of words, with every variant") {
  // Blocks of 1024 words at 1 plane of activations, of 128 at 8; the last one is short.
  const auto one_plane = [](index_t rows, std::uint64_t seed) {
    return integers::random({rows, 64 * 1024 * 2 + 70}, 1, plane_encoding::sign, seed);
  };
  const auto eight_planes = [](index_t rows, std::uint64_t seed) {
    return integers::random({rows, 64 * 128 * 3 + 65}, 8, plane_encoding::twos_complement, seed);
  };
  const integers operands[][2] = {{one_plane(9, 51), one_plane(3, 52)},
                                  {eight_planes(10, 53), eight_planes(17, 54)}};
  for (const auto& [w, x] : operands) {
    const auto expected = naive_product(w, x);
    for (const auto& v : kernels::bit_gemm_variants) {
      if (!v.is_supported(cpu::detect())) continue;
      INFO(v.name << ", K " << w.cols);
      const kernels::context ctx{.allowed = v.needs};
      CHECK(packed_product(w, x, 0, ctx) == expected);
      CHECK(packed_product(w, x, w.cols / 2 + 1, ctx) == expected);
    }
  }
}

TEST_CASE("bit_gemm: long tokens do not lie a power of two apart") {
  for (const index_t cols : {1000U, 4096U, 8192U, 32768U}) {
    const kernels::packed_activation_planes x(layout::bit_matrix(4, {3, cols}));
    const index_t dense = 4 * layout::words_per_row(cols);
    CHECK(x.stride() >= 4 * x.groups().words());
    CHECK(x.stride() <= dense + 16);
    if (x.stride() >= 64) CHECK(x.stride() % 16 == 8);  // an odd number of cache lines
  }
}

TEST_CASE("bit_gemm: the same result on any executor and with every tier") {
  const auto w = integers::random({133, 700}, 4, plane_encoding::twos_complement, 21);
  const auto x = integers::random({19, 700}, 8, plane_encoding::unsigned_code, 22);
  const auto expected = naive_product(w, x);
  for (const cpu::tier& tier : cpu::tiers) {
    if (!cpu::detect().contains(tier.features)) continue;
    INFO(tier.name);
    kernels::context ctx{.allowed = tier.features};
    CHECK(packed_product(w, x, 128, ctx) == expected);
    for (const index_t workers : {1U, 2U, 3U, 8U}) {
      thread_executor threads(workers);
      ctx.threads = &threads;
      CHECK(packed_product(w, x, 128, ctx) == expected);
    }
  }
}

TEST_CASE("bit_gemm: packing a range of rows is packing those rows") {
  const auto w = integers::random({21, 150}, 3, plane_encoding::twos_complement, 31);
  const auto x = integers::random({4, 150}, 2, plane_encoding::unsigned_code, 32);
  const auto whole = naive_product(w, x);
  const kernels::packed_activation_planes px(x.planes, 64);
  for (const row_range rows :
       {row_range{0, 21}, row_range{3, 17}, row_range{8, 16}, row_range{20, 21}, row_range{5, 5}}) {
    const kernels::packed_weight_planes pw(w.planes, rows, 64, w.encoding);
    REQUIRE(pw.rows() == rows.size());
    std::vector<std::int64_t> y(4 * rows.size(), -1);
    kernels::bit_gemm(pw, px, {y.data(), 4, rows.size()}, {});
    for (index_t t = 0; t < 4; ++t) {
      for (index_t n = 0; n < rows.size(); ++n) {
        CHECK(y[t * rows.size() + n] == whole[t * 21 + rows.begin + n]);
      }
    }
  }
}

TEST_CASE("bit_gemm: empty operands give empty or zero products") {
  const auto product = [](index_t m, index_t n, index_t k, index_t group_size) {
    const layout::bit_matrix w(2, {n, k});
    const layout::bit_matrix x(3, {m, k});
    std::vector<std::int64_t> y(m * n, -1);
    kernels::bit_gemm(kernels::packed_weight_planes(w, group_size),
                      kernels::packed_activation_planes(x, group_size), {y.data(), m, n}, {});
    return y;
  };
  for (const index_t group_size : {0U, 5U}) {
    CHECK(product(0, 3, 10, group_size).empty());
    CHECK(product(3, 0, 10, group_size).empty());
    CHECK(product(2, 3, 0, group_size) == std::vector<std::int64_t>(6, 0));
    CHECK(product(0, 0, 0, group_size).empty());
  }
  std::int64_t y = -1;
  kernels::bit_gemm({}, {}, {&y, 0, 0}, {});
  CHECK(y == -1);
}

TEST_CASE("bit_gemm: packed operands count their ones and sum their codes, padding excluded") {
  const auto w = integers::random({11, 133}, 4, plane_encoding::twos_complement, 41);
  const kernels::packed_weight_planes pw(w.planes, 50, w.encoding);
  const kernels::packed_activation_planes px(w.planes, 50, w.encoding);
  REQUIRE(pw.groups().count() == 3);
  CHECK(pw.groups().words() == 1);
  CHECK(pw.groups().size(0) == 50);
  CHECK(pw.groups().size(2) == 33);
  CHECK(pw.tiles() == 2);
  CHECK(px.stride() == 3 * 4);
  for (index_t g = 0; g < 3; ++g) {
    for (index_t r = 0; r < 16; ++r) {
      std::int64_t sum = 0;
      for (index_t p = 0; p < 4; ++p) {
        std::int64_t ones = 0;
        for (index_t k = 50 * g; r < 11 && k < std::min<index_t>(133, 50 * g + 50); ++k) {
          // Two's complement is packed as offset binary: its top plane is flipped.
          ones += w.planes.bit(p, r, k) != (p == 3) ? 1 : 0;
        }
        sum += ones << p;
        CHECK(pw.count_ones(r / 8, g, p)[r % 8] == ones);
      }
      CHECK(pw.sum_codes(r / 8, g)[r % 8] == sum);
      if (r < 11) CHECK(px.sum_codes(r, g) == sum);
    }
  }
}

TEST_CASE("bit_gemm: what cannot be multiplied is refused with its numbers") {
  const layout::bit_matrix w(2, {8, 100});
  const layout::bit_matrix x(2, {3, 100});
  const kernels::packed_weight_planes pw(w, 50);
  const kernels::packed_activation_planes px(x, 50);
  std::vector<std::int64_t> y(24);
  const auto refusal = [](auto&& run) { return message_of<shape_error>(run); };
  const auto multiply = [&](const auto& a, const auto& b, index_t m, index_t n) {
    return refusal([&] { kernels::bit_gemm(a, b, {y.data(), m, n}, {}); });
  };
  CHECK_NOTHROW(kernels::bit_gemm(pw, px, {y.data(), 3, 8}, {}));
  CHECK(multiply(pw, px, 8, 3) == "the product is [3, 8], the output [8, 3]");
  CHECK(multiply(pw, kernels::packed_activation_planes(layout::bit_matrix(2, {3, 99}), 50), 3, 8) ==
        "weights have 100 columns, activations 99");
  CHECK(multiply(pw, kernels::packed_activation_planes(x, 20), 3, 8) ==
        "weights are packed in groups of 50, activations of 20");
  CHECK(multiply(pw, kernels::packed_activation_planes(x), 3, 8) ==
        "weights are packed in groups of 50, activations of 100");

  constexpr index_t too_wide = index_t{1} << 31U;
  CHECK(multiply(kernels::packed_weight_planes(layout::bit_matrix(1, {0, too_wide})),
                 kernels::packed_activation_planes(layout::bit_matrix(1, {0, too_wide})), 0,
                 0) == "a group of 2147483648 columns is too wide: bit_gemm takes fewer than 2^31");

  for (const index_t planes : {0U, 9U}) {
    const std::string expected = "bit_gemm takes 1..8 planes, not " + std::to_string(planes);
    const layout::bit_matrix bad(planes, {1, 1});
    CHECK(refusal([&] { kernels::packed_weight_planes{bad}; }) == expected);
    CHECK(refusal([&] { kernels::packed_activation_planes{bad}; }) == expected);
  }
  const std::string two_signs = "a sign matrix has one plane, not 2";
  CHECK(refusal([&] { kernels::packed_weight_planes{w, 0, plane_encoding::sign}; }) == two_signs);
  CHECK(refusal([&] {
          kernels::packed_activation_planes{x, 0, plane_encoding::sign};
        }) == two_signs);
  CHECK(refusal([&] {
          kernels::packed_weight_planes{w, {3, 9}, 0, plane_encoding::unsigned_code};
        }) == "row range [3, 9) does not lie in a matrix of 8 rows");
}

TEST_CASE("bit_gemm: an exception of a task reaches the caller of a threaded executor") {
  thread_executor threads(3);
  const kernels::context ctx{.threads = &threads};
  CHECK(message_of<value_error>([&] {
          kernels::parallel_for(
              ctx, 20, [](index_t i, index_t) { LOWBIT_CHECK(i != 7, value, "task ", i); });
        }) == "task 7");
}
