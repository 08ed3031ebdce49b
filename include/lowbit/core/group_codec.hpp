// core/group_codec.hpp: what error feedback needs of a format: the levels of a group, and a tensor
// that stores codes with given levels. Layer L1.
//
// A format whose quantizer models `groupwise_quantizer` takes part in everything of ptq/: error
// feedback, refit, coordinate descent, scaling. It knows nothing of them, nor they of it.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "lowbit/core/quantizer.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

/// How the groups of one matrix W[N, K] are coded: `group_size()` columns of a row share levels,
/// and a weight is one of 2^bits() level values.
///  * levels: the stored parameters of one group; a small regular value.
///  * bits(): 1..8; codes are below 2^bits().
///  * group_size(): columns per group, at least 1 unless K is 0; the last group of a row may be
///    shorter.
///  * fit(row, group, x, h): levels for the values x (finite) with importance h (empty, or one
///    weight >= 0 per value), as they will be stored. Refuses what cannot be stored (value).
///  * values(l, out): the value of each of the 2^bits() codes, exactly as dequantize() gives it;
///    NaN for a code that is not to be used.
///  * terms(): how many coefficients of a group are linear in its values and may be changed while
///    the codes stay: value(code) = fixed + sum over i of coefficient_i * term_i(code). May be 0.
///  * term(l, code, out): term_i(code) for each i; `out` has terms() elements.
///  * adjusted(l, row, delta): levels with delta_i added to coefficient i, as they will be stored;
///    l itself where that would be no legal levels.
///  * make_tensor(): the tensor with everything that its groups share, all codes zero.
///  * store(t, row, group, l): sets the levels of a group in a tensor of make_tensor(). The codes
///    are set by t.set_codes(row, codes), K of them.
/// Const functions are thread-safe; store() and set_codes() are for distinct rows.
template <class C>
concept group_codec = std::movable<C> && quantized_tensor<typename C::tensor> &&
    std::semiregular<typename C::levels> &&
    requires(const C& c, typename C::tensor& t, index_t i, std::span<const float> x,
             const typename C::levels& l, std::uint8_t code, std::span<float> out,
             std::span<const double> delta, std::span<const std::uint8_t> codes) {
  { c.bits() } -> std::same_as<unsigned>;
  { c.group_size() } -> std::same_as<index_t>;
  { c.fit(i, i, x, x) } -> std::same_as<typename C::levels>;
  { c.values(l, out) } -> std::same_as<void>;
  { c.terms() } -> std::same_as<index_t>;
  { c.term(l, code, out) } -> std::same_as<void>;
  { c.adjusted(l, i, delta) } -> std::same_as<typename C::levels>;
  { c.make_tensor() } -> std::same_as<typename C::tensor>;
  { c.store(t, i, i, l) } -> std::same_as<void>;
  { t.set_codes(i, codes) } -> std::same_as<void>;
};

/// A group_codec with numbers that the groups of a row share, in which values are linear:
///   value(code) = sum over i of number_i * row_term_i(code), rounded to float.
///  * row_terms(): how many numbers a row has.
///  * row_term(l, code, out): row_term_i(code) for each i, for levels l of a group of any row.
///  * row_numbers(row, out), set_row_numbers(row, numbers): as they are stored; numbers that could
///  not be legal are left as they were. Levels of the row's groups follow. For distinct rows.
template <class C>
concept row_codec = group_codec<C> &&
    requires(const C& c, C& changed, index_t row, const typename C::levels& l, std::uint8_t code,
             std::span<float> out, std::span<const float> numbers) {
  { c.row_terms() } -> std::same_as<index_t>;
  { c.row_term(l, code, out) } -> std::same_as<void>;
  { c.row_numbers(row, out) } -> std::same_as<void>;
  { changed.set_row_numbers(row, numbers) } -> std::same_as<void>;
};

/// A quantizer that codes groups of a row.
///  * prepare(weights, known, headroom): the codec of a matrix, with everything that its groups
///    share already chosen. The values that fit() meets may be up to `headroom` (>= 1) times larger
///    than those of `weights`. Refuses what quantize() refuses.
template <class Q>
concept groupwise_quantizer = quantizer<Q> && group_codec<typename Q::codec> &&
    std::same_as<typename Q::codec::tensor, typename Q::tensor> &&
    requires(const Q& q, matrix_view<const float> weights, const calibration& known,
             float headroom) {
  { q.prepare(weights, known, headroom) } -> std::same_as<typename Q::codec>;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
