// io/mapped_file.hpp: a regular file as read-only bytes in memory. Layer L4.
//
// Invariants: the bytes are those of the file when it was opened, as long as nobody else writes to
// or cuts the file meanwhile (that is undefined: a file which is cut makes a later read fail with
// SIGBUS; lowbit's own writers never do it, they replace files by rename). No copy is made: pages
// come in when they are read.
#pragma once

#include <sys/mman.h>

#include <functional>

#include "lowbit/io/detail/posix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// Owns the mapping of one file. Const members may be called from several threads at once.
class mapped_file {
 public:
  /// No bytes.
  mapped_file() noexcept = default;
  /// Maps the whole file; an empty file gives no bytes. Refuses (error_kind::system) what cannot be
  /// opened or mapped and what is not a regular file; the message holds path and cause.
  explicit mapped_file(const std::filesystem::path& path) {
    const detail::file_descriptor fd = detail::open_to_read(path);
    const index_t size = detail::regular_file_size(fd, path);
    if (size == 0) return;  // mmap refuses length 0
    void* const start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    detail::check_system(start != MAP_FAILED, "map", path);
    bytes_ = {static_cast<const std::byte*>(start), size};
  }
  mapped_file(mapped_file&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~mapped_file() {
    if (!bytes_.empty()) static_cast<void>(::munmap(address_of(bytes_.data()), bytes_.size()));
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

  /// Lets the system take back the memory of the pages that `part` touches: a reader that does this
  /// after each tensor stays small however large the file is. The bytes stay readable (the pages
  /// come back from the file), so it is safe while other threads read. A part that does not lie in
  /// this mapping is left alone.
  void release_pages(std::span<const std::byte> part) const noexcept {
    if (part.empty() || !contains(part)) return;
    const auto page = static_cast<index_t>(::sysconf(_SC_PAGESIZE));
    // The mapping starts at a page, so rounding the offset down stays inside it.
    const auto offset = static_cast<index_t>(part.data() - bytes_.data());
    const index_t begin = offset - offset % page;
    const index_t length = offset + part.size() - begin;
    static_cast<void>(::madvise(address_of(bytes_.data() + begin), length, MADV_DONTNEED));
  }

 private:
  /// The system's calls take a plain pointer, also where they do not write.
  [[nodiscard]] static void* address_of(const std::byte* byte) noexcept {
    return const_cast<std::byte*>(byte);
  }
  /// std::less, unlike <, is defined for pointers into different objects.
  [[nodiscard]] bool contains(std::span<const std::byte> part) const noexcept {
    constexpr std::less<const std::byte*> before;
    return !bytes_.empty() && !before(part.data(), bytes_.data()) &&
           !before(bytes_.data() + bytes_.size(), part.data() + part.size());
  }

  std::span<const std::byte> bytes_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
