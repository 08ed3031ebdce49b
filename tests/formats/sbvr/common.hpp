// What the tests of the SBVR format share.
#pragma once

#include <string>
#include <vector>

#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/testing/matrices.hpp"

namespace sbvr_test {

using namespace lowbit;
using formats::sbvr_basis;
using formats::sbvr_coefficients;
using formats::sbvr_method;
using formats::sbvr_offset;
using formats::sbvr_quantizer;
using formats::sbvr_tensor;

inline std::string text(const formats::sbvr::params& p) {
  return lowbit::detail::message(
      p.planes, " planes, ", enum_names<sbvr_basis>[static_cast<index_t>(p.basis)], ", ",
      enum_names<sbvr_coefficients>[static_cast<index_t>(p.coefficients)], ", offset ",
      enum_names<sbvr_offset>[static_cast<index_t>(p.offset)], ", group ", p.group_size, ", ",
      enum_names<scale_type>[static_cast<index_t>(p.scale_type)], ", scale bits ", p.scale_bits);
}

/// All values of a tensor.
inline std::vector<float> values_of(const sbvr_tensor& t) {
  std::vector<float> out(t.shape().size());
  t.dequantize({0, t.shape().rows}, {out.data(), t.shape().rows, t.shape().cols});
  return out;
}

/// sum of h (w - tensor)^2 over the row, in double.
inline double squared_error(std::span<const float> w, std::span<const float> w_hat,
                            std::span<const float> h = {}) {
  double sum = 0.0;
  for (index_t i = 0; i < w.size(); ++i) {
    const double d = static_cast<double>(w[i]) - static_cast<double>(w_hat[i]);
    sum += (h.empty() ? 1.0 : static_cast<double>(h[i % h.size()])) * d * d;
  }
  return sum;
}

/// Every basis, kind of coefficients, offset and way of storing scales, for some planes.
inline std::vector<formats::sbvr::params> configurations(const std::vector<unsigned>& planes) {
  std::vector<formats::sbvr::params> list;
  for (const unsigned k : planes) {
    for (const auto basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
      for (const auto offset : {sbvr_offset::none, sbvr_offset::per_group}) {
        for (const auto coefficients : {sbvr_coefficients::per_group, sbvr_coefficients::table,
                                        sbvr_coefficients::shared_ratios}) {
          formats::sbvr::params p{.planes = k,
                                  .basis = basis,
                                  .coefficients = coefficients,
                                  .group_size = 32U + 16U * k,
                                  .offset = offset};
          list.push_back(p);
          if (coefficients != sbvr_coefficients::shared_ratios) continue;
          p.scale_bits = k + 3;
          list.push_back(p);
        }
      }
    }
  }
  return list;
}

}  // namespace sbvr_test
