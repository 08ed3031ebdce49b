// tests/io/read_everything.hpp: does with a file all that a program could, for the tests of
// malformed files and for the fuzz target.
#pragma once

#include <algorithm>
#include <vector>

#include "lowbit/io/checkpoint.hpp"
#include "toy_tensor.hpp"

namespace lowbit_test {

/// Up to four rows, and no more values than a test wants to look at.
inline lowbit::row_range first_rows(lowbit::shape2 shape) {
  constexpr lowbit::index_t max_values = 1 << 16;
  lowbit::index_t rows = std::min<lowbit::index_t>(shape.rows, 4);
  if (shape.cols != 0) rows = std::min(rows, max_values / shape.cols);
  return {0, rows};
}

/// Calls read(rows, out) for the first rows of a matrix.
template <class Read>
void read_first_rows(lowbit::shape2 shape, Read&& read) {
  const lowbit::row_range rows = first_rows(shape);
  std::vector<float> values(rows.size() * (rows.size() == 0 ? 0 : shape.cols));
  read(rows, lowbit::matrix_view<float>(values.data(), rows.size(), shape.cols));
}

/// Reads the first rows of every tensor that can be read as floats.
inline void read_tensors(const lowbit::io::safetensors_reader& file) {
  for (const lowbit::io::stored_tensor& tensor : file.tensors()) {
    try {
      read_first_rows(lowbit::io::matrix_shape(tensor),
                      [&](auto rows, auto out) { lowbit::io::read_rows(tensor, rows, out); });
    } catch (const lowbit::value_error&) {  // a type that is not read as floats
    }
  }
}

/// Verifies every checksum and loads every quantized tensor with the formats of the list.
template <class FormatList>
void read_checkpoint(const lowbit::io::checkpoint_reader& file) {
  for (const lowbit::io::checkpoint_entry& entry : file.entries()) {
    if (!entry.is_quantized()) {
      static_cast<void>(file.plain(entry.name));
      continue;
    }
    file.visit<FormatList>(entry.name, [](const auto& tensor) {
      read_first_rows(tensor.shape(), [&](auto rows, auto out) { tensor.dequantize(rows, out); });
    });
  }
  if (file.is_quantized_checkpoint()) file.verify();
}

/// Throws lowbit::error for whatever is wrong with the file.
inline void read_everything(std::span<const std::byte> file, std::string_view label) {
  read_tensors(lowbit::io::safetensors_reader::parse(file, label));
  read_checkpoint<toy_list>(lowbit::io::checkpoint_reader::parse(file, label));
}

}  // namespace lowbit_test
