// io/detail/checkpoint_directory.hpp: what a checkpoint holds, out of the header of its file.
// Layer L4, private.
//
// Invariants: every entry of the file belongs to exactly one tensor; in a checkpoint every entry
// has a well-formed checksum; no two tensors have the same name.
#pragma once

#include <optional>

#include "lowbit/io/checksum.hpp"
#include "lowbit/io/detail/checkpoint_record.hpp"
#include "lowbit/io/safetensors_reader.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// One tensor of a checkpoint, quantized or plain.
struct checkpoint_entry {
  std::string name;
  std::string format;                         ///< of a quantized tensor; "" for a plain one
  std::uint32_t version = 0;                  ///< of the format
  std::vector<index_t> shape;                 ///< {N, K} of a quantized tensor
  std::string params_json;                    ///< of the format
  std::vector<const stored_tensor*> buffers;  ///< of a plain tensor: itself
  std::uint64_t bits = 0;                     ///< all that is stored of it

  [[nodiscard]] bool is_quantized() const noexcept { return !format.empty(); }
};

namespace detail {

/// The text after `prefix` in `key`, if that is how the key starts.
[[nodiscard]] inline std::optional<std::string_view> after(std::string_view prefix,
                                                           std::string_view key) {
  if (!key.starts_with(prefix)) return std::nullopt;
  return key.substr(prefix.size());
}

/// The position of an entry in the file: what the vectors below are indexed by.
[[nodiscard]] inline index_t position(const safetensors_reader& file,
                                      const stored_tensor& entry) noexcept {
  return static_cast<index_t>(&entry - file.tensors().data());
}

/// "FILE: tensor 'NAME'": the start of a message.
[[nodiscard]] inline std::string where(const safetensors_reader& file, std::string_view tensor) {
  return message(file.label(), ": tensor ", in_quotes(tensor));
}

struct checkpoint_directory {
  bool is_checkpoint = false;
  std::vector<checkpoint_entry> entries;  ///< in the order of their bytes; without buffers: last
  name_index index;                       ///< of the entries
  std::vector<std::uint64_t> checksums;   ///< by position in the file; none in a plain file
};

/// Makes the directory of one file.
class directory_builder {
 public:
  explicit directory_builder(const safetensors_reader& file) : file_(file) {}

  [[nodiscard]] checkpoint_directory build() {
    out_.is_checkpoint = check_version();
    std::vector<checkpoint_entry> quantized = read_records();
    if (out_.is_checkpoint) read_checksums();
    merge(std::move(quantized));
    const checkpoint_entry* const twice = out_.index.build(out_.entries);
    LOWBIT_CHECK(twice == nullptr, format, where(file_, twice->name),
                 " is there plain and quantized");
    return std::move(out_);
  }

 private:
  /// Whether the file is a checkpoint, of a version that can be read.
  [[nodiscard]] bool check_version() const {
    const auto found = file_.metadata().find(version_key);
    if (found == file_.metadata().end()) return false;
    const std::string& text = found->second;
    std::uint32_t version = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), version);
    LOWBIT_CHECK(failure == std::errc() && version != 0 && message(version) == text, format,
                 file_.label(), ": ", version_key, " is ", in_quotes(text),
                 ", which is no version number");
    LOWBIT_CHECK(version <= checkpoint_version, format, file_.label(),
                 " was written by a newer lowbit: its format has version ", version,
                 ", this library reads up to ", checkpoint_version);
    return true;
  }

  /// The quantized tensors, in order of names. Refuses keys of the library that are not its own.
  [[nodiscard]] std::vector<checkpoint_entry> read_records() {
    std::vector<checkpoint_entry> quantized;
    owners_.resize(file_.tensors().size(), no_owner);
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(key_prefix)) continue;
      LOWBIT_CHECK(out_.is_checkpoint, format, file_.label(), ": there is the metadata key ",
                   in_quotes(key), ", but no ", version_key);
      if (const auto name = after(tensor_prefix, key)) {
        quantized.push_back(read_record(*name, value, quantized.size()));
      } else {
        check_other_key(key);
      }
    }
    return quantized;
  }
  void check_other_key(std::string_view key) const {
    if (const auto name = after(checksum_prefix, key)) {
      LOWBIT_CHECK(file_.find(*name) != nullptr, format, file_.label(), ": there is a checksum of ",
                   in_quotes(*name), ", but no such entry");
      return;
    }
    LOWBIT_CHECK(key == version_key || key.starts_with(provenance_prefix), format, file_.label(),
                 ": unknown metadata key ", in_quotes(key));
  }

  /// One record, whose buffers are marked as belonging to quantized tensor number `number`.
  [[nodiscard]] checkpoint_entry read_record(std::string_view name, std::string_view text,
                                             index_t number) {
    check_name(name, file_.label());
    tensor_record record = parse_record(text, where(file_, name) + ": its record");
    LOWBIT_CHECK(!record.format.empty(), format, where(file_, name), ": format is empty");
    checkpoint_entry out{.name = std::string(name),
                         .format = std::move(record.format),
                         .version = record.version,
                         .shape = {record.shape.rows, record.shape.cols},
                         .params_json = std::move(record.params_json),
                         .buffers = {},
                         .bits = 0};
    for (const std::string& buffer : record.buffers) {
      const stored_tensor& stored = claim(name, buffer, number);
      out.buffers.push_back(&stored);
      out.bits += 8 * stored.bytes.size();
    }
    return out;
  }
  const stored_tensor& claim(std::string_view name, std::string_view buffer, index_t number) {
    const std::string wanted = buffer_entry(name, buffer);
    const stored_tensor* const stored = file_.find(wanted);
    LOWBIT_CHECK(stored != nullptr, format, where(file_, name), ": buffer ", in_quotes(buffer),
                 " is listed, but there is no entry ", in_quotes(wanted));
    index_t& owner = owners_[position(file_, *stored)];
    LOWBIT_CHECK(owner == no_owner, format, where(file_, name), ": the entry ", in_quotes(wanted),
                 " is listed twice");
    owner = number;
    return *stored;
  }

  void read_checksums() {
    out_.checksums.reserve(file_.tensors().size());
    for (const stored_tensor& tensor : file_.tensors()) {
      const auto found = file_.metadata().find(join(checksum_prefix, tensor.name));
      LOWBIT_CHECK(found != file_.metadata().end(), format, where(file_, tensor.name),
                   ": the checksum is missing");
      out_.checksums.push_back(parse_checksum(found->second, where(file_, tensor.name)));
    }
  }

  /// Fills the entries in the order of the file: a quantized tensor where its first buffer lies.
  void merge(std::vector<checkpoint_entry> quantized) {
    const auto plain = std::count(owners_.begin(), owners_.end(), no_owner);
    out_.entries.reserve(static_cast<index_t>(plain) + quantized.size());
    std::vector<bool> done(quantized.size(), false);
    const auto put = [&](index_t number) {
      if (!done[number]) out_.entries.push_back(std::move(quantized[number]));
      done[number] = true;
    };
    for (const stored_tensor& tensor : file_.tensors()) {
      const index_t owner = owners_[position(file_, tensor)];
      if (owner == no_owner) {
        out_.entries.push_back(plain_entry(tensor));
      } else {
        put(owner);
      }
    }
    for (index_t number = 0; number < quantized.size(); ++number) put(number);
  }
  [[nodiscard]] static checkpoint_entry plain_entry(const stored_tensor& tensor) {
    return {.name = tensor.name,
            .format = {},
            .version = 0,
            .shape = tensor.shape,
            .params_json = {},
            .buffers = {&tensor},
            .bits = 8 * std::uint64_t{tensor.bytes.size()}};
  }

  static constexpr index_t no_owner = static_cast<index_t>(-1);

  const safetensors_reader& file_;
  checkpoint_directory out_;
  std::vector<index_t> owners_;  // by position in the file: the quantized tensor that lists it
};

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
