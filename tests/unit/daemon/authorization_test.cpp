// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/authorization.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

const AccessRule kRule{.daemon_uid = 500, .admin_group = 60, .read_group = 61};

Peer peer(std::uint32_t uid, std::uint32_t gid, std::vector<std::uint32_t> groups = {}) {
    return {.pid = 1, .uid = uid, .gid = gid, .groups = std::move(groups)};
}

} // namespace

TEST_CASE("root, the daemon's user and the admin group may act", "[daemon][authorization]") {
    CHECK(access_of(peer(0, 0), kRule, Access::act) == Access::act);
    CHECK(access_of(peer(500, 500), kRule, Access::act) == Access::act);
    CHECK(access_of(peer(1000, 60), kRule, Access::act) == Access::act);
    CHECK(access_of(peer(1000, 1000, {5, 60}), kRule, Access::act) == Access::act);
    CHECK(access_of(peer(1000, 1000, {61, 60}), kRule, Access::act) == Access::act);
}

TEST_CASE("the read group may read on either socket", "[daemon][authorization]") {
    CHECK(access_of(peer(1000, 61), kRule, Access::act) == Access::read);
    CHECK(access_of(peer(1000, 1000, {61}), kRule, Access::read) == Access::read);
}

TEST_CASE("nobody acts on a socket that may only read", "[daemon][authorization]") {
    CHECK(access_of(peer(0, 0), kRule, Access::read) == Access::read);
    CHECK(access_of(peer(500, 500), kRule, Access::read) == Access::read);
    CHECK(access_of(peer(1000, 60), kRule, Access::read) == Access::read);
}

TEST_CASE("everybody else may nothing", "[daemon][authorization]") {
    const AccessRule no_groups{.daemon_uid = 500, .admin_group = {}, .read_group = {}};
    CHECK(access_of(peer(1000, 1000, {5, 6}), kRule, Access::act) == Access::none);
    CHECK(access_of(peer(1000, 1000, {60, 61}), no_groups, Access::act) == Access::none);
    CHECK(access_of(peer(1000, 0, {0}), no_groups, Access::read) == Access::none);
}
