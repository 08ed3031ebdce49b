// folded/format.hpp: a toy format: one bit and one scale per run of columns, the magnitude of the
// run.
//
// It lives in its own folder, outside of include/, as a downstream project's format would.
// Everything that it gets, it gets by modelling the concept.
#pragma once

#include "lowbit/core/quantized_tensor.hpp"

namespace toy {

struct folded {
  static constexpr std::string_view name = "folded";
  static constexpr std::uint32_t version = 3;

  struct params {
    std::uint32_t run = 32;  ///< columns per magnitude

    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params& p, lowbit::params_visitor& v) {
    v({"run", "columns per magnitude"}, p.run, 1U, 4096U);
  }
};

}  // namespace toy
