// Runs both translation units and compares what they made, byte for byte.
#include "catch.hpp"
#include "unit.hpp"

TEST_CASE("fused multiply-adds of the compiler change no byte") {
  __builtin_cpu_init();
  const bool can_run = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (!can_run) WARN("skipped: this CPU has no AVX2 and FMA");
  if (can_run) {
    const auto expected = baseline();
    const auto actual = fused();
    const std::size_t of_uniform = 8U * 3 * 2 * 4 * 3 * 4;
    const std::size_t of_sbvr = 8U * 2 * 2 * 3 * 3 * 2;
    const std::size_t of_replicas = 3U * 2 * 2;
    REQUIRE(expected.size() == of_uniform + of_sbvr + of_replicas + 9);
    REQUIRE(expected[0].setting == "factors");
    REQUIRE(actual.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      INFO(expected[i].setting);
      REQUIRE(actual[i].setting == expected[i].setting);
      REQUIRE(!expected[i].bytes.empty());
      CHECK((actual[i].bytes == expected[i].bytes));
    }
  }
}
