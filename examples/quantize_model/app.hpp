// app.hpp: the program, over any list of formats. It knows none of them.
#pragma once

#include "format_list.hpp"

namespace quantize_model {

/// Parses and runs one command line. Returns the exit code; errors go to stderr as one line.
int run_app(format_entries formats, int argc, const char* const* argv);

}  // namespace quantize_model
