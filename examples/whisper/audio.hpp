// audio.hpp: sound files as what Whisper hears: 16 kHz, one channel, floats between -1 and 1.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "lowbit/core/checked.hpp"

namespace whisper {

using lowbit::index_t;

inline constexpr index_t sample_rate = 16000;

/// Everything that libsndfile reads: channels are averaged, other rates resampled by libsamplerate
/// (medium sinc). A file without sound gives no samples. Needs 64 kB per second. Refuses (system)
/// files that cannot be opened or are no sound files, and (value) samples that are not finite and
/// rates that are more than 256 times off.
[[nodiscard]] std::vector<float> read_audio(const std::filesystem::path& path);

/// Where to cut long audio: windows of at most `window` samples that end at the quietest fifth of a
/// second of their last sixth, so that few words are cut. Returns the ends, the last one being
/// samples.size().
[[nodiscard]] std::vector<index_t> window_ends(std::span<const float> samples, index_t window);

}  // namespace whisper
