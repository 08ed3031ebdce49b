// What `whisper evaluate` computes.
#include "evaluation.hpp"

#include <cmath>

#include "catch.hpp"
#include "tiny_model.hpp"
#include "token_classes.hpp"
#include "wav.hpp"

namespace {

using lowbit_test::message_of;
using lowbit_test::temporary_folder;
using whisper::index_t;
using whisper::matrix;
using whisper::normalized_words;
using whisper::token;
using whisper_test::runner;
using whisper_test::tiny_model;
using words = std::vector<std::string>;

/// Sums of few doubles of about 1.
constexpr double rounding = 1e-12;

TEST_CASE("errors of means are those of clusters") {
  const auto none = whisper::clustered_mean({});
  CHECK(none.mean == 0.0);
  CHECK(none.error == 0.0);
  const whisper::cluster one[] = {{3.0, 2.0}};
  CHECK(whisper::clustered_mean(one).mean == 1.5);
  CHECK(whisper::clustered_mean(one).error == 0.0);
  // Mean 8 / 4; rests 4 - 2, 4 - 6: sqrt(2 / 1 * 8) / 4.
  const whisper::cluster two[] = {{4.0, 1.0}, {4.0, 3.0}};
  CHECK(whisper::clustered_mean(two).mean == 2.0);
  CHECK(std::abs(whisper::clustered_mean(two).error - 1.0) < rounding);
}

TEST_CASE("tokens are compared over the whole vocabulary") {
  const runner run;
  // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/4, 1/2, times constants that fall out.
  const auto l = [](double x) { return static_cast<float>(std::log(x)); };
  const float p[] = {l(8), l(4), l(4), l(8), l(4), l(4)};
  const float q[] = {l(1), l(1), l(2), l(2), l(1), l(1)};
  const token next[] = {1, 0};
  std::vector<whisper::token_figures> all;
  whisper::compare_logits({p, 2, 3}, {q, 2, 3}, next, 7, run.rt, all);
  REQUIRE(all.size() == 2);
  // Logits are rounded to floats: by 2^-24 of at most log 8 = 2.1, twice.
  constexpr double error = 1e-6;
  CHECK(all[0].id == 1);
  CHECK(all[0].cluster == 7);
  CHECK(std::abs(all[0].reference_nll - std::log(4.0)) < error);
  CHECK(std::abs(all[0].nll - std::log(4.0)) < error);
  CHECK(std::abs(all[0].divergence - 0.25 * std::log(2.0)) < error);
  CHECK_FALSE(all[0].agrees);
  CHECK(std::abs(all[1].nll - std::log(2.0)) < error);
  CHECK(std::abs(all[1].divergence) < error);
  CHECK(all[1].agrees);

  const whisper::figures f = whisper::summarize(all);
  CHECK(f.tokens == 2);
  CHECK(f.clusters == 1);
  CHECK(std::abs(f.divergence.mean - 0.125 * std::log(2.0)) < error);
  CHECK(f.divergence_99 == all[0].divergence);
  CHECK(f.agreement.mean == 0.5);
  CHECK(whisper::summarize({}).tokens == 0);
  CHECK(message_of<lowbit::shape_error>([&] {
          whisper::compare_logits({p, 2, 3}, {q, 1, 6}, next, 0, run.rt, all);
        }) == "logits [2, 3] and [1, 6] of 2 tokens");
}

TEST_CASE("percentiles are the nearest rank") {
  std::vector<whisper::token_figures> all(200);
  for (index_t i = 0; i < all.size(); ++i) all[i].divergence = static_cast<double>(i + 1);
  CHECK(whisper::summarize(all).divergence_99 == 198.0);
}

TEST_CASE("a model does not differ from itself") {
  const temporary_folder folder;
  whisper_test::write_file(folder / "a.bin", tiny_model().bytes());
  tiny_model changed;
  for (auto& t : changed.tensors) {
    if (t.name == "encoder.blocks.0.mlp.2.bias") t.values[3] += 0.01F;
  }
  whisper_test::write_file(folder / "b.bin", changed.bytes());
  const runner run;
  const whisper::model_file file(folder / "a.bin");
  const whisper::model a(file, {});
  const whisper::model same(file, {});
  const whisper::model b(whisper::model_file(folder / "b.bin"), {});
  const whisper::mel_spectrogram mel(file.mel_filters());
  const whisper::tokenizer vocabulary(file.vocabulary());
  const auto print = [&](const whisper::model& net) {
    return whisper::take_fingerprint(net, vocabulary.special(), mel, run.rt);
  };
  CHECK(print(a).encoder == print(same).encoder);
  CHECK(print(a).decoder == print(same).decoder);
  CHECK(print(a).encoder != print(b).encoder);
  CHECK(print(a).decoder != print(b).decoder);

  const matrix audio = a.encode(mel({}, 1).view(), run.rt);
  const std::vector<token> text{1, 2, 3, 4, 5};
  const auto logits = [&](const whisper::model& net, const matrix& heard) {
    auto state = net.start(heard.view(), run.rt);
    // A state that has been used and restarted is a new one.
    static_cast<void>(whisper::predict(net, state, vocabulary.special(), text, run.rt));
    state.restart();
    return whisper::predict(net, state, vocabulary.special(), text, run.rt);
  };
  std::vector<whisper::token_figures> all;
  const matrix of_a = logits(a, audio);
  whisper::compare_logits(of_a.view(), logits(same, audio).view(), text, 0, run.rt, all);
  whisper::figures f = whisper::summarize(all);
  CHECK(f.divergence.mean == 0.0);
  CHECK(f.divergence_99 == 0.0);
  CHECK(f.nll_difference.mean == 0.0);
  CHECK(f.agreement.mean == 1.0);

  all.clear();
  const matrix other = b.encode(mel({}, 1).view(), run.rt);
  whisper::compare_logits(of_a.view(), logits(b, other).view(), text, 0, run.rt, all);
  CHECK(whisper::summarize(all).divergence.mean > 0.0);

  // Row t says what follows the prompt and t tokens.
  auto state = a.start(audio.view(), run.rt);
  const std::vector<token> prompt{vocabulary.special().start_of_transcript,
                                  vocabulary.special().no_timestamps};
  const matrix first = a.decode(state, prompt, 1, run.rt);
  // The same sums in another order: logits of about 1 whose terms are a few hundred.
  for (index_t i = 0; i < first.cols(); ++i) {
    REQUIRE(std::abs(first.view()(0, i) - of_a.view()(0, i)) < 1e-4F);
  }
}

TEST_CASE("texts become windows of tokens") {
  CHECK(whisper::text_from("ab cd\n\n ef", 1, false) == " cd ef");
  CHECK(whisper::text_from("ab cd\n\n ef", 1, true) == " cd\n\n ef");
  CHECK(whisper::text_from("ab", 1, false).empty());
  CHECK(whisper::text_from("ab", 9, false).empty());
  const whisper::tokenizer t({"a", "b", " ", "END"});
  using windows = std::vector<std::vector<token>>;
  CHECK(whisper::text_windows(t, "abab", 3, 2) == windows{{0, 1}, {0}});
  CHECK(whisper::text_windows(t, "abab", 4, 2) == windows{{0, 1}, {0, 1}});
  CHECK(message_of<lowbit::value_error>([&] { return whisper::text_windows(t, "ab", 3, 2); }) ==
        "the text has 2 tokens, 3 are wanted");
}

TEST_CASE("words are compared without case, signs and spelling of numbers") {
  CHECK(normalized_words("").empty());
  CHECK(normalized_words(" ...!").empty());
  CHECK(normalized_words("Please, I\u2019m (re-)dialing... don't") ==
        words{"please", "im", "re", "dialing", "dont"});
  CHECK(normalized_words("Press 1 or #\u2014100%") ==
        words{"press", "one", "or", "pound", "one", "hundred", "percent"});
  CHECK(normalized_words("42, 15 1,204 110 7000") ==
        words{"forty", "two", "fifteen", "one", "thousand", "two", "hundred", "four", "one",
              "hundred", "ten", "seven", "thousand"});
  CHECK(normalized_words("12000001") == words{"twelve", "million", "one"});
  CHECK(normalized_words("0 007") == words{"zero", "zero", "zero", "seven"});
  CHECK(normalized_words("1000000000").size() == 10);
  CHECK(normalized_words("N B S, a word") == words{"nbsa", "word"});
  CHECK(normalized_words("a N.B.S. 1 I") == words{"anbs", "one", "i"});
  CHECK(normalized_words("3rd caf\u00E9") == words{"three", "rd", "caf\u00E9"});
}

TEST_CASE("errors are the fewest that explain what was heard") {
  const auto errors = [](const words& reference, const words& heard) {
    const auto e = whisper::count_word_errors(reference, heard);
    CHECK(e.words == reference.size());
    return e.errors;
  };
  CHECK(errors({}, {}) == 0);
  CHECK(errors({"a", "b"}, {"a", "b"}) == 0);
  CHECK(errors({"a", "b"}, {}) == 2);
  CHECK(errors({}, {"a", "b"}) == 2);
  CHECK(errors({"a", "b", "c"}, {"a", "c"}) == 1);
  CHECK(errors({"a", "c"}, {"a", "b", "c"}) == 1);
  CHECK(errors({"a", "b", "c"}, {"a", "x", "c"}) == 1);
  CHECK(errors({"a", "b", "c", "d"}, {"b", "c", "d", "e"}) == 2);
}

TEST_CASE("tokens have classes") {
  const whisper::token_classes t("# a comment\n\n a: x+ \nsome b:y|xy\n", "rules");
  CHECK(t.names() == words{"a", "some b"});
  CHECK(t.class_of("xx") == 0);
  CHECK(t.class_of("xy") == 1);  // all bytes must match
  CHECK(t.class_of("xyz") == 2);
  CHECK(t.class_of("") == 2);

  const auto refused = [](std::string_view rules) {
    return message_of<lowbit::format_error>([&] { whisper::token_classes(rules, "f"); });
  };
  CHECK(refused("a: x\n\nb\n") == "f, line 3: no rule of the form name: pattern");
  CHECK(refused("a: x\na: y") == "f, line 2: the class 'a' has a rule already");
  CHECK(refused(" : x") == "f, line 1: no rule of the form name: pattern");
  CHECK(refused("a: (").starts_with("f, line 1: the pattern '(' is no regular expression: "));
  CHECK(refused("# nothing\n") == "f: there is no rule");
}

TEST_CASE("the rules that come with the program") {
  const whisper::token_classes t(whisper::default_token_rules, "default");
  const auto name = [&](std::string_view text) { return t.names().at(t.class_of(text)); };
  CHECK(name("") == "special");
  CHECK(name(" ") == "white space");
  CHECK(name("\n\n") == "white space");
  CHECK(name(" 1851") == "number");
  CHECK(name("!") == "punctuation");
  CHECK(name(" \u201C") == "punctuation");
  CHECK(name("\xE2\x80") == "punctuation");
  CHECK(name(" Ishmael") == "capitalised name");
  CHECK(name(" whale") == "word start");
  CHECK(name(" I") == "word start");
  CHECK(name("ing") == "word piece");
  CHECK(name("'s") == "word piece");
}

TEST_CASE("what was heard is kept and verified") {
  const temporary_folder folder;
  const whisper::clip_cache cache(folder / "x", {1, 2});
  const std::vector<float> samples{0.5F, 0.25F};
  CHECK_FALSE(cache.find(samples, 10).has_value());
  const whisper::heard_clip heard{.audio = whisper_test::random_matrix(3, 5, 1), .text = {1, 2, 3}};
  cache.store(samples, 10, heard);
  const auto found = cache.find(samples, 10);
  REQUIRE(found.has_value());
  CHECK(found->text == heard.text);
  REQUIRE(found->audio.shape() == heard.audio.shape());
  CHECK(std::equal(heard.audio.values().begin(), heard.audio.values().end(),
                   found->audio.values().begin()));
  // Another window, other samples, another model.
  CHECK_FALSE(cache.find(samples, 15).has_value());
  CHECK_FALSE(cache.find(std::vector<float>{0.5F}, 10).has_value());
  CHECK_FALSE(whisper::clip_cache(folder / "x", {1, 3}).find(samples, 10).has_value());

  // No damage goes unnoticed.
  std::filesystem::path path;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "x")) {
    if (entry.is_regular_file()) path = entry.path();
  }
  const auto bytes = lowbit_test::read_file(path);
  const std::string whole(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto is_refused = [&](const std::string& content) {
    std::filesystem::remove(path);
    whisper_test::write_file(path, content);
    return !cache.find(samples, 10).has_value();
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    CAPTURE(i);
    REQUIRE(is_refused(damaged));
  }
  CHECK(is_refused(""));
  CHECK(is_refused(whole.substr(0, whole.size() - 1)));
  CHECK(is_refused(whole + "x"));
  CHECK_FALSE(is_refused(whole));
}

TEST_CASE("clips for evaluation are every other one") {
  const temporary_folder folder;
  std::filesystem::create_directory(folder / "a");
  const auto put = [&](const char* name, std::size_t samples) {
    whisper_test::write_file(folder / name,
                             whisper_test::wav(16000, 1, std::vector<std::int16_t>(samples, 1000)));
  };
  // Sorted by path: a/x, a-b, b, c, d, e, f, g, h.
  for (const char* const name :
       {"a-b.wav", "a/x.wav", "b.wav", "c.wav", "d.wav", "e.wav", "g.wav"}) {
    put(name, 160);
  }
  put("f.wav", 16001);
  put("h.wav", 160);
  whisper_test::write_file(folder / "texts",
                           "; a comment\na/x: One, two\na-b: no\nb: two (not said) words\nd: "
                           "[beep]\nf: too long\nh: word\n");
  const auto names = [&](index_t least_words, index_t count) {
    words out;
    for (const auto& c :
         whisper::read_clips(folder / ".", folder / "texts",
                             {.window_seconds = 1, .least_words = least_words, .count = count})) {
      out.push_back(c.name);
      CHECK(c.samples.size() == 160);
    }
    return out;
  };
  CHECK(names(1, 0) == words{"a/x", "b", "h"});
  CHECK(names(2, 0) == words{"a/x", "b"});
  CHECK(names(1, 2) == words{"a/x", "b"});
  CHECK(message_of<lowbit::value_error>([&] { names(1, 4); }).ends_with("4 are wanted"));
  CHECK(message_of<lowbit::system_error>([&] {
          return whisper::read_clips(folder / "none", folder / "texts", {});
        }).starts_with("cannot read the folder "));
}

}  // namespace
