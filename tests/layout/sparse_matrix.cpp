// layout/sparse_matrix.hpp: the code of places, there and back, and what no encoder writes.
#include "lowbit/layout/sparse_matrix.hpp"

#include <string>
#include <tuple>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"

using namespace lowbit;
using layout::sparse_extents;
using layout::sparse_matrix;

namespace {

std::vector<float> numbers(index_t count) {
  std::vector<float> v;
  for (index_t i = 0; i < count; ++i) v.push_back(static_cast<float>(i) - 3.0F);
  return v;
}

/// A matrix as three arrays that may be damaged.
struct stored {
  shape2 shape;
  std::vector<float16> values;
  std::vector<std::uint8_t> deltas;
  std::vector<std::uint32_t> ends;

  explicit stored(const sparse_matrix& m)
      : shape(m.shape()),
        values(m.values().begin(), m.values().end()),
        deltas(m.deltas().begin(), m.deltas().end()),
        ends(m.ends().begin(), m.ends().end()) {}

  [[nodiscard]] sparse_matrix read() const {
    const sparse_extents extents{static_cast<std::uint32_t>(values.size()),
                                 static_cast<std::uint32_t>(deltas.size())};
    return sparse_matrix::from_bytes(
        shape, extents,
        {std::as_bytes(std::span(values)), std::as_bytes(std::span(deltas)),
         std::as_bytes(std::span(ends))});
  }
};

using entries = std::vector<std::tuple<index_t, index_t, float>>;

entries entries_of(const sparse_matrix& m, row_range rows) {
  entries list;
  m.for_each(rows, [&](index_t r, index_t k, float16 v) { list.emplace_back(r, k, to_float(v)); });
  return list;
}

}  // namespace

TEST_CASE("sparse_matrix gives back what was put in, for any rows") {
  for (const shape2 shape : {shape2{1, 1}, {5, 7}, {16, 255}, {17, 256}, {40, 100}, {33, 1}}) {
    for (const float density : {0.0F, 0.002F, 0.02F, 0.3F, 1.0F}) {
      std::vector<index_t> places;
      for (index_t i = 0; i < shape.size(); ++i) {
        if (random_uniform(5, i) < density) places.push_back(i);
      }
      const auto values = numbers(places.size());
      const sparse_matrix m(shape, places, values);
      CAPTURE(shape.rows, shape.cols, density);
      CHECK(m.count() == places.size());
      CHECK(m.extents() == sparse_matrix::extents_of(shape, places));
      const std::uint64_t bits = 16 * m.count() + 8 * m.deltas().size() + 32 * m.ends().size();
      CHECK(sparse_matrix::storage_bits(shape, m.extents()) == bits);
      for (index_t begin = 0; begin <= shape.rows; begin += 3) {
        for (index_t end = begin; end <= shape.rows; end += 5) {
          entries expected;
          for (index_t i = 0; i < places.size(); ++i) {
            const index_t row = places[i] / shape.cols;
            if (row < begin || row >= end) continue;
            expected.emplace_back(row, places[i] % shape.cols,
                                  to_float(from_float<float16>(values[i])));
          }
          REQUIRE(entries_of(m, {begin, end}) == expected);
        }
      }
      const sparse_matrix again = stored(m).read();
      CHECK(entries_of(again, {0, shape.rows}) == entries_of(m, {0, shape.rows}));
    }
  }
}

TEST_CASE("sparse_matrix: the code, spelled out") {
  // Blocks of 16 rows of 100 places; gaps around one and two skips.
  const shape2 shape{33, 100};
  const std::vector<index_t> places{0, 1, 256, 512, 1600 + 255, 3200 + 99};
  const sparse_matrix m(shape, places, numbers(6));
  const auto bytes = m.deltas();
  // 0 | 0 | gap 254 | gap 255 | next block: gap 255 | next block: 99
  CHECK(std::vector<std::uint8_t>(bytes.begin(), bytes.end()) ==
        std::vector<std::uint8_t>{0, 0, 254, 255, 0, 255, 0, 99});
  const auto ends = m.ends();
  CHECK(std::vector<std::uint32_t>(ends.begin(), ends.end()) ==
        std::vector<std::uint32_t>{4, 5, 5, 7, 6, 8});
  const sparse_matrix gap(shape2{40, 100}, std::vector<index_t>{3205}, numbers(1));
  CHECK(std::vector<std::uint32_t>(gap.ends().begin(), gap.ends().end()) ==
        std::vector<std::uint32_t>{0, 0, 0, 0, 1, 1});
}

TEST_CASE("sparse_matrix: values at random cost what the header says") {
  const shape2 shape{1024, 1024};
  std::vector<index_t> places;
  for (index_t i = 0; i < shape.size(); ++i) {
    if (random_uniform(9, i) < 0.005F) places.push_back(i);
  }
  const auto bits = static_cast<double>(
      sparse_matrix::storage_bits(shape, sparse_matrix::extents_of(shape, places)));
  // 16 + 8 / (1 - .995^255) = 27.1 and 64 bits per block of 82: 27.9. 5243 gaps, whose skips have a
  // deviation of 5 bits: 0.07 for their mean.
  CHECK(std::fabs(bits / static_cast<double>(places.size()) - 27.9) < 0.3);
}

TEST_CASE("sparse_matrix refuses places and values that it cannot hold") {
  const auto make = [](std::vector<index_t> places, std::vector<float> values) {
    return sparse_matrix({4, 5}, places, values);
  };
  CHECK_THROWS_AS(make({3, 3}, {1, 1}), value_error);
  CHECK_THROWS_AS(make({3, 2}, {1, 1}), value_error);
  CHECK_THROWS_AS(make({20}, {1}), value_error);
  CHECK_THROWS_AS(make({3}, {1, 1}), shape_error);
  CHECK_THROWS_AS(make({3}, {65520.0F}), value_error);  // rounds to infinity
  CHECK(make({3}, {65519.0F}).count() == 1);
  CHECK_THROWS_AS(make({3}, {std::numeric_limits<float>::quiet_NaN()}), value_error);
  CHECK(sparse_matrix({5, 0}, {}, {}).ends().empty());
  CHECK(sparse_matrix({0, 5}, {}, {}).count() == 0);
}

TEST_CASE("sparse_matrix refuses bytes that no encoder writes") {
  const shape2 shape{33, 100};
  const stored good(
      sparse_matrix(shape, std::vector<index_t>{0, 256, 512, 1855, 3299}, numbers(5)));
  CHECK_NOTHROW(good.read());
  const auto refuses = [&](auto damage) {
    stored bad = good;
    damage(bad);
    CHECK_THROWS_AS(bad.read(), format_error);
  };
  refuses([](stored& s) { s.values[2] = {0x7c00}; });           // infinity
  refuses([](stored& s) { s.values[2] = {0xfe01}; });           // NaN
  refuses([](stored& s) { s.deltas.back() = 100; });            // outside the last row
  refuses([](stored& s) { s.deltas.back() = 255; });            // a skip to nowhere
  refuses([](stored& s) { s.deltas.front() = 255; });           // one value less
  refuses([](stored& s) { s.ends[0] += 1; });                   // another number of values
  refuses([](stored& s) { s.ends[1] -= 1; });                   // a byte of another block
  refuses([](stored& s) { s.ends[3] = 0; });                    // backwards
  refuses([](stored& s) { s.ends[3] = 0xffffffffU; });          // beyond the bytes
  refuses([](stored& s) { s.ends[5] -= 1; });                   // bytes that belong to no block
  refuses([](stored& s) { s.values.push_back(s.values[0]); });  // a value without a place
  refuses([](stored& s) { s.deltas.push_back(0); });
}
