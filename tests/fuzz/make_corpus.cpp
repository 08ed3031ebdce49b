// Writes the seeds of the fuzz corpus: make_corpus tests/fuzz/corpus. A test of io compares the
// folder with them (tests/io/corpus.cpp); run this when it says that they differ.
#include <cstdio>

#include "seeds.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  const auto seeds = lowbit_test::corpus_seeds();
  for (const auto& seed : seeds) lowbit_test::write_file(folder / seed.name, seed.content);
  std::printf("wrote %zu files to %s\n", seeds.size(), folder.c_str());
  return 0;
}
