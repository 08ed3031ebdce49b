// whisper: a speech recogniser on lowbit's public headers.
#include <cstdio>

#include "commands.hpp"
#include "lowbit/core/error.hpp"
#include "lowbit/version.hpp"

int main(int argc, char** argv) {
  constexpr int exit_error = 1;
  constexpr int exit_interrupted = 130;  // what shells report for Ctrl-C
  CLI::App program{"Speech recognition with Whisper on 1- to 8-bit weights.", "whisper"};
  program.require_subcommand(1);
  program.set_version_flag("--version", LOWBIT_VERSION_STRING);
  int status = 0;
  whisper::add_transcribe(program, status);
  whisper::add_calibrate(program);
  whisper::add_evaluate(program);
  whisper::add_benchmark(program);
  try {
    program.parse(argc, argv);
    return status;
  } catch (const CLI::ParseError& e) {
    return program.exit(e);
  } catch (const lowbit::cancelled_error&) {
    std::fprintf(stderr, "\nwhisper: interrupted\n");
    return exit_interrupted;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "whisper: error: %s\n", e.what());
    return exit_error;
  }
}
