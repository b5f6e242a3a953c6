// SPDX-License-Identifier: GPL-2.0-or-later
//
// VMs that somebody else changes while a run goes on: they appear, end, come back as another
// process, are stopped, or are migrated away. Each is handled and named, and no other VM minds.
// Also the configuration, which changes under a run.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

json vm_of(const json& run, const std::string& name) {
    for (const json& vm : run.at("vms")) {
        if (vm.at("vm") == name) {
            return vm;
        }
    }
    return json::object();
}

/// Three VMs, one in work at once; vm0 is kept in its pause until `go_on`.
class Waiting {
public:
    Waiting() {
        host.extra_config = "parallel = 1";
        host.options(0).vm.reactions["hot-upgrade-switch"].held = paused_;
        host.serve();
        REQUIRE(host.start_daemon());
        ctl_ = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
        REQUIRE(wait_until([this] { return has_command(host, "source hot-upgrade-switch"); }));
    }

    /// @return  the run at its end
    json go_on() {
        *paused_ = false;
        const Ran ran = host.finish_ctl(ctl_);
        UNSCOPED_INFO(ran.err << ran.out << host.daemon_log());
        json run = json::parse(ran.out);
        CHECK(run.at("state") == "finished");
        CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
        return run;
    }

    Host host{3};

private:
    std::shared_ptr<std::atomic<bool>> paused_ = std::make_shared<std::atomic<bool>>(true);
    pid_t ctl_ = -1;
};

} // namespace

TEST_CASE(
    "a second daemon in the same folders ends, and disturbs no upgrade", "[daemon][changes]"
) {
    // given: vm1 is prepared and waits until vm0 has had its pause
    Host host(2);
    host.extra_config = "pause_slots = 1";
    const auto paused = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = paused;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    REQUIRE(wait_until([&] { return has_command(host, "main hot-upgrade-prepare", 1); }));
    // when: somebody tries another configuration
    const std::string qhupd = std::filesystem::path(Host::ctl_program()).replace_filename("qhupd");
    const std::string conf = host.dir() / "conf";
    const Ran second = host.shell(
        "sed s/api.sock/other.sock/ " + conf + " > " + conf + "2; timeout 6 " + qhupd +
        " --config " + conf + "2"
    );
    // then
    CHECK(second.status == 1);
    CHECK((second.out + second.err).find("another qhupd works in") != std::string::npos);
    CHECK_FALSE(has_command(host, "source hot-upgrade-rollback", 1));
    *paused = false;
    CHECK(host.finish_ctl(upgrade).status == 0);
    // a daemon that is killed leaves its folders to the next one at once
    host.kill_daemon();
    REQUIRE(host.start_daemon());
}

TEST_CASE("a VM that appears during a run is not in it", "[daemon][changes]") {
    Waiting waiting;
    FakeQemuOptions late = waiting.host.options(2);
    late.qmp_path = waiting.host.dir() / "q/late.qmp";
    late.vm.name = "late";
    late.vm.uuid = "99999999-2222-3333-4444-555555555555";
    FakeQemu qemu(late);
    const auto is_listed = [&] {
        return waiting.host.ctl({"list"}).out.find("late") != std::string::npos;
    };
    REQUIRE(wait_until(is_listed));
    const json run = waiting.go_on();
    CHECK(run.at("vms").size() == 3);
    qemu.with_vm([](FakeVm& vm) { CHECK(vm.version() == "7.2.22"); });
    CHECK(waiting.host.ctl({"upgrade", "--yes", "late", "--to", "new"}).status == 0);
}

TEST_CASE(
    "a VM that ends while it waits is named, and the next one is upgraded", "[daemon][changes]"
) {
    Waiting waiting;
    std::filesystem::remove(waiting.host.qemu().path(1));
    waiting.host.qemu().hang_up(1);
    const json run = waiting.go_on();
    const json gone = vm_of(run, "vm1");
    CHECK(gone.at("outcome") == "refused");
    CHECK((gone.at("code") == "not_answering" || gone.at("code") == "vm_gone"));
    CHECK_FALSE(gone.at("message").get<std::string>().empty());
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
}

TEST_CASE(
    "a VM that comes back as another process is upgraded as what it is", "[daemon][changes]"
) {
    Waiting waiting;
    waiting.host.qemu().hang_up(1);
    std::filesystem::remove(waiting.host.qemu().path(1));
    FakeQemuOptions again = waiting.host.options(1);
    again.vm.version = "7.2.23";
    again.vm.build_id = "cccc";
    FakeQemu qemu(again);
    const json run = waiting.go_on();
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm1").at("from") == "7.2.23");
    qemu.with_vm([](FakeVm& vm) { CHECK(vm.version() == "10.0.13"); });
    CHECK_FALSE(has_command(waiting.host, "main hot-upgrade-prepare", 1));
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
}

TEST_CASE("a VM that is being migrated away is refused with QEMU's reason", "[daemon][changes]") {
    Waiting waiting;
    waiting.host.qemu().with_vm(
        [](FakeVm& vm) {
            vm.options().blockers = {{"migration/outgoing", "migration", "it is migrated away"}};
        },
        1
    );
    const json run = waiting.go_on();
    CHECK(vm_of(run, "vm1").at("outcome") == "refused");
    CHECK(vm_of(run, "vm1").at("code") == "blocked");
    CHECK(vm_of(run, "vm1").at("blockers").at(0).at("reason") == "it is migrated away");
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
}

TEST_CASE(
    "a guest that is stopped before its turn is upgraded and stays stopped", "[daemon][changes]"
) {
    Waiting waiting;
    waiting.host.qemu().with_vm(
        [](FakeVm& vm) {
            vm.pause_guest();
            vm.options().run_state = "paused";
        },
        1
    );
    const json run = waiting.go_on();
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    waiting.host.qemu().with_vm(
        [](FakeVm& vm) {
            CHECK(vm.version() == "10.0.13");
            CHECK(vm.running_sides().empty());
        },
        1
    );
}

TEST_CASE("a guest that is stopped after it was judged is reported", "[daemon][changes]") {
    Host host(2);
    const auto held = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = held;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    host.qemu().with_vm(
        [](FakeVm& vm) {
            vm.pause_guest();
            vm.options().run_state = "paused";
        },
        0
    );
    *held = false;
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "needs_operator");
    CHECK(vm_of(run, "vm0").at("code") == "guest_changed");
    CHECK(vm_of(run, "vm0").at("peer_text") == "running became paused");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
}

TEST_CASE("a source that dies while the target loads leaves it the guest", "[daemon][changes]") {
    Host host(2);
    host.options(0).vm.switch_time = 1s;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    host.qemu().with_vm([](FakeVm& vm) { vm.kill_source(); }, 0);
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    host.qemu().with_vm([](FakeVm& vm) { CHECK(vm.running_sides().size() == 1); }, 0);
}

TEST_CASE("a daemon that reads its configuration again and again answers meanwhile", "[daemon]") {
    Host host(3);
    host.serve();
    REQUIRE(host.start_daemon());
    const std::string path = host.dir() / "conf";
    std::ostringstream good;
    good << std::ifstream(path).rdbuf();
    const auto count = [&host](const std::string& words) {
        const std::string log = host.daemon_log();
        std::size_t found = 0;
        for (auto at = log.find(words); at != std::string::npos; at = log.find(words, at + 1)) {
            ++found;
        }
        return found;
    };
    const pid_t upgrade = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    for (std::size_t i = 1; i <= 8; ++i) {
        std::ofstream(path) << good.str();
        REQUIRE(host.signal_daemon(SIGHUP));
        CHECK(host.ctl({"--json", "list"}).status == 0);
        REQUIRE(wait_until([&] { return count("the configuration was reloaded") == i; }));
        std::ofstream(path) << good.str() << "[[[";
        REQUIRE(host.signal_daemon(SIGHUP));
        CHECK(host.ctl({"--json", "list"}).status == 0);
        REQUIRE(wait_until([&] { return count("the configuration stays as it was") == i; }));
    }
    CHECK(host.finish_ctl(upgrade).status == 0);
    CHECK(host.stop_daemon() == 0);
}
