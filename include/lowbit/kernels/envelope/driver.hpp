// kernels/envelope/driver.hpp: rows with envelopes, for any number of tokens. Layer L2.
//
// What stands before and behind the product of a sign matrix that has l envelopes on a side: each
// token becomes l right-hand sides, and l outputs become one. Rows are token-major: row t * l + j
// is that of token t and envelope j.
#pragma once

#include <algorithm>

#include "lowbit/core/matrix_view.hpp"
#include "lowbit/kernels/context.hpp"
#include "lowbit/kernels/envelope/contract.hpp"
#include "lowbit/kernels/envelope/variants.hpp"
#include "lowbit/layout/scale_matrix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels {

/// Whether sums replace what the output holds, or are added to it.
enum class envelope_sum : bool { overwrite, add };

namespace detail {

/// The envelopes from a column on.
[[nodiscard]] inline envelope_rows envelopes_from(const layout::scale_matrix& e,
                                                  index_t column) noexcept {
  return {.data = e.bytes().data() + column * element_size(e.element()),
          .type = e.type(),
          .rows = e.shape().rows,
          .stride = e.shape().cols};
}

inline void check_envelopes(const layout::scale_matrix& e, shape2 one, shape2 many) {
  const shape2 shape = e.shape();
  LOWBIT_CHECK(one.cols == shape.cols && many.cols == shape.cols, shape, "envelopes have ",
               shape.cols, " columns, tokens ", one.cols, ", and their right-hand sides ",
               many.cols);
  LOWBIT_CHECK(many.rows == checked_mul(one.rows, shape.rows, "right-hand sides"), shape, one.rows,
               " tokens with ", shape.rows, " envelopes have not ", many.rows, " right-hand sides");
}

/// Calls run(token, columns) for parts of all tokens, on ctx's executor.
template <class Run>
void for_each_part(const context& ctx, shape2 tokens, const Run& run) {
  constexpr index_t columns_of_a_task = 8192;  // so that a small GEMV is one task
  const index_t parts = div_up(tokens.cols, columns_of_a_task);
  parallel_for(ctx, tokens.rows * parts, [&](index_t task, index_t) {
    const index_t begin = task % parts * columns_of_a_task;
    run(task / parts, row_range{begin, std::min(begin + columns_of_a_task, tokens.cols)});
  });
}

}  // namespace detail

// Both: outputs must not overlap inputs. Refuses shapes that do not fit (shape). Same bits with any
// variant and executor. Thread-safe for distinct outputs.

/// out[t * l + j][i] = envelopes[j][i] * x[t][i] for envelopes[l, N], x[M, N] and out[M * l, N].
inline void expand_envelopes(const layout::scale_matrix& envelopes, matrix_view<const float> x,
                             matrix_view<float> out, const context& ctx) {
  detail::check_envelopes(envelopes, x.shape(), out.shape());
  if (out.empty()) return;
  const auto run = select_envelope(ctx.allowed).run.expand;
  detail::for_each_part(ctx, x.shape(), [&](index_t token, row_range columns) {
    run({.envelope = detail::envelopes_from(envelopes, columns.begin),
         .x = x.row(token).data() + columns.begin,
         .out = out.row(token * envelopes.shape().rows).data() + columns.begin,
         .out_stride = out.row_stride(),
         .count = columns.size()});
  });
}

/// y[t][i] = or += sum over j < l of envelopes[j][i] * z[t * l + j][i], by the arithmetic of
/// contract.hpp, for envelopes[l, N], z[M * l, N] and y[M, N].
inline void combine_envelopes(const layout::scale_matrix& envelopes, matrix_view<const float> z,
                              envelope_sum sum, matrix_view<float> y, const context& ctx) {
  detail::check_envelopes(envelopes, y.shape(), z.shape());
  if (y.empty()) return;
  if (envelopes.shape().rows == 0) {  // a sum of nothing
    for (index_t t = 0; t < y.rows() && sum == envelope_sum::overwrite; ++t) {
      std::fill(y.row(t).begin(), y.row(t).end(), 0.0F);
    }
    return;
  }
  const auto run = select_envelope(ctx.allowed).run.combine;
  detail::for_each_part(ctx, y.shape(), [&](index_t token, row_range columns) {
    run({.envelope = detail::envelopes_from(envelopes, columns.begin),
         .z = z.row(token * envelopes.shape().rows).data() + columns.begin,
         .z_stride = z.row_stride(),
         .y = y.row(token).data() + columns.begin,
         .accumulate = sum == envelope_sum::add,
         .count = columns.size()});
  });
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::kernels
