// formats.hpp: this project's format list: lowbit's own format and the toy, a line each.
#pragma once

#include "folded/quantizer.hpp"
#include "lowbit/formats/uniform/quantizer.hpp"

namespace toy {

using formats = lowbit::format_list<     //
    lowbit::formats::uniform_quantizer,  //
    folded_quantizer                     //
    >;

}  // namespace toy
