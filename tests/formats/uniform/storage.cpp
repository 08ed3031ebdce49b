// What the uniform format stores, bit for bit and bit by bit counted, and what it refuses to read.
#include <numeric>

#include "catch.hpp"
#include "oracle.hpp"

namespace {

using namespace uniform_oracle;
using lowbit::bits_per_weight;
using lowbit::buffer_source;
using lowbit::element_type;
using lowbit::testing::copy_buffers;
using lowbit::testing::memory_source;
using lowbit::testing::normal_matrix;
using lowbit::testing::stored_buffer;
using lowbit_test::message_of;

const auto normal = normal_matrix({3, 130}, 13);

}  // namespace

TEST_CASE("bits per weight: the formula of the README") {
  index_t settings = 0;
  for_each_setting([&](const uniform_quantizer& q) {
    ++settings;
    const uniform_tensor t = q.quantize(normal.view(), {});
    const index_t rows = 3;
    const index_t padded = 512;  // columns of a plane
    const index_t groups = stored_uniform(t).groups();
    const index_t scale_rows = q.params.granularity == granularity::tensor ? 1 : rows;
    const index_t real_bits = q.params.scale_type == scale_type::fp32 ? 32 : 16;
    index_t bits = q.params.bits * rows * padded + scale_rows * groups * real_bits;
    if (q.params.kind == symmetry::offset) bits += scale_rows * groups * real_bits;
    if (q.params.kind == symmetry::asymmetric) {
      bits += scale_rows * 8 * ((groups * q.params.bits + 7) / 8);
    }
    CAPTURE(text(q));
    if (t.storage_bits() != bits) CHECK(t.storage_bits() == bits);
  });
  CHECK(settings == settings_count);
}

TEST_CASE("4 bits in groups of 64 with fp16 scales are 4.25 bits per weight") {
  const std::vector<float> w(2 * 1024, 1.0F);
  CHECK(bits_per_weight(uniform_quantizer{}.quantize({w.data(), 2, 1024}, {})) == 4.25);
}

TEST_CASE("the stored bytes, spelled out") {
  // 3 bits, integer zero point, groups of 2: scale 0.5, codes (x / 0.5) + zero point.
  const std::vector<float> row = {-1.0F, 2.5F, 3.5F, 0.0F, 0.5F};
  uniform_quantizer q;
  q.params = {.bits = 3, .kind = symmetry::asymmetric, .group_size = 2};
  const auto buffers = copy_buffers(q.quantize({row.data(), 1, 5}, {}));
  REQUIRE(buffers.size() == 3);

  // Codes 0 7 | 7 0 | 7; the last group is {0.5}, whose scale is 0.5 / 7.
  CHECK(buffers[0].name == "planes");
  CHECK(buffers[0].type == element_type::u64);
  CHECK(buffers[0].shape == std::vector<index_t>{3, 1, 8});
  for (index_t i = 0; i < buffers[0].bytes.size(); ++i) {
    CHECK(buffers[0].bytes[i] == std::byte{i % 64 == 0 ? std::uint8_t{0b10110} : std::uint8_t{0}});
  }

  CHECK(buffers[1].name == "scales");
  CHECK(buffers[1].type == element_type::f16);
  CHECK(buffers[1].shape == std::vector<index_t>{1, 3});
  const std::uint8_t scales[] = {0x00, 0x38, 0x00, 0x38, 0x92, 0x2c};  // 0.5, 0.5, 0.0714...
  REQUIRE(buffers[1].bytes.size() == sizeof scales);
  for (index_t i = 0; i < sizeof scales; ++i) CHECK(buffers[1].bytes[i] == std::byte{scales[i]});

  // Zero points 2, 0, 0 in 3 bits each, the first in the lowest bits.
  CHECK(buffers[2].name == "zero_points");
  CHECK(buffers[2].type == element_type::u8);
  CHECK(buffers[2].shape == std::vector<index_t>{1, 2});
  CHECK(buffers[2].bytes == std::vector<std::byte>{std::byte{2}, std::byte{0}});
}

TEST_CASE("what no quantizer writes is refused when it is read") {
  uniform_quantizer q;
  q.params = {.bits = 2, .kind = symmetry::offset, .scale_type = scale_type::fp32};
  const uniform_tensor t = q.quantize(normal.view(), {});
  const auto read_with = [&](std::string_view name, index_t offset, float value) {
    auto buffers = copy_buffers(t);
    for (stored_buffer& b : buffers) {
      if (b.name == name) std::memcpy(b.bytes.data() + offset, &value, sizeof value);
    }
    memory_source source(std::move(buffers));
    return message_of<lowbit::format_error>(
        [&] { return uniform_tensor::from_buffers(t.shape(), t.params(), source); });
  };
  CHECK(read_with("scales", 4 * 4, -1.0F) == "scales [1, 1] is -1");
  CHECK(read_with("scales", 0, std::numeric_limits<float>::quiet_NaN()) == "scales [0, 0] is nan");
  CHECK(read_with("offsets", 8, std::numeric_limits<float>::infinity()) == "offsets [0, 2] is inf");
  CHECK(read_with("scales", 0, 3e38F) == "scales [0, 0] is 3e+38: its levels overflow");
  // Columns 130 to 511 are padding: byte 20 of a row holds columns 160 to 167.
  CHECK(read_with("planes", 20, 1.0F) == "planes have set bits past column 130");
}

TEST_CASE("params out of range are refused before a buffer is asked for") {
  struct : buffer_source {
    std::span<const std::byte> get(std::string_view, element_type,
                                   std::span<const index_t>) override {
      FAIL("a buffer was asked for");
      return {};
    }
  } source;
  uniform_params bad;
  bad.bits = 9;
  CHECK(message_of<lowbit::value_error>([&] {
          return uniform_tensor::from_buffers({1, 1}, bad, source);
        }) == "bits = 9 is outside 1..8");
  bad = {};
  bad.group_size = 0;
  CHECK(message_of<lowbit::value_error>([&] {
          return uniform_tensor::from_buffers({1, 1}, bad, source);
        }) == "group_size = 0 is outside 1..4294967295");
}

TEST_CASE("a shape beyond all memory costs nothing unless the source holds the buffers") {
  memory_source empty({});
  uniform_params params;
  for (const shape2 shape :
       {shape2{index_t{1} << 40U, 1}, shape2{1, index_t{1} << 50U},
        shape2{index_t{1} << 31U, index_t{1} << 31U}, shape2{~index_t{0}, ~index_t{0}}}) {
    CHECK(message_of<lowbit::format_error>([&] {
            return uniform_tensor::from_buffers(shape, params, empty);
          }) == "there is no buffer 'planes'");
  }
}
