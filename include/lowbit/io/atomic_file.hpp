// io/atomic_file.hpp: a file that appears under its name whole, or not at all. Layer L4.
//
// Invariants: until commit() the target is untouched, whatever happens, power loss included. After
// it, the target is the new file, on stable storage. A process that is killed before the end of
// commit() leaves at most a hidden file ".NAME.tmp-XXXXXX" beside the target.
#pragma once

#include "lowbit/io/detail/posix.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// Writes a new file in the folder of its target and moves it there at the end. For one thread.
class atomic_file {
 public:
  /// Starts the file. Its permissions are those of a new file (0666 less the umask), also where the
  /// target exists. A symbolic link at `target` is replaced, not followed. Refuses
  /// (error_kind::system) a target that exists and is not a regular file, and a folder in which no
  /// file can be made.
  explicit atomic_file(std::filesystem::path target)
      : target_(detail::replaceable(std::move(target))), file_(detail::create_beside(target_)) {}
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  /// Removes what was written, unless commit() went through.
  ~atomic_file() {
    if (!file_.path.empty()) static_cast<void>(::unlink(file_.path.c_str()));
  }

  /// Appends. Refuses (error_kind::system) when the system does, such as on a full disk.
  void write(std::span<const std::byte> bytes) { detail::write_all(file_.fd, bytes, target_); }

  /// Flushes the file, moves it to the target and flushes the folder. To be called once, last.
  void commit() {
    const int synced = detail::retry_interrupted([&] { return ::fsync(file_.fd.get()); });
    detail::check_system(synced == 0, "flush", target_);
    detail::check_system(file_.fd.close(), "close", target_);
    detail::check_system(::rename(file_.path.c_str(), target_.c_str()) == 0, "replace", target_);
    file_.path.clear();  // it has moved: nothing is left to remove
    detail::sync_folder(detail::folder_of(target_));
  }

 private:
  std::filesystem::path target_;
  detail::new_file file_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
