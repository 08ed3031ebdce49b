// Weights from quantized checkpoints: any format behind any decorators.
#include <cmath>

#include "any_tensor.hpp"
#include "catch.hpp"
#include "lowbit/decorators/output_rotated.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/replicated.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/formats/dbf/tensor.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "tiny_model.hpp"

namespace {

using lowbit_test::message_of;
using lowbit_test::temporary_folder;
using whisper::index_t;
using whisper::matrix;
using whisper_test::random_matrix;
using whisper_test::runner;
using whisper_test::tiny_model;
namespace decorators = lowbit::decorators;

constexpr index_t rows = 24;
constexpr index_t cols = 64;

lowbit::formats::uniform_tensor uniform(std::uint64_t seed, unsigned bits) {
  const lowbit::formats::uniform_quantizer quantizer{.params = {.bits = bits, .group_size = 16}};
  return quantizer.quantize(random_matrix(rows, cols, seed).view(), {});
}

/// All decorators around each other, as a recipe with replicas nests them.
auto nest() {
  std::vector<lowbit::formats::uniform_tensor> replicas;
  replicas.push_back(uniform(1, 4));
  replicas.push_back(uniform(2, 4));
  decorators::replicated sum(decorators::replica_total::sum, std::move(replicas));
  std::vector<index_t> order;
  for (index_t k = 0; k < cols; ++k) order.push_back((7 * k + 3) % cols);
  decorators::permuted<decltype(sum)> permuted(decorators::column_permutation(order),
                                               std::move(sum));
  decorators::rotated<decltype(permuted)> rotated(decorators::hadamard_rotation(cols, {.seed = 5}),
                                                  std::move(permuted));
  decorators::output_rotated<decltype(rotated)> both(
      decorators::output_rotation(rows, {.block = 8, .seed = 6}), std::move(rotated));
  std::vector<float> scales;
  for (index_t k = 0; k < cols; ++k) scales.push_back(0.5F + 0.03125F * static_cast<float>(k));
  decorators::scaled<decltype(both)> scaled(decorators::column_scaling({}, scales),
                                            std::move(both));
  const std::vector<index_t> places{3, 100, 64 * 20 + 9};
  const std::vector<float> values{9.0F, -7.0F, 5.0F};
  return decorators::with_outliers<decltype(scaled)>(
      lowbit::layout::sparse_matrix({rows, cols}, places, values), std::move(scaled));
}

/// A format that is itself made of parts: two random sign matrices.
lowbit::formats::dbf_tensor factors() {
  lowbit::formats::dbf_tensor t({rows, cols}, {.middle = 40, .envelope_rank = 1});
  const auto fill = [](lowbit::layout::enveloped_signs& f, std::uint64_t stream) {
    std::vector<std::uint8_t> bits(f.shape().cols);
    for (index_t r = 0; r < f.shape().rows; ++r) {
      for (index_t c = 0; c < bits.size(); ++c) {
        bits[c] = lowbit::random_bits(stream, r * bits.size() + c) & 1U;
      }
      f.signs().set_row(r, bits);
      f.row_envelopes().set(0, r, 1.0F + lowbit::random_uniform(stream + 1, r));
    }
    for (index_t c = 0; c < bits.size(); ++c) {
      f.column_envelopes().set(0, c, 1.0F + lowbit::random_uniform(stream + 2, c));
    }
  };
  fill(t.input_factor(0), 30);
  fill(t.output_factor(0), 40);
  return t;
}

/// What comes back from a checkpoint with this one tensor.
whisper::any_tensor through_file(lowbit::tensor_ref tensor) {
  const temporary_folder folder;
  lowbit::io::checkpoint_writer writer(folder / "t.safetensors");
  writer.add("w", tensor);
  writer.finish();
  const auto reader = lowbit::io::checkpoint_reader::open(folder / "t.safetensors");
  return whisper::load_quantized(*reader.find("w"));
}

matrix dequantized(lowbit::tensor_ref tensor) {
  matrix w(tensor.shape());
  tensor.dequantize({0, w.rows()}, w.view());
  return w;
}

/// Loaded tensors are the same tensors, and their products are those of their values.
void check_loaded(lowbit::tensor_ref original, double roundings = 1.0) {
  const whisper::any_tensor tensor = through_file(original);
  CHECK(tensor.shape() == original.shape());
  CHECK(tensor.storage_bits() == original.storage_bits());
  CHECK(tensor.coupled_rows() == original.coupled_rows());
  const matrix w = dequantized(original);
  CHECK(std::ranges::equal(dequantized(tensor).values(), w.values()));

  const runner run;
  for (const index_t tokens : {1U, 5U}) {
    const matrix x = random_matrix(tokens, cols, 3);
    matrix exact(tokens, rows);
    matrix rounded(tokens, rows);
    tensor.multiply(x.view(), exact.view(), run.rt, whisper::activation_mode::floats);
    tensor.multiply(x.view(), rounded.view(), run.rt, whisper::activation_mode::int8);
    double error = 0.0;
    double square = 0.0;
    double worst = 0.0;  // of floats, relative to the norms
    const auto norm = [](auto row) {
      double sum = 0.0;
      for (const float v : row) sum += static_cast<double>(v) * static_cast<double>(v);
      return std::sqrt(sum);
    };
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t n = 0; n < rows; ++n) {
        double sum = 0.0;
        for (index_t k = 0; k < cols; ++k) {
          sum += static_cast<double>(x.view()(t, k)) * static_cast<double>(w.view()(n, k));
        }
        const double off = std::abs(static_cast<double>(exact.view()(t, n)) - sum);
        worst = std::max(worst, off / (norm(x.view().row(t)) * norm(w.view().row(n))));
        const double e = static_cast<double>(rounded.view()(t, n)) - sum;
        error += e * e;
        square += sum * sum;
      }
    }
    // Sums of 64 terms round by 64 * 2^-24 of the sum of magnitudes, which is at most sqrt(64)
    // times the product of norms: 3e-5; a nest and a product of two factors have several of them.
    CHECK(worst < 3e-4);
    // int8 codes have steps of 1/127 of the largest input, about 3 times the usual one: errors of
    // 3 / 127 / sqrt(12) = 0.7 % of the outputs' norm, times 2 as chance has it with few outputs.
    // Tables for signs round sums of 4 inputs, twice in a product of two factors.
    CHECK(std::sqrt(error / square) < 0.015 * roundings);
  }
  CHECK(tensor.bytes(whisper::activation_mode::floats) == original.storage_bits() / 8);
  CHECK(tensor.bytes(whisper::activation_mode::int8) > 0);
}

TEST_CASE("formats and nests of all decorators come back from checkpoints") {
  check_loaded(uniform(4, 8));
  check_loaded(nest());
  check_loaded(factors(), 3.0);
  const lowbit::formats::sbvr_quantizer sbvr{.params = {.planes = 3, .group_size = 32}};
  check_loaded(sbvr.quantize(random_matrix(rows, cols, 7).view(), {}));
}

TEST_CASE("products say what they are made of") {
  const runner run;
  CHECK(through_file(factors())
            .describe(run.rt, whisper::activation_mode::int8)
            .starts_with("dbf, int8 activations, sign_gemm/"));
  const whisper::any_tensor tensor = through_file(nest());
  const std::string how = tensor.describe(run.rt, whisper::activation_mode::int8);
  CHECK(
      how.starts_with("outliers, scaled inputs, rotated outputs, rotated inputs, permuted inputs, "
                      "replicas, uniform, int8 activations, code_gemm/"));
  CHECK(tensor.describe(run.rt, whisper::activation_mode::floats)
            .ends_with(std::string("uniform decoded to f32, ") + run.rt.floats->name));
}

TEST_CASE("records of unknown or other formats are refused") {
  using params = whisper::any_tensor::format::params;
  const auto refusal = [](const params& record) {
    lowbit::io::checkpoint_entry entry;
    entry.name = "w";
    entry.format = record.format;
    entry.version = record.version;
    entry.shape = {rows, cols};
    entry.params_json = record.fields;
    return message_of<lowbit::format_error>([&] { return whisper::load_quantized(entry); });
  };
  CHECK(refusal({"new", 1, "{}"}) == "tensor 'w': unknown format 'new'");
  CHECK(refusal({"rotated.new", 2, R"({"rotation_block":64,"rotation_seed":1})"}) ==
        "tensor 'w': unknown format 'new'");
  CHECK(refusal({"rotated", 2, R"({"rotation_block":64,"rotation_seed":1})"}) ==
        "tensor 'w': unknown format ''");
  CHECK(refusal({"rotated.uniform", 1, "{}"}).starts_with("tensor 'w': decorator 'rotated' has "));
  CHECK(refusal({"permuted.scaled.permuted.uniform", 1, "{}"}) ==
        "tensor 'w': decorator 'permuted' is there twice");
  CHECK(refusal({"uniform", 99, "{}"}).starts_with("tensor 'w': format 'uniform' has version 99"));
  CHECK(refusal({"rotated.uniform", 2, "{}"}) ==
        "tensor 'w': params: field 'rotation_block' is missing");
  CHECK(refusal({"uniform", 1, "{}"}).starts_with("tensor 'w': params: field "));
}

/// A checkpoint of the tiny model, matrices of blocks and the embedding in 8 bits.
void write_checkpoint(const std::filesystem::path& path) {
  const tiny_model tiny;
  lowbit::io::checkpoint_writer writer(path);
  const auto add_bytes = [&](const std::string& name, lowbit::element_type type,
                             const std::vector<index_t>& shape, std::string_view bytes) {
    writer.add_plain(name, type, shape, lowbit_test::as_bytes(bytes));
  };
  const auto text_of = [](const auto& values) {
    return std::string(reinterpret_cast<const char*>(values.data()),
                       values.size() * sizeof values[0]);
  };
  add_bytes("whisper.hyper_parameters", lowbit::element_type::i32, {11}, text_of(tiny.sizes));
  add_bytes("whisper.mel_filters", lowbit::element_type::f32, {tiny_model::mels, 201},
            text_of(tiny_model::mel_filters()));
  std::string vocabulary;
  for (const std::string& text : tiny.vocabulary) {
    const auto size = static_cast<std::uint32_t>(text.size());
    vocabulary.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
  }
  add_bytes("whisper.vocabulary", lowbit::element_type::u8, {vocabulary.size()}, vocabulary);
  const lowbit::formats::uniform_quantizer quantizer{.params = {.bits = 8, .group_size = 8}};
  for (const auto& t : tiny.tensors) {
    const index_t n = t.shape[0];
    if (t.is_half()) {
      writer.add(t.name, quantizer.quantize({t.values.data(), n, t.values.size() / n}, {}));
    } else {
      add_bytes(t.name, lowbit::element_type::f32, t.shape, tiny_model::data_of(t));
    }
  }
  writer.finish();
}

TEST_CASE("a quantized model computes nearly what the model computes") {
  const temporary_folder folder;
  write_checkpoint(folder / "m.safetensors");
  whisper_test::write_file(folder / "m.bin", tiny_model().bytes());
  const whisper::model_file quantized(folder / "m.safetensors");
  const whisper::model_file plain(folder / "m.bin");
  CHECK(quantized.vocabulary() == plain.vocabulary());
  const runner run;
  const whisper::model exact(plain, {});
  const matrix mel = random_matrix(tiny_model::mels, 100, 8);
  const matrix audio = exact.encode(mel.view(), run.rt);
  const std::vector<whisper::token> tokens{15, 120, 3, 4, 5};
  auto state = exact.start(audio.view(), run.rt);
  const matrix logits = exact.decode(state, tokens, tokens.size(), run.rt);
  for (const auto mode : {whisper::activation_mode::floats, whisper::activation_mode::int8}) {
    const whisper::model net(quantized, {.activations = mode});
    // Steps of 1/128 to 1/256 of a group's largest weight, and of 1/127 of the largest input, are
    // errors of about 0.3 and 0.7 % a layer; a dozen of them add up to a few percent. Any layer
    // that is mixed up makes it 100 %.
    CHECK(whisper_test::distance(net.encode(mel.view(), run.rt), audio) < 0.1);
    auto other = net.start(audio.view(), run.rt);
    CHECK(whisper_test::distance(net.decode(other, tokens, tokens.size(), run.rt), logits) < 0.1);
  }
}

TEST_CASE("a damaged checkpoint is refused") {
  const temporary_folder folder;
  const auto path = folder / "m.safetensors";
  write_checkpoint(path);
  auto bytes = lowbit_test::read_file(path);
  bytes[bytes.size() - 5] ^= std::byte{1};
  whisper_test::write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  CHECK(message_of<lowbit::format_error>([&] {
          const whisper::model_file file(path);
        }).find("the data is damaged") != std::string::npos);
}

}  // namespace
