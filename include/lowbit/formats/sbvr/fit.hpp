// formats/sbvr/fit.hpp: the options of a fit. Layer L3.
#pragma once

#include <cstdint>
#include <string_view>

#include "lowbit/core/params.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
enum class sbvr_method : std::uint8_t {
  alternating,     ///< nearest levels and least squares in turn, per group
  learned_ratios,  ///< the same, after the ratios of the tensor were fitted (shared_ratios only)
  grid_search,     ///< the search of the SBVR authors (table only)
};
}  // namespace formats

template <>
inline constexpr std::string_view enum_names<formats::sbvr_method>[] = {
    "alternating", "learned_ratios", "grid_search"};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
