// -ffast-math removes the NaN checks and changes rounding: the library refuses it.
//
// expect: lowbit must not be built with -ffast-math
#if LOWBIT_SHOULD_FAIL
#define __FAST_MATH__ 1
#endif
#include "lowbit/config.hpp"
