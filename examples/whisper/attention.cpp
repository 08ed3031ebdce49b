#include "attention.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace whisper {

namespace {

namespace kernels = lowbit::kernels;
using lowbit::aligned_buffer;

/// Queries that are one task.
constexpr index_t block_tokens = 64;
/// Tokens of values that share a step.
constexpr index_t run_tokens = 64;
constexpr index_t tile_rows = kernels::code_tile_rows;
static_assert(tile_rows == whisper_softmax_lanes);

/// Where a code of so many bits has its zero.
[[nodiscard]] constexpr std::int32_t zero_of(unsigned bits) { return 1 << (bits - 1U); }

/// Rows of activations as weights.
[[nodiscard]] kernels::packed_codes pack(const kernels::int8_activations& rows,
                                         const kernels::context& ctx) {
  const int zero = zero_of(rows.bits());
  const kernels::code_runs& runs = rows.runs();
  const auto codes = [&](index_t row, index_t, std::span<std::uint8_t> out) {
    for (index_t run = 0; run < runs.count(); ++run) {
      const std::int8_t* const from = rows.codes(run).data() + row * rows.run_bytes();
      std::uint8_t* const to = out.data() + runs.begin(run);
      // Copies, since bytes may alias what a lambda refers to.
      const auto shift = static_cast<std::uint8_t>(zero);
      const index_t count = runs.size(run);
      for (index_t i = 0; i < count; ++i) {
        to[i] = static_cast<std::uint8_t>(static_cast<std::uint8_t>(from[i]) + shift);
      }
    }
  };
  const auto levels = [&](index_t row, index_t group, std::span<float> scales) {
    scales[0] = rows.steps(group)[row];
    return kernels::code_group{};
  };
  return kernels::packed_codes({.shape = {rows.tokens(), runs.cols()},
                                .group_size = runs.group_size(),
                                .format = {.bits = rows.bits(), .zero = zero},
                                .codes = codes,
                                .levels = levels},
                               ctx);
}

[[nodiscard]] matrix transposed(matrix_view<const float> x) {
  constexpr index_t block = 16;
  matrix out = matrix::for_overwrite({x.cols(), x.rows()});
  for (index_t r = 0; r < x.rows(); r += block) {
    for (index_t c = 0; c < x.cols(); ++c) {
      const auto row = out.view().row(c);
      for (index_t i = r; i < std::min(r + block, x.rows()); ++i) row[i] = x(i, c);
    }
  }
  return out;
}

/// For queries so few that threads are not worth it.
[[nodiscard]] kernels::context context_for(const runtime& rt, index_t queries, index_t tokens,
                                           index_t channels) {
  const bool is_small = 2 * queries * tokens * channels < least_parallel_products;
  return is_small ? rt.ctx.serial(rt.ctx.scratch) : rt.ctx;
}

[[nodiscard]] float scale_of(index_t width) { return 1.0F / std::sqrt(static_cast<float>(width)); }

}  // namespace

void head_cache::append(matrix_view<const float> rows) {
  for (index_t t = 0; t < rows.rows(); ++t) {
    for (index_t h = 0; h < heads_; ++h) {
      std::copy_n(rows.row(t).data() + h * width_, width_,
                  values_.data() + (h * capacity_ + tokens_ + t) * width_);
    }
  }
  tokens_ += rows.rows();
}

matrix attend(const matrix& queries, const head_cache& keys, const head_cache& values,
              index_t heads, bool causal, const runtime& rt) {
  matrix out = matrix::for_overwrite(queries.shape());
  const index_t n = keys.tokens();
  const index_t width = queries.cols() / heads;
  const index_t blocks = lowbit::div_up(queries.rows(), block_tokens);
  const kernels::context ctx = context_for(rt, queries.rows(), n, queries.cols());
  ctx.scratch->reserve(kernels::workers(ctx),
                       std::min(block_tokens, queries.rows()) * n * sizeof(float));
  kernels::parallel_for(ctx, heads * blocks, [&](index_t task, index_t worker) {
    const index_t head = task / blocks;
    const index_t begin = task % blocks * block_tokens;
    const row_range rows{begin, std::min(begin + block_tokens, queries.rows())};
    const auto columns = [&](auto view) {
      return view.middle_rows(rows).middle_cols(head * width, (head + 1) * width);
    };
    // A causal block sees the keys up to its last query.
    const index_t seen = causal ? n - queries.rows() + rows.end : n;
    whisper_input head_keys = keys.head(head);
    whisper_input head_values = values.head(head);
    head_keys.rows = head_values.rows = seen;
    rt.floats->attend({.queries = as_input(columns(queries.view())),
                       .keys = head_keys,
                       .values = head_values,
                       .out = as_output(columns(out.view())),
                       .scale = scale_of(width),
                       .causal = causal,
                       .scratch = reinterpret_cast<float*>(ctx.scratch->slot(worker).data())});
  });
  return out;
}

code_cache::code_cache(matrix_view<const float> keys, matrix_view<const float> values,
                       index_t heads, unsigned bits, const runtime& rt)
    : heads_(heads) {
  kernels::int8_activations codes(
      keys, {.bits = bits, .group_size = keys.cols() / heads, .per_group = true}, rt.ctx);
  keys_ = pack(codes, rt.ctx);
  codes.assign(transposed(values).view(),
               {.bits = bits, .group_size = run_tokens, .per_group = true}, rt.ctx);
  values_ = pack(codes, rt.ctx);
}

matrix code_cache::attend(const matrix& queries, const runtime& rt) const {
  constexpr index_t block = 8;  // queries that are one task: some 100 KiB of scores
  const index_t width = queries.cols() / heads_;
  const index_t tokens = keys_.shape().rows;
  const auto product = kernels::select_code_gemm(rt.ctx.allowed).run;
  const kernels::context ctx = context_for(rt, queries.rows(), tokens, queries.cols());
  const kernels::context serial = ctx.serial();
  matrix out = matrix::for_overwrite(queries.shape());
  kernels::parallel_for_blocks(ctx, queries.rows(), block, [&](row_range rows) {
    const index_t count = rows.size();
    const kernels::int8_activations q(queries.view().middle_rows(rows),
                                      {.group_size = width, .per_group = true}, serial);
    // A tile of 128 tokens or channels at a time.
    aligned_buffer<float> sums(tile_rows * count * heads_);
    const auto multiply = [&](const kernels::packed_codes& w, index_t tile, index_t first_run,
                              index_t runs, const kernels::int8_activations& x, index_t first,
                              index_t x_count) {
      std::fill_n(sums.data(), x_count * tile_rows, 0.0F);
      const index_t run_bytes = w.format().run_bytes(w.runs().quads());
      product({.weights = w.tile(tile).data() + first_run * run_bytes,
               .activations = x.codes(first_run).data() + first * x.run_bytes(),
               .sums = x.sums(first_run).data() + first,
               .steps = x.steps(first_run).data() + first,
               .y = sums.data(),
               .runs = runs,
               .quads = w.runs().quads(),
               .tokens = x_count,
               .activation_stride = x.run_stride(),
               .sum_stride = x.tokens(),
               .prefetch = ctx.prefetch_bytes,
               .format = &w.format()});
    };
    // First the scores. Rows begin at cache lines, so that softmax does the same for each.
    matrix room = matrix::for_overwrite({heads_ * count, keys_.tiles() * tile_rows});
    const matrix_view<float> weights = room.view().middle_cols(0, tokens);
    for (index_t tile = 0; tile < keys_.tiles(); ++tile) {
      for (index_t h = 0; h < heads_; ++h) {
        multiply(keys_, tile, h, 1, q, 0, count);
        for (index_t m = 0; m < count; ++m) {
          std::copy_n(sums.data() + m * tile_rows, tile_rows,
                      room.view().row(h * count + m).data() + tile * tile_rows);
        }
      }
    }
    for (index_t r = 0; r < weights.rows(); ++r) {
      rt.floats->softmax(weights.row(r).data(), tokens, scale_of(width));
    }
    const kernels::int8_activations p(weights, {.group_size = run_tokens, .per_group = true},
                                      serial);
    for (index_t tile = 0; tile < values_.tiles(); ++tile) {
      // The heads that have channels here meet the whole tile, and each keeps its own channels.
      const index_t begin = tile * tile_rows;
      const index_t end = std::min(begin + tile_rows, queries.cols());
      const index_t head = begin / width;
      const index_t heads = (end - 1) / width - head + 1;
      multiply(values_, tile, 0, values_.runs().count(), p, head * count, heads * count);
      for (index_t h = head; h < head + heads; ++h) {
        const index_t first = std::max(begin, h * width);
        const index_t last = std::min(end, (h + 1) * width);
        for (index_t m = 0; m < count; ++m) {
          std::copy_n(sums.data() + ((h - head) * count + m) * tile_rows + first - begin,
                      last - first, out.view().row(rows.begin + m).data() + first);
        }
      }
    }
  });
  return out;
}

matrix attend_in_codes(const matrix& queries, const matrix& keys, const matrix& values,
                       index_t heads, const runtime& rt) {
  const index_t width = queries.cols() / heads;
  const index_t tokens = keys.rows();
  const index_t tiles = lowbit::div_up(queries.rows(), tile_rows);
  const auto product = kernels::select_code_gemm(rt.ctx.allowed).run;
  const kernels::code_runs runs(tokens, run_tokens);
  // The weights that softmax gives, as weights.
  const kernels::code_format format{.bits = 8, .has_wide_scales = true};
  const index_t run_bytes = format.run_bytes(runs.quads());
  const kernels::context ctx = context_for(rt, queries.rows(), tokens, queries.cols());
  matrix out = matrix::for_overwrite(queries.shape());
  const auto columns = [&](auto view, index_t h) {
    return view.middle_cols(h * width, (h + 1) * width);
  };

  // Of all heads.
  const kernels::int8_activations k(keys.view(), {.group_size = width, .per_group = true}, ctx);
  const kernels::int8_activations v(transposed(values.view()).view(),
                                    {.group_size = run_tokens, .per_group = true}, ctx);
  const kernels::packed_codes q =
      pack(kernels::int8_activations(queries.view(), {.group_size = width, .per_group = true}, ctx),
           ctx);

  // What a task needs: sums, and for each run codes and two numbers for each query. Rows of 512
  // bytes.
  const index_t sum_rows = std::max(runs.run_size(), width);
  ctx.scratch->reserve(
      kernels::workers(ctx),
      (sum_rows + 2 * runs.count()) * tile_rows * sizeof(float) + runs.count() * run_bytes);
  kernels::parallel_for(ctx, heads * tiles, [&](index_t task, index_t worker) {
    const index_t head = task / tiles;
    const index_t tile = task % tiles;
    auto* const sums = reinterpret_cast<float*>(ctx.scratch->slot(worker).data());
    float* const largest = sums + sum_rows * tile_rows;
    float* const totals = largest + runs.count() * tile_rows;
    auto* const p = reinterpret_cast<std::uint8_t*>(totals + runs.count() * tile_rows);
    for (index_t run = 0; run < runs.count(); ++run) {
      const index_t first = runs.begin(run);
      std::fill_n(sums, runs.size(run) * tile_rows, 0.0F);
      product({.weights = q.tile(tile).data() + head * q.format().run_bytes(q.runs().quads()),
               .activations = k.codes(head).data() + first * k.run_bytes(),
               .sums = k.sums(head).data() + first,
               .steps = k.steps(head).data() + first,
               .y = sums,
               .runs = 1,
               .quads = q.runs().quads(),
               .tokens = runs.size(run),
               .activation_stride = k.run_stride(),
               .sum_stride = k.tokens(),
               .prefetch = 0,
               .format = &q.format()});
      rt.floats->soften({.scores = sums,
                         .keys = runs.size(run),
                         .scale = scale_of(width),
                         .codes = p + run * run_bytes + format.codes_at(0, runs.quads()),
                         .largest = largest + run * tile_rows,
                         .totals = totals + run * tile_rows});
    }
    rt.floats->share_out(largest, totals, runs.count());
    for (index_t run = 0; run < runs.count(); ++run) {
      std::memcpy(p + run * run_bytes, largest + run * tile_rows, tile_rows * sizeof(float));
    }
    std::fill_n(sums, width * tile_rows, 0.0F);
    product({.weights = p,
             .activations = v.codes(0).data() + head * width * v.run_bytes(),
             .sums = v.sums(0).data() + head * width,
             .steps = v.steps(0).data() + head * width,
             .y = sums,
             .runs = runs.count(),
             .quads = runs.quads(),
             .tokens = width,
             .activation_stride = v.run_stride(),
             .sum_stride = v.tokens(),
             .prefetch = 0,
             .format = &format});
    const matrix_view<float> head_out = columns(out.view(), head);
    const index_t count = std::min(tile_rows, queries.rows() - tile * tile_rows);
    for (index_t m = 0; m < count; ++m) {
      const auto row = head_out.row(tile * tile_rows + m);
      for (index_t i = 0; i < width; ++i) row[i] = sums[i * tile_rows + m];
    }
  });
  return out;
}

}  // namespace whisper
