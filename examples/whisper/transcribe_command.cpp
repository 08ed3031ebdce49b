// transcribe_command.cpp: `whisper transcribe MODEL AUDIO...`.
#include <chrono>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../common/peak_memory.hpp"
#include "../common/seconds_since.hpp"
#include "audio.hpp"
#include "commands.hpp"
#include "mel.hpp"
#include "model.hpp"
#include "session.hpp"
#include "transcriber.hpp"

namespace whisper {

namespace {

constexpr int exit_error = 1;

using examples::seconds_since;

constexpr const char* footer = R"help(
MODEL is whisper.cpp's ggml file of an English-only Whisper model, or a checkpoint that
quantize_model made of one:

  whisper transcribe "$(scripts/fetch_data whisper)" speech.wav
  quantize_model quantize "$(scripts/fetch_data whisper)" -o small.safetensors --bits 4 --group-size 64
  whisper transcribe small.safetensors speech.wav

AUDIO is anything that libsndfile reads (WAV, FLAC, Ogg, MP3, ...), of any rate, length and number
of channels. The text goes to stdout as it is decoded, everything else to stderr.

exit status: 0 success, 1 a file failed, 130 interrupted, others: wrong usage)help";

class transcribe_command {
 public:
  transcribe_command(CLI::App& command, int& status) : status_(status) {
    command.add_option("MODEL", model_, "ggml file or quantized checkpoint")->required();
    command.add_option("AUDIO", audio_, "sound files")->required();
    add_session_options(command, session_);
    command
        .add_option(
            "--window", options_.window_seconds,
            "seconds that the encoder sees at a time; less than 30 is faster on short audio")
        ->check(CLI::Range(1, 30))
        ->capture_default_str();
    command.add_option("--max-tokens", options_.most_tokens, "of text in one window")
        ->check(CLI::Range(1, 446))
        ->capture_default_str();
    command.add_flag("--quiet", quiet_, "no summary on stderr");
    command.footer(footer);
  }

  void run() {
    const session running(session_);
    const runtime& rt = running.rt();
    const auto start = std::chrono::steady_clock::now();
    const model_file file(model_);
    const model net(file, session_.load);
    const tokenizer words(file.vocabulary());
    const mel_spectrogram mel(file.mel_filters());
    const double load_seconds = seconds_since(start);

    transcriber transcribe(net, words, mel, options_, rt);
    const std::clock_t cpu_start = std::clock();
    for (const std::string& path : audio_) transcribe_file(path, transcribe);
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
    if (!quiet_) summarize(transcribe.totals(), file, net, rt, {load_seconds, cpu_seconds});
  }

 private:
  /// A file that fails does not keep others from being transcribed.
  void transcribe_file(const std::string& path, transcriber& transcribe) {
    try {
      const std::vector<float> samples = read_audio(path);
      if (audio_.size() > 1) std::printf("%s:", path.c_str());
      bool at_start = audio_.size() == 1;  // a text starts with a blank
      transcribe(samples, [&](std::string_view text) {
        if (at_start && text.starts_with(' ')) text.remove_prefix(1);
        at_start = at_start && text.empty();
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      });
      std::printf("\n");
      std::fflush(stdout);
      if (samples.empty()) std::fprintf(stderr, "whisper: %s holds no sound\n", path.c_str());
    } catch (const lowbit::cancelled_error&) {
      throw;
    } catch (const lowbit::error& e) {
      std::fprintf(stderr, "whisper: error: %s\n", e.what());
      status_ = exit_error;
    }
  }

  struct times {
    double load_seconds;
    double cpu_seconds;  ///< of all threads: tells a slow program from a busy machine
  };

  void summarize(const transcribe_totals& t, const model_file& file, const model& net,
                 const runtime& rt, times took) const {
    const double seconds = t.encode_seconds + t.decode_seconds;
    const auto per_token = [&](std::uint64_t bytes) { return static_cast<double>(bytes) * 1e-6; };
    std::fprintf(stderr, "model: %s, loaded in %.2f s\n", file.describe().c_str(),
                 took.load_seconds);
    std::map<std::string, std::pair<int, std::string>> kernels;  // how: layers, first of them
    net.for_each_linear([&](std::string_view name, const linear& weights) {
      auto& [count, first] = kernels[weights.describe(rt)];
      if (count++ == 0) first = name;
    });
    for (const auto& [how, layers] : kernels) {
      std::fprintf(stderr, "  %d layers (%s%s): %s\n", layers.first, layers.second.c_str(),
                   layers.first > 1 ? ", ..." : "", how.c_str());
    }
    std::fprintf(stderr, "audio: %.1f s in %zu windows", t.audio_seconds, t.windows);
    if (t.silent_windows > 0) std::fprintf(stderr, ", %zu without speech", t.silent_windows);
    if (t.loops > 0) std::fprintf(stderr, ", %zu ended because the text repeated itself", t.loops);
    std::fprintf(stderr, "\n");
    if (t.windows == 0) return;
    std::fprintf(stderr,
                 "time: %.2f s with %u threads (%.2f s of CPU), real-time factor %.3f: encoder "
                 "%.2f s, decoder %.2f s\n",
                 seconds, session_.threads, took.cpu_seconds, seconds / t.audio_seconds,
                 t.encode_seconds, t.decode_seconds);
    std::fprintf(stderr,
                 "decoder: %zu tokens, %.1f tokens/s; each reads %.1f MB of weights and %.1f MB of "
                 "keys and values\n",
                 t.tokens, static_cast<double>(t.tokens) / t.decode_seconds,
                 per_token(net.decoder_bytes()),
                 per_token(t.state_bytes) / static_cast<double>(t.tokens));
    std::fprintf(stderr, "peak memory: %.0f MiB\n", examples::peak_memory_mib());
  }

  std::string model_;
  std::vector<std::string> audio_;
  session_options session_;
  bool quiet_ = false;
  transcribe_options options_;
  int& status_;
};

}  // namespace

void add_transcribe(CLI::App& program, int& status) {
  CLI::App& command =
      *program.add_subcommand("transcribe", "write down what is said in audio files");
  // Lives as long as the callback that calls it.
  auto self = std::make_shared<transcribe_command>(command, status);
  command.callback([self] { self->run(); });
}

}  // namespace whisper
