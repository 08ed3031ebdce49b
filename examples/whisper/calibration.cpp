#include "calibration.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "audio.hpp"
#include "transcriber.hpp"

namespace whisper {

namespace {

constexpr index_t outputs_per_second = mel_spectrogram::frames_per_second / 2;
/// After the end of a sound the encoder still has something to say about it.
constexpr double padding_begins_after = 0.5;
/// Rows are added to the moments when there are so many: fewer would be all memory traffic.
constexpr index_t rows_at_a_time = 256;
constexpr index_t most_tokens_of_sound = 224;

/// The layer whose inputs a layer reads, too: the first of those that share them.
std::string shared_input(std::string_view layer) {
  for (const std::string_view part : {".key", ".value"}) {
    if (!layer.ends_with(part)) continue;
    const std::string_view attention = layer.substr(0, layer.size() - part.size());
    // Cross-attention looks at the encoder's output, which is the same for all blocks.
    if (attention.ends_with(".cross_attn")) return "decoder.blocks.0.cross_attn.key";
    return std::string(attention) + ".query";
  }
  return std::string(layer);
}

}  // namespace

// -- collecting -----------------------------------------------------------------------------------

struct input_collector::input {
  input(index_t k, bool has_second) : channels(k), moments(k) {
    if (has_second) cross.emplace(k);
  }

  std::vector<std::string> layers;
  index_t channels;
  lowbit::observers::moment_accumulator moments;
  std::optional<lowbit::observers::cross_accumulator> cross;

  // Rows that are not in the moments yet; those after `committed` may never get there.
  std::vector<float> rows, second_rows;
  std::vector<float> weights;  // of `rows`
  index_t committed = 0;
};

class input_collector::watcher final : public layer_observer {
 public:
  watcher(input_collector& to, bool is_second) : to_(to), is_second_(is_second) {}
  void saw(std::string_view layer, matrix_view<const float> inputs) override {
    to_.add_rows(layer, is_second_, inputs);
  }

 private:
  input_collector& to_;
  bool is_second_;
};

input_collector::input_collector(const std::vector<watched_layer>& layers, bool has_second,
                                 const lowbit::kernels::context& ctx)
    : ctx_(ctx),
      has_second_(has_second),
      first_(std::make_unique<watcher>(*this, false)),
      second_(std::make_unique<watcher>(*this, true)) {
  for (const watched_layer& l : layers) {
    input*& in = watched_[shared_input(l.name)];
    if (in == nullptr) {
      in = inputs_.emplace_back(std::make_unique<input>(l.channels, has_second)).get();
    }
    in->layers.push_back(l.name);
  }
}
input_collector::~input_collector() = default;

index_t input_collector::layers() const noexcept {
  index_t sum = 0;
  for (const auto& in : inputs_) sum += in->layers.size();
  return sum;
}

layer_observer& input_collector::first() noexcept { return *first_; }
layer_observer& input_collector::second() noexcept { return *second_; }

void input_collector::add_rows(std::string_view layer, bool is_second,
                               matrix_view<const float> rows) {
  const auto found = watched_.find(layer);
  if (found == watched_.end()) return;
  input& in = *found->second;
  LOWBIT_CHECK(rows.cols() == in.channels, shape, "layer ", layer, " sees ", rows.cols(),
               " channels, not ", in.channels);
  std::vector<float>& to = is_second ? in.second_rows : in.rows;
  for (index_t t = 0; t < rows.rows(); ++t) {
    const auto number = static_cast<double>(t);
    const bool is_padding = number >= weighing_.full * static_cast<double>(rows.rows());
    // Padding looks alike: a tenth of its rows tells as much as all of them with a tenth of the
    // weight, at a tenth of the cost.
    if (is_padding &&
        std::floor((number + 1.0) * weighing_.padding) == std::floor(number * weighing_.padding)) {
      continue;
    }
    const auto row = rows.row(t);
    to.insert(to.end(), row.begin(), row.end());
    if (is_second) continue;
    const bool is_start = t == 0 && layer != output_layer;  // no attention rests on logits
    in.weights.push_back(weighing_.weight * (is_start ? weighing_.first : 1.0F));
  }
}

void input_collector::flush(input& in) {
  if (in.weights.empty()) return;
  const auto view = [&](const std::vector<float>& rows) {
    return matrix_view<const float>(rows.data(), in.weights.size(), in.channels);
  };
  if (in.cross) {
    in.moments.add(view(in.second_rows), ctx_, in.weights);
    in.cross->add(view(in.rows), view(in.second_rows), ctx_, in.weights);
  } else {
    in.moments.add(view(in.rows), ctx_, in.weights);
  }
  in.rows.clear();
  in.second_rows.clear();
  in.weights.clear();
  in.committed = 0;
}

void input_collector::commit() {
  for (const auto& in : inputs_) {
    LOWBIT_CHECK(!has_second_ || in->rows.size() == in->second_rows.size(), value, "layer ",
                 in->layers.front(), " saw ", in->rows.size() / in->channels,
                 " rows in one network and ", in->second_rows.size() / in->channels,
                 " in the other");
  }
  for (const auto& in : inputs_) {
    in->committed = in->weights.size();
    if (in->committed >= rows_at_a_time) flush(*in);
  }
}

void input_collector::drop() noexcept {
  for (const auto& in : inputs_) {
    in->rows.resize(in->committed * in->channels);
    if (has_second_) in->second_rows.resize(in->committed * in->channels);
    in->weights.resize(in->committed);
  }
}

/// Calls f(name, accumulator) for all that is saved, once flushed.
template <class F>
void input_collector::for_each_accumulator(F&& f) {
  for (const auto& in : inputs_) {
    f(in->layers.front() + ".moments.", in->moments);
    if (in->cross) f(in->layers.front() + ".cross.", *in->cross);
  }
}

namespace {

template <class T>
constexpr lowbit::element_type type_of = std::is_same_v<T, double>  ? lowbit::element_type::f64
                                         : std::is_same_v<T, float> ? lowbit::element_type::f32
                                                                    : lowbit::element_type::u64;

/// What `save` wrote under this name.
template <class T>
void read_saved(const lowbit::io::safetensors_reader& in, const std::string& name,
                std::span<T> out) {
  const auto* const tensor = in.find(name);
  LOWBIT_CHECK(
      tensor != nullptr && tensor->type == type_of<T> && tensor->bytes.size() == out.size_bytes(),
      format, in.label(), ": '", name, "' is missing or is not what this run saves");
  lowbit::copy_bytes(tensor->bytes, std::as_writable_bytes(out));
}

}  // namespace

void input_collector::save(lowbit::io::safetensors_writer& out) {
  for (const auto& in : inputs_) flush(*in);
  for_each_accumulator([&](const std::string& of, const auto& accumulator) {
    accumulator.save_state([&](std::string_view name, auto values) {
      using T = std::remove_const_t<typename decltype(values)::element_type>;
      out.add(of + std::string(name), type_of<T>, std::array{index_t{values.size()}},
              std::as_bytes(values));
    });
  });
}

void input_collector::load(const lowbit::io::safetensors_reader& in) {
  for_each_accumulator([&](const std::string& of, auto& accumulator) {
    accumulator.restore_state([&](std::string_view name, auto values) {
      read_saved(in, of + std::string(name), values);
    });
  });
}

std::vector<std::string> input_collector::finish(
    const std::function<void(std::span<const std::string>, const lowbit::io::input_statistics&)>&
        f) {
  std::vector<std::string> unseen;
  for (const auto& in : inputs_) {
    flush(*in);
    if (in->moments.rows() == 0) {
      unseen.insert(unseen.end(), in->layers.begin(), in->layers.end());
      continue;
    }
    lowbit::io::input_statistics statistics{.moments = in->moments.finish()};
    if (in->cross) statistics.cross = in->cross->finish();
    f(in->layers, statistics);
  }
  return unseen;
}

// -- what is run ----------------------------------------------------------------------------------

std::vector<std::filesystem::path> find_sound_files(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  constexpr std::array extensions{".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au"};
  std::vector<fs::path> files;
  for (const std::string& name : paths) {
    std::error_code failure;
    const fs::file_status status = fs::status(name, failure);
    LOWBIT_CHECK(fs::exists(status), system, "'", name, "' does not exist");
    if (!fs::is_directory(status)) {
      files.emplace_back(name);
      continue;
    }
    std::vector<fs::path> inside;
    for (const auto& entry : fs::recursive_directory_iterator(name)) {
      const auto is = [&](const char* extension) { return entry.path().extension() == extension; };
      if (entry.is_regular_file() && std::any_of(extensions.begin(), extensions.end(), is)) {
        inside.push_back(entry.path());
      }
    }
    LOWBIT_CHECK(!inside.empty(), value, "there is no sound file in '", name, "'");
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

std::vector<std::filesystem::path> spread(std::vector<std::filesystem::path> files) {
  std::vector<std::filesystem::path> out;
  const index_t n = files.size();
  // Steps of about the golden section meet every place once if they share no factor with n.
  index_t step = std::max<index_t>(n * 618 / 1000, 1);
  while (std::gcd(step, n) > 1) ++step;
  for (index_t i = 0; i < n; ++i) out.push_back(std::move(files[i * step % n]));
  return out;
}

std::vector<std::vector<token>> spread_windows(std::span<const token> text, index_t wanted,
                                               index_t window) {
  wanted = std::min(wanted, text.size());
  const index_t count = lowbit::div_up(wanted, window);
  std::vector<std::vector<token>> windows;
  for (index_t i = 0; i < count; ++i) {
    const index_t size = wanted * (i + 1) / count - wanted * i / count;
    const index_t begin = text.size() * i / count;  // windows do not overlap: text >= wanted
    const auto part = text.subspan(begin, size);
    windows.emplace_back(part.begin(), part.end());
  }
  return windows;
}

std::vector<token> hear_greedily(const tokenizer& words, index_t most,
                                 const std::function<matrix(std::span<const token>)>& decode) {
  std::vector<token> read = prompt_of(words);
  const index_t prompt = read.size();
  most = std::min(most, prompt + most_tokens_of_sound);
  matrix logits = decode(read);
  while (read.size() < most) {
    const token next = choose_greedily(logits.view().row(0), words.special());
    if (next == words.special().end_of_text) break;
    read.push_back(next);
    logits = decode({&read.back(), 1});
    if (is_looping(std::span(read).subspan(prompt))) break;
  }
  return read;
}

calibration_run::calibration_run(const networks& nets, std::vector<std::filesystem::path> sounds,
                                 std::span<const token> text, const calibration_options& options,
                                 input_collector& inputs, const runtime& rt)
    : nets_(nets), sounds_(std::move(sounds)), options_(options), inputs_(inputs), rt_(rt) {
  const index_t longest = nets.original.sizes().audio_context / outputs_per_second;
  options_.window_seconds = std::min(options_.window_seconds, longest);
  const index_t prompt = prompt_of(nets.words).size();
  const index_t most = nets.original.sizes().text_context - prompt;
  windows_ = spread_windows(text, options.text_tokens, std::min(options.text_window, most));
  for (const auto& window : windows_) text_tokens_ += window.size();
  LOWBIT_CHECK(!sounds_.empty() || !windows_.empty(), value,
               "there is no text and no sound to calibrate with");
}

bool calibration_run::is_done() const noexcept {
  return so_far_.units == sounds_.size() + (windows_.empty() ? 0 : 1 + windows_.size());
}

double calibration_run::share_done() const noexcept {
  // A sound of one window costs about as much as 600 tokens of text.
  constexpr double cost_of_sound = 600.0;
  const auto heard = static_cast<double>(so_far_.sounds);
  double sounds = heard;
  if (so_far_.units < sounds_.size()) {
    sounds = static_cast<double>(sounds_.size());
    if (options_.audio_seconds > 0.0) {
      const double length = heard > 0.0 ? so_far_.audio_seconds / heard : 3.0;
      sounds = std::min(sounds, std::ceil(options_.audio_seconds / length));
    }
  }
  const double all = cost_of_sound * sounds + static_cast<double>(text_tokens_);
  return (cost_of_sound * std::min(heard, sounds) + static_cast<double>(so_far_.text_tokens)) /
         std::max(all, 1.0);
}

bool calibration_run::step() {
  if (is_done()) return false;
  const progress before = so_far_;
  try {
    const index_t unit = so_far_.units;
    if (unit < sounds_.size()) {
      const bool enough =
          options_.audio_seconds > 0.0 && so_far_.audio_seconds >= options_.audio_seconds;
      if (!enough) hear(sounds_[unit]);
    } else if (unit == sounds_.size()) {
      listen_to_silence();
    } else {
      read(windows_[unit - sounds_.size() - 1]);
    }
    so_far_.units += 1;
    inputs_.commit();
  } catch (...) {
    inputs_.drop();
    so_far_ = before;
    throw;
  }
  return true;
}

std::vector<calibration_run::lane> calibration_run::lanes(bool observed) {
  std::vector<lane> all;
  all.push_back({&nets_.original, rt_});
  all.back().rt.observer = observed ? &inputs_.first() : nullptr;
  if (nets_.distorted != nullptr) {
    all.push_back({nets_.distorted, rt_});
    all.back().rt.observer = observed ? &inputs_.second() : nullptr;
  }
  return all;
}

void calibration_run::hear(const std::filesystem::path& path) {
  const std::vector<float> samples = read_audio(path);
  if (samples.empty()) return;
  index_t begin = 0;
  for (const index_t end : window_ends(samples, options_.window_seconds * sample_rate)) {
    hear_window(std::span(samples).subspan(begin, end - begin));
    begin = end;
  }
  so_far_.sounds += 1;
}

void calibration_run::hear_window(std::span<const float> samples) {
  const matrix mel = nets_.mel(samples, options_.window_seconds);
  const double seconds = static_cast<double>(samples.size()) / sample_rate;
  const double full = std::min(
      1.0, (seconds + padding_begins_after) / static_cast<double>(options_.window_seconds));
  inputs_.weigh({.full = full, .padding = options_.padding});
  std::vector<lane> nets = lanes();
  for (lane& l : nets) {
    const matrix audio = l.net->encode(mel.view(), l.rt);
    l.state = l.net->start(audio.view(), l.rt);
  }
  so_far_.audio_seconds += seconds;
  so_far_.audio_rows += static_cast<index_t>(
      full * static_cast<double>(options_.window_seconds * outputs_per_second));

  // The decoder reads what the original network hears.
  inputs_.weigh({.first = options_.start_weight});
  const std::vector<token> tokens = hear_greedily(
      nets_.words, nets_.original.sizes().text_context, [&](std::span<const token> next) {
        matrix logits = nets.front().net->decode(nets.front().state, next, 1, nets.front().rt);
        for (lane& l : std::span(nets).subspan(1)) {
          static_cast<void>(l.net->decode(l.state, next, 1, l.rt));
        }
        inputs_.weigh({});
        return logits;
      });
  so_far_.audio_windows += 1;
  so_far_.audio_tokens += tokens.size();
}

/// The weight of a row of text, so that text has the rest of what sound has a share of.
float calibration_run::text_weight(double audio, double text) const {
  if (!options_.audio_share || audio == 0.0) return 1.0F;
  const double share = *options_.audio_share;
  return static_cast<float>(audio * (1.0 - share) / (share * text));
}

/// What the keys and values of cross-attention see beside text: silence, once for every window.
void calibration_run::listen_to_silence() {
  const auto rows = static_cast<double>(nets_.original.sizes().audio_context);
  inputs_.weigh({.weight = options_.audio_share && so_far_.audio_rows > 0
                               ? text_weight(static_cast<double>(so_far_.audio_rows), rows)
                               : static_cast<float>(windows_.size())});
  start_silence(true);
}

void calibration_run::start_silence(bool observed) {
  silence_.clear();
  const index_t seconds = nets_.original.sizes().audio_context / outputs_per_second;
  const matrix mel = nets_.mel(std::vector<float>(seconds * sample_rate, 0.0F), seconds);
  for (lane& l : lanes()) {
    layer_observer* const observer = observed ? l.rt.observer : nullptr;
    l.rt.observer = nullptr;  // what the encoder makes of silence is no example of its work
    const matrix audio = l.net->encode(mel.view(), l.rt);
    l.rt.observer = observer;
    silence_.push_back(l.net->start(audio.view(), l.rt));
  }
}

void calibration_run::read(std::span<const token> window) {
  if (silence_.empty()) start_silence(false);
  std::vector<token> tokens = prompt_of(nets_.words);
  const index_t prompt = tokens.size();
  tokens.insert(tokens.end(), window.begin(), window.end());
  // The weight of so many rows in so many windows.
  const auto weight_of = [&](index_t rows, index_t windows) {
    const double more = static_cast<double>(options_.start_weight) - 1.0;
    return static_cast<double>(rows) + more * static_cast<double>(windows);
  };
  inputs_.weigh(
      {.weight = text_weight(weight_of(so_far_.audio_tokens, so_far_.audio_windows),
                             weight_of(text_tokens_ + prompt * windows_.size(), windows_.size())),
       .first = options_.start_weight});
  std::vector<lane> nets = lanes();
  for (index_t i = 0; i < nets.size(); ++i) {
    decoder_state& state = silence_[i];
    state.restart();
    // Logits of the prompt's first token are never asked for.
    static_cast<void>(nets[i].net->decode(state, tokens, tokens.size() - 1, nets[i].rt));
  }
  so_far_.text_tokens += window.size();
}

namespace {

/// Everything in calibration_run::progress, by name.
template <class Progress, class F>
void for_each_count(Progress& p, F&& f) {
  f("run.units", p.units);
  f("run.sounds", p.sounds);
  f("run.audio_seconds", p.audio_seconds);
  f("run.audio_windows", p.audio_windows);
  f("run.audio_tokens", p.audio_tokens);
  f("run.audio_rows", p.audio_rows);
  f("run.text_tokens", p.text_tokens);
}

}  // namespace

void calibration_run::save(lowbit::io::safetensors_writer& out) {
  for_each_count(so_far_, [&](const char* name, auto& value) {
    using T = std::remove_cvref_t<decltype(value)>;
    out.add(name, type_of<T>, {}, std::as_bytes(std::span(&value, 1)));
  });
  inputs_.save(out);
}

void calibration_run::load(const lowbit::io::safetensors_reader& in) {
  for_each_count(
      so_far_, [&](const char* name, auto& value) { read_saved(in, name, std::span(&value, 1)); });
  LOWBIT_CHECK(so_far_.units <= sounds_.size() + (windows_.empty() ? 0 : 1 + windows_.size()),
               format, in.label(), ": ", so_far_.units, " units are done, more than there are");
  inputs_.load(in);
}

}  // namespace whisper
