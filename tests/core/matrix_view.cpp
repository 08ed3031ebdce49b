#include "lowbit/core/matrix_view.hpp"

#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "catch.hpp"

using namespace lowbit;
using lowbit_test::message_of;

TEST_CASE("matrix_view: rows, elements and strides") {
  std::vector<float> data(5 * 7);
  std::iota(data.begin(), data.end(), 0.0F);
  const matrix_view<float> m(data.data(), 5, 4, 7);
  CHECK(m.rows() == 5);
  CHECK(m.cols() == 4);
  CHECK(m.row_stride() == 7);
  CHECK(m.shape() == shape2{5, 4});
  CHECK_FALSE(m.empty());
  CHECK(m(0, 0) == 0.0F);
  CHECK(m(4, 3) == 31.0F);
  CHECK(m.row(2).size() == 4);
  CHECK(m.row(2)[0] == 14.0F);
  m(1, 1) = -1.0F;
  CHECK(data[8] == -1.0F);

  const matrix_view<float> dense(data.data(), 5, 7);
  CHECK(dense.row_stride() == 7);
  CHECK(dense(1, 2) == 9.0F);
}

TEST_CASE("matrix_view: parts are views of the same memory") {
  std::vector<int> data(6 * 10);
  std::iota(data.begin(), data.end(), 0);
  const matrix_view<int> m(data.data(), 6, 8, 10);
  const auto rows = m.middle_rows({2, 5});
  CHECK(rows.shape() == shape2{3, 8});
  CHECK(rows(0, 0) == 20);
  CHECK(rows.row_stride() == 10);
  const auto part = rows.middle_cols(3, 6);
  CHECK(part.shape() == shape2{3, 3});
  CHECK(part(2, 2) == 45);
  CHECK(&part(0, 0) == &data[23]);
  CHECK(m.middle_rows({6, 6}).empty());
  CHECK(m.middle_cols(8, 8).empty());
  CHECK(m.middle_rows({0, 6}).shape() == m.shape());
}

TEST_CASE("matrix_view: a view to write becomes a view to read, never the reverse") {
  static_assert(std::is_convertible_v<matrix_view<float>, matrix_view<const float>>);
  static_assert(!std::is_convertible_v<matrix_view<const float>, matrix_view<float>>);
  static_assert(!std::is_convertible_v<matrix_view<double>, matrix_view<const float>>);
  static_assert(std::is_trivially_copyable_v<matrix_view<float>>);
  static_assert(matrix_view<const float>{}.empty());
  static constexpr float constant[] = {1, 2, 3, 4, 5, 6};
  static_assert(matrix_view<const float>(constant, 2, 3)(1, 2) == 6.0F);
  float x = 2.0F;
  const matrix_view<const float> read = matrix_view<float>(&x, 1, 1);
  CHECK(&read(0, 0) == &x);
}

TEST_CASE("shape2: the number of elements is refused when it overflows") {
  CHECK(shape2{3, 4}.size() == 12);
  CHECK(shape2{0, ~index_t{0}}.size() == 0);
  CHECK(message_of<shape_error>([] {
          (void)shape2{index_t{1} << 33U, index_t{1} << 31U}.size();
        }) == "shape: 8589934592 * 2147483648 overflows 64 bits");
}

TEST_CASE("check_row_range: inside, at the ends, outside and reversed") {
  CHECK_NOTHROW(check_row_range({0, 10}, 10));
  CHECK_NOTHROW(check_row_range({10, 10}, 10));
  CHECK_NOTHROW(check_row_range({0, 0}, 0));
  CHECK(message_of<shape_error>([] {
          check_row_range({0, 11}, 10);
        }) == "row range [0, 11) does not lie in a matrix of 10 rows");
  CHECK(message_of<shape_error>([] {
          check_row_range({5, 4}, 10);
        }) == "row range [5, 4) does not lie in a matrix of 10 rows");
  CHECK_THROWS_AS(check_row_range({~index_t{0}, ~index_t{0}}, 10), shape_error);
  static_assert(row_range{3, 8}.size() == 5);
}
