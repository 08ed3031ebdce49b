// formats/envelope/tensor.hpp: what is stored, to the bit, and what it means.
#include "lowbit/formats/envelope/tensor.hpp"

#include <vector>

#include "catch.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/format.hpp"

using namespace lowbit;
using formats::envelope;
using formats::envelope_tensor;

namespace {

constexpr std::uint64_t seed = 20261127;

[[nodiscard]] envelope_tensor random_tensor(shape2 shape, const envelope::params& params) {
  envelope_tensor t(shape, params);
  std::vector<std::uint8_t> codes(shape.cols);
  for (index_t n = 0; n < shape.rows; ++n) {
    for (index_t k = 0; k < shape.cols; ++k) {
      codes[k] = static_cast<std::uint8_t>(random_bits(seed, n * shape.cols + k) %
                                           (std::uint64_t{1} << params.planes));
    }
    t.set_codes(n, codes);
  }
  for (index_t p = 0; p < params.planes; ++p) {
    auto& plane = t.plane(p);
    for (index_t j = 0; j < params.envelope_rank; ++j) {
      const std::uint64_t stream = seed + 2 * (p * envelope::max_rank + j);
      for (index_t n = 0; n < shape.rows; ++n) {
        plane.row_envelopes().set(j, n, random_normal(stream + 1, n));
      }
      for (index_t k = 0; k < shape.cols; ++k) {
        plane.column_envelopes().set(j, k, random_normal(stream + 2, k));
      }
    }
  }
  return t;
}

}  // namespace

TEST_CASE("envelope: every stored bit is counted") {
  for (const unsigned planes : {1U, 2U, 8U}) {
    for (const unsigned rank : {1U, 3U, 16U}) {
      for (const auto& [type, bits] :
           {std::pair{scale_type::fp16, 16U}, {scale_type::bf16, 16U}, {scale_type::fp32, 32U}}) {
        for (const shape2 shape : {shape2{512, 512}, {3, 7}, {1, 1}, {8, 65}, {0, 9}, {9, 0}}) {
          const envelope_tensor t(shape,
                                  {.planes = planes, .envelope_rank = rank, .scale_type = type});
          const std::uint64_t signs = 8 * div_up(shape.size(), 8);  // up to the end of a byte
          const std::uint64_t all = planes * (signs + bits * rank * (shape.rows + shape.cols));
          INFO(planes << " planes of rank " << rank << ", [" << shape.rows << ", " << shape.cols
                      << "]");
          CHECK(t.storage_bits() == all);
          CHECK(count_buffer_bits(t) == all);
        }
      }
    }
  }
}

TEST_CASE("envelope: values are sums of signed envelopes, in the stated order") {
  for (const auto& params :
       {envelope::params{.planes = 3, .envelope_rank = 2, .scale_type = scale_type::fp32},
        envelope::params{.planes = 1}, envelope::params{.planes = 8, .envelope_rank = 1}}) {
    const shape2 shape{5, 70};
    const envelope_tensor t = random_tensor(shape, params);
    std::vector<float> values(shape.size());
    t.dequantize({0, shape.rows}, {values.data(), shape.rows, shape.cols});
    index_t wrong = 0;
    for (index_t n = 0; n < shape.rows; ++n) {
      for (index_t k = 0; k < shape.cols; ++k) {
        float sum = 0.0F;
        for (index_t p = 0; p < params.planes; ++p) {
          const auto& plane = t.plane(p);
          double e = 0.0;
          for (index_t j = 0; j < params.envelope_rank; ++j) {
            const double product = static_cast<double>(plane.row_envelopes().get(j, n)) *
                                   static_cast<double>(plane.column_envelopes().get(j, k));
            e += product;
          }
          const auto rounded = static_cast<float>(e);
          sum += plane.signs().is_positive(n, k) ? rounded : -rounded;
        }
        wrong += values[n * shape.cols + k] == sum ? 0U : 1U;
      }
    }
    INFO(params.planes << " planes of rank " << params.envelope_rank);
    CHECK(wrong == 0);
  }
}

TEST_CASE("envelope: tensors keep the promises of their concepts") {
  for (const auto& params :
       {envelope::params{}, envelope::params{.planes = 4, .envelope_rank = 3},
        envelope::params{.planes = 1, .envelope_rank = 16, .scale_type = scale_type::bf16}}) {
    for (const shape2 shape : {shape2{7, 130}, {65, 3}, {0, 5}, {5, 0}}) {
      INFO("seed " << seed << ", " << params.planes << " planes, [" << shape.rows << ", "
                   << shape.cols << "]");
      const auto list = testing::check_tensor(random_tensor(shape, params));
      INFO(testing::failures(list));
      CHECK(testing::all_passed(list));
    }
  }
}

TEST_CASE("envelope: tensors refuse what no quantizer writes") {
  CHECK_THROWS_AS(envelope_tensor({4, 4}, {.planes = 0}), value_error);
  CHECK_THROWS_AS(envelope_tensor({4, 4}, {.planes = 9}), value_error);
  CHECK_THROWS_AS(envelope_tensor({4, 4}, {.envelope_rank = 17}), value_error);
  envelope_tensor t({4, 4}, {.planes = 2, .scale_type = scale_type::fp32});
  const auto rebuild = [&t] {
    testing::memory_source source(testing::copy_buffers(t));
    return envelope_tensor::from_buffers(t.shape(), t.params(), source);
  };
  // Two planes of 2^126 make 2^127, the largest bound; any more is too much.
  for (index_t p = 0; p < 2; ++p) {
    t.plane(p).row_envelopes().set(0, 1, 0x1p63F);
    t.plane(p).column_envelopes().set(0, 2, -0x1p63F);
  }
  CHECK(t.bound() == envelope_tensor::largest_bound);
  CHECK(rebuild().bound() == t.bound());
  t.plane(1).row_envelopes().set(0, 3, 0x1.000002p63F);
  CHECK_THROWS_AS(rebuild(), format_error);
}
