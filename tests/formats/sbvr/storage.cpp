// What is stored: bits, buffers, refusals, and the tensor of the first planes.
#include <cmath>
#include <cstring>

#include "catch.hpp"
#include "common.hpp"
#include "lowbit/ops/evaluate.hpp"
#include "lowbit/testing/buffers.hpp"

using namespace sbvr_test;
using testing::stored_buffer;

namespace {

template <class F>
void check_refused(F&& f, error_kind kind, const std::string& part) {
  try {
    f();
    FAIL_CHECK("was accepted, instead of: " << part);
  } catch (const error& e) {
    INFO(e.what());
    CHECK(e.kind() == kind);
    CHECK(std::string(e.what()).find(part) != std::string::npos);
  }
}

stored_buffer& find(std::vector<stored_buffer>& buffers, std::string_view name) {
  for (auto& b : buffers) {
    if (b.name == name) return b;
  }
  FAIL("there is no buffer " << name);
  return buffers.front();
}

template <class T>
void put(stored_buffer& b, index_t i, T value) {
  std::memcpy(b.bytes.data() + i * sizeof(T), &value, sizeof(T));
}

}  // namespace

TEST_CASE("sbvr: bits per weight count everything") {
  const auto m = testing::normal_matrix({8, 1024}, 31);
  const auto bits = [&](formats::sbvr::params p) {
    return sbvr_quantizer{.params = p}.quantize(m.view()).storage_bits();
  };
  const std::uint64_t weights = 8 * 1024;
  using enum sbvr_coefficients;
  CHECK(bits({.planes = 2}) == 2 * weights + 64 * 16 + 2 * 16);
  CHECK(bits({.planes = 3, .scale_type = scale_type::fp32, .scale_bits = 5}) ==
        3 * weights + 8 * 5 * 8 + 8 * 32 + 3 * 16);
  CHECK(bits({.planes = 4, .coefficients = per_group, .offset = sbvr_offset::per_group}) ==
        4 * weights + 64 * 5 * 16);
  CHECK(bits({.planes = 4, .coefficients = table, .group_size = 256, .table_lines = 7}) ==
        4 * weights + 32 * 8 + 7 * 4 * 16);
  CHECK(bits({.planes = 1,
              .coefficients = table,
              .offset = sbvr_offset::per_group,
              .index_bits = 16,
              .table_lines = 5}) == weights + 64 * 16 + 5 * 2 * 16);
}

TEST_CASE("sbvr: a table has no more lines than there are groups") {
  const auto m = testing::normal_matrix({2, 256}, 32);
  sbvr_quantizer q{.params = {.coefficients = sbvr_coefficients::table}};
  CHECK(q.quantize(m.view()).params().table_lines == 4);
  CHECK(q.quantize({nullptr, 0, 256}).params().table_lines == 1);
  q.params.table_lines = 3;
  CHECK(q.quantize(m.view()).params().table_lines == 3);
}

TEST_CASE("sbvr: values by hand") {
  // Ratios 2 and 0.5, scale 3, offset 1, codes 0 .. 3.
  formats::sbvr_codebook codebook(
      {.planes = 2, .group_size = 32, .offset = sbvr_offset::per_group});
  codebook.set_ratios(std::vector<float>{2.0F, 0.5F});
  sbvr_tensor t({1, 4}, codebook);
  t.set_codes(0, std::vector<std::uint8_t>{0, 1, 2, 3});
  t.set_levels(0, 0, {.scale = 3.0F, .offset = 1.0F});
  CHECK(values_of(t) == std::vector<float>{-6.5F, 5.5F, -3.5F, 8.5F});
  CHECK(t.planes().row(0, 0)[0] == 0b1010);
  CHECK(t.planes().row(1, 0)[0] == 0b1100);
  std::vector<float> c(2);
  CHECK(t.plane_coefficients(0, 0, c) == -6.5F);
  CHECK(c == std::vector<float>{12.0F, 3.0F});
}

TEST_CASE("sbvr: what no quantizer writes is refused") {
  const auto m = testing::normal_matrix({2, 70}, 33);
  const auto damage = [&](formats::sbvr::params p, std::string_view buffer, auto&& change,
                          const std::string& part) {
    const auto t = sbvr_quantizer{.params = p}.quantize(m.view());
    auto buffers = testing::copy_buffers(t);
    change(find(buffers, buffer));
    check_refused(
        [&] {
          testing::memory_source source(buffers);
          static_cast<void>(sbvr_tensor::from_buffers(t.shape(), t.params(), source));
        },
        error_kind::format, part);
  };
  const std::uint16_t infinite = 0x7c00;
  const std::uint16_t negative = 0xbc00;
  const float huge = 3e38F;
  using enum sbvr_coefficients;
  damage(
      {}, "planes", [](auto& b) { put(b, 1, ~std::uint64_t{0}); }, "past column 70");
  damage(
      {}, "scales", [&](auto& b) { put(b, 1, infinite); }, "scales [1, 0]");
  damage(
      {}, "scales", [&](auto& b) { put(b, 0, negative); }, "scales [0, 0] is -1");
  damage(
      {}, "ratios", [&](auto& b) { put(b, 2, infinite); }, "ratios [0, 2]");
  damage(
      {.scale_type = scale_type::fp32}, "scales", [&](auto& b) { put(b, 1, huge); },
      "row 1, group 0: its levels overflow");
  damage(
      {.scale_bits = 4}, "row_scales", [&](auto& b) { put(b, 1, negative); }, "[1, 0]");
  damage(
      {.offset = sbvr_offset::per_group}, "offsets", [&](auto& b) { put(b, 0, infinite); },
      "offsets [0, 0]");
  damage(
      {.coefficients = per_group}, "coefficients", [&](auto& b) { put(b, 5, infinite); }, "[1, 1]");
  damage(
      {.coefficients = table}, "table", [&](auto& b) { put(b, 1, infinite); }, "table [0, 1]");
  damage(
      {.coefficients = table, .scale_type = scale_type::fp32}, "table",
      [&](auto& b) { put(b, 4, huge); }, "line 1 of the table");
  damage(
      {.coefficients = table}, "indices", [](auto& b) { put(b, 1, std::uint8_t{2}); },
      "indices [1, 0] is 2, the table has 2 lines");
  damage(
      {.coefficients = table, .index_bits = 16}, "indices",
      [](auto& b) { put(b, 0, std::uint16_t{700}); }, "indices [0, 0] is 700");
}

TEST_CASE("sbvr: params that do not exist, and levels that do not fit, are refused") {
  const auto m = testing::make_matrix("large", {2, 64}, [](index_t r, index_t c) {
    return r == 1 ? 1e6F * random_normal(1, c) : 1.0F;
  });
  const auto quantize = [&](formats::sbvr::params p) {
    return [&m, p] { static_cast<void>(sbvr_quantizer{.params = p}.quantize(m.view())); };
  };
  check_refused(quantize({.scale_bits = 2}), error_kind::value, "scale_bits = 2");
  check_refused(quantize({.index_bits = 9}), error_kind::value, "index_bits = 9");
  check_refused(quantize({}), error_kind::value, "row 1, group 0");
  check_refused(quantize({.coefficients = sbvr_coefficients::per_group}), error_kind::value,
                "row 1, group 0");
  check_refused(
      [] {
        sbvr_tensor({1, 1}, {.coefficients = sbvr_coefficients::table, .table_lines = 257});
      },
      error_kind::value, "table_lines = 257");
  quantize({.scale_type = scale_type::bf16})();
}

TEST_CASE("sbvr: stated results") {
  for (const auto& p : configurations({1, 2, 4})) {
    INFO(text(p));
    const sbvr_quantizer q{.params = p};
    // A row of zeros beside others: +0, whatever their sign.
    auto m = testing::normal_matrix({3, 64}, 34);
    for (index_t c = 0; c < 64; ++c) m.values[64 + c] = c % 2 == 0 ? 0.0F : -0.0F;
    const auto zeros = values_of(q.quantize(m.view()));
    for (index_t c = 0; c < 64; ++c) {
      CHECK(zeros[64 + c] == 0.0F);
      CHECK(!std::signbit(zeros[64 + c]));
    }
    // One plane of 0 and 1 with a ratio of the tensor reaches values of one sign only.
    if (p.planes == 1 && p.basis == sbvr_basis::zero_one && !p.has_offset() &&
        p.coefficients == sbvr_coefficients::shared_ratios) {
      continue;
    }
    // A constant that fp16 holds is exact with an offset, or with a coefficient for it alone.
    const bool exact = p.has_offset() || p.coefficients != sbvr_coefficients::shared_ratios;
    const auto constant =
        testing::make_matrix("constant", {2, 64}, [](index_t, index_t) { return 0.375F; });
    for (const float v : values_of(q.quantize(constant.view()))) {
      CHECK(std::fabs(v - 0.375F) <= (exact ? 0x1p-14F : 0.375F * 0.1F));
    }
  }
}

TEST_CASE("sbvr: the first planes are a coarser tensor") {
  const auto m = testing::normal_matrix({32, 512}, 35);
  for (auto p : configurations({4})) {
    INFO(text(p));
    const sbvr_quantizer q{.params = p};
    const auto t = q.quantize(m.view());
    double before = std::numeric_limits<double>::infinity();
    for (unsigned count = 1; count <= 4; ++count) {
      const auto coarse = t.first_planes(count);
      CHECK(coarse.params().planes == count);
      CHECK(coarse.storage_bits() < t.storage_bits() + (count == 4 ? 1 : 0));
      const double error = ops::weight_error(m.view(), coarse).relative_mse();
      // Without an offset, codes of 0 and 1 have no mean to hold when planes are dropped.
      if (p.basis == sbvr_basis::sign || p.has_offset()) CHECK(error < before);
      before = error;
      if (count < 4) {
        auto buffers = testing::copy_buffers(coarse);
        testing::memory_source source(buffers);
        const auto again = sbvr_tensor::from_buffers(coarse.shape(), coarse.params(), source);
        CHECK(values_of(again) == values_of(coarse));
      }
    }
    CHECK(testing::first_difference(testing::copy_buffers(t),
                                    testing::copy_buffers(t.first_planes(4)))
              .empty());
  }
  const auto t = sbvr_quantizer{}.quantize(m.view());
  check_refused([&] { static_cast<void>(t.first_planes(0)); }, error_kind::value, "(0) of 4");
  check_refused([&] { static_cast<void>(t.first_planes(5)); }, error_kind::value, "(5) of 4");
}
