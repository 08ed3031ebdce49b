// any_tensor.cpp: the only file that sees the formats and decorators of lowbit, and so the one that
// takes long to compile.
#include "any_tensor.hpp"

#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/replicated.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/formats/all.hpp"
#include "lowbit/io/params_json.hpp"
#include "lowbit/ops/matmul.hpp"

namespace whisper {

namespace {

using lowbit::kernels::context;
constexpr std::string_view dot = ".";

/// Whether ops::pack() takes T: codes or planes, or parts that have them.
template <class T>
constexpr bool can_pack = lowbit::ops::packable<T>;
template <lowbit::composite_operand T>
constexpr bool can_pack<T> = can_pack<typename T::part_type>;

/// The kernel of products with int8 activations.
template <class T>
[[nodiscard]] std::string int8_kernel(const context& ctx) {
  if constexpr (lowbit::composite_operand<T>) {
    return int8_kernel<typename T::part_type>(ctx);
  } else {
    const auto variant = lowbit::sign_operand<T>
                             ? lowbit::kernels::select_sign_gemm(ctx.allowed).name
                             : lowbit::kernels::select_code_gemm(ctx.allowed).name;
    return lowbit::detail::message(lowbit::ops::int8_family<T>, "/", variant);
  }
}

/// y = x W^T with weights decoded block by block.
void multiply_decoded(matrix_view<const float> x, lowbit::tensor_ref w, matrix_view<float> y,
                      const runtime& rt) {
  const shape2 shape = w.shape();
  const index_t block_rows = lowbit::dequantize_block_rows(w);
  const index_t block_size = std::min(shape.rows, block_rows) * shape.cols;
  lowbit::kernels::workspace& scratch = *rt.ctx.scratch;
  scratch.reserve(lowbit::kernels::workers(rt.ctx), block_size * sizeof(float));
  lowbit::kernels::parallel_for_blocks(
      rt.ctx, shape.rows, block_rows, [&](row_range rows, index_t worker) {
        auto* const values = reinterpret_cast<float*>(scratch.slot(worker).data());
        const matrix_view<float> block(values, rows.size(), shape.cols);
        w.dequantize(rows, block);
        rt.floats->multiply(as_input(x), as_input(matrix_view<const float>(block)),
                            as_output(y.middle_cols(rows.begin, rows.end)));
      });
}
/// The same, of a format that is made of parts by its parts: cheaper than decoding the whole.
template <class T>
void multiply_by_parts(matrix_view<const float> x, const T& w, matrix_view<float> y,
                       const runtime& rt) {
  if constexpr (lowbit::composite_operand<T>) {
    w.multiply(x, y, rt.ctx,
               [&](index_t part, matrix_view<const float> in, matrix_view<float> out) {
                 multiply_by_parts(in, w.part(part), out, rt);
               });
  } else {
    multiply_decoded(x, w, y, rt);
  }
}

/// What every node does in the same way.
template <class T>
class node_of : public any_tensor::node {
 public:
  explicit node_of(T tensor) : tensor_(std::move(tensor)) {}
  [[nodiscard]] lowbit::tensor_ref tensor() const override { return tensor_; }

 protected:
  T tensor_;
};

/// A format of lowbit. Weights are packed when the first product with int8 activations asks.
template <lowbit::quantized_tensor T>
class format_node final : public node_of<T> {
 public:
  using node_of<T>::node_of;

  [[nodiscard]] std::uint64_t bytes(activation_mode mode) const override {
    if constexpr (can_pack<T>) {
      if constexpr (!lowbit::composite_operand<T>) {
        if (mode == activation_mode::int8) return packed({}).size_bytes();
      }
    }
    return this->tensor_.storage_bits() / 8;
  }
  void multiply(matrix_view<const float> x, matrix_view<float> y, const runtime& rt,
                activation_mode mode) const override {
    if constexpr (can_pack<T>) {
      if (mode == activation_mode::int8) {
        const auto& weights = packed(rt.ctx);
        const shape2 shape = this->tensor_.shape();
        const bool is_small = x.rows() * shape.rows * shape.cols < least_parallel_products;
        return lowbit::ops::matmul(x, weights, y, is_small ? rt.ctx.serial(rt.ctx.scratch) : rt.ctx,
                                   activations);
      }
    }
    multiply_by_parts(x, this->tensor_, y, rt);
  }
  [[nodiscard]] std::string describe(const runtime& rt, activation_mode mode) const override {
    const std::string name(T::format::name);
    if constexpr (can_pack<T>) {
      if (mode == activation_mode::int8) {
        return name + ", int8 activations, " + int8_kernel<T>(rt.ctx);
      }
    }
    return name + " decoded to f32, " + rt.floats->name;
  }

 private:
  static constexpr lowbit::ops::activation_quantization activations{.bits = 8};

  [[nodiscard]] const auto& packed(const context& ctx) const requires can_pack<T> {
    std::call_once(once_, [&] { packed_.emplace(lowbit::ops::pack(this->tensor_, ctx)); });
    return *packed_;
  }

  template <class Tensor>
  struct packed_type : std::type_identity<char> {};
  template <class Tensor>
  requires can_pack<Tensor>
  struct packed_type<Tensor>
      : std::type_identity<decltype(lowbit::ops::pack(std::declval<const Tensor&>(), context{}))> {
  };

  mutable std::once_flag once_;
  mutable std::optional<typename packed_type<T>::type> packed_;
};

/// A decorator of lowbit over any tensors.
template <lowbit::composite_operand T>
class decorator_node final : public node_of<T> {
 public:
  using node_of<T>::node_of;

  [[nodiscard]] std::uint64_t bytes(activation_mode mode) const override {
    std::uint64_t own = this->tensor_.storage_bits();
    std::uint64_t parts = 0;
    for (index_t i = 0; i < this->tensor_.parts(); ++i) {
      own -= this->tensor_.part(i).storage_bits();
      parts += this->tensor_.part(i).bytes(mode);
    }
    return own / 8 + parts;
  }
  void multiply(matrix_view<const float> x, matrix_view<float> y, const runtime& rt,
                activation_mode mode) const override {
    this->tensor_.multiply(x, y, rt.ctx,
                           [&](index_t part, matrix_view<const float> in, matrix_view<float> out) {
                             this->tensor_.part(part).multiply(in, out, rt, mode);
                           });
  }
  [[nodiscard]] std::string describe(const runtime& rt, activation_mode mode) const override {
    return lowbit::detail::message(T::product_step(), ", ",
                                   this->tensor_.part(0).describe(rt, mode));
  }
};

namespace decorators = lowbit::decorators;

/// What a decorator stores beside its base.
template <class Nested>
struct own_part;
template <class Own, class Base>
struct own_part<decorators::nested_format<Own, Base>> : std::type_identity<Own> {};
template <class T>
using own_format = typename own_part<typename T::format>::type;

/// Every decorator of lowbit, over any tensor.
template <class... Ts>
struct decorator_list {
  /// Calls f(std::type_identity<T>{}) for the one with this name; false if there is none.
  template <class F>
  static bool visit(std::string_view name, const F& f) {
    return ((own_format<Ts>::name == name ? (f(std::type_identity<Ts>{}), true) : false) || ...);
  }
};
using all_decorators =
    decorator_list<decorators::with_outliers<any_tensor>, decorators::scaled<any_tensor>,
                   decorators::output_rotated<any_tensor>, decorators::rotated<any_tensor>,
                   decorators::permuted<any_tensor>, decorators::replicated<any_tensor>>;

/// The names of the fields that describe() visits.
class field_names final : public lowbit::params_visitor {
 public:
  std::vector<std::string> names;
  void integer(lowbit::field f, std::int64_t&, std::int64_t, std::int64_t) override { add(f); }
  void real(lowbit::field f, double&, double, double) override { add(f); }
  void choice(lowbit::field f, std::size_t&, std::span<const std::string_view>) override { add(f); }

 private:
  void add(lowbit::field f) { names.emplace_back(f.name); }
};

/// The fields of `Described` out of a record; the others stay.
template <class Described>
[[nodiscard]] typename Described::params take_params(std::string& fields) {
  nlohmann::json all = nlohmann::json::parse(fields);
  nlohmann::json own = nlohmann::json::object();
  typename Described::params defaults{};
  field_names names;
  Described::describe(defaults, names);
  for (const std::string& name : names.names) {
    const auto found = all.find(name);
    if (found == all.end()) continue;  // params_from_json says what is missing
    own[name] = *found;
    all.erase(found);
  }
  fields = all.dump();
  return lowbit::io::params_from_json<Described, typename Described::params>(own.dump(), "params");
}

}  // namespace

any_tensor any_tensor::from_buffers(shape2 shape, const format::params& params,
                                    lowbit::buffer_source& source) {
  std::shared_ptr<const node> made;
  const auto load_format = [&]<class Q>(std::type_identity<Q>) {
    using tensor = typename Q::tensor;
    using stored = typename tensor::format;
    LOWBIT_CHECK(params.version == stored::version, format, "format '", stored::name,
                 "' has version ", params.version, ", this program reads ", stored::version);
    made = std::make_shared<format_node<tensor>>(tensor::from_buffers(
        shape,
        lowbit::io::params_from_json<stored, typename stored::params>(params.fields, "params"),
        source));
  };
  if (lowbit::formats::all::visit(params.format, load_format)) return {params, std::move(made)};

  const std::size_t end = std::min(params.format.find(dot), params.format.size());
  const std::string_view outer = std::string_view(params.format).substr(0, end);
  const auto load_decorator = [&]<class T>(std::type_identity<T>) {
    using Own = own_format<T>;
    LOWBIT_CHECK(params.version >= Own::version, format, "decorator '", outer, "' has version ",
                 params.version, ", this program reads ", Own::version);
    const std::string rest = params.format.substr(std::min(end + 1, params.format.size()));
    // As in lowbit; and without it a name could nest deeper than the stack.
    LOWBIT_CHECK(("." + rest + ".").find("." + std::string(outer) + ".") == std::string::npos,
                 format, "decorator '", outer, "' is there twice");
    typename T::format::params nested;
    nested.base = {.format = rest,
                   .version = params.version - static_cast<std::uint32_t>(Own::version) + 1,
                   .fields = params.fields};
    nested.own = take_params<Own>(nested.base.fields);
    made = std::make_shared<decorator_node<T>>(T::from_buffers(shape, nested, source));
  };
  LOWBIT_CHECK(all_decorators::visit(outer, load_decorator), format, "unknown format '",
               params.format, "'");
  return {params, std::move(made)};
}

namespace {

/// The buffers of one entry.
class entry_buffers final : public lowbit::buffer_source {
 public:
  explicit entry_buffers(const lowbit::io::checkpoint_entry& entry)
      : entry_(entry), used_(entry.buffers.size(), false) {}

  std::span<const std::byte> get(std::string_view name, lowbit::element_type type,
                                 std::span<const index_t> shape) override {
    const std::string wanted = entry_.name + std::string(dot) + std::string(name);
    for (index_t i = 0; i < used_.size(); ++i) {
      const lowbit::io::stored_tensor& buffer = *entry_.buffers[i];
      if (buffer.name != wanted) continue;
      LOWBIT_CHECK(buffer.type == type && std::ranges::equal(buffer.shape, shape), format,
                   "buffer '", name, "' has another type or shape than its params say");
      used_[i] = true;
      return buffer.bytes;
    }
    LOWBIT_CHECK(false, format, "buffer '", name, "' is missing");
    return {};
  }
  void check_all_used() const {
    for (index_t i = 0; i < used_.size(); ++i) {
      LOWBIT_CHECK(used_[i], format, "buffer '", entry_.buffers[i]->name, "' is superfluous");
    }
  }

 private:
  const lowbit::io::checkpoint_entry& entry_;
  std::vector<bool> used_;
};

class quantized final : public linear {
 public:
  quantized(any_tensor tensor, activation_mode mode) : tensor_(std::move(tensor)), mode_(mode) {}

  [[nodiscard]] shape2 shape() const override { return tensor_.shape(); }
  void multiply(matrix_view<const float> x, matrix_view<float> y,
                const runtime& rt) const override {
    tensor_.multiply(x, y, rt, mode_);
  }
  void read_rows(row_range rows, matrix_view<float> out) const override {
    tensor_.dequantize(rows, out);
  }
  [[nodiscard]] bool rounds_inputs() const override { return mode_ == activation_mode::int8; }
  [[nodiscard]] std::uint64_t bytes() const override { return tensor_.bytes(mode_); }
  [[nodiscard]] std::uint64_t stored_bits() const override { return tensor_.storage_bits(); }
  [[nodiscard]] std::string describe(const runtime& rt) const override {
    return tensor_.describe(rt, mode_);
  }

 private:
  any_tensor tensor_;
  activation_mode mode_;
};

}  // namespace

any_tensor load_quantized(const lowbit::io::checkpoint_entry& entry) {
  try {
    entry_buffers buffers(entry);
    any_tensor tensor =
        any_tensor::from_buffers({entry.shape[0], entry.shape[1]},
                                 {entry.format, entry.version, entry.params_json}, buffers);
    buffers.check_all_used();
    return tensor;
  } catch (const lowbit::error& e) {  // what a format refuses does not say where
    lowbit::detail::fail(e.kind(), "tensor '" + entry.name + "': " + e.what());
  }
}

std::unique_ptr<linear> make_quantized(any_tensor tensor, activation_mode mode) {
  return std::make_unique<quantized>(std::move(tensor), mode);
}

}  // namespace whisper
