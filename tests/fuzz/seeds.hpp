// tests/fuzz/seeds.hpp: the files that the fuzz corpus starts from: a few that are read, and every
// malformed one.
#pragma once

#include "../io/documented_example.hpp"
#include "../io/malformed_files.hpp"

namespace lowbit_test {

struct seed {
  std::string name;
  byte_vector content;
};

inline std::vector<seed> corpus_seeds() {
  constexpr std::size_t max_bytes = 1 << 14;  // a fuzzer wants small files
  std::vector<seed> seeds{{"read_plain", assemble(plain_parts())},
                          {"read_nothing", assemble({"{}", {}})},
                          {"read_toy_checkpoint", checkpoint_bytes()},
                          {"read_uniform_checkpoint", documented_example()}};
  for (const malformed_file& file : malformed_files()) {
    seed s{"refused_" + file.name, file.make()};
    if (s.content.size() <= max_bytes) seeds.push_back(std::move(s));
  }
  return seeds;
}

}  // namespace lowbit_test
