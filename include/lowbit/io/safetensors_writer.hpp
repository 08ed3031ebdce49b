// io/safetensors_writer.hpp: writes a safetensors file tensor by tensor. Layer L4.
//
// The header of a safetensors file comes first and names every offset, so it can only be written
// last: the data is collected in a nameless file beside the target and copied behind the header by
// finish(). That takes twice the room on disk for a while, and memory for one chunk.
//
// Invariants: the same calls give the same bytes; the target is untouched until finish() is through
// (io/atomic_file.hpp); what is written is what safetensors_reader accepts.
#pragma once

#include <filesystem>
#include <map>

#include "lowbit/io/atomic_file.hpp"
#include "lowbit/io/detail/safetensors_header.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

namespace detail {

/// Bytes that are collected on disk, in a file that has no name and so vanishes with its process.
class spool_file {
 public:
  /// Lies in the folder of `target`, so that a lack of room or rights shows before the work is
  /// done.
  explicit spool_file(const std::filesystem::path& target) : target_(target) {
    new_file made = create_beside(target);
    check_system(::unlink(made.path.c_str()) == 0, "remove", made.path);
    fd_ = std::move(made.fd);
  }

  void append(std::span<const std::byte> bytes) {
    write_all(fd_, bytes, target_);
    size_ = checked_add(size_, bytes.size(), "bytes of a file");
  }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Writes everything to `out`.
  void copy_to(atomic_file& out) const {
    std::vector<std::byte> chunk(std::min<std::uint64_t>(size_, std::uint64_t{1} << 20U));
    for (std::uint64_t done = 0; done < size_;) {
      const ssize_t count = retry_interrupted(
          [&] { return ::pread(fd_.get(), chunk.data(), chunk.size(), static_cast<off_t>(done)); });
      check_system(count > 0, "read back data for", target_);
      out.write(std::span(chunk).first(static_cast<index_t>(count)));
      done += static_cast<std::uint64_t>(count);
    }
  }

 private:
  std::filesystem::path target_;
  file_descriptor fd_;
  std::uint64_t size_ = 0;
};

/// Where a writer is in its life. A step that throws leaves it `failed`: what it holds may be half
/// of something, so it refuses to go on.
enum class writer_state { open, failed, finished };

/// Marks one step of a writer. The writer counts as failed until done() is called.
class writer_step {
 public:
  writer_step(writer_state& state, const std::filesystem::path& target) : state_(state) {
    LOWBIT_CHECK(state != writer_state::finished, value, "'", target.native(),
                 "' is written and closed: nothing can be added");
    LOWBIT_CHECK(state != writer_state::failed, value, "'", target.native(),
                 "' cannot be written on after an error");
    state_ = writer_state::failed;
  }
  void done(writer_state next = writer_state::open) noexcept { state_ = next; }

 private:
  writer_state& state_;
};

}  // namespace detail

/// Writes one safetensors file. For one thread. If finish() is not reached, nothing appears under
/// the path. After an error every further call is refused (error_kind::value).
class safetensors_writer {
 public:
  /// Starts a file that finish() will put at `path`, replacing what is there. Refuses
  /// (error_kind::system) a folder that cannot be written to, and a path that exists and is not a
  /// regular file.
  explicit safetensors_writer(std::filesystem::path path)
      : path_(detail::replaceable(std::move(path))), spool_(path_) {}

  /// Appends a tensor. Tensors lie in the file in the order of these calls, without padding: to
  /// keep them aligned, add those with wide elements first. Refuses a name that is taken, empty,
  /// longer than 4096 bytes or not printable UTF-8 (format), bytes that are not what type and shape
  /// imply (shape), and a full disk (system).
  void add(std::string_view name, element_type type, std::span<const index_t> shape,
           std::span<const std::byte> bytes) {
    detail::writer_step step(state_, path_);
    check_entry(name, type, shape, bytes);
    const std::uint64_t begin = spool_.size();
    spool_.append(bytes);
    entries_.emplace(name, entry_text(type, shape, begin, spool_.size()));
    step.done();
  }
  [[nodiscard]] bool contains(std::string_view name) const { return entries_.contains(name); }

  /// Sets a text of the header, replacing an earlier one. Refuses (format) what is not UTF-8.
  void set_metadata(std::string_view key, std::string_view value) {
    detail::writer_step step(state_, path_);
    const std::string label = detail::message("'", path_.native(), "': metadata ");
    detail::check_json_text(key, detail::message(label, "key ", detail::in_quotes(key)));
    detail::check_json_text(value, label + detail::in_quotes(key));
    metadata_.insert_or_assign(std::string(key), std::string(value));
    step.done();
  }

  /// Puts the file at its path, flushed to disk. To be called once, last. Refuses (system) when
  /// the disk is full; then the path keeps what it had.
  void finish() {
    detail::writer_step step(state_, path_);
    const std::string header = header_text();
    atomic_file file(path_);
    const std::uint64_t length = header.size();
    file.write(std::as_bytes(std::span(&length, 1)));
    file.write(std::as_bytes(std::span(header)));
    spool_.copy_to(file);
    file.commit();
    step.done(detail::writer_state::finished);
  }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void check_entry(std::string_view name, element_type type, std::span<const index_t> shape,
                   std::span<const std::byte> bytes) const {
    detail::check_name(name, path_.native());
    const std::string label =
        detail::message("'", path_.native(), "': tensor ", detail::in_quotes(name));
    LOWBIT_CHECK(name != detail::metadata_key, format, label, ": the name is reserved");
    LOWBIT_CHECK(!contains(name), format, label, " is there already");
    LOWBIT_CHECK(shape.size() <= detail::max_dimensions, shape, label, " has ", shape.size(),
                 " dimensions, more than ", detail::max_dimensions);
    const auto expected = detail::byte_size(shape, type, label + ": bytes of the shape");
    LOWBIT_CHECK(bytes.size() == expected, shape, label, ": ", bytes.size(), " bytes given, but ",
                 dtype_name(type), " x ", detail::shape_text(shape), " takes ", expected);
  }

  [[nodiscard]] static std::string entry_text(element_type type, std::span<const index_t> shape,
                                              std::uint64_t begin, std::uint64_t end) {
    std::string extents;
    for (const index_t extent : shape) {
      extents.append(extents.empty() ? "" : ",").append(detail::message(extent));
    }
    return detail::message("{\"dtype\":\"", dtype_name(type), "\",\"shape\":[", extents,
                           "],\"data_offsets\":[", begin, ",", end, "]}");
  }

  /// The header, padded with blanks so that the data starts at a multiple of 64 in the file.
  [[nodiscard]] std::string header_text() const {
    std::string text = "{";
    const auto append = [&text](const std::string& key, const std::string& value) {
      if (text.size() > 1) text += ',';
      text += detail::json_string(key) + ":" + value;
    };
    if (!metadata_.empty()) {
      append(std::string(detail::metadata_key), detail::json(metadata_).dump());
    }
    for (const auto& [name, entry] : entries_) append(name, entry);
    text += '}';
    constexpr index_t alignment = 64;
    const index_t unpadded = sizeof(std::uint64_t) + text.size();
    text.append(div_up(unpadded, alignment) * alignment - unpadded, ' ');
    LOWBIT_CHECK(text.size() <= detail::max_header_bytes, format, "'", path_.native(),
                 "': the header would have ", text.size(), " bytes, more than ",
                 detail::max_header_bytes);
    return text;
  }

  std::filesystem::path path_;
  detail::spool_file spool_;
  std::map<std::string, std::string, std::less<>> entries_;  // name -> its JSON, sorted
  metadata_map metadata_;
  detail::writer_state state_ = detail::writer_state::open;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
