// tests/io/toy_tensor.hpp: a small format for the tests of io, with one field of each kind in its
// params. io knows formats through the concept only, so any will do.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lowbit/core/quantizer.hpp"

namespace lowbit_test {

enum class toy_rounding { nearest, down };

struct toy_params {
  int bits = 8;
  double gain = 1.0;
  toy_rounding rounding = toy_rounding::nearest;

  friend bool operator==(const toy_params&, const toy_params&) = default;
};

}  // namespace lowbit_test

template <>
inline constexpr std::string_view lowbit::enum_names<lowbit_test::toy_rounding>[] = {"nearest",
                                                                                     "down"};

namespace lowbit_test {

/// Version 2, so that a file can be older as well as newer.
struct toy_format {
  static constexpr std::string_view name = "toy";
  static constexpr std::uint32_t version = 2;
  using params = toy_params;

  static void describe(params& p, lowbit::params_visitor& visit) {
    visit({"bits", "bits per code"}, p.bits, 1, 8);
    visit({"gain", "multiplies every scale"}, p.gain, 0.0, 1000.0);
    visit({"rounding", "how codes are rounded"}, p.rounding);
  }
};

/// Signed codes of one byte and a scale per row: value = code * scale * gain.
class toy_tensor {
 public:
  using format = toy_format;

  toy_tensor() = default;
  toy_tensor(lowbit::shape2 shape, const toy_params& params, std::vector<std::int8_t> codes,
             std::vector<float> scales)
      : shape_(shape), params_(params), codes_(std::move(codes)), scales_(std::move(scales)) {}

  [[nodiscard]] lowbit::shape2 shape() const { return shape_; }
  [[nodiscard]] const toy_params& params() const { return params_; }
  [[nodiscard]] std::uint64_t storage_bits() const {
    return 8 * codes_.size() + 32 * scales_.size();
  }

  void dequantize(lowbit::row_range rows, lowbit::matrix_view<float> out) const {
    lowbit::check_row_range(rows, shape_.rows);
    LOWBIT_CHECK(out.rows() == rows.size() && out.cols() == shape_.cols, shape, "toy: bad output");
    const auto gain = static_cast<float>(params_.gain);
    for (lowbit::index_t r = 0; r < rows.size(); ++r) {
      for (lowbit::index_t c = 0; c < shape_.cols; ++c) {
        const lowbit::index_t row = rows.begin + r;
        out(r, c) = static_cast<float>(codes_[row * shape_.cols + c]) * scales_[row] * gain;
      }
    }
  }

  void for_each_buffer(lowbit::buffer_visitor& visit) const {
    const lowbit::index_t extents[] = {shape_.rows, shape_.cols};
    visit({"codes", lowbit::element_type::i8, extents, std::as_bytes(std::span(codes_))});
    visit({"scales", lowbit::element_type::f32, std::span(extents).first(1),
           std::as_bytes(std::span(scales_))});
  }

  static toy_tensor from_buffers(lowbit::shape2 shape, const toy_params& params,
                                 lowbit::buffer_source& source) {
    const lowbit::index_t extents[] = {shape.rows, shape.cols};
    const auto codes = source.get("codes", lowbit::element_type::i8, extents);
    const auto scales =
        source.get("scales", lowbit::element_type::f32, std::span(extents).first(1));
    toy_tensor made{shape, params, copy_of<std::int8_t>(codes), copy_of<float>(scales)};
    for (const float scale : made.scales_) {
      LOWBIT_CHECK(scale >= 0.0F, format, "toy: the scale ", scale, " is negative");
    }
    return made;
  }

  friend bool operator==(const toy_tensor&, const toy_tensor&) = default;

 private:
  template <class T>
  static std::vector<T> copy_of(std::span<const std::byte> bytes) {
    std::vector<T> out(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }

  lowbit::shape2 shape_;
  toy_params params_;
  std::vector<std::int8_t> codes_;
  std::vector<float> scales_;
};

struct toy_quantizer {
  using tensor = toy_tensor;
  static constexpr std::string_view summary = "for tests";
  toy_params params;

  static void describe(toy_quantizer& q, lowbit::params_visitor& visit) {
    toy_format::describe(q.params, visit);
  }

  [[nodiscard]] toy_tensor quantize(lowbit::matrix_view<const float> weights,
                                    const lowbit::calibration& = {}) const {
    std::vector<std::int8_t> codes;
    std::vector<float> scales;
    for (lowbit::index_t r = 0; r < weights.rows(); ++r) {
      float largest = 0.0F;
      for (const float x : weights.row(r)) largest = std::max(largest, std::fabs(x));
      const float scale = largest > 0.0F ? largest / 127.0F : 1.0F;
      for (const float x : weights.row(r)) {
        codes.push_back(static_cast<std::int8_t>(std::lrint(x / scale)));
      }
      scales.push_back(scale);
    }
    return {weights.shape(), params, std::move(codes), std::move(scales)};
  }
};

static_assert(lowbit::quantized_tensor<toy_tensor>);
static_assert(lowbit::quantizer<toy_quantizer>);

using toy_list = lowbit::format_list<toy_quantizer>;

/// A tensor with codes that differ everywhere.
inline toy_tensor make_toy(lowbit::shape2 shape, const toy_params& params = {}) {
  std::vector<std::int8_t> codes(shape.size());
  std::vector<float> scales(shape.rows);
  for (lowbit::index_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 255) - 127);
  }
  for (lowbit::index_t r = 0; r < scales.size(); ++r) {
    scales[r] = 0.25F + static_cast<float>(r) / 3.0F;
  }
  return {shape, params, std::move(codes), std::move(scales)};
}

}  // namespace lowbit_test
