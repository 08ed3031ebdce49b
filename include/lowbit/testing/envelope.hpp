// testing/envelope.hpp: does a variant of the envelope kernel keep its contract?
// Framework-neutral: a downstream variant is checked with
//   all_passed(check_envelope_variant({"mine", cpu::avx2_core, my_functions}))
//
// The oracle is the scalar variant, which is the contract spelled out; that it rounds as often as
// stated is checked on terms whose exact sums are known. Floats are compared by their bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/core/random.hpp"
#include "lowbit/kernels/envelope/contract.hpp"
#include "lowbit/kernels/envelope/scalar.hpp"
#include "lowbit/kernels/variant.hpp"
#include "lowbit/testing/finding.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing {
namespace detail {

enum class envelope_pattern : std::uint8_t { normal, wide, cancelling, denormal, zeros };

inline constexpr std::string_view envelope_pattern_names[] = {"normal", "wide", "cancelling",
                                                              "denormal", "zeros"};

struct envelope_case {
  envelope_pattern pattern;
  scale_type type;
  index_t rows;
  index_t count;
  index_t gap = 0;  ///< elements between rows, of everything
};

[[nodiscard]] inline float envelope_number(envelope_pattern pattern, std::uint64_t seed,
                                           std::uint64_t i) noexcept {
  const float normal = random_normal(seed, i);
  const auto draw = static_cast<int>(random_bits(~seed, i) % 40);
  switch (pattern) {
    case envelope_pattern::normal: break;
    case envelope_pattern::wide: return std::ldexp(normal, draw - 20);
    case envelope_pattern::cancelling: return draw % 2 == 0 ? 1.0F + 0x1p-7F : -1.0F;
    case envelope_pattern::denormal: return std::ldexp(normal, -140 + draw);
    case envelope_pattern::zeros: return draw % 3 == 0 ? -0.0F : draw % 3 == 1 ? 0.0F : normal;
  }
  return normal;
}

/// Operands that are aligned to their type only and end with their allocation. Gaps are NaN in
/// what is read and guards in what is written.
class envelope_trial {
 public:
  envelope_trial(const envelope_case& c, std::uint64_t seed)
      : case_(c),
        size_(c.type == scale_type::fp32 ? 4 : 2),
        envelope_(size_ + (c.rows * stride() - c.gap) * size_),
        many_(1 + c.rows * stride() - c.gap, std::numeric_limits<float>::quiet_NaN()),
        one_(1 + c.count) {
    for (index_t j = 0; j < c.rows; ++j) {
      for (index_t i = 0; i < stride() && j * stride() + i < c.rows * stride() - c.gap; ++i) {
        const float drawn = i < c.count ? envelope_number(c.pattern, seed + 1, j * stride() + i)
                                        : std::numeric_limits<float>::quiet_NaN();
        store(j * stride() + i, drawn);
        if (i < c.count) {
          many_[1 + j * stride() + i] = envelope_number(c.pattern, seed + 2, j * stride() + i);
        }
      }
    }
    for (index_t i = 0; i < c.count; ++i) one_[1 + i] = envelope_number(c.pattern, seed + 3, i);
  }

  [[nodiscard]] std::vector<float> expand(kernels::envelope_expand_fn run) const {
    std::vector<float> out(guard + many_.size() + guard, 12345.0F);
    run({.envelope = envelope(),
         .x = one_.data() + 1,
         .out = out.data() + guard,
         .out_stride = stride(),
         .count = case_.count});
    return out;
  }
  [[nodiscard]] std::vector<float> combine(kernels::envelope_combine_fn run,
                                           bool accumulate) const {
    std::vector<float> y(guard + case_.count + guard, 12345.0F);
    std::copy(one_.begin() + 1, one_.end(), y.begin() + guard);
    run({.envelope = envelope(),
         .z = many_.data() + 1,
         .z_stride = stride(),
         .y = y.data() + guard,
         .accumulate = accumulate,
         .count = case_.count});
    return y;
  }

 private:
  static constexpr index_t guard = 17;

  [[nodiscard]] index_t stride() const noexcept { return case_.count + case_.gap; }
  [[nodiscard]] kernels::envelope_rows envelope() const noexcept {
    return {.data = envelope_.data() + size_,
            .type = case_.type,
            .rows = case_.rows,
            .stride = stride()};
  }
  void store(index_t i, float x) noexcept {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    if (case_.type == scale_type::fp16) bits = from_float<float16>(x).bits;
    if (case_.type == scale_type::bf16) bits = from_float<bfloat16>(x).bits;
    for (index_t b = 0; b < size_; ++b) {
      envelope_[(i + 1) * size_ + b] = static_cast<std::byte>(bits >> (8 * b) & 0xffU);
    }
  }

  envelope_case case_;
  index_t size_;
  std::vector<std::byte> envelope_;
  std::vector<float> many_;
  std::vector<float> one_;
};

inline void check_envelope_case(findings& list, const envelope_case& c, std::uint64_t seed,
                                const kernels::envelope_functions& f) {
  const envelope_trial trial(c, seed);
  const auto name = [&](std::string_view function) {
    return lowbit::detail::message(function, "/",
                                   envelope_pattern_names[static_cast<std::size_t>(c.pattern)], "/",
                                   enum_names<scale_type>[static_cast<std::size_t>(c.type)],
                                   "/rows_", c.rows, "/count_", c.count, "/gap_", c.gap);
  };
  std::string wrong =
      compare_float_bits(trial.expand(f.expand), trial.expand(&kernels::scalar::envelope_expand));
  add(list, name("expand"), wrong.empty(), wrong, "; seed ", seed);
  for (const bool accumulate : {false, true}) {
    wrong = compare_float_bits(trial.combine(f.combine, accumulate),
                               trial.combine(&kernels::scalar::envelope_combine, accumulate));
    add(list, name(accumulate ? "combine_add" : "combine"), wrong.empty(), wrong, "; seed ", seed);
  }
}

/// With a = 1 + 2^-12 the product a * a = 1 + 2^-11 + 2^-24 rounds to p = 1 + 2^-11. So a first
/// product is rounded (p - p = 0), a later one is not (-p + a * a = 2^-24), and the sum that is
/// added to y was rounded before.
inline void check_envelope_roundings(findings& list, const kernels::envelope_functions& f) {
  constexpr index_t count = 37;
  constexpr float a = 1.0F + 0x1p-12F;
  constexpr float p = 1.0F + 0x1p-11F;
  std::vector<float> e(2 * count, a);
  std::fill_n(e.begin(), count, 1.0F);
  std::vector<float> z(2 * count, a);
  std::fill_n(z.begin(), count, -p);
  constexpr index_t guard = 32;  // for variants that write too much: others of these checks see it
  std::vector<float> y(count + guard, -p);
  const auto all_are = [&](float wanted) {
    return std::all_of(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(count),
                       [=](float v) { return v == wanted; });
  };
  const auto combine = [&](index_t first, index_t rows, bool accumulate) {
    f.combine({.envelope = {.data = reinterpret_cast<const std::byte*>(e.data() + first * count),
                            .type = scale_type::fp32,
                            .rows = rows,
                            .stride = count},
               .z = z.data() + first * count,
               .z_stride = count,
               .y = y.data(),
               .accumulate = accumulate,
               .count = count});
  };
  combine(1, 1, true);
  add(list, "rounds/first_product", all_are(0.0F), "y is ", y[0], " instead of 0");
  combine(0, 2, false);
  add(list, "rounds/fused_product", all_are(0x1p-24F), "y is ", y[0], " instead of 2^-24");
}

}  // namespace detail

/// Checks one variant on this machine. A variant that needs more than the machine offers is one
/// failed finding, and is not run.
[[nodiscard]] inline findings check_envelope_variant(
    const kernels::variant<kernels::envelope_functions>& v, std::uint64_t seed = 1) {
  using detail::envelope_pattern;
  findings list;
  const bool supported = v.is_supported(cpu::detect());
  detail::add(list, "runs_here", supported, "variant '", v.name,
              "' needs features that this machine lacks");
  if (!supported) return list;
  detail::check_envelope_roundings(list, kernels::scalar::envelope);
  detail::check_envelope_roundings(list, v.run);
  for (const envelope_pattern pattern :
       {envelope_pattern::normal, envelope_pattern::wide, envelope_pattern::cancelling,
        envelope_pattern::denormal, envelope_pattern::zeros}) {
    for (const scale_type type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
      for (const index_t rows : {1U, 2U, 5U}) {
        for (index_t count = 0; count <= 36; ++count) {
          detail::check_envelope_case(list, {pattern, type, rows, count, count % 3},
                                      seed + list.size(), v.run);
        }
        detail::check_envelope_case(list, {pattern, type, rows, 257}, seed + list.size(), v.run);
      }
    }
  }
  return list;
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::testing
