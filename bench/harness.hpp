// harness.hpp: how a product is registered, checked and timed. What every bench_*.cpp uses, and
// what a kernel from elsewhere uses to be timed and checked beside lowbit's own.
//
// Two ways in, both from a file of your own that is linked into the program:
//
//  * A kernel with code_gemm's contract: bench::add_code_gemm_kernel (products.hpp). It gets every
//    shape, format and check that lowbit's own variants get. See examples/custom_kernel.
//  * Anything else, with weights packed as it likes: bench::register_product below.
//
// What is timed is one product, floats in and floats out: quantizing the activations and scaling
// the outputs count, packing the weights does not. A benchmark is named
//
//   FAMILY/FORMAT/w<bits>a<bits>/VARIANT/M<m>_N<n>_K<k>/cold|warm
//
// and has the counters, all from the CPU time of the calling thread,
//
//   macs_per_second          M * N * K products per second
//   bytes_per_second         packed weights, scales included, read once per product
//   read_bandwidth_fraction  of the streaming reads of this core (cold only)
//   peak_fraction            of the instruction peak of the variant's own tier
//
// Both limits are measured again every few milliseconds of each benchmark, because clocks drift.
// Cold benchmarks rotate over so many copies of the weights that no cache keeps any.
//
// Flags beside Google Benchmark's:
//   --cold_bytes=N[K|M|G]  what cold benchmarks rotate over; default: 4 times the last-level cache,
//                          at most a third of the free memory
//   --best_only            of each product only the first variant: the best of lowbit's
//   --threads=N            products on N threads, timed by the wall clock; names end in /threadsN
// and LOWBIT_ISA=<tier> rules out what that tier lacks.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>

#include "limits.hpp"
#include "lowbit/core/checked.hpp"
#include "lowbit/kernels/context.hpp"

namespace bench {

using lowbit::index_t;
namespace kernels = lowbit::kernels;

struct product_shape {
  index_t tokens;  ///< M
  index_t rows;    ///< N
  index_t cols;    ///< K

  [[nodiscard]] double macs() const noexcept {
    return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(cols);
  }
};

/// A product that is ready to be timed.
struct prepared_product {
  std::function<void()> run;           ///< one product; the next copy of the weights each time
  std::function<std::string()> check;  ///< after a run: what is wrong with the outputs, or nothing
  double weight_bytes = 0;             ///< what a product reads of the packed weights
};

struct product {
  std::string family;  ///< code_gemm, plane_gemm, bit_gemm, baseline, or your own
  std::string format;
  unsigned weight_bits = 0;
  unsigned activation_bits = 0;
  std::string variant = {};
  product_shape shape{};
  bool cold = false;
  cpu::cpu_set needs = {};  ///< what the variant needs; a product that is not allowed is left out
  operation what = operation::int8_mac;
  bool is_serial = false;    ///< ignores the threads of the context: left out with --threads
  double steps_per_mac = 1;  ///< of `what`: bits_w * bits_a for planes x planes
  std::function<prepared_product()> prepare = {};  ///< called when the benchmark runs, not before

  [[nodiscard]] std::string name() const;
};

/// Registers one benchmark, unless LOWBIT_ISA or the machine rules `needs` out.
void register_product(product p);

/// What may be used: the machine, narrowed by LOWBIT_ISA. Throws lowbit::error if that is wrong.
[[nodiscard]] const kernels::context& allowed_context();

/// How many copies of `bytes` a cold benchmark rotates over, at least 2; of a warm one: 1.
[[nodiscard]] index_t copies_of(double bytes, bool cold);

namespace detail {
struct cache_slot {
  std::string key;
  std::shared_ptr<void> value;
};
[[nodiscard]] cache_slot& cache() noexcept;
}  // namespace detail

/// Benchmarks that run one after the other often have the same operands, which take a second to
/// make: returns what make() returned last time if the key is the same, else calls it. One object
/// is kept at a time, since some are as large as the memory allows.
template <class Make>
[[nodiscard]] auto cached(const std::string& key, const Make& make) {
  using value = std::remove_cvref_t<decltype(make())>;
  detail::cache_slot& slot = detail::cache();
  const std::string full_key = std::string(typeid(value).name()).append(1, '/').append(key);
  if (slot.key != full_key) {
    slot = {};  // frees the other one before this one is made
    slot.value = std::make_shared<value>(make());
    slot.key = full_key;
  }
  return std::static_pointer_cast<value>(slot.value);
}

/// A function that registers benchmarks, called once LOWBIT_ISA has been read. Define one per file:
///   const bench::registration mine([] { bench::register_product({...}); });
class registration {
 public:
  explicit registration(void (*add)());
};

}  // namespace bench
