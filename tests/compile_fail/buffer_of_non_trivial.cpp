// aligned_buffer zeroes and copies bytes, so its elements must be trivially copyable.
//
// expect: is_trivially_copyable
#include <string>

#include "lowbit/core/aligned_buffer.hpp"

#if LOWBIT_SHOULD_FAIL
using element = std::string;
#else
using element = float;
#endif

lowbit::aligned_buffer<element> used() { return lowbit::aligned_buffer<element>(4); }
