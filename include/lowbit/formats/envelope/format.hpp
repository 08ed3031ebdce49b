// formats/envelope/format.hpp: the name, the version and the parameters of the envelope format.
// Layer L3.
#pragma once

#include <cstdint>
#include <string_view>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// Additive envelopes: a sum of sign matrices, each under a matrix of low rank,
///   W[n, k] = sum over planes p of E_p[n, k] * B_p[n, k],  B_p = -1 or +1.
struct envelope {
  static constexpr std::string_view name = "envelope";
  static constexpr std::uint32_t version = 1;
  static constexpr unsigned max_planes = 8;
  static constexpr unsigned max_rank = 16;

  struct params {
    unsigned planes = 2;         ///< 1..8
    unsigned envelope_rank = 1;  ///< 1..16
    lowbit::scale_type scale_type = lowbit::scale_type::fp16;

    friend bool operator==(const params&, const params&) = default;
  };

  static void describe(params& p, params_visitor& v) {
    v({"planes", "sign planes, that is bits per code"}, p.planes, 1U, max_planes);
    v({"envelope_rank",
       "rank of a plane's envelope; 1: the product of a number per row and one per column"},
      p.envelope_rank, 1U, max_rank);
    v({"scale_type", "how the vectors of the envelopes are stored"}, p.scale_type);
  }
};

static_assert(format_tag<envelope>);

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
