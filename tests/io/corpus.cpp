// The committed fuzz corpus holds every seed as it is made today, so that it cannot rot.
#include "../fuzz/seeds.hpp"
#include "catch.hpp"

namespace lowbit_test {
namespace {

TEST_CASE("the fuzz corpus holds the seeds") {
  INFO("run from the root of the repository; to renew the corpus: tests/fuzz/make_corpus.cpp");
  const std::filesystem::path folder = "tests/fuzz/corpus";
  const std::vector<seed> seeds = corpus_seeds();
  CHECK(seeds.size() >= 100);
  for (const seed& s : seeds) {
    INFO(s.name);
    CHECK((read_file(folder / s.name) == s.content));
  }
}

}  // namespace
}  // namespace lowbit_test
