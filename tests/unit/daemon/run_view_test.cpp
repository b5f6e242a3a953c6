// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_view.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;
using namespace qhup::daemon;
using namespace std::chrono_literals;
using upgrade::Phase;

namespace {

const std::chrono::steady_clock::time_point kStart{1h};
const RunFacts kRun{
    .vm = "vm1",
    .upgrade = "r1.0",
    .release = "deb13",
    .from = "7.2.22",
    .from_build_id = "aa",
    .to_build_id = "bb",
    .is_dry_run = false,
    .recoveries = 0,
    .steps_before = {},
    .goal = upgrade::Goal::upgrade,
    .shape_class = "c1",
    .rehearsal = {},
    .stage = 2,
    .run_state = "running",
    .started = kStart};

upgrade::UpgradeReport report_in(Phase phase) {
    upgrade::UpgradeReport report;
    report.phase = phase;
    report.marks = {{Phase::queued, kStart, {}}, {Phase::preflight, kStart + 10ms, {}}};
    report.marks.push_back({phase, kStart + 50ms, std::nullopt});
    return report;
}

} // namespace

TEST_CASE("a VM in work has a phase and no outcome", "[daemon][run_view]") {
    const RunVmView view = make_run_vm_view(report_in(Phase::prepare), kRun);
    CHECK(view.phase == "prepare");
    CHECK(view.since_ms == 50);
    CHECK(view.outcome.empty());
    CHECK(view.from == "7.2.22");
    CHECK_FALSE(view.total_ms);
}

TEST_CASE(
    "the total of an upgraded VM ends when the guest runs on the target", "[daemon][run_view]"
) {
    auto report = report_in(Phase::upgraded);
    report.marks = {
        {Phase::queued, kStart, {}},
        {Phase::preflight, kStart + 10ms, {}},
        {Phase::verify, kStart + 30ms, {}},
        {Phase::upgraded, kStart + 2s, {}}};
    report.timings = upgrade::SwitchTimings();
    report.timings->pause = 12ms;
    report.to_text = "10.0.13";
    const RunVmView view = make_run_vm_view(report, kRun);
    CHECK(view.outcome == "upgraded");
    CHECK(view.to == "10.0.13");
    CHECK(view.pause_ms == 12.0);
    CHECK(view.total_ms == 20.0);
    CHECK(view.since_ms == 2000);
    CHECK(view.timings_ns.at("pause") == 12'000'000);
}

TEST_CASE("the total goes on where a daemon before us was", "[daemon][run_view]") {
    RunFacts facts = kRun;
    // a rehearsal, the wait for the upgrade, and the upgrade until verify; then 60 s without qhupd
    facts.steps_before = {
        {"queued", 0, "ok"},
        {"preflight", 5, "ok"},
        {"rehearse", 20, "ok"},
        {"queued", 100, "ok"},
        {"preflight", 1100, "ok"},
        {"switch_over", 1200, "ok"},
        {"verify", 1250, ""}};
    auto report = report_in(Phase::upgraded);
    report.marks = {
        {Phase::verify, kStart + 60s, {}},
        {Phase::commit, kStart + 62s, {}},
        {Phase::upgraded, kStart + 63s, {}}};
    CHECK(make_run_vm_view(report, facts).total_ms == 150.0);
    // nobody saw when the guest came to run on the target
    facts.steps_before.pop_back();
    CHECK(make_run_vm_view(report, facts).total_ms == 58'900.0);
    facts.steps_before.clear();
    CHECK(make_run_vm_view(report, facts).total_ms == 60'000.0);
}

TEST_CASE("a pause that never ended has no length", "[daemon][run_view]") {
    auto report = report_in(Phase::needs_operator);
    report.timings = upgrade::SwitchTimings{};
    CHECK_FALSE(make_run_vm_view(report, kRun).pause_ms);
    report.timings->pause = 12ms;
    CHECK(make_run_vm_view(report, kRun).pause_ms == 12.0);
}

TEST_CASE("a pause that was taken back is shown, and no parts of it", "[daemon][run_view]") {
    auto report = report_in(Phase::rolled_back);
    CHECK_FALSE(make_run_vm_view(report, kRun).pause_ms);
    report.pause_taken_back = 41ms;
    RunVmView view = make_run_vm_view(report, kRun);
    CHECK(view.pause_ms == 41.0);
    CHECK(view.timings_ns.empty());
    // a try before the one that succeeded
    report.phase = Phase::upgraded;
    report.timings = upgrade::SwitchTimings{};
    report.timings->pause = 12ms;
    CHECK(make_run_vm_view(report, kRun).pause_ms == 12.0);
}

TEST_CASE("a rehearsal that failed in its pause has its length", "[daemon][run_view]") {
    RunFacts run = kRun;
    run.goal = upgrade::Goal::rehearsal;
    auto report = report_in(Phase::rolled_back);
    report.marks.insert(report.marks.begin(), {Phase::prepare, kStart, {}});
    report.pause_taken_back = 41ms;
    const RunVmView view = make_run_vm_view(report, run);
    REQUIRE(view.rehearsal);
    CHECK(view.rehearsal->pause_ms == 41.0);
    CHECK(view.pause_ms == 41.0);
}

TEST_CASE("a guest that is not well on the target is not said to go back", "[daemon][run_view]") {
    auto report = report_in(Phase::rolling_back);
    report.marks = {
        {Phase::queued, kStart, upgrade::Outcome::ok},
        {Phase::verify, kStart + 30ms, upgrade::Outcome::failed},
        {Phase::rolling_back, kStart + 40ms, std::nullopt}};
    report.to_text = "10.0.13";
    report.failure = make_failure(upgrade::Errc::probe_failed, "The probe ended with status 1.");
    RunVmView view = make_run_vm_view(report, kRun);
    CHECK(view.phase == "verify");
    CHECK(view.steps.size() == 2);
    // the way out comes first, and nothing denies it
    add_also(*report.failure, make_failure(upgrade::Errc::wrong_target, "It cannot go back."));
    report.phase = Phase::needs_operator;
    report.marks.push_back({Phase::needs_operator, kStart + 50ms, std::nullopt});
    view = make_run_vm_view(report, kRun);
    CHECK(view.outcome == "needs_operator");
    CHECK(view.steps.back().phase == "verify");
    CHECK(view.message.starts_with("Look at the guest"));
    CHECK_THAT(
        view.message, Catch::Contains("keep it, or take it back with 'qhupd-ctl revert vm1'")
    );
    CHECK_THAT(view.message, Catch::Contains("status 1") && !Catch::Contains("cannot go back"));
    // one that went back did, and what is not about the guest's health is as it was
    report.marks.back().phase = Phase::rolled_back;
    report.phase = Phase::rolled_back;
    CHECK(make_run_vm_view(report, kRun).steps.back().phase == "rolling_back");
    report.phase = Phase::rolling_back;
    report.marks.pop_back();
    report.to_text.clear();
    CHECK(make_run_vm_view(report, kRun).phase == "rolling_back");
}

TEST_CASE("what failed twice for the same reason is said once", "[daemon][run_view]") {
    auto report = report_in(Phase::lost_contact);
    report.failure = make_failure(upgrade::Errc::lost_contact, "Nobody answers.");
    add_also(*report.failure, make_failure(upgrade::Errc::lost_contact, "Nobody answers."));
    CHECK(make_run_vm_view(report, kRun).message == "Nobody answers.");
    add_also(*report.failure, make_failure(upgrade::Errc::split, "Both run."));
    CHECK(
        make_run_vm_view(report, kRun).message ==
        "Nobody answers. Afterwards this failed too: Both run."
    );
}

TEST_CASE("every terminal phase is an outcome", "[daemon][run_view]") {
    for (const Phase phase : upgrade::kAllPhases) {
        const RunVmView view = make_run_vm_view(report_in(phase), kRun);
        CHECK(view.outcome.empty() == !upgrade::is_terminal(phase));
    }
}

TEST_CASE("a VM that was there already is unchanged", "[daemon][run_view]") {
    auto report = report_in(Phase::refused);
    report.is_nothing_to_do = true;
    CHECK(make_run_vm_view(report, kRun).outcome == "unchanged");
}

TEST_CASE("a dry run without a reason against it is checked, else refused", "[daemon][run_view]") {
    RunFacts run = kRun;
    run.is_dry_run = true;
    auto report = report_in(Phase::refused);
    CHECK(make_run_vm_view(report, run).outcome == "checked");
    report.blockers = {{.id = "a/b", .klass = "a", .reason = "because"}};
    const RunVmView view = make_run_vm_view(report, run);
    CHECK(view.outcome == "refused");
    CHECK(view.code == "blocked");
    CHECK(view.blockers.size() == 1);
}

TEST_CASE("a failure gives code, sentence, peer text and next step", "[daemon][run_view]") {
    auto report = report_in(Phase::needs_operator);
    report.vm = upgrade::VmId("vm1");
    report.failure = make_failure(upgrade::Errc::load_failed, "It failed.", "qemu says no");
    report.failure->also = {make_failure(upgrade::Errc::retry, "It failed again.")};
    const RunVmView view = make_run_vm_view(report, kRun);
    CHECK(view.code == "load_failed");
    CHECK(view.message == "It failed. Afterwards this failed too: It failed again.");
    CHECK(view.peer_text == "qemu says no");
    CHECK(view.next_step.find("qhupd-ctl show vm1") != std::string::npos);
}

TEST_CASE("steps tell what was done, after those of a daemon before", "[daemon][run_view]") {
    RunFacts run = kRun;
    run.steps_before = {{"queued", 0, "ok"}, {"switch_over", 7, ""}};
    auto report = report_in(Phase::upgraded);
    report.marks = {
        {Phase::verify, kStart + 30ms, upgrade::Outcome::ok},
        {Phase::commit, kStart + 40ms, upgrade::Outcome::unknown},
        {Phase::upgraded, kStart + 2s, {}}};
    const std::vector<StepView> expected{
        {"queued", 0, "ok"},
        {"switch_over", 7, ""},
        {"verify", 30, "ok"},
        {"commit", 40, "unknown"}};
    CHECK(make_run_vm_view(report, run).steps == expected);
    CHECK(make_queued_view(run).steps == run.steps_before);
}

TEST_CASE(
    "a VM without a pair ends as the engine says, with its new version", "[daemon][run_view]"
) {
    const auto upgraded =
        make_view_without_pair(kRun, {Phase::upgraded, {}, "It went on."}, "10.0.13");
    CHECK(upgraded.outcome == "upgraded");
    CHECK(upgraded.code.empty());
    CHECK(upgraded.to == "10.0.13");
    CHECK(upgraded.upgrade == "r1.0");
    const auto lost = make_view_without_pair(
        kRun, {Phase::lost_contact, upgrade::Errc::lost_contact, "It does not answer."}, ""
    );
    CHECK(lost.outcome == "lost_contact");
    CHECK(lost.code == "lost_contact");
    CHECK(lost.message == "It does not answer.");
    CHECK(lost.next_step.find("qhupd-ctl show vm1") != std::string::npos);
}

TEST_CASE("a VM that is given up says how often, where, and what to do", "[daemon][run_view]") {
    RunFacts run = kRun;
    run.recoveries = 5;
    const auto view = make_given_up_view(run, "rolling_back");
    CHECK(view.outcome == "needs_operator");
    CHECK(view.code == "recovery_given_up");
    CHECK(view.recoveries == 5);
    CHECK(view.message.find("5 times") != std::string::npos);
    CHECK(view.message.find("rolling_back") != std::string::npos);
    CHECK(view.next_step.find("qhupd-ctl show vm1") != std::string::npos);
}

TEST_CASE("a rehearsal says what it found once it has ended", "[daemon][run_view]") {
    RunFacts run = kRun;
    run.goal = upgrade::Goal::rehearsal;
    auto report = report_in(Phase::rehearsed);
    report.marks = {
        {Phase::prepare, kStart, upgrade::Outcome::ok}, {Phase::rehearsed, kStart + 9ms, {}}};
    report.rehearsal = upgrade::Rehearsal{4ms, 6ms, {}};
    const RunVmView good = make_run_vm_view(report, run);
    CHECK(good.outcome == "rehearsed");
    REQUIRE(good.rehearsal.has_value());
    CHECK(good.rehearsal->result == "passed");
    CHECK(good.pause_ms == 4.0);
    CHECK(good.rehearsal->predicted_pause_ms == 6.0);
    report.phase = Phase::rolled_back;
    report.rehearsal.reset();
    report.failure = make_failure(
        upgrade::Errc::load_failed, "It failed.", "error in instance 0x0 of device 'fdc'"
    );
    const RunVmView bad = make_run_vm_view(report, run);
    REQUIRE(bad.rehearsal.has_value());
    CHECK(bad.rehearsal->result == "failed");
    CHECK(bad.rehearsal->code == "load_failed");
    CHECK(bad.rehearsal->section == "fdc");
    CHECK_FALSE(bad.pause_ms.has_value());
    CHECK(say_it_was_rehearsed(bad).message == "In the rehearsal: It failed.");
    // a VM that was refused before anything was tried was not rehearsed
    report.marks = {{Phase::preflight, kStart, upgrade::Outcome::failed}};
    CHECK_FALSE(make_run_vm_view(report, run).rehearsal.has_value());
    // what was found stays with the VM while it is upgraded
    run = kRun;
    run.rehearsal = good.rehearsal;
    CHECK(make_run_vm_view(report_in(Phase::verify), run).rehearsal->result == "passed");
}

TEST_CASE("a VM that was not begun says who stopped the run", "[daemon][run_view]") {
    RunVmView view;
    view.code = "stopped";
    CHECK(say_why_stopped(view, "r1", "abort").message.find("r1 was aborted") != std::string::npos);
    const std::string canary = "canary vm9 was refused";
    CHECK(
        say_why_stopped(view, "r1", "canaries", canary).message.find(canary) != std::string::npos
    );
    CHECK(say_why_stopped(view, "r1", "shutdown").message.find("qhupd") != std::string::npos);
    // woken by the end of the daemon
    RunVmView woken = view;
    woken.code = "cancelled";
    woken.outcome = "refused";
    woken.message = "It was cancelled. Afterwards this failed too: waiting was cancelled.";
    CHECK(say_why_stopped(woken, "r1", "shutdown").code == "stopped");
    CHECK(
        say_why_stopped(woken, "r1", "shutdown").message ==
        "qhupd was stopped before this VM was paused"
    );
    CHECK(say_why_stopped(woken, "r1", "").code == "cancelled");
    woken.outcome = "needs_operator";
    CHECK(say_why_stopped(woken, "r1", "shutdown").code == "cancelled");
    RunVmView rehearsed = view;
    rehearsed.rehearsal = RehearsalView{"passed", "", "", "", 3.0, 9.0};
    const std::string aborted = say_why_stopped(rehearsed, "r1", "abort").message;
    CHECK(aborted.find("paused for the rehearsal only") != std::string::npos);
    CHECK(aborted.find("before this VM was paused") == std::string::npos);
    view.code = "load_failed";
    view.message = "It failed.";
    CHECK(say_why_stopped(view, "r1", "abort").message == "It failed.");
}

TEST_CASE("a VM that was not well is rolled back when it is where it was", "[daemon][run_view]") {
    RunVmView unwell;
    unwell.vm = "vm1";
    unwell.outcome = "needs_operator";
    unwell.code = "probe_failed";
    unwell.message = "The probe ended with status 1.";
    unwell.steps = {{"verify", 5, "failed"}};
    CHECK(is_unwell(unwell));
    RunVmView back = unwell;
    back.outcome = "upgraded";
    back.steps = {{"queued", 9, "ok"}};
    const RunVmView taken = make_taken_back_view(unwell, back);
    CHECK(taken.outcome == "rolled_back");
    CHECK(taken.phase == "rolled_back");
    CHECK(taken.code == "probe_failed");
    CHECK(taken.steps.size() == 2);
    CHECK(taken.message.find("was taken back") != std::string::npos);
    const RunVmView stays = make_not_taken_back_view(unwell, "it is not kept.");
    CHECK(stays.outcome == "needs_operator");
    CHECK(stays.message.find("ended with status 1. It could not") != std::string::npos);
    for (const char* code : {"guest_lost", "split", "source_remains", ""}) {
        unwell.code = code;
        CHECK_FALSE(is_unwell(unwell));
    }
    unwell.code = "guest_changed";
    CHECK(is_unwell(unwell));
    unwell.outcome = "rolled_back";
    CHECK_FALSE(is_unwell(unwell));
}
