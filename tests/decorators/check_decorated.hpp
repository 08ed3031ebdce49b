// check_decorated.hpp: a decorated tensor keeps every promise of the concepts that it models.
#pragma once

#include <string>

#include "catch.hpp"
#include "lowbit/testing/format.hpp"

namespace test {

/// `seed` is that of the values, for the message.
template <lowbit::quantized_tensor T>
void check_decorated(const T& t, std::uint64_t seed) {
  INFO(std::string(T::format::name) << ", seed " << seed);
  const auto list = lowbit::testing::check_tensor(t);
  INFO(lowbit::testing::failures(list));
  CHECK(lowbit::testing::all_passed(list));
  CHECK(t.storage_bits() >= t.part(0).storage_bits());
}

}  // namespace test
