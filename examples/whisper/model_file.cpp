#include "model_file.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <variant>

#include "../common/whisper_file.hpp"
#include "any_tensor.hpp"
#include "lowbit/core/quantizer.hpp"
#include "lowbit/io/checkpoint_reader.hpp"

namespace whisper {

namespace {

/// English-only models have this many tokens after those of text: end and start of a transcript, 99
/// languages, tasks, and 1501 time stamps.
constexpr index_t special_tokens = 1607;

}  // namespace

/// A mapped file with tensors by name, whatever its format.
class model_file::container {
 public:
  explicit container(const std::filesystem::path& path)
      : label_(path.filename().string()), file_(open(path)) {}

  /// A quantized tensor, or null where there is none or it is plain.
  [[nodiscard]] const lowbit::io::checkpoint_entry* find_quantized(std::string_view name) const {
    const auto* const reader = std::get_if<checkpoint_reader>(&file_);
    const auto* const entry = reader == nullptr ? nullptr : reader->find(name);
    return entry != nullptr && entry->is_quantized() ? entry : nullptr;
  }
  /// Refuses (format) a name that is not there or is quantized.
  [[nodiscard]] const lowbit::io::stored_tensor& plain(std::string_view name) const {
    const auto* const tensor = find_plain(name);
    LOWBIT_CHECK(tensor != nullptr, format, label_, ": there is no tensor '", name,
                 "': not a Whisper model, or not all of it");
    return *tensor;
  }
  /// Gives the memory of its pages back to the system.
  void release(const lowbit::io::stored_tensor& tensor) const {
    if (const auto* const ggml = std::get_if<examples::whisper_file>(&file_)) {
      ggml->release_pages(tensor);
    } else {
      std::get<checkpoint_reader>(file_).file().release_pages(tensor);
    }
  }
  [[nodiscard]] std::string describe() const {
    const auto* const reader = std::get_if<checkpoint_reader>(&file_);
    if (reader == nullptr) return "ggml file";
    const auto provenance = reader->provenance();
    const auto found = provenance.find("quantizer");
    return found == provenance.end() ? "safetensors file" : "checkpoint, " + found->second;
  }

 private:
  using checkpoint_reader = lowbit::io::checkpoint_reader;
  using any_file = std::variant<examples::whisper_file, checkpoint_reader>;

  static any_file open(const std::filesystem::path& path) {
    if (examples::whisper_file::has_magic(lowbit::io::mapped_file(path).bytes())) {
      return examples::whisper_file(path);
    }
    auto reader = open_checkpoint(path);
    if (reader.is_quantized_checkpoint()) reader.verify();
    return reader;
  }
  static checkpoint_reader open_checkpoint(const std::filesystem::path& path) {
    try {
      return checkpoint_reader::open(path);
    } catch (const lowbit::format_error& e) {  // which tells of headers, whatever the file is
      lowbit::detail::fail(e.kind(),
                           std::string("neither a ggml file nor a safetensors file: ") + e.what());
    }
  }
  [[nodiscard]] const lowbit::io::stored_tensor* find_plain(std::string_view name) const {
    if (const auto* const ggml = std::get_if<examples::whisper_file>(&file_)) {
      const auto found = std::find_if(ggml->tensors().begin(), ggml->tensors().end(),
                                      [&](const auto& t) { return t.name == name; });
      return found == ggml->tensors().end() ? nullptr : &*found;
    }
    const auto* const entry = std::get<checkpoint_reader>(file_).find(name);
    return entry == nullptr || entry->is_quantized() ? nullptr : entry->buffers.front();
  }

  std::string label_;
  any_file file_;
};

model_file::model_file(const std::filesystem::path& path)
    : label_(path.filename().string()), file_(std::make_unique<container>(path)) {
  read_sizes();
  read_vocabulary();
}
model_file::~model_file() = default;

void model_file::check_shape(std::string_view name, shape2 found, shape2 expected) const {
  LOWBIT_CHECK(found == expected, format, label_, ": tensor '", name, "' is [", found.rows, ", ",
               found.cols, "], but the model's sizes want [", expected.rows, ", ", expected.cols,
               "]");
}

void model_file::read_sizes() {
  const auto& tensor = file_->plain("whisper.hyper_parameters");
  constexpr index_t count = 11;
  LOWBIT_CHECK(
      tensor.type == lowbit::element_type::i32 && tensor.shape == std::vector<index_t>{count},
      format, label_, ": 'whisper.hyper_parameters' is no list of ", count, " integers");
  std::int32_t values[count];
  std::memcpy(values, tensor.bytes.data(), sizeof values);
  struct field {
    const char* name;
    index_t* to;
    std::int32_t most;
  };
  // Limits are far above every Whisper model; they keep sizes of corrupt files from overflowing.
  const field fields[] = {{"n_vocab", &sizes_.vocabulary, 1 << 20},
                          {"n_audio_ctx", &sizes_.audio_context, 1 << 16},
                          {"n_audio_state", &sizes_.audio_state, 1 << 14},
                          {"n_audio_head", &sizes_.audio_heads, 1 << 10},
                          {"n_audio_layer", &sizes_.audio_layers, 1 << 10},
                          {"n_text_ctx", &sizes_.text_context, 1 << 16},
                          {"n_text_state", &sizes_.text_state, 1 << 14},
                          {"n_text_head", &sizes_.text_heads, 1 << 10},
                          {"n_text_layer", &sizes_.text_layers, 1 << 10},
                          {"n_mels", &sizes_.mels, 1 << 10}};
  for (index_t i = 0; i < std::size(fields); ++i) {
    const field& f = fields[i];
    LOWBIT_CHECK(values[i] >= 1 && values[i] <= f.most, format, label_, ": ", f.name, " is ",
                 values[i], "; 1 to ", f.most, " are possible");
    *f.to = static_cast<index_t>(values[i]);
  }
  LOWBIT_CHECK(sizes_.audio_state == sizes_.text_state, format, label_, ": n_audio_state is ",
               sizes_.audio_state, " and n_text_state ", sizes_.text_state, "; they must be equal");
  LOWBIT_CHECK(sizes_.audio_state % sizes_.audio_heads == 0, format, label_,
               ": n_audio_head = ", sizes_.audio_heads,
               " does not divide n_audio_state = ", sizes_.audio_state);
  LOWBIT_CHECK(sizes_.text_state % sizes_.text_heads == 0, format, label_,
               ": n_text_head = ", sizes_.text_heads,
               " does not divide n_text_state = ", sizes_.text_state);
}

void model_file::read_vocabulary() {
  const auto& tensor = file_->plain("whisper.vocabulary");
  LOWBIT_CHECK(tensor.type == lowbit::element_type::u8, format, label_,
               ": 'whisper.vocabulary' is no list of bytes");
  std::span<const std::byte> rest = tensor.bytes;
  while (!rest.empty()) {
    std::uint32_t length = 0;
    const index_t id = vocabulary_.size();
    LOWBIT_CHECK(rest.size() >= sizeof length, format, label_, ": the vocabulary ends in token ",
                 id);
    std::memcpy(&length, rest.data(), sizeof length);
    rest = rest.subspan(sizeof length);
    LOWBIT_CHECK(length <= rest.size(), format, label_, ": token ", id, " of the vocabulary has ",
                 length, " bytes, ", rest.size(), " are left");
    const auto* const text = reinterpret_cast<const char*>(rest.data());
    vocabulary_.emplace_back(text, length);
    rest = rest.subspan(length);
  }
  LOWBIT_CHECK(!vocabulary_.empty() && vocabulary_.size() + special_tokens == sizes_.vocabulary,
               format, label_, ": n_vocab is ", sizes_.vocabulary, " with ", vocabulary_.size(),
               " tokens of text: not an English-only Whisper model, which has ", special_tokens,
               " more than those");
}

matrix model_file::mel_filters() const {
  const auto& tensor = file_->plain("whisper.mel_filters");
  return load_matrix("whisper.mel_filters", {sizes_.mels, lowbit::io::matrix_shape(tensor).cols});
}

std::unique_ptr<linear> model_file::load_linear(const std::string& name, shape2 shape,
                                                const load_options& options) const {
  if (const auto* entry = file_->find_quantized(name)) {
    any_tensor tensor = load_quantized(*entry);
    check_shape(name, tensor.shape(), shape);
    for (const auto* const buffer : entry->buffers) file_->release(*buffer);
    return make_quantized(std::move(tensor), options.activations);
  }
  const auto& tensor = file_->plain(name);
  check_shape(name, lowbit::io::matrix_shape(tensor), shape);
  auto dense = make_dense(tensor, options.dense);
  file_->release(tensor);
  return dense;
}

matrix model_file::load_matrix(const std::string& name, shape2 shape) const {
  matrix out(shape);
  if (const auto* entry = file_->find_quantized(name)) {
    const any_tensor tensor = load_quantized(*entry);
    check_shape(name, tensor.shape(), shape);
    tensor.dequantize({0, shape.rows}, out.view());
    return out;
  }
  const auto& tensor = file_->plain(name);
  check_shape(name, lowbit::io::matrix_shape(tensor), shape);
  lowbit::io::read_rows(tensor, {0, shape.rows}, out.view());
  lowbit::check_finite(out.view(), label_ + ": tensor '" + name + "'");
  return out;
}

std::vector<float> model_file::load_vector(const std::string& name, index_t size) const {
  const auto& tensor = file_->plain(name);
  const shape2 found = lowbit::io::matrix_shape(tensor);  // ggml has biases of [N, 1], too
  LOWBIT_CHECK(found.size() == size, format, label_, ": tensor '", name, "' has ", found.size(),
               " values, but the model's sizes want ", size);
  std::vector<float> out(size);
  lowbit::io::read_rows(tensor, {0, found.rows}, {out.data(), found.rows, found.cols});
  lowbit::check_finite({out.data(), 1, size}, label_ + ": tensor '" + name + "'");
  return out;
}

std::string model_file::describe() const { return file_->describe(); }

}  // namespace whisper
