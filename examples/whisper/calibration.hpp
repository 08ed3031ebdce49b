// calibration.hpp: what the layers of a network see when it reads text and hears speech: second
// moments of their inputs (lowbit::observers), for `quantize_model --calibrate`.
//
// Work is cut in units: a file of sound, then the encoder's output of silence, then windows of text
// over it. A unit counts whole or not at all, and what came of the units so far can be saved and
// loaded: a run that goes on from there gives the same bytes as one that was never stopped.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/io/calibration_file.hpp"
#include "mel.hpp"
#include "model.hpp"
#include "tokenizer.hpp"

namespace whisper {

/// Collects the inputs of layers. Layers that read the same inputs (queries, keys and values; the
/// keys and values of all cross-attentions) share one set of moments. With a second network the
/// moments are of what its layers see, x̂, and there are E[x x̂^T] beside them.
class input_collector {
 public:
  struct watched_layer {
    std::string name;
    index_t channels;
  };

  /// Of these layers, in this order. Uses `ctx`, which must outlive it.
  input_collector(const std::vector<watched_layer>& layers, bool has_second,
                  const lowbit::kernels::context& ctx);
  input_collector(const input_collector&) = delete;
  input_collector& operator=(const input_collector&) = delete;
  ~input_collector();

  /// How many there are.
  [[nodiscard]] index_t layers() const noexcept;
  /// Watches the network; with a second one, the original.
  [[nodiscard]] layer_observer& first() noexcept;
  /// Watches the second network, which must see the same rows in the same order.
  [[nodiscard]] layer_observer& second() noexcept;

  /// How much the rows of the next calls count: `weight` each; the first of a call times `first`.
  /// Of those after the share `full` (0..1) of a call's rows, which are padding, the share
  /// `padding` does, evenly spread.
  struct weighing {
    float weight = 1.0F;
    float first = 1.0F;
    double full = 1.0;
    double padding = 1.0;
  };
  void weigh(const weighing& how) noexcept { weighing_ = how; }

  /// What was seen since the last of these two counts, or does not. commit() refuses (value) two
  /// networks that saw different numbers of rows.
  void commit();
  void drop() noexcept;

  /// Writes the state; to be called after commit() or drop().
  void save(lowbit::io::safetensors_writer& out);
  /// Refuses (format) another collector's state.
  void load(const lowbit::io::safetensors_reader& in);

  /// Adds the statistics of every layer that saw something, and calls f(layers that share them,
  /// statistics) for each. Layers that saw nothing are left out; returns their names.
  std::vector<std::string> finish(
      const std::function<void(std::span<const std::string>, const lowbit::io::input_statistics&)>&
          f);

 private:
  struct input;
  class watcher;

  void add_rows(std::string_view layer, bool is_second, matrix_view<const float> rows);
  void flush(input& in);
  template <class F>
  void for_each_accumulator(F&& f);

  const lowbit::kernels::context& ctx_;
  bool has_second_;
  weighing weighing_;
  std::vector<std::unique_ptr<input>> inputs_;          // in the order of the network
  std::map<std::string, input*, std::less<>> watched_;  // by the layer that is asked for them
  std::unique_ptr<watcher> first_, second_;
};

/// Sound files: files as they are named, folders replaced by the sound files in them, in order of
/// their paths. Refuses (system) what is not there.
[[nodiscard]] std::vector<std::filesystem::path> find_sound_files(
    const std::vector<std::string>& paths);

/// The same files in an order of which any beginning is spread over all of them.
[[nodiscard]] std::vector<std::filesystem::path> spread(std::vector<std::filesystem::path> files);

struct calibration_options {
  index_t window_seconds = 10;  ///< of sound that the encoder sees at a time
  double audio_seconds = 0.0;   ///< no more than so much sound; 0: all
  double padding = 0.1;         ///< share of the encoder's rows after the end of a sound that count
  std::optional<double> audio_share = {};  ///< of the weight of all rows; none: every row counts 1
  index_t text_window = 200;    ///< tokens that the decoder reads at a time, the prompt not counted
  index_t text_tokens = 20000;  ///< no more than so many
  /// Of the decoder's first row, the start of a transcript. Its activations are a hundred times
  /// those of other tokens and attention rests on them everywhere, so that an error there harms all
  /// tokens; but it is one row in hundreds.
  float start_weight = 30.0F;
};

/// Windows of text, evenly spread: as many as `wanted` tokens need, each of at most `window`.
[[nodiscard]] std::vector<std::vector<token>> spread_windows(std::span<const token> text,
                                                             index_t wanted, index_t window);

/// The tokens that the decoder reads before text.
[[nodiscard]] inline std::vector<token> prompt_of(const tokenizer& words) {
  return {words.special().start_of_transcript, words.special().no_timestamps};
}

/// What the decoder reads when it hears a sound greedily: the prompt and the text, at most so many
/// tokens. decode(tokens) reads on and returns the logits [1, vocabulary] after the last of them.
[[nodiscard]] std::vector<token> hear_greedily(
    const tokenizer& words, index_t most,
    const std::function<matrix(std::span<const token>)>& decode);

/// Runs a network, or two side by side, over sound and text.
class calibration_run {
 public:
  /// What to run; everything must outlive the run.
  struct networks {
    const model& original;
    const model* distorted = nullptr;
    const tokenizer& words;
    const mel_spectrogram& mel;
  };
  /// How far a run is.
  struct progress {
    index_t units = 0;  ///< that are done
    index_t sounds = 0;
    double audio_seconds = 0.0;
    index_t audio_windows = 0;
    index_t audio_tokens = 0;  ///< that the decoder read for sound, prompts included
    index_t audio_rows = 0;    ///< outputs of the encoder, padding not counted
    index_t text_tokens = 0;
  };

  calibration_run(const networks& nets, std::vector<std::filesystem::path> sounds,
                  std::span<const token> text, const calibration_options& options,
                  input_collector& inputs, const runtime& rt);

  /// Does one unit, if there is one left. A unit that throws has not happened.
  bool step();
  [[nodiscard]] bool is_done() const noexcept;
  [[nodiscard]] const progress& so_far() const noexcept { return so_far_; }
  /// About how much of the work is done, 0..1.
  [[nodiscard]] double share_done() const noexcept;
  [[nodiscard]] index_t sounds() const noexcept { return sounds_.size(); }
  [[nodiscard]] index_t text_tokens() const noexcept { return text_tokens_; }

  /// Writes all that step() changed, the collector's state included. To be called between units.
  void save(lowbit::io::safetensors_writer& out);
  void load(const lowbit::io::safetensors_reader& in);

 private:
  /// One network on its way through a unit.
  struct lane {
    const model* net;
    runtime rt;
    decoder_state state = {};
  };

  void hear(const std::filesystem::path& path);
  void hear_window(std::span<const float> samples);
  void listen_to_silence();
  void read(std::span<const token> window);
  void start_silence(bool observed);
  [[nodiscard]] std::vector<lane> lanes(bool observed = true);
  [[nodiscard]] float text_weight(double audio, double text) const;

  networks nets_;
  std::vector<std::filesystem::path> sounds_;
  std::vector<std::vector<token>> windows_;
  index_t text_tokens_ = 0;
  calibration_options options_;
  input_collector& inputs_;
  runtime rt_;
  progress so_far_;
  std::vector<decoder_state> silence_;  // of each network; made when text is first read
};

}  // namespace whisper
