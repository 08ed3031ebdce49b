// io/detail/safetensors_header.hpp: the header of a safetensors file, from bytes to entries.
// Layer L4, private.
//
// The header is {"__metadata__": {text: text, ...}, NAME: {"dtype": ..., "shape": [...],
// "data_offsets": [begin, end]}, ...}. It is read event by event, never as a document: anything
// that is not this grammar is refused where it stands.
//
// Invariants: memory is proportional to the header's bytes, never to a number in it; every extent
// that is handed out lies inside the data and has the size that type and shape imply.
#pragma once

#include <array>
#include <map>

#include "lowbit/io/detail/json.hpp"
#include "lowbit/io/stored_tensor.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// The text that a safetensors file carries beside its tensors.
using metadata_map = std::map<std::string, std::string, std::less<>>;

namespace detail {

inline constexpr std::string_view metadata_key = "__metadata__";
inline constexpr std::uint64_t max_header_bytes = 100'000'000;  // as in the reference reader

/// What a header says.
struct header_content {
  std::vector<stored_tensor> tensors;  ///< in the order of the header
  metadata_map metadata;
};

/// Receives the events of nlohmann-json and builds the content.
class header_handler final : public nlohmann::json_sax<json> {
 public:
  /// `label` names the file in messages; `data` is what the offsets point into.
  header_handler(std::string_view label, std::span<const std::byte> data)
      : label_(label), data_(data) {}

  [[nodiscard]] header_content take() { return std::move(content_); }

  bool null() override { return refuse("null"); }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override {
    return refuse(message("the negative number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return refuse(lowbit::detail::message("the number ",
                                          in_quotes(text)));  // also integers that exceed 64 bits
  }
  bool binary(binary_t&) override { return refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == place::shape) return add_extent(value);
    if (place_ == place::offsets) return add_offset(value);
    return refuse(message("the number ", value));
  }

  bool string(string_t& text) override {
    if (place_ == place::metadata) {
      content_.metadata.emplace(std::move(key_), std::move(text));
      return true;
    }
    if (place_ != place::entry || field_ != dtype_field)
      return refuse(lowbit::detail::message("the text ", in_quotes(text)));
    return set_type(text);
  }

  bool start_object(std::size_t) override {
    if (place_ == place::outside) return enter(place::file);
    if (place_ != place::file) return refuse_nested("an object");
    if (key_ == metadata_key) return enter(place::metadata);
    entry_ = {};
    entry_.tensor.name = key_;
    return enter(place::entry);
  }

  bool start_array(std::size_t) override {
    if (place_ == place::entry && field_ == shape_field) return enter(place::shape);
    if (place_ == place::entry && field_ == offsets_field) return enter(place::offsets);
    return refuse_nested("an array");
  }

  bool key(string_t& name) override {
    switch (place_) {
      case place::file: start_member(name); break;
      case place::entry: start_field(name); break;
      default: start_metadata(name); break;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == place::entry) finish_entry();
    return enter(place_ == place::file ? place::outside : place::file);
  }

  bool end_array() override { return enter(place::entry); }

  bool parse_error(std::size_t, const std::string&, const json::exception& reason) override {
    fail_json(reason, message(label_, ": the header"));
  }

 private:
  /// The innermost object or array that is open.
  enum class place { outside, file, metadata, entry, shape, offsets };

  // The fields of an entry, as indices of the arrays below and of entry_state::seen.
  static constexpr index_t dtype_field = 0;
  static constexpr index_t shape_field = 1;
  static constexpr index_t offsets_field = 2;
  static constexpr std::array<std::string_view, 3> field_names{"dtype", "shape", "data_offsets"};
  static constexpr std::array<std::string_view, 3> field_rules{
      "dtype must be a text", "shape must be an array of integers >= 0",
      "data_offsets must be an array of two integers >= 0"};

  struct entry_state {
    stored_tensor tensor;
    std::array<std::uint64_t, 2> offsets{};
    index_t offset_count = 0;
    std::array<bool, field_names.size()> seen{};
  };

  bool enter(place next) {
    place_ = next;
    return true;
  }

  [[nodiscard]] std::string entry_label() const {
    return message(label_, ": tensor ", in_quotes(entry_.tensor.name));
  }

  /// What the grammar wants at this place, to be followed by what was found there.
  [[nodiscard]] std::string expectation() const {
    switch (place_) {
      case place::outside: return message(label_, ": the header must be an object");
      case place::metadata:
        return message(label_, ": __metadata__: the value of ", in_quotes(key_), " must be a text");
      case place::file:
        if (key_ == metadata_key) return message(label_, ": __metadata__ must be an object");
        return message(label_, ": tensor ", in_quotes(key_), ": its entry must be an object");
      default: return message(entry_label(), ": ", field_rules[field_]);
    }
  }
  bool refuse(std::string_view found) const {
    LOWBIT_CHECK(false, format, expectation(), ", but there is ", found);
    return false;
  }
  /// The innermost places hold neither objects nor arrays, however a file nests them.
  bool refuse_nested(std::string_view found) const {
    const bool innermost =
        place_ == place::metadata || place_ == place::shape || place_ == place::offsets;
    return refuse(message(found, innermost ? ", nested deeper than a header ever is" : ""));
  }

  void start_member(std::string& name) {
    if (name == metadata_key) {
      LOWBIT_CHECK(!has_metadata_, format, label_, ": __metadata__ is there twice");
      has_metadata_ = true;
    } else {
      check_name(name, label_);
    }
    key_ = std::move(name);
  }
  void start_metadata(std::string& name) {
    LOWBIT_CHECK(!content_.metadata.contains(name), format, label_, ": __metadata__ has the key ",
                 in_quotes(name), " twice");
    key_ = std::move(name);
  }
  void start_field(const std::string& name) {
    const auto found = std::find(field_names.begin(), field_names.end(), name);
    LOWBIT_CHECK(found != field_names.end(), format, entry_label(), ": unknown field ",
                 in_quotes(name));
    field_ = static_cast<index_t>(found - field_names.begin());
    LOWBIT_CHECK(!entry_.seen[field_], format, entry_label(), ": field ", in_quotes(name),
                 " is there twice");
    entry_.seen[field_] = true;
  }

  bool set_type(std::string_view name) {
    const auto known = std::find_if(type_names.begin(), type_names.end(),
                                    [name](const type_name& t) { return t.name == name; });
    LOWBIT_CHECK(known != type_names.end(), format, entry_label(), ": unknown dtype ",
                 in_quotes(name), "; known are ", known_type_names());
    entry_.tensor.type = known->type;
    return true;
  }
  bool add_extent(std::uint64_t value) {
    constexpr auto max = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    LOWBIT_CHECK(value <= max, format, entry_label(), ": shape holds ", value,
                 ", which exceeds 63 bits");
    LOWBIT_CHECK(entry_.tensor.shape.size() < max_dimensions, format, entry_label(),
                 ": shape has more than ", max_dimensions, " dimensions");
    entry_.tensor.shape.push_back(value);
    return true;
  }
  bool add_offset(std::uint64_t value) {
    LOWBIT_CHECK(entry_.offset_count < 2, format, expectation(), ", but there are more");
    entry_.offsets[entry_.offset_count++] = value;
    return true;
  }

  /// Checks the entry as a whole and gives the tensor its bytes.
  void finish_entry() {
    for (index_t i = 0; i < field_names.size(); ++i) {
      LOWBIT_CHECK(entry_.seen[i], format, entry_label(), ": field ", in_quotes(field_names[i]),
                   " is missing");
    }
    LOWBIT_CHECK(entry_.offset_count == 2, format, entry_label(), ": data_offsets holds ",
                 entry_.offset_count, " numbers, not two");
    const auto [begin, end] = entry_.offsets;
    LOWBIT_CHECK(begin <= end, format, entry_label(), ": data_offsets [", begin, ", ", end,
                 "] end before they begin");
    LOWBIT_CHECK(end <= data_.size(), format, entry_label(), ": data_offsets [", begin, ", ", end,
                 "] lie beyond the ", data_.size(), " bytes of data in the file");
    stored_tensor& tensor = entry_.tensor;
    const auto size = byte_size(tensor.shape, tensor.type, entry_label() + ": bytes of the shape");
    LOWBIT_CHECK(end - begin == size, format, entry_label(), ": data_offsets [", begin, ", ", end,
                 "] hold ", end - begin, " bytes, but ", dtype_name(tensor.type), " x ",
                 shape_text(tensor.shape), " takes ", size);
    tensor.bytes = data_.subspan(begin, end - begin);
    content_.tensors.push_back(std::move(tensor));
  }

  std::string_view label_;
  std::span<const std::byte> data_;
  header_content content_;
  place place_ = place::outside;
  std::string key_;    // of the member of `file` or `metadata` that is being read
  index_t field_ = 0;  // of the entry that is being read
  entry_state entry_;
  bool has_metadata_ = false;
};

/// Reads a header. Refuses with error_kind::format, and with error_kind::shape where extents
/// overflow; the message starts with `label`.
[[nodiscard]] inline header_content parse_header(std::string_view text,
                                                 std::span<const std::byte> data,
                                                 std::string_view label) {
  check_json_text(text, message(label, ": the header"));
  // nlohmann-json would skip leading blanks and a byte order mark; safetensors allows neither.
  LOWBIT_CHECK(text.front() == '{', format, label,
               ": the header must start with '{', but starts with ", in_quotes(text.substr(0, 1)));
  header_handler handler(label, data);
  static_cast<void>(json::sax_parse(text.begin(), text.end(), &handler));
  return handler.take();
}

}  // namespace detail
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
