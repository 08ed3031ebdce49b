// benchmark_command.cpp: `whisper benchmark MODEL...`: how fast models are, beside the float paths.
//
// All models are loaded at once and take turns, round by round, so that a busy or throttled machine
// slows all of them alike; medians over rounds are reported, and ratios to f32 are medians of the
// ratios within a round. With one thread time is CPU time.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "audio.hpp"
#include "commands.hpp"
#include "mel.hpp"
#include "model.hpp"
#include "progress_line.hpp"
#include "session.hpp"
#include "transcriber.hpp"

namespace whisper {

namespace {

constexpr index_t window_seconds = 30;

/// What is decoded, again and again from its begin.
constexpr std::string_view text =
    " Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in"
    " my purse, and nothing particular to interest me on shore, I thought I would sail about a"
    " little and see the watery part of the world. It is a way I have of driving off the spleen and"
    " regulating the circulation. Whenever I find myself growing grim about the mouth; whenever it"
    " is a damp, drizzly November in my soul, I account it high time to get to sea as soon as I"
    " can.";

/// One path through the network and what was measured of it.
struct contender {
  std::string name;
  std::unique_ptr<model> net;
  matrix audio = {};         ///< its encoder's output
  decoder_state state = {};  ///< after a text
  std::uint64_t read = 0;    ///< keys and values, by all tokens of a text
  std::vector<double> encode = {}, prepare = {}, decode = {};  ///< seconds, round by round
};

[[nodiscard]] double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// How many times faster than the base, round by round.
[[nodiscard]] double speedup(const std::vector<double>& base, const std::vector<double>& own) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < own.size(); ++i) ratios.push_back(base[i] / own[i]);
  return median(std::move(ratios));
}

class benchmark_command {
 public:
  explicit benchmark_command(CLI::App& command) {
    command.add_option("MODEL", models_, "ggml files or quantized checkpoints")->required();
    command.add_option("--audio", audio_,
                       "sound file to encode (its first 30 s); default: silence");
    command.add_option("--rounds", rounds_, "how often everything is measured")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command.add_option("--encoder-rounds", encoder_rounds_, "of these, how many run encoders")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command.add_option("--json", json_, "write the figures to this file");
    command.add_flag(
        "!--no-floats", has_floats_,
        "only the models given, without the f32 and f16 paths of the first one that is "
        "not quantized");
    add_session_options(command, session_);
  }

  void run() {
    const session running(session_);
    const runtime& rt = running.rt();
    load();
    const matrix mel = spectrogram();
    const std::vector<token> tokens = words_->encode(text);
    progress_line progress("rounds of models",
                           static_cast<std::size_t>(rounds_) * contenders_.size());
    for (int round = 0; round < rounds_; ++round) {
      for (contender& c : contenders_) {
        if (round < std::min(encoder_rounds_, rounds_)) measure_encoder(c, mel, rt);
        measure_decoder(c, tokens, rt);
        progress.step();
      }
    }
    print(tokens.size());
    if (!json_.empty()) write_json(tokens.size());
  }

 private:
  void load() {
    for (const std::string& path : models_) {
      const model_file file(path);
      if (words_ == nullptr) {
        words_ = std::make_unique<tokenizer>(file.vocabulary());
        mel_ = std::make_unique<mel_spectrogram>(file.mel_filters());
      }
      const std::string name = std::filesystem::path(path).filename().string();
      const bool is_float = file.describe().starts_with("ggml");
      if (is_float && has_floats_) {
        has_floats_ = false;
        load_options options = session_.load;
        options.dense = dense_storage::f32;
        contenders_.insert(contenders_.begin(),
                           {.name = "f32", .net = std::make_unique<model>(file, options)});
        options.dense = dense_storage::f16;
        contenders_.insert(contenders_.begin() + 1,
                           {.name = "f16", .net = std::make_unique<model>(file, options)});
      } else {
        contenders_.push_back({.name = name, .net = std::make_unique<model>(file, session_.load)});
      }
    }
    for (const contender& c : contenders_) {
      const model_sizes& own = c.net->sizes();
      LOWBIT_CHECK(own == contenders_[0].net->sizes(), value, c.name, " and ", contenders_[0].name,
                   " are models of different sizes");
    }
  }

  [[nodiscard]] matrix spectrogram() const {
    std::vector<float> samples;
    if (!audio_.empty()) samples = read_audio(audio_);
    samples.resize(std::min(samples.size(), window_seconds * sample_rate));
    return (*mel_)(samples, window_seconds);
  }

  /// CPU time of one thread; of several, time.
  [[nodiscard]] double now() const {
    if (session_.threads == 1) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  void measure_encoder(contender& c, const matrix& mel, const runtime& rt) const {
    double start = now();
    c.audio = c.net->encode(mel.view(), rt);
    c.encode.push_back(now() - start);
    start = now();
    c.state = c.net->start(c.audio.view(), rt);
    c.prepare.push_back(now() - start);
  }

  /// Greedy sampling, but for that the text is given.
  void measure_decoder(contender& c, const std::vector<token>& tokens, const runtime& rt) const {
    const special_tokens& special = words_->special();
    c.state.restart();
    const std::array prompt{special.start_of_transcript, special.no_timestamps};
    matrix logits = c.net->decode(c.state, prompt, 1, rt);
    c.read = 0;
    token sum = 0;
    const double start = now();
    for (const token next : tokens) {
      logits = c.net->decode(c.state, {&next, 1}, 1, rt);
      sum += choose_greedily(logits.view().row(0), special);
      c.read += c.state.bytes();
    }
    c.decode.push_back(now() - start);
    LOWBIT_CHECK(sum != 0, value, "nothing but '!' was likely");
  }

  struct figures {
    double tokens_per_second, decode_speedup, megabytes_of_weights, megabytes_of_state;
    double encode_seconds, encode_speedup, prepare_seconds;
  };
  [[nodiscard]] figures figures_of(const contender& c, std::size_t tokens) const {
    const contender& base = contenders_[0];
    const auto count = static_cast<double>(tokens);
    return {.tokens_per_second = count / median(c.decode),
            .decode_speedup = speedup(base.decode, c.decode),
            .megabytes_of_weights = 1e-6 * static_cast<double>(c.net->decoder_bytes()),
            .megabytes_of_state = 1e-6 * static_cast<double>(c.read) / count,
            .encode_seconds = median(c.encode),
            .encode_speedup = speedup(base.encode, c.encode),
            .prepare_seconds = median(c.prepare)};
  }

  void print(std::size_t tokens) const {
    std::printf("%zu tokens, %d rounds; encoder: %zu s of audio, %d rounds; %s of %u thread%s\n",
                tokens, rounds_, static_cast<std::size_t>(window_seconds),
                std::min(encoder_rounds_, rounds_), session_.threads == 1 ? "CPU time" : "time",
                session_.threads, session_.threads == 1 ? "" : "s");
    std::printf("%-28s %9s %7s %10s %9s %10s %7s %10s\n", "", "tokens/s",
                ("x " + contenders_[0].name).substr(0, 7).c_str(), "weights MB", "cache MB",
                "encoder s", "x", "prepare s");
    for (const contender& c : contenders_) {
      const figures f = figures_of(c, tokens);
      std::printf("%-28s %9.1f %7.2f %10.1f %9.1f %10.3f %7.2f %10.3f\n", c.name.c_str(),
                  f.tokens_per_second, f.decode_speedup, f.megabytes_of_weights,
                  f.megabytes_of_state, f.encode_seconds, f.encode_speedup, f.prepare_seconds);
    }
  }

  void write_json(std::size_t tokens) const {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const contender& c : contenders_) {
      const figures f = figures_of(c, tokens);
      rows.push_back({{"name", c.name},
                      {"tokens_per_second", f.tokens_per_second},
                      {"decode_speedup", f.decode_speedup},
                      {"megabytes_of_weights", f.megabytes_of_weights},
                      {"megabytes_of_state", f.megabytes_of_state},
                      {"encode_seconds", f.encode_seconds},
                      {"encode_speedup", f.encode_speedup},
                      {"prepare_seconds", f.prepare_seconds}});
    }
    std::ofstream out(json_);
    out << nlohmann::ordered_json{{"tokens", tokens},
                                  {"rounds", rounds_},
                                  {"threads", session_.threads},
                                  {"models", rows}}
               .dump(2)
        << '\n';
    LOWBIT_CHECK(out.good(), system, "cannot write ", json_);
  }

  std::vector<std::string> models_;
  std::string audio_, json_;
  int rounds_ = 11;
  int encoder_rounds_ = 5;
  bool has_floats_ = true;
  session_options session_;
  std::unique_ptr<tokenizer> words_;
  std::unique_ptr<mel_spectrogram> mel_;
  std::vector<contender> contenders_;
};

}  // namespace

void add_benchmark(CLI::App& program) {
  CLI::App& command = *program.add_subcommand(
      "benchmark", "how fast models are on this machine, beside f32 and f16 weights");
  auto self = std::make_shared<benchmark_command>(command);
  command.callback([self] { self->run(); });
}

}  // namespace whisper
