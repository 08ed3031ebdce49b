// whisper: a speech recogniser on lowbit's public headers.
//
//   whisper transcribe MODEL AUDIO...
#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "../common/peak_memory.hpp"
#include "../common/thread_pool.hpp"
#include "audio.hpp"
#include "lowbit/executors/thread_pool.hpp"
#include "lowbit/version.hpp"
#include "mel.hpp"
#include "model.hpp"
#include "transcriber.hpp"

namespace {

constexpr int exit_error = 1;
constexpr int exit_interrupted = 130;  // what shells report for Ctrl-C

/// Set by Ctrl-C (SIGINT) or SIGTERM; the network looks at it between layers.
std::atomic<int> stop_signal{0};

void install_stop_handler() {
  static_assert(std::atomic<int>::is_always_lock_free, "must be usable in a signal handler");
  const auto handler = [](int signal) {
    stop_signal = signal;
    std::signal(signal, SIG_DFL);  // a second Ctrl-C ends the program at once
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

constexpr const char* footer = R"help(
MODEL is whisper.cpp's ggml file of an English-only Whisper model, or a checkpoint that
quantize_model made of one:

  whisper transcribe "$(scripts/fetch_data whisper)" speech.wav
  quantize_model quantize "$(scripts/fetch_data whisper)" -o small.safetensors --bits 4 --group-size 64
  whisper transcribe small.safetensors speech.wav

AUDIO is anything that libsndfile reads (WAV, FLAC, Ogg, MP3, ...), of any rate, length and number
of channels. The text goes to stdout as it is decoded, everything else to stderr.

exit status: 0 success, 1 a file failed, 130 interrupted, others: wrong usage)help";

class app {
 public:
  int run(int argc, const char* const* argv) {
    CLI::App cli{"Speech recognition with Whisper on 1- to 8-bit weights.", "whisper"};
    cli.require_subcommand(1);
    cli.set_version_flag("--version", LOWBIT_VERSION_STRING);
    add_transcribe(*cli.add_subcommand("transcribe", "write down what is said in audio files"));
    try {
      cli.parse(argc, argv);
      return status_;
    } catch (const CLI::ParseError& e) {
      return cli.exit(e);
    } catch (const lowbit::cancelled_error&) {
      std::fprintf(stderr, "\nwhisper: interrupted\n");
      return exit_interrupted;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "whisper: error: %s\n", e.what());
      return exit_error;
    }
  }

 private:
  void add_transcribe(CLI::App& command) {
    command.add_option("MODEL", model_, "ggml file or quantized checkpoint")->required();
    command.add_option("AUDIO", audio_, "sound files")->required();
    command.add_option("--threads", threads_, "how many run at the same time")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    const std::map<std::string, whisper::dense_storage> dense{{"f16", whisper::dense_storage::f16},
                                                              {"f32", whisper::dense_storage::f32}};
    command
        .add_option("--float-weights", load_.dense,
                    "how weights that are not quantized are kept: f16 (half the memory), f32")
        ->transform(CLI::CheckedTransformer(dense).description("{f16,f32}"));
    const std::map<std::string, whisper::activation_mode> activations{
        {"int8", whisper::activation_mode::int8}, {"float", whisper::activation_mode::floats}};
    command
        .add_option("--activations", load_.activations,
                    "inputs of quantized layers: int8 (fast), float (exact)")
        ->transform(CLI::CheckedTransformer(activations).description("{int8,float}"));
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
    command.callback([this] { transcribe(); });
  }

  void transcribe() {
    install_stop_handler();
    const auto start = std::chrono::steady_clock::now();
    const whisper::model_file file(model_);
    const whisper::model net(file, load_);
    const whisper::tokenizer words(file.vocabulary());
    const whisper::mel_spectrogram mel(file.mel_filters());
    const double load_seconds = seconds_since(start);

    examples::thread_pool pool(threads_ - 1);
    lowbit::executors::thread_pool_executor executor([&](auto job) { pool.submit(job); }, threads_);
    lowbit::kernels::workspace scratch;
    whisper::runtime rt{.ctx = lowbit::kernels::context::best(),
                        .check = [] { LOWBIT_CHECK(stop_signal == 0, cancelled, "interrupted"); }};
    rt.ctx.scratch = &scratch;
    if (threads_ > 1) rt.ctx.threads = &executor;
    rt.floats = &whisper::load_float_kernels(rt.ctx.allowed);

    whisper::transcriber transcriber(net, words, mel, options_, rt);
    const std::clock_t cpu_start = std::clock();
    for (const std::string& path : audio_) transcribe_file(path, transcriber);
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
    if (!quiet_) summarize(transcriber.totals(), file, net, rt, {load_seconds, cpu_seconds});
  }

  /// A file that fails does not keep others from being transcribed.
  void transcribe_file(const std::string& path, whisper::transcriber& transcriber) {
    try {
      const std::vector<float> samples = whisper::read_audio(path);
      if (audio_.size() > 1) std::printf("%s:", path.c_str());
      bool at_start = audio_.size() == 1;  // a text starts with a blank
      transcriber(samples, [&](std::string_view text) {
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

  void summarize(const whisper::transcribe_totals& t, const whisper::model_file& file,
                 const whisper::model& net, const whisper::runtime& rt, times took) const {
    const double seconds = t.encode_seconds + t.decode_seconds;
    const auto per_token = [&](std::uint64_t bytes) { return static_cast<double>(bytes) * 1e-6; };
    std::fprintf(stderr, "model: %s, loaded in %.2f s\n", file.describe().c_str(),
                 took.load_seconds);
    std::map<std::string, std::pair<int, std::string>> kernels;  // how: layers, first of them
    net.for_each_linear([&](std::string_view name, const whisper::linear& weights) {
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
                 seconds, threads_, took.cpu_seconds, seconds / t.audio_seconds, t.encode_seconds,
                 t.decode_seconds);
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
  unsigned threads_ = 1;
  bool quiet_ = false;
  whisper::load_options load_;
  whisper::transcribe_options options_;
  int status_ = 0;
};

}  // namespace

int main(int argc, char** argv) { return app{}.run(argc, argv); }
