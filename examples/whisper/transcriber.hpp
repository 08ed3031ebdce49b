// transcriber.hpp: from samples to text, window by window, greedily.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "mel.hpp"
#include "model.hpp"
#include "tokenizer.hpp"

namespace whisper {

struct transcribe_options {
  index_t window_seconds = 30;  ///< what the encoder sees at a time; it was trained on 30
  index_t most_tokens = 224;    ///< of a window: half of what fits, as in Whisper
};

/// What a transcription took, summed over windows.
struct transcribe_totals {
  double audio_seconds = 0.0;
  double encode_seconds = 0.0;  ///< spectrogram, encoder, its keys and values for the decoder
  double decode_seconds = 0.0;  ///< from the first token on
  index_t windows = 0;
  index_t silent_windows = 0;     ///< left out: the model heard no speech
  index_t tokens = 0;             ///< passes of the decoder over one token each
  index_t loops = 0;              ///< windows that were ended because the text repeated itself
  std::uint64_t state_bytes = 0;  ///< keys and values that those passes read
};

/// The likeliest token that may be sampled: text, or the end of text. Special tokens (time stamps
/// among them) may not.
[[nodiscard]] token choose_greedily(std::span<const float> logits, const special_tokens& special);

/// Whether a text ends in the same `period` tokens, at least three times and 12 tokens or more.
[[nodiscard]] bool is_looping(std::span<const token> text);

/// A text that was sampled.
struct greedy_text {
  std::vector<token> tokens;      ///< with the end of text, where it came to that
  bool is_silent = false;         ///< the model heard no speech: there are no tokens
  bool is_looping = false;        ///< it was ended because it repeated itself
  index_t passes = 0;             ///< of the decoder over one token each
  std::uint64_t state_bytes = 0;  ///< keys and values that they read
};

/// Reads the prompt and samples at most `most` tokens, also no more than the window can hold. The
/// state has read nothing yet. `saw` gets every token of text at once.
[[nodiscard]] greedy_text decode_greedily(const model& net, decoder_state& state,
                                          const special_tokens& special, index_t most,
                                          const runtime& rt,
                                          const std::function<void(token)>& saw = {});

class transcriber {
 public:
  /// Refers to all of them. Refuses (value) a window that is empty or more than the model's.
  transcriber(const model& net, const tokenizer& words, const mel_spectrogram& mel,
              const transcribe_options& options, const runtime& rt);

  /// Writes text (whole characters) as it is decoded. 16 kHz samples of any length.
  void operator()(std::span<const float> samples,
                  const std::function<void(std::string_view)>& write);
  [[nodiscard]] const transcribe_totals& totals() const noexcept { return totals_; }

 private:
  void run_window(std::span<const float> samples,
                  const std::function<void(std::string_view)>& write);

  const model& net_;
  const tokenizer& words_;
  const mel_spectrogram& mel_;
  transcribe_options options_;
  const runtime& rt_;
  transcribe_totals totals_;
};

}  // namespace whisper
