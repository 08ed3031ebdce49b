// io/checkpoint_reader.hpp: reads quantized checkpoints. Layer L4.
//
// The file is not trusted: opening checks every record, name and checksum text; loading checks the
// checksums of what it loads, and that type and shape of every buffer are what the format wants.
//
// Invariants: knows the concept quantized_tensor and no format; a plain safetensors file opens too,
// with every tensor plain.
#pragma once

#include "lowbit/core/quantizer.hpp"
#include "lowbit/io/detail/checkpoint_directory.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// Reads one checkpoint. Immutable once made: const members may be called from several threads at
/// once. Moving it keeps every view and pointer that it handed out valid.
class checkpoint_reader {
 public:
  using entry = checkpoint_entry;

  /// Maps the file. Refuses what safetensors_reader::open() refuses, and (error_kind::format) a
  /// checkpoint of a newer version, with keys of the library that version 1 does not have, with a
  /// malformed record, a buffer that is missing or belongs to two tensors, a name that two tensors
  /// have, or an entry without a well-formed checksum. The data itself is not read.
  [[nodiscard]] static checkpoint_reader open(const std::filesystem::path& path) {
    return checkpoint_reader(safetensors_reader::open(path));
  }
  /// The same for a file in memory, which must outlive the reader; `label` stands for its name.
  [[nodiscard]] static checkpoint_reader parse(std::span<const std::byte> bytes,
                                               std::string_view label) {
    return checkpoint_reader(safetensors_reader::parse(bytes, label));
  }

  /// Whether the file says that lowbit wrote it. If not, it has plain tensors and no checksums.
  [[nodiscard]] bool is_quantized_checkpoint() const noexcept { return directory_.is_checkpoint; }
  /// In the order of their bytes in the file; tensors without buffers last.
  [[nodiscard]] const std::vector<entry>& entries() const noexcept { return directory_.entries; }
  /// The tensor with this name, or null.
  [[nodiscard]] const entry* find(std::string_view name) const {
    return directory_.index.find(directory_.entries, name);
  }
  /// The file underneath: every buffer and every text.
  [[nodiscard]] const safetensors_reader& file() const noexcept { return file_; }
  /// What set_provenance() wrote: key -> value.
  [[nodiscard]] metadata_map provenance() const {
    metadata_map out;
    for (const auto& [key, value] : file_.metadata()) {
      const auto name = detail::after(detail::provenance_prefix, key);
      if (name) out.emplace(*name, value);
    }
    return out;
  }

  /// Rebuilds a quantized tensor. Refuses (error_kind::format) a name that is not there or is
  /// plain, another format or version than T's, params that are not exactly those that the format
  /// describes or are outside their range, a buffer that is missing, superfluous or of another type
  /// or shape than T wants, and a checksum that does not fit.
  template <quantized_tensor T>
  [[nodiscard]] T load(std::string_view name) const {
    const entry& found = quantized(name);
    try {
      return rebuild<T>(found);
    } catch (const error& e) {  // what a format refuses does not say where
      lowbit::detail::fail(e.kind(), detail::message(where(name), ": ", e.what()));
    }
  }

  /// Loads a quantized tensor with the quantizer of `FormatList` that has its format, and calls
  /// f(tensor). Refuses (error_kind::format) a format that is not in the list, and as load() does.
  template <class FormatList, class F>
  void visit(std::string_view name, F&& f) const {
    const entry& found = quantized(name);
    const bool known = FormatList::visit(
        found.format, [&]<class Q>(std::type_identity<Q>) { f(load<typename Q::tensor>(name)); });
    LOWBIT_CHECK(known, format, where(name), " has the unknown format ",
                 detail::in_quotes(found.format), "; known are ", format_names<FormatList>());
  }

  /// A plain tensor, its checksum verified where the file is a checkpoint. Refuses (format) a name
  /// that is not there or is quantized.
  [[nodiscard]] const stored_tensor& plain(std::string_view name) const {
    const entry& found = at(name);
    LOWBIT_CHECK(!found.is_quantized(), format, where(name), " is quantized in format ",
                 detail::in_quotes(found.format), ", not plain");
    verify(*found.buffers.front(), where(name));
    return *found.buffers.front();
  }

  /// Reads all data and compares every checksum; the message names the entry that is damaged.
  /// Refuses (format) a file that is no checkpoint, because it has none.
  void verify() const {
    LOWBIT_CHECK(directory_.is_checkpoint, format, file_.label(), ": the file has no ",
                 detail::version_key, " and so no checksums: it is not a quantized checkpoint");
    for (const stored_tensor& tensor : file_.tensors()) {
      verify(tensor, where(tensor.name));
      file_.release_pages(tensor);
    }
  }

  /// Lets the system take back the memory of a tensor's pages; its bytes stay readable.
  void release_pages(const entry& of) const noexcept {
    for (const stored_tensor* buffer : of.buffers) file_.release_pages(*buffer);
  }

 private:
  /// Hands the buffers of one tensor to its format.
  class buffers_of final : public buffer_source {
   public:
    buffers_of(const checkpoint_reader& reader, const entry& tensor)
        : reader_(reader), tensor_(tensor), used_(tensor.buffers.size(), false) {}

    std::span<const std::byte> get(std::string_view name, element_type type,
                                   std::span<const index_t> shape) override {
      const stored_tensor& buffer = use(name);
      LOWBIT_CHECK(buffer.type == type && std::ranges::equal(buffer.shape, shape), format,
                   "buffer ", detail::in_quotes(name), " is ", dtype_name(buffer.type), " x ",
                   detail::shape_text(buffer.shape), ", but shape and params want ",
                   dtype_name(type), " x ", detail::shape_text(shape));
      reader_.verify(buffer, detail::message("buffer ", detail::in_quotes(name)));
      return buffer.bytes;
    }
    void check_all_used() const {
      for (index_t i = 0; i < used_.size(); ++i) {
        LOWBIT_CHECK(used_[i], format, "buffer ", detail::in_quotes(tensor_.buffers[i]->name),
                     " is none of the format ", detail::in_quotes(tensor_.format));
      }
    }

   private:
    const stored_tensor& use(std::string_view name) {
      const std::string wanted = detail::buffer_entry(tensor_.name, name);
      index_t i = 0;
      while (i < used_.size() && tensor_.buffers[i]->name != wanted) ++i;
      LOWBIT_CHECK(i < used_.size(), format, "buffer ", detail::in_quotes(name),
                   " is missing from the record");
      used_[i] = true;
      return *tensor_.buffers[i];
    }

    const checkpoint_reader& reader_;
    const entry& tensor_;
    std::vector<bool> used_;
  };

  explicit checkpoint_reader(safetensors_reader file)
      : file_(std::move(file)), directory_(detail::directory_builder(file_).build()) {}

  [[nodiscard]] std::string where(std::string_view tensor) const {
    return detail::where(file_, tensor);
  }
  [[nodiscard]] const entry& at(std::string_view name) const {
    const entry* const found = find(name);
    LOWBIT_CHECK(found != nullptr, format, where(name), " is not in the file");
    return *found;
  }
  [[nodiscard]] const entry& quantized(std::string_view name) const {
    const entry& found = at(name);
    LOWBIT_CHECK(found.is_quantized(), format, where(name), " is stored plain, not quantized");
    return found;
  }

  /// load(), with messages that begin after the name of the tensor.
  template <quantized_tensor T>
  [[nodiscard]] T rebuild(const entry& found) const {
    using format = typename T::format;
    using params = typename format::params;
    check_format(found, format::name, format::version);
    const shape2 shape{found.shape[0], found.shape[1]};
    buffers_of source(*this, found);
    T tensor = T::from_buffers(shape, params_from_json<format, params>(found.params_json, "params"),
                               source);
    source.check_all_used();
    LOWBIT_CHECK(tensor.shape() == shape, format, "the record says ",
                 detail::shape_text(found.shape), ", but the format made ",
                 detail::shape_text(std::array{tensor.shape().rows, tensor.shape().cols}));
    return tensor;
  }

  static void check_format(const entry& found, std::string_view name, std::uint32_t version) {
    LOWBIT_CHECK(found.format == name, format, "the format is ", detail::in_quotes(found.format),
                 ", not ", detail::in_quotes(name));
    LOWBIT_CHECK(found.version <= version, format, "written by a newer lowbit: its format ",
                 detail::in_quotes(name), " has version ", found.version, ", this library reads ",
                 version);
    LOWBIT_CHECK(found.version == version, format, "written by an older lowbit: its format ",
                 detail::in_quotes(name), " has version ", found.version,
                 ", this library reads only ", version);
  }

  /// Compares the checksum of one entry, if the file has checksums. `what` starts the message.
  void verify(const stored_tensor& tensor, const std::string& what) const {
    if (!directory_.is_checkpoint) return;
    const std::uint64_t expected = directory_.checksums[detail::position(file_, tensor)];
    const std::uint64_t actual = checksum(tensor.bytes);
    LOWBIT_CHECK(actual == expected, format, what, ": the data is damaged: its checksum is ",
                 checksum_text(actual), ", the file says ", checksum_text(expected));
  }

  template <class FormatList>
  [[nodiscard]] static std::string format_names() {
    std::string out;
    FormatList::for_each([&]<class Q>(std::type_identity<Q>) {
      out.append(out.empty() ? "" : ", ").append(detail::in_quotes(format_of<Q>::name));
    });
    return out.empty() ? "none" : out;
  }

  safetensors_reader file_;
  detail::checkpoint_directory directory_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
