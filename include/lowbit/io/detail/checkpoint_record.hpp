// io/detail/checkpoint_record.hpp: the metadata keys of a quantized checkpoint, and the record that
// describes one quantized tensor. Layer L4, private. docs/file_format.md is the specification.
#pragma once

#include <array>

#include "lowbit/io/params_json.hpp"
#include "lowbit/io/stored_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// The version of the on-disk format, independent of the library's and of each format's version.
inline constexpr std::uint32_t checkpoint_version = 1;

namespace detail {

// Every key of the library starts with key_prefix; a key is one of these, the last three followed
// by a name.
inline constexpr std::string_view key_prefix = "lowbit.";
inline constexpr std::string_view version_key = "lowbit.version";
inline constexpr std::string_view tensor_prefix = "lowbit.tensor.";
inline constexpr std::string_view checksum_prefix = "lowbit.checksum.";
inline constexpr std::string_view provenance_prefix = "lowbit.provenance.";

[[nodiscard]] inline std::string join(std::string_view first, std::string_view second) {
  return message(first, second);
}

/// The name of the safetensors entry that stores a buffer of a tensor.
[[nodiscard]] inline std::string buffer_entry(std::string_view tensor, std::string_view buffer) {
  return message(tensor, ".", buffer);
}

/// What the file says of one quantized tensor.
struct tensor_record {
  std::string format;
  std::uint32_t version = 0;
  shape2 shape;
  std::string params_json;
  std::vector<std::string> buffers;
};

/// The record as compact JSON.
[[nodiscard]] inline std::string record_text(const tensor_record& record) {
  return message("{\"format\":", json_string(record.format), ",\"version\":", record.version,
                 ",\"shape\":[", record.shape.rows, ",", record.shape.cols,
                 "],\"params\":", record.params_json, ",\"buffers\":", json(record.buffers).dump(),
                 "}");
}

[[nodiscard]] inline shape2 record_shape(strict_object& fields) {
  const json& extents = fields.array("shape");
  const auto is_extent = [](const json& extent) { return extent.is_number_unsigned(); };
  LOWBIT_CHECK(extents.size() == 2 && std::all_of(extents.begin(), extents.end(), is_extent),
               format, fields.where(), ": shape must be two integers >= 0, but is ",
               in_quotes(extents.dump()));
  const std::array<index_t, 2> shape{extents[0].get<index_t>(), extents[1].get<index_t>()};
  static_cast<void>(byte_size(shape, element_type::f64, fields.where() + ": shape"));
  return {shape[0], shape[1]};
}

[[nodiscard]] inline std::vector<std::string> record_buffers(strict_object& fields) {
  std::vector<std::string> buffers;
  for (const json& name : fields.array("buffers")) {
    LOWBIT_CHECK(name.is_string() && name != "", format, fields.where(),
                 ": buffers must hold names only, but holds ", in_quotes(name.dump()));
    buffers.push_back(name.get<std::string>());
  }
  return buffers;
}

/// The record in `text`. Refuses (error_kind::format; error_kind::shape for a shape that overflows)
/// anything but exactly the fields that record_text() writes; `where` starts the message.
[[nodiscard]] inline tensor_record parse_record(std::string_view text, std::string where) {
  const json document = parse_document(text, where);
  strict_object fields(document, std::move(where));
  tensor_record record;
  record.format = fields.text("format");
  const std::int64_t version = fields.integer("version");
  LOWBIT_CHECK(version >= 1 && version <= std::numeric_limits<std::uint32_t>::max(), format,
               fields.where(), ": version = ", version, " is no format version");
  record.version = static_cast<std::uint32_t>(version);
  record.shape = record_shape(fields);
  record.params_json = fields.at("params").dump();
  record.buffers = record_buffers(fields);
  fields.check_all_asked();
  return record;
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
