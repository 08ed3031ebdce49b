// calibrate_command.cpp: `whisper calibrate MODEL -o CALIB`.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "../common/peak_memory.hpp"
#include "../common/seconds_since.hpp"
#include "calibration.hpp"
#include "commands.hpp"
#include "evaluation.hpp"
#include "lowbit/io/checksum.hpp"
#include "lowbit/version.hpp"
#include "progress_line.hpp"
#include "sensitivity.hpp"
#include "session.hpp"

namespace whisper {

namespace {

using clock = std::chrono::steady_clock;

using examples::seconds_since;

/// The state is saved when this much time has passed since the last time, and when the run is
/// interrupted.
constexpr double seconds_between_saves = 120.0;

constexpr const char* footer = R"help(
MODEL is a Whisper model with float weights. Its layers' inputs are watched while it reads text (over
the encoder's output of silence) and hears speech (the decoder reads what the model itself hears):

  text=$(scripts/fetch_data moby-dick)
  whisper calibrate "$(scripts/fetch_data whisper)" -o base.calibration --text "$text" \
    --text-bytes 900000 --audio /usr/share/asterisk/sounds --audio-seconds 300
  quantize_model quantize "$(scripts/fetch_data whisper)" -o small.safetensors --format sbvr \
    --feedback gptq --calibrate base.calibration

Layers of the encoder need sound. An interrupted run leaves CALIB.partial and goes on from there when
it is started again with the same options.

exit status: 0 success, 1 an error, 130 interrupted, others: wrong usage)help";

constexpr std::string_view sensitivity_key = "sensitivity_of";

/// Whatever changes the result, by name: a saved state is of use to the same options only.
using fingerprint = std::vector<std::pair<std::string, std::string>>;

class calibrate_command {
 public:
  explicit calibrate_command(CLI::App& command) {
    command.add_option("MODEL", model_, "ggml file, or checkpoint with float weights")->required();
    command.add_option("-o,--output", output_, "calibration file to write")->required();
    command.add_option("--text", texts_, "UTF-8 text files; repeat it");
    command
        .add_option("--text-bytes", text_bytes_, "read no more than so much of each text; 0: all")
        ->capture_default_str();
    command
        .add_option("--text-tokens", options_.text_tokens,
                    "use no more than so many tokens, in windows spread over the texts")
        ->capture_default_str();
    command.add_option("--text-window", options_.text_window, "tokens read at a time")
        ->check(CLI::Range(1, 446))
        ->capture_default_str();
    command
        .add_option("--start-weight", options_.start_weight,
                    "what the first token of a text or a sound counts for: all others look at it")
        ->check(CLI::Range(0.0F, 1e4F))
        ->capture_default_str();
    command.add_flag("--keep-lines", keep_lines_,
                     "white space as it stands; without it, each run of it is one blank");
    command.add_option("--audio", audio_, "sound files, and folders of them; repeat it");
    command
        .add_option("--audio-part", part_,
                    "of the sound files, in the order of their names, the first being number 0")
        ->check(CLI::IsMember({"all", "even", "odd"}))
        ->capture_default_str();
    command
        .add_option("--audio-seconds", options_.audio_seconds,
                    "use no more than so much sound; 0: all")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    command
        .add_option("--audio-share", share_,
                    "what sound counts for, 0 to 1 (default: every row of inputs counts 1)")
        ->check(CLI::Range(0.01, 0.99));
    command
        .add_option("--window", options_.window_seconds,
                    "seconds of sound that the encoder sees at a time")
        ->check(CLI::Range(1, 30))
        ->capture_default_str();
    command
        .add_option("--padding", options_.padding,
                    "share of the encoder's rows after the end of a sound that count")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    command.add_option("--layers", layers_, "only layers whose name matches this regex")
        ->capture_default_str();
    command.add_option("--distorted-by", distorted_,
                       "a checkpoint quantized from MODEL: moments of what its layers see, and of "
                       "that with what MODEL's see");
    command.add_option(
        "--sensitivity-of", sensitivity_of_,
        "also measure what an error of each layer costs, by putting the weights of "
        "this checkpoint into MODEL, one layer at a time; with a CALIB that is there, "
        "made with the same options, only that is done");
    command.add_option("--sensitivity-tokens", probe_.text_tokens, "of text, to measure that with")
        ->capture_default_str();
    command.add_option("--sensitivity-sounds", probe_.sounds, "sound files, to measure that with")
        ->capture_default_str();
    add_session_options(command, session_);
    command.footer(footer);
  }

  void run() {
    const auto start = clock::now();
    const session running(session_);
    const model_file file(model_);
    model net(file, session_.load);
    const tokenizer words(file.vocabulary());
    const mel_spectrogram mel(file.mel_filters());
    std::unique_ptr<const model> distorted;
    if (!distorted_.empty()) {
      distorted = std::make_unique<model>(model_file(distorted_), session_.load);
    }
    const std::vector<token> text = read_texts(words);
    std::vector<std::filesystem::path> sounds = choose_sounds();
    if (share_ > 0.0) options_.audio_share = share_;
    const fingerprint options = describe_options(sounds);
    if (is_made_of(options)) {
      std::fprintf(stderr, "%s is there already, made with the same options\n", output_.c_str());
    } else {
      collect({net, distorted.get(), words, mel}, sounds, text, options, running.rt());
    }
    if (!sensitivity_of_.empty()) {
      probe_.text_window = options_.text_window;
      sensitivity_probe probe(net, words, mel, sounds, text, probe_, running.rt());
      add_sensitivities(probe, net, running.rt());
    }
    std::fprintf(stderr, "%s: %.1f MB; %.1f s with %u threads, peak memory %.0f MiB\n",
                 output_.c_str(), static_cast<double>(std::filesystem::file_size(output_)) * 1e-6,
                 seconds_since(start), session_.threads, examples::peak_memory_mib());
  }

 private:
  /// Whether the output is there, made with the same options.
  [[nodiscard]] bool is_made_of(const fingerprint& options) const {
    if (!std::filesystem::exists(output_)) return false;
    const auto file = lowbit::io::safetensors_reader::open(output_);
    LOWBIT_CHECK(lowbit::io::calibration_reader::recognizes(file), value, "'", output_,
                 "' is there and is no calibration file: it is not replaced");
    const auto made_of = lowbit::io::calibration_reader::open(output_).provenance();
    return std::all_of(options.begin(), options.end(), [&](const auto& option) {
      const auto found = made_of.find(option.first);
      return found != made_of.end() && found->second == option.second;
    });
  }

  /// Streams everything and writes the statistics.
  void collect(const calibration_run::networks& nets,
               const std::vector<std::filesystem::path>& sounds, std::span<const token> text,
               const fingerprint& options, const runtime& rt) const {
    input_collector inputs(choose_layers(nets.original), nets.distorted != nullptr, rt.ctx);
    calibration_run calibrating(nets, sounds, text, options_, inputs, rt);

    const std::filesystem::path partial = output_ + ".partial";
    if (std::filesystem::exists(partial)) {
      load_partial(partial, options, calibrating);
      std::fprintf(stderr, "going on from %s: %.0f %% done\n", partial.c_str(),
                   100.0 * calibrating.share_done());
    }
    try {
      stream(calibrating, partial, options);
      lowbit::io::calibration_writer out(output_);
      for (const auto& [key, value] : options) out.set_provenance(key, value);
      write(inputs, out);
      out.finish();
    } catch (const lowbit::cancelled_error&) {
      std::fprintf(stderr, "\nsaving what is done so far ...");
      save_partial(partial, options, calibrating);
      std::fprintf(stderr, " start again with the same options to go on\n");
      throw;
    }
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    const calibration_run::progress& p = calibrating.so_far();
    std::fprintf(stderr, "%zu sounds of %.1f s with %zu tokens, %zu tokens of text\n", p.sounds,
                 p.audio_seconds, p.audio_tokens, p.text_tokens);
  }

  // -- input
  // ---------------------------------------------------------------------------------------

  [[nodiscard]] std::string read_text(const std::string& path) const {
    const lowbit::io::mapped_file file(path);
    std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    if (text_bytes_ != 0 && text.size() > text_bytes_) {  // cut between words
      const std::size_t cut = text.find_last_of(" \n", text_bytes_);
      text = text.substr(0, cut == std::string::npos ? text_bytes_ : cut);
    }
    return keep_lines_ ? std::string(text) : one_line(text);
  }

  [[nodiscard]] std::vector<token> read_texts(const tokenizer& words) const {
    std::vector<token> tokens;
    for (const std::string& path : texts_) {
      const std::vector<token> more = words.encode(read_text(path));
      tokens.insert(tokens.end(), more.begin(), more.end());
    }
    return tokens;
  }

  [[nodiscard]] std::vector<std::filesystem::path> choose_sounds() const {
    std::vector<std::filesystem::path> files = find_sound_files(audio_);
    if (part_ == "all") return spread(std::move(files));
    std::vector<std::filesystem::path> chosen;
    for (std::size_t i = part_ == "odd" ? 1 : 0; i < files.size(); i += 2) {
      chosen.push_back(files[i]);
    }
    return spread(std::move(chosen));
  }

  [[nodiscard]] std::vector<input_collector::watched_layer> choose_layers(const model& net) const {
    std::vector<input_collector::watched_layer> chosen;
    try {
      const std::regex wanted(layers_);
      net.for_each_linear([&](std::string_view name, const linear& weights) {
        if (std::regex_search(std::string(name), wanted)) {
          chosen.push_back({std::string(name), weights.shape().cols});
        }
      });
    } catch (const std::regex_error& e) {
      LOWBIT_CHECK(false, value, "--layers '", layers_, "' is no regular expression: ", e.what());
    }
    LOWBIT_CHECK(!chosen.empty(), value, "no layer's name matches --layers '", layers_, "'");
    return chosen;
  }

  /// A file's name and checksum.
  [[nodiscard]] static std::string name_of(const std::string& path) {
    return std::filesystem::path(path).filename().string() + " " +
           lowbit::io::checksum_text(lowbit::io::checksum(lowbit::io::mapped_file(path).bytes()));
  }

  [[nodiscard]] fingerprint describe_options(
      const std::vector<std::filesystem::path>& sounds) const {
    using lowbit::detail::message;
    fingerprint all;
    all.emplace_back("tool", "whisper calibrate " LOWBIT_VERSION_STRING);
    all.emplace_back("model", name_of(model_));
    if (!distorted_.empty()) all.emplace_back("distorted_by", name_of(distorted_));
    std::string texts;
    for (const std::string& path : texts_) texts += name_of(path) + "; ";
    all.emplace_back("text",
                     texts + message(text_bytes_, " bytes, ", options_.text_tokens,
                                     " tokens in windows of ", options_.text_window, ", start ",
                                     options_.start_weight, keep_lines_ ? ", lines kept" : ""));
    std::string names;
    for (const auto& path : sounds) {
      names += message(path.native(), " ", std::filesystem::file_size(path), "\n");
    }
    all.emplace_back(
        "audio",
        message(sounds.size(), " files ",
                lowbit::io::checksum_text(lowbit::io::checksum(std::as_bytes(std::span(names)))),
                ", ", options_.audio_seconds, " s in windows of ", options_.window_seconds,
                ", share ", share_, ", padding ", options_.padding));
    all.emplace_back("layers", layers_);
    all.emplace_back("weights", message(static_cast<int>(session_.load.dense), " ",
                                        static_cast<int>(session_.load.activations)));
    return all;
  }

  // -- the state of an interrupted run
  // -------------------------------------------------------------

  static void save_partial(const std::filesystem::path& path, const fingerprint& options,
                           calibration_run& run) {
    lowbit::io::safetensors_writer out(path);
    for (const auto& [key, value] : options) out.set_metadata(key, value);
    run.save(out);
    out.finish();
  }

  static void load_partial(const std::filesystem::path& path, const fingerprint& options,
                           calibration_run& run) {
    const auto in = lowbit::io::safetensors_reader::open(path);
    for (const auto& [key, value] : options) {
      const auto found = in.metadata().find(key);
      LOWBIT_CHECK(found != in.metadata().end() && found->second == value, value, "'",
                   path.native(), "' is of a run with other options (", key, ": '",
                   found == in.metadata().end() ? "" : found->second, "', now '", value,
                   "'): use those, or remove the file to start anew");
    }
    LOWBIT_CHECK(in.metadata().size() == options.size(), value, "'", path.native(),
                 "' is of a run with other options: use those, or remove the file to start anew");
    run.load(in);
  }

  // -- the run
  // -------------------------------------------------------------------------------------

  static void stream(calibration_run& run, const std::filesystem::path& partial,
                     const fingerprint& options) {
    const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
    const double seconds_between_lines = is_terminal ? 0.5 : 10.0;
    const auto start = clock::now();
    const double share_at_start = run.share_done();
    auto saved = start;
    auto shown = start;
    while (run.step()) {
      if (seconds_since(saved) > seconds_between_saves && !run.is_done()) {
        save_partial(partial, options, run);
        saved = clock::now();
      }
      if (seconds_since(shown) < seconds_between_lines && !run.is_done()) continue;
      shown = clock::now();
      const double elapsed = seconds_since(start);
      const double done = run.share_done() - share_at_start;
      const double left = done > 0.0 ? elapsed * (1.0 - run.share_done()) / done : 0.0;
      const calibration_run::progress& p = run.so_far();
      std::fprintf(stderr,
                   "%ssound: %.0f s, %zu tokens; text: %zu of %zu tokens; %.0f s, %.0f s left%s",
                   is_terminal ? "\r\033[K" : "", p.audio_seconds, p.audio_tokens, p.text_tokens,
                   run.text_tokens(), elapsed, left, is_terminal && !run.is_done() ? "" : "\n");
    }
  }

  static void write(input_collector& inputs, lowbit::io::calibration_writer& out) {
    const auto unseen = inputs.finish(
        [&](std::span<const std::string> layers, const lowbit::io::input_statistics& known) {
          out.add(layers, known.moments, known.cross_moments());
        });
    if (unseen.empty()) return;
    std::fprintf(stderr,
                 "left out: %zu layers (%s%s) that no input reached: the encoder needs --audio\n",
                 unseen.size(), unseen.front().c_str(), unseen.size() > 1 ? ", ..." : "");
  }

  /// Adds the sensitivity of every layer that the checkpoint has quantized to the output.
  void add_sensitivities(sensitivity_probe& probe, const model& net, const runtime& rt) const {
    const model_file quantized(sensitivity_of_);
    std::map<std::string, shape2> shapes;
    net.for_each_linear([&](std::string_view name, const linear& weights) {
      shapes.emplace(name, weights.shape());
    });
    const auto known = lowbit::io::calibration_reader::open(output_);
    lowbit::io::calibration_writer out(output_);
    for (const auto& [key, value] : known.provenance()) {
      if (key != sensitivity_key) out.set_provenance(key, value);
    }
    out.set_provenance(sensitivity_key, name_of(sensitivity_of_));
    progress_line progress("sensitivity, layers", known.layers().size());
    for (const std::vector<std::string>& layers : known.inputs()) {
      const auto statistics = known.find(layers.front());
      out.add(layers, statistics->moments, statistics->cross_moments());
      for (const std::string& layer : layers) {
        rt.check_stop();
        auto weights = quantized.load_linear(layer + ".weight", shapes.at(layer), session_.load);
        const auto found = probe.measure(layer, std::move(weights), statistics->moments);
        if (found) out.set_sensitivity(layer, found->nats / found->relative_error);
        progress.step();
      }
    }
    out.finish();
  }

  std::string model_;
  std::string output_;
  std::vector<std::string> texts_;
  std::size_t text_bytes_ = 0;
  bool keep_lines_ = false;
  std::vector<std::string> audio_;
  std::string part_ = "all";
  double share_ = 0.0;  // 0: none
  std::string layers_ = ".";
  std::string distorted_;
  std::string sensitivity_of_;
  sensitivity_options probe_;
  calibration_options options_;
  session_options session_;
};

}  // namespace

void add_calibrate(CLI::App& program) {
  CLI::App& command = *program.add_subcommand(
      "calibrate", "watch the inputs of layers while the model reads and hears");
  // Lives as long as the callback that calls it.
  auto self = std::make_shared<calibrate_command>(command);
  command.callback([self] { self->run(); });
}

}  // namespace whisper
