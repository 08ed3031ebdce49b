// Runs both translation units and compares what they made: byte for byte, but for Eigen's sums.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "unit.hpp"

int main() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::puts("skipped: this CPU has no AVX2 and FMA");
    return 77;
  }
  const outcome a = baseline();
  const outcome b = avx2();
  if (a.bytes.empty() || a.product.empty() || a.float_product.empty()) {
    std::puts("nothing was compared");
    return 1;
  }
  if (a.bytes != b.bytes) {
    std::puts("the two units store different bytes");
    return 1;
  }
  if (a.product.size() != b.product.size() ||
      std::memcmp(a.product.data(), b.product.data(), a.product.size() * sizeof(float)) != 0) {
    std::puts("the two units give different products");
    return 1;
  }
  for (std::size_t i = 0; i < a.float_product.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a.float_product[i]) -
                                        static_cast<double>(b.float_product[i]));
    if (!(difference <= a.float_bound[i])) {
      std::printf("float product %zu: %g and %g are further apart than %g\n", i,
                  static_cast<double>(a.float_product[i]), static_cast<double>(b.float_product[i]),
                  a.float_bound[i]);
      return 1;
    }
  }
  std::printf("%zu stored bytes and %zu results are the same\n", a.bytes.size(), a.product.size());
  return 0;
}
