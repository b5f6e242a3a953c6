// SPDX-License-Identifier: GPL-2.0-or-later
//
// SIGKILL of qhupd at every command of an upgrade, before and after the command took effect; then a
// new qhupd on the same host. The guest must run on exactly one side at every end, and the run must
// end under its own id with an outcome that is true.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <chrono>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

/// A command at which the daemon dies.
struct Mark {
    std::string side;    // on which it arrives
    std::string command; // its name
};

const std::vector<Mark> kMarks{
    {"main", "getfd"},
    {"main", "hot-upgrade-prepare"},
    {"source", "query-hot-upgrade"},
    {"source", "hot-upgrade-switch"},
    {"target", "query-hot-upgrade"},
    {"source", "hot-upgrade-commit"},
};

/// What is true of the guest: which sides run it, and what version.
struct Truth {
    std::vector<std::string> sides;
    std::string version;
};

Truth truth_of(Host& host, std::size_t vm) {
    Truth truth;
    host.qemu().with_vm(
        [&truth](FakeVm& fake) {
            truth.sides = fake.running_sides();
            truth.version = fake.version();
        },
        vm
    );
    return truth;
}

/// Kills the daemon at the mark, starts it again, and returns the run as it ended.
json kill_and_restart(Host& host, const Mark& mark) {
    const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, mark.side + " " + mark.command); }));
    host.kill_daemon();
    // from here on the VM answers as usual
    host.qemu().with_vm([](FakeVm& vm) { vm.options().reactions.clear(); }, 0);
    REQUIRE(host.start_daemon());
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE_FALSE(ran.out.empty());
    return json::parse(ran.out);
}

void check_end(Host& host, const json& run) {
    CHECK(run.at("state") == "finished");
    REQUIRE(run.at("vms").size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
        const json& vm = run.at("vms").at(i);
        const Truth truth = truth_of(host, i);
        INFO(vm.dump());
        CHECK(truth.sides.size() == 1);
        const auto outcome = vm.at("outcome").get<std::string>();
        const bool is_known =
            outcome == "upgraded" || outcome == "rolled_back" || outcome == "refused";
        CHECK(is_known);
        CHECK(truth.version == (outcome == "upgraded" ? "10.0.13" : "7.2.22"));
    }
    // and the VM can be upgraded afterwards, soon even if a late command takes effect meanwhile
    CHECK(wait_until([&host] {
        const Ran again = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
        return again.status == 0 || again.status == 2;
    }));
    CHECK(truth_of(host, 0).version == "10.0.13");
    CHECK(truth_of(host, 1).version == "10.0.13");
}

} // namespace

TEST_CASE("a daemon killed before a command takes effect leaves no VM behind", "[daemon][crash]") {
    for (const Mark& mark : kMarks) {
        DYNAMIC_SECTION("at " << mark.side << " " << mark.command) {
            Host host(2);
            if (mark.command != "query-hot-upgrade") {
                host.options(0).vm.reactions[mark.command].delay = 300ms;
            }
            host.serve();
            REQUIRE(host.start_daemon());
            const json run = kill_and_restart(host, mark);
            check_end(host, run);
        }
    }
}

TEST_CASE("a daemon killed after a command took effect leaves no VM behind", "[daemon][crash]") {
    for (const Mark& mark : kMarks) {
        DYNAMIC_SECTION("at " << mark.side << " " << mark.command) {
            Host host(2);
            if (mark.command != "query-hot-upgrade") {
                host.options(0).vm.reactions[mark.command].is_silent = true;
            }
            host.serve();
            REQUIRE(host.start_daemon());
            const json run = kill_and_restart(host, mark);
            check_end(host, run);
        }
    }
}

TEST_CASE("a daemon killed again and again still ends every run", "[daemon][crash]") {
    Host host(2);
    host.options(0).vm.reactions["hot-upgrade-switch"].is_silent = true;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    for (int i = 0; i < 5; ++i) {
        host.kill_daemon();
        REQUIRE(host.start_daemon());
    }
    host.qemu().with_vm([](FakeVm& vm) { vm.options().reactions.clear(); }, 0);
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE_FALSE(ran.out.empty());
    check_end(host, json::parse(ran.out));
}
