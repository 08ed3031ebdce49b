// io/safetensors.hpp: everything about plain safetensors files. Layer L4.
#pragma once

#include "lowbit/io/safetensors_reader.hpp"  // IWYU pragma: export
#include "lowbit/io/safetensors_writer.hpp"  // IWYU pragma: export
#include "lowbit/io/stored_tensor.hpp"       // IWYU pragma: export
