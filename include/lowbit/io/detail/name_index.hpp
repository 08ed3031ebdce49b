// io/detail/name_index.hpp: finds the items of a vector by their name. Layer L4, private.
//
// Invariants: it holds positions, 8 bytes an item, so that a header of very many tiny tensors costs
// little; the vector must not change after build().
#pragma once

#include <algorithm>
#include <numeric>
#include <string_view>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail {

/// For vectors of items with a member `name`.
class name_index {
 public:
  /// Indexes the items. Returns the first item, in order of names, whose name occurs twice, or
  /// null.
  template <class Item>
  [[nodiscard]] const Item* build(const std::vector<Item>& items) {
    by_name_.resize(items.size());
    std::iota(by_name_.begin(), by_name_.end(), index_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](index_t a, index_t b) { return items[a].name < items[b].name; });
    const auto twice =
        std::adjacent_find(by_name_.begin(), by_name_.end(),
                           [&](index_t a, index_t b) { return items[a].name == items[b].name; });
    return twice == by_name_.end() ? nullptr : &items[*twice];
  }

  /// The item with this name, or null. `items` is the vector that build() saw.
  template <class Item>
  [[nodiscard]] const Item* find(const std::vector<Item>& items, std::string_view name) const {
    const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                        [&](index_t item, std::string_view wanted) {
                                          return std::string_view(items[item].name) < wanted;
                                        });
    const bool hit = found != by_name_.end() && items[*found].name == name;
    return hit ? &items[*found] : nullptr;
  }

 private:
  std::vector<index_t> by_name_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail
