// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/task_group.hpp"
#include "common/unique_fd.hpp"
#include "tests/component/upgrade-engine/some_binary.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_qemu.hpp"
#include "tests/support/run_coroutine.hpp"
#include "tests/support/temp_dir.hpp"
#include "upgrade-engine/qmp_vm_port.hpp"
#include "upgrade-engine/runner.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>

using namespace qhup;
using namespace qhup::test;
using namespace qhup::upgrade;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

namespace {

RunnerConfig make_config() {
    RunnerConfig config;
    config.watch_window = 20ms;
    config.poll_interval = 2ms;
    config.retry_delay = 5ms;
    config.ask_timeout = 300ms;
    for (const Phase phase : kAllPhases) {
        if (!is_terminal(phase) && phase != Phase::queued && phase != Phase::await_pause) {
            config.deadlines[phase] = 1500ms;
        }
    }
    return config;
}

/// One fake VM with a folder for its sockets.
struct Vm {
    TempDir folder;
    FakeQemu qemu;
    std::string id = "u1";

    explicit Vm(FakeVmOptions options = {}, FaultScript main = {}, FaultScript control = {})
        : qemu(make_options(folder, std::move(options), std::move(main), std::move(control))) {
        std::filesystem::create_directory(control_dir());
        std::filesystem::permissions(control_dir(), std::filesystem::perms(0700));
    }

    static FakeQemuOptions make_options(
        const TempDir& folder, FakeVmOptions options, FaultScript main, FaultScript control
    ) {
        options.pid = 1000001; // never real processes
        options.target_pid = 1000002;
        FakeQemuOptions result;
        result.qmp_path = folder / "qmp";
        result.vm = std::move(options);
        result.main_script = std::move(main);
        result.control_script = std::move(control);
        return result;
    }

    [[nodiscard]] std::string control_dir() const { return folder / "control"; }

    [[nodiscard]] QmpVmPortConfig port_config() const {
        return {folder / "qmp", control_dir(), UpgradeId(id)};
    }

    [[nodiscard]] UpgradeRequest request() const {
        UpgradeRequest request;
        request.vm = VmId("vm1");
        request.upgrade = UpgradeId(id);
        request.binary = make_some_binary("bbbb");
        request.config = make_config();
        return request;
    }

    UpgradeReport upgrade(std::function<void(const UpgradeReport&)> observer = {}) {
        std::optional<UpgradeReport> report;
        run_coroutine([&](Strand strand) -> awaitable<void> {
            SlotGate gate(strand, {});
            auto turn = gate.add_vm(gate.add_batch({}));
            QmpVmPort port(strand, port_config());
            report = co_await run_upgrade(port, turn, request(), observer);
            co_await port.close();
        });
        REQUIRE(report.has_value());
        if (report->failure) {
            UNSCOPED_INFO(to_text(*report->failure));
        }
        return *report;
    }

    UpgradeReport recover(QmpVmPortConfig config) {
        std::optional<UpgradeReport> report;
        run_coroutine([&](Strand strand) -> awaitable<void> {
            QmpVmPort port(strand, config);
            RecoveryRequest request{VmId("vm1"), config.upgrade, make_config()};
            report = co_await run_recovery(port, std::move(request), {});
            co_await port.close();
        });
        REQUIRE(report.has_value());
        return *report;
    }

    // why: a function and not braces in a coroutine: gcc 12 gets those wrong.
    static PrepareRequest make_prepare(const PinnedBinary& binary) {
        return {UpgradeId("u1"), binary.fd.get(), Words{"qemu"}, "", 60s};
    }

    /// Runs the upgrade of a daemon that dies when the phase is entered.
    void upgrade_until(Phase phase) {
        run_coroutine([&](Strand strand) -> awaitable<void> {
            QmpVmPort port(strand, port_config());
            const Deadline deadline = Deadline::in(5s);
            const auto binary = make_some_binary("bbbb");
            PrepareRequest prepare = make_prepare(*binary);
            const Observation first = co_await port.observe_source(deadline);
            REQUIRE(first.answers());
            const Result<void> begun = co_await port.prepare(std::move(prepare), deadline);
            INFO((begun.has_error() ? to_text(begun.error()) : ""));
            REQUIRE(begun.has_value());
            Observation source = co_await port.observe_source(deadline);
            while (!source.is(PairState::prepared) && !deadline.is_over()) {
                ignore(co_await sleep_until(Deadline::in(2ms)), "looks again");
                source = co_await port.observe_source(deadline);
            }
            if (phase == Phase::verify) {
                const SwitchLimits limits;
                const Result<SwitchTimings> switched = co_await port.switch_over(limits, deadline);
                REQUIRE(switched.has_value());
            }
            co_await port.close();
        });
    }

    Words running_sides() {
        Words sides;
        qemu.with_vm([&](FakeVm& vm) { sides = vm.running_sides(); });
        return sides;
    }

    std::string version() {
        std::string version;
        qemu.with_vm([&](FakeVm& vm) { version = vm.version(); });
        return version;
    }

    /// The commands that change something, in order.
    Words effects() {
        Words result;
        for (const std::string& command : qemu.commands()) {
            if (command.find("query-") == Words::value_type::npos &&
                command.find("capabilities") == std::string::npos) {
                result.push_back(command);
            }
        }
        return result;
    }
};

std::string word(const UpgradeReport& report) {
    return std::string(to_string(report.phase));
}

std::string code_of(const UpgradeReport& report) {
    return report.failure ? wire_code_of(report.failure->code) : "";
}

} // namespace

TEST_CASE("an upgrade over real sockets ends on the new QEMU", "[upgrade][qmp_vm_port]") {
    FakeVmOptions options;
    options.pidfile = "/run/vm1.pid";
    Vm vm(options);
    const auto report = vm.upgrade();
    CHECK(word(report) == "upgraded");
    CHECK(vm.version() == "10.0.13");
    CHECK(vm.running_sides().size() == 1);
    CHECK(
        vm.effects() ==
        Words{
            "main getfd",
            "main hot-upgrade-prepare",
            "source hot-upgrade-renew",
            "source hot-upgrade-switch",
            "source hot-upgrade-commit"}
    );
    CHECK(vm.qemu.descriptors_received() == 1);
    CHECK(report.from_text == "7.2.22");
    CHECK(report.to_text == "10.0.13");
    REQUIRE(report.timings.has_value());
    CHECK(report.timings->pause > 0ns);
}

TEST_CASE("a VM that was upgraded has nothing to do the next time", "[upgrade][qmp_vm_port]") {
    Vm vm;
    REQUIRE(word(vm.upgrade()) == "upgraded");
    vm.id = "u2";
    const auto again = vm.upgrade();
    CHECK(word(again) == "refused");
    CHECK(again.is_nothing_to_do);
}

TEST_CASE("a VM that was rolled back can be upgraded", "[upgrade][qmp_vm_port]") {
    FakeVmOptions options;
    options.reactions["hot-upgrade-switch"].error_code = "load-failed";
    options.reactions["hot-upgrade-switch"].times = 1;
    Vm vm(options);
    REQUIRE(word(vm.upgrade()) == "rolled_back");
    vm.id = "u2";
    CHECK(word(vm.upgrade()) == "upgraded");
    CHECK(vm.version() == "10.0.13");
}

TEST_CASE("a stock QEMU is refused with what to do", "[upgrade][qmp_vm_port]") {
    FakeVmOptions options;
    options.is_patched = false;
    Vm vm(options);
    const auto report = vm.upgrade();
    CHECK(word(report) == "refused");
    REQUIRE(report.blockers.size() == 1);
    CHECK(report.blockers.front().id == "engine/not-patched");
    CHECK(vm.effects().empty());
}

TEST_CASE("QEMU's blockers are reported and nothing is sent", "[upgrade][qmp_vm_port]") {
    FakeVmOptions options;
    options.blockers = {{"chardev/serial0", "chardev", "It uses TLS; take it away."}};
    Vm vm(options);
    const auto report = vm.upgrade();
    CHECK(word(report) == "refused");
    REQUIRE(report.blockers.size() == 1);
    CHECK(report.blockers.front().id == "chardev/serial0");
    CHECK(vm.effects().empty());
}

TEST_CASE("a disk image that was deleted is a blocker", "[upgrade][qmp_vm_port]") {
    // given: an image that QEMU, which is this process, has open
    const TempDir folder;
    const std::string path = folder / "disk.raw";
    const UniqueFd image(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    struct stat info {};
    REQUIRE(::fstat(image.get(), &info) == 0);
    std::ostringstream id;
    id << "image/" << std::hex << info.st_dev << ':' << std::dec << info.st_ino << "/rw";
    const nlohmann::json node{{"driver", "file"}, {"filename", path}};
    FakeVmOptions options;
    options.descriptors.push_back({{"id", id.str()}, {"fd", image.get()}});
    options.shape = {{"block", nlohmann::json::array({{{"name", "d0"}, {"root", node}}})}};

    SECTION("and one that is there is none") {
        Vm vm(options);
        CHECK(word(vm.upgrade()) == "upgraded");
    }
    SECTION("that is named, and nothing is sent") {
        std::filesystem::remove(path);
        Vm vm(options);
        const auto report = vm.upgrade();
        CHECK(word(report) == "refused");
        REQUIRE(report.blockers.size() == 1);
        CHECK(report.blockers.front().id == "engine/image" + path);
        CHECK(report.blockers.front().klass == "image");
        CHECK(vm.effects().empty());
    }
}

TEST_CASE("the code of a refused prepare is asked for", "[upgrade][qmp_vm_port]") {
    Vm vm;
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::prepare) {
            vm.qemu.with_vm([](FakeVm& fake) { fake.options().blockers = {{"x", "y", "z"}}; });
        }
    });
    CHECK(word(report) == "refused");
    CHECK(code_of(report) == "blocked"); // the main monitor's error reply has no code
    CHECK(vm.version() == "7.2.22");
}

TEST_CASE("a prepare is not explained by what another upgrade left", "[upgrade][qmp_vm_port]") {
    // given: an upgrade that was rolled back, so that there is a last-error
    FakeVmOptions options;
    options.reactions["hot-upgrade-switch"].error_code = "load-failed";
    Vm vm(options);
    REQUIRE(code_of(vm.upgrade()) == "load_failed");
    vm.id = "u2";
    std::string code;
    std::function<void(FakeVm&)> happen;
    SECTION("a refusal of which QEMU keeps no reason") {
        happen = [](FakeVm& fake) {
            fake.options().reactions["hot-upgrade-prepare"].error_code = "bad-argument";
        };
        code = "unknown_qemu_code";
    }
    SECTION("another upgrade has begun meanwhile") {
        happen = [folder = vm.control_dir()](FakeVm& fake) {
            const nlohmann::json arguments{
                {"upgrade", "other"}, {"binary", "x"}, {"control-dir", folder}, {"argv", {"q"}}};
            fake.on_command(
                FakeSide::main, "hot-upgrade-prepare", arguments, {"x"}, [](auto /*answer*/) {}
            );
        };
        code = "wrong_state";
    }
    const auto rollbacks = [&] {
        const Words all = vm.effects();
        return std::count(all.begin(), all.end(), "main hot-upgrade-rollback");
    };
    const auto before = rollbacks();
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::prepare) {
            vm.qemu.with_vm(happen);
        }
    });
    CHECK(word(report) == "refused");
    CHECK(code_of(report) == code);
    CHECK(rollbacks() == before); // what somebody else began is left alone
}

TEST_CASE("a standby that never comes up is refused with its code", "[upgrade][qmp_vm_port]") {
    for (const char* const code : {"spawn-failed", "target-died", "shape-differs"}) {
        FakeVmOptions options;
        options.standby_failure = code;
        Vm vm(options);
        const auto report = vm.upgrade();
        CHECK(word(report) == "refused");
        CHECK(report.failure->code == make_error_code(parse_qemu_code(code)));
        CHECK(vm.version() == "7.2.22");
    }
}

TEST_CASE("a switch that QEMU ends is rolled back with its code", "[upgrade][qmp_vm_port]") {
    for (const char* const code :
         {"stale",
          "retry",
          "drain-timeout",
          "budget-exceeded",
          "save-failed",
          "load-failed",
          "takeover-failed",
          "target-died"}) {
        FakeVmOptions options;
        options.reactions["hot-upgrade-switch"].error_code = code;
        Vm vm(options);
        const auto report = vm.upgrade();
        INFO(code);
        CHECK(word(report) == "rolled_back");
        CHECK(report.failure->code == make_error_code(parse_qemu_code(code)));
        CHECK(vm.running_sides() == Words{"source"});
        CHECK(vm.version() == "7.2.22");
        vm.qemu.with_vm([](FakeVm& fake) { CHECK(fake.state(FakeSide::source) == "none"); });
    }
}

TEST_CASE("a switch that QEMU ends before the pause is refused", "[upgrade][qmp_vm_port]") {
    for (const char* const code : {"stale", "retry", "drain-timeout"}) {
        FakeVmOptions options;
        options.reactions["hot-upgrade-switch"].error_code = code;
        options.reactions["hot-upgrade-switch"].error_phase = "flush";
        Vm vm(options);
        const auto report = vm.upgrade();
        INFO(code);
        CHECK(word(report) == "refused");
        CHECK(report.failure->code == make_error_code(parse_qemu_code(code)));
        CHECK(vm.running_sides() == Words{"source"});
        vm.qemu.with_vm([](FakeVm& fake) { CHECK(fake.state(FakeSide::source) == "none"); });
    }
}

TEST_CASE("a connection that ends in a command is not the end", "[upgrade][qmp_vm_port]") {
    struct Row {
        const char* command;
        bool takes_effect;
        const char* phase;
    };
    for (const Row& row : {
             Row{"hot-upgrade-switch", true, "upgraded"},
             Row{"hot-upgrade-switch", false, "rolled_back"},
             Row{"hot-upgrade-commit", true, "upgraded"},
             Row{"hot-upgrade-commit", false, "upgraded"},
             Row{"hot-upgrade-prepare", true, "refused"},
             Row{"hot-upgrade-prepare", false, "refused"},
             Row{"hot-upgrade-renew", false, "upgraded"},
         }) {
        INFO(row.command << (row.takes_effect ? " with" : " without") << " effect");
        FakeVmOptions options;
        Reaction& reaction = options.reactions[row.command];
        reaction.hangs_up = true;
        reaction.takes_effect = row.takes_effect;
        reaction.times = 1;
        Vm vm(options);
        const auto report = vm.upgrade();
        CHECK(word(report) == row.phase);
        CHECK(vm.version() == (word(report) == "upgraded" ? "10.0.13" : "7.2.22"));
        CHECK(vm.running_sides().size() == 1);
    }
}

TEST_CASE("a switch that never answers is looked at", "[upgrade][qmp_vm_port]") {
    FakeVmOptions options;
    options.reactions["hot-upgrade-switch"].is_silent = true;
    Vm vm(options);
    const auto report = vm.upgrade();
    CHECK(word(report) == "upgraded");
    CHECK(report.timings.has_value());
    CHECK(vm.version() == "10.0.13");
}

TEST_CASE("a monitor that does not greet is refused in time", "[upgrade][qmp_vm_port]") {
    FaultScript script;
    script.is_without_greeting = true;
    Vm vm({}, script);
    const auto report = vm.upgrade();
    CHECK(word(report) == "refused");
    CHECK(code_of(report) == "not_answering");
}

TEST_CASE(
    "an upgrade that is cancelled while it connects is cancelled, not a VM that does not answer",
    "[upgrade][qmp_vm_port]"
) {
    FaultScript script;
    script.is_without_greeting = true;
    Vm vm({}, script);
    std::optional<UpgradeReport> report;
    const auto upgrade = [&](Strand strand) -> awaitable<void> {
        SlotGate gate(strand, {});
        auto turn = gate.add_vm(gate.add_batch({}));
        QmpVmPort port(strand, vm.port_config());
        UpgradeRequest request = vm.request();
        request.config.ask_timeout = 5s;
        report = co_await run_upgrade(port, turn, std::move(request), {});
        co_await port.close();
    };
    run_coroutine([&](Strand strand) -> awaitable<void> {
        TaskGroup tasks(strand);
        tasks.spawn("upgrade", upgrade(strand));
        ignore(co_await sleep_until(Deadline::in(50ms)), "until it waits for the greeting");
        tasks.request_stop();
        co_await tasks.join();
    });
    REQUIRE(report.has_value());
    CHECK(word(*report) == "refused");
    REQUIRE(report->failure.has_value());
    CHECK(is_cancelled(*report->failure));
}

TEST_CASE("a socket without a QEMU is refused", "[upgrade][qmp_vm_port]") {
    TempDir folder;
    std::optional<UpgradeReport> report;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        SlotGate gate(strand, {});
        auto turn = gate.add_vm(gate.add_batch({}));
        QmpVmPort port(strand, {folder / "qmp", folder / "control", UpgradeId("u1")});
        UpgradeRequest request;
        request.binary = make_some_binary("bbbb");
        request.config = make_config();
        report = co_await run_upgrade(port, turn, std::move(request), {});
        co_await port.close();
    });
    CHECK(word(*report) == "refused");
    CHECK(code_of(*report) == "not_answering");
}

TEST_CASE("a target that is killed after the switch needs an operator", "[upgrade][qmp_vm_port]") {
    Vm vm;
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::verify) {
            vm.qemu.with_vm([](FakeVm& fake) { fake.kill_target(); });
        }
    });
    CHECK(word(report) == "needs_operator");
    CHECK(code_of(report) == "guest_lost");
    CHECK_THAT(report.failure->peer_text, Catch::Contains("signal 9"));
}

TEST_CASE("a guest that powers off ends an upgrade over real sockets", "[upgrade][qmp_vm_port]") {
    Vm vm;
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::verify) {
            vm.qemu.with_vm([](FakeVm& fake) { fake.power_off_target(); });
        }
    });
    CHECK(word(report) == "upgraded");
    REQUIRE(report.warnings.size() == 1);
    vm.qemu.with_vm([](FakeVm& fake) { CHECK(fake.state(FakeSide::source).empty()); });
}

TEST_CASE(
    "a source that is killed after the switch leaves an upgraded VM", "[upgrade][qmp_vm_port]"
) {
    Vm vm;
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::verify) {
            vm.qemu.with_vm([](FakeVm& fake) { fake.kill_source(); });
        }
    });
    CHECK(word(report) == "upgraded");
    CHECK(vm.version() == "10.0.13");
}

TEST_CASE(
    "a target that has been alone for long is found by its main monitor", "[upgrade][qmp_vm_port]"
) {
    Vm vm;
    const auto report = vm.upgrade([&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::verify) {
            vm.qemu.with_vm([](FakeVm& fake) {
                fake.kill_source();
                fake.close_control();
            });
        }
    });
    CHECK(word(report) == "upgraded");
    CHECK(vm.version() == "10.0.13");
}

TEST_CASE("a daemon that restarts finds the pair and finishes it", "[upgrade][qmp_vm_port]") {
    struct Row {
        Phase died_in;
        const char* phase;
        const char* version;
    };
    for (const Row& row : {
             Row{Phase::await_pause, "rolled_back", "7.2.22"},
             Row{Phase::verify, "upgraded", "10.0.13"},
         }) {
        for (const bool has_main : {true, false}) {
            Vm vm;
            vm.upgrade_until(row.died_in);
            const auto found = list_upgrades(vm.control_dir());
            REQUIRE(found.has_value());
            REQUIRE(found->size() == 1);
            QmpVmPortConfig config = vm.port_config();
            config.upgrade = found->front();
            config.main_socket = has_main ? config.main_socket : "";
            CHECK(word(vm.recover(config)) == row.phase);
            CHECK(vm.version() == row.version);
            CHECK(vm.running_sides().size() == 1);
        }
    }
}

TEST_CASE("upgrades are listed by the names of their sockets", "[upgrade][qmp_vm_port]") {
    const TempDir folder;
    for (const char* const name : {"b-source", "b-target", "a-target", "-source", "noise", "c"}) {
        std::ofstream(folder / name).flush();
    }
    const auto found = list_upgrades(folder.path());
    REQUIRE(found.has_value());
    CHECK(*found == std::vector<UpgradeId>{UpgradeId("a"), UpgradeId("b")});
    CHECK(list_upgrades(folder / "absent")->empty());
    CHECK(list_upgrades(folder / "noise").has_error());
}
