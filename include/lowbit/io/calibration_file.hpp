// io/calibration_file.hpp: what the inputs of a network's layers look like, as a safetensors file
// that any tool opens. Layer L4. docs/file_format.md, section 13, is the specification.
//
// Layers that read the same inputs (queries, keys and values of an attention) share one set of
// statistics, stored once under the name of the first of them.
//
// Invariants: the same calls give the same bytes; nothing appears under the path before finish() is
// through. The reader trusts nothing: opening checks names, types, shapes and records; find()
// checks the checksums and values of what it reads.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "lowbit/calibration/second_moments.hpp"
#include "lowbit/io/checksum.hpp"
#include "lowbit/io/detail/json.hpp"
#include "lowbit/io/safetensors.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io {

/// The version of calibration files.
inline constexpr std::uint32_t calibration_version = 1;

/// What is known of the inputs of one layer.
struct input_statistics {
  /// Of the inputs that the quantized layer will meet.
  observers::second_moments moments;
  /// E[x x̂^T] [K, K], if the moments are of inputs x̂ that earlier quantized layers have distorted;
  /// else empty.
  aligned_buffer<double> cross = {};

  /// `cross` as a matrix; an empty view if there is none.
  [[nodiscard]] matrix_view<const double> cross_moments() const noexcept {
    if (cross.empty()) return {};
    return {cross.data(), moments.channels(), moments.channels()};
  }
};

namespace detail {

// Not "lowbit.": a calibration file is no checkpoint, but one that reads checkpoints may list it.
inline constexpr std::string_view calibration_prefix = "lowbit_calibration.";
inline constexpr std::string_view calibration_version_key = "lowbit_calibration.version";
inline constexpr std::string_view calibration_input_prefix = "lowbit_calibration.input.";
inline constexpr std::string_view calibration_checksum_prefix = "lowbit_calibration.checksum.";
inline constexpr std::string_view calibration_provenance_prefix = "lowbit_calibration.provenance.";

inline constexpr std::string_view second_moments_entry = ".second_moments";
inline constexpr std::string_view cross_moments_entry = ".cross_moments";
inline constexpr std::string_view mean_magnitude_entry = ".mean_magnitude";
inline constexpr std::string_view mean_entry = ".mean";
inline constexpr std::string_view sensitivity_entry = ".sensitivity";

}  // namespace detail

/// Writes one calibration file. For one thread. After an error every further call is refused
/// (error_kind::value) and nothing is left under the path.
class calibration_writer {
 public:
  /// Starts a file that finish() will put at `path`. Refuses as safetensors_writer does.
  explicit calibration_writer(std::filesystem::path path) : file_(std::move(path)) {
    file_.set_metadata(detail::calibration_version_key, detail::message(calibration_version));
  }

  /// Adds what is known of the inputs that these layers share. `cross` [K, K] is E[x x̂^T] where the
  /// moments are of distorted inputs x̂, else empty. Refuses (value) no layers, layers that are
  /// there already, no rows, and what no float holds; and other shapes (shape).
  void add(std::span<const std::string> layers, const observers::second_moments& moments,
           matrix_view<const double> cross = {}) {
    detail::writer_step step(state_, file_.path());
    LOWBIT_CHECK(!layers.empty(), value, "statistics of the inputs of no layer");
    for (const std::string& layer : layers) {
      detail::check_name(layer, file_.path().native());
      LOWBIT_CHECK(layers_.insert(layer).second, value, "'", file_.path().native(), "': layer ",
                   detail::in_quotes(layer), " is there already");
    }
    const std::string& name = layers.front();
    const index_t k = moments.channels();
    LOWBIT_CHECK(moments.rows > 0, value, "layer ", detail::in_quotes(name),
                 ": there are no rows of its inputs");
    LOWBIT_CHECK(moments.mean.size() == k && moments.mean_magnitude.size() == k, shape, "layer ",
                 detail::in_quotes(name), ": means of ", moments.mean.size(), " and ",
                 moments.mean_magnitude.size(), " channels beside moments of ", k);
    LOWBIT_CHECK((cross.empty() || cross.shape() == shape2{k, k}), shape, "layer ",
                 detail::in_quotes(name), ": cross moments are [", cross.rows(), ", ", cross.cols(),
                 "], moments [", k, ", ", k, "]");
    LOWBIT_CHECK(moments.shrinkage >= 0.0 && moments.shrinkage <= 1.0, value, "layer ",
                 detail::in_quotes(name), ": shrinkage = ", moments.shrinkage, " is outside 0..1");
    add_matrix(name, detail::second_moments_entry, moments.matrix());
    if (!cross.empty()) add_matrix(name, detail::cross_moments_entry, cross);
    add_vector(name, detail::mean_magnitude_entry, moments.mean_magnitude);
    add_vector(name, detail::mean_entry, moments.mean);
    const detail::json record{{"rows", moments.rows},
                              {"shrinkage", moments.shrinkage},
                              {"distorted", cross.empty() ? 0 : 1},
                              {"also", std::vector<std::string>(layers.begin() + 1, layers.end())}};
    const std::string text = record.dump();
    static_cast<void>(detail::parse_document(text, name));  // a reader's limits
    file_.set_metadata(detail::message(detail::calibration_input_prefix, name), text);
    step.done();
  }

  /// Says what an error of this layer costs: nats of KL per unit of relative output error,
  /// tr E H E^T / tr W H W^T. Refuses (value) what is not finite, and a layer that has one.
  void set_sensitivity(std::string_view layer, double nats) {
    detail::writer_step step(state_, file_.path());
    LOWBIT_CHECK(std::isfinite(nats), value, "layer ", detail::in_quotes(layer),
                 ": its sensitivity is ", nats);
    add_entry(layer, detail::sensitivity_entry, element_type::f64, {},
              std::as_bytes(std::span(&nats, 1)));
    step.done();
  }

  /// Says where the file comes from: tool, model, texts, options.
  void set_provenance(std::string_view key, std::string_view value) {
    detail::writer_step step(state_, file_.path());
    file_.set_metadata(detail::message(detail::calibration_provenance_prefix, key), value);
    step.done();
  }

  /// Puts the file at its path, flushed to disk. To be called once, last.
  void finish() {
    detail::writer_step step(state_, file_.path());
    file_.finish();
    step.done(detail::writer_state::finished);
  }

 private:
  void add_entry(std::string_view layer, std::string_view what, element_type type,
                 std::span<const index_t> shape, std::span<const std::byte> bytes) {
    const std::string name = detail::message(layer, what);
    file_.add(name, type, shape, bytes);
    file_.set_metadata(detail::message(detail::calibration_checksum_prefix, name),
                       checksum_text(checksum(bytes)));
  }

  void add_floats(std::string_view layer, std::string_view what, std::span<const index_t> shape,
                  std::span<const double> values) {
    aligned_buffer<float> floats(values.size());
    for (index_t i = 0; i < values.size(); ++i) {
      constexpr double largest = std::numeric_limits<float>::max();
      LOWBIT_CHECK(std::fabs(values[i]) <= largest, value, "layer ", detail::in_quotes(layer), ": ",
                   what.substr(1), " number ", i, " is ", values[i], ", which no float holds");
      floats[i] = static_cast<float>(values[i]);
    }
    add_entry(layer, what, element_type::f32, shape, std::as_bytes(std::as_const(floats).span()));
  }
  void add_matrix(std::string_view layer, std::string_view what, matrix_view<const double> m) {
    LOWBIT_CHECK(m.row_stride() == m.cols() || m.empty(), shape, "layer ", detail::in_quotes(layer),
                 ": ", what.substr(1), " has gaps between its rows");
    add_floats(layer, what, std::array{m.rows(), m.cols()}, {m.data(), m.shape().size()});
  }
  void add_vector(std::string_view layer, std::string_view what, std::span<const double> values) {
    add_floats(layer, what, std::array{index_t{values.size()}}, values);
  }

  safetensors_writer file_;
  std::set<std::string, std::less<>> layers_;
  detail::writer_state state_ = detail::writer_state::open;
};

/// Reads one calibration file. Immutable once made: const members may be called from several
/// threads at once.
class calibration_reader {
 public:
  /// Whether a safetensors file says that it is one.
  [[nodiscard]] static bool recognizes(const safetensors_reader& file) {
    return file.metadata().contains(detail::calibration_version_key);
  }
  /// Maps the file. Refuses what safetensors_reader::open() refuses, and (format) a file that is no
  /// calibration file or of a newer version, unknown keys and entries, malformed records, wrong
  /// types and shapes, missing checksums, and a layer that is there twice. The data is not read.
  [[nodiscard]] static calibration_reader open(const std::filesystem::path& path) {
    return calibration_reader(safetensors_reader::open(path));
  }
  /// The same for a file in memory, which must outlive the reader; `label` stands for its name.
  [[nodiscard]] static calibration_reader parse(std::span<const std::byte> bytes,
                                                std::string_view label) {
    return calibration_reader(safetensors_reader::parse(bytes, label));
  }

  /// Names of all layers whose inputs are known, in byte order.
  [[nodiscard]] std::vector<std::string> layers() const {
    std::vector<std::string> names;
    for (const auto& [layer, unused] : inputs_of_) names.push_back(layer);
    return names;
  }
  /// Whether find() finds something.
  [[nodiscard]] bool contains(std::string_view layer) const { return inputs_of_.contains(layer); }
  /// What is known of a layer's inputs; nothing if the layer is not there. Refuses (format) damaged
  /// data: another checksum, NaN or Inf, moments that are not symmetric or below 0.
  [[nodiscard]] std::optional<input_statistics> find(std::string_view layer) const {
    const auto found = inputs_of_.find(layer);
    if (found == inputs_of_.end()) return std::nullopt;
    const record& r = records_[found->second];
    const index_t k = r.second_moments->shape[0];
    input_statistics out{.moments = observers::second_moments(k)};
    out.moments.rows = r.rows;
    out.moments.shrinkage = r.shrinkage;
    read(*r.second_moments, {out.moments.matrix().data(), k * k});
    check_moments(*r.second_moments, out.moments.matrix());
    if (r.cross_moments != nullptr) {
      out.cross = aligned_buffer<double>(k * k);
      read(*r.cross_moments, out.cross.span());
    }
    out.moments.mean_magnitude.resize(k);
    read(*r.mean_magnitude, out.moments.mean_magnitude);
    for (index_t i = 0; i < k; ++i) {
      LOWBIT_CHECK(out.moments.mean_magnitude[i] >= 0.0, format, where(*r.mean_magnitude),
                   ": number ", i, " is ", out.moments.mean_magnitude[i]);
    }
    out.moments.mean.resize(k);
    read(*r.mean, out.moments.mean);
    return out;
  }
  /// Nats of KL per unit of a layer's relative output error, where that was measured.
  [[nodiscard]] std::optional<double> sensitivity(std::string_view layer) const {
    const auto* const tensor = file_.find(detail::message(layer, detail::sensitivity_entry));
    if (tensor == nullptr) return std::nullopt;
    verify(*tensor);
    double value = 0.0;
    copy_bytes(tensor->bytes, std::as_writable_bytes(std::span(&value, 1)));
    LOWBIT_CHECK(std::isfinite(value), format, where(*tensor), " is ", value);
    return value;
  }
  /// What set_provenance() wrote: key -> value.
  [[nodiscard]] metadata_map provenance() const {
    metadata_map out;
    for (const auto& [key, value] : file_.metadata()) {
      if (const auto name = after(detail::calibration_provenance_prefix, key)) {
        out.emplace(*name, value);
      }
    }
    return out;
  }
  [[nodiscard]] const safetensors_reader& file() const noexcept { return file_; }

 private:
  struct record {
    index_t rows = 0;
    double shrinkage = 1.0;
    const stored_tensor* second_moments = nullptr;
    const stored_tensor* cross_moments = nullptr;
    const stored_tensor* mean_magnitude = nullptr;
    const stored_tensor* mean = nullptr;
  };

  explicit calibration_reader(safetensors_reader file) : file_(std::move(file)) {
    check_version();
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(detail::calibration_prefix)) continue;
      if (const auto name = after(detail::calibration_input_prefix, key)) {
        add_record(std::string(*name), value);
        continue;
      }
      const auto entry = after(detail::calibration_checksum_prefix, key);
      LOWBIT_CHECK(!entry || file_.find(*entry) != nullptr, format, file_.label(),
                   ": there is a checksum of ", detail::in_quotes(entry.value_or("")),
                   ", but no such entry");
      LOWBIT_CHECK(entry || key == detail::calibration_version_key ||
                       key.starts_with(detail::calibration_provenance_prefix),
                   format, file_.label(), ": unknown metadata key ", detail::in_quotes(key));
    }
    check_entries();
  }

  [[nodiscard]] static std::optional<std::string_view> after(std::string_view prefix,
                                                             std::string_view key) {
    if (!key.starts_with(prefix)) return std::nullopt;
    return key.substr(prefix.size());
  }
  [[nodiscard]] std::string where(const stored_tensor& tensor) const {
    return detail::message(file_.label(), ": ", detail::in_quotes(tensor.name));
  }

  void check_version() const {
    const auto found = file_.metadata().find(detail::calibration_version_key);
    LOWBIT_CHECK(found != file_.metadata().end(), format, file_.label(),
                 ": not a calibration file: it has no ", detail::calibration_version_key);
    LOWBIT_CHECK(found->second == detail::message(calibration_version), format, file_.label(),
                 ": the version of the calibration file is ", detail::in_quotes(found->second),
                 ", this library reads ", calibration_version);
  }

  void add_record(const std::string& name, std::string_view text) {
    const std::string label =
        detail::message(file_.label(), ": inputs of ", detail::in_quotes(name));
    detail::check_name(name, file_.label());
    const detail::json document = detail::parse_document(text, label);
    detail::strict_object fields(document, label);
    const std::int64_t rows = fields.integer("rows");
    LOWBIT_CHECK(rows >= 1, format, label, ": rows = ", rows);
    record r{.rows = static_cast<index_t>(rows), .shrinkage = fields.real("shrinkage")};
    LOWBIT_CHECK(r.shrinkage >= 0.0 && r.shrinkage <= 1.0, format, label,
                 ": shrinkage = ", r.shrinkage, " is outside 0..1");
    const std::int64_t distorted = fields.integer("distorted");
    LOWBIT_CHECK(distorted == 0 || distorted == 1, format, label, ": distorted = ", distorted,
                 " is neither 0 nor 1");
    put(name, label);
    for (const detail::json& layer : fields.array("also")) {
      LOWBIT_CHECK(layer.is_string(), format, label, ": also must hold names only, but holds ",
                   detail::in_quotes(layer.dump()));
      put(layer.get<std::string>(), label);
    }
    fields.check_all_asked();

    r.second_moments = entry(name, detail::second_moments_entry);
    LOWBIT_CHECK(r.second_moments->shape.size() == 2, format, where(*r.second_moments),
                 " is no matrix");
    const index_t k = r.second_moments->shape[0];
    check_shape(*r.second_moments, {k, k});
    if (distorted == 1) {
      r.cross_moments = entry(name, detail::cross_moments_entry);
      check_shape(*r.cross_moments, {k, k});
    }
    r.mean_magnitude = entry(name, detail::mean_magnitude_entry);
    check_shape(*r.mean_magnitude, {k});
    r.mean = entry(name, detail::mean_entry);
    check_shape(*r.mean, {k});
    records_.push_back(r);
  }
  void put(const std::string& layer, const std::string& label) {
    detail::check_name(layer, file_.label());
    LOWBIT_CHECK(inputs_of_.emplace(layer, records_.size()).second, format, label, ": layer ",
                 detail::in_quotes(layer), " is there twice");
  }
  [[nodiscard]] const stored_tensor* entry(std::string_view layer, std::string_view what) {
    const std::string name = detail::message(layer, what);
    const stored_tensor* const tensor = file_.find(name);
    LOWBIT_CHECK(tensor != nullptr, format, file_.label(), ": there is no entry ",
                 detail::in_quotes(name));
    LOWBIT_CHECK(tensor->type == element_type::f32, format, where(*tensor), " is ",
                 dtype_name(tensor->type), ", not F32");
    LOWBIT_CHECK(owned_.insert(tensor).second, format, where(*tensor), " belongs to two inputs");
    return tensor;
  }
  void check_shape(const stored_tensor& tensor, const std::vector<index_t>& expected) const {
    LOWBIT_CHECK(tensor.shape == expected, format, where(tensor), " is ",
                 detail::shape_text(tensor.shape), ", not ", detail::shape_text(expected));
  }

  /// Every entry is asked for or a sensitivity, and has a checksum.
  void check_entries() const {
    for (const stored_tensor& tensor : file_.tensors()) {
      const bool is_sensitivity = tensor.name.ends_with(detail::sensitivity_entry) &&
                                  tensor.type == element_type::f64 && tensor.shape.empty();
      LOWBIT_CHECK(owned_.contains(&tensor) || is_sensitivity, format, where(tensor),
                   " is nothing that a calibration file has");
      static_cast<void>(expected_checksum(tensor));
    }
  }

  [[nodiscard]] std::uint64_t expected_checksum(const stored_tensor& tensor) const {
    const auto found =
        file_.metadata().find(detail::message(detail::calibration_checksum_prefix, tensor.name));
    LOWBIT_CHECK(found != file_.metadata().end(), format, where(tensor),
                 ": the checksum is missing");
    return parse_checksum(found->second, where(tensor));
  }
  void verify(const stored_tensor& tensor) const {
    const std::uint64_t expected = expected_checksum(tensor);
    const std::uint64_t actual = checksum(tensor.bytes);
    LOWBIT_CHECK(actual == expected, format, where(tensor),
                 ": the data is damaged: its checksum is ", checksum_text(actual),
                 ", the file says ", checksum_text(expected));
  }
  void read(const stored_tensor& tensor, std::span<double> out) const {
    verify(tensor);
    aligned_buffer<float> floats(out.size());
    copy_bytes(tensor.bytes, std::as_writable_bytes(floats.span()));
    for (index_t i = 0; i < out.size(); ++i) {
      LOWBIT_CHECK(std::isfinite(floats[i]), format, where(tensor), ": number ", i, " is ",
                   floats[i]);
      out[i] = static_cast<double>(floats[i]);
    }
    file_.release_pages(tensor);
  }
  void check_moments(const stored_tensor& tensor, matrix_view<const double> h) const {
    for (index_t i = 0; i < h.rows(); ++i) {
      LOWBIT_CHECK(h(i, i) >= 0.0, format, where(tensor), ": the square of channel ", i, " is ",
                   h(i, i));
      for (index_t j = 0; j < i; ++j) {
        LOWBIT_CHECK(h(i, j) == h(j, i), format, where(tensor), ": not symmetric at (", i, ", ", j,
                     ")");
      }
    }
  }

  safetensors_reader file_;
  std::vector<record> records_;
  std::map<std::string, index_t, std::less<>> inputs_of_;  // layer -> number of its record
  std::set<const stored_tensor*> owned_;
};

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::io
