// Every format of the library, as formats/all.hpp lists them, keeps every promise of the concepts.
#include "catch.hpp"
#include "lowbit/formats/all.hpp"
#include "lowbit/testing/quantizer.hpp"

using namespace lowbit;

TEST_CASE("every format of formats::all conforms") {
  index_t formats_seen = 0;
  formats::all::for_each([&]<class Q>(std::type_identity<Q>) {
    ++formats_seen;
    const std::uint64_t seed = 20240607;
    INFO("format " << std::string_view(format_of<Q>::name) << ", seed " << seed);
    const auto list = testing::check_quantizer(Q{}, {.seed = seed});
    INFO(testing::failures(list));
    CHECK(testing::all_passed(list));
    CHECK(list.size() > 1000);
  });
  CHECK(formats_seen == formats::all::size);
  CHECK(formats_seen > 0);
}

TEST_CASE("the formats have different names") {
  std::set<std::string> names;
  formats::all::for_each([&]<class Q>(std::type_identity<Q>) {
    const std::string name{format_of<Q>::name};
    INFO(name);
    CHECK(names.insert(name).second);
  });
  CHECK(names.size() == formats::all::size);
}
