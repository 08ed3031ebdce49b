// bits_per_weight() takes any quantized_tensor; a type without dequantize(), which would define
// what its bits mean, is none, and the compiler names the concept.
//
// expect: t.dequantize(rows, out)
#include "lowbit/core/quantized_tensor.hpp"

struct stored_format {
  struct params {
    bool operator==(const params&) const = default;
  };
  static constexpr std::string_view name = "stored";
  static constexpr std::uint32_t version = 1;
  static void describe(params&, lowbit::params_visitor&) {}
};

struct stored_tensor {
  using format = stored_format;
  lowbit::shape2 shape() const { return {}; }
  const format::params& params() const { return params_; }
  std::uint64_t storage_bits() const { return 0; }
#if !LOWBIT_SHOULD_FAIL
  void dequantize(lowbit::row_range, lowbit::matrix_view<float>) const {}
#endif
  void for_each_buffer(lowbit::buffer_visitor&) const {}
  static stored_tensor from_buffers(lowbit::shape2, const format::params&, lowbit::buffer_source&) {
    return {};
  }

  format::params params_;
};

double used() { return lowbit::bits_per_weight(stored_tensor{}); }
