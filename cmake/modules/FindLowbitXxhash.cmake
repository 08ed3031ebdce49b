# Defines LowbitXxhash::xxhash from the header alone: xxHash is inlined (XXH_INLINE_ALL), nothing is
# linked. Debian ships no CMake package for it.
find_path(LOWBIT_XXHASH_INCLUDE_DIR xxhash.h)
mark_as_advanced(LOWBIT_XXHASH_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LowbitXxhash
  REQUIRED_VARS LOWBIT_XXHASH_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libxxhash-dev, or set LOWBIT_XXHASH_INCLUDE_DIR to the folder that holds xxhash.h")

if(LowbitXxhash_FOUND AND NOT TARGET LowbitXxhash::xxhash)
  add_library(LowbitXxhash::xxhash INTERFACE IMPORTED)
  target_include_directories(LowbitXxhash::xxhash INTERFACE "${LOWBIT_XXHASH_INCLUDE_DIR}")
  target_compile_definitions(LowbitXxhash::xxhash INTERFACE XXH_INLINE_ALL)
endif()
