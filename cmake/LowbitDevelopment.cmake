# How lowbit's own tests, benchmarks and examples are compiled. Nothing here reaches a consumer: the
# flags live in lowbit_development, which lowbit::lowbit never links.
option(LOWBIT_WERROR "Make warnings errors" OFF)
option(LOWBIT_QUICK_PROGRAMS "Compile examples and benchmarks in a hurry: they are tested, not used" OFF)
set(LOWBIT_SANITIZE "" CACHE STRING "Sanitizers for everything built here, e.g. address,undefined")

set(CMAKE_CXX_EXTENSIONS OFF)

if(PROJECT_IS_TOP_LEVEL)
  get_property(lowbit_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT CMAKE_BUILD_TYPE AND NOT lowbit_multi_config)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
  find_program(LOWBIT_CCACHE ccache)
  mark_as_advanced(LOWBIT_CCACHE)
  if(LOWBIT_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${LOWBIT_CCACHE}")
  endif()
endif()

add_library(lowbit_development INTERFACE)
# g++ 12 sees an overlap that is not there in "literal" + std::string(...), depending on inlining
# (GCC PR 105651). lowbit's headers avoid that expression; tests and examples need not.
target_compile_options(
  lowbit_development
  INTERFACE
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
target_compile_options(
  lowbit_development INTERFACE -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wpedantic
                               $<$<BOOL:${LOWBIT_WERROR}>:-Werror>)
# Targets with this property take little time to run, and half or a third of the time to compile.
set(quick "$<BOOL:$<TARGET_PROPERTY:LOWBIT_QUICK_TO_RUN>>")
if(LOWBIT_SANITIZE)
  # -O1 and line tables: the tests run in minutes and reports still name the line.
  target_compile_options(
    lowbit_development INTERFACE -fsanitize=${LOWBIT_SANITIZE} -fno-sanitize-recover=all
                                 -fno-omit-frame-pointer $<IF:${quick},-O0,-O1> -g1)
  # With sanitizers g++ no longer sees that std::regex initialises its own state.
  target_compile_options(lowbit_development
                         INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_compile_definitions(lowbit_development INTERFACE _GLIBCXX_ASSERTIONS)
  target_link_options(lowbit_development INTERFACE -fsanitize=${LOWBIT_SANITIZE})
else()
  target_compile_options(lowbit_development INTERFACE $<$<AND:$<CONFIG:Release>,${quick}>:-O1>)
endif()

# lowbit_quick_programs(TARGET...): what need not be fast where LOWBIT_QUICK_PROGRAMS says so. (Not with
# sanitizers: check_determinism would take minutes longer.)
function(lowbit_quick_programs)
  if(LOWBIT_QUICK_PROGRAMS)
    set_target_properties(${ARGN} PROPERTIES LOWBIT_QUICK_TO_RUN ON)
  endif()
endfunction()

# Kernels compiled once for most of what is built here (lowbit/kernels/*/compiled.hpp): most of the time
# of a build. Programs that test the header-only form do not link this.
add_library(lowbit_compiled_kernels STATIC)
file(GLOB families CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/include"
     "${PROJECT_SOURCE_DIR}/include/lowbit/kernels/*/compiled.hpp")
foreach(header IN LISTS families)
  cmake_path(GET header PARENT_PATH family)
  cmake_path(GET family FILENAME family)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/compiled_kernels/${family}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"${header}\"\n" @ONLY)
  target_sources(lowbit_compiled_kernels PRIVATE "${source}")
endforeach()
target_compile_definitions(lowbit_compiled_kernels PUBLIC LOWBIT_COMPILED_KERNELS=1)
target_link_libraries(lowbit_compiled_kernels PUBLIC lowbit::lowbit PRIVATE lowbit_development)
