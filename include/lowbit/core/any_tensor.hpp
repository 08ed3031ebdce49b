// core/any_tensor.hpp: any quantized tensor, owned, by value. Layer L1.
//
// Decorators multiply types: a template over every nest of six over four formats is compiled 256
// times. Over any_tensor as their base each is compiled once, whatever lies below. The price: what
// only the type knows, fast products and refinements of the concept, is out of reach; for products
// read the tensor back as its own type, or ask get_if().
//
// Models quantized_tensor and row_coupled_tensor. Its format is open (quantized_tensor.hpp): name,
// version, fields and buffers are those of the tensor inside, so files cannot tell the difference.
// Nobody can tell from a file's name of a format which type to read: from_buffers() reads what the
// params came from, and who reads a file starts from a type (io/checkpoint_reader.hpp).
//
// Immutable: copies share the tensor.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "lowbit/core/tensor_ref.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

class any_tensor;

namespace detail {
/// An any_tensor is copied instead; that is asked first, or the question would never end.
template <class T>
concept erasable_tensor = !std::same_as<T, any_tensor> && referable_tensor<T>;

/// Its address tells types apart, without RTTI.
template <class T>
inline constexpr char type_mark = 0;
}  // namespace detail

class any_tensor {
 public:
  struct format {
    static constexpr std::string_view name = "any";
    static constexpr std::uint32_t version = 1;

    /// The params of a tensor of any type. Those that are made by default are of none: they have no
    /// fields, and no tensor.
    class params {
     public:
      params() = default;
      template <detail::erasable_tensor T>
      explicit params(std::type_identity<T>, typename T::format::params values)
          : of_(std::make_shared<of_type<T>>(std::move(values))) {}

      [[nodiscard]] std::string name() const { return of_ ? of_->name() : std::string(); }
      [[nodiscard]] std::uint32_t version() const { return of_ ? of_->version() : 0; }
      void describe(params_visitor& v) {
        if (of_) of_ = of_->described(v);
      }
      /// Refuses what the type refuses, and params of no tensor (format).
      [[nodiscard]] any_tensor from_buffers(shape2 shape, buffer_source& source) const;

      friend bool operator==(const params& a, const params& b) {
        return a.of_ == b.of_ || (a.of_ && b.of_ && a.of_->equals(*b.of_));
      }

     private:
      class interface {
       public:
        virtual ~interface() = default;
        [[nodiscard]] virtual std::string name() const = 0;
        [[nodiscard]] virtual std::uint32_t version() const = 0;
        [[nodiscard]] virtual std::shared_ptr<const interface> described(params_visitor&) const = 0;
        [[nodiscard]] virtual any_tensor from_buffers(shape2, buffer_source&) const = 0;
        [[nodiscard]] virtual const char* type() const = 0;
        [[nodiscard]] virtual bool equals(const interface&) const = 0;
      };
      template <class T>
      class of_type;

      std::shared_ptr<const interface> of_;
    };

    static void describe(params& p, params_visitor& v) { p.describe(v); }
    [[nodiscard]] static std::string name_of(const params& p) { return p.name(); }
    [[nodiscard]] static std::uint32_t version_of(const params& p) { return p.version(); }
  };

  template <detail::erasable_tensor T>
  any_tensor(T tensor)  // NOLINT: implicit on purpose
      : any_tensor(std::make_shared<const T>(std::move(tensor))) {}

  // -- quantized_tensor, row_coupled_tensor ------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return tensor_.shape(); }
  [[nodiscard]] const format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return tensor_.storage_bits(); }
  void dequantize(row_range rows, matrix_view<float> out) const { tensor_.dequantize(rows, out); }
  void for_each_buffer(buffer_visitor& visitor) const { tensor_.for_each_buffer(visitor); }
  [[nodiscard]] static any_tensor from_buffers(shape2 shape, const format::params& params,
                                               buffer_source& source) {
    return params.from_buffers(shape, source);
  }
  [[nodiscard]] index_t coupled_rows() const { return tensor_.coupled_rows(); }

  /// The tensor, if it is a T; else null. Valid while this or a copy lives.
  template <detail::erasable_tensor T>
  [[nodiscard]] const T* get_if() const noexcept {
    return type_ == &detail::type_mark<T> ? static_cast<const T*>(owner_.get()) : nullptr;
  }

 private:
  template <class T>
  explicit any_tensor(std::shared_ptr<const T> tensor)
      : tensor_(*tensor),
        params_(std::type_identity<T>{}, tensor->params()),
        type_(&detail::type_mark<T>),
        owner_(std::move(tensor)) {}

  tensor_ref tensor_;
  format::params params_;
  const char* type_;
  std::shared_ptr<const void> owner_;
};

template <class T>
class any_tensor::format::params::of_type final : public interface {
 public:
  explicit of_type(typename T::format::params values) : values_(std::move(values)) {}

  [[nodiscard]] std::string name() const override {
    return format_name<typename T::format>(values_);
  }
  [[nodiscard]] std::uint32_t version() const override {
    return format_version<typename T::format>(values_);
  }
  [[nodiscard]] std::shared_ptr<const interface> described(params_visitor& v) const override {
    auto values = values_;
    T::format::describe(values, v);
    return std::make_shared<of_type>(std::move(values));
  }
  [[nodiscard]] any_tensor from_buffers(shape2 shape, buffer_source& source) const override {
    return T::from_buffers(shape, values_, source);
  }
  [[nodiscard]] const char* type() const override { return &detail::type_mark<T>; }
  [[nodiscard]] bool equals(const interface& other) const override {
    return type() == other.type() && values_ == static_cast<const of_type&>(other).values_;
  }

 private:
  typename T::format::params values_;
};

inline any_tensor any_tensor::format::params::from_buffers(shape2 shape,
                                                           buffer_source& source) const {
  LOWBIT_CHECK(of_ != nullptr, format, "params of no tensor");
  return of_->from_buffers(shape, source);
}

static_assert(row_coupled_tensor<any_tensor> && open_format<any_tensor::format>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
