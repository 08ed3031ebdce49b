// quantize_model: makes a model file small, with any format of lowbit, and says what that cost.
//
//   quantize_model quantize IN -o OUT --format uniform --bits 4 --group-size 64
//   quantize_model compare IN --config uniform:bits=4 --config uniform:bits=2
//   quantize_model inspect OUT
//   quantize_model formats
//
// Formats come from formats/all.hpp, their options from what they describe of themselves: a new
// format appears here without a change.
#include "app.hpp"
#include "lowbit/formats/all.hpp"

int main(int argc, char** argv) {
  return quantize_model::run_app(quantize_model::list_formats<lowbit::formats::all>(), argc, argv);
}
