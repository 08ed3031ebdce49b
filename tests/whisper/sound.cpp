// Sound files and spectrograms.
#include <cmath>
#include <numbers>

#include "audio.hpp"
#include "catch.hpp"
#include "mel.hpp"
#include "tiny_model.hpp"
#include "wav.hpp"

namespace {

using lowbit_test::message_of;
using lowbit_test::temporary_folder;
using whisper::index_t;
using whisper::matrix;
using whisper_test::wav;

/// Sample i of a tone.
double tone(double hertz, index_t i, std::uint32_t rate = 16000) {
  return 0.5 * std::sin(2.0 * std::numbers::pi * hertz * static_cast<double>(i) / rate);
}

std::vector<float> read(std::string_view bytes) {
  const temporary_folder folder;
  whisper_test::write_file(folder / "x.wav", bytes);
  return whisper::read_audio(folder / "x.wav");
}

TEST_CASE("16 kHz mono comes as it is") {
  const std::vector<std::int16_t> samples{0, 16384, -32768, 32767};
  CHECK(read(wav(16000, 1, samples)) == std::vector<float>{0.0F, 0.5F, -1.0F, 32767.0F / 32768.0F});
}

TEST_CASE("channels are averaged") {
  const std::vector<float> samples{0.5F, 0.25F, -1.0F, 1.0F, 0.25F, 0.0F};
  CHECK(read(wav(16000, 2, samples)) == std::vector<float>{0.375F, 0.0F, 0.125F});
  const std::vector<float> three{0.75F, 0.0F, -0.75F};
  CHECK(read(wav(16000, 3, three)) == std::vector<float>{0.0F});
}

TEST_CASE("other rates become 16 kHz: a tone stays the same tone") {
  for (const std::uint32_t rate : {8000U, 11025U, 44100U, 48000U}) {
    CAPTURE(rate);
    std::vector<float> samples;
    for (index_t i = 0; i < rate; ++i) {
      samples.push_back(static_cast<float>(tone(440.0, i, rate)));
    }
    const auto out = read(wav(rate, 1, samples));
    // A second, to the length of the filter's tail.
    CHECK(out.size() + 50 >= whisper::sample_rate);
    CHECK(out.size() <= whisper::sample_rate + 50);
    double worst = 0.0;
    for (index_t i = 2000; i < 14000; ++i) {  // away from the ends, where the tone begins and ends
      worst = std::max(worst, std::abs(static_cast<double>(out[i]) - tone(440.0, i)));
    }
    // The medium filter is specified as 121 dB below the signal; -60 dB leaves room for rounding of
    // its coefficients and would not be met by a shift of a hundredth of a sample.
    CHECK(worst < 0.5e-3);
  }
}

TEST_CASE("files without sound are read or refused with a clear error") {
  CHECK(read(wav<std::int16_t>(16000, 1, {})).empty());
  CHECK(read(wav<std::int16_t>(8000, 2, {})).empty());
  CHECK(read(wav(16000, 1, std::vector<std::int16_t>(3, 0))) == std::vector<float>(3, 0.0F));
  CHECK(message_of<lowbit::system_error>([] { return read(""); }).find("x.wav") !=
        std::string::npos);
  CHECK(message_of<lowbit::system_error>([] { return read("no sound at all"); }).find("x.wav") !=
        std::string::npos);
  CHECK(message_of<lowbit::system_error>([] {
          return whisper::read_audio("/no/such.wav");
        }).starts_with("cannot read /no/such.wav: "));
  const std::vector<float> bad{0.0F, 0.5F, std::nanf("")};
  const std::string refusal =
      message_of<lowbit::value_error>([&] { return read(wav(16000, 1, bad)); });
  CHECK(refusal.ends_with("x.wav: sample 2 is not finite"));
  const std::vector<std::int16_t> few(10, 1);
  CHECK(message_of<lowbit::value_error>([&] {
          return read(wav(16, 1, few));
        }).ends_with("x.wav: 16 Hz cannot be resampled to 16000 Hz"));
}

TEST_CASE("long audio is cut where it is quiet") {
  std::vector<float> samples(10 * 60 * whisper::sample_rate, 0.5F);
  const index_t window = 30 * whisper::sample_rate;
  CHECK(whisper::window_ends({samples.data(), 100}, window) == std::vector<index_t>{100});
  CHECK(whisper::window_ends({samples.data(), window}, window) == std::vector<index_t>{window});
  const index_t pause = 27 * whisper::sample_rate;
  std::fill_n(samples.begin() + static_cast<std::ptrdiff_t>(pause), 4800, 0.0F);
  const auto ends = whisper::window_ends(samples, window);
  CHECK(ends.front() > pause);
  CHECK(ends.front() < pause + 4800);
  CHECK(ends.back() == samples.size());
  index_t begin = 0;
  for (const index_t end : ends) {
    CHECK(end > begin);
    CHECK(end - begin <= window);
    begin = end;
  }
}

/// The recipe in double, straight from its definition.
std::vector<double> reference_mel(const std::vector<float>& samples, const matrix& filters,
                                  index_t seconds) {
  const index_t n = 16000 * seconds;
  const auto at = [&](std::ptrdiff_t i) {
    const auto last = static_cast<std::ptrdiff_t>(n) - 1;
    if (i < 0) i = -i;
    if (i > last) i = 2 * last - i;
    const auto index = static_cast<std::size_t>(i);
    return index < samples.size() ? static_cast<double>(samples[index]) : 0.0;
  };
  const index_t frames = 100 * seconds;
  std::vector<double> out(filters.rows() * frames);
  double largest = -1e300;
  for (index_t t = 0; t < frames; ++t) {
    for (index_t band = 0; band < filters.rows(); ++band) {
      double sum = 0.0;
      for (index_t f = 0; f < 201; ++f) {
        const auto weight = static_cast<double>(filters.view()(band, f));
        if (weight == 0.0) continue;
        double re = 0.0;
        double im = 0.0;
        for (index_t i = 0; i < 400; ++i) {
          const double phase = 2.0 * std::numbers::pi * static_cast<double>(i) / 400.0;
          const double x =
              at(static_cast<std::ptrdiff_t>(160 * t + i) - 200) * (0.5 - 0.5 * std::cos(phase));
          re += x * std::cos(phase * static_cast<double>(f));
          im -= x * std::sin(phase * static_cast<double>(f));
        }
        sum += weight * (re * re + im * im);
      }
      out[band * frames + t] = std::log10(std::max(sum, 1e-10));
      largest = std::max(largest, out[band * frames + t]);
    }
  }
  for (double& v : out) v = (std::max(v, largest - 8.0) + 4.0) / 4.0;
  return out;
}

matrix few_filters() {
  matrix filters(3, 201);
  for (const index_t f : {11U, 12U}) filters.view()(0, f) = 0.02F;
  filters.view()(1, 60) = 0.02F;
  filters.view()(2, 200) = 0.02F;
  return filters;
}

TEST_CASE("spectrograms follow the recipe") {
  const matrix filters = few_filters();
  const whisper::mel_spectrogram mel(few_filters());
  std::vector<float> samples;
  for (index_t i = 0; i < 9000; ++i) {
    samples.push_back(static_cast<float>(tone(460.0, i)) + 0.01F * lowbit::random_normal(1, i));
  }
  const matrix out = mel(samples, 1);
  REQUIRE(out.shape() == whisper::shape2{3, 100});
  const auto expected = reference_mel(samples, filters, 1);
  double worst = 0.0;
  for (index_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(out.values()[i]) - expected[i]));
  }
  // Floats in the transform: 400 terms of at most 0.5 round to about 1e-5 of an amplitude, where a
  // band of noise has 0.1: 1e-4 of its power's logarithm; bands are cut 8 below the largest.
  CHECK(worst < 1e-3);
}

TEST_CASE("spectrograms of silence are constant, and windows have an end") {
  const whisper::mel_spectrogram mel(few_filters());
  for (const matrix& out : {mel({}, 2), mel(std::vector<float>(32000, 0.0F), 2)}) {
    REQUIRE(out.cols() == 200);
    for (const float v : out.values()) CHECK(v == -1.5F);  // (log10(1e-10) + 4) / 4
  }
  const std::vector<float> long_audio(32001, 0.0F);
  CHECK_THROWS_AS(mel(long_audio, 2), lowbit::value_error);
  CHECK_THROWS_AS(mel({}, 0), lowbit::value_error);
  CHECK_THROWS_AS(whisper::mel_spectrogram(matrix(80, 200)), lowbit::format_error);
}

}  // namespace
