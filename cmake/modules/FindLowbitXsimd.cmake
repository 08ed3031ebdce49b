# Defines LowbitXsimd::xsimd from the headers alone: the CMake package that Debian ships with xsimd
# links -lxtl, which does not exist. Installed beside lowbit's own package, which uses it too.
find_path(LOWBIT_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)
mark_as_advanced(LOWBIT_XSIMD_INCLUDE_DIR)

set(LowbitXsimd_VERSION "")
if(LOWBIT_XSIMD_INCLUDE_DIR)
  file(STRINGS "${LOWBIT_XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp" LowbitXsimd_VERSION
       REGEX "^#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+$")
  list(TRANSFORM LowbitXsimd_VERSION REPLACE "[^0-9]" "")
  list(JOIN LowbitXsimd_VERSION "." LowbitXsimd_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LowbitXsimd
  REQUIRED_VARS LOWBIT_XSIMD_INCLUDE_DIR
  VERSION_VAR LowbitXsimd_VERSION
  REASON_FAILURE_MESSAGE "install libxsimd-dev, or set LOWBIT_XSIMD_INCLUDE_DIR to the folder that holds xsimd/xsimd.hpp")

if(LowbitXsimd_FOUND AND NOT TARGET LowbitXsimd::xsimd)
  add_library(LowbitXsimd::xsimd INTERFACE IMPORTED)
  target_include_directories(LowbitXsimd::xsimd INTERFACE "${LOWBIT_XSIMD_INCLUDE_DIR}")
endif()
