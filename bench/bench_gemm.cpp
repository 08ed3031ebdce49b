// bench_gemm: products with many tokens, and how the cost of a token falls with their number: codes
// and planes x int8, every variant of this machine, beside float baselines. See harness.hpp for
// names and counters.
//
//   bench_gemm --benchmark_filter=M128_N4096 --benchmark_repetitions=7
#include "baseline_products.hpp"
#include "code_products.hpp"
#include "sbvr_products.hpp"

namespace {

constexpr lowbit::index_t sweep[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 192, 256};

const bench::registration gemm([] {
  using namespace bench;
  for (const unsigned bits : {1U, 2U, 3U, 4U}) {
    for (const index_t group_size : {index_t{64}, index_t{128}}) {
      register_code_product(uniform_product(bits, group_size, {128, 4096, 4096}, false));
    }
  }
  register_code_product(book_product(64, {128, 4096, 4096}, false));
  register_code_product(plane_product(2, 128, {128, 4096, 4096}, false));
  for (const unsigned planes : {1U, 2U, 3U, 4U}) {
    register_sbvr_product(planes, 128, {128, 4096, 4096}, false);
  }
  register_eigen_baseline({128, 4096, 4096}, false);
  register_dequantize_baseline(4, 64, {128, 4096, 4096}, false);

  for (const unsigned bits : {2U, 4U}) {
    for (const index_t tokens : sweep) {  // 128 is above
      register_code_product(uniform_product(bits, 64, {tokens, 4096, 4096}, false));
    }
    for (const index_t tokens : sweep) {
      register_code_product(uniform_product(bits, 64, {tokens, 512, 2048}, false));
    }
    register_code_product(uniform_product(bits, 64, {128, 512, 2048}, false));
  }
  for (const index_t tokens : {index_t{1}, index_t{8}, index_t{32}, index_t{128}}) {
    register_eigen_baseline({tokens, 512, 2048}, false);
  }
});

}  // namespace
