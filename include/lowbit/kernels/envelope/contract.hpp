// kernels/envelope/contract.hpp: what every variant of the envelope kernel computes. Layer L2.
//
// A sign matrix with l envelopes is multiplied as l right-hand sides on the same signs; what stands
// before and behind that product works on rows of n floats with l envelopes of n values each, kept
// as fp16, bf16 or fp32 and decoded on the way (which is exact):
//
//   expand    out[j][i] = round(e[j][i] * x[i])                            for j < l
//   combine   s = round(e[0][i] * z[0][i]), s = fma(e[j][i], z[j][i], s)   for j = 1 .. l-1,
//             y[i] = s, or y[i] = round(y[i] + s)
//
// Invariants:
//  * Same bits from every variant (each operation rounds once, in this order), under the default
//    floating-point environment. Which NaN comes out of several is not promised.
//  * Memory: everything is aligned to its type only, and nothing is read or written outside the
//    stated arrays: tails are part of a variant. Outputs do not overlap inputs.
//  * noexcept, no allocation, no state: thread-safe.
#pragma once

#include <cstddef>

#include "lowbit/core/checked.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// `rows` envelopes from some column on.
struct envelope_rows {
  const std::byte* data;  ///< [rows][count] values of `type`
  scale_type type;
  index_t rows;    ///< l, at least 1
  index_t stride;  ///< values from one row to the next
};

struct envelope_expand_args {
  envelope_rows envelope;
  const float* x;      ///< [count]
  float* out;          ///< [rows][count], overwritten
  index_t out_stride;  ///< floats from one row to the next
  index_t count;
};

struct envelope_combine_args {
  envelope_rows envelope;
  const float* z;    ///< [rows][count]
  index_t z_stride;  ///< floats from one row to the next
  float* y;          ///< [count]
  bool accumulate;   ///< whether sums are added to what y holds
  index_t count;
};

using envelope_expand_fn = void (*)(const envelope_expand_args&) noexcept;
using envelope_combine_fn = void (*)(const envelope_combine_args&) noexcept;

/// One way to run the family.
struct envelope_functions {
  envelope_expand_fn expand = nullptr;
  envelope_combine_fn combine = nullptr;

  friend constexpr bool operator==(const envelope_functions&,
                                   const envelope_functions&) noexcept = default;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
