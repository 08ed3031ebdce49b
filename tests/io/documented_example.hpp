// tests/io/documented_example.hpp: the file that docs/file_format.md walks through byte by byte.
// Free of Catch2, because the fuzz corpus holds it too.
#pragma once

#include "files.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"
#include "lowbit/io/checkpoint.hpp"

namespace lowbit_test {

/// Two rows of three weights that 2-bit codes hold exactly.
inline constexpr float documented_weights[] = {0.5F, -0.5F, 0.0F, -2.0F, 0.0F, 2.0F};

inline byte_vector documented_example() {
  const temporary_folder folder;
  const lowbit::formats::uniform_quantizer quantizer{
      .params = {.bits = 2,
                 .kind = lowbit::symmetry::symmetric,
                 .granularity = lowbit::formats::granularity::channel,
                 .scale_type = lowbit::scale_type::fp16}};
  const std::vector<lowbit::bfloat16> bias{lowbit::from_float<lowbit::bfloat16>(1.0F),
                                           lowbit::from_float<lowbit::bfloat16>(-3.0F)};
  const lowbit::index_t bias_shape[] = {bias.size()};
  lowbit::io::checkpoint_writer writer(folder / "f");
  writer.add("w", quantizer.quantize({documented_weights, 2, 3}));
  writer.add_plain("b", lowbit::element_type::bf16, bias_shape, std::as_bytes(std::span(bias)));
  writer.set_provenance("tool", "docs");
  writer.finish();
  return read_file(folder / "f");
}

}  // namespace lowbit_test
