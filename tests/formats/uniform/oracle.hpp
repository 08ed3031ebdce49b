// The uniform format once more, in double precision and from the stored bytes alone: what
// docs/file_format.md says, without any of lowbit's layouts, conversions or formulas.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/testing/buffers.hpp"
#include "lowbit/testing/matrices.hpp"

namespace uniform_oracle {

using lowbit::index_t;
using lowbit::scale_type;
using lowbit::shape2;
using lowbit::symmetry;
using lowbit::formats::granularity;
using lowbit::formats::range_fit;
using lowbit::formats::range_method;
using lowbit::formats::uniform_quantizer;
using lowbit::formats::uniform_tensor;
using uniform_params = lowbit::formats::uniform::params;

/// Half the distance between floats around 1: the largest relative error of one rounding.
inline constexpr double u = 0x1p-24;

/// Fraction bits and least normal exponent of each storage type.
struct real_type {
  int fraction_bits;
  int least_exponent;
};
inline real_type real_type_of(scale_type type) {
  switch (type) {
    case scale_type::fp32: break;
    case scale_type::fp16: return {10, -14};
    case scale_type::bf16: return {7, -126};
  }
  return {23, -126};
}

/// Rounds a double to the nearest value of a type, ties to even; overflow is not its business.
inline double round_to(scale_type type, double value) {
  if (value == 0.0) return 0.0;
  const real_type t = real_type_of(type);
  const int exponent = std::max(std::ilogb(value), t.least_exponent);
  const double unit = std::ldexp(1.0, exponent - t.fraction_bits);
  return std::nearbyint(value / unit) * unit;  // exact but for nearbyint: unit is a power of two
}

/// The largest error of round_to for a value of this magnitude.
inline double rounding_error(scale_type type, double value) {
  const real_type t = real_type_of(type);
  return std::max(std::ldexp(std::fabs(value), -t.fraction_bits - 1),
                  std::ldexp(1.0, t.least_exponent - t.fraction_bits - 1));
}

/// A stored uniform tensor, decoded bit by bit.
class stored_uniform {
 public:
  explicit stored_uniform(const uniform_tensor& t)
      : shape_(t.shape()), params_(t.params()), buffers_(lowbit::testing::copy_buffers(t)) {}

  [[nodiscard]] index_t group_size() const {
    return params_.granularity == granularity::group && params_.group_size < shape_.cols
               ? params_.group_size
               : shape_.cols;
  }
  [[nodiscard]] index_t groups() const {
    return shape_.cols == 0 ? 0 : (shape_.cols - 1) / group_size() + 1;
  }
  /// The lowest code that a quantizer uses: symmetric grids leave one out, to be symmetric.
  [[nodiscard]] unsigned lowest_code() const {
    return params_.kind == symmetry::symmetric && params_.bits > 1 ? 1 : 0;
  }
  [[nodiscard]] unsigned highest_code() const { return (1U << params_.bits) - 1U; }
  [[nodiscard]] unsigned code(index_t n, index_t k) const {
    const index_t row_bytes = (shape_.cols + 511) / 512 * 64;
    unsigned code = 0;
    for (unsigned p = 0; p < params_.bits; ++p) {
      const index_t byte = (p * shape_.rows + n) * row_bytes + k / 8;
      code |= bit(buffer("planes"), byte * 8 + k % 8) << p;
    }
    return code;
  }
  [[nodiscard]] double scale(index_t n, index_t g) const { return real(buffer("scales"), n, g); }
  [[nodiscard]] unsigned zero_point(index_t n, index_t g) const {
    const index_t row_bytes = (groups() * params_.bits + 7) / 8;
    unsigned value = 0;
    for (unsigned i = 0; i < params_.bits; ++i) {
      value |= bit(buffer("zero_points"), (scale_row(n) * row_bytes * 8) + g * params_.bits + i)
               << i;
    }
    return value;
  }
  [[nodiscard]] double offset(index_t n, index_t g) const { return real(buffer("offsets"), n, g); }

  /// The value of a code; exact, except that an offset grid's sum is rounded to double.
  [[nodiscard]] double level(index_t n, index_t g, unsigned code) const {
    const double s = scale(n, g);
    const double c = code;
    switch (params_.kind) {
      case symmetry::symmetric:
        return params_.bits == 1 ? s * (2.0 * c - 1.0)
                                 : s * (c - std::ldexp(1.0, static_cast<int>(params_.bits) - 1));
      case symmetry::asymmetric: return s * (c - static_cast<double>(zero_point(n, g)));
      case symmetry::offset: break;
    }
    return s * c + offset(n, g);
  }
  [[nodiscard]] double value(index_t n, index_t k) const {
    return level(n, k / group_size(), code(n, k));
  }
  /// Steps between the lowest and the highest level, of which the lowest is code lowest_code().
  [[nodiscard]] int steps() const { return static_cast<int>(highest_code() - lowest_code()); }

 private:
  using bytes = std::vector<std::byte>;

  [[nodiscard]] const bytes& buffer(std::string_view name) const {
    for (const auto& b : buffers_) {
      if (b.name == name) return b.bytes;
    }
    throw std::runtime_error("no buffer " + std::string(name));
  }
  [[nodiscard]] static unsigned bit(const bytes& b, index_t i) {
    return std::to_integer<unsigned>(b.at(i / 8) >> (i % 8)) & 1U;
  }
  [[nodiscard]] index_t scale_row(index_t n) const {
    return params_.granularity == granularity::tensor ? 0 : n;
  }
  [[nodiscard]] double real(const bytes& b, index_t n, index_t g) const {
    const real_type t = real_type_of(params_.scale_type);
    const index_t size = params_.scale_type == scale_type::fp32 ? 4 : 2;
    const index_t at = (scale_row(n) * groups() + g) * size;
    std::uint32_t bits = 0;
    for (index_t i = 0; i < size; ++i)
      bits |= std::to_integer<std::uint32_t>(b.at(at + i)) << 8 * i;
    const auto fraction = static_cast<double>(bits & ((1U << t.fraction_bits) - 1U));
    const unsigned exponent_mask = t.least_exponent == -14 ? 0x1fU : 0xffU;
    const int exponent = static_cast<int>((bits >> t.fraction_bits) & exponent_mask);
    const bool negative = ((bits >> (size * 8 - 1)) & 1U) != 0;
    // Subnormals have no leading one and the exponent of the least normal number.
    const double significand = (exponent == 0 ? 0.0 : 1.0) + std::ldexp(fraction, -t.fraction_bits);
    const double magnitude = std::ldexp(significand, t.least_exponent + std::max(exponent, 1) - 1);
    return negative ? -magnitude : magnitude;
  }

  shape2 shape_;
  uniform_params params_;
  std::vector<lowbit::testing::stored_buffer> buffers_;
};

/// For messages: what a test case was about.
inline std::string text(const uniform_quantizer& q) {
  const auto name = [](auto value) {
    return std::string(lowbit::enum_names<decltype(value)>[static_cast<std::size_t>(value)]);
  };
  return std::to_string(q.params.bits) + " bits, " + name(q.params.kind) + ", per " +
         name(q.params.granularity) + " " + std::to_string(q.params.group_size) + ", " +
         name(q.params.scale_type) + ", " + name(q.fit.method);
}

/// All values of a tensor.
inline std::vector<float> dequantize(const uniform_tensor& t) {
  std::vector<float> out(t.shape().size());
  t.dequantize({0, t.shape().rows}, {out.data(), t.shape().rows, t.shape().cols});
  return out;
}

/// sum of h (x - value)²; `h` is empty or one weight per column.
inline double weighted_error(const lowbit::testing::test_matrix& m,
                             const std::vector<float>& values, const std::vector<float>& h) {
  double sum = 0.0;
  for (index_t i = 0; i < values.size(); ++i) {
    const double e = static_cast<double>(m.values[i] - values[i]);
    sum += (h.empty() ? 1.0 : static_cast<double>(h[i % m.shape.cols])) * e * e;
  }
  return sum;
}

/// Every combination of parameters that a test walks over.
template <class F>
void for_each_setting(F&& f) {
  constexpr std::uint32_t sizes[] = {1, 7, 32, 64, 100, 1000};
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const auto type : {scale_type::fp32, scale_type::fp16, scale_type::bf16}) {
        for (const auto method :
             {range_method::min_max, range_method::percentile, range_method::least_mse}) {
          uniform_quantizer q;
          q.params = {.bits = bits, .kind = kind, .scale_type = type};
          q.fit = {.method = method, .percentile = 95.0};
          q.params.granularity = granularity::tensor;
          f(q);
          q.params.granularity = granularity::channel;
          f(q);
          q.params.granularity = granularity::group;
          for (const std::uint32_t size : sizes) {
            q.params.group_size = size;
            f(q);
          }
        }
      }
    }
  }
}
inline constexpr index_t settings_count = 8 * 3 * 3 * 3 * 8;

}  // namespace uniform_oracle
