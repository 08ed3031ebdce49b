// io/checkpoint.hpp: everything about quantized checkpoints. Layer L4. The version of the on-disk
// format is checkpoint_version; docs/file_format.md specifies it.
#pragma once

#include "lowbit/io/checkpoint_reader.hpp"  // IWYU pragma: export
#include "lowbit/io/checkpoint_writer.hpp"  // IWYU pragma: export
