// The float kernels, model files and the network.
#include <cmath>
#include <map>
#include <optional>

#include "../../examples/common/thread_pool.hpp"
#include "catch.hpp"
#include "lowbit/executors/thread_pool.hpp"
#include "tiny_model.hpp"
#include "transcriber.hpp"

namespace {

using lowbit_test::message_of;
using lowbit_test::temporary_folder;
using whisper::index_t;
using whisper::matrix;
using whisper::token;
using whisper_test::loaded;
using whisper_test::random_matrix;
using whisper_test::runner;
using whisper_test::tiny_model;

double largest_difference(const matrix& a, const matrix& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0.0;
  for (index_t i = 0; i < a.values().size(); ++i) {
    const double d =
        std::abs(static_cast<double>(a.values()[i]) - static_cast<double>(b.values()[i]));
    worst = std::max(worst, std::isnan(d) ? 1e300 : d);
  }
  return worst;
}

/// Every module that this machine can run.
std::vector<const whisper_float_kernels*> all_kernels() {
  std::vector<const whisper_float_kernels*> all;
  for (const auto& features :
       {lowbit::cpu::none, lowbit::cpu::avx2_core, lowbit::cpu::avx512_core}) {
    if (lowbit::cpu::detect().contains(features)) {
      all.push_back(&whisper::load_float_kernels(features));
    }
  }
  return all;
}

TEST_CASE("products of floats and of halves") {
  // Odd sizes: tails in every dimension. A sum of 37 products of about 1 rounds by at most
  // 37 * 37 * 2^-24 * (largest product, about 12) = 1e-3 and really by far less.
  const index_t rows = 11;
  const index_t cols = 37;
  const matrix w = random_matrix(rows, cols, 1);
  std::vector<std::uint16_t> halves;
  matrix rounded(rows, cols);
  for (index_t i = 0; i < w.values().size(); ++i) {
    const auto half = lowbit::from_float<lowbit::float16>(w.values()[i]);
    halves.push_back(half.bits);
    rounded.values()[i] = lowbit::to_float(half);
  }
  for (const auto* const kernels : all_kernels()) {
    for (const index_t tokens : {1U, 3U, 4U, 9U}) {
      CAPTURE(kernels->name, tokens);
      const matrix x = random_matrix(tokens, cols, 2);
      matrix expected(tokens, rows);
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t n = 0; n < rows; ++n) {
          double sum = 0.0;
          for (index_t k = 0; k < cols; ++k) {
            sum += static_cast<double>(x.view()(t, k)) * static_cast<double>(rounded.view()(n, k));
          }
          expected.view()(t, n) = static_cast<float>(sum);
        }
      }
      matrix y(tokens, rows);
      kernels->multiply(whisper::as_input(x.view()),
                        whisper::as_input(std::as_const(rounded).view()),
                        whisper::as_output(y.view()));
      CHECK(largest_difference(y, expected) < 1e-4);
      matrix z(tokens, rows);
      std::vector<float> scratch(rows * cols);
      kernels->multiply_half(whisper::as_input(x.view()), {halves.data(), rows, cols, cols},
                             whisper::as_output(z.view()), scratch.data());
      CHECK(largest_difference(z, expected) < 1e-4);
    }
  }
}

TEST_CASE("attention of one head") {
  const index_t n = 21;
  const index_t d = 6;
  const matrix k = random_matrix(n, d, 3);
  const matrix v = random_matrix(n, d, 4);
  for (const auto* const kernels : all_kernels()) {
    for (const index_t m : {1U, 5U}) {
      for (const bool causal : {false, true}) {
        CAPTURE(kernels->name, m, causal);
        const matrix q = random_matrix(m, d, 5);
        matrix expected(m, d);
        for (index_t i = 0; i < m; ++i) {
          const index_t seen = causal ? n - m + i + 1 : n;
          std::vector<double> weights;
          double sum = 0.0;
          for (index_t j = 0; j < seen; ++j) {
            double score = 0.0;
            for (index_t c = 0; c < d; ++c) {
              score += static_cast<double>(q.view()(i, c)) * static_cast<double>(k.view()(j, c));
            }
            sum += weights.emplace_back(std::exp(0.5 * score));
          }
          for (index_t c = 0; c < d; ++c) {
            double mean = 0.0;
            for (index_t j = 0; j < seen; ++j) {
              mean += weights[j] / sum * static_cast<double>(v.view()(j, c));
            }
            expected.view()(i, c) = static_cast<float>(mean);
          }
        }
        matrix out(m, d);
        std::vector<float> scratch(m * n);
        kernels->attend({whisper::as_input(q.view()), whisper::as_input(k.view()),
                         whisper::as_input(v.view()), whisper::as_output(out.view()), 0.5F, causal,
                         scratch.data()});
        // Scores of at most 10 have an error of 1e-5, and so do weights relative to themselves.
        CHECK(largest_difference(out, expected) < 1e-4);
      }
    }
  }
}

TEST_CASE("GELU and layer norms") {
  for (const auto* const kernels : all_kernels()) {
    CAPTURE(kernels->name);
    std::vector<float> x;
    for (int i = -6000; i <= 6000; ++i) x.push_back(static_cast<float>(i) * 1e-3F);
    for (const float far : {1e-30F, -1e-30F, 30.0F, -30.0F, 1e4F, -1e4F, 0.0F}) x.push_back(far);
    std::vector<float> y = x;
    kernels->gelu(y.data(), y.size());
    double worst = 0.0;
    for (index_t i = 0; i < x.size(); ++i) {
      const auto v = static_cast<double>(x[i]);
      const double expected = 0.5 * v * (1.0 + std::erf(v / std::sqrt(2.0)));
      worst = std::max(worst,
                       std::abs(static_cast<double>(y[i]) - expected) / std::max(1.0, std::abs(v)));
    }
    CHECK(worst < 2e-7);

    const matrix in = random_matrix(3, 19, 6);
    const matrix scale = random_matrix(1, 19, 7);
    const matrix shift = random_matrix(1, 19, 8);
    matrix out(3, 19);
    kernels->normalize(whisper::as_input(in.view()), scale.values().data(), shift.values().data(),
                       whisper::as_output(out.view()));
    for (index_t r = 0; r < 3; ++r) {
      double mean = 0.0;
      double square = 0.0;
      for (const float v : in.view().row(r)) mean += static_cast<double>(v) / 19.0;
      for (const float v : in.view().row(r)) {
        square += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean) / 19.0;
      }
      for (index_t c = 0; c < 19; ++c) {
        const double z = (static_cast<double>(in.view()(r, c)) - mean) / std::sqrt(square + 1e-5);
        const double expected =
            z * static_cast<double>(scale.values()[c]) + static_cast<double>(shift.values()[c]);
        CHECK(std::abs(static_cast<double>(out.view()(r, c)) - expected) < 1e-5);
      }
    }
  }
}

TEST_CASE("softmax into codes") {
  constexpr index_t lanes = whisper_softmax_lanes;
  constexpr float scale = 0.25F;
  for (const auto* const kernels : all_kernels()) {
    for (const index_t keys : {1U, 4U, 63U, 64U}) {
      CAPTURE(kernels->name, keys);
      matrix scores = random_matrix(2 * keys, lanes, 13);  // two runs
      for (float& s : scores.values()) s *= 20.0F;
      for (index_t i = 0; i < 2 * keys; ++i) scores.view()(i, 5) = 1e4F * static_cast<float>(i);
      std::vector<std::uint8_t> codes[2];
      matrix largest(2, lanes);
      matrix totals(2, lanes);
      for (index_t run = 0; run < 2; ++run) {
        codes[run].resize((keys + 3) / 4 * 4 * lanes);
        kernels->soften({.scores = scores.view().row(run * keys).data(),
                         .keys = keys,
                         .scale = scale,
                         .codes = codes[run].data(),
                         .largest = largest.view().row(run).data(),
                         .totals = totals.view().row(run).data()});
      }
      matrix shares = largest;
      kernels->share_out(shares.values().data(), totals.values().data(), 2);
      for (index_t lane = 0; lane < lanes; ++lane) {
        double top = -1e300;
        for (index_t i = 0; i < 2 * keys; ++i) {
          top = std::max(top, static_cast<double>(scores.view()(i, lane)) * 0.25);
        }
        double sum = 0.0;
        for (index_t i = 0; i < 2 * keys; ++i) {
          sum += std::exp(static_cast<double>(scores.view()(i, lane)) * 0.25 - top);
        }
        double all = 0.0;
        for (index_t run = 0; run < 2; ++run) {
          double run_top = -1e300;
          for (index_t i = 0; i < keys; ++i) {
            run_top =
                std::max(run_top, static_cast<double>(scores.view()(run * keys + i, lane)) * 0.25);
          }
          int total = 0;
          for (index_t i = 0; i < keys; ++i) {
            const int code = codes[run][(i / 4 * lanes + lane) * 4 + i % 4];
            total += code;
            const double exact =
                255.0 *
                std::exp(static_cast<double>(scores.view()(run * keys + i, lane)) * 0.25 - run_top);
            // Rounding, 5e-5 of 255, and what scores of less than 100 lose as floats: 100 * 2^-24
            // * 255. Where scores are larger, codes are 0 or 255.
            CHECK(std::abs(code - exact) < 0.5 + 0.02);
          }
          CHECK(totals.view()(run, lane) == static_cast<float>(total));
          all += static_cast<double>(shares.view()(run, lane)) * total;
          // A share is exp(run_top - top) / (sum of codes); each code is off by less than 0.52, and
          // so a sum of the n codes of both runs by .52 n of at least 255.
          const double exact = std::exp(run_top - top) / (255.0 * sum);
          CHECK(std::abs(static_cast<double>(shares.view()(run, lane)) - exact) <=
                exact * (0.52 * 2.0 * static_cast<double>(keys) / (255.0 * sum) * 1.5 + 1e-3) +
                    1e-30);
        }
        CHECK(std::abs(all - 1.0) < 1e-5);
      }
    }
  }
}

TEST_CASE("text decoded token by token gives the logits of all tokens at once") {
  const loaded tiny;
  const runner run;
  const matrix mel = random_matrix(tiny_model::mels, 40, 9);
  const matrix audio = tiny.net->encode(mel.view(), run.rt);
  REQUIRE(audio.shape() == whisper::shape2{20, tiny_model::state});
  const std::vector<token> tokens{15, 121, 3, 7, 1, 0, 9, 4, 2, 2, 8};
  auto at_once = tiny.net->start(audio.view(), run.rt);
  const matrix all = tiny.net->decode(at_once, tokens, tokens.size(), run.rt);
  REQUIRE(all.cols() == tiny.net->sizes().vocabulary);
  CHECK(at_once.tokens == tokens.size());

  auto one_by_one = tiny.net->start(audio.view(), run.rt);
  matrix same(all.shape());
  for (index_t t = 0; t < tokens.size(); ++t) {
    const matrix logits = tiny.net->decode(one_by_one, {&tokens[t], 1}, 1, run.rt);
    std::copy(logits.values().begin(), logits.values().end(), same.view().row(t).begin());
  }
  // Both compute the same sums of 16 to 64 terms of about 1 in other orders: 64 * 2^-24 = 4e-6
  // each, through some 20 products; a wrong mask or position would change the first digit.
  CHECK(largest_difference(all, same) < 1e-3);
  CHECK(one_by_one.bytes() == at_once.bytes());

  // Later tokens do not change earlier logits, earlier ones change later logits.
  auto changed = tokens;
  changed[5] = 6;
  auto other = tiny.net->start(audio.view(), run.rt);
  const matrix late = tiny.net->decode(other, changed, changed.size(), run.rt);
  for (index_t t = 0; t < tokens.size(); ++t) {
    double worst = 0.0;
    for (index_t i = 0; i < all.cols(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(all.view()(t, i)) -
                                       static_cast<double>(late.view()(t, i))));
    }
    CAPTURE(t, worst);
    CHECK((t < 5 ? worst == 0.0 : worst > 1e-2));
  }
}

TEST_CASE("half weights, threads and the encoder's context") {
  const loaded f16;
  const loaded f32({.dense = whisper::dense_storage::f32});
  const runner run;
  const matrix mel = random_matrix(tiny_model::mels, 100, 10);
  const matrix a = f16.net->encode(mel.view(), run.rt);
  CHECK(largest_difference(a, f32.net->encode(mel.view(), run.rt)) < 1e-4);
  CHECK(f32.net->decoder_bytes() == 2 * f16.net->decoder_bytes());

  examples::thread_pool pool(2);
  lowbit::executors::thread_pool_executor threads([&](auto job) { pool.submit(job); }, 3);
  whisper::runtime parallel = run.rt;
  parallel.ctx.threads = &threads;
  CHECK(largest_difference(a, f16.net->encode(mel.view(), parallel)) == 0.0);

  CHECK_THROWS_AS(f16.net->encode(random_matrix(2, 100, 1).view(), run.rt), lowbit::shape_error);
  CHECK_THROWS_AS(f16.net->encode(random_matrix(3, 102, 1).view(), run.rt), lowbit::shape_error);
  CHECK_THROWS_AS(f16.net->encode(random_matrix(3, 99, 1).view(), run.rt), lowbit::shape_error);
  auto state = f16.net->start(a.view(), run.rt);
  const std::vector<token> too_many(25, 1);
  CHECK_THROWS_AS(f16.net->decode(state, too_many, 1, run.rt), lowbit::value_error);
  const token unknown = 2000;
  CHECK_THROWS_AS(f16.net->decode(state, {&unknown, 1}, 1, run.rt), lowbit::value_error);
}

TEST_CASE("keys and values of the audio as codes") {
  const loaded floats;  // not quantized, hence floats
  const loaded bytes({.cache = whisper::cache_storage::int8});
  const loaded nibbles({.cache = whisper::cache_storage::int4});
  const runner run;
  const matrix mel = random_matrix(tiny_model::mels, 100, 14);
  const matrix audio = floats.net->encode(mel.view(), run.rt);
  const matrix other = bytes.net->encode(mel.view(), run.rt);
  const double off = largest_difference(audio, other);
  CHECK(off > 0.0);
  CHECK(off < 0.1);  // of layer-normed values; one layer, whose attention is a percent off
  const std::vector<token> tokens{15, 121, 3, 7, 1};
  const auto logits_of = [&](const loaded& tiny, std::uint64_t& read) {
    auto state = tiny.net->start(audio.view(), run.rt);
    read = state.bytes();
    matrix logits = tiny.net->decode(state, tokens, 2, run.rt);
    const matrix once = logits;
    state.restart();
    CHECK(largest_difference(tiny.net->decode(state, tokens, 2, run.rt), once) == 0.0);
    return logits;
  };
  std::uint64_t read[3];
  const matrix exact = logits_of(floats, read[0]);
  CHECK(read[0] == 2 * 2 * 50 * tiny_model::state * sizeof(float));
  CHECK(largest_difference(logits_of(bytes, read[1]), exact) < 0.2);
  CHECK(largest_difference(logits_of(nibbles, read[2]), exact) < 2.0);
  CHECK(read[2] < read[1]);
}

TEST_CASE("an observer sees the inputs of every linear layer") {
  struct : whisper::layer_observer {
    std::map<std::string, index_t> tokens;
    void saw(std::string_view layer, whisper::matrix_view<const float> inputs) override {
      tokens[std::string(layer)] += inputs.rows();
    }
  } observer;
  const loaded tiny;
  const runner run;
  whisper::runtime watched = run.rt;
  watched.observer = &observer;
  const matrix audio = tiny.net->encode(random_matrix(3, 40, 11).view(), watched);
  auto state = tiny.net->start(audio.view(), watched);
  const std::vector<token> tokens{1, 2, 3};
  static_cast<void>(tiny.net->decode(state, tokens, 2, watched));
  std::size_t layers = 0;
  tiny.net->for_each_linear([&](std::string_view name, const whisper::linear&) {
    CAPTURE(std::string(name));
    layers += 1;
    const bool is_audio = name.starts_with("encoder.") || name.ends_with("cross_attn.key") ||
                          name.ends_with("cross_attn.value");
    const index_t expected = name == "encoder.conv1"             ? 40
                             : is_audio                          ? 20
                             : name == "decoder.token_embedding" ? 2
                                                                 : 3;
    CHECK(observer.tokens[std::string(name)] == expected);
  });
  CHECK(observer.tokens.size() == layers);
}

TEST_CASE("transcription ends, whatever the model says") {
  const loaded tiny;
  const runner run;
  const whisper::tokenizer words(tiny.file->vocabulary());
  const whisper::mel_spectrogram mel(tiny.file->mel_filters());
  const whisper::transcribe_options options{.window_seconds = 1, .most_tokens = 10};
  whisper::transcriber transcribe(*tiny.net, words, mel, options, run.rt);
  std::string text;
  const auto write = [&](std::string_view part) { text += part; };
  transcribe({}, write);
  CHECK(text.empty());
  CHECK(transcribe.totals().windows == 0);
  std::vector<float> samples;
  for (index_t i = 0; i < 40000; ++i) samples.push_back(0.1F * lowbit::random_normal(12, i));
  transcribe(samples, write);
  CHECK(transcribe.totals().windows == 3);
  CHECK(transcribe.totals().audio_seconds == 2.5);
  CHECK(transcribe.totals().tokens <= 3 * 12);
  CHECK_THROWS_AS(whisper::transcriber(*tiny.net, words, mel, {.window_seconds = 2}, run.rt),
                  lowbit::value_error);

  whisper::runtime stopped = run.rt;
  stopped.check = [] { LOWBIT_CHECK(false, cancelled, "stop"); };
  whisper::transcriber interrupted(*tiny.net, words, mel, options, stopped);
  CHECK_THROWS_AS(interrupted(samples, write), lowbit::cancelled_error);
}

/// Opens and loads a file; returns the error, "" for none.
std::string load_error(const std::filesystem::path& path) {
  try {
    const whisper::model_file file(path);
    const whisper::model net(file, {});
    static_cast<void>(file.mel_filters());
    return "";
  } catch (const lowbit::error& e) {
    return e.what();
  }
}

TEST_CASE("files that are no Whisper models are refused with the reason") {
  const temporary_folder folder;
  const auto path = folder / "m.bin";
  const auto error_of = [&](const tiny_model& m) {
    whisper_test::write_file(path, m.bytes());
    return load_error(path);
  };
  CHECK(error_of({}).empty());
  tiny_model m;
  m.sizes[2] = 0;
  CHECK(error_of(m) == "m.bin: n_audio_state is 0; 1 to 16384 are possible");
  m = {};
  m.sizes[3] = 3;
  CHECK(error_of(m) == "m.bin: n_audio_head = 3 does not divide n_audio_state = 16");
  m = {};
  m.sizes[0] += 1;
  CHECK(error_of(m).starts_with("m.bin: n_vocab is 1623 with 15 tokens of text: not an English"));
  m = {};
  m.sizes[4] = 2;
  CHECK(error_of(m).starts_with("m.bin: there is no tensor 'encoder.blocks.1.attn_ln.weight'"));
  m = {};
  m.tensors[1].name = "encoder.conv9.weight";
  CHECK(error_of(m).starts_with("m.bin: there is no tensor 'encoder.conv1.weight'"));
  m = {};
  m.tensors[1].shape = {16, 9, 1};
  CHECK(error_of(m).empty());  // the same values as rows
  m.tensors[1].shape = {8, 18};
  CHECK(error_of(m) ==
        "m.bin: tensor 'encoder.conv1.weight' is [8, 18], but the model's sizes want [16, 9]");
  m = {};
  m.tensors[1].values[20] = INFINITY;
  CHECK(error_of(m) ==
        "tensor 'encoder.conv1.weight', from row 0 on, holds +Inf at row 2, column 2");
  m = {};
  m.vocabulary[3].resize(100'000);
  CHECK_FALSE(error_of(m).empty());
  m = {};
  m.tensors[0].shape = {0x7FFFFFFF, 0x7FFFFFFF};  // not that large
  CHECK(error_of(m).starts_with("m.bin: "));
  const auto error_with = [&](index_t at, std::uint32_t number) {
    std::string bytes = tiny_model().bytes();
    std::memcpy(bytes.data() + at, &number, sizeof number);
    whisper_test::write_file(path, bytes);
    return load_error(path);
  };
  CHECK(error_with(0, 0x67676d6d).starts_with("m.bin: "));
  const index_t first_text = 4 * (1 + 11 + 2 + tiny_model::mels * 201 + 1);
  for (const std::uint32_t number : {0xFFFFFFFFU, 0x7FFFFFFFU, 0U}) {
    for (index_t at = 4; at < 48; at += 4) CHECK(error_with(at, number).starts_with("m.bin: "));
    CHECK(error_with(first_text - 4, number).starts_with("m.bin: "));  // tokens
    CHECK_FALSE(error_with(first_text, number).empty());               // bytes of the first one
  }
  whisper_test::write_file(path, "");
  CHECK_FALSE(load_error(path).empty());
  CHECK_FALSE(load_error(folder / "none").empty());
}

TEST_CASE("cut and damaged model files are refused or load, never more") {
  const temporary_folder folder;
  const auto path = folder / "m.bin";
  const std::string whole = tiny_model().bytes();
  for (std::size_t size = 0; size < whole.size(); size += size < 3000 ? 61 : 1009) {
    CAPTURE(size);
    whisper_test::write_file(path, whole.substr(0, size));
    CHECK_FALSE(load_error(path).empty());
  }
  for (std::uint64_t i = 0; i < 300; ++i) {
    std::string damaged = whole;
    // Half of them near the start, where sizes are.
    const std::uint64_t limit = i % 2 == 0 ? 200 : whole.size();
    damaged[lowbit::random_bits(20, i) % limit] = static_cast<char>(lowbit::random_bits(21, i));
    whisper_test::write_file(path, damaged);
    static_cast<void>(load_error(path));
  }
}

}  // namespace
