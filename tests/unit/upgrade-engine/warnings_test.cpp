// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/warnings.hpp"

using namespace qhup::upgrade;
using namespace std::chrono_literals;

namespace {

const std::vector<Link> kTap{{"netdev/n0", "tap0", 1000}};

/// What came in 20 ms.
LinkSample make_sample(std::uint64_t packets) {
    return {{{"tap0", 5}}, {{"tap0", 5 + packets}}, 20ms};
}

} // namespace

TEST_CASE("no warning while pause times rate stays below the queue", "[upgrade][warnings]") {
    // 10,000 packets per second
    CHECK(find_warnings(kTap, make_sample(200), 100ms).empty());
    CHECK(find_warnings(kTap, make_sample(200), 101ms).size() == 1);
    CHECK(find_warnings(kTap, make_sample(0), 10s).empty());
}

TEST_CASE("a warning says how long a pause is harmless and what to do", "[upgrade][warnings]") {
    const auto warnings = find_warnings(kTap, make_sample(200), 300ms);
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0].id == "netdev/n0");
    CHECK(warnings[0].klass == "packet-loss");
    const std::string& reason = warnings[0].reason;
    CHECK_THAT(reason, Catch::Contains("10000 packets per second and keeps 1000"));
    CHECK_THAT(reason, Catch::Contains("more than 100 ms") && Catch::Contains("300 ms"));
    CHECK_THAT(reason, Catch::Contains("ip link set tap0 txqueuelen 4096"));
    CHECK(reason.ends_with("."));
}

TEST_CASE(
    "a link that was not seen twice, or counts anew, gives no warning", "[upgrade][warnings]"
) {
    CHECK(find_warnings(kTap, {{}, {{"tap0", 9000}}, 20ms}, 1s).empty());
    CHECK(find_warnings(kTap, {{{"tap0", 9000}}, {}, 20ms}, 1s).empty());
    CHECK(find_warnings(kTap, {{{"tap0", 9000}}, {{"tap0", 5}}, 20ms}, 1s).empty());
    CHECK(find_warnings(kTap, {{{"tap0", 1}}, {{"tap0", 9000}}, 0ms}, 1s).empty());
    CHECK(find_warnings(kTap, {{{"tap1", 1}}, {{"tap1", 9000}}, 20ms}, 1s).empty());
}

TEST_CASE("a queue of no length warns of any packet", "[upgrade][warnings]") {
    CHECK(find_warnings({{"netdev/n0", "tap0", 0}}, make_sample(1), 1ms).size() == 1);
}

TEST_CASE(
    "the pause to be expected is twice the predicted one, or the budget", "[upgrade][warnings]"
) {
    CHECK(expect_pause({}, 300ms) == 300ms);
    CHECK(expect_pause(40ms, 300ms) == 80ms);
    CHECK(expect_pause(200ms, 300ms) == 300ms);
}
