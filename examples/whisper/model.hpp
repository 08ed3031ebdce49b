// model.hpp: Whisper's encoder and decoder.
//
//   encoder  mel [mels, 2 T] -> conv + GELU, conv (stride 2) + GELU, positions, blocks -> [T,
//   state] decoder  tokens -> embedding, positions, blocks with a look at the encoder's output ->
//   logits
//
// Blocks are pre-norm: x += attention(ln(x)); x += mlp.2(gelu(mlp.0(ln(x)))). Every linear layer
// and the embedding, which is the output matrix, too, is a `linear`: float or quantized.
//
// A model is immutable, but for exchange_weights(): what changes while text is decoded is in a
// decoder_state.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention.hpp"
#include "model_file.hpp"
#include "tokenizer.hpp"

namespace whisper {

/// The embedding's name as a layer: it is the output matrix, too.
inline constexpr std::string_view output_layer = "decoder.token_embedding";

/// A linear layer of the network: y = x W^T + bias.
struct linear_layer {
  std::string name;  ///< of the weight, without ".weight"
  std::unique_ptr<linear> weights;
  std::vector<float> bias = {};  ///< empty for none

  [[nodiscard]] matrix operator()(matrix_view<const float> x, const runtime& rt) const;
};

struct layer_norm {
  std::vector<float> weight, bias;

  [[nodiscard]] matrix operator()(matrix_view<const float> x, const runtime& rt) const;
};

struct attention_layer {
  linear_layer query, key, value, out;
};

struct transformer_block {
  layer_norm attention_norm;
  attention_layer attention;
  layer_norm cross_norm;            ///< decoder only
  attention_layer cross_attention;  ///< decoder only
  layer_norm mlp_norm;
  linear_layer mlp_in, mlp_out;
};

/// Keys and values of a window, which every token looks at: floats or codes.
class window_cache {
 public:
  window_cache() = default;
  /// Keys and values [tokens, heads * width]; 0 bits: floats, else code_cache.
  window_cache(matrix_view<const float> keys, matrix_view<const float> values, index_t heads,
               unsigned bits, const runtime& rt);

  [[nodiscard]] matrix attend(const matrix& queries, index_t heads, const runtime& rt) const;
  [[nodiscard]] std::uint64_t bytes() const noexcept;

 private:
  unsigned bits_ = 0;
  head_cache keys_, values_;
  code_cache codes_;
};

/// What the decoder remembers of one window.
struct decoder_state {
  struct layer {
    head_cache keys, values;  ///< of the tokens
    window_cache audio;       ///< of the window, made once
  };
  std::vector<layer> layers;
  index_t tokens = 0;

  /// Forgets the tokens, not the window.
  void restart() noexcept;
  /// What the next token reads beside weights.
  [[nodiscard]] std::uint64_t bytes() const noexcept;
};

class model {
 public:
  /// Loads everything; the file is not needed after that. Refuses (format) what lacks tensors or
  /// has some of the wrong shape.
  model(const model_file& file, const load_options& options);

  [[nodiscard]] const model_sizes& sizes() const noexcept { return sizes_; }

  /// The encoder's output [frames / 2, state]. Refuses (shape) another number of mel bands, an odd
  /// number of frames, and more than fit.
  [[nodiscard]] matrix encode(matrix_view<const float> mel, const runtime& rt) const;

  /// A decoder that has read nothing yet, over an encoder's output (of encode(), or kept from an
  /// earlier run).
  [[nodiscard]] decoder_state start(matrix_view<const float> audio, const runtime& rt) const;

  /// Reads tokens and returns the logits of the last `wanted` of them, [wanted, vocabulary]: what
  /// comes after each. With all tokens of a text at once, this is teacher forcing. Refuses (value)
  /// tokens that do not exist, and more than text_context in all.
  [[nodiscard]] matrix decode(decoder_state& state, std::span<const token> tokens, index_t wanted,
                              const runtime& rt) const;

  /// Every linear layer in the order of the network, the embedding as "decoder.token_embedding".
  void for_each_linear(const std::function<void(std::string_view, const linear&)>& f) const;
  /// Swaps the weights of a layer, which for_each_linear() names, with others of the same shape;
  /// not while somebody uses the model. Refuses an unknown layer (value) and other shapes (shape).
  void exchange_weights(std::string_view layer, std::unique_ptr<linear>& weights);
  /// Weights that the product of one token reads.
  [[nodiscard]] std::uint64_t decoder_bytes() const;

 private:
  model_sizes sizes_;
  linear_layer conv1_, conv2_;
  matrix audio_positions_;
  std::vector<transformer_block> encoder_;
  layer_norm audio_norm_;
  std::unique_ptr<linear> embedding_;
  matrix text_positions_;
  std::vector<transformer_block> decoder_;
  layer_norm text_norm_;
  bool encoder_in_codes_ = false;  ///< its attention is attend_in_codes()
  unsigned cache_bits_ = 0;        ///< of a window_cache
};

}  // namespace whisper
