// io/checkpoint_writer.hpp: writes quantized tensors, and plain ones beside them, to a safetensors
// file. Layer L4.
//
// Invariants: knows the concept quantized_tensor and no format; the same calls give the same bytes;
// nothing appears under the path before finish() is through.
#pragma once

#include "lowbit/io/checksum.hpp"
#include "lowbit/io/detail/checkpoint_record.hpp"
#include "lowbit/io/safetensors_writer.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// Writes one quantized checkpoint. For one thread. After an error every further call is refused
/// (error_kind::value) and nothing is left under the path.
class checkpoint_writer {
 public:
  /// Starts a file that finish() will put at `path`. Refuses as safetensors_writer does.
  explicit checkpoint_writer(std::filesystem::path path) : file_(std::move(path)) {
    file_.set_metadata(detail::version_key, detail::message(checkpoint_version));
  }

  /// Appends a quantized tensor: each buffer as the entry NAME.BUFFER, and a record. Refuses, as
  /// safetensors_writer::add() does, names that are taken and buffers whose bytes do not fit their
  /// shape; a shape that overflows (shape); params outside their range (value); and a full disk
  /// (system).
  void add(std::string_view name, tensor_ref tensor) {
    detail::writer_step step(state_, file_.path());
    check_tensor_name(name);
    detail::tensor_record record{.format = std::string(tensor.format_name()),
                                 .version = tensor.format_version(),
                                 .shape = tensor.shape(),
                                 .params_json = detail::params_to_json(tensor),
                                 .buffers = {}};
    record.buffers = add_buffers(name, tensor);
    tensors_.emplace(name);
    const std::string text = detail::record_text(record);
    // What the reader would refuse is refused here: shapes that overflow, buffers without a name.
    static_cast<void>(detail::parse_record(
        text, detail::message("'", file_.path().native(), "': tensor ", detail::in_quotes(name))));
    file_.set_metadata(detail::join(detail::tensor_prefix, name), text);
    step.done();
  }

  /// Appends a tensor as it is. Refuses as safetensors_writer::add() does.
  void add_plain(std::string_view name, element_type type, std::span<const index_t> shape,
                 std::span<const std::byte> bytes) {
    detail::writer_step step(state_, file_.path());
    check_tensor_name(name);
    add_entry(name, type, shape, bytes);
    step.done();
  }

  /// Says where the file comes from: tool, source, options. No time stamps, if the same input is to
  /// give the same bytes.
  void set_provenance(std::string_view key, std::string_view value) {
    detail::writer_step step(state_, file_.path());
    file_.set_metadata(detail::join(detail::provenance_prefix, key), value);
    step.done();
  }

  /// Puts the file at its path, flushed to disk. To be called once, last.
  void finish() {
    detail::writer_step step(state_, file_.path());
    file_.finish();
    step.done(detail::writer_state::finished);
  }

 private:
  /// A quantized tensor has no entry of its own name, so the file's check would not find these.
  void check_tensor_name(std::string_view name) const {
    detail::check_name(name, file_.path().native());
    LOWBIT_CHECK(!tensors_.contains(name) && !file_.contains(name), format, "'",
                 file_.path().native(), "': tensor ", detail::in_quotes(name), " is there already");
  }

  void add_entry(std::string_view name, element_type type, std::span<const index_t> shape,
                 std::span<const std::byte> bytes) {
    file_.add(name, type, shape, bytes);
    file_.set_metadata(detail::join(detail::checksum_prefix, name), checksum_text(checksum(bytes)));
  }

  /// Adds every buffer and returns their names.
  std::vector<std::string> add_buffers(std::string_view name, tensor_ref tensor) {
    struct adder final : buffer_visitor {
      adder(checkpoint_writer& w, std::string_view n) : writer(w), tensor_name(n) {}
      void operator()(const buffer_view& buffer) override {
        writer.add_entry(detail::buffer_entry(tensor_name, buffer.name), buffer.type, buffer.shape,
                         buffer.bytes);
        names.emplace_back(buffer.name);
      }
      checkpoint_writer& writer;
      std::string_view tensor_name;
      std::vector<std::string> names;
    } visitor(*this, name);
    tensor.for_each_buffer(visitor);
    return std::move(visitor.names);
  }

  safetensors_writer file_;
  std::set<std::string, std::less<>> tensors_;  // the quantized ones
  detail::writer_state state_ = detail::writer_state::open;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
