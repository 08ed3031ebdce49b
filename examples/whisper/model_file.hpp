// model_file.hpp: a Whisper model on disk: whisper.cpp's ggml file with f16 weights, or the
// quantized checkpoint that `quantize_model quantize` makes of one.
//
// Files are not trusted: sizes are checked against each other and against the file, checksums of a
// checkpoint are verified, and errors name the file, the thing and the value.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "linear.hpp"

namespace whisper {

/// What the first numbers of the file say, all checked to be sensible.
struct model_sizes {
  index_t vocabulary = 0;     ///< rows of the embedding, special tokens included
  index_t audio_context = 0;  ///< encoder outputs of a full window: 50 per second
  index_t audio_state = 0;
  index_t audio_heads = 0;
  index_t audio_layers = 0;
  index_t text_context = 0;  ///< tokens that a window can hold
  index_t text_state = 0;
  index_t text_heads = 0;
  index_t text_layers = 0;
  index_t mels = 0;

  friend bool operator==(const model_sizes&, const model_sizes&) = default;
};

/// How weights are kept in memory.
struct load_options {
  dense_storage dense = dense_storage::f16;
  activation_mode activations = activation_mode::int8;  ///< of quantized weights
  cache_storage cache = cache_storage::automatic;
};

/// Maps the file for as long as it lives; what it returns does not refer to it.
class model_file {
 public:
  /// Refuses (format, system) what is not a Whisper model or is damaged, and multilingual models.
  explicit model_file(const std::filesystem::path& path);
  ~model_file();
  model_file(const model_file&) = delete;
  model_file& operator=(const model_file&) = delete;

  [[nodiscard]] const model_sizes& sizes() const noexcept { return sizes_; }
  /// Byte strings of the text tokens, by id; special tokens come after them.
  [[nodiscard]] const std::vector<std::string>& vocabulary() const noexcept { return vocabulary_; }
  /// [mels, bins].
  [[nodiscard]] matrix mel_filters() const;

  /// Weights of a layer. Refuses a name that is not there and another shape (format).
  [[nodiscard]] std::unique_ptr<linear> load_linear(const std::string& name, shape2 shape,
                                                    const load_options& options) const;
  /// A matrix as floats, whether it is quantized or not.
  [[nodiscard]] matrix load_matrix(const std::string& name, shape2 shape) const;
  [[nodiscard]] std::vector<float> load_vector(const std::string& name, index_t size) const;

  /// For people: "ggml, f16" or what the checkpoint says of its quantizer.
  [[nodiscard]] std::string describe() const;

 private:
  class container;

  void check_shape(std::string_view name, shape2 found, shape2 expected) const;
  void read_sizes();
  void read_vocabulary();

  std::string label_;
  std::unique_ptr<const container> file_;
  model_sizes sizes_;
  std::vector<std::string> vocabulary_;
};

}  // namespace whisper
