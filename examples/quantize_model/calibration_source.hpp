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

/// tr E H E^T / tr W H W^T: the mean squared error of a layer's outputs as a share of their mean
/// square, for inputs with E[x x^T] = H. NaN for outputs that are all zero.
[[nodiscard]] inline double moments_error(lowbit::matrix_view<const float> weights,
                                          lowbit::tensor_ref tensor,
                                          const lowbit::observers::second_moments& inputs,
                                          const lowbit::kernels::context& ctx) {
  const lowbit::matrix_view<const double> h = inputs.matrix();
  lowbit::aligned_buffer<float> buffer(weights.shape().size());
  const lowbit::matrix_view<float> other(buffer.data(), weights.rows(), weights.cols());
  const double square = lowbit::outlier::layer_hessian_error(weights, other, h, ctx);  // of zeros
  tensor.dequantize({0, weights.rows()}, other);
  return lowbit::outlier::layer_hessian_error(weights, other, h, ctx) / square;
}

}  // namespace quantize_model
