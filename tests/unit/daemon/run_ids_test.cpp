// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_ids.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

TEST_CASE("a run is named by r and eight hex digits", "[daemon][run_ids]") {
    CHECK(make_run_id(0) == "r00000000");
    CHECK(make_run_id(0x1234abcdU) == "r1234abcd");
    CHECK(make_run_id(0xffffffffU) == "rffffffff");
}

TEST_CASE("only names that we made are of our upgrades", "[daemon][run_ids]") {
    CHECK(is_our_upgrade_id(upgrade_id_of(make_run_id(42), 0)));
    CHECK(is_our_upgrade_id(upgrade_id_of("r1234abcd", 1999)));
    CHECK_FALSE(is_our_upgrade_id(""));
    CHECK_FALSE(is_our_upgrade_id("r1234abcd"));
    CHECK_FALSE(is_our_upgrade_id("r1234abcd."));
    CHECK_FALSE(is_our_upgrade_id("r1234abcd.x"));
    CHECK_FALSE(is_our_upgrade_id("r1234ABCD.1"));
    CHECK_FALSE(is_our_upgrade_id("s1234abcd.1"));
    CHECK_FALSE(is_our_upgrade_id("by-hand"));
}
