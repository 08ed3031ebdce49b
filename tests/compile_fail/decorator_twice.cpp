// A tensor has each decorator once: twice the same one would store two params and two buffers of
// one name.
//
// expect: a tensor has each decorator once
#include "lowbit/decorators/permuted.hpp"
#include "lowbit/decorators/rotated.hpp"
#include "lowbit/decorators/scaled.hpp"
#include "lowbit/testing/archetype.hpp"

using namespace lowbit::decorators;
using once = rotated<permuted<lowbit::testing::archetype_tensor>>;

#if LOWBIT_SHOULD_FAIL
using decorated = permuted<once>;
#else
using decorated = scaled<once>;
#endif

lowbit::shape2 shape_of(const decorated& t) { return t.shape(); }
