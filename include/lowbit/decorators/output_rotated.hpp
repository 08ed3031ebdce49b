// decorators/output_rotated.hpp: a base tensor whose rows were mixed by a random-sign Hadamard
// matrix before quantizing: W = T^T B with the T of decorators/rotated.hpp, of N rows. Layer L3.
//
// The output side of two-sided incoherence (QuIP#, arXiv 2402.04396): outlying rows, not only
// columns, are spread. output_rotated<rotated<T>> is two-sided.
#pragma once

#include "lowbit/decorators/output_transformed.hpp"
#include "lowbit/decorators/rotated.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators {

/// A hadamard_rotation of outputs: other names for its params, so that both sides can be stored.
class output_rotation : public hadamard_rotation {
 public:
  struct format {
    static constexpr std::string_view name = "output_rotated";
    static constexpr std::uint32_t version = hadamard_rotation::format::version;

    using params = hadamard_rotation::format::params;
    static void describe(params& p, params_visitor& v) {
      v({"output_rotation_block", "rows that turn together: see rotation_block"}, p.block,
        std::uint32_t{0}, max_block);
      v({"output_rotation_seed", "of the random signs of rows"}, p.seed, std::uint32_t{0},
        std::numeric_limits<std::uint32_t>::max());
    }
  };
  static constexpr std::string_view outputs_step = "rotated outputs";

  using hadamard_rotation::hadamard_rotation;

  /// Refuses (format) a block that the constructor refuses.
  [[nodiscard]] static output_rotation from_buffers(index_t rows, const format::params& params,
                                                    buffer_source& source) {
    return output_rotation(hadamard_rotation::from_buffers(rows, params, source));
  }

 private:
  explicit output_rotation(hadamard_rotation turn) : hadamard_rotation(std::move(turn)) {}
};

static_assert(output_transform<output_rotation>);

/// W = T^T B.
template <quantized_tensor Base>
using output_rotated = output_transformed<Base, output_rotation>;

}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE::decorators
