// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/supervisor.hpp"

using namespace qhup::upgrade;

namespace {

constexpr pid_t kPid = 4711;

Supervision make_service(UnitFacts facts, bool has_notify_socket = true) {
    return {"vm.service", false, std::move(facts), has_notify_socket, false};
}

bool follows(const Supervision& supervision, const std::vector<std::string>& trusted = {}) {
    return !judge_supervision(supervision, kPid, "/run/vm.pid", trusted);
}

} // namespace

TEST_CASE("the unit is the innermost service or scope of the path", "[upgrade][supervisor]") {
    struct Row {
        const char* text;
        const char* unit;
        bool is_users;
    };
    for (const Row& row : {
             Row{"0::/system.slice/vm.service\n", "vm.service", false},
             Row{"0::/system.slice/vm.service/vcpus\n", "vm.service", false},
             Row{"0::/system.slice/_vm.service\n", "vm.service", false},
             Row{"9:pids:/x\n1:name=systemd:/a.slice/b.scope\n0::/\n", "b.scope", false},
             Row{"1:name=systemd:/\n0::/system.slice/vm.service\n", "vm.service", false},
             Row{"0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope", false},
             Row{"0::/user.slice/user-5.slice/user@5.service/app.slice/vm.service\n",
                 "vm.service",
                 true},
             Row{"0::/user.slice/user-5.slice/user@5.service/app.slice/run-1.scope\n",
                 "run-1.scope",
                 true},
             Row{"0::/\n", "", false},
             Row{"", "", false},
             Row{"garbage\n::\n", "", false},
         }) {
        INFO(row.text);
        const Supervision found = parse_supervision(row.text);
        CHECK(found.unit == row.unit);
        CHECK(found.is_users == row.is_users);
    }
}

TEST_CASE("a service follows messages of its main process, or a pidfile", "[upgrade][supervisor]") {
    CHECK(follows(make_service({kPid, "notify", "all", "", "main"})));
    CHECK(follows(make_service({kPid, "notify", "main", "", ""})));
    CHECK(follows(make_service({kPid, "simple", "all", "", "main"})));
    CHECK(follows(make_service({kPid, "forking", "none", "/run/vm.pid", "main"}, false)));
    CHECK(follows(make_service({kPid, "forking", "none", "/var/run/vm.pid", "main"}, false)));
    CHECK(follows(make_service({kPid, "simple", "none", "", "cgroup"}, false)));
    CHECK(follows(make_service({0, "oneshot", "none", "", "main"}, false)));

    CHECK_FALSE(follows(make_service({kPid, "notify", "all", "", "main"}, false)));
    CHECK_FALSE(follows(make_service({kPid, "simple", "none", "", "main"})));
    CHECK_FALSE(follows(make_service({kPid, "exec", "none", "", "main"})));
    CHECK_FALSE(follows(make_service({kPid, "forking", "none", "", "main"})));
    CHECK_FALSE(follows(make_service({kPid, "forking", "none", "/run/other.pid", "main"})));
    CHECK_FALSE(follows(make_service({kPid + 1, "notify", "all", "/run/vm.pid", "main"})));
    CHECK_FALSE(follows({"vm.service", false, std::nullopt, true, false}));
    CHECK_FALSE(follows({"vm.service", true, std::nullopt, true, false}));
}

TEST_CASE("a scope follows if nobody else manages it", "[upgrade][supervisor]") {
    CHECK(follows({"session-3.scope", false, std::nullopt, false, false}));
    CHECK(follows({"run-r12.scope", true, std::nullopt, false, false}));
    CHECK(follows({"", false, std::nullopt, false, false}));
    CHECK_FALSE(follows({"machine-qemu.scope", false, std::nullopt, false, false}));
    CHECK_FALSE(follows({"docker-0a.scope", false, std::nullopt, false, false}));
    CHECK_FALSE(follows({"", false, std::nullopt, false, true}));
}

TEST_CASE("root's configuration may trust a manager by name", "[upgrade][supervisor]") {
    const Supervision machine{"machine-qemu-1.scope", false, std::nullopt, false, false};
    CHECK(follows(machine, {"machine-qemu*.scope"}));
    CHECK_FALSE(follows(machine, {"machine-lxc*.scope", "machine-qemu"}));
    CHECK(follows({"", false, std::nullopt, false, true}, {"container"}));
    const auto why = judge_supervision(machine, kPid, "", {});
    REQUIRE(why);
    CHECK_THAT(*why, Catch::Contains("trusted_supervisors") && Catch::Contains("machine-qemu-1"));
}
