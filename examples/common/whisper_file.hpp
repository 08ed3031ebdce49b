// whisper_file.hpp: reads OpenAI Whisper weights in whisper.cpp's ggml file.
//
// The file (little-endian, nothing aligned): magic; 11 hyper-parameters; mel filters; the
// vocabulary as length-prefixed byte strings; then tensors until the end, each with its extents
// fastest first. It is not trusted: every length is checked against what is left of the file.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "lowbit/io/mapped_file.hpp"
#include "lowbit/io/stored_tensor.hpp"

namespace examples {

class whisper_file {
 public:
  static constexpr std::uint32_t magic = 0x67676d6c;

  /// Whether a file starts like one of these.
  [[nodiscard]] static bool has_magic(std::span<const std::byte> bytes) {
    std::uint32_t first = 0;
    if (bytes.size() < sizeof first) return false;
    std::memcpy(&first, bytes.data(), sizeof first);
    return first == magic;
  }

  /// Maps and checks the whole file. Throws lowbit::error with the file's name and the cause.
  explicit whisper_file(const std::filesystem::path& path)
      : file_(path), label_(path.filename().string()), rest_(file_.bytes()) {
    LOWBIT_CHECK(read<std::uint32_t>("magic") == magic, format, label_,
                 ": not a Whisper ggml file");
    add_next("whisper.hyper_parameters", lowbit::element_type::i32, {hyper_parameters});
    read_mel_filters();
    read_vocabulary();
    while (!rest_.empty()) read_tensor();
  }

  /// The weights, and what else a program needs to run the model: `whisper.hyper_parameters` I32
  /// [11], `whisper.mel_filters` F32 [mels, bins] and `whisper.vocabulary` U8, for each token its
  /// length (u32) and its bytes.
  [[nodiscard]] const std::vector<lowbit::io::stored_tensor>& tensors() const { return tensors_; }
  void release_pages(const lowbit::io::stored_tensor& tensor) const {
    file_.release_pages(tensor.bytes);
  }

 private:
  static constexpr lowbit::index_t hyper_parameters = 11;
  static constexpr lowbit::index_t max_name_length = 256;

  /// The next `size` bytes.
  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    LOWBIT_CHECK(size <= rest_.size(), format, label_, ": truncated: ", what, " takes ", size,
                 " bytes, the file has ", rest_.size(), " left");
    const auto taken = rest_.first(size);
    rest_ = rest_.subspan(size);
    return taken;
  }
  template <class T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  /// A count that must not be negative.
  lowbit::index_t read_count(std::string_view what) {
    const auto value = read<std::int32_t>(what);
    LOWBIT_CHECK(value >= 0, format, label_, ": ", what, " is ", value);
    return static_cast<lowbit::index_t>(value);
  }
  /// Adds a tensor whose data comes next in the file.
  void add_next(std::string name, lowbit::element_type type, std::vector<lowbit::index_t> shape) {
    std::uint64_t size = lowbit::element_size(type);
    for (const lowbit::index_t extent : shape) size = lowbit::checked_mul(size, extent, name);
    const auto bytes = take(size, name);
    tensors_.push_back({std::move(name), type, std::move(shape), bytes});
  }

  void read_mel_filters() {
    const lowbit::index_t mels = read_count("the number of mel bands");
    const lowbit::index_t bins = read_count("the number of frequency bins");
    add_next("whisper.mel_filters", lowbit::element_type::f32, {mels, bins});
  }

  void read_vocabulary() {
    const lowbit::index_t tokens = read_count("the number of tokens");
    const auto start = rest_;
    for (lowbit::index_t i = 0; i < tokens; ++i) {
      take(read<std::uint32_t>("the length of a token"), "a token");
    }
    const auto bytes = start.first(start.size() - rest_.size());
    tensors_.push_back({"whisper.vocabulary", lowbit::element_type::u8, {bytes.size()}, bytes});
  }

  void read_tensor() {
    const lowbit::index_t dimensions = read_count("the number of dimensions");
    const lowbit::index_t name_length = read_count("the length of a tensor's name");
    const auto type = read<std::int32_t>("the type of a tensor");
    LOWBIT_CHECK(dimensions >= 1 && dimensions <= 4, format, label_, ": a tensor has ", dimensions,
                 " dimensions");
    std::vector<lowbit::index_t> shape(dimensions);
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) {  // fastest first
      *extent = read_count("an extent");
    }
    LOWBIT_CHECK(name_length <= max_name_length, format, label_, ": a tensor's name has ",
                 name_length, " bytes");
    const auto name_bytes = take(name_length, "a tensor's name");
    std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());
    LOWBIT_CHECK(type == 0 || type == 1, format, label_, ": tensor '", name, "' has type ", type,
                 "; known are 0 (f32) and 1 (f16)");
    const auto element = type == 0 ? lowbit::element_type::f32 : lowbit::element_type::f16;
    add_next(std::move(name), element, std::move(shape));
  }

  lowbit::io::mapped_file file_;
  std::string label_;
  std::span<const std::byte> rest_;  // what is not parsed yet
  std::vector<lowbit::io::stored_tensor> tensors_;
};

}  // namespace examples
