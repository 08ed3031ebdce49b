# lowbit_add_test(NAME SOURCES <file>... [LIBS <target>...] [LABELS <label>...] [ISAS <name>...]
#                 [HEADER_ONLY] [QUICK_TO_RUN])
#
# A Catch2 executable test_NAME and its ctest entry NAME. For every name in ISAS the same executable
# runs once more, as NAME.ISA, with LOWBIT_ISA forced to that name and without the test cases that are
# tagged [any_isa], because LOWBIT_ISA means nothing to them. Where the machine lacks
# that tier ctest says "Skipped" (see tests/forced_isa.cpp). With sanitizers test cases that are tagged
# [not_sanitized] are left out: they take half a minute there and run what others run. Tests run in the
# source folder (so that a path such as examples/data/x is found) and link lowbit::io unless LIBS says
# otherwise. HEADER_ONLY: kernels are compiled with the test, as a consumer would, and not linked.
# QUICK_TO_RUN: even where hardly optimized (see LowbitDevelopment.cmake).
function(lowbit_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "HEADER_ONLY;QUICK_TO_RUN" "" "SOURCES;LIBS;LABELS;ISAS")
  if(NOT arg_LIBS)
    set(arg_LIBS lowbit::io)
  endif()

  if(arg_ISAS)
    list(APPEND arg_SOURCES "${PROJECT_SOURCE_DIR}/tests/forced_isa.cpp")
  endif()
  add_executable(test_${name} ${arg_SOURCES})
  target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(test_${name} PRIVATE ${arg_LIBS} lowbit_catch lowbit_development)
  if(NOT arg_HEADER_ONLY)
    target_link_libraries(test_${name} PRIVATE lowbit_compiled_kernels)
  endif()

  set_target_properties(test_${name} PROPERTIES LOWBIT_QUICK_TO_RUN ${arg_QUICK_TO_RUN})

  set(cases "")
  if(LOWBIT_SANITIZE)
    set(cases "~[not_sanitized]")
  endif()
  add_test(NAME ${name} COMMAND test_${name} ${cases} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 LABELS "${arg_LABELS}")
  foreach(isa IN LISTS arg_ISAS)
    add_test(NAME ${name}.${isa} COMMAND test_${name} "~[any_isa]"
             WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties(
      ${name}.${isa} PROPERTIES TIMEOUT 600 LABELS "${arg_LABELS}" ENVIRONMENT "LOWBIT_ISA=${isa}"
                                SKIP_RETURN_CODE 77)
  endforeach()
endfunction()
