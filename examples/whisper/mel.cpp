#include "mel.hpp"

#include <kiss_fftr.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "audio.hpp"

namespace whisper {

/// kissfft's plan for one frame. It keeps its scratch in itself, so that a frame at a time uses it.
struct mel_spectrogram::transform {
  transform() : plan(::kiss_fftr_alloc(static_cast<int>(frame_samples), 0, nullptr, nullptr)) {
    LOWBIT_CHECK(plan != nullptr, system, "no memory for a Fourier transform");
  }
  ~transform() { ::kiss_fftr_free(plan); }
  transform(const transform&) = delete;
  transform& operator=(const transform&) = delete;

  kiss_fftr_cfg plan;
};

mel_spectrogram::mel_spectrogram(matrix filters)
    : filters_(std::move(filters)),
      window_(frame_samples),
      transform_(std::make_unique<transform>()) {
  LOWBIT_CHECK(filters_.cols() == bins, format, "mel filters have ", filters_.cols(),
               " frequencies, not ", bins);
  for (index_t b = 0; b < filters_.rows(); ++b) {
    const auto row = filters_.view().row(b);
    const auto is_set = [](float f) { return f != 0.0F; };
    const auto first = std::find_if(row.begin(), row.end(), is_set);
    const auto last = std::find_if(row.rbegin(), row.rend(), is_set).base();
    bands_.push_back(first == row.end() ? band{0, 0}
                                        : band{static_cast<index_t>(first - row.begin()),
                                               static_cast<index_t>(last - row.begin())});
  }
  for (index_t i = 0; i < frame_samples; ++i) {
    const double phase = 2.0 * std::numbers::pi * static_cast<double>(i) / frame_samples;
    window_[i] = static_cast<float>(0.5 - 0.5 * std::cos(phase));
  }
}

mel_spectrogram::~mel_spectrogram() = default;

matrix mel_spectrogram::operator()(std::span<const float> samples, index_t seconds) const {
  LOWBIT_CHECK(seconds >= 1, value, "a window of ", seconds, " seconds is empty");
  const index_t length = sample_rate * seconds;
  LOWBIT_CHECK(samples.size() <= length, value, samples.size(), " samples do not fit a window of ",
               seconds, " seconds");
  constexpr index_t margin = frame_samples / 2;
  std::vector<float> padded(margin + length + margin, 0.0F);
  std::copy(samples.begin(), samples.end(), padded.begin() + margin);
  for (index_t i = 1; i <= margin; ++i) {
    padded[margin - i] = padded[margin + i];
    padded[margin + length - 1 + i] = padded[margin + length - 1 - i];
  }

  matrix mel(filters_.rows(), seconds * frames_per_second);
  const auto out = mel.view();
  std::array<float, frame_samples> frame;
  std::array<kiss_fft_cpx, bins> spectrum;
  std::array<double, bins> power;
  float largest = -std::numeric_limits<float>::infinity();
  for (index_t t = 0; t < mel.cols(); ++t) {
    const float* const in = padded.data() + t * hop_samples;
    for (index_t i = 0; i < frame_samples; ++i) frame[i] = in[i] * window_[i];
    ::kiss_fftr(transform_->plan, frame.data(), spectrum.data());
    for (index_t f = 0; f < bins; ++f) {
      const auto re = static_cast<double>(spectrum[f].r);
      const auto im = static_cast<double>(spectrum[f].i);
      power[f] = re * re + im * im;
    }
    for (index_t b = 0; b < mel.rows(); ++b) {
      const auto filter = filters_.view().row(b);
      double sum = 0.0;
      for (index_t f = bands_[b].begin; f < bands_[b].end; ++f) {
        sum += static_cast<double>(filter[f]) * power[f];
      }
      out(b, t) = static_cast<float>(std::log10(std::max(sum, 1e-10)));
      largest = std::max(largest, out(b, t));
    }
  }
  for (float& value : mel.values()) value = (std::max(value, largest - 8.0F) + 4.0F) / 4.0F;
  return mel;
}

}  // namespace whisper
