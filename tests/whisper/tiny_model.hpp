// tests/whisper/tiny_model.hpp: a Whisper model of a few thousand random weights, as the bytes of a
// ggml file or tensor by tensor, and what it takes to run one.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../io/files.hpp"
#include "catch.hpp"
#include "lowbit/core/half.hpp"
#include "lowbit/core/random.hpp"
#include "model.hpp"

namespace whisper_test {

using lowbit::index_t;

/// A tensor of random values; matrices are stored as f16, the rest as f32.
struct tiny_tensor {
  std::string name;
  std::vector<index_t> shape;  ///< slowest first
  std::vector<float> values;   ///< as they are stored

  [[nodiscard]] bool is_half() const { return shape.size() > 1 && name.ends_with(".weight"); }
};

struct tiny_model {
  std::vector<std::int32_t> sizes;
  std::vector<std::string> vocabulary;
  std::vector<tiny_tensor> tensors;

  static constexpr index_t state = 16;
  static constexpr index_t mels = 3;

  tiny_model() {
    for (const char* const text : {"a", "b", "c", "d", " ", "'", "s", "ab", " ab", "abc", "\xC3",
                                   "\xA9", "'s", " a", "<|endoftext|>"}) {
      vocabulary.emplace_back(text);
    }
    const auto vocab = static_cast<std::int32_t>(vocabulary.size() + 1607);
    sizes = {vocab, 50, state, 2, 1, 24, state, 2, 2, mels, 1};
    add("encoder.positional_embedding", {50, state});
    add("encoder.conv1.weight", {state, mels, 3});
    add("encoder.conv1.bias", {state, 1});
    add("encoder.conv2.weight", {state, state, 3});
    add("encoder.conv2.bias", {state, 1});
    add_norm("encoder.ln_post");
    add_block("encoder.blocks.0.", false);
    add("decoder.positional_embedding", {24, state});
    add("decoder.token_embedding.weight", {static_cast<index_t>(vocab), state});
    add_block("decoder.blocks.0.", true);
    add_block("decoder.blocks.1.", true);
    add_norm("decoder.ln");
  }

  /// The file.
  [[nodiscard]] std::string bytes() const {
    std::string out;
    put(out, std::uint32_t{0x67676d6c});
    for (const std::int32_t size : sizes) put(out, size);
    put(out, static_cast<std::int32_t>(mels));
    put(out, std::int32_t{201});
    for (const float f : mel_filters()) put(out, f);
    put(out, static_cast<std::int32_t>(vocabulary.size()));
    for (const std::string& text : vocabulary) {
      put(out, static_cast<std::uint32_t>(text.size()));
      out += text;
    }
    for (const tiny_tensor& t : tensors) {
      put(out, static_cast<std::int32_t>(t.shape.size()));
      put(out, static_cast<std::int32_t>(t.name.size()));
      put(out, static_cast<std::int32_t>(t.is_half() ? 1 : 0));
      for (auto e = t.shape.rbegin(); e != t.shape.rend(); ++e) {
        put(out, static_cast<std::int32_t>(*e));
      }
      out += t.name + data_of(t);
    }
    return out;
  }

  [[nodiscard]] static std::string data_of(const tiny_tensor& t) {
    std::string out;
    for (const float f : t.values) {
      if (t.is_half()) {
        put(out, lowbit::from_float<lowbit::float16>(f));
      } else {
        put(out, f);
      }
    }
    return out;
  }

  /// Triangles.
  [[nodiscard]] static std::vector<float> mel_filters() {
    std::vector<float> filters(mels * 201, 0.0F);
    for (index_t band = 0; band < mels; ++band) {
      for (index_t i = 0; i < 60; ++i) filters[band * 201 + 40 * band + i] = 0.01F;
    }
    return filters;
  }

 private:
  template <class T>
  static void put(std::string& out, T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.append(bytes, sizeof value);
  }

  void add(const std::string& name, const std::vector<index_t>& shape) {
    tiny_tensor t{.name = name, .shape = shape, .values = {}};
    index_t size = 1;
    for (const index_t extent : shape) size *= extent;
    for (index_t i = 0; i < size; ++i) {
      const float value = 0.3F * lowbit::random_normal(tensors.size(), i);
      t.values.push_back(lowbit::to_float(lowbit::from_float<lowbit::float16>(value)));
    }
    tensors.push_back(std::move(t));
  }
  void add_norm(const std::string& name) {
    add(name + ".weight", {state});
    add(name + ".bias", {state});
  }
  void add_linear(const std::string& name, index_t rows, index_t cols, bool has_bias = true) {
    add(name + ".weight", {rows, cols});
    if (has_bias) add(name + ".bias", {rows});
  }
  void add_attention(const std::string& name) {
    for (const char* const part : {"query", "key", "value", "out"}) {
      add_linear(name + "." + part, state, state, std::string_view(part) != "key");
    }
  }
  void add_block(const std::string& name, bool has_cross) {
    add_norm(name + "attn_ln");
    add_attention(name + "attn");
    if (has_cross) {
      add_norm(name + "cross_attn_ln");
      add_attention(name + "cross_attn");
    }
    add_norm(name + "mlp_ln");
    add_linear(name + "mlp.0", 4 * state, state);
    add_linear(name + "mlp.2", state, 4 * state);
  }
};

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// A tiny model in a file, loaded.
struct loaded {
  explicit loaded(const whisper::load_options& options = {}, const tiny_model& tiny = {}) {
    const lowbit_test::temporary_folder folder;
    write_file(folder / "tiny.bin", tiny.bytes());
    file.emplace(folder / "tiny.bin");
    net.emplace(*file, options);
  }
  std::optional<whisper::model_file> file;
  std::optional<whisper::model> net;
};

/// |a - b| / |b|.
inline double distance(const whisper::matrix& a, const whisper::matrix& b) {
  REQUIRE(a.shape() == b.shape());
  double error = 0.0;
  double square = 0.0;
  for (whisper::index_t i = 0; i < a.values().size(); ++i) {
    const double d = static_cast<double>(a.values()[i]) - static_cast<double>(b.values()[i]);
    error += d * d;
    square += static_cast<double>(b.values()[i]) * static_cast<double>(b.values()[i]);
  }
  return std::sqrt(error / square);
}

/// A runtime with all that this machine has, on one thread.
struct runner {
  runner() {
    rt.ctx = lowbit::kernels::context::best();
    rt.ctx.scratch = &scratch;
    rt.floats = &whisper::load_float_kernels(rt.ctx.allowed);
  }
  runner(const runner&) = delete;
  runner& operator=(const runner&) = delete;

  lowbit::kernels::workspace scratch;
  whisper::runtime rt;
};

/// Random values of about 1.
inline whisper::matrix random_matrix(index_t rows, index_t cols, std::uint64_t seed) {
  whisper::matrix m(rows, cols);
  for (index_t i = 0; i < m.values().size(); ++i) {
    m.values()[i] = lowbit::random_normal(seed, i);
  }
  return m;
}

}  // namespace whisper_test
