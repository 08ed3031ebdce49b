#include "audio.hpp"

#include <samplerate.h>
#include <sndfile.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

namespace whisper {

namespace {

constexpr index_t frames_at_a_time = 16384;

using sound_file = std::unique_ptr<SNDFILE, decltype([](SNDFILE* f) { ::sf_close(f); })>;
using converter = std::unique_ptr<SRC_STATE, decltype([](SRC_STATE* s) { ::src_delete(s); })>;

/// Appends blocks of mono samples at another rate.
class resampler {
 public:
  resampler(int rate, const std::string& name) : name_(name) {
    ratio_ = static_cast<double>(sample_rate) / rate;
    if (rate == static_cast<int>(sample_rate)) return;
    LOWBIT_CHECK(rate > 0 && ::src_is_valid_ratio(ratio_) != 0, value, name_, ": ", rate,
                 " Hz cannot be resampled to ", sample_rate, " Hz");
    int failure = 0;
    state_.reset(::src_new(SRC_SINC_MEDIUM_QUALITY, 1, &failure));
    LOWBIT_CHECK(state_ != nullptr, system, name_, ": ", ::src_strerror(failure));
  }

  void add(std::span<const float> block, bool is_last, std::vector<float>& to) {
    if (state_ == nullptr) {
      to.insert(to.end(), block.begin(), block.end());
      return;
    }
    std::vector<float> out(frames_at_a_time);
    SRC_DATA data{};
    data.src_ratio = ratio_;
    data.end_of_input = is_last ? 1 : 0;
    do {
      data.data_in = block.data();
      data.input_frames = static_cast<long>(block.size());
      data.data_out = out.data();
      data.output_frames = static_cast<long>(out.size());
      const int failure = ::src_process(state_.get(), &data);
      LOWBIT_CHECK(failure == 0, system, name_, ": ", ::src_strerror(failure));
      to.insert(to.end(), out.data(), out.data() + data.output_frames_gen);
      block = block.subspan(static_cast<std::size_t>(data.input_frames_used));
    } while (!block.empty() || (data.output_frames_gen > 0 && is_last));
  }

 private:
  std::string name_;
  double ratio_;
  converter state_;
};

}  // namespace

std::vector<float> read_audio(const std::filesystem::path& path) {
  const std::string name = path.string();
  SF_INFO info{};
  const sound_file file(::sf_open(name.c_str(), SFM_READ, &info));
  LOWBIT_CHECK(file != nullptr, system, "cannot read ", name, ": ", ::sf_strerror(nullptr));
  const auto channels = static_cast<index_t>(info.channels);
  std::vector<float> block(frames_at_a_time * channels);
  std::vector<float> mono(frames_at_a_time);
  std::vector<float> samples;
  resampler to_16_khz(info.samplerate, name);
  index_t done = 0;
  while (true) {
    const auto frames = static_cast<index_t>(
        ::sf_readf_float(file.get(), block.data(), static_cast<sf_count_t>(frames_at_a_time)));
    for (index_t i = 0; i < frames; ++i) {
      float sum = 0.0F;
      for (index_t c = 0; c < channels; ++c) sum += block[i * channels + c];
      LOWBIT_CHECK(std::isfinite(sum), value, name, ": sample ", done + i, " is not finite");
      mono[i] = sum / static_cast<float>(channels);
    }
    done += frames;
    const bool is_last = frames < frames_at_a_time;
    to_16_khz.add({mono.data(), frames}, is_last, samples);
    if (is_last) break;
  }
  LOWBIT_CHECK(::sf_error(file.get()) == SF_ERR_NO_ERROR, system, "cannot read ", name, ": ",
               ::sf_strerror(file.get()));
  return samples;
}

std::vector<index_t> window_ends(std::span<const float> samples, index_t window) {
  constexpr index_t quiet = sample_rate / 5;
  constexpr index_t step = sample_rate / 50;
  std::vector<index_t> ends;
  index_t begin = 0;
  while (samples.size() - begin > window) {
    index_t best = begin + window;
    double least = std::numeric_limits<double>::infinity();
    for (index_t at = begin + window - window / 6; at + quiet <= begin + window; at += step) {
      double energy = 0.0;
      for (index_t i = at; i < at + quiet; ++i) {
        energy += static_cast<double>(samples[i]) * static_cast<double>(samples[i]);
      }
      if (energy < least) {
        least = energy;
        best = at + quiet / 2;
      }
    }
    ends.push_back(best);
    begin = best;
  }
  ends.push_back(samples.size());
  return ends;
}

}  // namespace whisper
