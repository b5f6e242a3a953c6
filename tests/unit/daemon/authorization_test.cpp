// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/authorization.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

TEST_CASE("root, the daemon's user and the group may act", "[daemon][authorization]") {
    const AccessRule rule{.daemon_uid = 500, .admin_group = 60};
    CHECK(may_act({.pid = 1, .uid = 0, .gid = 0, .groups = {}}, rule));
    CHECK(may_act({.pid = 1, .uid = 500, .gid = 500, .groups = {}}, rule));
    CHECK(may_act({.pid = 1, .uid = 1000, .gid = 60, .groups = {}}, rule));
    CHECK(may_act({.pid = 1, .uid = 1000, .gid = 1000, .groups = {5, 60}}, rule));
}

TEST_CASE("everybody else may not act", "[daemon][authorization]") {
    const Peer stranger{.pid = 1, .uid = 1000, .gid = 1000, .groups = {5, 6}};
    CHECK_FALSE(may_act(stranger, {.daemon_uid = 500, .admin_group = 60}));
    CHECK_FALSE(may_act(stranger, {.daemon_uid = 500, .admin_group = {}}));
    const Peer in_root_group{.pid = 1, .uid = 1000, .gid = 0, .groups = {0}};
    CHECK_FALSE(may_act(in_root_group, {.daemon_uid = 500, .admin_group = {}}));
}
