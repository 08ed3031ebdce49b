// linear.hpp: the weights of a linear layer, however they are stored.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lowbit/io/stored_tensor.hpp"
#include "runtime.hpp"

namespace whisper {

/// W [N, K]. Immutable: const members may be called from several threads at once.
class linear {
 public:
  linear() = default;
  linear(const linear&) = delete;
  linear& operator=(const linear&) = delete;
  virtual ~linear() = default;

  [[nodiscard]] virtual shape2 shape() const = 0;
  /// y [M, N] = x [M, K] W^T. x and y fit and do not overlap. The bits do not depend on threads.
  virtual void multiply(matrix_view<const float> x, matrix_view<float> y,
                        const runtime& rt) const = 0;
  /// Rows of W as floats: what an embedding looks up.
  virtual void read_rows(row_range rows, matrix_view<float> out) const = 0;
  /// Whether products may round x to int8.
  [[nodiscard]] virtual bool rounds_inputs() const { return false; }
  /// What the product of one token reads.
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;
  /// What is stored in a file.
  [[nodiscard]] virtual std::uint64_t stored_bits() const = 0;
  /// For people: how products are computed, such as "f16 weights, Eigen AVX-512".
  [[nodiscard]] virtual std::string describe(const runtime& rt) const = 0;
};

/// How weights that are stored as floats are kept in memory.
enum class dense_storage : std::uint8_t { f32, f16 };

/// How products with quantized weights treat activations.
enum class activation_mode : std::uint8_t {
  floats,  ///< weights are decoded to floats, block by block
  int8,    ///< activations become int8 codes where the format has a kernel for it
};

/// How keys and values of the audio are kept.
enum class cache_storage : std::uint8_t {
  automatic,  ///< int8 where weights are quantized and activations become int8, else floats
  floats,
  int8,  ///< and the encoder's attention is computed with int8 codes
  int4,  ///< in the decoder; the encoder as with int8
};

/// Weights from a plain tensor, copied out of the file as a matrix [d0, d1 * d2 ...]. f16 keeps f16
/// tensors as they are (others become f32). Refuses (value) values that are not finite.
[[nodiscard]] std::unique_ptr<linear> make_dense(const lowbit::io::stored_tensor& tensor,
                                                 dense_storage storage);

}  // namespace whisper
