// Products of packed codes with int8 activations, whatever their shape, format, groups and threads:
// the floats that the contract's arithmetic gives, and what a product of the decoded matrices is
// but for rounding.
#include "lowbit/kernels/code_gemm/driver.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "../ops/executors.hpp"
#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using kernels::activation_params;
using kernels::code_format;
using kernels::code_gemm;
using kernels::code_group;
using kernels::code_rows;
using kernels::code_runs;
using kernels::context;
using kernels::int8_activations;
using kernels::packed_codes;
using lowbit_test::message_of;

namespace {

/// A matrix of codes with scales, zeros and offsets, and what it stands for. Every row, group and
/// plane differs from the others.
struct weights {
  shape2 shape;
  index_t group_size;
  code_format format;
  bool has_fine_scales = false;  ///< that no fp16 is equal to

  [[nodiscard]] index_t group_of(index_t k) const { return group_size == 0 ? 0 : k / group_size; }
  [[nodiscard]] std::uint64_t draw(unsigned stream, index_t row, index_t i, index_t p = 0) const {
    return random_bits(100 * stream + p, row * 4096 + i);
  }
  [[nodiscard]] std::uint8_t code(index_t row, index_t plane, index_t k) const {
    return static_cast<std::uint8_t>(draw(1, row, k, plane) & ((1U << format.bits) - 1U));
  }
  [[nodiscard]] float real(unsigned stream, index_t row, index_t group, index_t plane) const {
    const std::uint64_t bits = draw(stream, row, group, plane);
    const float coarse = (static_cast<float>(bits % 2001) - 1000.0F) * 0x1p-10F;
    return has_fine_scales ? coarse + 0x1p-20F : coarse;
  }
  [[nodiscard]] float scale(index_t row, index_t group, index_t plane) const {
    if (!format.has_ratios) return real(2, row, group, plane);
    return real(2, row, group, 0) * format.ratios[plane];
  }
  [[nodiscard]] float offset(index_t row, index_t group) const {
    return format.has_offsets ? real(3, row, group, 0) : 0.0F;
  }
  [[nodiscard]] std::int32_t zero(index_t row, index_t group) const {
    return format.has_zeros ? static_cast<std::int32_t>(draw(4, row, group) % 256) : format.zero;
  }
  /// What multiplies x[k] in the integers of a plane.
  [[nodiscard]] std::int32_t level(index_t row, index_t plane, index_t k) const {
    const std::uint8_t u = code(row, plane, k);
    return format.code_step * (format.has_book ? format.book[u] : u) - zero(row, group_of(k));
  }

  [[nodiscard]] packed_codes pack(const context& ctx = {}) const {
    const auto codes = [this](index_t row, index_t plane, std::span<std::uint8_t> out) {
      for (index_t k = 0; k < out.size(); ++k) out[k] = code(row, plane, k);
    };
    const auto levels = [this](index_t row, index_t group, std::span<float> scales) {
      for (index_t p = 0; p < scales.size(); ++p) scales[p] = real(2, row, group, p);
      return code_group{zero(row, group), offset(row, group)};
    };
    return packed_codes({.shape = shape,
                         .group_size = group_size,
                         .format = format,
                         .codes = codes,
                         .levels = levels},
                        ctx);
  }
};

std::vector<float> inputs(index_t tokens, index_t cols) {
  std::vector<float> x(tokens * cols);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(9, i);
  return x;
}

int8_activations quantize(index_t tokens, index_t cols, const activation_params& params) {
  const std::vector<float> x = inputs(tokens, cols);
  return int8_activations(matrix_view<const float>(x.data(), tokens, cols), params);
}

std::vector<float> product(const packed_codes& w, const int8_activations& x, const context& ctx) {
  std::vector<float> y(x.tokens() * w.shape().rows, -77.0F);
  code_gemm(w, x, {y.data(), x.tokens(), w.shape().rows}, ctx);
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

/// What is wrong with y = code_gemm(w, x), or nothing: against the contract's arithmetic, bit by
/// bit, and against the product of the dequantized operands in double.
std::string fault(const weights& w, const int8_activations& x, const std::vector<float>& y) {
  const index_t cols = w.shape.cols;
  const code_runs runs(cols, w.group_size);
  const code_format& f = w.format;
  std::vector<float> decoded(x.tokens() * cols);
  x.dequantize({decoded.data(), x.tokens(), cols});
  // Each addition of a plane or an offset rounds once, its factor scale * step once more, the step
  // of a token once at the end: with n additions every term has n + 2 factors 1 + e, |e| <= u.
  const auto additions = static_cast<double>(runs.count() * (f.planes + (f.has_offsets ? 1U : 0U)));
  const double unit = (additions + 2.0) * 0x1p-24;
  const double relative = unit / (1.0 - unit);
  std::vector<std::int32_t> levels(f.planes * cols);
  for (index_t n = 0; n < w.shape.rows; ++n) {
    for (index_t p = 0; p < f.planes; ++p) {
      for (index_t k = 0; k < cols; ++k) levels[p * cols + k] = w.level(n, p, k);
    }
    for (index_t t = 0; t < x.tokens(); ++t) {
      float expected = 0.0F;
      double exact = 0.0;
      double magnitude = 0.0;
      for (index_t g = 0; g < runs.count(); ++g) {
        const index_t group = runs.group(g);
        const std::int8_t* const codes = x.codes(g).data() + t * x.run_bytes();
        const float* const values = decoded.data() + t * cols + runs.begin(g);
        const float step = x.per_group() ? x.steps(g)[t] : 1.0F;
        const float offset = w.offset(n, group);
        for (index_t p = 0; p < f.planes; ++p) {
          const std::int32_t* const level = levels.data() + p * cols + runs.begin(g);
          const float scale = w.scale(n, group, p);
          std::int64_t sum = 0;
          for (index_t k = 0; k < runs.size(g); ++k) {
            sum += level[k] * codes[k];
            const double term =
                static_cast<double>(scale) * level[k] * static_cast<double>(values[k]);
            exact += term;
            magnitude += std::fabs(term);
          }
          const float factor = scale * step;
          expected = std::fma(factor, static_cast<float>(sum), expected);
        }
        if (!f.has_offsets) continue;
        std::int64_t sum = 0;
        for (index_t k = 0; k < runs.size(g); ++k) {
          sum += codes[k];
          const double term = static_cast<double>(offset) * static_cast<double>(values[k]);
          exact += term;
          magnitude += std::fabs(term);
        }
        const float factor = offset * step;
        expected = std::fma(factor, static_cast<float>(sum), expected);
      }
      if (!x.per_group()) expected = x.steps(0)[t] * expected;
      const float found = y[t * w.shape.rows + n];
      if (std::bit_cast<std::uint32_t>(found) != std::bit_cast<std::uint32_t>(expected)) {
        return lowbit::detail::message("token ", t, ", row ", n, " is ", found, " instead of ",
                                       expected);
      }
      // The decoded activations are rounded too: step * code.
      const double bound = (relative + 0x1p-24) * magnitude + 0x1p-140;
      if (!(std::fabs(static_cast<double>(found) - exact) <= bound)) {
        return lowbit::detail::message("token ", t, ", row ", n, " is ", found, ", the product ",
                                       exact, ", the bound ", bound);
      }
    }
  }
  return {};
}

/// The formats that packed tensors have.
std::vector<code_format> formats() {
  std::vector<code_format> all;
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    all.push_back({.bits = bits, .zero = 1 << (bits - 1)});
    all.push_back({.bits = bits, .has_zeros = true});
    all.push_back({.bits = bits, .zero = 1, .has_offsets = true});
  }
  all.push_back({.bits = 1, .code_step = 2, .zero = 1});
  all.push_back({.bits = 1, .planes = 3, .code_step = 2, .zero = 1, .has_offsets = true});
  all.push_back({.bits = 1, .planes = 8, .code_step = 1});
  for (const unsigned planes : {1U, 2U, 5U, 8U}) {  // that share a scale
    code_format shared{.bits = 1,
                       .planes = planes,
                       .code_step = planes == 5 ? 1 : 2,
                       .zero = planes == 5 ? 0 : 1,
                       .has_offsets = planes > 2,
                       .has_ratios = true};
    for (unsigned p = 0; p < planes; ++p) shared.ratios[p] = 0.3F - 0.07F * static_cast<float>(p);
    all.push_back(shared);
  }
  code_format book{
      .bits = 4, .zero = 127, .has_zeros = true, .has_offsets = true, .has_book = true};
  for (index_t i = 0; i < 16; ++i) book.book[i] = static_cast<std::uint8_t>(255 - 16 * i);
  all.push_back(book);
  return all;
}

constexpr index_t sizes[] = {1,   2,   3,   4,   5,   63,  64,  65, 127,
                             128, 129, 130, 255, 256, 257, 258, 300};
constexpr index_t group_sizes[] = {0, 1, 2, 3, 5, 31, 64, 100, 128, 255, 256, 257, 300, 1025};

}  // namespace

TEST_CASE("code_gemm: any shape, format and group gives what the contract says") {
  const context ctx = context::best();
  const std::vector<code_format> all = formats();
  std::uint64_t drawn = 0;
  const auto any = [&](const auto& list) {
    return list[random_bits(31, drawn++) % std::size(list)];
  };
  constexpr index_t small[] = {1, 2, 3, 5, 17};
  std::size_t wrong = 0;
  std::size_t products = 0;
  const auto check = [&](shape2 shape, index_t tokens, index_t group_size) {
    const weights w{shape, group_size, any(all), random_bits(32, drawn++) % 4 == 0};
    const activation_params params{.bits = 2 + static_cast<unsigned>(random_bits(33, drawn++) % 7),
                                   .group_size = group_size,
                                   .per_group = random_bits(34, drawn++) % 2 == 0};
    const int8_activations x = quantize(tokens, shape.cols, params);
    const std::string found = fault(w, x, product(w.pack(), x, ctx));
    ++products;
    if (!found.empty() && wrong++ < 10) {
      UNSCOPED_INFO("M " << tokens << " N " << shape.rows << " K " << shape.cols << " group "
                         << group_size << " bits " << w.format.bits << " planes " << w.format.planes
                         << ": " << found);
    }
  };
  for (const index_t size : sizes) {
    for (int i = 0; i < 6; ++i) {
      check({any(small), size}, any(small), any(group_sizes));
      check({size, any(small)}, any(small), any(group_sizes));
      check({any(small), any(small)}, size, any(group_sizes));
    }
    check({size, any(sizes)}, any(small), any(group_sizes));
    check({any(small), size}, any(sizes), any(group_sizes));
  }
  check({130, 300}, 65, 64);
  check({257, 1100}, 3, 0);
  CHECK(wrong == 0);
  CHECK(products == std::size(sizes) * 20 + 2);
}

TEST_CASE("code_gemm: every format with every group size, both ways of steps") {
  const context ctx = context::best();
  std::size_t wrong = 0;
  for (const code_format& format : formats()) {
    for (const index_t group_size : group_sizes) {
      for (const bool per_group : {false, true}) {
        for (const bool fine : {false, true}) {
          const weights w{{3, 301}, group_size, format, fine};
          const int8_activations x =
              quantize(2, 301, {.group_size = group_size, .per_group = per_group});
          const std::string found = fault(w, x, product(w.pack(), x, ctx));
          if (!found.empty() && wrong++ < 10) {
            UNSCOPED_INFO("bits " << format.bits << " planes " << format.planes << " group "
                                  << group_size << " per group " << per_group << ": " << found);
          }
        }
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("code_gemm: products of the extremes are exact") {
  // All codes 255, zero 0, all activations the largest or the smallest: integers of 24 bits at most
  // until runs are added.
  for (const index_t cols : {256U, 1024U}) {
    for (const float sign : {1.0F, -1.0F}) {
      const auto codes = [](index_t, index_t, std::span<std::uint8_t> out) {
        std::fill(out.begin(), out.end(), std::uint8_t{255});
      };
      const auto levels = [](index_t, index_t, std::span<float> scales) {
        scales[0] = 1.0F;
        return code_group{};
      };
      const packed_codes w({.shape = {130, cols},
                            .group_size = 256,
                            .format = {.bits = 8},
                            .codes = codes,
                            .levels = levels});
      const std::vector<float> x(3 * cols, 127.0F * sign);  // step 1
      const int8_activations q(matrix_view<const float>(x.data(), 3, cols), {.group_size = 256});
      const float expected = sign * 255.0F * 127.0F * static_cast<float>(cols);
      CHECK(product(w, q, context::best()) == std::vector<float>(3 * 130, expected));
    }
  }
}

TEST_CASE("code_gemm: the same bits on any executor, with every tier and any blocks of tokens",
          "[any_isa]") {
  for (const code_format& format : formats()) {
    const weights w{{300, 200}, 64, format};
    const packed_codes packed = w.pack();
    for (const index_t tokens : {1U, 3U, 8U, 9U, 101U}) {
      if (tokens == 101 && format.planes == 1 && format.bits != 4) continue;
      const int8_activations x =
          quantize(tokens, 200, {.group_size = 64, .per_group = tokens % 2 == 0});
      const std::vector<float> expected = product(packed, x, {.allowed = cpu::none});
      const auto check = [&](const context& ctx) {
        CHECK(same_bits(product(packed, x, ctx), expected));
      };
      for (const cpu::tier& tier : cpu::tiers) {
        if (!cpu::detect().contains(tier.features) || tier.features == cpu::none) continue;
        INFO(tier.name << " tokens " << tokens << " bits " << format.bits);
        context ctx{.allowed = tier.features};
        check(ctx);
        ctx.caches.l2 = 0;  // blocks as small as they get
        ctx.prefetch_bytes = 0;
        check(ctx);
        test::backwards_executor backwards(5);
        ctx.threads = &backwards;
        check(ctx);
        kernels::workspace scratch;
        ctx.scratch = &scratch;
        test::thread_executor threads(3);
        ctx.threads = &threads;
        check(ctx);
        check(ctx);  // with the workspace as it was left
      }
    }
  }
}

TEST_CASE("code_gemm: packing does not depend on the executor") {
  const weights w{{300, 130}, 31, {.bits = 3, .has_zeros = true, .has_offsets = true}, true};
  const packed_codes serial = w.pack();
  test::backwards_executor backwards(2);
  test::thread_executor threads(3);
  REQUIRE(serial.tiles() == 3);
  for (executor* const e : {static_cast<executor*>(&backwards), static_cast<executor*>(&threads)}) {
    const packed_codes other = w.pack({.threads = e});
    REQUIRE(other.size_bytes() == serial.size_bytes());
    for (index_t i = 0; i < serial.tiles(); ++i) {
      CHECK(std::equal(serial.tile(i).begin(), serial.tile(i).end(), other.tile(i).begin()));
    }
  }
}

TEST_CASE("code_gemm: a strided output, nothing written beside it") {
  const weights w{{131, 70}, 32, {.bits = 4, .zero = 8}};
  const packed_codes packed = w.pack();
  for (const index_t tokens : {2U, 60U}) {
    const int8_activations x = quantize(tokens, 70, {.group_size = 32});
    const std::vector<float> expected = product(packed, x, context::best());
    constexpr index_t stride = 140;
    constexpr float untouched = -12345.0F;
    std::vector<float> y(tokens * stride, untouched);
    code_gemm(packed, x, {y.data(), tokens, 131, stride}, context::best());
    std::size_t wrong = 0;
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t c = 0; c < stride; ++c) {
        wrong += y[t * stride + c] != (c < 131 ? expected[t * 131 + c] : untouched) ? 1U : 0U;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("code_gemm: one workspace serves products of all sizes, and again") {
  kernels::workspace scratch;
  context ctx = context::best();
  ctx.scratch = &scratch;
  for (const index_t tokens : {60U, 1U, 9U, 100U, 9U, 60U}) {
    for (const index_t rows : {5U, 200U}) {
      const weights w{{rows, 65}, 0, {.bits = 2, .zero = 2}};
      const int8_activations x = quantize(tokens, 65, {});
      CHECK(fault(w, x, product(w.pack(), x, ctx)).empty());
    }
  }
}

TEST_CASE("code_gemm: scales and offsets are fp16 where that loses nothing") {
  const auto pack = [](bool has_offsets, float odd_scale, float odd_offset) {
    const auto codes = [](index_t, index_t, std::span<std::uint8_t>) {};
    const auto levels = [&](index_t row, index_t group, std::span<float> scales) {
      const bool odd = row == 199 && group == 2;
      scales[0] = odd ? odd_scale : 0.5F;
      return code_group{0, odd ? odd_offset : -3.0F};
    };
    return packed_codes({.shape = {200, 90},
                         .group_size = 30,
                         .format = {.bits = 4, .has_offsets = has_offsets},
                         .codes = codes,
                         .levels = levels})
        .format()
        .has_wide_scales;
  };
  for (const float fits : {1.0F, -0.0F, 65504.0F, -65504.0F, 0x1p-24F, 0x1.ffcp-3F, 4100.0F}) {
    CHECK_FALSE(pack(false, fits, 0.0F));
    CHECK_FALSE(pack(true, 1.0F, fits));
  }
  for (const float wide : {0.1F, 65536.0F, 65505.0F, 0x1p-25F, 0x1.8p-24F, 0x1.ffep-3F, 1e30F}) {
    CHECK(pack(false, wide, 0.0F));
    CHECK(pack(true, 1.0F, wide));
    CHECK_FALSE(pack(false, 1.0F, wide));  // no offsets: not stored
  }
  // What the caller says of widths is ignored.
  weights w{{3, 20}, 0, {.bits = 4, .has_wide_scales = true}};
  CHECK_FALSE(w.pack().format().has_wide_scales);
  w.has_fine_scales = true;
  w.format.has_wide_scales = false;
  CHECK(w.pack().format().has_wide_scales);
}

TEST_CASE("code_gemm: packed codes take the room that the contract says") {
  const weights w{{129, 300}, 64, {.bits = 3, .has_zeros = true, .has_offsets = true}};
  const packed_codes packed = w.pack();
  CHECK(packed.shape() == shape2{129, 300});
  CHECK(packed.runs() == code_runs(300, 64));
  CHECK(packed.tiles() == 2);
  // 5 runs of 16 quads of 3 * 64 bytes, scales and offsets of 2 bytes, zeros of one, for 128 rows.
  CHECK(packed.size_bytes() == 2 * 5 * (16 * 192 + 128 * (2 + 2 + 1)));
  CHECK(packed.tile(1).size() == packed.size_bytes() / 2);
}

TEST_CASE("code_gemm: planes that share a scale store it once, as fp16, whatever the ratios") {
  weights w{
      {130, 256}, 128, {.bits = 1, .planes = 2, .code_step = 2, .zero = 1, .has_ratios = true}};
  w.format.ratios[0] = 0.1F;  // no fp16
  w.format.ratios[1] = -0.7F;
  const packed_codes packed = w.pack();
  CHECK_FALSE(packed.format().has_wide_scales);
  // 2 tiles of 2 runs: 2 planes of 32 quads of 64 bytes, a scale of 2 bytes for 128 rows.
  CHECK(packed.size_bytes() == 2 * 2 * (2 * 32 * 64 + 128 * 2));
  std::size_t wrong = 0;
  for (index_t r = 0; r < w.shape.rows; ++r) {
    for (index_t g = 0; g < 2; ++g) {
      const code_format& f = packed.format();
      const std::uint8_t* const run = packed.tile(r / 128).data() + g * f.run_bytes(32);
      wrong += kernels::scalar::code_gemm_detail::real_at(f, run, r % 128) != w.real(2, r, g, 0);
      for (index_t p = 0; p < 2; ++p) {
        for (index_t k = 0; k < 128; ++k) {
          const std::int32_t code = kernels::scalar::code_gemm_detail::code_at(
              f, run + f.codes_at(p, 32) + k / 4 * 64, r % 128, k % 4);
          wrong += code != w.code(r, p, g * 128 + k);
        }
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("code_gemm: codes lie where the contract says, and padding is zero") {
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    const weights w{{130, 70}, 33, {.bits = bits, .zero = 1}};
    const packed_codes packed = w.pack();
    const code_runs& runs = packed.runs();
    REQUIRE(runs.quads() == 9);  // 36 columns for 33, 33 and 4
    const code_format& f = packed.format();
    std::size_t wrong = 0;
    for (index_t r = 0; r < 256; ++r) {
      for (index_t g = 0; g < runs.count(); ++g) {
        const std::uint8_t* const codes =
            packed.tile(r / 128).data() + g * f.run_bytes(9) + f.scale_bytes();
        for (index_t k = 0; k < 36; ++k) {
          const unsigned code = static_cast<unsigned>(kernels::scalar::code_gemm_detail::code_at(
              f, codes + k / 4 * 64 * bits, r % 128, k % 4));
          const bool is_padding = r >= 130 || k >= runs.size(g);
          wrong += code != (is_padding ? 0U : w.code(r, 0, runs.begin(g) + k)) ? 1U : 0U;
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("code_gemm: empty operands give empty or zero products") {
  const auto multiply = [](index_t m, index_t n, index_t k, index_t group_size, bool per_group) {
    const weights w{{n, k}, group_size, {.bits = 4, .zero = 8}};
    const int8_activations x = quantize(m, k, {.group_size = group_size, .per_group = per_group});
    return product(w.pack(), x, context::best());
  };
  for (const index_t group_size : {0U, 5U}) {
    for (const bool per_group : {false, true}) {
      CHECK(multiply(0, 3, 10, group_size, per_group).empty());
      CHECK(multiply(3, 0, 10, group_size, per_group).empty());
      CHECK(multiply(0, 0, 0, group_size, per_group).empty());
      CHECK(multiply(2, 3, 0, group_size, per_group) == std::vector<float>(6, 0.0F));
      CHECK(multiply(20, 130, 0, group_size, per_group) == std::vector<float>(2600, 0.0F));
    }
  }
  float y = -1.0F;
  code_gemm({}, {}, {&y, 0, 0}, {});
  CHECK(y == -1.0F);
}

TEST_CASE("code_gemm: what cannot be multiplied is refused with its numbers") {
  const packed_codes w = weights{{8, 100}, 50, {.bits = 4}}.pack();
  const int8_activations x = quantize(3, 100, {.group_size = 50});
  std::vector<float> y(24, 5.0F);
  const auto refusal = [&](const int8_activations& a, index_t m, index_t n) {
    return message_of<shape_error>([&] { code_gemm(w, a, {y.data(), m, n}, {}); });
  };
  CHECK(refusal(x, 8, 3) == "the product is [3, 8], the output [8, 3]");
  CHECK(refusal(x, 3, 7) == "the product is [3, 8], the output [3, 7]");
  CHECK(refusal(quantize(3, 99, {.group_size = 50}), 3, 8) ==
        "weights have 100 columns, activations 99");
  CHECK(refusal(quantize(3, 100, {.group_size = 20}), 3, 8) ==
        "weights are packed in groups of 50, activations of 20");
  CHECK(refusal(quantize(3, 100, {}), 3, 8) ==
        "weights are packed in groups of 50, activations of 100");
  CHECK(y == std::vector<float>(24, 5.0F));
  CHECK_NOTHROW(code_gemm(w, x, {y.data(), 3, 8}, {}));
}

TEST_CASE("code_gemm: formats that the contract does not know are refused") {
  const auto refusal = [](const code_format& f) {
    return message_of<value_error>([&] { (void)weights{{2, 8}, 0, f}.pack(); });
  };
  const auto accepted = [](const code_format& f) {
    return (weights{{2, 8}, 0, f}.pack().size_bytes()) != 0;
  };
  for (const unsigned bits : {0U, 5U, 6U, 7U, 9U, 16U}) {
    CHECK(refusal({.bits = bits}) ==
          "code_gemm has codes of 1, 2, 3, 4 and 8 bits, not " + std::to_string(bits));
  }
  CHECK(refusal({.bits = 2, .planes = 2}) ==
        "2 planes of 2 bits: code_gemm takes one plane, or up to 8 of 1 bit");
  CHECK(refusal({.bits = 1, .planes = 9}) ==
        "9 planes of 1 bits: code_gemm takes one plane, or up to 8 of 1 bit");
  CHECK(refusal({.bits = 1, .planes = 0}) ==
        "0 planes of 1 bits: code_gemm takes one plane, or up to 8 of 1 bit");
  CHECK(refusal({.bits = 2, .code_step = 2}) ==
        "code_step = 2 with 2 bits: it is 1, or 2 for 1-bit codes");
  CHECK(refusal({.bits = 1, .code_step = 3}) ==
        "code_step = 3 with 1 bits: it is 1, or 2 for 1-bit codes");
  CHECK(refusal({.bits = 4, .zero = -1}) == "zero = -1 is outside 0..255");
  CHECK(refusal({.bits = 4, .zero = 256}) == "zero = 256 is outside 0..255");
  const std::string zeros = "zeros per group go with one plane and code_step 1";
  CHECK(refusal({.bits = 1, .planes = 2, .has_zeros = true}) == zeros);
  CHECK(refusal({.bits = 1, .code_step = 2, .has_zeros = true}) == zeros);
  CHECK(refusal({.bits = 8, .has_book = true}) == "a code book goes with 4 bits, not 8");
  CHECK(refusal({.bits = 2, .has_ratios = true}) ==
        "planes of 2 bits share no scale: those of 1 bit do");
  CHECK(accepted({.bits = 1, .planes = 8, .code_step = 2, .zero = 255}));
  CHECK(accepted({.bits = 1, .planes = 8, .code_step = 2, .zero = 255, .has_ratios = true}));
  CHECK(accepted({.bits = 4, .zero = 0, .has_book = true}));
}
