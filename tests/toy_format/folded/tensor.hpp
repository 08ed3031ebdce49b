// folded/tensor.hpp: a sign byte per weight (it is a toy) and a float per run.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "format.hpp"

namespace toy {

class folded_tensor {
 public:
  using format = folded;

  folded_tensor(lowbit::shape2 shape, const folded::params& params)
      : shape_(shape),
        params_(params),
        runs_(lowbit::div_up(shape.cols, params.run)),
        signs_(shape.size()),
        magnitudes_(lowbit::checked_mul(shape.rows, runs_, "magnitudes")) {
    lowbit::check_params<folded>(params);
  }

  [[nodiscard]] lowbit::shape2 shape() const { return shape_; }
  [[nodiscard]] const folded::params& params() const { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const { return lowbit::count_buffer_bits(*this); }

  void dequantize(lowbit::row_range rows, lowbit::matrix_view<float> out) const {
    lowbit::check_row_range(rows, shape_.rows);
    LOWBIT_CHECK((out.shape() == lowbit::shape2{rows.size(), shape_.cols}), shape,
                 "rows do not fit");
    for (lowbit::index_t r = 0; r < rows.size(); ++r) {
      for (lowbit::index_t c = 0; c < shape_.cols; ++c) {
        const float m = magnitude(rows.begin + r, c / params_.run);
        out(r, c) = sign(rows.begin + r, c) < 0 ? -m : m;
      }
    }
  }

  void for_each_buffer(lowbit::buffer_visitor& visitor) const {
    const lowbit::index_t sign_shape[] = {shape_.rows, shape_.cols};
    visitor({"signs", lowbit::element_type::i8, sign_shape, std::as_bytes(std::span(signs_))});
    const lowbit::index_t run_shape[] = {shape_.rows, runs_};
    visitor({"magnitudes", lowbit::element_type::f32, run_shape,
             std::as_bytes(std::span(magnitudes_))});
  }

  static folded_tensor from_buffers(lowbit::shape2 shape, const folded::params& params,
                                    lowbit::buffer_source& source) {
    folded_tensor t(shape, params);
    const lowbit::index_t sign_shape[] = {shape.rows, shape.cols};
    const lowbit::index_t run_shape[] = {shape.rows, t.runs_};
    const auto copy = [](std::span<const std::byte> from, auto& to) {
      if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
    };
    copy(source.get("signs", lowbit::element_type::i8, sign_shape), t.signs_);
    copy(source.get("magnitudes", lowbit::element_type::f32, run_shape), t.magnitudes_);
    for (const float m : t.magnitudes_) {
      LOWBIT_CHECK(std::isfinite(m) && m >= 0.0F, format, "a magnitude is ", m);
    }
    return t;
  }

  [[nodiscard]] std::int8_t& sign(lowbit::index_t r, lowbit::index_t c) {
    return signs_[r * shape_.cols + c];
  }
  [[nodiscard]] std::int8_t sign(lowbit::index_t r, lowbit::index_t c) const {
    return signs_[r * shape_.cols + c];
  }
  [[nodiscard]] float& magnitude(lowbit::index_t r, lowbit::index_t run) {
    return magnitudes_[r * runs_ + run];
  }
  [[nodiscard]] float magnitude(lowbit::index_t r, lowbit::index_t run) const {
    return magnitudes_[r * runs_ + run];
  }

 private:
  lowbit::shape2 shape_;
  folded::params params_;
  lowbit::index_t runs_;
  std::vector<std::int8_t> signs_;
  std::vector<float> magnitudes_;
};

}  // namespace toy
