// formats/dbf/format.hpp: the name, the version and the parameters of double binary factorization.
// Layer L3.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>

#include "lowbit/core/quantized_tensor.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

/// Double binary factorization with envelopes of rank l (DBF, arXiv 2505.11076; MDBF, arXiv
/// 2512.24545):
///   W = sum over paths p < P of F_p G_p,   F_p [N, r] and G_p [r, K] enveloped signs.
struct dbf {
  static constexpr std::string_view name = "dbf";
  static constexpr std::uint32_t version = 1;
  static constexpr unsigned max_paths = 2;
  static constexpr unsigned max_envelope_rank = 16;

  struct params {
    std::uint32_t middle = 0;    ///< r; 0: not chosen yet, only before quantizing
    unsigned envelope_rank = 1;  ///< 1..16: l
    unsigned paths = 1;          ///< 1..2: P
    lowbit::scale_type scale_type = lowbit::scale_type::fp16;

    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params& p, params_visitor& v) {
    v({"middle",
       "inner size of the two sign matrices, at most the smaller side of the matrix; 0: from "
       "target_bits"},
      p.middle, std::uint32_t{0}, std::numeric_limits<std::uint32_t>::max());
    v({"envelope_rank", "rank of the magnitudes of each sign matrix"}, p.envelope_rank, 1U,
      max_envelope_rank);
    v({"paths", "products of two sign matrices that are summed"}, p.paths, 1U, max_paths);
    v({"scale_type", "how envelopes are stored"}, p.scale_type);
  }

  /// What a tensor of this shape stores, but for the bits that fill last bytes:
  ///   P (r (N + K) + s l (N + K + 2 r)),   s bits per envelope element.
  [[nodiscard]] static std::uint64_t stored_bits(shape2 shape, const params& p) {
    const index_t sides = shape.rows + shape.cols;
    return p.paths * (p.middle * sides + bits_of(p) * (sides + 2 * index_t{p.middle}));
  }
  /// The largest r with which at most target_bits per weight are stored, but at least 1 and at most
  /// the smaller side of the matrix.
  [[nodiscard]] static std::uint32_t middle_for(shape2 shape, double target_bits, const params& p) {
    const auto sides = static_cast<double>(shape.rows + shape.cols);
    const double bits = target_bits * static_cast<double>(shape.size()) / p.paths;
    const auto envelopes = static_cast<double>(bits_of(p));
    const double r = (bits - envelopes * sides) / (sides + 2.0 * envelopes);
    return clamped(static_cast<std::uint32_t>(std::clamp(r, 0.0, 4294967295.0)), shape);
  }
  /// The size from 1 to the smaller side of the matrix that is next to `middle`: more than that
  /// side is more than any matrix needs.
  [[nodiscard]] static std::uint32_t clamped(std::uint32_t middle, shape2 shape) noexcept {
    const index_t most = std::max<index_t>(1, std::min(shape.rows, shape.cols));
    return static_cast<std::uint32_t>(std::clamp<index_t>(middle, 1, most));
  }

 private:
  /// Bits of the envelopes of one row or column.
  [[nodiscard]] static index_t bits_of(const params& p) noexcept {
    return 8 * element_size(layout::element_type_of(p.scale_type)) * p.envelope_rank;
  }
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
