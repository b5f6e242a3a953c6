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
    .vm = "vm1", .release = "deb13", .from = "7.2.22", .is_dry_run = false, .started = kStart};

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
    CHECK(view.message == "It failed. Then: It failed again.");
    CHECK(view.peer_text == "qemu says no");
    CHECK(view.next_step.find("qhupd-ctl show vm1") != std::string::npos);
}
