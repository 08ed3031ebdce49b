#include "transcriber.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "../common/seconds_since.hpp"
#include "audio.hpp"

namespace whisper {

namespace {

using clock = std::chrono::steady_clock;

using examples::seconds_since;

/// Encoder outputs per second of audio: the second convolution halves 100 frames.
constexpr index_t outputs_per_second = mel_spectrogram::frames_per_second / 2;

bool is_silence(std::span<const float> logits, const special_tokens& special) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l - largest));
  const float own = logits[special.no_speech];
  return std::exp(static_cast<double>(own - largest)) / sum > 0.6;  // Whisper's threshold
}

}  // namespace

token choose_greedily(std::span<const float> logits, const special_tokens& special) {
  const auto may_be = logits.first(special.end_of_text + index_t{1});
  return static_cast<token>(std::max_element(may_be.begin(), may_be.end()) - may_be.begin());
}

bool is_looping(std::span<const token> text) {
  constexpr std::size_t times = 3;
  constexpr std::size_t least = 12;
  constexpr std::size_t longest_period = 32;
  for (std::size_t period = 1; period <= longest_period; ++period) {
    const std::size_t length = std::max(times * period, least);
    if (length > text.size()) continue;
    const auto end = text.last(length);
    if (std::equal(end.begin() + static_cast<std::ptrdiff_t>(period), end.end(), end.begin())) {
      return true;
    }
  }
  return false;
}

greedy_text decode_greedily(const model& net, decoder_state& state, const special_tokens& special,
                            index_t most, const runtime& rt,
                            const std::function<void(token)>& saw) {
  greedy_text text;
  const std::array prompt{special.start_of_transcript, special.no_timestamps};
  matrix logits = net.decode(state, prompt, prompt.size(), rt);
  text.passes = prompt.size();
  text.state_bytes = prompt.size() * state.bytes();
  text.is_silent = is_silence(logits.view().row(0), special);
  if (text.is_silent) return text;
  most = std::min(most, net.sizes().text_context - prompt.size());
  while (text.tokens.size() < most) {
    const token next = choose_greedily(logits.view().row(logits.rows() - 1), special);
    text.tokens.push_back(next);
    if (next == special.end_of_text) break;
    if (saw) saw(next);
    text.is_looping = is_looping(text.tokens);
    if (text.is_looping) break;
    logits = net.decode(state, {&next, 1}, 1, rt);
    text.passes += 1;
    text.state_bytes += state.bytes();
  }
  return text;
}

transcriber::transcriber(const model& net, const tokenizer& words, const mel_spectrogram& mel,
                         const transcribe_options& options, const runtime& rt)
    : net_(net), words_(words), mel_(mel), options_(options), rt_(rt) {
  const index_t longest = net.sizes().audio_context / outputs_per_second;
  LOWBIT_CHECK(options.window_seconds >= 1 && options.window_seconds <= longest, value,
               "a window of ", options.window_seconds, " seconds; 1 to ", longest,
               " are possible with this model");
}

void transcriber::operator()(std::span<const float> samples,
                             const std::function<void(std::string_view)>& write) {
  totals_.audio_seconds += static_cast<double>(samples.size()) / sample_rate;
  if (samples.empty()) return;
  index_t begin = 0;
  for (const index_t end : window_ends(samples, options_.window_seconds * sample_rate)) {
    run_window(samples.subspan(begin, end - begin), write);
    begin = end;
  }
}

void transcriber::run_window(std::span<const float> samples,
                             const std::function<void(std::string_view)>& write) {
  auto start = clock::now();
  const special_tokens& special = words_.special();
  const matrix audio = net_.encode(mel_(samples, options_.window_seconds).view(), rt_);
  decoder_state state = net_.start(audio.view(), rt_);
  totals_.encode_seconds += seconds_since(start);
  totals_.windows += 1;

  start = clock::now();
  utf8_stream characters;
  const greedy_text text =
      decode_greedily(net_, state, special, options_.most_tokens, rt_,
                      [&](token next) { write(characters.add(words_.text_of(next))); });
  write(characters.finish());
  totals_.silent_windows += text.is_silent ? 1 : 0;
  totals_.loops += text.is_looping ? 1 : 0;
  totals_.tokens += text.passes;
  totals_.state_bytes += text.state_bytes;
  totals_.decode_seconds += seconds_since(start);
}

}  // namespace whisper
