// testing/buffers.hpp: the buffers of a tensor held in memory, to compare and to rebuild it from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/core/tensor_ref.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {

/// A buffer_view with a memory of its own.
struct stored_buffer {
  std::string name;
  element_type type = element_type::u8;
  std::vector<index_t> shape;
  std::vector<std::byte> bytes;

  friend bool operator==(const stored_buffer&, const stored_buffer&) = default;
};

/// Copies every buffer of a tensor, in its order.
[[nodiscard]] inline std::vector<stored_buffer> copy_buffers(tensor_ref t) {
  struct : buffer_visitor {
    std::vector<stored_buffer> list;
    void operator()(const buffer_view& b) override {
      list.push_back({std::string(b.name),
                      b.type,
                      {b.shape.begin(), b.shape.end()},
                      {b.bytes.begin(), b.bytes.end()}});
    }
  } copy;
  t.for_each_buffer(copy);
  return std::move(copy.list);
}

/// How two lists of buffers differ first; empty if they are the same.
[[nodiscard]] inline std::string first_difference(const std::vector<stored_buffer>& a,
                                                  const std::vector<stored_buffer>& b) {
  using lowbit::detail::message;
  if (a.size() != b.size()) return message(a.size(), " buffers and ", b.size());
  for (index_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name) {
      return message("buffer ", i, " is '", a[i].name, "' and '", b[i].name, "'");
    }
    if (a[i].type != b[i].type) return message("buffer '", a[i].name, "' has two element types");
    if (a[i].shape != b[i].shape) return message("buffer '", a[i].name, "' has two shapes");
    if (a[i].bytes.size() != b[i].bytes.size()) {
      return message("buffer '", a[i].name, "' has ", a[i].bytes.size(), " bytes and ",
                     b[i].bytes.size());
    }
    for (index_t k = 0; k < a[i].bytes.size(); ++k) {
      if (a[i].bytes[k] != b[i].bytes[k]) {
        return message("byte ", k, " of buffer '", a[i].name, "' is ",
                       std::to_integer<int>(a[i].bytes[k]), " and ",
                       std::to_integer<int>(b[i].bytes[k]));
      }
    }
  }
  return {};
}

/// A buffer_source over copies. As in a file, the bytes that it hands out have no alignment.
class memory_source final : public buffer_source {
 public:
  explicit memory_source(std::vector<stored_buffer> buffers) : buffers_(std::move(buffers)) {
    for (stored_buffer& b : buffers_) b.bytes.insert(b.bytes.begin(), std::byte{0xee});
  }

  std::span<const std::byte> get(std::string_view name, element_type type,
                                 std::span<const index_t> shape) override {
    for (const stored_buffer& b : buffers_) {
      if (b.name != name) continue;
      LOWBIT_CHECK(b.type == type, format, "buffer '", name, "' has another element type");
      LOWBIT_CHECK(std::equal(b.shape.begin(), b.shape.end(), shape.begin(), shape.end()), format,
                   "buffer '", name, "' has another shape");
      return std::span<const std::byte>(b.bytes).subspan(1);
    }
    LOWBIT_CHECK(false, format, "there is no buffer '", name, "'");
    return {};
  }

 private:
  std::vector<stored_buffer> buffers_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
