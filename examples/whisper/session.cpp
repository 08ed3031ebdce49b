#include "session.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <map>

#include "../common/stop_signal.hpp"

namespace whisper {

namespace {

/// A pass of the network frees and asks for the same memory again and again: keep it, instead of
/// giving it back to the system, which must clear it each time. Gains little, less than runs
/// scatter.
void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int largest_kept = 32 << 20;  // the most that glibc takes
  constexpr int most_kept = 1 << 30;
  ::mallopt(M_MMAP_THRESHOLD, largest_kept);
  ::mallopt(M_TRIM_THRESHOLD, most_kept);
#endif
}

}  // namespace

void add_session_options(CLI::App& command, session_options& options) {
  command.add_option("--threads", options.threads, "how many run at the same time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  const std::map<std::string, dense_storage> dense{{"f16", dense_storage::f16},
                                                   {"f32", dense_storage::f32}};
  command
      .add_option("--float-weights", options.load.dense,
                  "how weights that are not quantized are kept: f16 (half the memory), f32")
      ->transform(CLI::CheckedTransformer(dense).description("{f16,f32}"));
  const std::map<std::string, activation_mode> activations{{"int8", activation_mode::int8},
                                                           {"float", activation_mode::floats}};
  command
      .add_option("--activations", options.load.activations,
                  "inputs of quantized layers: int8 (fast), float (exact)")
      ->transform(CLI::CheckedTransformer(activations).description("{int8,float}"));
  const std::map<std::string, cache_storage> caches{{"auto", cache_storage::automatic},
                                                    {"float", cache_storage::floats},
                                                    {"int8", cache_storage::int8},
                                                    {"int4", cache_storage::int4}};
  command
      .add_option(
          "--cache", options.load.cache,
          "keys and values of the audio: int8, int4 (decoder only), float; auto: int8 where "
          "inputs of quantized layers are")
      ->transform(CLI::CheckedTransformer(caches).description("{auto,float,int8,int4}"));
}

session::session(const session_options& options)
    : pool_(options.threads - 1),
      executor_(submitter{&pool_}, options.threads),
      rt_{.ctx = lowbit::kernels::context::best(),
          .check = [] { LOWBIT_CHECK(examples::stop_signal == 0, cancelled, "interrupted"); }} {
  examples::install_stop_handler();
  keep_freed_memory();
  rt_.ctx.scratch = &scratch_;
  if (options.threads > 1) rt_.ctx.threads = &executor_;
  rt_.floats = &load_float_kernels(rt_.ctx.allowed);
}

}  // namespace whisper
