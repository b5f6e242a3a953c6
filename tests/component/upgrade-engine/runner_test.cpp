// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/task_group.hpp"
#include "tests/component/upgrade-engine/fake_vm_port.hpp"
#include "tests/component/upgrade-engine/some_binary.hpp"
#include "tests/support/catch.hpp"
#include "upgrade-engine/runner.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <optional>

using namespace qhup;
using namespace qhup::test;
using namespace std::chrono_literals;
using Calls = std::vector<std::string>;
using Kind = Fault::Kind;

namespace {

UpgradeRequest make_request() {
    UpgradeRequest request;
    request.vm = VmId("vm1");
    request.upgrade = UpgradeId("u1");
    request.binary = make_some_binary("new");
    request.config.watch_window = 5ms;
    request.config.poll_interval = 1ms;
    request.config.retry_delay = 1ms;
    for (const Phase phase : kAllPhases) {
        if (!is_terminal(phase) && phase != Phase::queued && phase != Phase::await_pause) {
            request.config.deadlines[phase] = 60ms;
        }
    }
    request.config.deadlines[Phase::switch_over] = 2000ms; // no test waits for its end
    return request;
}

/// Runs upgrades in an io_context of their own until all have ended.
struct World {
    asio::io_context io;
    TaskGroup tasks{io.get_executor()};
    SlotGate gate{io.get_executor(), {8, 1}};
    BatchId batch = gate.add_batch({8, 0});
    IntentWriter write_intent;

    static awaitable<void> upgrade_into(
        VmPort* port,
        std::shared_ptr<SlotGate::Turn> turn,
        UpgradeRequest request,
        UpgradeObserver observer,
        IntentWriter write_intent,
        std::optional<UpgradeReport>* into
    ) {
        *into = co_await run_upgrade(
            *port, turn, std::move(request), std::move(observer), std::move(write_intent)
        );
    }

    static awaitable<void>
    recover_into(VmPort* port, RecoveryRequest request, std::optional<UpgradeReport>* into) {
        *into = co_await run_recovery(*port, std::move(request), {});
    }

    void start(
        VmPort& port,
        UpgradeRequest request,
        std::optional<UpgradeReport>& into,
        UpgradeObserver observer = {}
    ) {
        auto turn = gate.add_vm(batch);
        tasks.spawn(
            "upgrade",
            upgrade_into(&port, turn, std::move(request), std::move(observer), write_intent, &into)
        );
    }

    UpgradeReport upgrade(VmPort& port, UpgradeRequest request, UpgradeObserver observer = {}) {
        std::optional<UpgradeReport> report;
        start(port, std::move(request), report, std::move(observer));
        io.run();
        REQUIRE(report.has_value());
        check_report(*report);
        return *report;
    }

    UpgradeReport recover(VmPort& port) {
        std::optional<UpgradeReport> report;
        const UpgradeRequest like = make_request();
        tasks.spawn("recovery", recover_into(&port, {like.vm, like.upgrade, like.config}, &report));
        io.run();
        REQUIRE(report.has_value());
        check_report(*report);
        return *report;
    }

    /// What is true of every report.
    static void check_report(const UpgradeReport& report) {
        REQUIRE(is_terminal(report.phase));
        CHECK(report.marks.back().phase == report.phase);
        for (std::size_t i = 1; i < report.marks.size(); ++i) {
            const Phase from = report.marks[i - 1].phase;
            CHECK(report.marks[i - 1].at <= report.marks[i].at);
            CHECK(std::any_of(kAllOutcomes.begin(), kAllOutcomes.end(), [&](Outcome outcome) {
                return next(from, outcome) == report.marks[i].phase ||
                       next(from, outcome, Goal::rehearsal) == report.marks[i].phase;
            }));
        }
        if (report.failure) {
            INFO(to_text(*report.failure));
            CHECK(report.failure->message.ends_with("."));
        }
    }
};

UpgradeReport run_one(FakeVmPort& port) {
    World world;
    return world.upgrade(port, make_request());
}

std::string word(Phase phase) {
    return std::string(to_string(phase));
}

std::string code_of(const UpgradeReport& report) {
    return report.failure ? wire_code_of(report.failure->code) : "";
}

/// A journal that fails before one phase, and remembers what had been done at each intent.
struct FakeJournal {
    std::vector<std::string> intents;
    std::optional<Phase> fails_at;
    bool is_slow = false; // fails by its deadline only

    static awaitable<Result<void>>
    write(FakeJournal* self, FakeVmPort* port, UpgradeReport report, Deadline deadline) {
        const std::string last = port->calls.empty() ? "nothing" : port->calls.back();
        self->intents.push_back(word(report.phase) + " after " + last);
        if (self->fails_at != report.phase) {
            co_return Result<void>();
        }
        if (self->is_slow) {
            ignore(co_await sleep_until(deadline), "it takes as long as it may");
            co_return make_failure(qhup::Errc::timed_out, "waiting for the disk");
        }
        co_return make_system_failure(ENOSPC, "writing the journal");
    }

    IntentWriter writer(FakeVmPort& port) {
        return [this, vm = &port](UpgradeReport report, Deadline deadline) {
            return write(this, vm, std::move(report), deadline);
        };
    }
};

} // namespace

namespace {

UpgradeRequest make_rehearsal_request() {
    UpgradeRequest request = make_request();
    request.goal = Goal::rehearsal;
    return request;
}

UpgradeReport rehearse_one(FakeVmPort& port) {
    World world;
    return world.upgrade(port, make_rehearsal_request());
}

} // namespace

TEST_CASE("a rehearsal loads the state and leaves the guest where it is", "[upgrade][runner]") {
    FakeVmPort port;
    port.rehearsal_timings = {0ms, 1ms, 2ms, 3ms, 4ms, 0ms, 0ms, 12ms, 5};
    FakeJournal journal;
    World world;
    world.write_intent = journal.writer(port);
    UpgradeRequest request = make_rehearsal_request();
    request.prediction = PausePrediction{900ms, 7ms, "its last upgrade"}; // does not refuse it
    const auto report = world.upgrade(port, std::move(request));
    CHECK(word(report.phase) == "rehearsed");
    CHECK_FALSE(report.failure.has_value());
    CHECK(port.calls == Calls{"prepare", "renew", "freeze", "load", "rollback"});
    CHECK(port.guest() == "source");
    CHECK_FALSE(port.target.is_there);
    CHECK(journal.intents == Calls{"prepare after nothing", "rehearse after renew"});
    CHECK(port.frozen_with.frozen_lease == port.frozen_with.budget);
    REQUIRE(report.rehearsal.has_value());
    CHECK(report.rehearsal->pause == 12ms);
    CHECK(report.rehearsal->predicted == 17ms);
}

TEST_CASE("whichever command of a rehearsal fails, the guest stays", "[upgrade][runner]") {
    struct Row {
        const char* command;
        Fault fault;
        const char* phase;
        const char* code;
    };
    using enum upgrade::Errc;
    const Row rows[] = {
        {"prepare", {Kind::refuse, shape_differs, "prepare"}, "refused", "shape_differs"},
        {"freeze", {Kind::refuse, stale, "flush"}, "refused", "stale"},
        {"freeze", {Kind::refuse, save_failed, "save"}, "rolled_back", "save_failed"},
        {"freeze", {Kind::lost_before}, "rolled_back", "timed_out"},
        {"freeze", {Kind::lost_after}, "rolled_back", "timed_out"},
        {"load", {Kind::refuse, load_failed, "load"}, "rolled_back", "load_failed"},
        {"load", {Kind::refuse, target_died, "load"}, "rolled_back", "target_died"},
        {"load", {Kind::refuse, lease_expired, "lease"}, "rolled_back", "budget_exceeded"},
        {"load", {Kind::lost_before}, "rolled_back", "timed_out"},
        {"load", {Kind::lost_after}, "rolled_back", "timed_out"},
        {"rollback", {Kind::lost_before}, "rehearsed", ""},
        {"rollback", {Kind::lost_after}, "rehearsed", ""},
    };
    for (const Row& row : rows) {
        INFO(row.command << " " << row.phase << " " << row.code);
        FakeVmPort port;
        port.faults[row.command] = {row.fault};
        // the frozen lease: a source that nobody talks to goes back by itself
        int looks_while_frozen = 0;
        port.on_look = [&] {
            if (port.source.facts.state == PairState::frozen && ++looks_while_frozen > 2) {
                port.source.facts.state = PairState::none;
                port.target.is_there = false;
            }
        };
        const auto report = rehearse_one(port);
        CHECK(word(report.phase) == row.phase);
        CHECK(code_of(report) == row.code);
        CHECK(port.guest() == "source");
        CHECK(port.source.facts.state == PairState::none);
        CHECK_FALSE(port.target.is_there);
    }
}

TEST_CASE("a rehearsal that meets a busy guest is tried again", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["freeze"] = {
        Fault{Kind::refuse, upgrade::Errc::retry, "flush"},
        Fault{Kind::refuse, upgrade::Errc::drain_timeout, "freeze"}};
    const auto report = rehearse_one(port);
    CHECK(word(report.phase) == "rehearsed");
    CHECK(report.switch_attempts == 3);
}

TEST_CASE(
    "a pause that would be too long is refused, or found by the rehearsal", "[upgrade][runner]"
) {
    {
        FakeVmPort port;
        World world;
        UpgradeRequest request = make_request();
        request.prediction = PausePrediction{301ms, 5ms, "its last upgrade"};
        const auto report = world.upgrade(port, std::move(request));
        CHECK(word(report.phase) == "refused");
        CHECK(code_of(report) == "budget");
        CHECK(port.calls.empty());
        CHECK_THAT(report.failure->message, Catch::Contains("301.0 ms"));
    }
    {
        FakeVmPort port;
        port.rehearsal_timings.save = 299ms;
        const auto report = rehearse_one(port);
        CHECK(word(report.phase) == "rolled_back");
        CHECK(code_of(report) == "budget");
        CHECK(port.guest() == "source");
    }
}

TEST_CASE("what touches the VM is written down before it is done", "[upgrade][runner]") {
    FakeVmPort port;
    FakeJournal journal;
    World world;
    world.write_intent = journal.writer(port);
    const auto report = world.upgrade(port, make_request());
    CHECK(word(report.phase) == "upgraded");
    CHECK(journal.intents == Calls{"prepare after nothing", "switch_over after renew"});
    for (std::size_t i = 0; i + 1 < report.marks.size(); ++i) {
        CHECK(report.marks[i].ended == Outcome::ok);
    }
    CHECK_FALSE(report.marks.back().ended.has_value());
}

TEST_CASE("what cannot be written down is not begun", "[upgrade][runner]") {
    struct Row {
        Phase phase;
        Calls calls;
    };
    const Row rows[] = {
        {Phase::prepare, {}},
        {Phase::switch_over, {"prepare", "renew", "rollback"}},
    };
    for (const Row& row : rows) {
        for (const bool is_slow : {false, true}) {
            INFO(word(row.phase) << " slow " << is_slow);
            FakeVmPort port;
            FakeJournal journal;
            journal.fails_at = row.phase;
            journal.is_slow = is_slow;
            World world;
            world.write_intent = journal.writer(port);
            UpgradeRequest request = make_request();
            request.config.intent_timeout = 5ms;
            const auto report = world.upgrade(port, std::move(request));
            CHECK(word(report.phase) == "refused");
            CHECK(code_of(report) == "journal_failed");
            CHECK(port.calls == row.calls);
            CHECK(port.guest() == "source");
        }
    }
}

TEST_CASE("an upgrade of a willing VM ends on the target", "[upgrade][runner]") {
    FakeVmPort port;
    port.source.facts.pidfile = "/run/vm1.pid";
    std::vector<std::string> seen;
    World world;
    const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
        seen.push_back(word(so_far.phase));
    });
    CHECK(word(report.phase) == "upgraded");
    CHECK_FALSE(report.failure.has_value());
    CHECK(port.calls == Calls{"prepare", "renew", "switch_over", "commit"});
    CHECK(port.guest() == "target");
    CHECK(
        seen ==
        Calls{
            "queued",
            "preflight",
            "prepare",
            "await_pause",
            "switch_over",
            "verify",
            "commit",
            "upgraded"}
    );
    CHECK(report.from == QemuVersion{7, 2, 22});
    CHECK(report.to == QemuVersion{10, 0, 13});
    CHECK(report.to_text == "10.0.13");
    REQUIRE(report.timings.has_value());
    CHECK(report.timings->pause == 40ms);
    CHECK(port.prepared_with.argv == Calls{"/opt/new/qemu", "-machine", "pc-i440fx-7.2"});
    CHECK(port.prepared_with.pidfile == "/run/vm1.pid");
    CHECK(port.prepared_with.binary_fd >= 0);
    CHECK(report.elapsed() > 0ns);
}

TEST_CASE("whichever command fails, guest and report agree", "[upgrade][runner]") {
    struct Row {
        const char* command;
        Kind kind;
        const char* phase;
        const char* guest;
        Calls calls;
    };
    const Row rows[] = {
        {"prepare", Kind::refuse, "refused", "source", {"prepare"}},
        {"prepare", Kind::lost_before, "refused", "source", {"prepare"}},
        {"prepare", Kind::lost_after, "refused", "source", {"prepare", "rollback"}},
        {"renew", Kind::refuse, "refused", "source", {"prepare", "renew"}},
        {"renew",
         Kind::lost_before,
         "upgraded",
         "target",
         {"prepare", "renew", "switch_over", "commit"}},
        {"switch_over", Kind::refuse, "rolled_back", "source", {"prepare", "renew", "switch_over"}},
        {"switch_over",
         Kind::lost_before,
         "rolled_back",
         "source",
         {"prepare", "renew", "switch_over", "rollback"}},
        {"switch_over",
         Kind::lost_after,
         "upgraded",
         "target",
         {"prepare", "renew", "switch_over", "commit"}},
        {"commit",
         Kind::lost_before,
         "upgraded",
         "target",
         {"prepare", "renew", "switch_over", "commit", "commit"}},
        {"commit",
         Kind::lost_after,
         "upgraded",
         "target",
         {"prepare", "renew", "switch_over", "commit"}},
    };
    for (const Row& row : rows) {
        INFO(row.command << " " << static_cast<int>(row.kind));
        FakeVmPort port;
        port.faults[row.command] = {Fault{row.kind, upgrade::Errc::load_failed}};
        const auto report = run_one(port);
        CHECK(word(report.phase) == row.phase);
        CHECK(port.guest() == row.guest);
        CHECK(port.calls == row.calls);
        CHECK(report.failure.has_value() == (std::string(row.phase) != "upgraded"));
    }
}

TEST_CASE(
    "every code with which QEMU ends a switch is reported as rolled back", "[upgrade][runner]"
) {
    for (const upgrade::Errc code : kAllErrcs) {
        if (code >= upgrade::Errc::unknown_qemu_code) {
            break;
        }
        FakeVmPort port;
        port.faults["switch_over"] = std::deque<Fault>(9, Fault{Kind::refuse, code});
        const auto report = run_one(port);
        INFO(code_of(report));
        CHECK(word(report.phase) == "rolled_back");
        CHECK(report.failure->code == make_error_code(code));
        CHECK(port.guest() == "source");
        CHECK(report.switch_attempts == (is_worth_another_try(code) ? 5U : 1U));
        CHECK(port.source.facts.state == PairState::none);
    }
}

TEST_CASE("a pause that was taken back has a length", "[upgrade][runner]") {
    using enum upgrade::Errc;
    struct Row {
        std::deque<Fault> faults;
        const char* outcome;
        bool was_paused;
    };
    const Row rows[] = {
        {{{Kind::refuse, budget_exceeded, "load"}}, "rolled_back", true},
        {{{Kind::refuse, drain_timeout, "freeze"}, {Kind::refuse, stale, "flush"}},
         "rolled_back",
         true},
        {{{Kind::refuse, drain_timeout, "freeze"}}, "upgraded", true},
        {{{Kind::refuse, stale, "flush"}}, "refused", false},
        {{{Kind::lost_before}}, "rolled_back", false}, // the look shows that it never began
        {{}, "upgraded", false},
    };
    for (const Row& row : rows) {
        FakeVmPort port;
        port.faults["switch_over"] = row.faults;
        port.switch_time = 20ms;
        const auto report = run_one(port);
        INFO(row.outcome << " after " << row.faults.size() << " faults");
        CHECK(word(report.phase) == row.outcome);
        REQUIRE(report.pause_taken_back.has_value() == row.was_paused);
        if (row.was_paused) {
            CHECK(*report.pause_taken_back >= 20ms);
            CHECK(*report.pause_taken_back < 2000ms);
        }
    }
}

TEST_CASE("a switch without an answer stood still until the guest was seen", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["switch_over"] = {Fault{Kind::lost_before}};
    // the frozen lease: the source goes back by itself
    int looks_while_frozen = 0;
    bool is_stopped = false;
    port.on_look = [&] {
        const bool was_asked = !port.calls.empty() && port.calls.back() == "switch_over";
        if (was_asked && !std::exchange(is_stopped, true)) {
            port.source.facts.state = PairState::frozen;
        }
        if (port.source.facts.state == PairState::frozen && ++looks_while_frozen == 5) {
            port.source.facts.state = PairState::none;
            port.source.facts.last_error = LastError{upgrade::Errc::lease_expired, "lease", "", ""};
            port.target.is_there = false;
        }
    };
    const auto report = run_one(port);
    CHECK(word(report.phase) == "rolled_back");
    REQUIRE(report.pause_taken_back.has_value());
    CHECK(*report.pause_taken_back >= 4ms); // four waits between five looks
}

TEST_CASE("what the source measured of a pause goes before our clock", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["load"] = {Fault{Kind::refuse, upgrade::Errc::load_failed, "load"}};
    port.source.facts.timings = SwitchTimings{};
    port.source.facts.timings->pause = 12ms;
    const auto report = rehearse_one(port);
    CHECK(word(report.phase) == "rolled_back");
    CHECK_FALSE(report.rehearsal.has_value());
    CHECK(report.pause_taken_back == std::optional<std::chrono::nanoseconds>(12ms));
}

TEST_CASE("a switch that never paused the guest is refused", "[upgrade][runner]") {
    using enum upgrade::Errc;
    struct Row {
        std::deque<Fault> tries;
        const char* phase;
        std::uint32_t attempts;
    };
    const Fault flush_retry{Kind::refuse, retry, "flush"};
    const Fault flush_drain{Kind::refuse, drain_timeout, "flush"};
    const Fault flush_stale{Kind::refuse, stale, "flush"};
    const Fault freeze_drain{Kind::refuse, drain_timeout, "freeze"};
    const Row rows[] = {
        {{flush_stale}, "refused", 1},
        {{flush_retry, flush_retry, flush_retry, flush_retry, flush_retry}, "refused", 5},
        {{flush_drain, flush_retry, flush_stale}, "refused", 3},
        {{freeze_drain, freeze_drain, freeze_drain, freeze_drain, freeze_drain}, "rolled_back", 5},
        // a try before the last one paused the guest for a moment
        {{freeze_drain, flush_stale}, "rolled_back", 2},
        {{flush_retry, freeze_drain, flush_retry, flush_retry, flush_retry}, "rolled_back", 5},
        {{flush_retry, flush_drain}, "upgraded", 3},
    };
    for (const Row& row : rows) {
        FakeVmPort port;
        port.faults["switch_over"] = row.tries;
        const auto report = run_one(port);
        INFO(code_of(report));
        CHECK(word(report.phase) == row.phase);
        CHECK(report.switch_attempts == row.attempts);
        CHECK(port.guest() == (word(report.phase) == "upgraded" ? "target" : "source"));
        CHECK(port.target.is_there == (port.guest() == "target")); // the standby is discarded
    }
}

TEST_CASE("a reason that is not of this upgrade does not make it refused", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["switch_over"] = {Fault{Kind::refuse, upgrade::Errc::stale, "flush"}};
    port.on_look = [&] {
        if (port.source.facts.last_error) {
            port.source.facts.upgrade = UpgradeId("another");
        }
    };
    CHECK(word(run_one(port).phase) == "rolled_back");
}

TEST_CASE("an upgrade by somebody else is refused and left alone", "[upgrade][runner]") {
    for (const Kind kind : {Kind::refuse, Kind::lost_before}) {
        FakeVmPort port;
        port.faults["prepare"] = {Fault{kind, upgrade::Errc::wrong_state}};
        World world;
        const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
            if (so_far.phase == Phase::prepare) {
                port.source.facts.state = PairState::prepared;
                port.source.facts.upgrade = UpgradeId("another");
            }
        });
        CHECK(word(report.phase) == "refused");
        CHECK(port.calls == Calls{"prepare"});
        CHECK(port.source.facts.state == PairState::prepared);
    }
}

TEST_CASE("a lease that ends before the switch is named as the reason", "[upgrade][runner]") {
    FakeVmPort port;
    World world;
    const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::switch_over) {
            port.source.facts.state = PairState::none;
            port.source.facts.last_error = LastError{upgrade::Errc::lease_expired, "lease", "", ""};
            port.target.is_there = false;
        }
    });
    CHECK(word(report.phase) == "refused"); // the guest was not paused
    CHECK(code_of(report) == "lease_expired");
}

TEST_CASE("a switch that succeeds after two tries is an upgrade", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["switch_over"] = {
        Fault{Kind::refuse, upgrade::Errc::retry},
        Fault{Kind::refuse, upgrade::Errc::drain_timeout}};
    const auto report = run_one(port);
    CHECK(word(report.phase) == "upgraded");
    CHECK(report.switch_attempts == 3);
    CHECK_FALSE(report.failure.has_value());
}

TEST_CASE("a rollback whose answer is lost is looked at, not believed", "[upgrade][runner]") {
    for (const Kind kind : {Kind::lost_before, Kind::lost_after}) {
        FakeVmPort port;
        port.faults["switch_over"] = {Fault{Kind::lost_before}};
        port.faults["rollback"] = {Fault{kind}};
        const auto report = run_one(port);
        CHECK(word(report.phase) == "rolled_back");
        CHECK(port.guest() == "source");
    }
}

TEST_CASE("a rollback that never succeeds needs an operator", "[upgrade][runner]") {
    FakeVmPort port;
    port.source.facts.rollback_waits_for = "the lock of disk.img";
    port.faults["switch_over"] = {Fault{Kind::lost_before}};
    port.faults["rollback"] = std::deque<Fault>(10000, Fault{Kind::lost_before});
    const auto report = run_one(port);
    CHECK(word(report.phase) == "needs_operator");
    CHECK_THAT(to_text(*report.failure), Catch::Contains("vm1"));
    CHECK_THAT(to_text(*report.failure), Catch::Contains("disk.img"));
}

TEST_CASE(
    "a guest that is back counts as rolled back while the killed target lingers",
    "[upgrade][runner]"
) {
    FakeVmPort port;
    port.source.facts.rollback_waits_for = "process 4711 to end";
    port.source.facts.run_state = "running";
    port.faults["switch_over"] = {Fault{Kind::lost_before}};
    port.after_rollback = PairState::rolling_back;
    const auto report = run_one(port);
    CHECK(word(report.phase) == "rolled_back");
    CHECK_THAT(to_text(*report.failure), Catch::Contains("does not end"));
    CHECK_THAT(to_text(*report.failure), Catch::Contains("4711"));
}

TEST_CASE("a standby that fails leaves the VM refused with QEMU's reason", "[upgrade][runner]") {
    FakeVmPort port;
    port.after_prepare = PairState::none;
    port.source.facts.last_error =
        LastError{upgrade::Errc::shape_differs, "prepare", "device x", "last words"};
    const auto report = run_one(port);
    CHECK(word(report.phase) == "refused");
    CHECK(code_of(report) == "shape_differs");
    CHECK_THAT(report.failure->peer_text, Catch::Contains("last words"));
}

TEST_CASE("a standby that never gets ready is discarded", "[upgrade][runner]") {
    FakeVmPort port;
    port.after_prepare = PairState::preparing;
    const auto report = run_one(port);
    CHECK(word(report.phase) == "refused");
    CHECK(code_of(report) == "target_timeout");
    CHECK(port.calls == Calls{"prepare", "rollback"});
}

TEST_CASE("preflight refuses without touching the VM", "[upgrade][runner]") {
    FakeVmPort port;
    std::string code;
    SECTION("a blocker of QEMU") {
        port.source.facts.blockers = {{"chardev/a", "chardev", "Stop it."}};
        code = "blocked";
    }
    SECTION("a command line that cannot be planned") {
        port.source.facts.argv.emplace_back("-snapshot");
        code = "blocked";
    }
    SECTION("QEMU is process 1 of its namespace") {
        port.process.is_pid1_of_namespace = true;
        code = "blocked";
    }
    SECTION("nobody answers") {
        port.source.is_silent = true;
        code = "not_answering";
    }
    SECTION("nobody is there") {
        port.source.is_there = false;
        code = "not_answering";
    }
    const auto report = run_one(port);
    CHECK(word(report.phase) == "refused");
    CHECK(code_of(report) == code);
    CHECK(report.blockers.empty() == (code != "blocked"));
    CHECK(port.calls.empty());
}

TEST_CASE("a VM that is there already is not a failure", "[upgrade][runner]") {
    FakeVmPort port;
    port.source.facts.build_id = "new";
    const auto report = run_one(port);
    CHECK(word(report.phase) == "refused");
    CHECK(report.is_nothing_to_do);
    CHECK(code_of(report) == "already_on_release");
    CHECK(port.calls.empty());
}

TEST_CASE("a dry run asks and touches nothing", "[upgrade][runner]") {
    FakeVmPort port;
    UpgradeRequest request = make_request();
    request.is_dry_run = true;
    World world;
    const auto report = world.upgrade(port, std::move(request));
    CHECK(word(report.phase) == "refused");
    CHECK_FALSE(report.failure.has_value());
    CHECK(report.blockers.empty());
    CHECK(port.calls.empty());
}

TEST_CASE("a dry run warns of a tap that gets more than it keeps", "[upgrade][runner]") {
    for (const std::uint64_t packets : {0U, 1'000'000U}) {
        FakeVmPort port;
        port.source.facts.links = {{"netdev/n0", "tap0", 1000}};
        port.packets_per_look = packets;
        UpgradeRequest request = make_request();
        request.is_dry_run = true;
        World world;
        const auto report = world.upgrade(port, std::move(request));
        CHECK_FALSE(report.failure.has_value());
        CHECK(report.blockers.empty());
        CHECK(report.warnings.size() == (packets == 0 ? 0 : 1));
    }
}

TEST_CASE("a target that is not the wanted one needs an operator", "[upgrade][runner]") {
    FakeVmPort port;
    port.target.facts.build_id = "strange";
    const auto report = run_one(port);
    CHECK(word(report.phase) == "needs_operator");
    CHECK(code_of(report) == "wrong_target");
    CHECK(port.guest() == "target");
    CHECK(std::count(port.calls.begin(), port.calls.end(), "commit") == 0);
    CHECK_THAT(to_text(*report.failure), Catch::Contains("process 200"));
}

TEST_CASE("a guest that stops running in the window is not committed", "[upgrade][runner]") {
    FakeVmPort port;
    port.target.facts.run_state = "internal-error";
    const auto report = run_one(port);
    CHECK(word(report.phase) == "needs_operator");
    CHECK(code_of(report) == "guest_changed");
    CHECK(std::count(port.calls.begin(), port.calls.end(), "commit") == 0);
}

TEST_CASE("a paused guest stays paused and is committed", "[upgrade][runner]") {
    FakeVmPort port;
    port.source.facts.run_state = "paused";
    port.target.facts.run_state = "paused";
    CHECK(word(run_one(port).phase) == "upgraded");
}

TEST_CASE("a target that dies before the guest ran gives it back", "[upgrade][runner]") {
    FakeVmPort port;
    port.on_look = [&] {
        if (port.source.facts.state == PairState::ceded) {
            port.target.is_there = false;
            port.source.facts.state = PairState::none; // it saw that nothing ran yet
            port.source.facts.last_error =
                LastError{upgrade::Errc::target_died, "takeover", "", ""};
        }
    };
    const auto report = run_one(port);
    CHECK(word(report.phase) == "rolled_back");
    CHECK(code_of(report) == "target_died");
    CHECK(port.guest() == "source");
}

TEST_CASE("a guest that powers off after the switch is upgraded", "[upgrade][runner]") {
    for (const Phase when : {Phase::verify, Phase::commit}) {
        INFO(word(when));
        FakeVmPort port;
        World world;
        const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
            if (so_far.phase == when) {
                port.end_target(0);
            }
        });
        CHECK(word(report.phase) == "upgraded");
        CHECK_FALSE(report.failure.has_value());
        REQUIRE(report.warnings.size() == 1);
        CHECK_THAT(report.warnings.front(), Catch::StartsWith("The guest powered off"));
        CHECK(port.calls.back() == "commit"); // the parked source was told to end
        CHECK_FALSE(port.source.is_there);
    }
}

TEST_CASE("a target that dies after the guest ran needs an operator", "[upgrade][runner]") {
    for (const Phase when : {Phase::verify, Phase::commit}) {
        for (const std::optional<int> status : {std::optional<int>(), std::optional(1)}) {
            INFO(word(when));
            FakeVmPort port;
            World world;
            const auto observe = [&](const UpgradeReport& so_far) {
                if (so_far.phase == when) {
                    port.end_target(status);
                }
            };
            const auto report = world.upgrade(port, make_request(), observe);
            CHECK(word(report.phase) == "needs_operator");
            CHECK(code_of(report) == "guest_lost");
            CHECK(report.failure->also.empty());
            CHECK_THAT(report.failure->peer_text, Catch::Contains("the fake's end"));
            CHECK(std::count(port.calls.begin(), port.calls.end(), "commit") == 0);
        }
    }
}

TEST_CASE("the watch of a guest always fits into its phase", "[upgrade][runner]") {
    RunnerConfig config;
    CHECK(config.deadline_of(Phase::verify) == 15s);
    config.watch_window = 10s; // the most that can be configured
    CHECK(config.deadline_of(Phase::verify) == 15s);
    config.watch_window = 20s;
    CHECK(config.deadline_of(Phase::verify) == 25s);
    config.deadlines[Phase::verify] = 1s;
    CHECK(config.deadline_of(Phase::verify) == 1s);
}

TEST_CASE("devices that did not come up are warnings", "[upgrade][runner]") {
    FakeVmPort port;
    port.target.facts.takeover_degraded = {"net0"};
    const auto report = run_one(port);
    CHECK(word(report.phase) == "upgraded");
    REQUIRE(report.warnings.size() == 1);
    CHECK_THAT(report.warnings.front(), Catch::Contains("net0"));
}

TEST_CASE("when nobody answers after the switch, contact is lost", "[upgrade][runner]") {
    FakeVmPort port;
    port.on_look = [&] {
        const bool is_after = port.source.facts.state == PairState::ceded;
        port.source.is_silent = is_after;
        port.target.is_silent = is_after;
    };
    const auto report = run_one(port);
    CHECK(word(report.phase) == "lost_contact");
    CHECK(std::count(port.calls.begin(), port.calls.end(), "commit") == 0);
    CHECK(std::count(port.calls.begin(), port.calls.end(), "rollback") == 0);
}

TEST_CASE("when both processes are gone, the report says so", "[upgrade][runner]") {
    FakeVmPort port;
    port.on_look = [&] {
        if (port.source.facts.state == PairState::ceded) {
            port.source.is_there = false;
            port.target.is_there = false;
        }
    };
    const auto report = run_one(port);
    CHECK(word(report.phase) == "lost_contact");
    CHECK(code_of(report) == "vm_gone");
}

TEST_CASE("a source that refuses to end needs an operator", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["commit"] = std::deque<Fault>(9, Fault{Kind::refuse, upgrade::Errc::wrong_state});
    const auto report = run_one(port);
    CHECK(word(report.phase) == "needs_operator");
    CHECK(code_of(report) == "source_remains");
    CHECK(port.guest() == "target");
}

TEST_CASE("a binary that changed after the check is not started", "[upgrade][runner]") {
    FakeVmPort port;
    UpgradeRequest request = make_request();
    auto changed = std::make_shared<PinnedBinary>();
    changed->release = request.binary->release;
    changed->build_id = "new";
    changed->version = {10, 0, 13};
    changed->fd = UniqueFd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    request.binary = changed;
    World world;
    const auto report = world.upgrade(port, std::move(request));
    CHECK(word(report.phase) == "refused");
    CHECK(code_of(report) == "binary_changed");
    CHECK(port.calls.empty());
}

TEST_CASE("a cancellation before the switch discards the standby", "[upgrade][runner]") {
    for (const Phase when : {Phase::queued, Phase::preflight, Phase::prepare, Phase::await_pause}) {
        INFO(word(when));
        FakeVmPort port;
        World world;
        const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
            if (so_far.phase == when) {
                world.tasks.request_stop();
            }
        });
        CHECK(word(report.phase) == "refused");
        CHECK(code_of(report) == "cancelled");
        CHECK(port.guest() == "source");
        CHECK(port.source.facts.state == PairState::none);
    }
}

TEST_CASE("a cancellation from the switch on changes nothing", "[upgrade][runner]") {
    for (const Phase when : {Phase::switch_over, Phase::verify, Phase::commit}) {
        INFO(word(when));
        FakeVmPort port;
        port.switch_time = 3ms;
        World world;
        const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
            if (so_far.phase == when) {
                asio::post(world.io, [&] { world.tasks.request_stop(); });
            }
        });
        CHECK(word(report.phase) == "upgraded");
    }
}

TEST_CASE("an undo cannot be cancelled", "[upgrade][runner]") {
    FakeVmPort port;
    port.faults["switch_over"] = {Fault{Kind::lost_before}};
    port.faults["rollback"] = {Fault{Kind::lost_before}, Fault{Kind::lost_before}};
    World world;
    const auto report = world.upgrade(port, make_request(), [&](const UpgradeReport& so_far) {
        if (so_far.phase == Phase::rolling_back) {
            asio::post(world.io, [&] { world.tasks.request_stop(); });
        }
    });
    CHECK(word(report.phase) == "rolled_back");
    CHECK(port.guest() == "source");
}

TEST_CASE("VMs are paused one after the other and leases are renewed", "[upgrade][runner]") {
    World world;
    const auto pauses = std::make_shared<int>(0);
    std::vector<std::unique_ptr<FakeVmPort>> ports;
    std::vector<std::optional<UpgradeReport>> reports(6);
    for (std::optional<UpgradeReport>& report : reports) {
        ports.push_back(std::make_unique<FakeVmPort>());
        ports.back()->shared_pauses = pauses;
        ports.back()->switch_time = 20ms;
        UpgradeRequest request = make_request();
        request.config.lease = 15ms;
        world.start(*ports.back(), std::move(request), report);
    }
    world.io.run();
    for (std::size_t i = 0; i < ports.size(); ++i) {
        REQUIRE(reports[i].has_value());
        CHECK(word(reports[i]->phase) == "upgraded");
        CHECK(ports[i]->most_pauses == 1);
    }
    const auto renewals =
        std::count(ports.back()->calls.begin(), ports.back()->calls.end(), "renew");
    CHECK(renewals > 3);
}

TEST_CASE("after a failure that stops the batch the others are refused", "[upgrade][runner]") {
    World world;
    world.batch = world.gate.add_batch({1, 1});
    std::vector<std::unique_ptr<FakeVmPort>> ports;
    std::vector<std::optional<UpgradeReport>> reports(3);
    for (std::optional<UpgradeReport>& report : reports) {
        ports.push_back(std::make_unique<FakeVmPort>());
        world.start(*ports.back(), make_request(), report);
    }
    ports[0]->faults["switch_over"] = {Fault{Kind::refuse, upgrade::Errc::load_failed}};
    world.io.run();
    CHECK(word(reports[0]->phase) == "rolled_back");
    for (const std::size_t i : {1U, 2U}) {
        CHECK(word(reports[i]->phase) == "refused");
        CHECK(code_of(*reports[i]) == "stopped");
        CHECK(ports[i]->calls.empty());
    }
}

TEST_CASE("a contradiction that shows only once is not believed", "[upgrade][runner]") {
    FakeVmPort port;
    bool has_lied = false;
    port.on_look = [&] {
        if (port.source.facts.state == PairState::ceded && !has_lied) {
            has_lied = true;
            port.source.facts.state = PairState::none;
        } else if (has_lied && port.source.facts.state == PairState::none) {
            port.source.facts.state = PairState::ceded;
        }
    };
    CHECK(word(run_one(port).phase) == "upgraded");
    CHECK(has_lied);
}

TEST_CASE("recovery finishes what it finds", "[upgrade][runner]") {
    FakeVmPort port;
    std::string phase;
    Calls calls;
    SECTION("nothing in progress") {
        phase = "rolled_back";
    }
    SECTION("prepared") {
        port.source.facts.state = PairState::prepared;
        port.target.is_there = true;
        port.target.facts.state = PairState::standby;
        phase = "rolled_back";
        calls = {"rollback"};
    }
    SECTION("ceded, and the target runs") {
        port.source.facts.state = PairState::ceded;
        port.target.is_there = true;
        port.target.facts.state = PairState::running;
        phase = "upgraded";
        calls = {"commit"};
    }
    SECTION("only the target is there") {
        port.source.is_there = false;
        port.target.is_there = true;
        port.target.facts.state = PairState::none;
        phase = "upgraded";
    }
    SECTION("frozen, and then the switch goes through by itself") {
        port.source.facts.state = PairState::frozen;
        port.target.is_there = true;
        port.target.facts.state = PairState::loading;
        int looks = 0;
        port.on_look = [&port, looks]() mutable {
            if (++looks == 3) {
                port.source.facts.state = PairState::ceded;
                port.target.facts.state = PairState::running;
            }
        };
        phase = "upgraded";
        calls = {"commit"};
    }
    SECTION("frozen, and then the lease ends") {
        port.source.facts.state = PairState::frozen;
        int looks = 0;
        port.on_look = [&port, looks]() mutable {
            if (++looks == 3) {
                port.source.facts.state = PairState::none;
            }
        };
        phase = "rolled_back";
    }
    SECTION("nobody is there") {
        port.source.is_there = false;
        phase = "lost_contact";
    }
    SECTION("ceded, and the guest has powered off") {
        port.source.facts.state = PairState::ceded;
        port.end_target(0);
        phase = "upgraded";
        calls = {"commit"};
    }
    SECTION("ceded, and the target was killed") {
        port.source.facts.state = PairState::ceded;
        port.end_target(std::nullopt);
        phase = "needs_operator";
    }
    SECTION("nobody answers") {
        port.source.is_silent = true;
        phase = "lost_contact";
    }
    SECTION("both run the guest") {
        port.target.is_there = true;
        port.target.facts.state = PairState::running;
        phase = "needs_operator";
    }
    World world;
    CHECK(word(world.recover(port).phase) == phase);
    CHECK(port.calls == calls);
}
