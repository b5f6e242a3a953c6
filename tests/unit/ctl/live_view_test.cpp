// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/live_view.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;
using namespace qhup::ctl;
using namespace std::chrono_literals;

namespace {

daemon::RunVmView make_vm(std::string name, std::string phase, std::string outcome = {}) {
    daemon::RunVmView vm;
    vm.vm = std::move(name);
    vm.phase = std::move(phase);
    vm.outcome = std::move(outcome);
    return vm;
}

daemon::RunView make_run(std::size_t vms) {
    daemon::RunView run;
    for (std::size_t i = 0; i < vms; ++i) {
        run.vms.push_back(make_vm("vm" + std::to_string(i), "queued"));
    }
    return run;
}

using Lines = std::vector<std::string>;

} // namespace

TEST_CASE("a live run has a line for each VM and a total", "[ctl][live]") {
    LiveView view;
    view.on_run(make_run(3));
    view.on_vm(make_vm("vm1", "preflight"), 1000ms);
    view.on_vm(make_vm("vm2", "preflight"), 1000ms);
    view.on_vm(make_vm("vm1", "switch_over"), 2500ms);
    auto done = make_vm("vm2", "upgraded", "upgraded");
    done.pause_ms = 11.84;
    view.on_vm(done, 3000ms);
    CHECK(
        view.lines(80, 24, 3100ms) ==
        Lines{
            "  vm1  paused, handed over  0.6 s",
            "  vm2  upgraded, paused for 11.8 ms",
            "  vm0  waits for its turn",
            "1 of 3 VMs done  2.1 s"}
    );
    auto bad = make_vm("vm1", "rolled_back", "rolled_back");
    bad.code = "load_failed";
    view.on_vm(bad, 3200ms);
    const Lines lines = view.lines(80, 24, 3200ms);
    CHECK(lines.front() == "  vm1  rolled back [load_failed]");
    CHECK(lines.back() == "2 of 3 VMs done, 1 not as wanted  2.2 s");
}

TEST_CASE("a VM that a live revert has moved was reverted", "[ctl][live]") {
    LiveView view;
    auto run = make_run(1);
    run.kind = "revert";
    view.on_run(run);
    view.on_vm(make_vm("vm0", "upgraded", "upgraded"), 1000ms);
    CHECK(view.lines(80, 24, 1000ms).front() == "  vm0  reverted");
}

TEST_CASE("a live run never has more lines or columns than the terminal", "[ctl][live]") {
    LiveView view({true});
    view.on_run(make_run(1000));
    for (int i = 0; i < 30; ++i) {
        view.on_vm(
            make_vm("vm" + std::to_string(i), i < 9 ? "prepare" : "x", i < 9 ? "" : "upgraded"), 5ms
        );
    }
    view.on_stage({"batch", 2, 7, "working", 0});
    for (const std::size_t rows : {3U, 4U, 5U, 10U, 24U}) {
        for (const std::size_t columns : {20U, 40U, 80U}) {
            const Lines lines = view.lines(columns, rows, 100ms);
            CHECK(lines.size() <= rows);
            for (const std::string& line : lines) {
                INFO(line);
                CHECK(width_of(line) < columns);
            }
        }
    }
    const Lines lines = view.lines(80, 10, 100ms);
    CHECK(lines[7] == "  … and 993 more");
    CHECK(lines[8] == "Stage 2 of 7 (batch).");
    // who is in work is shown before who has ended
    CHECK(lines[0].find("vm0") != std::string::npos);
    CHECK(view.lines(80, 0, 100ms).size() == 20);
}

TEST_CASE("the time of a phase begins with the phase", "[ctl][live]") {
    LiveView view;
    view.on_run(make_run(1));
    view.on_vm(make_vm("vm0", "verify"), 1000ms);
    view.on_vm(make_vm("vm0", "verify"), 1900ms);
    CHECK(view.lines(80, 24, 2000ms).front().ends_with("  1.0 s"));
}
