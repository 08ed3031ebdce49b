// A tensor_ref is the tensor: every function forwards.
#include "lowbit/core/tensor_ref.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "lowbit/testing/archetype.hpp"
#include "lowbit/testing/matrices.hpp"

using namespace lowbit;

namespace {

struct name_collector : params_visitor {
  std::string names;
  void integer(field f, std::int64_t& value, std::int64_t, std::int64_t) override {
    add(f);
    ++value;  // is lost
  }
  void real(field f, double&, double, double) override { add(f); }
  void choice(field f, std::size_t&, std::span<const std::string_view>) override { add(f); }
  void add(field f) { names.append(f.name).append(" "); }
};

struct byte_counter : buffer_visitor {
  index_t bytes = 0;
  void operator()(const buffer_view& b) override { bytes += b.bytes.size(); }
};

struct coupled : testing::archetype_tensor {
  explicit coupled(testing::archetype_tensor t) : archetype_tensor(std::move(t)) {}
  [[nodiscard]] static index_t coupled_rows() { return 3; }
  static coupled from_buffers(shape2 shape, const format::params& p, buffer_source& s) {
    return coupled(archetype_tensor::from_buffers(shape, p, s));
  }
};

}  // namespace

TEST_CASE("a reference to a tensor tells what the tensor tells") {
  const auto m = testing::normal_matrix({3, 20}, 1);
  auto t = testing::archetype_quantizer{}.quantize(m.view(), {});
  using format = testing::archetype_tensor::format;
  const tensor_ref r = t;
  CHECK(r.format_name() == std::string_view(format::name));
  CHECK(r.format_version() == format::version);
  CHECK(r.shape() == t.shape());
  CHECK(r.storage_bits() == t.storage_bits());
  CHECK(r.coupled_rows() == 1);

  name_collector of_tensor;
  auto params = t.params();
  format::describe(params, of_tensor);
  name_collector of_ref;
  r.describe_params(of_ref);
  CHECK(of_ref.names == of_tensor.names);

  byte_counter counter;
  r.for_each_buffer(counter);
  CHECK(8 * counter.bytes == t.storage_bits());

  std::vector<float> a(2 * 20);
  std::vector<float> b(a);
  t.dequantize({1, 3}, {a.data(), 2, 20});
  r.dequantize({1, 3}, {b.data(), 2, 20});
  CHECK(a == b);
  CHECK(tensor_ref(coupled(std::move(t))).coupled_rows() == 3);
}
