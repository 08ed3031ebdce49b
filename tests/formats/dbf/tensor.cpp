// formats/dbf/tensor.hpp: what is stored, what it means, and products made of it.
#include "lowbit/formats/dbf/tensor.hpp"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/format.hpp"

using namespace lowbit;
using formats::dbf;
using formats::dbf_tensor;

namespace {

constexpr std::uint64_t seed = 20261126;

void randomize(layout::enveloped_signs& f, std::uint64_t stream) {
  const shape2 shape = f.shape();
  std::vector<std::uint8_t> bits(shape.cols);
  for (index_t r = 0; r < shape.rows; ++r) {
    for (index_t c = 0; c < shape.cols; ++c) {
      bits[c] = static_cast<std::uint8_t>(random_bits(seed + stream, r * shape.cols + c) & 1U);
    }
    f.signs().set_row(r, bits);
  }
  for (index_t j = 0; j < f.rank(); ++j) {
    for (index_t i = 0; i < shape.rows; ++i) {
      f.row_envelopes().set(j, i, random_normal(seed + stream + 1, j * shape.rows + i));
    }
    for (index_t i = 0; i < shape.cols; ++i) {
      f.column_envelopes().set(j, i, random_normal(seed + stream + 2, j * shape.cols + i));
    }
  }
}

[[nodiscard]] dbf_tensor random_tensor(shape2 shape, const dbf::params& params) {
  dbf_tensor t(shape, params);
  for (unsigned p = 0; p < params.paths; ++p) {
    randomize(t.input_factor(p), 10 * p);
    randomize(t.output_factor(p), 10 * p + 5);
  }
  return t;
}

/// Element (n, k) of a factor, in double.
[[nodiscard]] double element(const layout::enveloped_signs& f, index_t n, index_t k) {
  double sum = 0.0;
  for (index_t j = 0; j < f.rank(); ++j) {
    sum += static_cast<double>(f.row_envelopes().get(j, n)) *
           static_cast<double>(f.column_envelopes().get(j, k));
  }
  return f.signs().is_positive(n, k) ? sum : -sum;
}

}  // namespace

TEST_CASE("the middle is what methods.md 2.3 tabulates, and every bit of it is counted") {
  struct row {
    shape2 shape;
    std::uint32_t middle[5];
  };
  constexpr unsigned ranks[] = {1, 2, 4, 8, 1};
  constexpr unsigned paths[] = {1, 1, 1, 1, 2};
  constexpr row table[] = {{{896, 896}, {424, 401, 358, 280, 204}},
                           {{2048, 2048}, {1000, 976, 930, 843, 492}},
                           {{4096, 4096}, {2024, 2000, 1953, 1861, 1004}},
                           {{14336, 4096}, {3164, 3142, 3100, 3015, 1574}}};
  for (const row& r : table) {
    for (std::size_t i = 0; i < std::size(ranks); ++i) {
      dbf::params p{.envelope_rank = ranks[i], .paths = paths[i]};
      p.middle = dbf::middle_for(r.shape, 1.0, p);
      INFO("[" << r.shape.rows << ", " << r.shape.cols << "], l = " << ranks[i]
               << ", P = " << paths[i]);
      CHECK(p.middle == r.middle[i]);
      const index_t sides = r.shape.rows + r.shape.cols;
      const std::uint64_t bits =
          std::uint64_t{paths[i]} *
          (p.middle * sides + 16 * ranks[i] * (sides + 2 * index_t{p.middle}));
      CHECK(dbf::stored_bits(r.shape, p) == bits);
      CHECK(bits <= r.shape.size());
      if (r.shape.rows <= 2048) {
        const dbf_tensor t(r.shape, p);
        CHECK(t.storage_bits() == bits);
        CHECK(count_buffer_bits(t) == bits);
      }
    }
  }
}

TEST_CASE("the middle stays between 1 and the smaller side") {
  CHECK(dbf::middle_for({8, 8}, 1.0, {}) == 1);
  CHECK(dbf::middle_for({64, 300}, 30.0, {}) == 64);
  CHECK(dbf::middle_for({0, 300}, 1.0, {}) == 1);
}

TEST_CASE("tensors of double binary factors conform") {
  for (const auto& params :
       {dbf::params{.middle = 9}, dbf::params{.middle = 300, .envelope_rank = 2},
        dbf::params{.middle = 5, .envelope_rank = 3, .paths = 2, .scale_type = scale_type::bf16},
        dbf::params{.middle = 1, .scale_type = scale_type::fp32}}) {
    for (const shape2 shape : {shape2{7, 130}, shape2{65, 3}, shape2{0, 5}, shape2{5, 0}}) {
      INFO("seed " << seed << ", middle " << params.middle << ", [" << shape.rows << ", "
                   << shape.cols << "]");
      const auto list = testing::check_tensor(random_tensor(shape, params));
      INFO(testing::failures(list));
      CHECK(testing::all_passed(list));
    }
  }
}

TEST_CASE("a tensor of double binary factors is the sum of their products") {
  const dbf::params params{.middle = 300, .envelope_rank = 2, .paths = 2};
  const dbf_tensor t = random_tensor({7, 20}, params);
  std::vector<float> values(5 * 20);
  t.dequantize({2, 7}, {values.data(), 5, 20});
  for (index_t n = 2; n < 7; ++n) {
    for (index_t k = 0; k < 20; ++k) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (unsigned p = 0; p < 2; ++p) {
        for (index_t i = 0; i < params.middle; ++i) {
          const double term = element(t.output_factor(p), n, i) * element(t.input_factor(p), i, k);
          sum += term;
          magnitude += std::fabs(term);
        }
      }
      // Elements of both factors and the sum are rounded to float.
      const double bound = 3.0 * 0x1p-24 * magnitude;
      CHECK(std::fabs(static_cast<double>(values[(n - 2) * 20 + k]) - sum) <= bound);
    }
  }
}

TEST_CASE("tensors of double binary factors refuse what no quantizer writes") {
  CHECK_THROWS_AS(dbf_tensor({4, 4}, {.middle = 0}), value_error);
  CHECK_THROWS_AS(dbf_tensor({4, 4}, {.middle = 1, .paths = 3}), value_error);
  dbf_tensor t({4, 4}, {.middle = 2, .scale_type = scale_type::fp32});
  for (auto* const f : {&t.input_factor(0), &t.output_factor(0)}) {
    f->row_envelopes().set(0, 1, 1e20F);
    f->column_envelopes().set(0, 1, 1e20F);
  }
  testing::memory_source source(testing::copy_buffers(t));
  CHECK_THROWS_AS(dbf_tensor::from_buffers(t.shape(), t.params(), source), format_error);
}
