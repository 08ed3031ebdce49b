// calibration_source.hpp: statistics of layers' inputs from a calibration file, and errors by them.
#pragma once

#include <optional>

#include "lowbit/io/calibration_file.hpp"
#include "lowbit/outlier/distortion_report.hpp"
#include "source_model.hpp"

namespace quantize_model {

/// The file's statistics if it is a calibration file; nothing if it has rows or no calibration.
[[nodiscard]] inline std::optional<lowbit::io::calibration_reader> open_statistics(
    const std::filesystem::path& path) {
  if (examples::whisper_file::has_magic(lowbit::io::mapped_file(path).bytes())) return {};
  auto file = lowbit::io::safetensors_reader::open(path);
  if (!lowbit::io::calibration_reader::recognizes(file)) return {};
  return lowbit::io::calibration_reader::open(path);
}

/// Of a layer's outputs, summed over them, for inputs with E[x x^T] = H.
struct output_energy {
  double error;   ///< tr E H E^T, the mean squared error
  double square;  ///< tr W H W^T, the mean square

  /// 0 for outputs that are all zero.
  [[nodiscard]] double relative_error() const { return square > 0.0 ? error / square : 0.0; }
};
[[nodiscard]] inline output_energy energy_of_outputs(
    lowbit::matrix_view<const float> weights, lowbit::tensor_ref tensor,
    const lowbit::observers::second_moments& inputs, const lowbit::kernels::context& ctx) {
  const lowbit::matrix_view<const double> h = inputs.matrix();
  lowbit::aligned_buffer<float> buffer(weights.shape().size());
  const lowbit::matrix_view<float> other(buffer.data(), weights.rows(), weights.cols());
  const double square = lowbit::outlier::layer_hessian_error(weights, other, h, ctx);  // of zeros
  tensor.dequantize({0, weights.rows()}, other);
  return {lowbit::outlier::layer_hessian_error(weights, other, h, ctx), square};
}

}  // namespace quantize_model
