// What layers see, collected: against sums in double, in one go and in pieces, of two networks.
#include "calibration.hpp"

#include <cmath>
#include <map>
#include <set>

#include "catch.hpp"
#include "sensitivity.hpp"
#include "tiny_model.hpp"
#include "wav.hpp"

namespace {

using lowbit_test::message_of;
using lowbit_test::temporary_folder;
using whisper::calibration_run;
using whisper::index_t;
using whisper::input_collector;
using whisper::matrix;
using whisper::token;
using whisper_test::loaded;
using whisper_test::runner;
using whisper_test::tiny_model;

/// Three sounds: less than a window, a window and a bit, silence that is not there.
struct sounds {
  sounds() {
    for (const auto& [name, count] : std::initializer_list<std::pair<const char*, index_t>>{
             {"a", 6000}, {"b", 20000}, {"c", 0}}) {
      std::vector<float> samples(count);
      for (index_t i = 0; i < count; ++i) samples[i] = 0.1F * lowbit::random_normal(count, i);
      const auto path = folder / (std::string(name) + ".wav");
      whisper_test::write_file(path, whisper_test::wav(16000, 1, samples));
      paths.push_back(path);
    }
  }
  temporary_folder folder;
  std::vector<std::filesystem::path> paths;
};

/// Everything for a run over the tiny model.
struct setup {
  explicit setup(const whisper::calibration_options& options = {}, bool has_second = false,
                 const std::set<std::string>& only = {})
      : words(tiny.file->vocabulary()), mel(tiny.file->mel_filters()) {
    for (index_t i = 0; i < 200; ++i) {
      text.push_back(static_cast<token>(lowbit::random_bits(7, i) % 14));
    }
    tiny.net->for_each_linear([&](std::string_view name, const whisper::linear& weights) {
      if (only.empty() || only.contains(std::string(name))) {
        layers.push_back({std::string(name), weights.shape().cols});
      }
    });
    inputs.emplace(layers, has_second, run.rt.ctx);
    work.emplace(
        calibration_run::networks{*tiny.net, has_second ? &*tiny.net : nullptr, words, mel},
        heard.paths, text, options, *inputs, run.rt);
  }

  struct found {
    std::vector<std::string> layers;
    lowbit::io::input_statistics known;
  };
  std::vector<found> finish() {
    while (work->step()) {
    }
    std::vector<found> all;
    unseen = inputs->finish([&](std::span<const std::string> names, const auto& known) {
      all.push_back({{names.begin(), names.end()}, known});
    });
    return all;
  }

  loaded tiny;
  runner run;
  whisper::tokenizer words;
  whisper::mel_spectrogram mel;
  sounds heard;
  std::vector<token> text;
  std::vector<input_collector::watched_layer> layers;
  std::optional<input_collector> inputs;
  std::optional<calibration_run> work;
  std::vector<std::string> unseen;
};

bool same(const lowbit::io::input_statistics& a, const lowbit::io::input_statistics& b) {
  const auto values = [](const auto& m) {
    return std::span(m.matrix().data(), m.matrix().shape().size());
  };
  return std::ranges::equal(values(a.moments), values(b.moments)) &&
         std::ranges::equal(a.cross, b.cross) && a.moments.mean == b.moments.mean &&
         a.moments.rows == b.moments.rows && a.moments.shrinkage == b.moments.shrinkage;
}

TEST_CASE("moments of text are those of the rows that layers see") {
  // What the layer sees, by an observer of our own.
  const whisper::calibration_options options{.text_tokens = 60, .start_weight = 3.0F};
  setup s(options);
  s.heard.paths.clear();
  s.work.emplace(calibration_run::networks{*s.tiny.net, nullptr, s.words, s.mel}, s.heard.paths,
                 s.text, options, *s.inputs, s.run.rt);
  const auto all = s.finish();

  struct : whisper::layer_observer {
    std::map<std::string, std::vector<double>> sums;  // of x x^T
    std::map<std::string, double> rows;               // their weights
    double start = 1.0;
    void saw(std::string_view layer, whisper::matrix_view<const float> x) override {
      auto& sum = sums[std::string(layer)];
      sum.resize(x.cols() * x.cols());
      for (index_t t = 0; t < x.rows(); ++t) {
        const double weight = t == 0 && layer != whisper::output_layer ? start : 1.0;
        rows[std::string(layer)] += weight;
        for (index_t i = 0; i < x.cols(); ++i) {
          for (index_t j = 0; j < x.cols(); ++j) {
            sum[i * x.cols() + j] +=
                weight * static_cast<double>(x(t, i)) * static_cast<double>(x(t, j));
          }
        }
      }
    }
  } expected;
  whisper::runtime watched = s.run.rt;
  const matrix audio =
      s.tiny.net->encode(s.mel(std::vector<float>(16000, 0.0F), 1).view(), s.run.rt);
  const auto windows = whisper::spread_windows(s.text, 60, 22);
  REQUIRE(windows.size() == 3);
  watched.observer = &expected;
  for (const auto& window : windows) {
    expected.start = 1.0;  // rows of silence all count the same
    auto state = s.tiny.net->start(audio.view(), watched);
    expected.start = 3.0;
    std::vector<token> tokens = whisper::prompt_of(s.words);
    tokens.insert(tokens.end(), window.begin(), window.end());
    static_cast<void>(s.tiny.net->decode(state, tokens, tokens.size() - 1, watched));
  }

  std::set<std::string> layers;
  for (const auto& [names, known] : all) {
    for (const std::string& name : names) {
      CAPTURE(name);
      CHECK(layers.insert(name).second);
      const auto& sum = expected.sums.at(name);
      const double rows = expected.rows.at(name);
      const index_t k = known.moments.channels();
      REQUIRE(sum.size() == k * k);
      double worst = 0.0;
      double largest = 0.0;
      for (index_t i = 0; i < k * k; ++i) {
        largest = std::max(largest, std::fabs(sum[i] / rows));
        worst = std::max(worst, std::fabs(known.moments.matrix().data()[i] - sum[i] / rows));
      }
      // Rows of keys and values of the one silence weigh as three windows: 50 rows of weight 3.
      // The same products, summed in double in another order: 150 roundings of 2^-53.
      CHECK(worst <= 1e-13 * largest);
    }
  }
  // Text says nothing of the encoder; queries, keys and values share their inputs.
  CHECK(s.unseen.size() == 8);
  CHECK(std::ranges::all_of(s.unseen, [](const auto& n) { return n.starts_with("encoder."); }));
  CHECK(layers.size() + 8 == s.layers.size());
  const auto sharing = [&](const std::string& first) {
    for (const auto& f : all) {
      if (f.layers.front() == first) return f.layers.size();
    }
    return std::size_t{0};
  };
  CHECK(sharing("decoder.blocks.1.attn.query") == 3);
  CHECK(sharing("decoder.blocks.0.cross_attn.key") == 4);
  CHECK(sharing("decoder.blocks.0.cross_attn.query") == 1);
  CHECK(sharing("decoder.token_embedding") == 1);
}

TEST_CASE("a run that is saved, interrupted and loaded gives the same bytes") {
  const whisper::calibration_options options{.audio_share = 0.5, .text_tokens = 100};
  setup whole(options, true);
  const auto expected = whole.finish();
  CHECK(whole.unseen.empty());
  CHECK(whole.work->so_far().sounds == 2);
  CHECK(whole.work->so_far().text_tokens == 100);
  CHECK(whole.work->share_done() == 1.0);

  const temporary_folder folder;
  for (const index_t stop : {0U, 1U, 3U, 4U, 6U}) {
    CAPTURE(stop);
    {
      setup first(options, true);
      for (index_t i = 0; i < stop; ++i) CHECK(first.work->step());
      lowbit::io::safetensors_writer out(folder / "state");
      first.work->save(out);
      out.finish();
    }
    setup second(options, true);
    second.work->load(lowbit::io::safetensors_reader::open(folder / "state"));
    CHECK(second.work->so_far().units == stop);
    const auto all = second.finish();
    REQUIRE(all.size() == expected.size());
    for (index_t i = 0; i < all.size(); ++i) {
      CAPTURE(all[i].layers.front());
      CHECK(same(all[i].known, expected[i].known));
    }
  }
  // The state of other layers is not taken.
  setup other(options, true, {"decoder.blocks.1.mlp.2"});
  lowbit::io::safetensors_writer out(folder / "state");
  other.work->save(out);
  out.finish();
  setup refusing(options, true);
  CHECK(message_of<lowbit::format_error>([&] {
          refusing.work->load(lowbit::io::safetensors_reader::open(folder / "state"));
        }).find("encoder.conv1.moments.sum") != std::string::npos);
}

TEST_CASE("a unit that is stopped in its middle has not happened") {
  const whisper::calibration_options options{.text_tokens = 60};
  setup whole(options);
  const auto expected = whole.finish();
  setup stopped(options);
  index_t left = 0;
  whisper::runtime rt = stopped.run.rt;
  rt.check = [&] { LOWBIT_CHECK(left-- > 0, cancelled, "stopped"); };
  stopped.work.emplace(
      calibration_run::networks{*stopped.tiny.net, nullptr, stopped.words, stopped.mel},
      stopped.heard.paths, stopped.text, options, *stopped.inputs, rt);
  index_t stops = 0;
  while (!stopped.work->is_done()) {
    left = 30 + 40 * stops++;  // a unit takes more steps than the first of these
    const auto before = stopped.work->so_far().units;
    try {
      stopped.work->step();
    } catch (const lowbit::cancelled_error&) {
      CHECK(stopped.work->so_far().units == before);
    }
    REQUIRE(stops < 100);
  }
  CHECK(stops > stopped.work->so_far().units);
  const auto all = stopped.finish();
  for (index_t i = 0; i < all.size(); ++i) CHECK(same(all[i].known, expected[i].known));
}

TEST_CASE("beside itself, a network is not distorted") {
  setup alone({.text_tokens = 60});
  setup both({.text_tokens = 60}, true);
  const auto one = alone.finish();
  const auto two = both.finish();
  REQUIRE(one.size() == two.size());
  for (index_t i = 0; i < one.size(); ++i) {
    CAPTURE(one[i].layers.front());
    const auto& m = one[i].known.moments;
    const auto& c = two[i].known;
    CHECK(one[i].known.cross.empty());
    CHECK(std::equal(m.matrix().data(), m.matrix().data() + m.matrix().shape().size(),
                     c.moments.matrix().data()));
    double largest = 0.0;
    double worst = 0.0;
    for (index_t n = 0; n < c.cross.size(); ++n) {
      largest = std::max(largest, std::fabs(c.cross[n]));
      worst = std::max(worst, std::fabs(c.cross[n] - m.matrix().data()[n]));
    }
    CHECK(c.cross.size() == m.matrix().shape().size());
    // (w x_i) x_j and (w x_j) x_i round differently where the weight w is no power of two
    // (silence).
    CHECK(worst <= 1e-13 * largest);
  }
}

TEST_CASE("padding and shares weigh rows") {
  // Without padding, only the rows of the sound and of half a second after it count.
  setup all({.padding = 1.0, .text_tokens = 0});
  setup some({.padding = 0.0, .text_tokens = 0});
  const auto rows_of = [](setup& s, const std::string& layer) {
    for (const auto& f : s.finish()) {
      if (f.layers.front() == layer) return f.known.moments.rows;
    }
    return index_t{0};
  };
  // Three windows of 50 rows; sounds of 0.375, 1 and 0.25 s (b is cut where it is quiet).
  CHECK(rows_of(all, "encoder.blocks.0.mlp.0") == 150);
  const index_t counted = rows_of(some, "encoder.blocks.0.mlp.0");
  CHECK(counted < 150);
  CHECK(counted > 44 + 40 + 30);

  // With a share of s, E = s E_sound + (1 - s) E_text, if all rows count the same.
  const auto mean_square = [](setup& s) {
    for (const auto& f : s.finish()) {
      if (f.layers.front() == "decoder.blocks.0.mlp.2") return f.known.moments.matrix()(3, 3);
    }
    return 0.0;
  };
  setup sound({.text_tokens = 0, .start_weight = 1.0F});
  setup text({.text_tokens = 60});
  text.work.emplace(calibration_run::networks{*text.tiny.net, nullptr, text.words, text.mel},
                    std::vector<std::filesystem::path>{}, text.text,
                    whisper::calibration_options{.text_tokens = 60, .start_weight = 1.0F},
                    *text.inputs, text.run.rt);
  setup mixed({.audio_share = 0.25, .text_tokens = 60, .start_weight = 1.0F});
  const double expected = 0.25 * mean_square(sound) + 0.75 * mean_square(text);
  // The weight is a float.
  CHECK(std::fabs(mean_square(mixed) - expected) <= 1e-6 * expected);
}

TEST_CASE("windows and sounds are spread") {
  std::vector<token> text(100);
  for (index_t i = 0; i < 100; ++i) text[i] = static_cast<token>(i);
  const auto windows = whisper::spread_windows(text, 30, 8);
  REQUIRE(windows.size() == 4);
  index_t tokens = 0;
  for (index_t i = 0; i < 4; ++i) {
    CHECK(windows[i].front() == 25 * i);
    CHECK(windows[i].size() <= 8);
    tokens += windows[i].size();
  }
  CHECK(tokens == 30);
  const auto everything = whisper::spread_windows(text, 1000, 8);
  tokens = 0;
  for (const auto& w : everything) {
    for (const token t : w) CHECK(t == tokens++);
  }
  CHECK(tokens == 100);
  CHECK(whisper::spread_windows(text, 0, 8).empty());
  CHECK(whisper::spread_windows({}, 10, 8).empty());

  for (const index_t n : {0U, 1U, 2U, 3U, 4U, 10U, 284U}) {
    std::vector<std::filesystem::path> files;
    for (index_t i = 0; i < n; ++i) files.emplace_back(std::to_string(i));
    auto spread = whisper::spread(files);
    std::sort(spread.begin(), spread.end());
    std::sort(files.begin(), files.end());
    CHECK(spread == files);
  }
}

TEST_CASE("sound files are found") {
  const sounds heard;
  whisper_test::write_file(heard.folder / "note.txt", "no sound");
  CHECK(whisper::find_sound_files({heard.folder.path().string()}) == heard.paths);
  CHECK(whisper::find_sound_files({heard.paths[1].string()}).size() == 1);
  CHECK_THROWS_AS(whisper::find_sound_files({(heard.folder / "x").string()}), lowbit::system_error);
  const temporary_folder empty;
  CHECK_THROWS_AS(whisper::find_sound_files({empty.path().string()}), lowbit::value_error);
}

/// Weights as floats.
class plain_weights final : public whisper::linear {
 public:
  explicit plain_weights(matrix w) : w_(std::move(w)) {}
  [[nodiscard]] whisper::shape2 shape() const override { return w_.shape(); }
  void multiply(whisper::matrix_view<const float> x, whisper::matrix_view<float> y,
                const whisper::runtime& rt) const override {
    rt.floats->multiply(whisper::as_input(x), whisper::as_input(w_.view()), whisper::as_output(y));
  }
  void read_rows(whisper::row_range rows, whisper::matrix_view<float> out) const override {
    for (index_t r = 0; r < out.rows(); ++r) {
      const auto row = w_.view().row(rows.begin + r);
      std::copy(row.begin(), row.end(), out.row(r).begin());
    }
  }
  [[nodiscard]] std::uint64_t bytes() const override { return 0; }
  [[nodiscard]] std::uint64_t stored_bits() const override { return 0; }
  [[nodiscard]] std::string describe(const whisper::runtime&) const override { return "plain"; }

 private:
  matrix w_;
};

TEST_CASE("sensitivity: what an error of one layer does to the predictions") {
  const whisper::calibration_options options{.text_tokens = 60, .start_weight = 3.0F};
  setup s(options);
  std::map<std::string, lowbit::io::input_statistics> known;
  for (const auto& f : s.finish()) {
    for (const auto& layer : f.layers) known.emplace(layer, f.known);
  }
  whisper::sensitivity_probe probe(*s.tiny.net, s.words, s.mel, s.heard.paths, s.text,
                                   {.text_tokens = 40, .sounds = 2}, s.run.rt);
  const auto weights = [&](const std::string& layer, float factor) {
    std::unique_ptr<plain_weights> out;
    s.tiny.net->for_each_linear([&](std::string_view name, const whisper::linear& own) {
      if (name != layer) return;
      matrix w(own.shape());
      own.read_rows({0, w.rows()}, w.view());
      for (float& v : w.values()) v *= factor;
      out = std::make_unique<plain_weights>(std::move(w));
    });
    return out;
  };
  for (const std::string layer : {"encoder.conv1", "encoder.blocks.0.mlp.2",
                                  "decoder.blocks.1.mlp.2", "decoder.token_embedding"}) {
    CAPTURE(layer);
    const auto& inputs = known.at(layer).moments;
    CHECK(!probe.measure(layer, weights(layer, 1.0F), inputs));
    const auto little = probe.measure(layer, weights(layer, 1.03125F), inputs);
    const auto much = probe.measure(layer, weights(layer, 1.5F), inputs);
    REQUIRE(little);
    REQUIRE(much);
    // E = W / 32 and W / 2; H has rounding errors of its own.
    CHECK(std::fabs(little->relative_error * 1024.0 - 1.0) < 1e-9);
    CHECK(std::fabs(much->relative_error * 4.0 - 1.0) < 1e-9);
    // Logarithms are floats of about 10, rounded by 1e-6; a divergence of less is noise.
    CHECK(little->nats > -1e-6);
    CHECK(much->nats > 1e-5);
    CHECK(much->nats > little->nats);
    // The network is as it was.
    CHECK(!probe.measure(layer, weights(layer, 1.0F), inputs));
  }
  std::unique_ptr<whisper::linear> nothing;
  CHECK_THROWS_AS(s.tiny.net->exchange_weights("decoder.blocks.7.mlp.2", nothing),
                  lowbit::value_error);
  CHECK_THROWS_AS(s.tiny.net->exchange_weights("encoder.conv1", nothing), lowbit::shape_error);
}

}  // namespace
