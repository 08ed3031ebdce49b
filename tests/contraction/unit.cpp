// Compiled twice, with UNIT = baseline and UNIT = fused (-mavx2 -mfma -O3 -ffp-contract=fast).
//
// Everything that is not lowbit's is in an anonymous namespace, so that the linker cannot merge the
// two compilations; and computes nothing that a compiler could fuse.
#include "unit.hpp"

#include <cmath>
#include <span>
#include <utility>

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

/// What the transforms of inputs make of weights, inputs and a Hessian.
template <class T>
outcome run(const T& t, const char* name) {
  const auto w = weights(3);
  const index_t cols = t.columns();
  const auto view = matrix_view<const float>(w.data(), shape.rows, shape.cols).middle_cols(0, cols);
  collector all;
  aligned_buffer<float> out(shape.rows * cols);
  const matrix_view<float> made(out.data(), shape.rows, cols);
  decorators::transform_weights(t, view, made);
  all.add(std::as_bytes(out.span()));
  decorators::transform_inputs(t, view, made, {});
  all.add(std::as_bytes(out.span()));
  for (index_t r = 0; r < shape.rows; ++r) t.restore_weights(view.row(r), made.row(r));
  all.add(std::as_bytes(out.span()));
  aligned_buffer<double> h(cols * cols);
  for (index_t i = 0; i < h.size(); ++i) {
    h[i] = static_cast<double>(random_normal(4, i / cols + i % cols));
  }
  decorators::transform_hessian(t, {h.data(), cols, cols});
  all.add(std::as_bytes(h.span()));
  return {name, std::move(all.bytes)};
}

/// A whole recipe: calibration, scales, rotation, order, feedback, refinement; `q` has groups.
template <class Q>
outcome run_recipe(const Q& q, const char* name) {
  constexpr index_t cols = 96;
  const auto w = weights(8);
  const auto x = weights(9);
  const auto view = [](const aligned_buffer<float>& values) {
    return matrix_view<const float>(values.data(), shape.rows, shape.cols).middle_cols(0, cols);
  };
  const kernels::context ctx{.allowed = cpu::none};
  observers::moment_accumulator inputs(cols);
  for (int i = 0; i < 12; ++i) inputs.add(view(x), ctx);
  const auto moments = inputs.finish();
  collector all;
  all.add(std::as_bytes(std::span(&moments.shrinkage, 1)));
  const ptq::recipe_result made = ptq::quantize_by_recipe({.feedback = ptq::feedback_method::gptq,
                                                           .refine = 2,
                                                           .rotate = ptq::rotation::input,
                                                           .scale = ptq::column_scales::awq},
                                                          q, view(w), {.moments = &moments}, ctx);
  made.tensor.for_each_buffer(all);
  all.add(std::as_bytes(std::span(made.outcome.objectives)));
  return {name, std::move(all.bytes)};
}

/// Replicas: levels of searched widths, and shifted ones.
outcome replicas(const ptq::replicate_options& how, std::span<const float> importance) {
  const auto w = weights(10);
  const ptq::replicating<formats::uniform_quantizer> q{
      {.params = {.bits = 2, .kind = symmetry::offset, .group_size = 64},
       .fit = {.method = formats::range_method::least_mse}},
      how};
  const auto t = q.quantize({w.data(), shape.rows, shape.cols}, {.importance = importance});
  collector all;
  t.for_each_buffer(all);
  aligned_buffer<float> values(shape.size());
  t.dequantize({0, shape.rows}, {values.data(), shape.rows, shape.cols});
  all.add(std::as_bytes(values.span()));
  return {"replicas, " + std::string(enum_names<ptq::replication>[static_cast<index_t>(how.mode)]),
          std::move(all.bytes)};
}

/// Formats of sign factors, by the variants that need nothing; and a product.
template <class Q>
outcome sign_factors(const Q& q, const char* name) {
  const auto w = weights(11);
  const matrix_view<const float> view(w.data(), shape.rows, shape.cols);
  const kernels::context ctx{.allowed = cpu::none};
  aligned_buffer<float> importance(shape.cols);
  for (index_t c = 0; c < shape.cols; ++c) importance[c] = random_uniform(12, c);
  observers::moment_accumulator inputs(shape.cols);
  for (int i = 0; i < 12; ++i) inputs.add(view, ctx);
  auto moments = inputs.finish();
  moments.shrink(0.5);
  const calibration known{.importance = importance.span(),
                          .hessian = std::as_const(moments).matrix()};
  const auto t = [&] {
    if constexpr (ptq::matrix_quantizer<Q>) {
      return q.quantize(view, known, ctx, nullptr);
    } else {
      return q.quantize(view, known);
    }
  }();
  collector all;
  t.for_each_buffer(all);
  aligned_buffer<float> values(shape.size());
  t.dequantize({0, shape.rows}, {values.data(), shape.rows, shape.cols});
  all.add(std::as_bytes(values.span()));
  aligned_buffer<float> y(tokens * shape.rows);
  ops::matmul(view.middle_rows({0, tokens}), t, {y.data(), tokens, shape.rows}, ctx,
              {.path = ops::matmul_path::int8, .activations = ops::activation_quantization{}});
  all.add(std::as_bytes(y.span()));
  return {name, std::move(all.bytes)};
}

/// What error feedback computes: a weighted Hessian, factors of it and solutions, by the variant
/// that needs nothing, so that std::fma is what is compiled.
outcome factors() {
  constexpr index_t k = 70;
  constexpr index_t rows = 90;
  aligned_buffer<float> x(rows * k);
  aligned_buffer<float> importance(rows);
  for (index_t i = 0; i < x.size(); ++i) x[i] = random_normal(5, i);
  for (index_t i = 0; i < rows; ++i) importance[i] = random_uniform(6, i);
  const kernels::context ctx{.allowed = cpu::none};
  aligned_buffer<double> h(k * k);
  aligned_buffer<double> u(k * k);
  aligned_buffer<double> b(3 * k);
  const matrix_view<double> h_view(h.data(), k, k);
  for (index_t i = 0; i < k; ++i) h_view(i, i) = 1.0;
  for (index_t i = 0; i < b.size(); ++i) b[i] = static_cast<double>(random_normal(7, i));
  kernels::add_gram(h_view, {x.data(), rows, k}, importance.span(), ctx);
  const bool has_inverse = linalg::inverse_upper_factor(h_view, {u.data(), k, k}, ctx);
  collector all;
  all.add(std::as_bytes(h.span()));
  all.add(std::as_bytes(u.span()));
  const bool is_definite = linalg::cholesky(h_view, ctx);
  linalg::solve_cholesky(h_view, {b.data(), 3, k}, ctx);
  all.add(std::as_bytes(h.span()));
  all.add(std::as_bytes(b.span()));
  // Its leading 8 x 8 block, A A^T for a lower A: positive definite.
  aligned_buffer<double> small(8 * 8);
  kernels::add_outer_gram({small.data(), 8, 8}, kernels::dense_sign::add,
                          matrix_view<const double>(h.data(), 8, 8, k), ctx);
  const bool is_solved = linalg::solve_spd_small(small.span(), b.span().first(8));
  all.add(std::as_bytes(small.span()));
  all.add(std::as_bytes(b.span()));
  const bool ok = has_inverse && is_definite && is_solved;
  return {ok ? "factors" : "factors: not positive definite", std::move(all.bytes)};
}

/// Local PCA, distortions, and what is chosen by them.
outcome distortions() {
  constexpr index_t n = 40;
  constexpr index_t k = 19;
  const kernels::context ctx{.allowed = cpu::none};
  aligned_buffer<float> w(n * k);
  aligned_buffer<float> q(n * k);
  for (index_t i = 0; i < w.size(); ++i) {
    w[i] = std::fma(2.0F, random_normal(1, i / 4), random_normal(2, i));
    q[i] = std::nearbyint(w[i]);
  }
  const matrix_view<const float> weights(w.data(), n, k);
  const matrix_view<float> trial(q.data(), n, k);
  collector all;
  for (const auto points : {outlier::neighbourhood::stripe, outlier::neighbourhood::knn}) {
    const outlier::weight_manifold m(weights, {.dimension = 8, .points = points, .neighbours = 20},
                                     ctx);
    const auto layer = outlier::measure_distortion(m, weights, trial, ctx);
    std::vector<outlier::block_class> classes(layer.blocks.size());
    std::vector<double> errors;
    std::vector<double> numbers;
    for (index_t b = 0; b < classes.size(); ++b) {
      const outlier::block_distortion& d = layer.blocks[b];
      classes[b] = outlier::classify(b % 2 == 0 ? 0.9 : 0.1, b % 3 == 0 ? 0.8 : 0.2);
      errors.push_back(d.error);
      numbers.insert(numbers.end(), {d.error, d.normal_error, d.md, d.md_point, d.md_frac,
                                     d.md_excess, classes[b].omega});
      numbers.push_back(outlier::geometric_loss({&d.md, 1}, {&classes[b], 1}));
    }
    numbers.push_back(outlier::aggregate(layer));
    numbers.push_back(outlier::alignment(errors, errors));
    numbers.push_back(rank_correlation(errors, std::span(numbers).first(errors.size())));
    all.add(std::as_bytes(std::span(numbers)));
    const outlier::outlier_policy policy{classes, {}};
    all.add(std::as_bytes(outlier::distortion_scores(m, weights, trial, policy, ctx).span()));
    const auto others = std::span<const double>(numbers).first(errors.size());
    const outlier::bit_option options[] = {{&layer, errors, 16}, {&layer, others, 24}};
    const auto chosen = outlier::allocate_bits(outlier::bit_candidates(m, options, true), 2,
                                               20 * classes.size(), policy);
    all.add(std::as_bytes(std::span(chosen.choice)));
    for (index_t i = 0; i < n; ++i) {
      static_cast<void>(outlier::add_noise(m, weights, trial, i, i % 2, 0.9, 3));
    }
    all.add(std::as_bytes(q.span()));
  }
  return {"distortions", std::move(all.bytes)};
}

}  // namespace

std::vector<outcome> UNIT() {
  aligned_buffer<float> importance(shape.cols);
  for (index_t c = 0; c < shape.cols; ++c) importance[c] = random_uniform(9, c);

  std::vector<outcome> results{factors()};
  results.push_back(distortions());
  results.push_back(run(decorators::hadamard_rotation(128, {.seed = 5}), "rotation"));
  results.push_back(run(decorators::hadamard_rotation(96, {.seed = 5}), "rotation 12 * 8"));
  aligned_buffer<float> scales(128);
  for (index_t k = 0; k < scales.size(); ++k) scales[k] = random_uniform(6, k) + 0.1F;
  results.push_back(run(decorators::column_scaling({}, scales.span()), "scaling"));
  results.push_back(run_recipe(formats::sbvr_quantizer{.params = {.planes = 2, .group_size = 32}},
                               "sbvr recipe"));
  for (const auto mode :
       {ptq::replication::residual, ptq::replication::dither, ptq::replication::shifted}) {
    for (const float width : {0.0F, 1.3F}) {
      const ptq::replicate_options how{.mode = mode, .replicas = 3, .width = width};
      results.push_back(replicas(how, {}));
      results.push_back(replicas(how, importance.span()));
    }
  }
  run_sbvr(importance.span(), results);
  formats::dbf_quantizer dbf{.params = {.middle = 4, .envelope_rank = 2}};
  results.push_back(sign_factors(dbf, "dbf, Hessian"));
  dbf.params.paths = 2;
  results.push_back(sign_factors(dbf, "dbf, two paths"));
  results.push_back(sign_factors(
      formats::envelope_quantizer{.params = {.planes = 3, .envelope_rank = 2}}, "envelope"));
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const auto kind : {symmetry::symmetric, symmetry::asymmetric, symmetry::offset}) {
      for (const auto type : {scale_type::fp32, scale_type::fp16}) {
        for (const auto method :
             {formats::range_method::min_max, formats::range_method::percentile,
              formats::range_method::least_mse, formats::range_method::half_quadratic}) {
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
