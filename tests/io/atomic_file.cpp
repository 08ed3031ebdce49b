// Whatever happens while a file is written, its name shows the old file or the whole new one.
#include "lowbit/io/atomic_file.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "catch.hpp"
#include "child.hpp"
#include "files.hpp"
#include "lowbit/io/safetensors_writer.hpp"

namespace lowbit_test {
namespace {

using lowbit::io::atomic_file;
using lowbit::io::safetensors_writer;

const byte_vector old_content(100, std::byte{'o'});
const byte_vector chunk(1 << 16, std::byte{'n'});

void add_tensor(safetensors_writer& writer, const std::string& name) {
  const lowbit::index_t shape[] = {chunk.size()};
  writer.add(name, lowbit::element_type::u8, shape, chunk);
}

TEST_CASE("a committed file has what was written, and nothing lies beside it") {
  const temporary_folder folder;
  for (int round = 0; round < 2; ++round) {  // the second time the target exists
    atomic_file file(folder / "f");
    file.write(as_bytes("hello "));
    file.write({});
    file.write(as_bytes("world"));
    file.commit();
    CHECK(read_file(folder / "f").size() == 11);
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("without commit the target keeps its content and nothing is left") {
  const temporary_folder folder;
  write_file(folder / "f", old_content);
  {
    atomic_file file(folder / "f");
    file.write(chunk);
    atomic_file other(folder / "new");
    CHECK(folder.files() == 3);
  }
  CHECK(read_file(folder / "f") == old_content);
  CHECK(folder.files() == 1);
}

TEST_CASE("a new file has the permissions that the umask leaves, also over an existing one") {
  const temporary_folder folder;
  const mode_t before = ::umask(027);
  write_file(folder / "f", old_content);
  ::chmod((folder / "f").c_str(), 0600);
  {
    atomic_file file(folder / "f");
    file.commit();
  }
  ::umask(before);
  struct stat status {};
  REQUIRE(::stat((folder / "f").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777U) == 0640U);
}

TEST_CASE("targets that must not be replaced are refused before anything is written") {
  const temporary_folder folder;
  const auto message = [](const std::filesystem::path& path) {
    return message_of<lowbit::system_error>([&] { atomic_file file(path); });
  };
  const std::string itself = folder.path().string();
  CHECK(message("/dev/null") == "cannot write '/dev/null': it exists and is not a regular file");
  CHECK(message(itself) == "cannot write '" + itself + "': it exists and is not a regular file");
  CHECK(message(itself + "/") == "cannot write '" + itself + "/': it names no file");
  CHECK(message(itself + "/..") == "cannot write '" + itself + "/..': it names no file");
  CHECK(message("") == "cannot write '': it names no file");
  const std::string nowhere = (folder / "no/such/file").string();
  CHECK(message(nowhere) ==
        "cannot create a file beside '" + nowhere + "': No such file or directory");
  write_file(folder / "f", old_content);
  const std::string below = (folder / "f/g").string();
  CHECK(message(below) == "cannot create a file beside '" + below + "': Not a directory");
}

TEST_CASE("a name as long as a folder entry may be can be written") {
  const temporary_folder folder;
  atomic_file file(folder / std::string(255, 'n'));
  file.commit();
  CHECK(std::filesystem::exists(folder / std::string(255, 'n')));
}

TEST_CASE("a symbolic link is replaced, not followed") {
  const temporary_folder folder;
  write_file(folder / "real", old_content);
  std::filesystem::create_symlink("real", folder / "link");
  {
    atomic_file file(folder / "link");
    file.commit();
  }
  CHECK(read_file(folder / "real") == old_content);
  CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(folder / "link")));
}

TEST_CASE("a folder that may not be written to is refused") {
  const temporary_folder folder;
  child unprivileged([&](auto report) {
    ::chmod(folder.path().c_str(), 0555);
    if (::geteuid() == 0 && ::setuid(65534) != 0) return report("cannot become nobody");
    atomic_file file(folder / "f");
    report("opened");
  });
  CHECK(unprivileged.report() ==
        "cannot create a file beside '" + (folder / "f").string() + "': Permission denied");
  ::chmod(folder.path().c_str(), 0700);
}

TEST_CASE("a write that the system refuses half-way is an error that names the target") {
  // A limit on the size of files stands for a full disk: write() is short, then fails.
  const temporary_folder folder;
  write_file(folder / "f", old_content);
  const auto limit_files = [](rlim_t size) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{size, size};
    static_cast<void>(::setrlimit(RLIMIT_FSIZE, &limit));
  };
  const std::string cause = "cannot write '" + (folder / "f").string() + "': File too large";
  SECTION("in an atomic file") {
    child limited([&](auto) {
      limit_files(100000);
      atomic_file file(folder / "f");
      for (;;) file.write(chunk);
    });
    CHECK(limited.report() == cause);
  }
  SECTION("while tensors are added, after which the writer refuses to go on") {
    child limited([&](auto report) {
      limit_files(100000);
      safetensors_writer writer(folder / "f");
      add_tensor(writer, "a");
      report(message_of([&] { add_tensor(writer, "b"); }));
      writer.finish();
    });
    CHECK(limited.report() == cause);
    CHECK(limited.report() ==
          "'" + (folder / "f").string() + "' cannot be written on after an error");
  }
  SECTION("while the header is put before the tensors") {
    child limited([&](auto) {
      limit_files(chunk.size());
      safetensors_writer writer(folder / "f");
      add_tensor(writer, "a");
      writer.finish();
    });
    CHECK(limited.report() == cause);
  }
  CHECK(read_file(folder / "f") == old_content);
  CHECK(folder.files() == 1);
}

TEST_CASE("a process that is killed while it writes leaves the old file, or none") {
  const temporary_folder folder;
  const bool exists = GENERATE(false, true);
  if (exists) write_file(folder / "f", old_content);
  child writing([&](auto report) {
    safetensors_writer writer(folder / "f");
    for (int i = 0;; ++i) {
      add_tensor(writer, std::to_string(i));
      if (i == 3) report("some are written");
    }
  });
  REQUIRE(writing.report() == "some are written");
  writing.kill();
  CHECK(folder.files() == (exists ? 1 : 0));  // the data had no name
  if (exists) CHECK(read_file(folder / "f") == old_content);
}

TEST_CASE("a process that is killed at any time leaves the old file or the whole new one") {
  const temporary_folder folder;
  byte_vector whole;
  const auto write_new = [&] {
    safetensors_writer writer(folder / "f");
    for (int i = 0; i < 8; ++i) add_tensor(writer, std::to_string(i));
    writer.finish();
  };
  write_new();
  const byte_vector new_content = read_file(folder / "f");
  for (int round = 0; round < 40; ++round) {
    write_file(folder / "f", old_content);
    child writing([&](auto report) {
      report("starts");
      write_new();
    });
    REQUIRE(writing.report() == "starts");
    std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
    writing.kill();
    const byte_vector found = read_file(folder / "f");
    INFO(round);
    CHECK((found == old_content || found == new_content));
  }
}

}  // namespace
}  // namespace lowbit_test
