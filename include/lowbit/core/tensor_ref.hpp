// core/tensor_ref.hpp: any quantized tensor, by reference: what does not depend on its type. Layer
// L1.
//
// For code that reads, judges or writes tensors of many types (decorators multiply them): compiled
// once, not once per type. Products are not here: they need the type.
#pragma once

#include <algorithm>
#include <memory>

#include "lowbit/core/quantized_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

class tensor_ref;

namespace detail {
/// A tensor_ref is copied instead; that is asked first, or the question would never end.
template <class T>
concept referable_tensor = !std::same_as<T, tensor_ref> && quantized_tensor<T>;
}  // namespace detail

/// A non-owning reference to a quantized_tensor. Valid only while the tensor lives. As thread-safe
/// as the tensor's const functions.
class tensor_ref {
 public:
  template <detail::referable_tensor T>
  tensor_ref(const T& tensor) noexcept  // NOLINT: implicit on purpose
      : object_(std::addressof(tensor)), functions_(&functions_of<T>) {}

  /// As files store them.
  [[nodiscard]] std::string format_name() const { return functions_->name(object_); }
  [[nodiscard]] std::uint32_t format_version() const { return functions_->version(object_); }
  /// Visits the params; what the visitor writes is lost.
  void describe_params(params_visitor& visitor) const { functions_->describe(object_, visitor); }

  // As in the concept.
  [[nodiscard]] shape2 shape() const { return functions_->shape(object_); }
  [[nodiscard]] std::uint64_t storage_bits() const { return functions_->storage_bits(object_); }
  void dequantize(row_range rows, matrix_view<float> out) const {
    functions_->dequantize(object_, rows, out);
  }
  void for_each_buffer(buffer_visitor& visitor) const {
    functions_->for_each_buffer(object_, visitor);
  }
  /// As in row_coupled_tensor; 1 for others.
  [[nodiscard]] index_t coupled_rows() const { return functions_->coupled_rows(object_); }

 private:
  struct functions {
    std::string (*name)(const void*);
    std::uint32_t (*version)(const void*);
    void (*describe)(const void*, params_visitor&);
    shape2 (*shape)(const void*);
    std::uint64_t (*storage_bits)(const void*);
    void (*dequantize)(const void*, row_range, matrix_view<float>);
    void (*for_each_buffer)(const void*, buffer_visitor&);
    index_t (*coupled_rows)(const void*);
  };

  template <class T>
  [[nodiscard]] static const T& as(const void* object) noexcept {
    return *static_cast<const T*>(object);
  }

  template <class T>
  static constexpr functions functions_of{
      .name =
          [](const void* object) {
            return lowbit::format_name<typename T::format>(as<T>(object).params());
          },
      .version =
          [](const void* object) {
            return lowbit::format_version<typename T::format>(as<T>(object).params());
          },
      .describe =
          [](const void* object, params_visitor& visitor) {
            auto params = as<T>(object).params();
            T::format::describe(params, visitor);
          },
      .shape = [](const void* object) { return as<T>(object).shape(); },
      .storage_bits = [](const void* object) { return as<T>(object).storage_bits(); },
      .dequantize = [](const void* object, row_range rows,
                       matrix_view<float> out) { as<T>(object).dequantize(rows, out); },
      .for_each_buffer = [](const void* object,
                            buffer_visitor& v) { as<T>(object).for_each_buffer(v); },
      .coupled_rows =
          [](const void* object) {
            if constexpr (row_coupled_tensor<T>) return as<T>(object).coupled_rows();
            return index_t{1};
          },
  };

  const void* object_;
  const functions* functions_;
};

/// Rows that are dequantized at a time wherever a whole matrix would be too much memory: at least
/// 64, and whole blocks of rows that cannot be had one by one (row_coupled_tensor). Fixed, so that
/// results do not depend on how many threads share the work.
[[nodiscard]] inline index_t dequantize_block_rows(tensor_ref t) {
  constexpr index_t least = 64;
  const index_t coupled = std::max<index_t>(t.coupled_rows(), 1);
  return div_up(least, coupled) * coupled;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
