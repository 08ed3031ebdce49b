#include "sensitivity.hpp"

#include <algorithm>
#include <cmath>

#include "audio.hpp"
#include "calibration.hpp"
#include "lowbit/outlier/distortion_report.hpp"

namespace whisper {

namespace {

constexpr index_t longest_sound = 10;  // seconds

/// Calls f(row number) for every row, on all threads.
template <class F>
void for_each_row(const runtime& rt, index_t rows, const F& f) {
  lowbit::kernels::parallel_for_blocks(rt.ctx, rows, 8, [&](row_range block) {
    for (index_t t = block.begin; t < block.end; ++t) f(t);
  });
}

/// Logits become logarithms of probabilities, row by row.
void normalize(matrix& logits, const runtime& rt) {
  for_each_row(rt, logits.rows(), [&](index_t t) {
    const auto row = logits.view().row(t);
    const float largest = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (const float l : row) sum += static_cast<double>(std::exp(l - largest));
    const float total = largest + static_cast<float>(std::log(sum));
    for (float& l : row) l -= total;
  });
}

/// Mean over rows of sum p log(p / q).
double mean_divergence(const matrix& p, const matrix& q, const runtime& rt) {
  std::vector<double> of_row(p.rows());
  for_each_row(rt, p.rows(), [&](index_t t) {
    const auto log_p = p.view().row(t);
    const auto log_q = q.view().row(t);
    for (index_t i = 0; i < log_p.size(); ++i) {
      of_row[t] += static_cast<double>(std::exp(log_p[i]) * (log_p[i] - log_q[i]));
    }
  });
  double sum = 0.0;
  for (const double kl : of_row) sum += kl;
  return sum / static_cast<double>(p.rows());
}

}  // namespace

sensitivity_probe::sensitivity_probe(model& net, const tokenizer& words, const mel_spectrogram& mel,
                                     std::span<const std::filesystem::path> sounds,
                                     std::span<const token> text,
                                     const sensitivity_options& options, const runtime& rt)
    : net_(net), rt_(rt) {
  const model_sizes& sizes = net.sizes();
  constexpr index_t outputs_per_second = mel_spectrogram::frames_per_second / 2;
  const index_t longest = sizes.audio_context / outputs_per_second;
  for (const auto& path : sounds.first(std::min(options.sounds, sounds.size()))) {
    std::vector<float> samples = read_audio(path);
    if (samples.empty()) continue;
    samples.resize(std::min(samples.size(), std::min(longest, longest_sound) * sample_rate));
    const index_t seconds =
        std::min(longest, lowbit::div_up(samples.size(), index_t{sample_rate}) + 1);
    example e{.is_text = false, .mel = mel(samples, seconds)};
    e.audio = net.encode(e.mel.view(), rt);
    decoder_state state = net.start(e.audio.view(), rt);
    e.tokens = hear_greedily(words, sizes.text_context, [&](std::span<const token> next) {
      return net.decode(state, next, 1, rt);
    });
    examples_.push_back(std::move(e));
  }
  const std::vector<token> prompt = prompt_of(words);
  for (const auto& window :
       spread_windows(text, options.text_tokens, sizes.text_context - prompt.size())) {
    example e{.is_text = true};
    const std::vector<float> silence(longest * sample_rate, 0.0F);
    e.audio = net.encode(mel(silence, longest).view(), rt);
    e.tokens = prompt;
    e.tokens.insert(e.tokens.end(), window.begin(), window.end());
    examples_.push_back(std::move(e));
  }
  LOWBIT_CHECK(!examples_.empty(), value, "there is no text and no sound to measure with");
  for (example& e : examples_) e.log_probabilities = predict(e, false);
}

/// Logarithms of the probabilities of what comes after each token but the first.
matrix sensitivity_probe::predict(const example& e, bool encode) const {
  const matrix audio = encode ? net_.encode(e.mel.view(), rt_) : e.audio;
  decoder_state state = net_.start(audio.view(), rt_);
  matrix logits = net_.decode(state, e.tokens, e.tokens.size() - 1, rt_);
  normalize(logits, rt_);
  return logits;
}

double sensitivity_probe::divergence(bool is_encoder) const {
  double sums[2] = {};
  double counts[2] = {};
  for (const example& e : examples_) {
    counts[e.is_text] += static_cast<double>(e.log_probabilities.rows());
    if (is_encoder && e.is_text) continue;
    sums[e.is_text] += static_cast<double>(e.log_probabilities.rows()) *
                       mean_divergence(e.log_probabilities, predict(e, is_encoder), rt_);
  }
  double mean = 0.0;
  double kinds = 0.0;
  for (const int kind : {0, 1}) {
    if (counts[kind] == 0.0) continue;
    mean += sums[kind] / counts[kind];
    kinds += 1.0;
  }
  return mean / kinds;
}

double sensitivity_probe::relative_error(const linear& original, const linear& other,
                                         const lowbit::observers::second_moments& inputs,
                                         const runtime& rt) {
  const shape2 shape = original.shape();
  constexpr index_t rows_at_a_time = 1024;
  double error = 0.0;
  double square = 0.0;
  for (index_t begin = 0; begin < shape.rows; begin += rows_at_a_time) {
    const row_range rows{begin, std::min(begin + rows_at_a_time, shape.rows)};
    matrix w(rows.size(), shape.cols);
    matrix q(rows.size(), shape.cols);
    original.read_rows(rows, w.view());
    square += lowbit::outlier::layer_hessian_error(w.view(), q.view(), inputs.matrix(), rt.ctx);
    other.read_rows(rows, q.view());
    error += lowbit::outlier::layer_hessian_error(w.view(), q.view(), inputs.matrix(), rt.ctx);
  }
  return square > 0.0 ? error / square : 0.0;
}

std::optional<sensitivity_probe::measurement> sensitivity_probe::measure(
    const std::string& layer, std::unique_ptr<linear> weights,
    const lowbit::observers::second_moments& inputs) {
  const bool is_encoder = layer.starts_with("encoder.");
  const bool has_sound =
      std::any_of(examples_.begin(), examples_.end(), [](const example& e) { return !e.is_text; });
  if (is_encoder && !has_sound) return std::nullopt;
  net_.exchange_weights(layer, weights);
  struct put_back {
    ~put_back() { net.exchange_weights(layer, own); }
    model& net;
    const std::string& layer;
    std::unique_ptr<linear>& own;
  } const at_the_end{net_, layer, weights};
  double error = 0.0;
  net_.for_each_linear([&](std::string_view name, const linear& quantized) {
    if (name == layer) error = relative_error(*weights, quantized, inputs, rt_);
  });
  if (error == 0.0) return std::nullopt;
  return measurement{.nats = divergence(is_encoder), .relative_error = error};
}

}  // namespace whisper
