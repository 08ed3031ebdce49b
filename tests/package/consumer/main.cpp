// A program that uses lowbit as a package, both of its targets: it quantizes and multiplies.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include <lowbit/io/checkpoint.hpp>
#include <lowbit/lowbit.hpp>

int main() {
  if (std::strcmp(LOWBIT_VERSION_STRING, CONSUMER_EXPECTS) != 0) {
    std::fprintf(stderr, "the headers say %s, the package %s\n", LOWBIT_VERSION_STRING,
                 CONSUMER_EXPECTS);
    return 1;
  }
  const std::vector<float> weights{1.0F, -1.0F, 0.5F, 0.25F};
  const std::vector<float> input{1.0F, 2.0F};
  std::vector<float> output(2);
  const auto quantized = lowbit::formats::uniform_quantizer{}.quantize({weights.data(), 2, 2});
  lowbit::ops::matmul({input.data(), 1, 2}, quantized, {output.data(), 1, 2},
                      lowbit::context::best());
  std::printf("lowbit %s: %g %g, checksum %s\n", LOWBIT_VERSION_STRING,
              static_cast<double>(output[0]), static_cast<double>(output[1]),
              lowbit::io::checksum_text(lowbit::io::checksum({})).c_str());
  // The first row is on the grid but for the rounding of its scale to fp16.
  return std::fabs(output[0] + 1.0F) < 0.01F ? 0 : 1;
}
