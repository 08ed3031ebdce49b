// mel.hpp: audio as the encoder takes it: the logarithm of its energy in mel bands, 100 times a
// second.
//
// The recipe is Whisper's: zeros up to the length of the window; 200 samples reflected at both
// ends; a periodic Hann window of 400 samples every 160; power of the 201 frequencies; mel filters
// (they come with the model); log10 of at least 1e-10, at least the largest one - 8; (x + 4) / 4.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "matrix.hpp"

namespace whisper {

class mel_spectrogram {
 public:
  static constexpr index_t frame_samples = 400;
  static constexpr index_t hop_samples = 160;
  static constexpr index_t frames_per_second = 100;
  static constexpr index_t bins = frame_samples / 2 + 1;

  /// Refuses filters that do not have 201 bins (format).
  explicit mel_spectrogram(matrix filters);
  ~mel_spectrogram();
  mel_spectrogram(const mel_spectrogram&) = delete;
  mel_spectrogram& operator=(const mel_spectrogram&) = delete;

  /// [mels, 100 * seconds] of 16 kHz samples. Refuses more samples than the window holds, and a
  /// window of 0 (value).
  [[nodiscard]] matrix operator()(std::span<const float> samples, index_t seconds) const;

 private:
  struct transform;
  struct band {  // where a filter is not zero
    index_t begin, end;
  };

  matrix filters_;
  std::vector<band> bands_;
  std::vector<float> window_;
  std::unique_ptr<transform> transform_;
};

}  // namespace whisper
