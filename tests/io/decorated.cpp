// Decorated tensors are tensors: a checkpoint holds them, flat, and gives them back.
#include <string>
#include <vector>

#include "../decorators/make_transforms.hpp"
#include "catch.hpp"
#include "files.hpp"
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/replicated.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/decorators/with_outliers.hpp"
#include "lowbit/io/checkpoint.hpp"
#include "lowbit/testing/buffers.hpp"
#include "toy_tensor.hpp"

using namespace lowbit;
using lowbit_test::make_toy;
using lowbit_test::message_of;
using lowbit_test::toy_tensor;
using nest = decorators::rotated<decorators::permuted<decorators::scaled<toy_tensor>>>;

TEST_CASE("a checkpoint holds decorated tensors") {
  const lowbit_test::temporary_folder folder;
  constexpr index_t cols = 24;
  decorators::scaled<toy_tensor> scaled(test::scaling(cols, 1), make_toy({5, cols}));
  const nest tensor({cols, {.block = 8, .seed = 4294967295U}},
                    {test::permutation(cols, 2), std::move(scaled)});
  {
    io::checkpoint_writer writer(folder / "file");
    writer.add("layer", tensor);
    writer.finish();
  }
  const auto reader = io::checkpoint_reader::open(folder / "file");
  reader.verify();
  const auto* entry = reader.find("layer");
  REQUIRE(entry != nullptr);
  CHECK(entry->format == "rotated.permuted.scaled.toy");
  CHECK(entry->version == 3);  // toy's 2 and rotated's 2, less 1
  CHECK(entry->bits == tensor.storage_bits());
  CHECK(entry->params_json ==
        R"({"bits":8,"column_scale_type":"fp16","gain":1.0,"rotation_block":8,)"
        R"("rotation_seed":4294967295,"rounding":"nearest"})");
  const std::vector<std::string> names{"layer.column_order", "layer.column_scales", "layer.codes",
                                       "layer.scales"};
  REQUIRE(entry->buffers.size() == names.size());
  for (index_t i = 0; i < names.size(); ++i) CHECK(entry->buffers[i]->name == names[i]);

  const auto loaded = reader.load<nest>("layer");
  CHECK(loaded.params() == tensor.params());
  CHECK(testing::first_difference(testing::copy_buffers(loaded), testing::copy_buffers(tensor)) ==
        "");
  CHECK(message_of<format_error>([&] {
          static_cast<void>(reader.load<toy_tensor>("layer"));
        }).find("the format is 'rotated.permuted.scaled.toy', not 'toy'") != std::string::npos);
}

TEST_CASE("a checkpoint holds outliers inside and around other decorators") {
  const lowbit_test::temporary_folder folder;
  const shape2 shape{20, 24};
  const std::vector<index_t> places{3, 24, 479};
  const std::vector<float> values{-1.5F, 2.0F, 1000.0F};
  const layout::sparse_matrix outliers(shape, places, values);
  const decorators::hadamard_rotation rotation(24, {.block = 8});
  using around = decorators::with_outliers<decorators::rotated<toy_tensor>>;
  using inside = decorators::rotated<decorators::with_outliers<toy_tensor>>;
  const around a(outliers, {rotation, make_toy(shape)});
  const inside b(rotation, {outliers, make_toy(shape)});
  {
    io::checkpoint_writer writer(folder / "file");
    writer.add("a", a);
    writer.add("b", b);
    writer.finish();
  }
  const auto reader = io::checkpoint_reader::open(folder / "file");
  reader.verify();
  const auto* entry = reader.find("a");
  REQUIRE(entry != nullptr);
  CHECK(entry->format == "with_outliers.rotated.toy");
  CHECK(entry->bits == a.storage_bits());
  CHECK(entry->params_json ==
        R"({"bits":8,"gain":1.0,"outlier_count":3,"outlier_index_bytes":3,"rotation_block":8,)"
        R"("rotation_seed":0,"rounding":"nearest"})");
  const auto same = [](const auto& x, const auto& y) {
    return testing::first_difference(testing::copy_buffers(x), testing::copy_buffers(y));
  };
  CHECK(same(reader.load<around>("a"), a) == "");
  CHECK(same(reader.load<inside>("b"), b) == "");
}

TEST_CASE("a checkpoint holds replicated tensors") {
  using ordered = decorators::permuted<decorators::replicated<toy_tensor>>;
  const lowbit_test::temporary_folder folder;
  constexpr index_t cols = 24;
  std::vector<toy_tensor> replicas;
  for (index_t k = 0; k < 11; ++k) replicas.push_back(make_toy({5, cols}));
  const ordered tensor(test::permutation(cols, 2),
                       {decorators::replica_total::mean, std::move(replicas)});
  {
    io::checkpoint_writer writer(folder / "file");
    writer.add("layer", tensor);
    writer.finish();
  }
  const auto reader = io::checkpoint_reader::open(folder / "file");
  reader.verify();
  const auto* entry = reader.find("layer");
  REQUIRE(entry != nullptr);
  CHECK(entry->format == "permuted.replicated.toy");
  CHECK(entry->bits == tensor.storage_bits());
  CHECK(entry->params_json ==
        R"({"bits":8,"gain":1.0,"replica_total":"mean","replicas":11,"rounding":"nearest"})");
  REQUIRE(entry->buffers.size() == 23);
  CHECK(entry->buffers[1]->name == "layer.replica0_codes");
  CHECK(entry->buffers[22]->name == "layer.replica10_scales");
  const auto loaded = reader.load<ordered>("layer");
  CHECK(loaded.params() == tensor.params());
  CHECK(testing::first_difference(testing::copy_buffers(loaded), testing::copy_buffers(tensor)) ==
        "");
}
