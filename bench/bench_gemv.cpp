// bench_gemv: products with 1 to 8 tokens, cold and warm: codes, planes and signs x int8, every
// variant of this machine, beside float baselines. See harness.hpp for names and counters.
//
//   bench_gemv --benchmark_filter=M1_N4096_K4096/cold --benchmark_repetitions=7
#include "baseline_products.hpp"
#include "code_products.hpp"
#include "factor_products.hpp"
#include "sbvr_products.hpp"
#include "sign_products.hpp"

namespace {

const bench::registration gemv([] {
  using namespace bench;
  const product_shape large{1, 4096, 4096};
  for (const unsigned bits : {1U, 2U, 3U, 4U, 8U}) {
    register_code_product(uniform_product(bits, 64, large, true));
  }
  // What outliers and rotated inputs cost, beside the same product without.
  register_code_product(with_outliers(uniform_product(2, 64, large, true), 0.005));
  register_code_product(rotated(uniform_product(2, 64, large, true)));
  register_code_product(uniform_product(2, 64, large, false));
  register_code_product(rotated(uniform_product(2, 64, large, false)));
  register_code_product(with_outliers(uniform_product(2, 64, large, false), 0.005));
  register_code_product(uniform_zeros_product(4, 64, large, true));
  register_code_product(book_product(64, large, true));
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    register_code_product(plane_product(planes, 128, large, true));
  }
  // Signs alone, and the two factors of the double binary ones below.
  for (const index_t tokens : {1U, 2U, 4U}) {
    register_sign_product({tokens, 4096, 4096}, true);
    register_sign_product({tokens, 4096, 4096}, false);
  }
  register_sign_product({1, 2024, 4096}, true);
  register_sign_product({1, 4096, 2024}, true);
  register_sign_product({4, 1953, 4096}, true);
  register_sign_product({4, 4096, 1953}, true);
  for (const unsigned envelope_rank : {1U, 2U, 4U}) {
    register_dbf_product(envelope_rank, 1.0, large, true);
    register_dbf_product(envelope_rank, 1.0, large, false);
  }
  for (const unsigned planes : {1U, 2U}) register_envelope_product(planes, 1, large, true);
  register_eigen_baseline(large, true);
  register_dot_baseline(large, true);
  register_dequantize_baseline(4, 64, large, true);

  const product_shape small{1, 512, 2048};
  for (const unsigned bits : {1U, 2U, 3U, 4U}) {
    for (const index_t group_size : {index_t{64}, index_t{128}}) {
      register_code_product(uniform_product(bits, group_size, small, false));
    }
  }
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    register_code_product(plane_product(planes, 128, small, false));
  }
  register_eigen_baseline(small, false);
  register_dot_baseline(small, false);
  register_dequantize_baseline(4, 64, small, false);

  for (index_t tokens = 2; tokens <= 8; ++tokens) {
    for (const unsigned bits : {2U, 4U}) {
      register_code_product(uniform_product(bits, 64, {tokens, 4096, 4096}, true));
      register_code_product(uniform_product(bits, 64, {tokens, 512, 2048}, false));
    }
  }

  // One after the other what shares quantized weights.
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    for (index_t tokens = 1; tokens <= 8; ++tokens) {
      register_sbvr_product(planes, 128, {tokens, 4096, 4096}, true);
    }
    for (index_t tokens = 1; tokens <= 8; ++tokens) {
      register_sbvr_product(planes, 128, {tokens, 512, 2048}, false);
    }
  }
});

}  // namespace
