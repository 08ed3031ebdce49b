# lowbit_add_test(NAME SOURCES <file>... [LIBS <target>...] [LABELS <label>...] [ISAS <name>...])
#
# A Catch2 executable test_NAME and its ctest entry NAME. For every name in ISAS the same executable
# runs once more, as NAME.ISA, with LOWBIT_ISA forced to that name. Tests run in the source folder
# (so that a path such as examples/data/x is found) and link lowbit::io unless LIBS says otherwise.
function(lowbit_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS;LABELS;ISAS")
  if(NOT arg_LIBS)
    set(arg_LIBS lowbit::io)
  endif()

  add_executable(test_${name} ${arg_SOURCES})
  target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(test_${name} PRIVATE ${arg_LIBS} lowbit_catch lowbit_development)

  foreach(isa IN ITEMS "" LISTS arg_ISAS)
    string(REGEX REPLACE "\\.$" "" test "${name}.${isa}")
    add_test(NAME ${test} COMMAND test_${name} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties(${test} PROPERTIES TIMEOUT 600 LABELS "${arg_LABELS}")
    if(isa)
      set_tests_properties(${test} PROPERTIES ENVIRONMENT "LOWBIT_ISA=${isa}")
    endif()
  endforeach()
endfunction()
