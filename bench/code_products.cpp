// code_products.cpp: random weights and activations, and the check of their product.
#include "code_products.hpp"

#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "lowbit/core/half.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/kernels/code_gemm/driver.hpp"

namespace bench {

namespace {

using kernels::code_format;
using lowbit::matrix_view;
using lowbit::detail::message;

/// Weights whose codes, scales and zeros are pure functions of their position.
class random_codes {
 public:
  explicit random_codes(const code_product& p)
      : format_(p.format), shape_{p.shape.rows, p.shape.cols}, group_size_(p.group_size) {}

  void codes(index_t row, index_t plane, std::span<std::uint8_t> out) const {
    const std::uint64_t mask = 0x0101010101010101U * ((1U << format_.bits) - 1U);
    const std::uint64_t first = (plane * shape_.rows + row) * lowbit::div_up(shape_.cols, 8);
    for (index_t k = 0; k < out.size(); k += 8) {
      const std::uint64_t eight = lowbit::random_bits(1, first + k / 8) & mask;
      std::memcpy(out.data() + k, &eight, std::min<index_t>(8, out.size() - k));
    }
  }
  /// An fp16 number in [1/64, 1/32).
  [[nodiscard]] float scale(index_t row, index_t group, index_t plane) const {
    const std::uint64_t at = (row * (shape_.cols + 1) + group) * 8 + plane;
    return 0x1p-16F * static_cast<float>(1024U + (lowbit::random_bits(2, at) & 1023U));
  }
  [[nodiscard]] std::int32_t zero(index_t row, index_t group) const {
    if (!format_.has_zeros) return format_.zero;
    const std::uint64_t at = row * (shape_.cols + 1) + group;
    return static_cast<std::int32_t>(lowbit::random_bits(3, at) & ((1U << format_.bits) - 1U));
  }

  [[nodiscard]] kernels::packed_codes pack() const {
    return kernels::packed_codes(
        {.shape = shape_,
         .group_size = group_size_,
         .format = format_,
         .codes = [this](index_t r, index_t p, std::span<std::uint8_t> out) { codes(r, p, out); },
         .levels =
             [this](index_t r, index_t g, std::span<float> scales) {
               for (index_t p = 0; p < scales.size(); ++p) scales[p] = scale(r, g, p);
               return kernels::code_group{.zero = zero(r, g)};
             }});
  }

 private:
  code_format format_;
  lowbit::shape2 shape_;
  index_t group_size_;
};

/// One output by the arithmetic that the contract states, which every variant must equal.
float one_output(const random_codes& w, const code_format& format,
                 const kernels::int8_activations& x, index_t token, index_t row) {
  const kernels::code_runs& runs = x.runs();
  std::vector<std::uint8_t> codes(runs.cols());
  std::vector<std::vector<std::uint8_t>> planes;
  for (index_t p = 0; p < format.planes; ++p) {
    w.codes(row, p, codes);
    planes.push_back(codes);
  }
  float y = 0.0F;
  for (index_t g = 0; g < runs.count(); ++g) {
    const std::int8_t* const part = x.codes(g).data() + token * x.run_bytes();
    const index_t group = runs.group(g);
    const std::int32_t zero = w.zero(row, group);
    for (index_t p = 0; p < format.planes; ++p) {
      std::int32_t v = -zero * x.sums(g)[token];
      for (index_t k = 0; k < runs.size(g); ++k) {
        const std::uint8_t code = planes[p][runs.begin(g) + k];
        const std::int32_t level = format.has_book ? format.book[code] : code;
        v += format.code_step * level * part[k];
      }
      y = std::fma(w.scale(row, group, p), static_cast<float>(v), y);
    }
  }
  return x.steps(0)[token] * y;
}

/// Everything that one product reads and writes.
struct product_state {
  const random_codes* weights;  // owned by *shared
  std::shared_ptr<void> shared;
  std::span<const kernels::packed_codes> copies;
  code_format format;
  product_shape shape;
  kernels::code_gemm_tile_fn tile;
  kernels::context ctx;
  std::vector<float> x, y;
  kernels::int8_activations activations;
  index_t next = 0;

  [[nodiscard]] matrix_view<const float> inputs() const {
    return {x.data(), shape.tokens, shape.cols};
  }
  [[nodiscard]] matrix_view<float> outputs() { return {y.data(), shape.tokens, shape.rows}; }

  void run() {
    const kernels::packed_codes& w = copies[next];
    if (++next == copies.size()) next = 0;
    activations.assign(inputs(), {.bits = 8, .group_size = w.runs().group_size()}, ctx);
    kernels::code_gemm(w, activations, outputs(), ctx, tile);
  }

  [[nodiscard]] std::string check() {
    const kernels::int8_activations scalar(
        inputs(), {.bits = 8, .group_size = copies[0].runs().group_size()}, {.allowed = cpu::none});
    constexpr index_t samples = 64;
    for (index_t i = 0; i < samples; ++i) {
      const index_t t = i == 0 ? shape.tokens - 1 : lowbit::random_bits(6, i) % shape.tokens;
      const index_t n = i == 0 ? shape.rows - 1 : lowbit::random_bits(7, i) % shape.rows;
      const float expected = one_output(*weights, format, scalar, t, n);
      const float found = outputs()(t, n);
      if (!(found == expected)) {
        return message("wrong: output [", t, ", ", n, "] is ", found, ", not ", expected);
      }
    }
    return {};
  }
};

struct packed_copies {
  random_codes weights;
  std::vector<kernels::packed_codes> copies;
};

prepared_product prepare(const code_product& p, const code_gemm_kernel& kernel) {
  const auto shared = cached(message(p.format_name, "/w", p.format.bits, "x", p.format.planes, "/N",
                                     p.shape.rows, "_K", p.shape.cols, p.cold ? "/cold" : "/warm"),
                             [&] {
                               packed_copies made{random_codes(p), {}};
                               made.copies.push_back(made.weights.pack());
                               const auto bytes = static_cast<double>(made.copies[0].size_bytes());
                               const index_t count = copies_of(bytes, p.cold);
                               made.copies.reserve(count);
                               while (made.copies.size() < count)
                                 made.copies.push_back(made.copies[0]);
                               return made;
                             });
  auto state = std::make_shared<product_state>();
  state->weights = &shared->weights;
  state->shared = shared;
  state->copies = shared->copies;
  state->format = p.format;
  state->shape = p.shape;
  state->tile = kernel.run;
  state->ctx = allowed_context();
  state->ctx.allowed = kernel.needs;
  state->x.resize(p.shape.tokens * p.shape.cols);
  for (index_t i = 0; i < state->x.size(); ++i) state->x[i] = lowbit::random_normal(5, i);
  state->y.resize(p.shape.tokens * p.shape.rows);
  return {.run = [state] { state->run(); },
          .check = [state] { return state->check(); },
          .weight_bytes = static_cast<double>(state->copies[0].size_bytes())};
}

std::vector<code_gemm_kernel>& all_kernels() {
  static std::vector<code_gemm_kernel> all = [] {
    std::vector<code_gemm_kernel> table;
    for (const auto& v : kernels::code_gemm_variants) {
      table.push_back({std::string(v.name), v.needs, v.run});
    }
    return table;
  }();
  return all;
}

code_product make_product(const char* family, std::string format_name, index_t group_size,
                          product_shape shape, bool cold) {
  return {family, message(format_name, "_g", group_size), {}, group_size, shape, cold};
}

}  // namespace

code_gemm_registration::code_gemm_registration(code_gemm_kernel kernel) {
  all_kernels().push_back(std::move(kernel));
}

std::span<const code_gemm_kernel> code_gemm_kernels() { return all_kernels(); }

code_product uniform_product(unsigned bits, index_t group_size, product_shape shape, bool cold) {
  code_product p = make_product("code_gemm", "uniform", group_size, shape, cold);
  p.format.bits = bits;
  p.format.code_step = bits == 1 ? 2 : 1;  // -1 and +1
  p.format.zero = bits == 1 ? 1 : 1 << (bits - 1U);
  return p;
}

code_product uniform_zeros_product(unsigned bits, index_t group_size, product_shape shape,
                                   bool cold) {
  code_product p = make_product("code_gemm", "uniform_zeros", group_size, shape, cold);
  p.format.bits = bits;
  p.format.has_zeros = true;
  return p;
}

code_product book_product(index_t group_size, product_shape shape, bool cold) {
  code_product p = make_product("code_gemm", "book", group_size, shape, cold);
  p.format.bits = 4;
  p.format.has_book = true;
  p.format.zero = 128;
  for (unsigned i = 0; i < 16; ++i) p.format.book[i] = static_cast<std::uint8_t>(i * i + i + 8U);
  return p;
}

code_product plane_product(unsigned planes, index_t group_size, product_shape shape, bool cold) {
  code_product p = make_product("plane_gemm", "planes", group_size, shape, cold);
  p.format.bits = 1;
  p.format.planes = planes;
  p.format.code_step = 2;
  p.format.zero = 1;
  return p;
}

void register_code_product(const code_product& p) {
  // The last one of lowbit's table is the oracle, not made for speed: small products only.
  constexpr double oracle_macs = 2e6;
  const auto oracle = std::end(kernels::code_gemm_variants)[-1].run;
  for (const code_gemm_kernel& kernel : code_gemm_kernels()) {
    if (kernel.run == oracle && p.shape.macs() > oracle_macs) continue;
    if (kernel.takes != nullptr && !kernel.takes(p.format)) continue;
    register_product({.family = p.family,
                      .format = p.format_name,
                      .weight_bits = p.format.bits * p.format.planes,
                      .activation_bits = 8,
                      .variant = kernel.name,
                      .shape = p.shape,
                      .cold = p.cold,
                      .needs = kernel.needs,
                      .what = operation::int8_mac,
                      .prepare = [p, kernel] { return prepare(p, kernel); }});
  }
}

}  // namespace bench
