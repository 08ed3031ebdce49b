// decorators/replicated.hpp: a matrix as the sum, or the mean, of several quantized ones of the
// same type and params. Layer L3.
//
//   sum   W = W_0 + W_1 + ...              each replica holds what the ones before it left
//   mean  W = (W_0 + W_1 + ...) / count    replicas of the same weights on different grids
//
// Binary-coding quantization nests planes that way. How replicas are fitted, and why the mean is
// rarely worth its bits: ptq/replicate.hpp.
//
// Stored: two params, then the params of a replica once, for all have the same; buffer B of replica
// k is called replica<k>_B.
//
// Invariant: sums run over replicas in increasing order, in floats, and no product is near them:
// the same bits everywhere.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lowbit/core/prefixed_buffers.hpp"
#include "lowbit/decorators/nesting.hpp"
#include "lowbit/layout/operands.hpp"

namespace lowbit::inline LOWBIT_ABI_NAMESPACE {

namespace decorators {
/// What replicas make together.
enum class replica_total : std::uint8_t { sum, mean };
}  // namespace decorators

template <>
inline constexpr std::string_view enum_names<decorators::replica_total>[] = {"sum", "mean"};

namespace decorators {

/// What a replicated tensor stores beside its replicas.
struct replication_format {
  static constexpr std::string_view name = "replicated";
  static constexpr std::uint32_t version = 1;
  static constexpr unsigned max_replicas = 16;

  struct params {
    unsigned replicas = 1;  ///< 1..16
    replica_total total = replica_total::sum;

    friend bool operator==(const params&, const params&) = default;
  };
  static void describe(params& p, params_visitor& v) {
    v({"replicas", "matrices that make one"}, p.replicas, 1U, max_replicas);
    v({"replica_total", "what they make: their sum, or their mean"}, p.total);
  }
};

/// Models quantized_tensor and composite_operand. Copyable if a replica is.
template <quantized_tensor Base>
class replicated {
 public:
  using format = nested_format<replication_format, typename Base::format>;
  using part_type = Base;

  /// Refuses none, and more than 16 (value); replicas of different shapes (shape) or params
  /// (value).
  replicated(replica_total total, std::vector<Base> replicas) : replicas_(std::move(replicas)) {
    LOWBIT_CHECK(!replicas_.empty() && replicas_.size() <= replication_format::max_replicas, value,
                 "there are ", replicas_.size(), " replicas; 1 to ",
                 replication_format::max_replicas, " are possible");
    for (index_t k = 1; k < replicas_.size(); ++k) {
      LOWBIT_CHECK(replicas_[k].shape() == shape(), shape, "replica ", k, " is [",
                   replicas_[k].shape().rows, ", ", replicas_[k].shape().cols, "], replica 0 [",
                   shape().rows, ", ", shape().cols, "]");
      LOWBIT_CHECK(replicas_[k].params() == replicas_[0].params(), value, "replica ", k,
                   " has other params than replica 0");
    }
    params_ = {{static_cast<unsigned>(replicas_.size()), total}, replicas_[0].params()};
  }

  // -- quantized_tensor --------------------------------------------------------------------------

  [[nodiscard]] shape2 shape() const { return replicas_.front().shape(); }
  [[nodiscard]] const typename format::params& params() const noexcept { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return count_buffer_bits(*this); }

  void dequantize(row_range rows, matrix_view<float> out) const {
    replicas_.front().dequantize(rows, out);
    if (out.empty()) return;
    aligned_buffer<float> values(parts() > 1 ? out.shape().size() : 0);
    const matrix_view<float> replica(values.data(), out.rows(), out.cols());
    for (index_t k = 1; k < parts(); ++k) {
      replicas_[k].dequantize(rows, replica);
      add(replica, out);
    }
    finish(out);
  }

  void for_each_buffer(buffer_visitor& visitor) const {
    for (index_t k = 0; k < parts(); ++k) {
      prefixing_visitor replica(prefix(k), visitor);
      replicas_[k].for_each_buffer(replica);
    }
  }

  /// Refuses what a replica refuses (format), and params outside their range (value).
  [[nodiscard]] static replicated from_buffers(shape2 shape, const typename format::params& params,
                                               buffer_source& source) {
    check_params<replication_format>(params.own);
    std::vector<Base> replicas;
    replicas.reserve(params.own.replicas);
    for (index_t k = 0; k < params.own.replicas; ++k) {
      prefixing_source replica(prefix(k), source);
      replicas.push_back(Base::from_buffers(shape, params.base, replica));
    }
    return {params.own.total, std::move(replicas)};
  }

  // -- composite_operand, row_coupled_tensor ----------------------------------------------------

  [[nodiscard]] index_t parts() const noexcept { return replicas_.size(); }
  /// Replica k.
  [[nodiscard]] const Base& part(index_t k) const noexcept { return replicas_[k]; }
  template <class Product>
  void multiply(matrix_view<const float> x, matrix_view<float> y, const kernels::context& ctx,
                const Product& product) const {
    product(index_t{0}, x, y);
    aligned_buffer<float> values(
        parts() > 1 ? checked_mul(y.rows(), y.cols(), "outputs of a replica") : 0);
    const matrix_view<float> replica(values.data(), y.rows(), y.cols());
    for (index_t k = 1; k < parts(); ++k) {
      product(k, x, replica);
      kernels::parallel_for_blocks(ctx, y.rows(), block_of_tokens, [&](row_range tokens) {
        add(replica.middle_rows(tokens), y.middle_rows(tokens));
      });
    }
    finish(y);
  }
  [[nodiscard]] static constexpr std::string_view product_step() noexcept { return "replicas"; }

  [[nodiscard]] index_t coupled_rows() const requires row_coupled_tensor<Base> {
    return replicas_.front().coupled_rows();
  }

  [[nodiscard]] replica_total total() const noexcept { return params_.own.total; }

 private:
  static constexpr index_t block_of_tokens = 16;

  [[nodiscard]] static std::string prefix(index_t k) {
    return lowbit::detail::message("replica", k, "_");
  }

  static void add(matrix_view<const float> replica, matrix_view<float> sum) noexcept {
    for (index_t r = 0; r < sum.rows(); ++r) {
      for (index_t c = 0; c < sum.cols(); ++c) sum(r, c) += replica(r, c);
    }
  }
  /// A division, which no compiler fuses with a sum; the product with 1 / count would round twice.
  void finish(matrix_view<float> sum) const noexcept {
    if (total() == replica_total::sum || parts() == 1) return;
    const auto count = static_cast<float>(parts());
    for (index_t r = 0; r < sum.rows(); ++r) {
      for (float& value : sum.row(r)) value /= count;
    }
  }

  /// A vector would claim that it can be copied whatever it holds.
  struct copied {};
  struct moved_only {
    moved_only() = default;
    moved_only(moved_only&&) noexcept = default;
    moved_only& operator=(moved_only&&) noexcept = default;
  };

  std::vector<Base> replicas_;
  typename format::params params_;
  [[no_unique_address]] std::conditional_t<std::copyable<Base>, copied, moved_only> copies_;
};

}  // namespace decorators
}  // namespace lowbit::inline LOWBIT_ABI_NAMESPACE
