#include "model.hpp"

#include <algorithm>

namespace whisper {

namespace {

/// Rows of activations that are one task.
constexpr index_t block_tokens = 64;

/// Calls f(rows) for blocks of rows, on all threads if there are several.
template <class F>
void for_each_block(const runtime& rt, index_t rows, const F& f) {
  lowbit::kernels::parallel_for_blocks(rt.ctx, rows, block_tokens, f);
}

void add_to(matrix& x, const matrix& y) {
  const auto to = x.values();
  const auto from = y.values();
  for (index_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

void apply_gelu(matrix& x, const runtime& rt) {
  for_each_block(rt, x.rows(), [&](row_range rows) {
    rt.floats->gelu(x.view().row(rows.begin).data(), rows.size() * x.cols());
  });
}

/// The inputs of a convolution of width 3 and padding 1 as rows: out(t, 3 c + k) = in(c, stride t +
/// k - 1), where in(channel, time) is 0 outside.
template <class In>
matrix gather(const In& in, index_t channels, index_t times, index_t stride) {
  matrix out(times / stride, channels * 3);
  for (index_t t = 0; t < out.rows(); ++t) {
    const auto row = out.view().row(t);
    for (index_t k = 0; k < 3; ++k) {
      const index_t at = stride * t + k;  // one more than the time
      if (at == 0 || at > times) continue;
      for (index_t c = 0; c < channels; ++c) row[3 * c + k] = in(c, at - 1);
    }
  }
  return out;
}

/// Reads the tensors of a network by their names.
class loader {
 public:
  loader(const model_file& file, const load_options& options) : file_(file), options_(options) {}

  [[nodiscard]] linear_layer layer(const std::string& name, shape2 shape, bool has_bias = true) {
    return {
        .name = name,
        .weights = file_.load_linear(name + ".weight", shape, options_),
        .bias = has_bias ? file_.load_vector(name + ".bias", shape.rows) : std::vector<float>{}};
  }
  [[nodiscard]] layer_norm norm(const std::string& name, index_t size) {
    return {file_.load_vector(name + ".weight", size), file_.load_vector(name + ".bias", size)};
  }
  [[nodiscard]] attention_layer attention(const std::string& name, index_t size) {
    const shape2 square{size, size};
    return {.query = layer(name + ".query", square),
            .key = layer(name + ".key", square, false),
            .value = layer(name + ".value", square),
            .out = layer(name + ".out", square)};
  }
  [[nodiscard]] transformer_block block(const std::string& name, index_t size, bool has_cross) {
    transformer_block b;
    b.attention_norm = norm(name + "attn_ln", size);
    b.attention = attention(name + "attn", size);
    if (has_cross) {
      b.cross_norm = norm(name + "cross_attn_ln", size);
      b.cross_attention = attention(name + "cross_attn", size);
    }
    b.mlp_norm = norm(name + "mlp_ln", size);
    b.mlp_in = layer(name + "mlp.0", {4 * size, size});
    b.mlp_out = layer(name + "mlp.2", {size, 4 * size});
    return b;
  }
  [[nodiscard]] std::vector<transformer_block> blocks(const std::string& part, index_t count,
                                                      index_t size, bool has_cross) {
    std::vector<transformer_block> all;
    for (index_t i = 0; i < count; ++i) {
      all.push_back(block(lowbit::detail::message(part, ".blocks.", i, "."), size, has_cross));
    }
    return all;
  }

 private:
  const model_file& file_;
  const load_options& options_;
};

/// x += mlp(x).
void add_mlp(matrix& x, const transformer_block& b, const runtime& rt) {
  matrix hidden = b.mlp_in(b.mlp_norm(x.view(), rt).view(), rt);
  apply_gelu(hidden, rt);
  add_to(x, b.mlp_out(hidden.view(), rt));
}

template <class Attention, class F>
void for_each_attention_layer(Attention& a, const F& f) {
  for (auto* const layer : {&a.query, &a.key, &a.value, &a.out}) f(*layer);
}

/// `is_read`: whether a token that is decoded reads the layer.
template <class Block, class F>
void for_each_layer(Block& b, const F& f) {
  for_each_attention_layer(b.attention, [&](auto& l) { f(l, true); });
  if (b.cross_attention.query.weights != nullptr) {
    for_each_attention_layer(b.cross_attention, [&](auto& l) {
      f(l, &l != &b.cross_attention.key && &l != &b.cross_attention.value);
    });
  }
  f(b.mlp_in, true);
  f(b.mlp_out, true);
}

}  // namespace

matrix linear_layer::operator()(matrix_view<const float> x, const runtime& rt) const {
  rt.check_stop();
  if (rt.observer != nullptr) rt.observer->saw(name, x);
  matrix y = matrix::for_overwrite({x.rows(), weights->shape().rows});
  weights->multiply(x, y.view(), rt);
  if (bias.empty()) return y;
  for (index_t t = 0; t < y.rows(); ++t) {
    const auto row = y.view().row(t);
    for (index_t i = 0; i < row.size(); ++i) row[i] += bias[i];
  }
  return y;
}

matrix layer_norm::operator()(matrix_view<const float> x, const runtime& rt) const {
  matrix y = matrix::for_overwrite(x.shape());
  for_each_block(rt, x.rows(), [&](row_range rows) {
    rt.floats->normalize(as_input(x.middle_rows(rows)), weight.data(), bias.data(),
                         as_output(y.view().middle_rows(rows)));
  });
  return y;
}

window_cache::window_cache(matrix_view<const float> keys, matrix_view<const float> values,
                           index_t heads, unsigned bits, const runtime& rt)
    : bits_(bits) {
  if (bits_ != 0) {
    codes_ = code_cache(keys, values, heads, bits, rt);
    return;
  }
  keys_ = values_ = head_cache(heads, keys.rows(), keys.cols() / heads);
  keys_.append(keys);
  values_.append(values);
}

matrix window_cache::attend(const matrix& queries, index_t heads, const runtime& rt) const {
  return bits_ != 0 ? codes_.attend(queries, rt)
                    : whisper::attend(queries, keys_, values_, heads, false, rt);
}

std::uint64_t window_cache::bytes() const noexcept {
  return bits_ != 0 ? codes_.bytes() : keys_.bytes() + values_.bytes();
}

void decoder_state::restart() noexcept {
  for (layer& l : layers) {
    l.keys.clear();
    l.values.clear();
  }
  tokens = 0;
}

std::uint64_t decoder_state::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const layer& l : layers) {
    sum += l.keys.bytes() + l.values.bytes() + l.audio.bytes();
  }
  return sum;
}

model::model(const model_file& file, const load_options& options) : sizes_(file.sizes()) {
  loader load(file, options);
  const model_sizes& s = sizes_;
  conv1_ = load.layer("encoder.conv1", {s.audio_state, 3 * s.mels});
  conv2_ = load.layer("encoder.conv2", {s.audio_state, 3 * s.audio_state});
  audio_positions_ =
      file.load_matrix("encoder.positional_embedding", {s.audio_context, s.audio_state});
  encoder_ = load.blocks("encoder", s.audio_layers, s.audio_state, false);
  audio_norm_ = load.norm("encoder.ln_post", s.audio_state);
  embedding_ =
      file.load_linear("decoder.token_embedding.weight", {s.vocabulary, s.text_state}, options);
  text_positions_ =
      file.load_matrix("decoder.positional_embedding", {s.text_context, s.text_state});
  decoder_ = load.blocks("decoder", s.text_layers, s.text_state, true);
  text_norm_ = load.norm("decoder.ln", s.text_state);
  const auto rounds_inputs = [](const linear_layer& l) { return l.weights->rounds_inputs(); };
  const bool is_automatic = options.cache == cache_storage::automatic;
  encoder_in_codes_ =
      is_automatic ? std::all_of(encoder_.begin(), encoder_.end(),
                                 [&](const auto& b) { return rounds_inputs(b.attention.query); })
                   : options.cache != cache_storage::floats;
  cache_bits_ = options.cache == cache_storage::int4 ? 4 : 8;
  if (is_automatic
          ? !std::all_of(decoder_.begin(), decoder_.end(),
                         [&](const auto& b) { return rounds_inputs(b.cross_attention.query); })
          : options.cache == cache_storage::floats) {
    cache_bits_ = 0;
  }
}

matrix model::encode(matrix_view<const float> mel, const runtime& rt) const {
  LOWBIT_CHECK(mel.rows() == sizes_.mels, shape, "the spectrogram has ", mel.rows(),
               " mel bands, the model wants ", sizes_.mels);
  LOWBIT_CHECK(mel.cols() % 2 == 0 && mel.cols() / 2 <= sizes_.audio_context, shape,
               "the spectrogram has ", mel.cols(), " frames; an even number, at most ",
               2 * sizes_.audio_context, ", is possible");
  matrix x = conv1_(gather(mel, mel.rows(), mel.cols(), 1).view(), rt);
  apply_gelu(x, rt);
  const auto transposed = [in = x.view()](index_t channel, index_t time) {
    return in(time, channel);
  };
  x = conv2_(gather(transposed, x.cols(), x.rows(), 2).view(), rt);
  apply_gelu(x, rt);
  for (index_t t = 0; t < x.rows(); ++t) {
    for (index_t i = 0; i < x.cols(); ++i) x.view()(t, i) += audio_positions_.view()(t, i);
  }
  head_cache key_cache, value_cache;
  if (!encoder_in_codes_) {
    const index_t width = sizes_.audio_state / sizes_.audio_heads;
    key_cache = value_cache = head_cache(sizes_.audio_heads, x.rows(), width);
  }
  for (const transformer_block& b : encoder_) {
    {
      const matrix h = b.attention_norm(x.view(), rt);
      const matrix queries = b.attention.query(h.view(), rt);
      const matrix keys = b.attention.key(h.view(), rt);
      const matrix values = b.attention.value(h.view(), rt);
      matrix seen;
      if (encoder_in_codes_) {
        seen = attend_in_codes(queries, keys, values, sizes_.audio_heads, rt);
      } else {
        key_cache.clear();
        value_cache.clear();
        key_cache.append(keys.view());
        value_cache.append(values.view());
        seen = attend(queries, key_cache, value_cache, sizes_.audio_heads, false, rt);
      }
      add_to(x, b.attention.out(seen.view(), rt));
    }
    add_mlp(x, b, rt);
  }
  return audio_norm_(x.view(), rt);
}

decoder_state model::start(matrix_view<const float> audio, const runtime& rt) const {
  LOWBIT_CHECK(audio.cols() == sizes_.audio_state && audio.rows() >= 1, shape,
               "an encoder's output of [", audio.rows(), ", ", audio.cols(),
               "] does not fit a model of ", sizes_.audio_state, " channels");
  const index_t heads = sizes_.text_heads;
  const index_t width = sizes_.text_state / heads;
  decoder_state state;
  for (const transformer_block& b : decoder_) {
    decoder_state::layer& l = state.layers.emplace_back();
    for (head_cache* const cache : {&l.keys, &l.values}) {
      *cache = head_cache(heads, sizes_.text_context, width);
    }
    const matrix keys = b.cross_attention.key(audio, rt);
    const matrix values = b.cross_attention.value(audio, rt);
    l.audio = window_cache(keys.view(), values.view(), heads, cache_bits_, rt);
  }
  return state;
}

matrix model::decode(decoder_state& state, std::span<const token> tokens, index_t wanted,
                     const runtime& rt) const {
  LOWBIT_CHECK(wanted >= 1 && wanted <= tokens.size(), value, "logits of ", wanted, " of ",
               tokens.size(), " tokens are wanted");
  LOWBIT_CHECK(state.tokens + tokens.size() <= sizes_.text_context, value, state.tokens, " and ",
               tokens.size(), " tokens are more than the ", sizes_.text_context, " of a window");
  matrix x = matrix::for_overwrite({tokens.size(), sizes_.text_state});
  for (index_t t = 0; t < tokens.size(); ++t) {
    LOWBIT_CHECK(tokens[t] < sizes_.vocabulary, value, "there is no token ", tokens[t]);
    embedding_->read_rows({tokens[t], tokens[t] + index_t{1}}, x.view().middle_rows({t, t + 1}));
    const auto position = text_positions_.view().row(state.tokens + t);
    for (index_t i = 0; i < x.cols(); ++i) x.view()(t, i) += position[i];
  }
  const index_t heads = sizes_.text_heads;
  for (index_t i = 0; i < decoder_.size(); ++i) {
    const transformer_block& b = decoder_[i];
    decoder_state::layer& l = state.layers[i];
    {
      const matrix h = b.attention_norm(x.view(), rt);
      l.keys.append(b.attention.key(h.view(), rt).view());
      l.values.append(b.attention.value(h.view(), rt).view());
      const matrix seen =
          attend(b.attention.query(h.view(), rt), l.keys, l.values, heads, true, rt);
      add_to(x, b.attention.out(seen.view(), rt));
    }
    {
      const matrix h = b.cross_norm(x.view(), rt);
      const matrix seen = l.audio.attend(b.cross_attention.query(h.view(), rt), heads, rt);
      add_to(x, b.cross_attention.out(seen.view(), rt));
    }
    add_mlp(x, b, rt);
  }
  state.tokens += tokens.size();
  const matrix last =
      text_norm_(std::as_const(x).view().middle_rows({tokens.size() - wanted, tokens.size()}), rt);
  rt.check_stop();
  if (rt.observer != nullptr) rt.observer->saw("decoder.token_embedding", last.view());
  matrix logits = matrix::for_overwrite({wanted, sizes_.vocabulary});
  embedding_->multiply(last.view(), logits.view(), rt);
  return logits;
}

void model::for_each_linear(const std::function<void(std::string_view, const linear&)>& f) const {
  f(conv1_.name, *conv1_.weights);
  f(conv2_.name, *conv2_.weights);
  const auto each = [&](const linear_layer& l, bool) { f(l.name, *l.weights); };
  for (const transformer_block& b : encoder_) for_each_layer(b, each);
  f("decoder.token_embedding", *embedding_);
  for (const transformer_block& b : decoder_) for_each_layer(b, each);
}

void model::exchange_weights(std::string_view layer, std::unique_ptr<linear>& weights) {
  std::unique_ptr<linear>* found = layer == "decoder.token_embedding" ? &embedding_ : nullptr;
  const auto look_at = [&](linear_layer& l, bool) {
    if (l.name == layer) found = &l.weights;
  };
  look_at(conv1_, true);
  look_at(conv2_, true);
  for (transformer_block& b : encoder_) for_each_layer(b, look_at);
  for (transformer_block& b : decoder_) for_each_layer(b, look_at);
  LOWBIT_CHECK(found != nullptr, value, "the model has no layer '", layer, "'");
  LOWBIT_CHECK(weights != nullptr && weights->shape() == (*found)->shape(), shape, "layer '", layer,
               "' takes no weights of another shape");
  std::swap(*found, weights);
}

std::uint64_t model::decoder_bytes() const {
  std::uint64_t sum = embedding_->bytes();
  for (const transformer_block& b : decoder_) {
    for_each_layer(b, [&](const linear_layer& l, bool is_read) {
      if (is_read) sum += l.weights->bytes();
    });
  }
  return sum;
}

}  // namespace whisper
