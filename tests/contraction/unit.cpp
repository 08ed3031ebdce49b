// Compiled twice, with UNIT = baseline and UNIT = fused (-mavx2 -mfma -O3 -ffp-contract=fast).
//
// Everything that is not lowbit's is in an anonymous namespace, so that the linker cannot merge the
// two compilations; and computes nothing that a compiler could fuse.
#include "unit.hpp"

#include <cmath>
#include <span>

#include "lowbit/lowbit.hpp"

namespace {

using namespace lowbit;

constexpr shape2 shape{5, 150};
constexpr index_t tokens = 3;

struct collector : buffer_visitor {
  std::vector<std::uint8_t> bytes;
  void add(std::span<const std::byte> more) {
    for (const std::byte b : more) bytes.push_back(static_cast<std::uint8_t>(b));
  }
  void operator()(const buffer_view& buffer) override { add(buffer.bytes); }
};

aligned_buffer<float> weights(std::uint64_t seed) {
  aligned_buffer<float> w(shape.size());
  for (index_t i = 0; i < w.size(); ++i) {
    w[i] = random_normal(seed, i);
    if (i / shape.cols == 1) w[i] += 5.0F;                 // away from zero
    if (i / shape.cols == 2) w[i] = std::ldexp(w[i], -9);  // small
    if (i / shape.cols == 3) w[i] = std::fabs(w[i]);       // one sign
    if (i == 4 * shape.cols + 20) w[i] = 40.0F;            // an outlier
  }
  return w;
}

/// Everything that a quantizer makes of the weights, with activations as `how` says, as bytes.
template <quantizer Q>
std::vector<std::uint8_t> run(std::uint64_t seed, const Q& q, std::span<const float> importance,
                              const ops::activation_quantization& how) {
  const auto w = weights(seed);
  const matrix_view<const float> view(w.data(), shape.rows, shape.cols);
  const auto t = q.quantize(view, {.importance = importance});
  collector all;
  t.for_each_buffer(all);

  aligned_buffer<float> values(shape.size());
  t.dequantize({0, shape.rows}, {values.data(), shape.rows, shape.cols});
  all.add(std::as_bytes(values.span()));
  const auto error = ops::weight_error(view, t);
  const double measures[] = {error.mse(), error.relative_mse(),
                             static_cast<double>(error.max_abs_error())};
  all.add(std::as_bytes(std::span(measures)));

  // The first rows serve as activations, too.
  aligned_buffer<float> y(tokens * shape.rows);
  ops::matmul(view.middle_rows({0, tokens}), t, {y.data(), tokens, shape.rows}, {},
              {.path = ops::matmul_path::bit_serial, .activations = how});
  all.add(std::as_bytes(y.span()));
  return std::move(all.bytes);
}

outcome run(std::uint64_t seed, const formats::uniform_quantizer& q,
            std::span<const float> importance) {
  const symmetry kind =
      q.params.kind == symmetry::asymmetric ? symmetry::asymmetric : symmetry::symmetric;
  auto bytes =
      run(seed, q, importance, {.bits = q.params.bits, .kind = kind, .per_group = seed % 2 == 0});

  const auto number = [](auto n) { return std::to_string(n); };
  return {number(q.params.bits) + " bits, " +
              std::string(enum_names<symmetry>[static_cast<index_t>(q.params.kind)]) +
              ", groups of " + number(q.params.group_size) + ", " +
              std::string(enum_names<scale_type>[static_cast<index_t>(q.params.scale_type)]) +
              ", " +
              std::string(enum_names<formats::range_method>[static_cast<index_t>(q.fit.method)]) +
              (importance.empty() ? "" : ", importance") + ", seed " + number(seed),
          std::move(bytes)};
}

outcome run(std::uint64_t seed, const formats::sbvr_quantizer& q,
            std::span<const float> importance) {
  return {"sbvr, " + std::to_string(q.params.planes) + " planes, seed " + std::to_string(seed) +
              (importance.empty() ? "" : ", importance"),
          run(seed, q, importance, {.bits = 6, .per_group = seed % 2 == 0})};
}

/// Every basis, offset, kind of coefficients and method, once or twice.
void run_sbvr(std::span<const float> importance, std::vector<outcome>& results) {
  using namespace formats;
  for (unsigned planes = 1; planes <= 8; ++planes) {
    for (const auto basis : {sbvr_basis::sign, sbvr_basis::zero_one}) {
      for (const auto offset : {sbvr_offset::none, sbvr_offset::per_group}) {
        for (const auto coefficients : {sbvr_coefficients::per_group, sbvr_coefficients::table,
                                        sbvr_coefficients::shared_ratios}) {
          for (const auto method :
               {sbvr_method::alternating, sbvr_method::learned_ratios, sbvr_method::grid_search}) {
            sbvr_quantizer q;
            q.params = {.planes = planes,
                        .basis = basis,
                        .coefficients = coefficients,
                        .group_size = 64,
                        .offset = offset,
                        .scale_type = planes % 2 == 0 ? scale_type::fp16 : scale_type::fp32,
                        .scale_bits = planes > 4 ? 5U : 0U};
            q.fit = {.method = method,
                     .rounds = 3,
                     .search_ratios = 4,
                     .search_biases = 3,
                     .search_scales = 3,
                     .warmup_lines = 4};
            results.push_back(run(planes, q, {}));
            results.push_back(run(planes, q, importance));
          }
        }
      }
    }
  }
}

}  // namespace

std::vector<outcome> UNIT() {
  aligned_buffer<float> importance(shape.cols);
  for (index_t c = 0; c < shape.cols; ++c) importance[c] = random_uniform(9, c);

  std::vector<outcome> results;
  run_sbvr(importance.span(), results);
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const auto type : {scale_type::fp32, scale_type::fp16}) {
        for (const auto method : {formats::range_method::min_max, formats::range_method::percentile,
                                  formats::range_method::least_mse}) {
          for (const std::uint32_t group_size : {8U, 64U, 150U}) {
            formats::uniform_quantizer q;
            q.params = {.bits = bits, .kind = kind, .group_size = group_size, .scale_type = type};
            q.fit = {.method = method, .percentile = 93.7};
            for (const std::uint64_t seed : {1U, 2U}) {
              results.push_back(run(seed, q, {}));
              results.push_back(run(seed, q, importance.span()));
            }
          }
        }
      }
    }
  }
  return results;
}
