// commands.hpp: the commands of the program, each in a file of its own, X_command.cpp.
#pragma once

#include <CLI/CLI.hpp>

namespace whisper {

/// Adds `whisper transcribe`. What it writes to `status` when it runs is the program's exit code.
void add_transcribe(CLI::App& program, int& status);
/// Adds `whisper evaluate`.
void add_evaluate(CLI::App& program);

/// Adds `whisper calibrate`.
void add_calibrate(CLI::App& program);

/// Adds `whisper benchmark`.
void add_benchmark(CLI::App& program);

}  // namespace whisper
