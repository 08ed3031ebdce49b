# cmake -DCOMPILER= -DSOURCE= -DINCLUDE_DIRS= -P check_twin.cmake: see CMakeLists.txt.
cmake_minimum_required(VERSION 3.24)

file(STRINGS "${SOURCE}" expected REGEX "^// expect: ")
list(LENGTH expected count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "${SOURCE}: needs exactly one line '// expect: <text>', has ${count}")
endif()
string(REPLACE "// expect: " "" expected "${expected}")

list(TRANSFORM INCLUDE_DIRS PREPEND -I)
foreach(should_fail IN ITEMS 0 1)
  execute_process(
    COMMAND ${COMPILER} -std=c++20 -fsyntax-only ${INCLUDE_DIRS} -DLOWBIT_SHOULD_FAIL=${should_fail}
            ${SOURCE}
    RESULT_VARIABLE status
    OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  string(FIND "${output}" "${expected}" found)
  if(NOT should_fail AND NOT status EQUAL 0)
    message(FATAL_ERROR "${SOURCE}: must compile with LOWBIT_SHOULD_FAIL=0:\n${output}")
  elseif(should_fail AND status EQUAL 0)
    message(FATAL_ERROR "${SOURCE}: compiles with LOWBIT_SHOULD_FAIL=1 and must not")
  elseif(should_fail AND found EQUAL -1)
    message(FATAL_ERROR "${SOURCE}: the compiler does not say '${expected}':\n${output}")
  endif()
endforeach()
