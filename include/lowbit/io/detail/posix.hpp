// io/detail/posix.hpp: the few POSIX calls that io needs, with errors that say what failed on which
// path and why. Layer L4, private.
//
// Invariants: every descriptor is close-on-exec and owned by one file_descriptor; every failed call
// becomes an error of kind `system`; calls that a signal interrupts are repeated.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "lowbit/core/random.hpp"
#include "lowbit/io/detail/text.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail {

/// Refuses with "cannot ACTION 'PATH': REASON", the reason being errno's, unless `ok`.
inline void check_system(bool ok, std::string_view action, const std::filesystem::path& path) {
  LOWBIT_CHECK(ok, system, "cannot ", action, " '", path.native(),
               "': ", std::generic_category().message(errno));
}

/// Calls a function that returns -1 with EINTR when a signal interrupts it until it is through.
template <class Call>
[[nodiscard]] auto retry_interrupted(Call&& call) {
  for (;;) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

/// Owns an open file descriptor, or none.
class file_descriptor {
 public:
  file_descriptor() noexcept = default;
  explicit file_descriptor(int fd) noexcept : fd_(fd) {}
  file_descriptor(file_descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~file_descriptor() { static_cast<void>(close()); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  /// Closes now; false (with errno) if the system reports that earlier writes were lost. Not
  /// repeated after EINTR: on Linux the descriptor is gone by then.
  [[nodiscard]] bool close() noexcept {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || ::close(fd) == 0 || errno == EINTR;
  }

 private:
  int fd_ = -1;
};

/// Opens an existing file or folder to read. O_NONBLOCK keeps a FIFO from blocking the open.
[[nodiscard]] inline file_descriptor open_to_read(const std::filesystem::path& path) {
  const int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  file_descriptor fd(retry_interrupted([&] { return ::open(path.c_str(), flags); }));
  check_system(fd.get() >= 0, "open", path);
  return fd;
}

/// The size of the regular file that `fd` is; anything else is refused.
[[nodiscard]] inline index_t regular_file_size(const file_descriptor& fd,
                                               const std::filesystem::path& path) {
  struct stat status {};
  check_system(::fstat(fd.get(), &status) == 0, "inspect", path);
  LOWBIT_CHECK(S_ISREG(status.st_mode), system, "cannot read '", path.native(),
               "': it is not a regular file");
  return static_cast<index_t>(status.st_size);
}

/// Writes all of `bytes` at the descriptor's position. `path` is what the message names.
inline void write_all(const file_descriptor& fd, std::span<const std::byte> bytes,
                      const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written =
        retry_interrupted([&] { return ::write(fd.get(), bytes.data(), bytes.size()); });
    check_system(written >= 0, "write", path);
    bytes = bytes.subspan(static_cast<index_t>(written));
  }
}

/// The folder that holds `path`.
[[nodiscard]] inline std::filesystem::path folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? "." : folder;
}

/// `path`, unless it must not be replaced by a new file: it names no file, or exists and is not a
/// regular file. Without this, `-o /dev/null` run as root would replace the device.
[[nodiscard]] inline std::filesystem::path replaceable(std::filesystem::path path) {
  const std::filesystem::path name = path.filename();
  LOWBIT_CHECK(!name.empty() && name != "." && name != "..", system, "cannot write '",
               path.native(), "': it names no file");
  std::error_code unknown;  // then creating the file beside it fails, with the reason
  const auto status = std::filesystem::status(path, unknown);
  LOWBIT_CHECK(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), system,
               "cannot write '", path.native(), "': it exists and is not a regular file");
  return path;
}

/// ".NAME.tmp-XXXXXX" for the name of `target`, which is cut where the whole would be longer than a
/// folder entry may be. Six letters of 32 give a billion names.
[[nodiscard]] inline std::string temporary_name(const std::filesystem::path& target,
                                                std::uint64_t random) {
  constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyz234567";
  std::string name =
      lowbit::detail::message(".", target.filename().native().substr(0, 200), ".tmp-");
  for (int i = 0; i < 6; ++i, random >>= 5U) name += letters[random & 31U];
  return name;
}

/// A new file and where it lies.
struct new_file {
  file_descriptor fd;
  std::filesystem::path path;
};

/// Creates an empty file in the folder of `target`, open to read and write, under a name that did
/// not exist. Its permissions are those of any new file (0666 less the umask), which mkstemp does
/// not offer and which cannot be had afterwards without changing the umask of the process.
[[nodiscard]] inline new_file create_beside(const std::filesystem::path& target) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  const auto seed =
      random_bits(static_cast<std::uint64_t>(now), static_cast<std::uint64_t>(::getpid()));
  constexpr std::uint64_t attempts = 100;  // a name that is taken is one chance in a billion
  new_file made;
  for (std::uint64_t i = 0; i < attempts && made.fd.get() < 0; ++i) {
    made.path = folder_of(target) / temporary_name(target, random_bits(seed, i));
    const int flags = O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC;
    made.fd =
        file_descriptor(retry_interrupted([&] { return ::open(made.path.c_str(), flags, 0666); }));
    if (made.fd.get() < 0 && errno != EEXIST) break;
  }
  check_system(made.fd.get() >= 0, "create a file beside", target);
  return made;
}

/// Makes the entries of a folder durable. File systems that cannot do that say EINVAL: then there
/// is nothing more to ask for.
inline void sync_folder(const std::filesystem::path& folder) {
  const file_descriptor fd = open_to_read(folder);
  const int result = retry_interrupted([&] { return ::fsync(fd.get()); });
  check_system(result == 0 || errno == EINVAL, "flush folder", folder);
}

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io::detail
