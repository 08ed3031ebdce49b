// What a call may use: tiers by name, the environment variable LOWBIT_ISA, workspaces, executors.
#include "lowbit/kernels/context.hpp"

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "lowbit/kernels/bit_gemm/variants.hpp"

using namespace lowbit;
using lowbit_test::message_of;

namespace {

/// Sets LOWBIT_ISA (or removes it) for a scope.
class scoped_isa {
 public:
  explicit scoped_isa(const char* value) {
    if (const char* before = std::getenv("LOWBIT_ISA")) before_ = before;
    set(value);
  }
  ~scoped_isa() { set(before_ ? before_->c_str() : nullptr); }
  scoped_isa(const scoped_isa&) = delete;
  scoped_isa& operator=(const scoped_isa&) = delete;

 private:
  static void set(const char* value) {
    if (value != nullptr) {
      ::setenv("LOWBIT_ISA", value, 1);
    } else {
      ::unsetenv("LOWBIT_ISA");
    }
  }
  std::optional<std::string> before_;
};

std::string supported_tiers() {
  std::string names;
  for (const cpu::tier& tier : cpu::tiers) {
    if (cpu::detect().contains(tier.features)) {
      names.append(names.empty() ? "" : ", ").append(tier.name);
    }
  }
  return names;
}

/// The variant that a tier must choose: the one of its name, or else that of the nearest tier
/// below.
std::string_view expected_variant(std::string_view tier_name) {
  std::string_view expected;
  for (const cpu::tier& tier : cpu::tiers) {
    for (const auto& v : kernels::bit_gemm_variants) {
      if (v.name == tier.name) expected = v.name;
    }
    if (tier.name == tier_name) return expected;
  }
  return "no such tier";
}

}  // namespace

TEST_CASE("context: without LOWBIT_ISA a call may use all that the machine offers") {
  for (const char* value : {static_cast<const char*>(nullptr), ""}) {
    const scoped_isa isa(value);
    const kernels::context ctx = kernels::context::best();
    CHECK(ctx.allowed == cpu::detect());
    CHECK(ctx.threads == nullptr);
    CHECK(ctx.scratch == nullptr);
  }
}

TEST_CASE("context: LOWBIT_ISA narrows to each tier of this machine, which chooses its variant") {
  for (const cpu::tier& tier : cpu::tiers) {
    const std::string name(tier.name);
    const scoped_isa isa(name.c_str());
    INFO("LOWBIT_ISA=" << name);
    if (cpu::detect().contains(tier.features)) {
      const kernels::context ctx = kernels::context::best();
      CHECK(ctx.allowed == tier.features);
      CHECK(kernels::select_bit_gemm(ctx.allowed).name == expected_variant(name));
    } else {
      const std::string message = message_of<value_error>([] { (void)kernels::context::best(); });
      CHECK(message.find("'" + name + "'") != std::string::npos);
      CHECK(message.find("available: " + supported_tiers()) != std::string::npos);
    }
  }
}

// ctest runs this executable once more with LOWBIT_ISA set: then that very tier must be in use, and
// a machine that lacks it fails here instead of passing with another one.
TEST_CASE("context: the LOWBIT_ISA of this process is what runs") {
  const char* const isa = std::getenv("LOWBIT_ISA");
  if (isa == nullptr || *isa == '\0') {
    const auto& chosen = kernels::select_bit_gemm(kernels::context::best().allowed);
    for (const auto& v : kernels::bit_gemm_variants) {
      if (!v.is_supported(cpu::detect())) continue;
      CHECK(chosen.name == v.name);  // the first of the table that is supported
      break;
    }
    return;
  }
  INFO("LOWBIT_ISA=" << isa);
  kernels::context ctx;
  REQUIRE_NOTHROW(ctx = kernels::context::best());
  CHECK(kernels::select_bit_gemm(ctx.allowed).name == expected_variant(isa));
}

TEST_CASE("context: an unknown tier is refused with a list of those that exist") {
  for (const char* name : {"zen5", "avx512", "AVX2", "scalar ", "sse2,avx2"}) {
    const scoped_isa isa(name);
    const std::string message = message_of<value_error>([] { (void)kernels::context::best(); });
    CHECK(message == "instruction-set tier '" + std::string(name) +
                         "' is unknown or not supported here; available: " + supported_tiers());
  }
  CHECK(message_of<value_error>(
            [] { (void)kernels::context{.allowed = cpu::none}.narrowed_to("portable"); }) ==
        "instruction-set tier 'portable' is unknown or not supported here; available: scalar");
}

TEST_CASE("context: narrowing never adds a feature and keeps executor and workspace") {
  serial_executor threads;
  kernels::workspace scratch;
  const kernels::context all{.allowed = cpu::detect(), .threads = &threads, .scratch = &scratch};
  for (const cpu::tier& tier : cpu::tiers) {
    if (!all.allowed.contains(tier.features)) continue;
    const kernels::context narrowed = all.narrowed_to(tier.name);
    CHECK(all.allowed.contains(narrowed.allowed));
    CHECK(narrowed.allowed == tier.features);
    CHECK(narrowed.threads == &threads);
    CHECK(narrowed.scratch == &scratch);
    CHECK(narrowed.narrowed_to("scalar").allowed == cpu::none);
  }
  CHECK(kernels::context{}.allowed == cpu::portable_simd);
}

TEST_CASE("context: parallel_for runs serially without an executor, on it with one") {
  struct : executor {
    std::vector<index_t> asked;
    [[nodiscard]] index_t workers() const noexcept override { return 3; }
    void parallel_for(index_t tasks, task run) override {
      asked.push_back(tasks);
      for (index_t i = tasks; i-- > 0;) run(i, i % 3);  // backwards: order must not matter
    }
  } backwards;
  std::vector<index_t> seen;
  const auto note = [&](index_t i, index_t) { seen.push_back(i); };
  kernels::parallel_for({}, 3, note);
  CHECK(seen == std::vector<index_t>{0, 1, 2});
  CHECK(kernels::workers({}) == 1);

  seen.clear();
  const kernels::context ctx{.threads = &backwards};
  kernels::parallel_for(ctx, 3, note);
  CHECK(seen == std::vector<index_t>{2, 1, 0});
  CHECK(backwards.asked == std::vector<index_t>{3});
  CHECK(kernels::workers(ctx) == 3);
  kernels::parallel_for(ctx, 0, note);
  CHECK(seen.size() == 3);
}

TEST_CASE("workspace: slots grow and are kept") {
  kernels::workspace scratch;
  scratch.reserve(2, 100);
  CHECK(scratch.slot(0).size() >= 100);
  CHECK(scratch.slot(1).size() >= 100);
  CHECK(scratch.slot(0).data() != scratch.slot(1).data());
  CHECK(reinterpret_cast<std::uintptr_t>(scratch.slot(1).data()) % 64 == 0);
  const auto* const before = scratch.slot(1).data();
  scratch.reserve(1, 50);  // smaller: nothing moves
  CHECK(scratch.slot(1).data() == before);
  scratch.reserve(3, 101);
  for (index_t i = 0; i < 3; ++i) CHECK(scratch.slot(i).size() >= 101);
}

TEST_CASE("select: the first entry that is allowed") {
  using entry = kernels::variant<int>;
  static constexpr entry table[] = {
      {"b", cpu::avx2 | cpu::fma, 3}, {"a", cpu::avx2, 2}, {"scalar", cpu::none, 1}};
  constexpr auto chosen = [](cpu::cpu_set allowed) {
    return kernels::select<int>(table, allowed).run;
  };
  static_assert(chosen(cpu::avx2 | cpu::fma | cpu::bmi2) == 3);
  static_assert(chosen(cpu::avx2) == 2);
  static_assert(chosen(cpu::fma) == 1);
  static_assert(chosen(cpu::none) == 1);
  CHECK(table[1].is_supported(cpu::avx2_core));
  CHECK_FALSE(table[0].is_supported(cpu::avx2));
}

TEST_CASE("borrowed memory is the workspace's, nests, and is the same the next time") {
  kernels::workspace scratch;
  const kernels::context ctx{.scratch = &scratch};
  const float* outer_memory = nullptr;
  const float* inner_memory = nullptr;
  for (int round = 0; round < 3; ++round) {
    kernels::borrowed<float> outer(ctx, 1000);
    kernels::borrowed<float> inner(ctx, 10);
    outer.data()[999] = 1.0F;
    inner.data()[9] = 2.0F;
    CHECK(outer.data()[999] == 1.0F);
    CHECK(outer.data() != inner.data());
    if (round == 1) {
      outer_memory = outer.data();
      inner_memory = inner.data();
    }
    if (round == 2) {
      CHECK((outer.data() == outer_memory || outer.data() == inner_memory));
      CHECK((inner.data() == outer_memory || inner.data() == inner_memory));
    }
  }
  // What is too small is replaced, and without a workspace memory is the borrower's own.
  kernels::borrowed<double> larger(ctx, 100000);
  larger.data()[99999] = 3.0;
  CHECK(larger.data()[99999] == 3.0);
  kernels::borrowed<double> own({}, 5);
  own.data()[4] = 4.0;
  CHECK(own.data()[4] == 4.0);
}
