// code_products.cpp: random weights and activations, and the check of their product.
#include "code_products.hpp"

#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lowbit/core/half.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/kernels/code_gemm/driver.hpp"
#include "lowbit/kernels/sparse/driver.hpp"
#include "packed_product.hpp"

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

/// Normal values at random places.
lowbit::layout::sparse_matrix random_outliers(const code_product& p) {
  const lowbit::shape2 shape{p.shape.rows, p.shape.cols};
  std::vector<index_t> places;
  std::vector<float> values;
  for (index_t i = 0; p.outliers > 0.0 && i < shape.size(); ++i) {
    if (static_cast<double>(lowbit::random_uniform(8, i)) >= p.outliers) continue;
    places.push_back(i);
    values.push_back(lowbit::random_normal(9, i));
  }
  return {shape, places, values};
}

struct packed_copies {
  random_codes weights;
  lowbit::layout::sparse_matrix outliers;
  std::vector<kernels::packed_codes> copies;
  std::vector<kernels::packed_sparse> sparse_copies;  // as many
};

struct product_state : packed_product {
  product_state(std::shared_ptr<packed_copies> from, const code_product& p,
                const code_gemm_kernel& kernel)
      : packed_product(from->copies, p.shape, kernel),
        weights(std::move(from)),
        format(p.format),
        rotation(p.shape.cols, {.seed = 11}),
        rotated(p.rotated ? x.size() : 0) {
    ctx.scratch = &scratch;
  }

  /// What the weights meet.
  [[nodiscard]] lowbit::matrix_view<const float> met_inputs(const kernels::context& with) {
    if (rotated.empty()) return inputs();
    const lowbit::matrix_view<float> out(rotated.data(), shape.tokens, shape.cols);
    rotation.transform_inputs(inputs(), out, with);
    return out;
  }
  void run() {
    const kernels::packed_sparse& sparse = weights->sparse_copies[next];
    const auto in = met_inputs(ctx);
    packed_product::run(in);
    kernels::add_sparse_product(in, sparse, outputs(), ctx);
  }
  [[nodiscard]] double weight_bytes() const {
    const auto& sparse = weights->sparse_copies[0];
    return packed_product::weight_bytes() +
           (sparse.count() == 0 ? 0.0 : static_cast<double>(sparse.size_bytes()));
  }

  [[nodiscard]] std::string check() {
    const auto in = met_inputs({.allowed = cpu::none});
    const kernels::int8_activations scalar(
        in, {.bits = 8, .group_size = copies[0].runs().group_size()}, {.allowed = cpu::none});
    for (index_t i = 0; i < sampled_output::count; ++i) {
      const auto [t, n] = sampled_output::number(i, shape);
      float expected = one_output(weights->weights, format, scalar, t, n);
      float sum = 0.0F;
      weights->outliers.for_each({n, n + 1}, [&, token = t](index_t, index_t k, lowbit::float16 v) {
        sum = std::fma(lowbit::to_float(v), in(token, k), sum);
      });
      expected += sum;
      const float found = outputs()(t, n);
      if (!(found == expected)) {
        return message("wrong: output [", t, ", ", n, "] is ", found, ", not ", expected);
      }
    }
    return {};
  }

  std::shared_ptr<packed_copies> weights;
  code_format format;
  lowbit::decorators::hadamard_rotation rotation;
  lowbit::aligned_buffer<float> rotated;
  kernels::workspace scratch;
};

prepared_product prepare(const code_product& p, const code_gemm_kernel& kernel) {
  auto shared =
      cached(message(p.format_name, "/w", p.format.bits, "x", p.format.planes, "/N", p.shape.rows,
                     "_K", p.shape.cols, p.cold ? "/cold" : "/warm"),
             [&] {
               packed_copies made{random_codes(p), random_outliers(p), {}, {}};
               made.copies = copy_packed(made.weights.pack(), p.cold);
               made.sparse_copies.assign(made.copies.size(), kernels::packed_sparse(made.outliers));
               return made;
             });
  const auto state = std::make_shared<product_state>(std::move(shared), p, kernel);
  return {.run = [state] { state->run(); },
          .check = [state] { return state->check(); },
          .weight_bytes = state->weight_bytes()};
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

code_product with_outliers(code_product p, double share) {
  p.family = "with_outliers";
  p.outliers = share;
  p.format_name = message(p.format_name, "_o", share);
  return p;
}

code_product rotated(code_product p) {
  p.family = "rotated";
  p.rotated = true;
  return p;
}

void register_packed_product(
    product p, const kernels::code_format& format,
    const std::function<prepared_product(const code_gemm_kernel& kernel)>& prepare) {
  // The last one of lowbit's table is the oracle, not made for speed: small products only.
  constexpr double oracle_macs = 2e6;
  const auto oracle = std::end(kernels::code_gemm_variants)[-1].run;
  for (const code_gemm_kernel& kernel : code_gemm_kernels()) {
    if (kernel.run == oracle && p.shape.macs() > oracle_macs) continue;
    if (kernel.takes != nullptr && !kernel.takes(format)) continue;
    p.variant = kernel.name;
    p.needs = kernel.needs;
    p.prepare = [prepare, kernel] { return prepare(kernel); };
    register_product(p);
  }
}

void register_code_product(const code_product& p) {
  register_packed_product({.family = p.family,
                           .format = p.format_name,
                           .weight_bits = p.format.bits * p.format.planes,
                           .activation_bits = 8,
                           .shape = p.shape,
                           .cold = p.cold,
                           .what = operation::int8_mac},
                          p.format,
                          [p](const code_gemm_kernel& kernel) { return prepare(p, kernel); });
}

}  // namespace bench
