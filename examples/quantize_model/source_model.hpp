// source_model.hpp: a model file as a list of stored tensors, whatever its container.
#pragma once

#include <memory>
#include <string_view>
#include <variant>
#include <vector>

#include "../common/whisper_file.hpp"
#include "lowbit/io/safetensors.hpp"

namespace quantize_model {

/// A safetensors file or a Whisper ggml file, told apart by their first bytes. Tensors are views
/// into the mapped file.
class source_model {
 public:
  explicit source_model(const std::filesystem::path& path) : file_(open(path)) {}

  [[nodiscard]] const std::vector<lowbit::io::stored_tensor>& tensors() const {
    return std::visit(
        [](const auto& file) -> const auto& { return file.tensors(); }, file_);
  }
  /// The tensor with this name, or null.
  [[nodiscard]] const lowbit::io::stored_tensor* find(std::string_view name) const {
    for (const auto& tensor : tensors()) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  /// Gives the memory of a tensor's pages back to the system; the tensor stays readable.
  void release_pages(const lowbit::io::stored_tensor& tensor) const {
    std::visit([&](const auto& file) { file.release_pages(tensor); }, file_);
  }

 private:
  using any_file = std::variant<lowbit::io::safetensors_reader, examples::whisper_file>;

  static any_file open(const std::filesystem::path& path) {
    if (examples::whisper_file::has_magic(lowbit::io::mapped_file(path).bytes())) {
      return examples::whisper_file(path);
    }
    return lowbit::io::safetensors_reader::open(path);
  }

  any_file file_;
};

}  // namespace quantize_model
