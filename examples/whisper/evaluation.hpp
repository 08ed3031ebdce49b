// evaluation.hpp: how far a model's predictions are from those of the f16 model that it was made
// of.
//
// Both models read the same tokens (teacher forcing) and are compared token by token; every figure
// is a sum over tokens in their order, the same at any number of threads. Tokens of one window or
// clip are not independent, so standard errors are those of clusters.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mel.hpp"
#include "model.hpp"
#include "tokenizer.hpp"
#include "transcriber.hpp"
#include "word_errors.hpp"

namespace whisper {

/// A mean and its standard error.
struct estimate {
  double mean = 0.0;
  double error = 0.0;  ///< 0 for fewer than two clusters
};

/// The sum of what is averaged, and the number of tokens or words that it is of.
struct cluster {
  double sum = 0.0;
  double count = 0.0;
};

/// The ratio of the sums of both, with the error of a ratio estimator over clusters:
/// sqrt(C / (C - 1) sum (sum_c - mean count_c)^2) / sum count_c. 0 where nothing was counted.
[[nodiscard]] estimate clustered_mean(std::span<const cluster> clusters);

/// What two models make of one token.
struct token_figures {
  token id = 0;                ///< the token that follows
  index_t cluster = 0;         ///< the window or clip
  double reference_nll = 0.0;  ///< -log p of the token, in nats
  double nll = 0.0;
  double divergence = 0.0;  ///< KL(reference || model) over the vocabulary, in nats
  bool agrees = false;      ///< whether both have the same likeliest token
};

/// Row t of both logits is what a model says of tokens[t]. Appends to `out`. Shapes must be equal
/// (shape); uses all threads.
void compare_logits(matrix_view<const float> reference, matrix_view<const float> logits,
                    std::span<const token> tokens, index_t cluster, const runtime& rt,
                    std::vector<token_figures>& out);

struct figures {
  index_t tokens = 0;
  index_t clusters = 0;
  double reference_nll = 0.0;  ///< means
  double nll = 0.0;
  estimate nll_difference = {};  ///< model - reference, paired
  estimate divergence = {};      ///< KL
  double divergence_99 = 0.0;    ///< its 99th percentile (nearest rank)
  estimate agreement = {};       ///< of the likeliest token
};

[[nodiscard]] figures summarize(std::span<const token_figures> tokens);

// -- text ----------------------------------------------------------------------------------------

/// A text from its first white space at byte `offset` or later on, as one_line() unless
/// `keep_lines`.
[[nodiscard]] std::string text_from(std::string_view text, index_t offset, bool keep_lines);

/// The first `count` tokens of a text in windows of `window` tokens, the last one shorter. Refuses
/// (value) a text that has fewer.
[[nodiscard]] std::vector<std::vector<token>> text_windows(const tokenizer& words,
                                                           std::string_view text, index_t count,
                                                           index_t window);

/// Logits of every token of a text after the prompt of a transcript: row t is what the model says
/// of tokens[t]. The state has read nothing yet.
[[nodiscard]] matrix predict(const model& net, decoder_state& state, const special_tokens& special,
                             std::span<const token> tokens, const runtime& rt);

/// Checksums of what a model makes of a second of noise: equal where weights, options and kernels
/// give the same bits.
struct fingerprint {
  std::uint64_t encoder = 0;  ///< of the encoder's output
  std::uint64_t decoder = 0;  ///< of logits after that
};

[[nodiscard]] fingerprint take_fingerprint(const model& net, const special_tokens& special,
                                           const mel_spectrogram& mel, const runtime& rt);

// -- speech --------------------------------------------------------------------------------------

struct clip {
  std::string name;  ///< its path in the folder without ".wav", as transcripts name it
  std::vector<float> samples;
  std::vector<std::string> words;  ///< of its transcript, normalized
};

struct clip_options {
  index_t window_seconds = 10;  ///< longer clips do not count
  index_t least_words = 1;      ///< shorter transcripts do not count
  index_t count = 0;            ///< so many, evenly spread; 0 for all
};

/// The .wav files in a folder and those below it, sorted as std::filesystem::path; those of even
/// index are for evaluation (the others are for calibration). Those with a transcript (a line
/// `name: text`) count, unless brackets in it say that they are no speech; what is in parentheses
/// is not spoken. Refuses (system, value) what cannot be read and fewer clips than wanted.
[[nodiscard]] std::vector<clip> read_clips(const std::filesystem::path& folder,
                                           const std::filesystem::path& transcripts,
                                           const clip_options& options);

/// What the encoder makes of a clip, and the greedy transcript.
struct heard_clip {
  matrix audio;
  std::vector<token> text;  ///< with the end of text, where the model came to it
};

/// Keeps what the f16 model heard in a folder, one file for each clip; files are written at once or
/// not at all, and verified when they are read. Refuses (system) a folder that cannot be made.
class clip_cache {
 public:
  clip_cache(const std::filesystem::path& folder, const fingerprint& model);

  /// Nothing where there is no file or it is damaged.
  [[nodiscard]] std::optional<heard_clip> find(std::span<const float> samples,
                                               index_t window_seconds) const;
  void store(std::span<const float> samples, index_t window_seconds, const heard_clip& heard) const;

 private:
  [[nodiscard]] std::filesystem::path path_of(std::span<const float> samples,
                                              index_t window_seconds) const;

  std::filesystem::path folder_;
};

}  // namespace whisper
