// baseline_products.cpp: loads the modules of baselines, makes their operands and checks them.
#include "baseline_products.hpp"

#include <dlfcn.h>

#include <cmath>
#include <vector>

#include "baselines.hpp"
#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/error.hpp"
#include "lowbit/core/random.hpp"

namespace bench {

namespace {

using lowbit::aligned_buffer;
using lowbit::detail::message;

struct module {
  const char* name;
  cpu::cpu_set needs;  ///< exactly what CMakeLists.txt compiles it for
};

constexpr module modules[] = {
#if LOWBIT_X86_64
    {"avx512", cpu::avx512_core},
    {"avx2", cpu::avx2_core},
#endif
    {"generic", cpu::none},
};

/// The functions of a module, which stays loaded. Refuses (system) one that cannot be loaded.
const lowbit_bench_baselines& load(const module& m) {
  const std::string file = message("liblowbit_baselines_", m.name, ".so");
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  LOWBIT_CHECK(handle != nullptr, system, "cannot load the baselines: ", ::dlerror());
  void* const symbol = ::dlsym(handle, lowbit_bench_baselines_symbol);
  LOWBIT_CHECK(symbol != nullptr, system, file, " lacks ", lowbit_bench_baselines_symbol);
  return *reinterpret_cast<lowbit_bench_baselines_fn>(symbol)();
}

/// Weights as a module's function takes them, and as double numbers for the check.
class operands {
 public:
  operands(product_shape shape, unsigned bits, index_t group_size, bool cold)
      : shape_(shape), bits_(bits), group_size_(group_size) {
    const index_t size = shape.rows * shape.cols;
    const index_t bytes = bits == 32 ? 4 * size : size * bits / 8;
    const index_t count = copies_of(static_cast<double>(bytes), cold);
    if (bits == 32) {
      aligned_buffer<float> floats(size);
      for (index_t i = 0; i < size; ++i) floats[i] = lowbit::random_uniform(1, i) - 0.5F;
      floats_.assign(count, floats);
      return;
    }
    aligned_buffer<std::uint8_t> codes(bytes);
    for (index_t i = 0; i < bytes; ++i) {
      codes[i] = static_cast<std::uint8_t>(lowbit::random_bits(1, i));
    }
    codes_.assign(count, codes);
    aligned_buffer<float> scales(size / group_size);
    for (index_t i = 0; i < scales.size(); ++i) {
      scales[i] = 0.01F * (1.0F + lowbit::random_uniform(2, i));
    }
    scales_.assign(count, scales);
  }

  [[nodiscard]] index_t copies() const { return floats_.size() + codes_.size(); }
  [[nodiscard]] const float* floats(index_t copy) const { return floats_[copy].data(); }
  [[nodiscard]] lowbit_bench_codes codes(index_t copy) const {
    return {codes_[copy].data(), scales_[copy].data(), group_size_, bits_};
  }
  [[nodiscard]] double bytes() const {
    return floats_.empty() ? static_cast<double>(codes_[0].size() + 4 * scales_[0].size())
                           : 4.0 * static_cast<double>(floats_[0].size());
  }
  [[nodiscard]] double weight(index_t row, index_t col) const {
    if (bits_ == 32) return floats_[0][row * shape_.cols + col];
    const index_t group = (row * shape_.cols + col) / group_size_;
    const index_t group_bytes = group_size_ * bits_ / 8;
    const index_t in_group = col % group_size_;
    const unsigned byte = codes_[0][group * group_bytes + in_group % group_bytes];
    const auto shift = static_cast<unsigned>(in_group / group_bytes) * bits_;
    const unsigned code = (byte >> shift) & ((1U << bits_) - 1U);
    return scales_[0][group] * (static_cast<double>(code) - static_cast<double>(1U << (bits_ - 1)));
  }

 private:
  product_shape shape_;
  unsigned bits_;
  index_t group_size_;
  std::vector<aligned_buffer<float>> floats_;
  std::vector<aligned_buffer<std::uint8_t>> codes_;
  std::vector<aligned_buffer<float>> scales_;
};

enum class method { eigen, dot, dequantize };

struct baseline_state {
  std::shared_ptr<const operands> weights;
  const lowbit_bench_baselines* functions;
  method how;
  product_shape shape;
  aligned_buffer<float> x, y, block;
  index_t next = 0;

  void run() {
    const index_t copy = next;
    if (++next == weights->copies()) next = 0;
    const lowbit_bench_shape s{shape.tokens, shape.rows, shape.cols};
    if (how == method::dequantize) {
      const lowbit_bench_codes codes = weights->codes(copy);
      functions->dequantize(s, &codes, x.data(), y.data(), block.data());
    } else {
      const auto function = how == method::dot ? functions->dot : functions->eigen;
      function(s, weights->floats(copy), x.data(), y.data());
    }
  }

  /// Any order of K float additions stays within K rounding errors of the sum of magnitudes.
  [[nodiscard]] std::string check() const {
    for (index_t i = 0; i < 16; ++i) {
      const index_t t = i == 0 ? shape.tokens - 1 : lowbit::random_bits(6, i) % shape.tokens;
      const index_t n = i == 0 ? shape.rows - 1 : lowbit::random_bits(7, i) % shape.rows;
      double expected = 0;
      double magnitude = 0;
      for (index_t k = 0; k < shape.cols; ++k) {
        const double product = weights->weight(n, k) * static_cast<double>(x[t * shape.cols + k]);
        expected += product;
        magnitude += std::abs(product);
      }
      const double found = static_cast<double>(y[t * shape.rows + n]);
      const double bound = magnitude * 0x1p-24 * static_cast<double>(shape.cols + 2);
      if (!(std::abs(found - expected) <= bound)) {
        return message("wrong: output [", t, ", ", n, "] is ", found, ", not ", expected);
      }
    }
    return {};
  }
};

struct baseline {
  method how;
  const char* format;
  unsigned bits;
  index_t group_size;
};

prepared_product prepare(const module& m, const baseline& b, product_shape shape, bool cold) {
  auto state = std::make_shared<baseline_state>();
  state->weights = cached(message("w", b.bits, "/g", b.group_size, "/N", shape.rows, "_K",
                                  shape.cols, cold ? "/cold" : "/warm"),
                          [&] { return operands(shape, b.bits, b.group_size, cold); });
  state->functions = &load(m);
  state->how = b.how;
  state->shape = shape;
  state->x = aligned_buffer<float>(shape.tokens * shape.cols);
  for (index_t i = 0; i < state->x.size(); ++i) state->x[i] = lowbit::random_normal(5, i);
  state->y = aligned_buffer<float>(shape.tokens * shape.rows);
  if (b.how == method::dequantize) {
    state->block = aligned_buffer<float>(state->functions->block_rows * shape.cols);
  }
  return {.run = [state] { state->run(); },
          .check = [state] { return state->check(); },
          .weight_bytes = state->weights->bytes()};
}

/// One benchmark for every module that may be used; the plain one only where there is no other.
void register_baseline(const baseline& b, product_shape shape, bool cold) {
  bool has_any = false;
  for (const module& m : modules) {
    if (!allowed_context().allowed.contains(m.needs)) continue;
    if (has_any && m.needs == cpu::none) continue;
    has_any = true;
    const bool is_grouped = b.how == method::dequantize;
    register_product({.family = "baseline",
                      .format = is_grouped ? message(b.format, "_g", b.group_size) : b.format,
                      .weight_bits = b.bits,
                      .activation_bits = 32,
                      .variant = m.name,
                      .shape = shape,
                      .cold = cold,
                      .needs = m.needs,
                      .what = operation::float_mac,
                      .is_serial = true,
                      .steps_per_mac = 1,
                      .prepare = [&m, b, shape, cold] { return prepare(m, b, shape, cold); }});
  }
}

}  // namespace

void register_eigen_baseline(product_shape shape, bool cold) {
  const char* const format = shape.tokens == 1 ? "eigen_sgemv" : "eigen_sgemm";
  register_baseline({method::eigen, format, 32, 1}, shape, cold);
}

void register_dot_baseline(product_shape shape, bool cold) {
  register_baseline({method::dot, "fp32_dot", 32, 1}, shape, cold);
}

void register_dequantize_baseline(unsigned bits, index_t group_size, product_shape shape,
                                  bool cold) {
  register_baseline({method::dequantize, "dequantize", bits, group_size}, shape, cold);
}

}  // namespace bench
