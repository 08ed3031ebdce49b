#include "linear.hpp"

#include <dlfcn.h>

#include "lowbit/core/quantizer.hpp"

namespace whisper {

namespace {

struct kernel_module {
  const char* name;
  lowbit::cpu::cpu_set needs;  // exactly what CMakeLists.txt compiles it for
};

/// Best first.
constexpr kernel_module modules[] = {
#if LOWBIT_X86_64
    {"avx512", lowbit::cpu::avx512_core},
    {"avx2", lowbit::cpu::avx2_core},
#endif
    {"generic", lowbit::cpu::none},
};

/// Rows of W that are one task. Fixed, so that results do not depend on the number of threads: for
/// products with many tokens large enough to amortize that each task packs all inputs.
constexpr index_t block_rows = 128;

/// Weights as T (float, or f16 as its bits).
template <class T>
class dense final : public linear {
 public:
  dense(shape2 shape, lowbit::aligned_buffer<T> values)
      : shape_(shape), values_(std::move(values)) {}

  [[nodiscard]] shape2 shape() const override { return shape_; }

  void multiply(matrix_view<const float> x, matrix_view<float> y,
                const runtime& rt) const override {
    const bool is_small = x.rows() * shape_.rows * shape_.cols < least_parallel_products;
    const lowbit::kernels::context ctx = is_small ? rt.ctx.serial(rt.ctx.scratch) : rt.ctx;
    if constexpr (!std::is_same_v<T, float>) {
      ctx.scratch->reserve(lowbit::kernels::workers(ctx), block_rows * shape_.cols * sizeof(float));
    }
    lowbit::kernels::parallel_for_blocks(
        ctx, shape_.rows, block_rows, [&](row_range rows, index_t worker) {
          const T* const w = values_.data() + rows.begin * shape_.cols;
          const whisper_output out = as_output(y.middle_cols(rows.begin, rows.end));
          if constexpr (std::is_same_v<T, float>) {
            rt.floats->multiply(as_input(x), {w, rows.size(), shape_.cols, shape_.cols}, out);
          } else {
            rt.floats->multiply_half(as_input(x), {w, rows.size(), shape_.cols, shape_.cols}, out,
                                     reinterpret_cast<float*>(ctx.scratch->slot(worker).data()));
          }
        });
  }

  void read_rows(row_range rows, matrix_view<float> out) const override {
    lowbit::check_dequantize(shape_, rows, out);
    for (index_t r = 0; r < out.rows(); ++r) {
      const T* const row = values_.data() + (rows.begin + r) * shape_.cols;
      for (index_t k = 0; k < out.cols(); ++k) {
        if constexpr (std::is_same_v<T, float>) {
          out(r, k) = row[k];
        } else {
          out(r, k) = lowbit::to_float(lowbit::float16{row[k]});
        }
      }
    }
  }

  [[nodiscard]] std::uint64_t bytes() const override { return values_.size() * sizeof(T); }
  [[nodiscard]] std::uint64_t stored_bits() const override { return 8 * bytes(); }
  [[nodiscard]] std::string describe(const runtime& rt) const override {
    return lowbit::detail::message(std::is_same_v<T, float> ? "f32" : "f16", " weights, ",
                                   rt.floats->name);
  }

 private:
  shape2 shape_;
  lowbit::aligned_buffer<T> values_;
};

}  // namespace

const whisper_float_kernels& load_float_kernels(lowbit::cpu::cpu_set allowed) {
  const kernel_module* module = modules;
  while (!allowed.contains(module->needs)) ++module;
  const std::string file = lowbit::detail::message("libwhisper_floats_", module->name, ".so");
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  LOWBIT_CHECK(handle != nullptr, system, "cannot load the float kernels: ", ::dlerror());
  void* const symbol = ::dlsym(handle, whisper_float_kernels_symbol);
  LOWBIT_CHECK(symbol != nullptr, system, file, " lacks ", whisper_float_kernels_symbol);
  return *reinterpret_cast<whisper_float_kernels_fn>(symbol)();
}

std::unique_ptr<linear> make_dense(const lowbit::io::stored_tensor& tensor, dense_storage storage) {
  const shape2 shape = lowbit::io::matrix_shape(tensor);
  constexpr index_t rows_at_a_time = 1024;
  matrix block(std::min(rows_at_a_time, shape.rows), shape.cols);
  lowbit::aligned_buffer<float> floats(
      storage == dense_storage::f16 && tensor.type == lowbit::element_type::f16 ? 0 : shape.size());
  for (index_t row = 0; row < shape.rows; row += rows_at_a_time) {
    const row_range rows{row, std::min(row + rows_at_a_time, shape.rows)};
    const auto values = block.view().middle_rows({0, rows.size()});
    lowbit::io::read_rows(tensor, rows, values);
    lowbit::check_finite(values,
                         "tensor '" + tensor.name + "', from row " + std::to_string(row) + " on,");
    if (!floats.empty()) {
      std::copy_n(values.data(), values.rows() * values.cols(), floats.data() + row * shape.cols);
    }
  }
  if (floats.size() == shape.size()) {
    return std::make_unique<dense<float>>(shape, std::move(floats));
  }
  lowbit::aligned_buffer<std::uint16_t> halves(shape.size());
  lowbit::copy_bytes(tensor.bytes, std::as_writable_bytes(halves.span()));
  return std::make_unique<dense<std::uint16_t>>(shape, std::move(halves));
}

}  // namespace whisper
