// formats/all.hpp: every format of the library, a line each. Layer L3.
//
// Tests, benchmarks, tools and examples are written over this list; nothing below it is. Adding a
// format means its folder, its test folder, and its line here.
#pragma once

#include "lowbit/core/quantizer.hpp"
#include "lowbit/formats/dbf/quantizer.hpp"
#include "lowbit/formats/envelope/quantizer.hpp"
#include "lowbit/formats/sbvr/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats {

using all = format_list<  //
    uniform_quantizer,    //
    sbvr_quantizer,       //
    dbf_quantizer,        //
    envelope_quantizer    //
    >;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::formats
