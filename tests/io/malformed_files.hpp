// tests/io/malformed_files.hpp: files that must be refused, each one named change away from a file
// that is read, and the message that must say why. Also the seeds of the fuzz corpus.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "files.hpp"
#include "read_everything.hpp"

namespace lowbit_test {

struct malformed_file {
  std::string name;
  std::function<byte_vector()> make;
  std::vector<std::string> fragments;  // the message holds each of them
};

// ---- the files that are changed -------------------------------------------------------------

/// A plain file with two tensors, one after the other.
inline parts plain_parts() {
  return {R"({"__metadata__":{"k":"v"},)"
          R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
          R"("b":{"dtype":"U8","shape":[5],"data_offsets":[24,29]}})",
          byte_vector(29, std::byte{1})};
}

/// A checkpoint with the quantized tensor "w" (entries w.codes, w.scales) and the plain one "bias".
inline byte_vector checkpoint_bytes() {
  const temporary_folder folder;
  lowbit::io::checkpoint_writer writer(folder / "f");
  const std::vector<std::byte> bias(6, std::byte{7});
  const lowbit::index_t extents[] = {3};
  writer.add_plain("bias", lowbit::element_type::f16, extents, bias);
  writer.add("w", make_toy({3, 5}, {.bits = 4, .gain = 0.5, .rounding = toy_rounding::down}));
  writer.set_provenance("tool", "lowbit tests");
  writer.finish();
  return read_file(folder / "f");
}

// ---- how they are changed -------------------------------------------------------------------

using ordered_json = nlohmann::ordered_json;

/// The plain file with a part of its header replaced.
inline std::function<byte_vector()> plain_with(std::string from, std::string to) {
  return [from, to] {
    parts file = plain_parts();
    file.header = replaced(file.header, from, to);
    return assemble(file);
  };
}

/// The plain file with this as its header.
inline std::function<byte_vector()> header_of(std::string header) {
  return [header] { return assemble({header, plain_parts().data}); };
}

/// The plain file with this as its header length.
inline std::function<byte_vector()> length_of(std::uint64_t length) {
  return [length] {
    byte_vector file = assemble(plain_parts());
    std::memcpy(file.data(), &length, sizeof length);
    return file;
  };
}

/// The first bytes of the plain file.
inline std::function<byte_vector()> cut_to(std::size_t size) {
  return [size] {
    byte_vector file = assemble(plain_parts());
    file.resize(size);
    return file;
  };
}

/// The checkpoint after change(header, data).
inline std::function<byte_vector()> checkpoint_with(
    std::function<void(ordered_json&, byte_vector&)> change) {
  return [change] {
    parts file = disassemble(checkpoint_bytes());
    ordered_json header = ordered_json::parse(file.header);
    change(header, file.data);
    file.header = header.dump();
    return assemble(file);
  };
}

/// Gives an entry and its checksum another name.
inline void rename_entry(ordered_json& header, const std::string& from, const std::string& to) {
  const std::string checksum = "lowbit.checksum.";
  ordered_json& metadata = header["__metadata__"];
  metadata[checksum + to] = ordered_json(metadata[checksum + from]);
  metadata.erase(checksum + from);
  header[to] = ordered_json(header[from]);
  header.erase(from);
}

/// The checkpoint after change(metadata).
inline std::function<byte_vector()> metadata_with(std::function<void(ordered_json&)> change) {
  return checkpoint_with(
      [change](ordered_json& header, byte_vector&) { change(header["__metadata__"]); });
}

/// The checkpoint with one text of its metadata set.
inline std::function<byte_vector()> metadata_set(std::string key, std::string value) {
  return metadata_with([key, value](ordered_json& metadata) { metadata[key] = value; });
}

/// The checkpoint without one text of its metadata.
inline std::function<byte_vector()> metadata_without(std::string key) {
  return metadata_with([key](ordered_json& metadata) { metadata.erase(key); });
}

/// The checkpoint after change(record of "w").
inline std::function<byte_vector()> record_with(std::function<void(ordered_json&)> change) {
  return metadata_with([change](ordered_json& metadata) {
    ordered_json record = ordered_json::parse(metadata["lowbit.tensor.w"].get<std::string>());
    change(record);
    metadata["lowbit.tensor.w"] = record.dump();
  });
}

/// The checkpoint with one field of the record of "w" set to this JSON.
inline std::function<byte_vector()> record_set(std::string field, std::string json) {
  return record_with(
      [field, json](ordered_json& record) { record[field] = ordered_json::parse(json); });
}

/// The checkpoint with one field of the params of "w" set to this JSON.
inline std::function<byte_vector()> params_set(std::string field, std::string json) {
  return record_with(
      [field, json](ordered_json& record) { record["params"][field] = ordered_json::parse(json); });
}

/// The checkpoint with a part of the text of the record of "w" replaced.
inline std::function<byte_vector()> record_text_with(std::string from, std::string to) {
  return metadata_with([from, to](ordered_json& metadata) {
    auto& text = metadata["lowbit.tensor.w"].get_ref<std::string&>();
    text = replaced(text, from, to);
  });
}

// ---- the table ------------------------------------------------------------------------------

inline void add_malformed_containers(std::vector<malformed_file>& files) {
  const std::string deep(10000, '[');
  const auto after_header = [](std::string rest) {
    return [rest] {
      parts file = plain_parts();
      file.header += rest;
      return assemble(file);
    };
  };
  const std::vector<malformed_file> table{
      {"empty_file", cut_to(0), {"the file has 0 bytes"}},
      {"seven_bytes", cut_to(7), {"the file has 7 bytes", "header length"}},
      {"header_length_zero", length_of(0), {"header length is 0"}},
      {"header_length_beyond_file", length_of(1000), {"1000", "bytes follow it"}},
      {"header_length_beyond_cap", length_of(100'000'001), {"100000001, more than 100000000"}},
      {"header_length_all_ones", length_of(~std::uint64_t{0}), {"18446744073709551615"}},
      {"header_cut", cut_to(50), {"only 42 bytes follow it"}},
      {"header_only_blanks", header_of("   "), {"must start with '{'", "' '"}},
      {"blank_before_header", header_of(" {}"), {"must start with '{'", "' '"}},
      {"byte_order_mark", header_of("\xef\xbb\xbf{}"), {"must start with '{'", "'\\xef'"}},
      {"not_utf8", plain_with("\"a\"", "\"\xff\""), {"not UTF-8 at byte 27"}},
      {"overlong_utf8", plain_with("\"a\"", "\"\xc0\x80\""), {"not UTF-8"}},
      {"surrogate_utf8", plain_with("\"a\"", "\"\xed\xa0\x80\""), {"not UTF-8"}},
      {"lone_surrogate_escape", plain_with("\"a\"", R"("\ud800")"), {"not JSON", "surrogate"}},
      {"nul_hides_the_rest", after_header(std::string("\0garbage", 8)), {"holds a NUL"}},
      {"garbage_after_header", after_header("  x"), {"not JSON", "end of input"}},
      {"not_json", header_of("{not json"), {"not JSON", "parse error"}},
      {"header_unfinished", header_of(R"({"a":)"), {"not JSON", "end of input"}},
      {"header_is_array", header_of("[]"), {"must start with '{'", "'['"}},
      {"deep_arrays", header_of("{\"a\":" + deep), {"tensor 'a'", "must be an object", "an array"}},
      {"deep_arrays_in_shape",
       header_of("{\"a\":{\"shape\":[" + deep),
       {"tensor 'a'", "shape", "nested deeper"}},
      {"object_in_shape", plain_with("[5]", "[{}]"), {"tensor 'b'", "an object, nested deeper"}},
      {"object_in_offsets", plain_with("[0,24]", "[{}]"), {"tensor 'a'", "data_offsets", "nested"}},
      {"object_in_metadata",
       plain_with("\"v\"", "{}"),
       {"__metadata__", "'k' must be a text", "an object"}},
      {"metadata_is_text", plain_with(R"({"k":"v"})", "\"v\""), {"__metadata__ must be an object"}},
      {"metadata_value_is_number",
       plain_with("\"v\"", "1"),
       {"'k' must be a text", "the number 1"}},
      {"metadata_value_is_null", plain_with("\"v\"", "null"), {"'k' must be a text", "null"}},
      {"metadata_key_twice",
       plain_with(R"("k":"v")", R"("k":"v","k":"w")"),
       {"__metadata__ has the key 'k' twice"}},
      {"metadata_twice",
       plain_with("\"a\":", R"("__metadata__":{},"a":)"),
       {"__metadata__ is there twice"}},
      {"leading_garbage",
       [] {
         byte_vector file = assemble(plain_parts());
         file.insert(file.begin(), std::byte{'x'});
         return file;
       },
       {"header length"}},
  };
  files.insert(files.end(), table.begin(), table.end());
}

inline void add_malformed_entries(std::vector<malformed_file>& files) {
  const std::string shape_a = "[2,3]";
  const auto shape = [&](std::string to) { return plain_with(shape_a, to); };
  const auto offsets = [](std::string to) { return plain_with("[24,29]", to); };
  const auto twice = R"("b":{"dtype":"U8","shape":[0],"data_offsets":[29,29]}})";
  const std::string huge_name(5000, 'n');
  const std::vector<malformed_file> table{
      {"entry_is_text", header_of(R"({"a":"x"})"), {"tensor 'a'", "must be an object", "'x'"}},
      {"name_twice", plain_with("]}}", std::string("]},") + twice), {"tensor 'b' is there twice"}},
      {"name_twice_by_escape",
       plain_with("]}}", std::string("]},") + replaced(twice, "b", R"(\u0062)")),
       {"tensor 'b' is there twice"}},
      {"name_empty", plain_with("\"a\"", "\"\""), {"empty name"}},
      {"name_too_long", plain_with("\"a\"", "\"" + huge_name + "\""), {"5000 bytes", "4096"}},
      {"name_with_escape_code", plain_with("\"a\"", R"("\u001b[2J")"), {"control", R"('\x1b[2J')"}},
      {"name_with_c1_control", plain_with("\"a\"", "\"\xc2\x9b\""), {"control character"}},
      {"name_with_nul", plain_with("\"a\"", R"("\u0000")"), {"control character"}},
      {"dtype_missing", plain_with(R"("dtype":"F32",)", ""), {"tensor 'a'", "'dtype' is missing"}},
      {"shape_missing", plain_with(R"("shape":[2,3],)", ""), {"tensor 'a'", "'shape' is missing"}},
      {"offsets_missing",
       plain_with(R"(,"data_offsets":[0,24])", ""),
       {"tensor 'a'", "'data_offsets' is missing"}},
      {"field_unknown", plain_with(R"("dtype")", R"("strides":1,"dtype")"), {"field 'strides'"}},
      {"field_twice",
       plain_with(R"("dtype")", R"("dtype":"F32","dtype")"),
       {"tensor 'a'", "'dtype' is there twice"}},
      {"dtype_unknown",
       plain_with("F32", "BOOL"),
       {"tensor 'a'", "unknown dtype 'BOOL'", "known are U8, I8, U16"}},
      {"dtype_is_number", plain_with("\"F32\"", "1"), {"tensor 'a'", "dtype must be a text"}},
      {"dtype_is_array", plain_with("\"F32\"", "[]"), {"tensor 'a'", "dtype must be a text"}},
      {"shape_is_text", shape("\"2x3\""), {"tensor 'a'", "shape must be an array", "'2x3'"}},
      {"shape_is_number", shape("6"), {"tensor 'a'", "shape must be an array", "number 6"}},
      {"shape_holds_fraction", shape("[2.5,3]"), {"tensor 'a'", "integers >= 0", "'2.5'"}},
      {"shape_holds_negative", shape("[-2,3]"), {"tensor 'a'", "negative number -2"}},
      {"shape_holds_text", shape("[\"2\",3]"), {"tensor 'a'", "text '2'"}},
      {"shape_holds_true", shape("[true,3]"), {"tensor 'a'", "true"}},
      {"shape_beyond_63_bits", shape("[9223372036854775808]"), {"tensor 'a'", "exceeds 63 bits"}},
      {"shape_beyond_64_bits",
       shape("[18446744073709551616]"),
       {"tensor 'a'", "'18446744073709551616'"}},
      {"shape_of_nine_dimensions",
       shape("[1,1,1,1,1,1,1,2,3]"),
       {"tensor 'a'", "more than 8 dimensions"}},
      {"shape_product_overflows",
       shape("[4294967296,4294967296,4294967296]"),
       {"tensor 'a'", "overflows 64 bits"}},
      {"shape_bytes_overflow", shape("[4611686018427387905]"), {"tensor 'a'", "overflows 64 bits"}},
      {"shape_overflow_behind_zero",
       shape("[0,4294967296,4294967296]"),
       {"tensor 'a'", "overflows 64 bits"}},
      {"shape_of_endless_nothing",
       shape("[1152921504606846976,0]"),
       {"tensor 'a'", "[1152921504606846976, 0] holds no values", "above 16777216"}},
      {"offsets_end_before_begin", offsets("[29,24]"), {"tensor 'b'", "end before they begin"}},
      {"offsets_beyond_file", offsets("[24,30]"), {"tensor 'b'", "beyond the 29 bytes"}},
      {"offsets_far_beyond_file",
       offsets("[18446744073709551610,18446744073709551615]"),
       {"tensor 'b'", "beyond the 29 bytes"}},
      {"offsets_not_the_shape", shape("[2,2]"), {"tensor 'a'", "24 bytes", "takes 16"}},
      {"offsets_not_the_dtype",
       plain_with("F32", "F64"),
       {"tensor 'a'", "F64 x [2, 3]", "takes 48"}},
      {"offsets_one", offsets("[24]"), {"tensor 'b'", "holds 1 numbers, not two"}},
      {"offsets_three", offsets("[24,29,29]"), {"tensor 'b'", "two integers", "more"}},
      {"offsets_negative", offsets("[-1,29]"), {"tensor 'b'", "negative number -1"}},
      {"offsets_is_object", offsets("{}"), {"tensor 'b'", "data_offsets must be an array"}},
      {"tensors_overlap", offsets("[23,28]"), {"tensor 'b'", "overlaps another, which ends at 24"}},
      {"tensor_twice_in_place",
       plain_with(R"("shape":[5],"data_offsets":[24,29])", R"("shape":[24],"data_offsets":[0,24])"),
       {"overlaps another"}},
      {"hole_at_start",
       plain_with(R"("shape":[2,3],"data_offsets":[0,24])", R"("shape":[5],"data_offsets":[4,24])"),
       {"tensor 'a'", "begins at data byte 4", "belong to no tensor"}},
      {"hole_between",
       plain_with(R"("shape":[5],"data_offsets":[24,29])", R"("shape":[4],"data_offsets":[25,29])"),
       {"tensor 'b'", "bytes from 24 on belong to no tensor"}},
      {"trailing_bytes",
       plain_with(R"("shape":[5],"data_offsets":[24,29])", R"("shape":[4],"data_offsets":[24,28])"),
       {"1 bytes at the end belong to no tensor"}},
      {"empty_tensor_inside_another",
       plain_with("]}}", R"(]},"c":{"dtype":"U8","shape":[0],"data_offsets":[3,3]}})"),
       {"tensor 'c'", "overlaps another"}},
      {"no_tensors_but_data", header_of("{}"), {"29 bytes at the end belong to no tensor"}},
  };
  files.insert(files.end(), table.begin(), table.end());
}

inline void add_malformed_checkpoints(std::vector<malformed_file>& files) {
  const std::string w_codes = "lowbit.checksum.w.codes";
  const auto erase_field = [](const char* field) {
    return record_with([field](ordered_json& record) { record.erase(field); });
  };
  const std::vector<malformed_file> table{
      {"version_newer", metadata_set("lowbit.version", "2"), {"newer lowbit", "version 2"}},
      {"version_zero", metadata_set("lowbit.version", "0"), {"'0'", "no version number"}},
      {"version_padded", metadata_set("lowbit.version", "01"), {"'01'", "no version number"}},
      {"version_text", metadata_set("lowbit.version", "one"), {"'one'", "no version number"}},
      {"version_missing", metadata_without("lowbit.version"), {"but no lowbit.version"}},
      {"key_unknown", metadata_set("lowbit.tensr.w", "{}"), {"unknown metadata key"}},
      {"record_not_json", metadata_set("lowbit.tensor.w", "{"), {"'w'", "record is not JSON"}},
      {"record_is_array", metadata_set("lowbit.tensor.w", "[]"), {"'w'", "must be an object"}},
      {"record_with_nul",
       metadata_set("lowbit.tensor.w", std::string("{}\0{}", 5)),
       {"'w'", "holds a NUL"}},
      {"record_deep",
       metadata_set("lowbit.tensor.w", std::string(100, '[')),
       {"'w'", "nests deeper than 8 levels"}},
      {"record_too_long",
       metadata_set("lowbit.tensor.w", std::string((1 << 16) + 1, ' ')),
       {"'w'", "65537 bytes, more than 65536"}},
      {"record_field_unknown", record_set("extra", "1"), {"'w'", "unknown field 'extra'"}},
      {"record_field_twice",
       record_text_with("\"version\"", "\"format\":\"toy\",\"version\""),
       {"'w'", "field 'format' twice"}},
      {"record_format_missing", erase_field("format"), {"'w'", "'format' is missing"}},
      {"record_version_missing", erase_field("version"), {"'w'", "'version' is missing"}},
      {"record_shape_missing", erase_field("shape"), {"'w'", "'shape' is missing"}},
      {"record_params_missing", erase_field("params"), {"'w'", "'params' is missing"}},
      {"record_buffers_missing", erase_field("buffers"), {"'w'", "'buffers' is missing"}},
      {"record_name_with_newline",
       metadata_set("lowbit.tensor.a\nb", "{}"),
       {"control character", R"('a\x0ab')"}},
      {"record_name_empty", metadata_set("lowbit.tensor.", "{}"), {"empty name"}},
      {"format_unknown",
       record_set("format", "\"nf4\""),
       {"'w'", "format 'nf4'", "known are 'toy'"}},
      {"format_empty", record_set("format", "\"\""), {"'w'", "format is empty"}},
      {"format_is_number", record_set("format", "1"), {"'w'", "format must be a text"}},
      {"format_version_newer",
       record_set("version", "3"),
       {"'w'", "newer lowbit", "'toy' has version 3, this library reads 2"}},
      {"format_version_older", record_set("version", "1"), {"'w'", "older lowbit", "version 1"}},
      {"format_version_zero", record_set("version", "0"), {"'w'", "version = 0"}},
      {"format_version_beyond_32_bits", record_set("version", "4294967298"), {"'w'", "4294967298"}},
      {"format_version_text", record_set("version", "\"2\""), {"'w'", "must be an integer"}},
      {"shape_of_one", record_set("shape", "[15]"), {"'w'", "shape must be two integers", "[15]"}},
      {"shape_negative", record_set("shape", "[-3,5]"), {"'w'", "shape must be two", "[-3,5]"}},
      {"shape_overflows",
       record_set("shape", "[4294967296,4294967296]"),
       {"'w'", "overflows 64 bits"}},
      {"shape_of_endless_nothing_quantized",
       record_set("shape", "[16777217,0]"),
       {"'w'", "[16777217, 0] holds no values"}},
      {"shape_mismatch",
       record_set("shape", "[5,3]"),
       {"'w'", "'codes' is I8 x [3, 5]", "want I8 x [5, 3]"}},
      {"shape_empty", record_set("shape", "[0,0]"), {"'w'", "'codes' is I8 x [3, 5]"}},
      {"buffers_hold_number", record_set("buffers", "[1]"), {"'w'", "must hold names only"}},
      {"buffers_hold_empty_name", record_set("buffers", "[\"\"]"), {"'w'", "must hold names only"}},
      {"buffer_missing", record_set("buffers", "[\"codes\"]"), {"'w'", "'scales' is missing"}},
      {"buffer_without_entry",
       record_set("buffers", R"(["codes","scales","bias"])"),
       {"'w'", "'bias' is listed", "no entry 'w.bias'"}},
      {"buffer_listed_twice",
       record_set("buffers", R"(["codes","scales","codes"])"),
       {"'w'", "'w.codes' is listed twice"}},
      {"buffer_superfluous",
       checkpoint_with([](ordered_json& header, byte_vector&) {
         rename_entry(header, "bias", "w.bias");
         auto& record = header["__metadata__"]["lowbit.tensor.w"].get_ref<std::string&>();
         record = replaced(record, "\"scales\"]", "\"scales\",\"bias\"]");
       }),
       {"'w'", "'w.bias' is none of the format 'toy'"}},
      {"buffer_of_other_type",
       checkpoint_with(
           [](ordered_json& header, byte_vector&) { header["w.codes"]["dtype"] = "U8"; }),
       {"'w'", "'codes' is U8 x [3, 5]", "want I8 x [3, 5]"}},
      {"buffer_of_other_shape",
       checkpoint_with(
           [](ordered_json& header, byte_vector&) { header["w.codes"]["shape"] = {15}; }),
       {"'w'", "'codes' is I8 x [15]", "want I8 x [3, 5]"}},
      {"buffer_of_two_tensors",  // "w" + "codes.x" and "w.codes" + "x" are both "w.codes.x"
       checkpoint_with([](ordered_json& header, byte_vector&) {
         rename_entry(header, "w.codes", "w.codes.x");
         ordered_json& metadata = header["__metadata__"];
         auto& record = metadata["lowbit.tensor.w"].get_ref<std::string&>();
         record = replaced(record, "\"codes\"", "\"codes.x\"");
         metadata["lowbit.tensor.w.codes"] = replaced(record, "\"codes.x\",\"scales\"", "\"x\"");
       }),
       {"'w.codes'", "entry 'w.codes.x' is listed twice"}},
      {"name_plain_and_quantized",
       metadata_set("lowbit.tensor.bias",
                    R"({"format":"toy","version":2,"shape":[0,0],"params":{},"buffers":[]})"),
       {"'bias' is there plain and quantized"}},
      {"checksum_wrong",
       checkpoint_with([](ordered_json&, byte_vector& data) { data.back() ^= std::byte{1}; }),
       {"tensor 'w': buffer 'scales': the data is damaged", "xxh3-64:"}},
      {"checksum_of_plain_wrong",
       checkpoint_with([](ordered_json&, byte_vector& data) { data.front() ^= std::byte{128}; }),
       {"'bias'", "data is damaged"}},
      {"value_that_no_quantizer_writes",  // with a checksum that fits
       checkpoint_with([](ordered_json& header, byte_vector& data) {
         data.back() |= std::byte{0x80};  // the sign of the last scale
         header["__metadata__"]["lowbit.checksum.w.scales"] = lowbit::io::checksum_text(
             lowbit::io::checksum(std::span(data).last(3 * sizeof(float))));
       }),
       {"tensor 'w': toy: the scale -0.91", "is negative"}},
      {"checksum_missing", metadata_without(w_codes), {"'w.codes'", "checksum is missing"}},
      {"checksum_of_plain_missing",
       metadata_without("lowbit.checksum.bias"),
       {"'bias'", "checksum is missing"}},
      {"checksum_algorithm_unknown",
       metadata_set(w_codes, "md5:0123456789abcdef"),
       {"'w.codes'", "'md5:0123456789abcdef'", "unknown algorithm"}},
      {"checksum_without_algorithm",
       metadata_set(w_codes, "0123456789abcdef"),
       {"'w.codes'", "ALGORITHM:DIGITS"}},
      {"checksum_short", metadata_set(w_codes, "xxh3-64:0123"), {"'w.codes'", "16 lower-case"}},
      {"checksum_upper_case",
       metadata_set(w_codes, "xxh3-64:0123456789ABCDEF"),
       {"'w.codes'", "16 lower-case"}},
      {"checksum_too_long",
       metadata_set(w_codes, "xxh3-64:00123456789abcdef"),
       {"'w.codes'", "16 lower-case"}},
      {"checksum_without_entry",
       metadata_set("lowbit.checksum.gone", "xxh3-64:0123456789abcdef"),
       {"checksum of 'gone'", "no such entry"}},
      {"params_unknown", params_set("zeal", "1"), {"'w'", "params", "unknown field 'zeal'"}},
      {"params_missing",
       record_with([](ordered_json& record) { record["params"].erase("gain"); }),
       {"'w'", "params", "'gain' is missing"}},
      {"params_twice",
       record_text_with("\"gain\"", "\"bits\":4,\"gain\""),
       {"'w'", "field 'bits' twice"}},
      {"params_is_array", record_set("params", "[]"), {"'w'", "params must be an object"}},
      {"params_integer_above",
       params_set("bits", "9"),
       {"'w'", "params", "bits = 9 is outside 1..8"}},
      {"params_integer_below", params_set("bits", "0"), {"'w'", "bits = 0 is outside 1..8"}},
      {"params_integer_beyond_63_bits",
       params_set("bits", "18446744073709551612"),
       {"'w'", "bits = 18446744073709551612 exceeds 63 bits"}},
      {"params_integer_is_fraction", params_set("bits", "4.0"), {"'w'", "bits must be an integer"}},
      {"params_integer_is_text", params_set("bits", "\"4\""), {"'w'", "bits must be an integer"}},
      {"params_real_above",
       params_set("gain", "1e300"),
       {"'w'", "gain = 1e+300 is outside 0..1000"}},
      {"params_real_infinite",
       record_text_with("0.5", "1e999"),
       {"'w'", "record is not JSON", "number overflow"}},
      {"params_real_is_null", params_set("gain", "null"), {"'w'", "gain must be a number"}},
      {"params_choice_unknown",
       params_set("rounding", "\"up\""),
       {"'w'", "rounding is 'up'", "none of 'nearest', 'down'"}},
      {"params_choice_is_number", params_set("rounding", "1"), {"'w'", "rounding must be a text"}},
  };
  files.insert(files.end(), table.begin(), table.end());
}

/// Every file that read_everything() must refuse.
inline std::vector<malformed_file> malformed_files() {
  std::vector<malformed_file> files;
  add_malformed_containers(files);
  add_malformed_entries(files);
  add_malformed_checkpoints(files);
  return files;
}

}  // namespace lowbit_test
