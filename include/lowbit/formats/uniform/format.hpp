// formats/uniform/format.hpp: the name, the version and the parameters of the uniform format. Layer
// L3.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "lowbit/core/affine.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace formats {
/// Which weights share a scale.
enum class granularity : std::uint8_t { tensor, channel, group };
}  // namespace formats

template <>
inline constexpr std::string_view enum_names<formats::granularity>[] = {"tensor", "channel",
                                                                        "group"};

namespace formats {

/// Uniform INT-b: each weight is an integer code on a grid of equal steps (core/affine.hpp).
struct uniform {
  static constexpr std::string_view name = "uniform";
  static constexpr std::uint32_t version = 1;

  struct params {
    unsigned bits = 4;  ///< 1..8
    symmetry kind = symmetry::symmetric;
    formats::granularity granularity = formats::granularity::group;
    std::uint32_t group_size = 64;  ///< columns per scale; read for granularity group only
    lowbit::scale_type scale_type = lowbit::scale_type::fp16;

    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params& p, params_visitor& v) {
    v({"bits", "bits per code"}, p.bits, 1U, 8U);
    v({"symmetry", "levels around zero, with an integer zero point, or from a stored offset on"},
      p.kind);
    v({"granularity", "which weights share a scale: all, a row, or group_size of a row"},
      p.granularity);
    v({"group_size", "columns per scale, for granularity group; need not divide the row"},
      p.group_size, std::uint32_t{1}, std::numeric_limits<std::uint32_t>::max());
    v({"scale_type", "how scales and offsets are stored"}, p.scale_type);
  }
};

static_assert(format_tag<uniform>);

}  // namespace formats
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
