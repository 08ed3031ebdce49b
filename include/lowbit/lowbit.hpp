// lowbit.hpp: everything but IO, in one include. Layer L5.
//
// Files are read and written by the separate headers of lowbit/io/ (target lowbit::io), which need
// nlohmann-json and xxHash; conformance checks for your own formats are in lowbit/testing/.
#pragma once

#include "lowbit/calibration/second_moments.hpp"  // IWYU pragma: export
#include "lowbit/config.hpp"                      // IWYU pragma: export
#include "lowbit/core/any_tensor.hpp"             // IWYU pragma: export
#include "lowbit/core/quantizer.hpp"              // IWYU pragma: export
#include "lowbit/core/random.hpp"                 // IWYU pragma: export
#include "lowbit/cpu/caches.hpp"                  // IWYU pragma: export
#include "lowbit/cpu/features.hpp"                // IWYU pragma: export
#include "lowbit/decorators/output_rotated.hpp"   // IWYU pragma: export
#include "lowbit/decorators/permuted.hpp"         // IWYU pragma: export
#include "lowbit/decorators/replicated.hpp"       // IWYU pragma: export
#include "lowbit/decorators/rotated.hpp"          // IWYU pragma: export
#include "lowbit/decorators/scaled.hpp"           // IWYU pragma: export
#include "lowbit/decorators/with_outliers.hpp"    // IWYU pragma: export
#include "lowbit/formats/all.hpp"                 // IWYU pragma: export
#include "lowbit/kernels/bit_gemm/driver.hpp"     // IWYU pragma: export
#include "lowbit/kernels/code_gemm/driver.hpp"    // IWYU pragma: export
#include "lowbit/kernels/dense/driver.hpp"        // IWYU pragma: export
#include "lowbit/kernels/envelope/driver.hpp"     // IWYU pragma: export
#include "lowbit/kernels/hadamard/driver.hpp"     // IWYU pragma: export
#include "lowbit/kernels/sign_gemm/driver.hpp"    // IWYU pragma: export
#include "lowbit/kernels/sparse/driver.hpp"       // IWYU pragma: export
#include "lowbit/linalg/cholesky.hpp"             // IWYU pragma: export
#include "lowbit/linalg/hadamard.hpp"             // IWYU pragma: export
#include "lowbit/linalg/polar.hpp"                // IWYU pragma: export
#include "lowbit/ops/dequantize.hpp"              // IWYU pragma: export
#include "lowbit/ops/evaluate.hpp"                // IWYU pragma: export
#include "lowbit/ops/matmul.hpp"                  // IWYU pragma: export
#include "lowbit/ops/pack.hpp"                    // IWYU pragma: export
#include "lowbit/ops/transform_inputs.hpp"        // IWYU pragma: export
#include "lowbit/outlier/budget.hpp"              // IWYU pragma: export
#include "lowbit/outlier/distortion_report.hpp"   // IWYU pragma: export
#include "lowbit/outlier/fit.hpp"                 // IWYU pragma: export
#include "lowbit/outlier/selection.hpp"           // IWYU pragma: export
#include "lowbit/ptq/layer_chooser.hpp"           // IWYU pragma: export
#include "lowbit/ptq/recipe.hpp"                  // IWYU pragma: export
#include "lowbit/ptq/replicate.hpp"               // IWYU pragma: export
#include "lowbit/rotation/dfrot.hpp"              // IWYU pragma: export
#include "lowbit/rotation/fold.hpp"               // IWYU pragma: export
#include "lowbit/version.hpp"                     // IWYU pragma: export

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {
using kernels::context;
using kernels::workspace;
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
