// io/safetensors_reader.hpp: the tensors of a safetensors file, as views of its bytes. Layer L4.
//
// The file is not trusted. It must be: 8 bytes header length, a header as in
// detail/safetensors_header.hpp, and data that the tensors tile without overlap, hole or rest.
//
// Invariants: once open, every view lies inside the file and has the size that its type and shape
// imply; opening reads the header only and allocates no more than about ten times its bytes.
#pragma once

#include <filesystem>

#include "lowbit/io/detail/name_index.hpp"
#include "lowbit/io/detail/safetensors_header.hpp"
#include "lowbit/io/mapped_file.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// Reads one safetensors file. Immutable once made: const members may be called from several
/// threads at once. Moving it keeps every view and pointer that it handed out valid.
class safetensors_reader {
 public:
  /// Maps the file. Refuses what cannot be opened (error_kind::system), what is not a safetensors
  /// file (format) and extents that overflow (shape); the message names file, tensor and cause.
  [[nodiscard]] static safetensors_reader open(const std::filesystem::path& path) {
    mapped_file file(path);
    const auto bytes = file.bytes();
    return safetensors_reader(std::move(file), bytes, path.native());
  }
  /// Reads a file that is in memory already and that must outlive the reader; `label` stands for
  /// its name in messages. Refuses as open() does.
  [[nodiscard]] static safetensors_reader parse(std::span<const std::byte> bytes,
                                                std::string_view label) {
    return safetensors_reader(mapped_file(), bytes, label);
  }

  /// In the order of their bytes in the file; empty tensors at the same place in order of names.
  [[nodiscard]] const std::vector<stored_tensor>& tensors() const noexcept { return tensors_; }
  /// The tensor with this name, or null.
  [[nodiscard]] const stored_tensor* find(std::string_view name) const {
    return index_.find(tensors_, name);
  }
  [[nodiscard]] const metadata_map& metadata() const noexcept { return metadata_; }
  /// What messages call the file.
  [[nodiscard]] const std::string& label() const noexcept { return label_; }
  /// Lets the system take back the memory of a tensor's pages; its bytes stay readable. Does
  /// nothing for bytes that the caller holds.
  void release_pages(const stored_tensor& tensor) const noexcept {
    file_.release_pages(tensor.bytes);
  }

 private:
  safetensors_reader(mapped_file file, std::span<const std::byte> bytes, std::string_view label)
      : file_(std::move(file)), label_(label) {
    const std::string_view header = header_text(bytes);
    const auto data = bytes.subspan(length_bytes + header.size());
    detail::header_content content = detail::parse_header(header, data, label_);
    tensors_ = std::move(content.tensors);
    metadata_ = std::move(content.metadata);
    sort_by_place();
    const stored_tensor* const twice = index_.build(tensors_);
    LOWBIT_CHECK(twice == nullptr, format, label_, ": tensor ", detail::in_quotes(twice->name),
                 " is there twice");
    check_tiling(data);
  }

  static constexpr index_t length_bytes = sizeof(std::uint64_t);

  [[nodiscard]] std::string_view header_text(std::span<const std::byte> bytes) const {
    LOWBIT_CHECK(bytes.size() >= length_bytes, format, label_, ": the file has ", bytes.size(),
                 " bytes, too few for the header length");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), length_bytes);
    LOWBIT_CHECK(length != 0, format, label_, ": the header length is 0");
    LOWBIT_CHECK(length <= detail::max_header_bytes, format, label_, ": the header length is ",
                 length, ", more than ", detail::max_header_bytes);
    LOWBIT_CHECK(length <= bytes.size() - length_bytes, format, label_, ": the header length is ",
                 length, ", but only ", bytes.size() - length_bytes, " bytes follow it");
    return {reinterpret_cast<const char*>(bytes.data()) + length_bytes, length};
  }

  void sort_by_place() {
    std::sort(tensors_.begin(), tensors_.end(), [](const stored_tensor& a, const stored_tensor& b) {
      if (a.bytes.data() != b.bytes.data()) return a.bytes.data() < b.bytes.data();
      if (a.bytes.size() != b.bytes.size()) return a.bytes.size() < b.bytes.size();
      return a.name < b.name;
    });
  }

  /// Every byte of the data belongs to exactly one tensor. Needs the tensors in order.
  void check_tiling(std::span<const std::byte> data) const {
    index_t covered = 0;
    for (const stored_tensor& tensor : tensors_) {
      const auto begin = static_cast<index_t>(tensor.bytes.data() - data.data());
      LOWBIT_CHECK(begin >= covered, format, label_, ": tensor ", detail::in_quotes(tensor.name),
                   " begins at data byte ", begin, " and overlaps another, which ends at ",
                   covered);
      LOWBIT_CHECK(begin == covered, format, label_, ": tensor ", detail::in_quotes(tensor.name),
                   " begins at data byte ", begin, ", but the bytes from ", covered,
                   " on belong to no tensor");
      covered += tensor.bytes.size();
    }
    LOWBIT_CHECK(covered == data.size(), format, label_, ": ", data.size() - covered,
                 " bytes at the end belong to no tensor");
  }

  mapped_file file_;
  std::string label_;
  std::vector<stored_tensor> tensors_;
  metadata_map metadata_;
  detail::name_index index_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
