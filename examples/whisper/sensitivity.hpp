// sensitivity.hpp: what an error of one layer costs: the divergence of the whole network's
// predictions when that layer alone is quantized.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "lowbit/calibration/second_moments.hpp"
#include "mel.hpp"
#include "model.hpp"
#include "tokenizer.hpp"

namespace whisper {

struct sensitivity_options {
  index_t text_tokens = 446;  ///< one window of base.en
  index_t sounds = 6;         ///< files, the first 10 seconds of each
};

class sensitivity_probe {
 public:
  /// Runs the network on a little text and sound and keeps its predictions. Everything must outlive
  /// the probe. Refuses (value) no text and no sound.
  sensitivity_probe(model& net, const tokenizer& words, const mel_spectrogram& mel,
                    std::span<const std::filesystem::path> sounds, std::span<const token> text,
                    const sensitivity_options& options, const runtime& rt);

  struct measurement {
    /// Mean KL divergence from the original per token: half that of text and half that of sound, if
    /// there are both. Text does not hear the encoder: its layers count with sound only.
    double nats;
    double relative_error;  ///< tr E H E^T / tr W H W^T of the layer
  };
  /// Of these weights in place of the layer's own, whose inputs have these moments. Nothing for the
  /// weights that the layer has. The network is as before when this returns or throws.
  [[nodiscard]] std::optional<measurement> measure(const std::string& layer,
                                                   std::unique_ptr<linear> weights,
                                                   const lowbit::observers::second_moments& inputs);

 private:
  struct example {
    bool is_text;
    matrix mel = {};    ///< of sound
    matrix audio = {};  ///< what the encoder made of it, or of silence
    std::vector<token> tokens = {};
    matrix log_probabilities = {};  ///< of the original
  };

  [[nodiscard]] matrix predict(const example& e, bool encode) const;
  [[nodiscard]] double divergence(bool is_encoder) const;
  [[nodiscard]] static double relative_error(const linear& original, const linear& other,
                                             const lowbit::observers::second_moments& inputs,
                                             const runtime& rt);

  model& net_;
  const runtime& rt_;
  std::vector<example> examples_;
};

}  // namespace whisper
