#include "evaluation.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "audio.hpp"
#include "lowbit/core/random.hpp"
#include "lowbit/io/atomic_file.hpp"
#include "lowbit/io/checksum.hpp"

namespace whisper {

estimate clustered_mean(std::span<const cluster> clusters) {
  double sum = 0.0;
  double count = 0.0;
  for (const cluster& c : clusters) {
    sum += c.sum;
    count += c.count;
  }
  if (count == 0.0) return {};
  const double mean = sum / count;
  double squares = 0.0;
  for (const cluster& c : clusters) {
    const double rest = c.sum - mean * c.count;
    squares += rest * rest;
  }
  const auto n = static_cast<double>(clusters.size());
  return {mean, n < 2.0 ? 0.0 : std::sqrt(n / (n - 1.0) * squares) / count};
}

namespace {

/// log of sum of exp of a row, and its largest value.
struct normalizer {
  float largest;
  double log_sum;
};

token likeliest(std::span<const float> logits) {
  return static_cast<token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

token_figures compare(std::span<const float> p, std::span<const float> q, token next,
                      index_t cluster) {
  const token top_p = likeliest(p);
  const token top_q = likeliest(q);
  double sum_p = 0.0;
  double sum_q = 0.0;
  double cross = 0.0;  // of exp(p) (p - q)
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double own = std::exp(static_cast<double>(p[i]) - static_cast<double>(p[top_p]));
    sum_p += own;
    sum_q += std::exp(static_cast<double>(q[i]) - static_cast<double>(q[top_q]));
    cross += own * (static_cast<double>(p[i]) - static_cast<double>(q[i]));
  }
  const double log_p = static_cast<double>(p[top_p]) + std::log(sum_p);
  const double log_q = static_cast<double>(q[top_q]) + std::log(sum_q);
  return {.id = next,
          .cluster = cluster,
          .reference_nll = log_p - static_cast<double>(p[next]),
          .nll = log_q - static_cast<double>(q[next]),
          .divergence = cross / sum_p - log_p + log_q,
          .agrees = top_p == top_q};
}

}  // namespace

void compare_logits(matrix_view<const float> reference, matrix_view<const float> logits,
                    std::span<const token> tokens, index_t cluster, const runtime& rt,
                    std::vector<token_figures>& out) {
  LOWBIT_CHECK(reference.rows() == tokens.size() && logits.rows() == tokens.size() &&
                   reference.cols() == logits.cols(),
               shape, "logits [", reference.rows(), ", ", reference.cols(), "] and [",
               logits.rows(), ", ", logits.cols(), "] of ", tokens.size(), " tokens");
  const std::size_t before = out.size();
  out.resize(before + tokens.size());
  lowbit::kernels::parallel_for(rt.ctx, tokens.size(), [&](index_t t, index_t) {
    out[before + t] = compare(reference.row(t), logits.row(t), tokens[t], cluster);
  });
}

figures summarize(std::span<const token_figures> tokens) {
  std::map<index_t, std::array<cluster, 3>> sums;  // of differences, divergences, agreements
  std::vector<double> divergences;
  figures all{.tokens = tokens.size()};
  if (tokens.empty()) return all;
  for (const token_figures& t : tokens) {
    all.reference_nll += t.reference_nll;
    all.nll += t.nll;
    divergences.push_back(t.divergence);
    auto& own = sums[t.cluster];
    const double values[] = {t.nll - t.reference_nll, t.divergence, t.agrees ? 1.0 : 0.0};
    for (std::size_t i = 0; i < own.size(); ++i) {
      own[i].sum += values[i];
      own[i].count += 1.0;
    }
  }
  const auto mean = [&](std::size_t i) {
    std::vector<cluster> clusters;
    for (const auto& [id, own] : sums) clusters.push_back(own[i]);
    return clustered_mean(clusters);
  };
  const auto count = static_cast<double>(tokens.size());
  all.clusters = sums.size();
  all.reference_nll /= count;
  all.nll /= count;
  all.nll_difference = mean(0);
  all.divergence = mean(1);
  all.agreement = mean(2);
  const std::size_t rank = lowbit::div_up(99 * divergences.size(), 100) - 1;
  std::nth_element(divergences.begin(), divergences.begin() + static_cast<std::ptrdiff_t>(rank),
                   divergences.end());
  all.divergence_99 = divergences[rank];
  return all;
}

std::string text_from(std::string_view text, index_t offset, bool keep_lines) {
  text.remove_prefix(std::min({text.size(), text.find_first_of(blanks, offset)}));
  return keep_lines ? std::string(text) : one_line(text);
}

std::vector<std::vector<token>> text_windows(const tokenizer& words, std::string_view text,
                                             index_t count, index_t window) {
  LOWBIT_CHECK(window >= 1, value, "windows of 0 tokens");
  const std::vector<token> all = words.encode(text);
  LOWBIT_CHECK(all.size() >= count, value, "the text has ", all.size(), " tokens, ", count,
               " are wanted");
  std::vector<std::vector<token>> windows;
  for (index_t begin = 0; begin < count; begin += window) {
    const index_t end = std::min(begin + window, count);
    windows.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(begin),
                         all.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return windows;
}

matrix predict(const model& net, decoder_state& state, const special_tokens& special,
               std::span<const token> tokens, const runtime& rt) {
  LOWBIT_CHECK(!tokens.empty(), value, "a text without tokens");
  std::vector<token> read{special.start_of_transcript, special.no_timestamps};
  read.insert(read.end(), tokens.begin(), tokens.end() - 1);
  return net.decode(state, read, tokens.size(), rt);
}

namespace {

std::string without_parentheses(std::string_view text) {
  std::string out;
  int depth = 0;
  for (const char c : text) {
    if (c == '(') depth += 1;
    if (depth == 0) out += c;
    if (c == ')' && depth > 0) depth -= 1;
  }
  return out;
}

std::map<std::string, std::string> read_transcripts(const std::filesystem::path& path) {
  std::ifstream in(path);
  LOWBIT_CHECK(in.is_open(), system, "cannot open ", path.string());
  std::map<std::string, std::string> out;
  std::string line;
  while (std::getline(in, line)) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with(';') || colon == std::string::npos) continue;
    out.emplace(line.substr(0, colon), line.substr(colon + 2));
  }
  return out;
}

std::vector<std::filesystem::path> wav_files(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::end(at); at.increment(error)) {
    if (at->path().extension() == ".wav") files.push_back(at->path());
  }
  LOWBIT_CHECK(!error, system, "cannot read the folder ", folder.string(), ": ", error.message());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<clip> read_clips(const std::filesystem::path& folder,
                             const std::filesystem::path& transcripts,
                             const clip_options& options) {
  const auto texts = read_transcripts(transcripts);
  const std::vector<std::filesystem::path> files = wav_files(folder);
  std::vector<clip> clips;
  for (std::size_t i = 0; i < files.size(); i += 2) {
    auto name = files[i].lexically_relative(folder).replace_extension().generic_string();
    const auto text = texts.find(name);
    if (text == texts.end() || text->second.find('[') != std::string::npos) continue;
    clip c{.name = std::move(name),
           .samples = {},
           .words = normalized_words(without_parentheses(text->second))};
    if (c.words.empty() || c.words.size() < options.least_words) continue;
    c.samples = read_audio(files[i]);
    if (c.samples.empty() || c.samples.size() > options.window_seconds * sample_rate) continue;
    clips.push_back(std::move(c));
  }
  LOWBIT_CHECK(!clips.empty() && clips.size() >= options.count, value, folder.string(), " and ",
               transcripts.string(), " have ", clips.size(), " clips of speech of at most ",
               options.window_seconds, " s, ", options.count, " are wanted");
  if (options.count == 0) return clips;
  std::vector<clip> spread;
  for (index_t i = 0; i < options.count; ++i) {
    spread.push_back(std::move(clips[i * clips.size() / options.count]));
  }
  return spread;
}

namespace {

/// Number of the layout of files, and of everything else that makes older files useless.
constexpr std::uint64_t cache_version = 1;

struct cache_header {
  char magic[8] = {'l', 'o', 'w', 'b', 'i', 't', 'E', 'V'};
  std::uint64_t version = cache_version;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::uint64_t tokens = 0;
  std::uint64_t checksum = 0;  ///< of the values, then of the tokens
};

std::uint64_t checksum_of(std::span<const float> values, std::span<const token> tokens) {
  const std::uint64_t both[] = {lowbit::io::checksum(std::as_bytes(values)),
                                lowbit::io::checksum(std::as_bytes(tokens))};
  return lowbit::io::checksum(std::as_bytes(std::span(both)));
}

std::string hex_digits(std::uint64_t value) {
  const std::string text = lowbit::io::checksum_text(value);
  return text.substr(text.find(':') + 1);
}

}  // namespace

clip_cache::clip_cache(const std::filesystem::path& folder, const fingerprint& model)
    : folder_(folder / (hex_digits(model.encoder) + hex_digits(model.decoder))) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  LOWBIT_CHECK(!error, system, "cannot make the folder ", folder_.string(), ": ", error.message());
}

std::filesystem::path clip_cache::path_of(std::span<const float> samples,
                                          index_t window_seconds) const {
  const std::uint64_t parts[] = {lowbit::io::checksum(std::as_bytes(samples)), samples.size(),
                                 window_seconds};
  return folder_ / hex_digits(lowbit::io::checksum(std::as_bytes(std::span(parts))));
}

std::optional<heard_clip> clip_cache::find(std::span<const float> samples,
                                           index_t window_seconds) const {
  std::ifstream in(path_of(samples, window_seconds), std::ios::binary | std::ios::ate);
  if (!in.is_open()) return std::nullopt;
  const auto size = static_cast<std::uint64_t>(in.tellg());
  in.seekg(0);
  cache_header h;
  const cache_header expected;
  if (!in.read(reinterpret_cast<char*>(&h), sizeof h)) return std::nullopt;
  constexpr std::uint64_t most = 1U << 20U;  // keeps sizes of damaged files from overflowing
  if (std::memcmp(h.magic, expected.magic, sizeof h.magic) != 0 || h.version != expected.version ||
      h.rows > most || h.cols > most || h.tokens > most ||
      size != sizeof h + h.rows * h.cols * sizeof(float) + h.tokens * sizeof(token)) {
    return std::nullopt;
  }
  heard_clip heard{.audio = matrix(h.rows, h.cols), .text = std::vector<token>(h.tokens)};
  const auto read = [&](auto values) {
    in.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size_bytes()));
  };
  read(heard.audio.values());
  read(std::span(heard.text));
  if (!in || checksum_of(heard.audio.values(), heard.text) != h.checksum) return std::nullopt;
  return heard;
}

void clip_cache::store(std::span<const float> samples, index_t window_seconds,
                       const heard_clip& heard) const {
  cache_header h;
  h.rows = heard.audio.rows();
  h.cols = heard.audio.cols();
  h.tokens = heard.text.size();
  h.checksum = checksum_of(heard.audio.values(), heard.text);
  lowbit::io::atomic_file file(path_of(samples, window_seconds));
  file.write(std::as_bytes(std::span(&h, 1)));
  file.write(std::as_bytes(heard.audio.values()));
  file.write(std::as_bytes(std::span(heard.text)));
  file.commit();
}

fingerprint take_fingerprint(const model& net, const special_tokens& special,
                             const mel_spectrogram& mel, const runtime& rt) {
  constexpr float loudness = 0.1F;
  std::vector<float> noise(sample_rate);
  for (index_t i = 0; i < noise.size(); ++i) noise[i] = loudness * lowbit::random_normal(0, i);
  const matrix audio = net.encode(mel(noise, 1).view(), rt);
  decoder_state state = net.start(audio.view(), rt);
  const token text[] = {0, 1, 2, 3, 4, 5, 6, 7};
  const matrix logits = predict(net, state, special, text, rt);
  return {.encoder = lowbit::io::checksum(std::as_bytes(audio.values())),
          .decoder = lowbit::io::checksum(std::as_bytes(logits.values()))};
}

}  // namespace whisper
