// tests/io/files.hpp: bytes, files and temporary folders for the tests of io. Free of Catch2,
// because the fuzz target and its corpus use it too.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace lowbit_test {

using byte_vector = std::vector<std::byte>;

/// A folder that is removed with all that is in it.
class temporary_folder {
 public:
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lowbit-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const {
    return path_ / name;
  }
  /// Everything in it, hidden files too.
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline byte_vector read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto view = as_bytes(text);
  return {view.begin(), view.end()};
}

inline void write_file(const std::filesystem::path& path, std::span<const std::byte> content) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(content.data()),
            static_cast<std::streamsize>(content.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

/// A safetensors file in its two parts.
struct parts {
  std::string header;
  byte_vector data;
};

inline byte_vector assemble(const parts& file) {
  byte_vector out(sizeof(std::uint64_t) + file.header.size());
  const std::uint64_t length = file.header.size();
  std::memcpy(out.data(), &length, sizeof length);
  std::memcpy(out.data() + sizeof length, file.header.data(), file.header.size());
  out.insert(out.end(), file.data.begin(), file.data.end());
  return out;
}

/// The parts of a file that is well-formed.
inline parts disassemble(std::span<const std::byte> file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  const auto header = file.subspan(sizeof length, length);
  const auto data = file.subspan(sizeof length + length);
  return {{reinterpret_cast<const char*>(header.data()), header.size()},
          {data.begin(), data.end()}};
}

/// `text` with the first `from` replaced; a `from` that is not there is a mistake of the test.
inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error("not in the text: " + std::string(from));
  return text.replace(at, from.size(), to);
}

}  // namespace lowbit_test
