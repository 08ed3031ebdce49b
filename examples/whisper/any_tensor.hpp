// any_tensor.hpp: a quantized tensor of any format, behind any decorators, chosen at run time.
//
// A checkpoint names the format of a tensor outermost first, as in "with_outliers.rotated.uniform",
// and has the params of all parts in one list. A template over every such nest would be compiled
// 2^decorators times. Here each decorator is compiled once, over any_tensor as its base: any_tensor
// models lowbit::quantized_tensor, so lowbit's decorators take it, and from_buffers() of a
// decorator asks it for the base that the rest of the name says. What a decorator does in products
// stays the library's (composite_operand). (lowbit::any_tensor is the like without products, of
// tensors that a quantizer made.)
//
// Only any_tensor.cpp sees the formats.
#pragma once

#include <memory>
#include <string>

#include "linear.hpp"
#include "lowbit/core/tensor_ref.hpp"
#include "lowbit/io/checkpoint_reader.hpp"

namespace whisper {

class any_tensor {
 public:
  /// What is left of a checkpoint's record when the decorators around are taken off.
  struct format {
    static constexpr std::string_view name = "any";
    static constexpr std::uint32_t version = 1;
    struct params {
      std::string format;         ///< "rotated.uniform"
      std::uint32_t version = 0;  ///< of that
      std::string fields;         ///< its params as JSON

      friend bool operator==(const params&, const params&) = default;
    };
    static void describe(params&, lowbit::params_visitor&) {}
    [[nodiscard]] static std::string name_of(const params& p) { return p.format; }
    [[nodiscard]] static std::uint32_t version_of(const params& p) { return p.version; }
  };

  /// What a type of tensor can do. Immutable.
  class node {
   public:
    virtual ~node() = default;
    [[nodiscard]] virtual lowbit::tensor_ref tensor() const = 0;
    [[nodiscard]] virtual std::uint64_t bytes(activation_mode mode) const = 0;
    virtual void multiply(matrix_view<const float> x, matrix_view<float> y, const runtime& rt,
                          activation_mode mode) const = 0;
    [[nodiscard]] virtual std::string describe(const runtime& rt, activation_mode mode) const = 0;
  };

  // -- quantized_tensor, row_coupled_tensor ------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return node_->tensor().shape(); }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return node_->tensor().storage_bits(); }
  void dequantize(row_range rows, matrix_view<float> out) const {
    node_->tensor().dequantize(rows, out);
  }
  void for_each_buffer(lowbit::buffer_visitor& visitor) const {
    node_->tensor().for_each_buffer(visitor);
  }
  [[nodiscard]] index_t coupled_rows() const { return node_->tensor().coupled_rows(); }
  /// Refuses (format) an unknown format or decorator, and what those refuse.
  [[nodiscard]] static any_tensor from_buffers(shape2 shape, const format::params& params,
                                               lowbit::buffer_source& source);

  // -- products ----------------------------------------------------------------------------------

  /// y [M, N] = x [M, K] W^T.
  void multiply(matrix_view<const float> x, matrix_view<float> y, const runtime& rt,
                activation_mode mode) const {
    node_->multiply(x, y, rt, mode);
  }
  /// What the product of one token reads.
  [[nodiscard]] std::uint64_t bytes(activation_mode mode) const { return node_->bytes(mode); }
  [[nodiscard]] std::string describe(const runtime& rt, activation_mode mode) const {
    return node_->describe(rt, mode);
  }

 private:
  any_tensor(format::params params, std::shared_ptr<const node> of)
      : params_(std::move(params)), node_(std::move(of)) {}

  format::params params_;
  std::shared_ptr<const node> node_;
};

/// A quantized entry of a checkpoint, whose checksums have been verified. Refuses (format) what no
/// quantizer wrote; the message names the tensor.
[[nodiscard]] any_tensor load_quantized(const lowbit::io::checkpoint_entry& entry);

/// The weights of a layer.
[[nodiscard]] std::unique_ptr<linear> make_quantized(any_tensor tensor, activation_mode mode);

}  // namespace whisper
