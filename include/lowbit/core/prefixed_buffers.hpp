// core/prefixed_buffers.hpp: the buffers of a tensor that is a part of another one. Layer L1.
//
// Buffer B of a part with prefix P is stored as PB: so parts of one type can share a flat list.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "lowbit/core/quantized_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// Passes buffers on under their prefixed names. Refers to `to`, which must outlive it.
class prefixing_visitor final : public buffer_visitor {
 public:
  prefixing_visitor(std::string prefix, buffer_visitor& to) : prefix_(std::move(prefix)), to_(to) {}
  void operator()(const buffer_view& buffer) override {
    const std::string name = prefix_ + std::string(buffer.name);
    to_({name, buffer.type, buffer.shape, buffer.bytes});
  }

 private:
  std::string prefix_;
  buffer_visitor& to_;
};

/// Asks for buffers by their prefixed names. Refers to `from`, which must outlive it.
class prefixing_source final : public buffer_source {
 public:
  prefixing_source(std::string prefix, buffer_source& from)
      : prefix_(std::move(prefix)), from_(from) {}
  std::span<const std::byte> get(std::string_view name, element_type type,
                                 std::span<const index_t> shape) override {
    return from_.get(prefix_ + std::string(name), type, shape);
  }

 private:
  std::string prefix_;
  buffer_source& from_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
