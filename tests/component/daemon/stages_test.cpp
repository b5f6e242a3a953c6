// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runs in stages: canaries, batches, and the soak between them.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
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

json newest(Host& host) {
    return json::parse(host.ctl({"--json", "status", host.newest_run(), "--once"}).out);
}

std::string version_of(Host& host, std::size_t vm) {
    std::string version;
    host.qemu().with_vm([&version](FakeVm& fake) { version = fake.version(); }, vm);
    return version;
}

bool is_soaking(Host& host, int stage) {
    const std::string id = host.newest_run();
    if (id.empty()) {
        return false;
    }
    const json now = newest(host).at("stage");
    return now.is_object() && now.at("number") == stage && now.at("state") == "soaking";
}

/// Two kinds: vm0, vm1 and vm4 are of one, vm2 and vm3 of another.
void make_kinds(Host& host) {
    for (const std::size_t i : {2U, 3U}) {
        host.options(i).vm.machine = "pc-q35-7.2";
        host.options(i).vm.argv = {"qemu-system-x86_64", "-machine", "pc-q35-7.2"};
    }
}

} // namespace

TEST_CASE("canaries come first, one of each kind, then the batches", "[daemon][stages]") {
    Host host(5);
    make_kinds(host);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl(
        {"--json",
         "upgrade",
         "--yes",
         "--all",
         "--to",
         "new",
         "--canaries",
         "2",
         "--batch",
         "2",
         "--soak",
         "1s"}
    );
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE(ran.status == 0);
    const json run = json::parse(ran.out);
    std::string stages;
    for (const json& vm : run.at("vms")) {
        CHECK(vm.at("outcome") == "upgraded");
        stages += std::to_string(vm.at("stage").get<int>());
    }
    CHECK(stages == "12123");
    // each stage began when the one before had ended, and a second later
    const auto end_of = [&run](const char* name) {
        const json vm = vm_of(run, name);
        return vm.at("steps").back().at("at_ms").get<int>();
    };
    const auto begin_of = [&run](const char* name) {
        return vm_of(run, name).at("steps").at(0).at("at_ms").get<int>();
    };
    CHECK(begin_of("vm1") >= std::max(end_of("vm0"), end_of("vm2")) + 1000);
    CHECK(begin_of("vm4") >= std::max(end_of("vm1"), end_of("vm3")) + 1000);
    CHECK(run.at("stage").at("number") == 3);
    CHECK(run.at("stopped_by") == "");
}

TEST_CASE("a canary that fails stops the run", "[daemon][stages]") {
    Host host(4);
    host.options(0).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "new", "--canaries", "2"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 4);
    CHECK(
        ran.out.find("The run was stopped: canary vm0 was rolled back (load_failed)") !=
        std::string::npos
    );
    const json run = newest(host);
    CHECK(run.at("state") == "finished");
    CHECK(run.at("stopped_by") == "canaries");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded"); // a canary too
    for (const std::size_t i : {2U, 3U}) {
        const json vm = vm_of(run, "vm" + std::to_string(i));
        CHECK(vm.at("outcome") == "refused");
        CHECK(vm.at("code") == "stopped");
        CHECK(vm.at("message").get<std::string>().find("canary vm0") != std::string::npos);
        CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", i));
    }
}

TEST_CASE("a canary that becomes unwell in the soak stops the run", "[daemon][stages]") {
    const bool is_gone = GENERATE(false, true);
    Host host(3);
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "2s"}
    );
    REQUIRE(wait_until([&] { return is_soaking(host, 1); }));
    if (is_gone) {
        std::filesystem::remove(host.qemu().path(0));
    } else {
        host.qemu().with_vm([](FakeVm& vm) { vm.pause_guest(); }, 0);
    }
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(ran.status == 6);
    CHECK(run.at("stopped_by") == "soak");
    const auto reason = run.at("stop_reason").get<std::string>();
    CHECK(reason.find("vm0") != std::string::npos);
    CHECK((reason.find("paused") != std::string::npos) == !is_gone);
    CHECK(vm_of(run, "vm1").at("code") == "stopped");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
}

TEST_CASE("a daemon that restarts in a soak goes on with it", "[daemon][stages]") {
    const bool is_killed = GENERATE(false, true);
    Host host(3);
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "2s"}
    );
    REQUIRE(wait_until([&] { return is_soaking(host, 1); }));
    const auto until = newest(host).at("stage").at("soak_until_unix_ms");
    if (is_killed) {
        host.kill_daemon();
    } else {
        CHECK(host.stop_daemon() == 0);
    }
    REQUIRE(host.start_daemon());
    CHECK(newest(host).at("stage").at("soak_until_unix_ms") == until);
    CHECK(newest(host).at("state") == "running");
    CHECK(
        host.daemon_log().find(" goes on: 2 of its 3 VMs have no outcome yet") != std::string::npos
    );
    // those that wait are nobody's in the meantime
    CHECK(json::parse(host.ctl({"--json", "show", "vm2"}).out).at("run") == "");
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    const json run = json::parse(ran.out);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(run.at("vms").at(i).at("outcome") == "upgraded");
        CHECK(version_of(host, i) == "10.0.13");
    }
    CHECK(run.at("stopped_by") == "");
}

TEST_CASE("a release that changed while nobody watched ends the run", "[daemon][stages]") {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "1h"}
    );
    REQUIRE(wait_until([&] { return is_soaking(host, 1); }));
    host.kill_daemon();
    std::filesystem::remove(host.dir() / "releases/new.toml");
    REQUIRE(host.start_daemon());
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 6);
    const json run = json::parse(ran.out);
    CHECK(run.at("stopped_by") == "release");
    CHECK(vm_of(run, "vm1").at("code") == "stopped");
    CHECK(version_of(host, 1) == "7.2.22");
}

TEST_CASE("an abort ends a soak", "[daemon][stages]") {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "1h"}
    );
    REQUIRE(wait_until([&] { return is_soaking(host, 1); }));
    const Ran stage = host.ctl({"status", host.newest_run(), "--once"});
    CHECK(
        stage.out.find("Stage 1 of 2 (canaries): its VMs are watched until") != std::string::npos
    );
    CHECK(host.ctl({"abort", host.newest_run()}).status == 7);
    const json run = json::parse(host.finish_ctl(ctl).out);
    CHECK(run.at("stopped_by") == "abort");
    CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm1").at("code") == "stopped");
    // nothing is left of it: the other one can be upgraded
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
}

TEST_CASE("what changes in a soak counts for the stages after it", "[daemon][stages]") {
    Host host(4);
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "2s"}
    );
    REQUIRE(wait_until([&] { return is_soaking(host, 1); }));
    REQUIRE(host.ctl({"hold", "vm1", "--reason", "not now"}).status == 0);
    REQUIRE(host.ctl({"upgrade", "--yes", "vm2", "--to", "new"}).status == 0);
    std::filesystem::remove(host.qemu().path(3));
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm1").at("code") == "held");
    CHECK(vm_of(run, "vm2").at("outcome") == "unchanged");
    CHECK(vm_of(run, "vm3").at("outcome") == "refused");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
}
