// linalg/hadamard.hpp: Hadamard matrices, their fast transform, and which orders exist. Layer L2.
//
// H of size n has entries +-1 and H H^T = n I. Sizes n = m 2^k: H_n = H_m (x) H_{2^k}, with
//   H_{2^k}[i, j] = (-1)^popcount(i & j)          Sylvester's order, symmetric
//   H_m  for m = q + 1,     prime q = 3 mod 4     Paley's first construction, not symmetric
//        for m = 2 (q + 1), prime q = 1 mod 4     his second, symmetric
// (R. Paley, On orthogonal matrices, 1933). Both are generated. With x(a) = 1, -1 or 0 where a mod
// q is a square, is none, or is 0, and Q[i, j] = x(i - j) of size q,
//   first    H = I + [[0, 1], [-1, Q]]
//   second   C = [[0, 1], [1, Q]];  H = C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]]
//
// Which H a size gets (hadamard_order) is part of stored formats: it never changes.
//
// Invariant: additions and subtractions only (and products with +-1, which are exact), in an order
// that depends on the size alone, so that no compiler can contract them: the same bits everywhere,
// exact while sums of integers are. kernels/hadamard computes the same, fast.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "lowbit/core/aligned_buffer.hpp"
#include "lowbit/core/checked.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg {

/// x = H x in place, without scaling (Fino and Algazi, 1976): stage by stage, the distance of the
/// two terms of a sum doubling from 1 on. The size of x is a power of two.
template <std::floating_point Real>
constexpr void walsh_hadamard(std::span<Real> x) noexcept {
  for (index_t half = 1; half < x.size(); half *= 2) {
    for (index_t begin = 0; begin < x.size(); begin += 2 * half) {
      Real* const low = x.data() + begin;
      Real* const high = low + half;
      for (index_t i = 0; i < half; ++i) {
        const Real a = low[i];
        const Real b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

/// 1 / sqrt(size), which makes H orthonormal: for powers of two the Real next to it, else rounded
/// at most twice more, by operations that IEEE 754 defines.
template <std::floating_point Real>
[[nodiscard]] Real hadamard_scale(index_t size) noexcept {
  if (!std::has_single_bit(size)) {
    return static_cast<Real>(1.0 / std::sqrt(static_cast<double>(size)));
  }
  const int log2 = std::countr_zero(size);
  return std::ldexp(log2 % 2 == 0 ? Real{1} : std::numbers::sqrt2_v<Real>, -((log2 + 1) / 2));
}

enum class hadamard_construction : std::uint8_t { none, sylvester, paley_1, paley_2 };

/// How the Hadamard matrix of a size is made: H_dense (x) H_power.
struct hadamard_factors {
  hadamard_construction construction = hadamard_construction::none;  ///< of H_dense
  index_t dense = 0;  ///< order of the matrix that is applied entry by entry; 1 for powers of two
  index_t power = 0;  ///< the power of two that the fast transform does
  index_t prime = 0;  ///< Paley's q; 0 for powers of two

  [[nodiscard]] constexpr bool exist() const noexcept {
    return construction != hadamard_construction::none;
  }
  friend constexpr bool operator==(const hadamard_factors&,
                                   const hadamard_factors&) noexcept = default;
};

/// The largest order that is generated. Its matrix has 2^20 signs and costs 1023 additions per
/// element, about 100 times what a power of two does.
inline constexpr index_t max_dense_hadamard_order = 1024;

namespace detail {

[[nodiscard]] constexpr bool is_prime(index_t n) noexcept {
  if (n < 2) return false;
  for (index_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

}  // namespace detail

/// The construction for a size, with the smallest dense order that there is: it alone decides the
/// cost, n (dense - 1 + log2(power)) additions. Of two constructions of that order the first.
/// Nothing exists (`construction` none) where no dense order up to max_dense_hadamard_order does,
/// which holds for all sizes above 2 that are no multiple of 4, and for 0.
[[nodiscard]] constexpr hadamard_factors hadamard_order(index_t size) noexcept {
  using enum hadamard_construction;
  if (size == 0) return {};
  if (std::has_single_bit(size)) return {sylvester, 1, size, 0};
  const index_t odd = size >> static_cast<unsigned>(std::countr_zero(size));
  for (index_t m = odd; m <= max_dense_hadamard_order && size % m == 0; m *= 2) {
    if (m % 4 != 0) continue;
    if (detail::is_prime(m - 1)) return {paley_1, m, size / m, m - 1};
    if (m / 2 % 4 == 2 && detail::is_prime(m / 2 - 1)) return {paley_2, m, size / m, m / 2 - 1};
  }
  return {};
}

/// "108 * 64 (Paley I, q = 107)", "4096 (Sylvester)" or "none".
[[nodiscard]] inline std::string describe(const hadamard_factors& f) {
  switch (f.construction) {
    case hadamard_construction::none: break;
    case hadamard_construction::sylvester: return std::to_string(f.power) + " (Sylvester)";
    case hadamard_construction::paley_1:
    case hadamard_construction::paley_2:
      return std::to_string(f.dense) + " * " + std::to_string(f.power) +
             (f.construction == hadamard_construction::paley_1 ? " (Paley I, q = "
                                                               : " (Paley II, q = ") +
             std::to_string(f.prime) + ")";
  }
  return "none";
}

/// Which matrix is applied: H or H^T.
enum class hadamard_direction : std::uint8_t { forward, transposed };

/// The signs of H_dense, input by input: bit i % 64 of word j * words + i / 64 is set where input j
/// enters output i with a minus. Bits from `order` on are 0.
struct dense_signs {
  const std::uint64_t* bits = nullptr;
  index_t order = 0;
  index_t words = 0;  ///< per input

  [[nodiscard]] constexpr bool is_negative(index_t output, index_t input) const noexcept {
    return ((bits[input * words + output / 64] >> (output % 64)) & 1U) != 0;
  }
};

/// y[i] = the sum over j = 0, 1, ... of +-x[j], in this order, for i < order: each row of `width`
/// elements on its own; rows are x_stride and y_stride apart. x and y do not overlap.
template <std::floating_point Real>
constexpr void mix_rows(const dense_signs& signs, const Real* x, index_t x_stride, Real* y,
                        index_t y_stride, index_t width) noexcept {
  constexpr index_t strip = 16;  // a constant, so that sums stay in registers
  for (index_t begin = 0; begin < width; begin += strip) {
    const index_t count = std::min(strip, width - begin);
    for (index_t i = 0; i < signs.order; ++i) {
      std::array<Real, strip> sums{};
      const auto add = [&](index_t j, index_t columns) {
        const Real sign = signs.is_negative(i, j) ? Real{-1} : Real{1};  // exact products
        const Real* const row = x + j * x_stride + begin;
        for (index_t c = 0; c < columns; ++c) sums[c] += sign * row[c];
      };
      const Real first = signs.is_negative(i, 0) ? Real{-1} : Real{1};
      for (index_t c = 0; c < count; ++c) sums[c] = first * x[begin + c];  // not 0 + -0
      if (count == strip) {
        for (index_t j = 1; j < signs.order; ++j) add(j, strip);
      } else {
        for (index_t j = 1; j < signs.order; ++j) add(j, count);
      }
      std::copy_n(sums.data(), count, y + i * y_stride + begin);
    }
  }
}

/// H of one size. Regular; const functions are thread-safe. Holds dense^2 bits, twice where H_dense
/// is not symmetric.
class hadamard_matrix {
 public:
  /// H of size 1.
  hadamard_matrix() = default;
  /// Refuses a size without a construction (value).
  explicit hadamard_matrix(index_t size) : factors_(hadamard_order(size)) {
    LOWBIT_CHECK(factors_.exist(), value, "there is no Hadamard matrix of size ", size, " here");
    if (factors_.dense == 1) return;
    words_ = div_up(factors_.dense, 64);
    by_input_.resize(factors_.dense * words_);
    const auto is_square = squares(factors_.prime);
    const bool first = factors_.construction == hadamard_construction::paley_1;
    if (first) by_output_.resize(by_input_.size());
    for (index_t i = 0; i < factors_.dense; ++i) {
      for (index_t j = 0; j < factors_.dense; ++j) {
        if (!(first ? is_negative_1(is_square, i, j) : is_negative_2(is_square, i, j))) continue;
        by_input_[j * words_ + i / 64] |= std::uint64_t{1} << (i % 64);
        if (first) by_output_[i * words_ + j / 64] |= std::uint64_t{1} << (j % 64);
      }
    }
  }

  [[nodiscard]] index_t size() const noexcept { return factors_.dense * factors_.power; }
  [[nodiscard]] const hadamard_factors& factors() const noexcept { return factors_; }

  /// Whether H[i, j] is -1.
  [[nodiscard]] bool is_negative(index_t i, index_t j) const noexcept {
    const index_t p = factors_.power;
    const bool odd = std::popcount((i % p) & (j % p)) % 2 != 0;
    return odd !=
           (factors_.dense != 1 && signs(hadamard_direction::forward).is_negative(i / p, j / p));
  }

  /// H_dense or its transpose. Valid while the matrix lives; none for powers of two.
  [[nodiscard]] dense_signs signs(hadamard_direction direction) const noexcept {
    const bool as_outputs = direction == hadamard_direction::transposed && !by_output_.empty();
    return {as_outputs ? by_output_.data() : by_input_.data(), factors_.dense, words_};
  }

  /// x = H x or H^T x in place, without scaling; x has size() elements. walsh_hadamard() of each
  /// run of factors().power elements, then mix_rows() of these runs.
  template <std::floating_point Real>
  void apply(hadamard_direction direction, std::span<Real> x) const {
    const index_t power = factors_.power;
    for (index_t begin = 0; begin < x.size(); begin += power) {
      walsh_hadamard(x.subspan(begin, power));
    }
    if (factors_.dense == 1) return;
    constexpr index_t strip = 16;
    aligned_buffer<Real> before(factors_.dense * std::min(strip, power));
    for (index_t begin = 0; begin < power; begin += strip) {
      const index_t width = std::min(strip, power - begin);
      for (index_t j = 0; j < factors_.dense; ++j) {
        std::copy_n(x.data() + j * power + begin, width, before.data() + j * width);
      }
      mix_rows(signs(direction), before.data(), width, x.data() + begin, power, width);
    }
  }

  friend bool operator==(const hadamard_matrix& a, const hadamard_matrix& b) noexcept {
    return a.factors_ == b.factors_;
  }

 private:
  /// Of each residue of q whether it is a square other than 0.
  [[nodiscard]] static std::vector<bool> squares(index_t q) {
    std::vector<bool> found(q);
    for (index_t a = 1; a < q; ++a) found[a * a % q] = true;
    return found;
  }
  [[nodiscard]] static bool is_negative_1(const std::vector<bool>& is_square, index_t i,
                                          index_t j) {
    if (i == j || i == 0) return false;
    if (j == 0) return true;
    const index_t q = is_square.size();
    return !is_square[(i + q - j) % q];
  }
  [[nodiscard]] static bool is_negative_2(const std::vector<bool>& is_square, index_t i,
                                          index_t j) {
    const index_t q = is_square.size();
    const index_t r = i / 2;
    const index_t c = j / 2;
    if (r == c) return i % 2 != 0 || j % 2 != 0;  // of [[1, -1], [-1, -1]]
    const bool minus = r != 0 && c != 0 && !is_square[(r + q - c) % q];
    return minus != (i % 2 != 0 && j % 2 != 0);  // times [[1, 1], [1, -1]]
  }

  hadamard_factors factors_{hadamard_construction::sylvester, 1, 1, 0};
  index_t words_ = 0;
  std::vector<std::uint64_t> by_input_;
  std::vector<std::uint64_t> by_output_;  // where H_dense is not symmetric
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::linalg
