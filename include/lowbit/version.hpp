// version.hpp: the library's version, in the three forms that users compare. Layer L0.
//
// This file is the one place where the version is written: CMake and pkg-config read it from here.
// The version of the on-disk format is separate (io/checkpoint.hpp).
#pragma once

#define LOWBIT_VERSION_MAJOR 0
#define LOWBIT_VERSION_MINOR 1
#define LOWBIT_VERSION_PATCH 0

/// The version as one integer that grows with every release: major * 10000 + minor * 100 + patch.
#define LOWBIT_VERSION \
  (LOWBIT_VERSION_MAJOR * 10000 + LOWBIT_VERSION_MINOR * 100 + LOWBIT_VERSION_PATCH)

/// The version as text, for messages and provenance.
#define LOWBIT_VERSION_STRING "0.1.0"
