// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <signal.h>

#include <chrono>
#include <filesystem>

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

} // namespace

TEST_CASE("upgrade --all upgrades every VM and says so", "[daemon][upgrade]") {
    Host host(5);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "new", "--parallel", "3"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    CHECK(ran.out.find("VM   FROM    TO       OUTCOME   PAUSE") != std::string::npos);
    CHECK(ran.out.find("vm4  7.2.22  10.0.13  upgraded") != std::string::npos);
    CHECK(ran.err.find("switch_over") != std::string::npos);
    for (std::size_t i = 0; i < 5; ++i) {
        host.qemu().with_vm([](FakeVm& vm) { CHECK(vm.version() == "10.0.13"); }, i);
    }
    const json list = json::parse(host.ctl({"--json", "list"}).out);
    CHECK(list.at("vms").at(0).at("version") == "10.0.13");
    // and again: nothing to do
    const Ran again = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    CHECK(again.status == 2);
    CHECK(again.out.find("unchanged") != std::string::npos);
}

TEST_CASE("a run in JSON has outcome, pause, total and all timings", "[daemon][upgrade]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(ran.status == 0);
    const json vm = vm_of(json::parse(ran.out), "vm0");
    CHECK(vm.at("outcome") == "upgraded");
    CHECK(vm.at("pause_ms").get<double>() > 0);
    CHECK(vm.at("total_ms").get<double>() >= vm.at("pause_ms").get<double>());
    CHECK(vm.at("timings_ns").contains("save"));
}

TEST_CASE("a blocked VM is refused with all reasons and never touched", "[daemon][upgrade]") {
    Host host(2);
    host.options(0).vm.blockers = {
        {"chardev/serial0", "chardev", "do this"}, {"net/n0", "net", "do that"}};
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran check = host.ctl({"check", "--all", "--to", "new"});
    CHECK(check.status == 6);
    CHECK(check.out.find("net/n0: do that.") != std::string::npos);
    CHECK(check.out.find("vm1: can be upgraded") != std::string::npos);
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    CHECK(ran.status == 6);
    CHECK(ran.out.find("chardev/serial0: do this.") != std::string::npos);
    CHECK(ran.out.find("vm1  7.2.22  10.0.13  upgraded") != std::string::npos);
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 0));
}

TEST_CASE("a failed switch is rolled back and the others are upgraded", "[daemon][upgrade]") {
    Host host(3);
    host.options(1).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(ran.status == 4);
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm1").at("outcome") == "rolled_back");
    CHECK(vm_of(run, "vm1").at("code") == "load_failed");
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
    host.qemu().with_vm(
        [](FakeVm& vm) { CHECK(vm.running_sides() == std::vector<std::string>{"source"}); }, 1
    );
}

TEST_CASE("a switch that did not even pause the guest is refused", "[daemon][upgrade]") {
    Host host(1);
    host.options(0).vm.reactions["hot-upgrade-switch"].error_code = "stale";
    host.options(0).vm.reactions["hot-upgrade-switch"].error_phase = "flush";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(ran.status == 6);
    const json vm = vm_of(json::parse(ran.out), "vm0");
    CHECK(vm.at("outcome") == "refused");
    CHECK(vm.at("code") == "stale");
}

TEST_CASE("a VM in a run is busy for every other run", "[daemon][upgrade]") {
    Host host(2);
    host.extra_config = "pause_slots = 2";
    const auto paused = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = paused;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t first = host.start_ctl({"upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    const json list = json::parse(host.ctl({"--json", "list"}).out);
    CHECK_FALSE(list.at("vms").at(0).at("run").get<std::string>().empty());
    const Ran second = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(second.status == 75);
    CHECK(vm_of(json::parse(second.out), "vm0").at("code") == "busy");
    CHECK(vm_of(json::parse(second.out), "vm1").at("outcome") == "upgraded");
    *paused = false;
    CHECK(host.finish_ctl(first).status == 0);
}

TEST_CASE("a second monitor that appears during a run takes no VM out of it", "[daemon][upgrade]") {
    Host host(1);
    const auto paused = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = paused;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    const auto list = [&host] { return json::parse(host.ctl({"--json", "list"}).out).at("vms"); };
    // when: it comes before the other one in the alphabet, and goes again
    std::filesystem::create_symlink(host.dir() / "q/vm0.qmp", host.dir() / "q/a.qmp");
    CHECK(list().size() == 1);
    const json during = list(); // names are chosen with what the look before found
    *paused = false;
    CHECK(host.finish_ctl(upgrade).status == 0);
    std::filesystem::remove(host.dir() / "q/a.qmp");
    // then
    REQUIRE(during.size() == 1);
    CHECK(during.at(0).at("run") == host.newest_run());
    const json after = list();
    REQUIRE(after.size() == 1);
    CHECK(after.at(0).at("run") == "");
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 2);
}

TEST_CASE("Ctrl-C detaches from the run and never aborts it", "[daemon][upgrade]") {
    Host host(1);
    host.options(0).vm.reactions["hot-upgrade-switch"].delay = 500ms;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    ::kill(upgrade, SIGINT);
    const Ran detached = host.finish_ctl(upgrade);
    CHECK(detached.status == 130);
    const std::string run = host.newest_run();
    CHECK(detached.err.find("qhupd-ctl status " + run) != std::string::npos);
    const Ran attached = host.ctl({"status", run});
    CHECK(attached.status == 0);
    CHECK(attached.out.find("upgraded") != std::string::npos);
}

TEST_CASE(
    "a release that cannot be asked is noted once, and prepare will tell", "[daemon][check]"
) {
    // given: a release that says nothing of itself
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());

    // when
    for (int i = 0; i < 3; ++i) {
        CHECK(host.ctl({"check", "vm0", "--to", "new"}).status == 0);
    }
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);

    // then
    const std::string log = host.daemon_log();
    const std::string words = "/silent-qemu what it is";
    const std::size_t first = log.find(words);
    CHECK(first != std::string::npos);
    CHECK(log.find(words, first + 1) == std::string::npos);
}

TEST_CASE("a dry run touches nothing", "[daemon][upgrade]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "new", "--dry-run"});
    CHECK(ran.status == 0);
    CHECK(ran.out.find("checked") != std::string::npos);
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare"));
    CHECK_FALSE(has_command(host, "main getfd"));
}

TEST_CASE("SIGTERM ends what is not paused and waits for what is", "[daemon][upgrade]") {
    Host host(2);
    host.extra_config = "parallel = 1";
    host.options(0).vm.reactions["hot-upgrade-switch"].delay = 300ms;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    CHECK(host.stop_daemon() == 0);
    const Ran ran = host.finish_ctl(upgrade);
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 75);
    CHECK(ran.out.find("vm0  7.2.22  10.0.13  upgraded") != std::string::npos);
    CHECK(ran.out.find("vm1  7.2.22  new      refused") != std::string::npos);
    CHECK(ran.err.find("was cancelled") == std::string::npos);
    CHECK(ran.out.find("was cancelled") == std::string::npos);
    // nothing was lost, so nothing is an error
    CHECK(host.daemon_log().find("waiting was cancelled") == std::string::npos);
    host.qemu().with_vm([](FakeVm& vm) { CHECK(vm.state(FakeSide::source) == "none"); }, 0);
    host.qemu().with_vm([](FakeVm& vm) { CHECK(vm.version() == "7.2.22"); }, 1);
}

TEST_CASE("thirty VMs are upgraded in one run", "[daemon][upgrade]") {
    Host host(30);
    host.extra_config = "parallel = 8";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(ran.status == 0);
    const json run = json::parse(ran.out);
    for (const json& vm : run.at("vms")) {
        CHECK(vm.at("outcome") == "upgraded");
    }
}

TEST_CASE("an aborted run begins no further VM and lets a pause finish", "[daemon][upgrade]") {
    Host host(4);
    host.extra_config = "parallel = 3\npause_slots = 1";
    const auto paused = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = paused;
    const auto first = std::make_shared<std::atomic<bool>>(true);
    host.options(1).vm.reactions["hot-upgrade-prepare"].held = first;
    host.options(2).vm.reactions["hot-upgrade-prepare"].held = first;
    host.options(2).vm.standby_time = 300ms;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    // vm0 is in its pause, vm1 waits for it, vm2 is prepared, vm3 was not begun
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    *first = false;
    REQUIRE(wait_until([&] { return has_command(host, "main hot-upgrade-prepare", 2); }));
    const pid_t abort = host.start_ctl({"--json", "abort", host.newest_run()});
    const auto is_stopped = [&] {
        const Ran status = host.ctl({"--json", "status", host.newest_run(), "--once"});
        return json::parse(status.out).value("stopped_by", "") == "abort";
    };
    REQUIRE(wait_until(is_stopped));
    *paused = false;
    const Ran aborted = host.finish_ctl(abort);
    CHECK(aborted.status == 7);
    const json run = json::parse(aborted.out);
    INFO(aborted.out << host.daemon_log());
    CHECK(run.at("stopped_by") == "abort");
    CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
    for (const char* name : {"vm1", "vm2", "vm3"}) {
        CHECK(vm_of(run, name).at("outcome") == "refused");
        CHECK(vm_of(run, name).at("code") == "stopped");
        CHECK(
            vm_of(run, name).at("message").get<std::string>().find("aborted") != std::string::npos
        );
    }
    for (std::size_t i = 1; i < 4; ++i) {
        CHECK_FALSE(has_command(host, "source hot-upgrade-switch", i));
        host.qemu().with_vm([](FakeVm& vm) { CHECK(vm.state(FakeSide::source) == "none"); }, i);
    }
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 3));
    CHECK(json::parse(host.finish_ctl(upgrade).out) == run);
    // again, and after a restart, it is the same; the VMs that are left can be upgraded
    CHECK(json::parse(host.ctl({"--json", "abort", run.at("id").get<std::string>()}).out) == run);
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK(json::parse(host.ctl({"--json", "abort", run.at("id").get<std::string>()}).out) == run);
    CHECK(host.ctl({"abort", "r0"}).status == 3);
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
}

TEST_CASE("an abort inside the pause lets a failing switch roll back", "[daemon][upgrade]") {
    Host host(1);
    host.options(0).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
    host.options(0).vm.reactions["hot-upgrade-switch"].delay = 300ms;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    CHECK(host.ctl({"abort", host.newest_run()}).status == 4);
    const json vm = vm_of(json::parse(host.finish_ctl(upgrade).out), "vm0");
    CHECK(vm.at("outcome") == "rolled_back");
    CHECK(vm.at("code") == "load_failed");
}

TEST_CASE("a run stops after as many failures as it was told", "[daemon][upgrade]") {
    for (const std::string most : {"1", "2", ""}) {
        INFO("max failures: " << most);
        Host host(5);
        host.extra_config = "parallel = 1";
        host.options(1).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
        host.options(3).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
        host.serve();
        REQUIRE(host.start_daemon());
        std::vector<std::string> words{"--json", "upgrade", "--yes", "--all", "--to", "new"};
        if (!most.empty()) {
            words.insert(words.end(), {"--max-failures", most});
        }
        const Ran ran = host.ctl(words);
        CHECK(ran.status == 4);
        const json run = json::parse(ran.out);
        INFO(ran.out << host.daemon_log());
        std::string outcomes;
        for (const json& vm : run.at("vms")) {
            outcomes += vm.at("outcome").get<std::string>() + " ";
            CHECK((vm.at("code") == "stopped") == (vm.at("outcome") == "refused"));
        }
        if (most == "1") {
            CHECK(outcomes == "upgraded rolled_back refused refused refused ");
            CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 2));
        } else if (most == "2") {
            CHECK(outcomes == "upgraded rolled_back upgraded rolled_back refused ");
        } else {
            CHECK(outcomes == "upgraded rolled_back upgraded rolled_back upgraded ");
        }
        CHECK(run.at("stopped_by") == (most.empty() ? "" : "failures"));
        if (!most.empty()) {
            CHECK(
                vm_of(run, "vm4").at("message").get<std::string>().find("failures") !=
                std::string::npos
            );
        }
    }
}

namespace {

/// Rehearsals are driven by the daemon: on a busy host their steps take longer than fakes do.
const char* const kPatient = "leases.frozen = \"10s\"\n";

} // namespace

TEST_CASE("a rehearsal says that it would work, and moves no guest", "[daemon][rehearsal]") {
    Host host(2);
    host.extra_config = kPatient;
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"rehearse", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    CHECK(ran.out.find("vm1  7.2.22  new  rehearsed") != std::string::npos);
    CHECK(ran.out.find("an upgrade would pause for about") != std::string::npos);
    for (std::size_t i = 0; i < 2; ++i) {
        host.qemu().with_vm(
            [](FakeVm& vm) {
                CHECK(vm.version() == "7.2.22");
                CHECK(vm.running_sides() == std::vector<std::string>{"source"});
                CHECK(vm.state(FakeSide::target).empty());
            },
            i
        );
        CHECK_FALSE(has_command(host, "source hot-upgrade-takeover", i));
        CHECK_FALSE(has_command(host, "source hot-upgrade-switch", i));
    }
    const json run = json::parse(host.ctl({"--json", "status", host.newest_run()}).out);
    CHECK(run.at("kind") == "rehearsal");
    CHECK(vm_of(run, "vm0").at("rehearsal").at("result") == "passed");
    // what a rehearsal measured holds until the next one: a budget below it refuses the upgrade
    const Ran refused =
        host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new", "--pause-budget", "1"});
    CHECK(refused.status == 6);
    CHECK(vm_of(json::parse(refused.out), "vm0").at("code") == "budget");
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
}

TEST_CASE("a release that cannot load the state is found by a rehearsal", "[daemon][rehearsal]") {
    Host host(1);
    host.extra_config = kPatient;
    host.options(0).vm.reactions["hot-upgrade-load"].error_code = "load-failed";
    host.options(0).vm.reactions["hot-upgrade-load"].error_phase = "load";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "rehearse", "--yes", "vm0", "--to", "new", "--pause-budget", "10000"});
    CHECK(ran.status == 4);
    const json vm = vm_of(json::parse(ran.out), "vm0");
    CHECK(vm.at("outcome") == "rolled_back");
    CHECK(vm.at("rehearsal").at("code") == "load_failed");
    host.qemu().with_vm([](FakeVm& fake) {
        CHECK(fake.running_sides() == std::vector<std::string>{"source"});
    });
}

TEST_CASE("the first VM of a kind is rehearsed, and the others follow", "[daemon][rehearsal]") {
    Host host(3);
    host.extra_config = std::string(kPatient) + "parallel = 1\nrehearse = \"first\"";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE(ran.status == 0);
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("rehearsal").at("result") == "passed");
    CHECK(vm_of(run, "vm0").at("steps").size() == 13); // both walks
    CHECK(vm_of(run, "vm0").at("upgrade").get<std::string>().ends_with(".0"));
    for (const std::size_t other : {1U, 2U}) {
        CHECK(vm_of(run, "vm" + std::to_string(other)).at("rehearsal").is_null());
        CHECK_FALSE(has_command(host, "source hot-upgrade-load", other));
    }
}

TEST_CASE("a kind that fails its rehearsal is not touched any further", "[daemon][rehearsal]") {
    Host host(3);
    host.extra_config = std::string(kPatient) + "parallel = 1\nrehearse = \"first\"";
    host.options(0).vm.reactions["hot-upgrade-load"].error_code = "load-failed";
    host.options(0).vm.reactions["hot-upgrade-load"].error_phase = "load";
    host.options(2).vm.machine = "pc-q35-7.2";
    host.options(2).vm.argv = {"qemu-system-x86_64", "-machine", "pc-q35-7.2"};
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 4);
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "rolled_back");
    CHECK(vm_of(run, "vm0").at("code") == "load_failed");
    CHECK(vm_of(run, "vm1").at("outcome") == "refused");
    CHECK(vm_of(run, "vm1").at("code") == "rehearsal_failed");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
    // said so, it is tried all the same
    CHECK(host.ctl({"upgrade", "--yes", "vm1", "--to", "new", "--no-rehearse"}).status == 0);
}

TEST_CASE("the first VM of the order is rehearsed, however late it is", "[daemon][rehearsal]") {
    Host host(3);
    const auto held = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-prepare"].held = held;
    host.options(0).vm.reactions["hot-upgrade-rollback"].delay = 300ms;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t lost = host.start_ctl({"upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "main hot-upgrade-prepare"); }));
    // a command of a daemon that was killed takes effect after the next one has looked
    host.kill_daemon();
    host.extra_config = std::string(kPatient) + "rehearse = \"first\"";
    REQUIRE(host.start_daemon());
    (void)host.finish_ctl(lost);
    *held = false;
    REQUIRE(wait_until([&] {
        std::string state;
        host.qemu().with_vm([&state](FakeVm& vm) { state = vm.state(FakeSide::source); }, 0);
        return state == "prepared";
    }));
    // a run takes what the VM said up to 0.2 s before
    REQUIRE(wait_until([&] {
        const json list = json::parse(host.ctl({"--json", "list"}).out);
        return list.at("vms").at(0).at("upgradable") == false;
    }));
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    CHECK(host.daemon_log().find("vm0: ends its unfinished upgrade") != std::string::npos);
    CHECK_FALSE(vm_of(json::parse(ran.out), "vm0").at("rehearsal").is_null());
    for (const std::size_t other : {1U, 2U}) {
        CHECK_FALSE(has_command(host, "source hot-upgrade-load", other));
    }
}

TEST_CASE("a VM that says nothing of its kind leaves that to the next", "[daemon][rehearsal]") {
    Host host(3);
    host.extra_config = std::string(kPatient) + "rehearse = \"first\"";
    host.options(0).vm.blockers = {{"net/n0", "net", "do that"}};
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("code") == "blocked");
    CHECK(vm_of(run, "vm1").at("rehearsal").at("result") == "passed");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
    CHECK_FALSE(has_command(host, "source hot-upgrade-load", 2));
}

TEST_CASE(
    "a daemon that dies in a rehearsal leaves the guest where it was", "[daemon][rehearsal]"
) {
    Host host(1);
    host.options(0).vm.reactions["hot-upgrade-load"].is_silent = true;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t rehearsal = host.start_ctl({"--json", "rehearse", "--yes", "vm0", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-load"); }));
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    const Ran ran = host.finish_ctl(rehearsal);
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 4);
    CHECK(vm_of(json::parse(ran.out), "vm0").at("outcome") == "rolled_back");
    host.qemu().with_vm([](FakeVm& vm) {
        CHECK(vm.running_sides() == std::vector<std::string>{"source"});
        CHECK(vm.state(FakeSide::source) == "none");
    });
}
