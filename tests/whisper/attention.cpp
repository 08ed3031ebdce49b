// Attention over codes, beside attention over floats.
#include "attention.hpp"

#include <cmath>

#include "../../examples/common/thread_pool.hpp"
#include "catch.hpp"
#include "lowbit/executors/thread_pool.hpp"
#include "tiny_model.hpp"

namespace {

using whisper::index_t;
using whisper::matrix;
using whisper_test::distance;
using whisper_test::random_matrix;
using whisper_test::runner;

/// In double.
matrix reference(const matrix& q, const matrix& k, const matrix& v, index_t heads) {
  const index_t width = q.cols() / heads;
  matrix out(q.shape());
  for (index_t h = 0; h < heads; ++h) {
    for (index_t m = 0; m < q.rows(); ++m) {
      std::vector<double> weights;
      for (index_t t = 0; t < k.rows(); ++t) {
        double score = 0.0;
        for (index_t i = h * width; i < (h + 1) * width; ++i) {
          score += static_cast<double>(q.view()(m, i)) * static_cast<double>(k.view()(t, i));
        }
        weights.push_back(score / std::sqrt(static_cast<double>(width)));
      }
      const double largest = *std::max_element(weights.begin(), weights.end());
      double sum = 0.0;
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (index_t i = h * width; i < (h + 1) * width; ++i) {
        double mean = 0.0;
        for (index_t t = 0; t < k.rows(); ++t) {
          mean += weights[t] / sum * static_cast<double>(v.view()(t, i));
        }
        out.view()(m, i) = static_cast<float>(mean);
      }
    }
  }
  return out;
}

struct sizes {
  index_t queries, tokens, heads, width;
};
/// Tiles of 128 and runs of 64 that are not full; heads that share tiles, or straddle them.
constexpr sizes all_sizes[] = {
    {1, 1, 1, 8}, {3, 65, 2, 64}, {130, 130, 8, 24}, {11, 200, 3, 64}, {129, 63, 1, 160}};

TEST_CASE("attention over codes is nearly attention") {
  const runner run;
  for (const sizes& s : all_sizes) {
    CAPTURE(s.queries, s.tokens, s.heads, s.width);
    const index_t state = s.heads * s.width;
    const matrix q = random_matrix(s.queries, state, 1);
    const matrix k = random_matrix(s.tokens, state, 2);
    const matrix v = random_matrix(s.tokens, state, 3);
    const matrix expected = reference(q, k, v, s.heads);
    // int8 steps are 1/127 of the largest of some 64 values, about 2.5 times the usual one: errors
    // of .6 % in queries and keys, hence of .8 % in scores of about 1 and in weights, and of .6 %
    // in values. Weights of exp(N(0, 1)) have a step of 1/127 of the largest, e^2.5, and the root
    // of their mean square is e: 1 %. Together 1.4 %; twice that for chance with few outputs.
    const matrix encoder = whisper::attend_in_codes(q, k, v, s.heads, run.rt);
    CHECK(distance(encoder, expected) < 0.03);
    const whisper::code_cache bytes(k.view(), v.view(), s.heads, 8, run.rt);
    CHECK(distance(bytes.attend(q, run.rt), expected) < 0.03);
    // Steps of 1/7: 11 % in keys and values.
    const whisper::code_cache nibbles(k.view(), v.view(), s.heads, 4, run.rt);
    CHECK(distance(nibbles.attend(q, run.rt), expected) < 0.3);
    CHECK(nibbles.bytes() < bytes.bytes());
  }
}

TEST_CASE("weights of codes have the sum 1, and one key may have all of it") {
  const runner run;
  constexpr index_t width = 24;
  for (const index_t tokens : {1U, 63U, 64U, 130U}) {
    CAPTURE(tokens);
    const matrix k = random_matrix(tokens, width, 4);
    matrix v(tokens, width);
    for (float& x : v.values()) x = 3.0F;
    const matrix q = random_matrix(5, width, 5);
    // Values are exact; what is left is the rounding of some sums of floats.
    const matrix same = whisper::attend_in_codes(q, k, v, 1, run.rt);
    for (const float x : same.values()) CHECK(std::abs(x - 3.0F) < 1e-5F);

    // The score of the key that the query is 50 times of is about 50 * 24 / sqrt(24) = 245, those
    // of others are below 3 * 50 * sqrt(24) / sqrt(24) = 150.
    const index_t chosen = tokens / 2;
    matrix near(1, width);
    for (index_t i = 0; i < width; ++i) near.view()(0, i) = 50.0F * k.view()(chosen, i);
    const matrix values = random_matrix(tokens, width, 6);
    const whisper::code_cache cache(k.view(), values.view(), 1, 8, run.rt);
    const matrix one = whisper::attend_in_codes(near, k, values, 1, run.rt);
    const matrix other = cache.attend(near, run.rt);
    for (index_t i = 0; i < width; ++i) {
      // Half a step of a run's largest value, which is below 4.
      CHECK(std::abs(one.view()(0, i) - values.view()(chosen, i)) < 4.0F / 254.0F);
      CHECK(std::abs(other.view()(0, i) - values.view()(chosen, i)) < 4.0F / 254.0F);
    }
  }
}

TEST_CASE("attention over codes does not depend on threads or on other queries") {
  const runner run;
  examples::thread_pool pool(2);
  lowbit::executors::thread_pool_executor threads([&](auto job) { pool.submit(job); }, 3);
  whisper::runtime parallel = run.rt;
  parallel.ctx.threads = &threads;
  constexpr index_t heads = 2;
  const matrix q = random_matrix(100, 128, 1);
  const matrix k = random_matrix(150, 128, 2);
  const matrix v = random_matrix(150, 128, 3);
  const matrix encoder = whisper::attend_in_codes(q, k, v, heads, run.rt);
  CHECK(std::ranges::equal(whisper::attend_in_codes(q, k, v, heads, parallel).values(),
                           encoder.values()));
  const whisper::code_cache cache(k.view(), v.view(), heads, 8, run.rt);
  const whisper::code_cache same(k.view(), v.view(), heads, 8, parallel);
  const matrix all = cache.attend(q, run.rt);
  CHECK(std::ranges::equal(same.attend(q, parallel).values(), all.values()));
  for (index_t m = 0; m < 20; ++m) {
    matrix one(1, q.cols());
    std::ranges::copy(q.view().row(m), one.values().begin());
    CHECK(std::ranges::equal(cache.attend(one, run.rt).values(), all.view().row(m)));
  }

  matrix bad = random_matrix(150, 128, 4);
  bad.values()[7] = std::nanf("");
  CHECK_THROWS_AS(whisper::code_cache(bad.view(), v.view(), heads, 8, run.rt), lowbit::value_error);
  CHECK_THROWS_AS(whisper::attend_in_codes(q, k, bad, heads, run.rt), lowbit::value_error);
}

}  // namespace
