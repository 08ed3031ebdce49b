// runtime.hpp: what a forward pass may use, and who watches it.
#pragma once

#include <functional>
#include <string_view>

#include "float_kernels.hpp"
#include "lowbit/kernels/context.hpp"
#include "matrix.hpp"

namespace whisper {

/// The float kernels for a set of CPU features: the best module that was built. Modules stay
/// loaded. Refuses (system) a module that cannot be loaded.
[[nodiscard]] const whisper_float_kernels& load_float_kernels(lowbit::cpu::cpu_set allowed);

/// Sees the inputs of every linear layer before its product: for calibration and for comparisons.
class layer_observer {
 public:
  virtual ~layer_observer() = default;
  /// `layer` is the name of the weight without ".weight", such as "decoder.blocks.0.attn.query".
  /// Layers that share inputs are told one by one. `inputs` [tokens, K] is valid during the call.
  virtual void saw(std::string_view layer, matrix_view<const float> inputs) = 0;
};

/// A cheap value, as lowbit::kernels::context is: what it points to must outlive the calls. One
/// call at a time may use it.
struct runtime {
  lowbit::kernels::context ctx;  ///< CPU features, threads, and a workspace, which must be there
  const whisper_float_kernels* floats = nullptr;
  layer_observer* observer = nullptr;
  /// Asked between layers; may throw to stop (lowbit::cancelled_error).
  std::function<void()> check = {};

  void check_stop() const {
    if (check) check();
  }
};

/// Products of fewer multiplications than this are not worth the threads' wake-up: about 50 us of
/// one core's float products.
inline constexpr index_t least_parallel_products = 2'000'000;

[[nodiscard]] inline whisper_input as_input(matrix_view<const float> m) noexcept {
  return {m.data(), m.rows(), m.cols(), m.row_stride()};
}
[[nodiscard]] inline whisper_output as_output(matrix_view<float> m) noexcept {
  return {m.data(), m.row_stride()};
}

}  // namespace whisper
