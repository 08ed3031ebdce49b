// A fuzz target for everything that reads a file: whatever the bytes, the only way out of the
// readers is an answer or a lowbit::error.
#include <cstdint>
#include <string>

#include "../io/files.hpp"
#include "../io/read_everything.hpp"
#include "lowbit/formats/all.hpp"

namespace {

using lowbit_test::byte_vector;

template <class Run>
void allow_refusal(Run&& run) {
  try {
    run();
  } catch (const lowbit::error&) {
  }
}

/// Reads the file as a checkpoint, once with each list of formats: a file of the one is refused by
/// the other.
void read_as_checkpoint(std::span<const std::byte> file) {
  allow_refusal([file] {
    const auto reader = lowbit::io::checkpoint_reader::parse(file, "fuzz");
    allow_refusal([&] { lowbit_test::read_checkpoint<lowbit_test::toy_list>(reader); });
    allow_refusal([&] { lowbit_test::read_checkpoint<lowbit::formats::all>(reader); });
  });
}

/// Writes the checksums that the data has over those in the header. No mutation would ever hit a
/// fitting one, and so none would ever reach what comes after.
void repair_checksums(byte_vector& file) {
  const auto reader = lowbit::io::safetensors_reader::parse(file, "fuzz");
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  for (const auto& tensor : reader.tensors()) {
    const std::string key = "\"lowbit.checksum." + tensor.name + "\":\"";
    const std::string fitting = lowbit::io::checksum_text(lowbit::io::checksum(tensor.bytes));
    const std::size_t at = text.find(key);
    if (at == std::string_view::npos || file.size() - at < key.size() + fitting.size()) continue;
    std::memcpy(file.data() + at + key.size(), fitting.data(), fitting.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  allow_refusal(
      [file] { lowbit_test::read_tensors(lowbit::io::safetensors_reader::parse(file, "fuzz")); });
  read_as_checkpoint(file);
  allow_refusal([file] {
    byte_vector repaired(file.begin(), file.end());
    repair_checksums(repaired);
    read_as_checkpoint(repaired);
  });
  return 0;
}
